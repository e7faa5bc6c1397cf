// SPDX-License-Identifier: Apache-2.0
// Round: one round of torture, drawn from one seed: clients with publisher and reader roles, some
// of which live through it while others are killed and replaced; SIGSTOP and SIGCONT for clients
// and for the daemon. In the end publishers end, readers account for everything, and the daemon has
// nothing left of any of them. Runs in the process of the test, which is no client but for asking.
#pragma once

#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "dice.hpp"
#include "scene.hpp"

#include <vector>

namespace ipcbus::torture {

class Round {
public:
    Round(test::DaemonFixture& daemon, std::uint64_t seed, bool calm, bool verbose);

    /// Plays it. "": fine; else what was wrong (and what children have said on stderr).
    [[nodiscard]] std::string play();

    [[nodiscard]] const Counts& counts() const { return scene_->counts; }
    [[nodiscard]] std::uint64_t kills() const { return kills_; }
    [[nodiscard]] std::uint64_t stops() const { return stops_; }

private:
    struct Cast;  ///< what a client plays
    struct Client {
        test::ChildProcess process;
        std::string name;
    };
    [[nodiscard]] Client start(const Cast& cast);
    [[nodiscard]] Cast draw_victim();
    int perform(const Cast& cast, std::uint64_t seed);
    void begin();
    [[nodiscard]] std::string disturb();
    void stop_some();
    void stop_daemon();
    [[nodiscard]] std::string kill(Client& victim, bool replaced);
    [[nodiscard]] std::string look_at_living();
    [[nodiscard]] std::string end();
    void pause(std::uint64_t most_ms);

    test::DaemonFixture& daemon_;
    const test::SharedBlock<Scene> scene_;
    Dice dice_;
    const bool calm_;
    std::int64_t stall_ms_ = 0;
    std::vector<Client> living_;
    std::vector<Client> victims_;
    std::uint32_t started_ = 0;
    std::uint64_t kills_ = 0;
    std::uint64_t stops_ = 0;
};

}  // namespace ipcbus::torture
