// SPDX-License-Identifier: Apache-2.0
// Who lives through a fault: a victim, which connects and does everything once while something is
// armed, in a process of its own (what it has is charged to it until that process is dead); and two
// witnesses, which were attached before. What the victim saw comes back as an Outcome. One test,
// one thread; the victim in a forked child.
#pragma once

#include "bus_client.hpp"
#include "faulty_daemon.hpp"
#include "shared_block.hpp"

#include <functional>
#include <string>

namespace ipcbus::test {

/// How far a victim came.
struct Outcome {
    std::string step;  ///< that failed; empty: none did
    int code = 0;      ///< positive errno of the library
    std::string text;

    [[nodiscard]] bool ok() const { return step.empty(); }
    [[nodiscard]] std::string words() const {
        return ok() ? "no error" : step + ": " + std::to_string(code) + ": " + text;
    }
};

/// Publishes on this topic for victims to read.
inline constexpr const char* kTalkTopic = "by/talk";

/// Two clients of this process, publisher and subscriber; and one in a process of its own that
/// subscribes to what victims publish and sleeps in between, so that the daemon has to wake it.
class Witnesses {
public:
    explicit Witnesses(FaultyDaemon& daemon);

    /// A message crosses.
    void talk();
    /// Each asks the daemon for something, and gets it.
    void ask();
    /// The sleeper lives and has seen no error.
    void check_sleeper();
    void stop_sleeping() { sleeper_ = ChildProcess(); }

private:
    SharedBlock<Milestone> ready_;
    ChildProcess sleeper_;
    Bus writer_bus_;
    Bus reader_bus_;
    Publisher writer_;
    Subscriber reader_;
    unsigned said_ = 0;
};

class Scenario {
public:
    /// `rings_ready`: how many rings the daemon keeps ready.
    /// `prepare` is called before it starts.
    explicit Scenario(unsigned rings_ready = 0,
                      const std::function<void(FaultyDaemon&)>& prepare = nullptr);

    /// A victim's whole life.
    Outcome victim();
    /// The same, which must see no error.
    void clean_victim();
    /// What a uid can have of each kind until it is refused by name: it is all there again.
    [[nodiscard]] bool quota_is_back();
    void check_quota();
    /// After a fault: a new client finds everything, the daemon holds what it held before, and the
    /// witnesses are as they were.
    void check_recovery() { check_recovery_beside(0); }
    /// The same while the test has connections that say nothing.
    void check_recovery_beside(unsigned silent);
    /// Until all of the victim is gone, or nothing seems to come any more.
    void settle();

    FaultyDaemon daemon;
    Witnesses witnesses;

private:
    struct Told;
    [[nodiscard]] std::string hog();

    Holdings before_;
    std::string quota_before_;
};

/// A connection that says nothing.
[[nodiscard]] sys::UniqueFd connect_silently(const std::string& path);

/// Runs everything that the environment asks for, or the quick part.
[[nodiscard]] bool all_faults();

}  // namespace ipcbus::test
