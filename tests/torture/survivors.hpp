// SPDX-License-Identifier: Apache-2.0
// Survivors: everybody who lives while victims are killed one after the other: a private ipcbusd;
// a publisher and a reliable reader in this process; a reader in another one that sleeps whenever
// it can, and a publisher that is blocked as long as a victim reads from it. After each death they
// must have every message that was published, agree on the one in doubt, go on at once, and be rid
// of the dead. One thread; made anew for each operation.
#pragma once

#include "daemon_fixture.hpp"
#include "ledger.hpp"
#include "victims.hpp"

#include <string>

namespace ipcbus::torture {

class Survivors {
public:
    Survivors(const Operation& operation, Stage& stage);

    [[nodiscard]] std::string address() const { return daemon_.address(); }
    /// A new victim comes; its sender.
    [[nodiscard]] std::uint64_t expect_victim();
    /// It has come to the mark.
    void before_call();
    /// The call waits: does what it waits for, if that can be done.
    void help();
    /// The victim stands still. "": those who live go on; else the fault.
    [[nodiscard]] std::string check_beside_stopped();
    /// The victim is dead.
    [[nodiscard]] std::string check_after_death();

    /// What the daemon has now is what it may have in the end.
    void note_usage();
    [[nodiscard]] std::string check_usage();

private:
    void publish_own();
    [[nodiscard]] std::string read_one(std::int64_t timeout_ns, bool& ret_read);
    [[nodiscard]] std::string read_all();
    void read_half();
    [[nodiscard]] std::string check_late_reader();
    [[nodiscard]] std::string wait_for_sleeper();
    [[nodiscard]] std::string settle();

    const Operation& operation_;
    Stage& stage_;
    test::DaemonFixture daemon_;
    test::ChildProcess sleeper_;
    test::ChildProcess writer_;
    test::Bus bus_;
    test::Publisher publisher_;
    test::Subscriber reader_;
    std::vector<char> buffer_ = std::vector<char>(kRing);
    std::size_t descriptors_ = 0;
    test::Ledger usage_;
    std::uint64_t own_published_ = 0;
    std::uint64_t own_read_ = 0;
    std::uint64_t victim_ = kOwn;
    std::uint64_t victim_read_ = 0;
    std::string fault_;  ///< of a read while helping
};

}  // namespace ipcbus::torture
