// SPDX-License-Identifier: Apache-2.0
// Goal: a daemon that cannot accept connections neither spins nor stays deaf, and those it has go
// on. Method: accepts that fail as with EMFILE, and a limit of descriptors that is truly reached.
// Attempts and turns of the loop are counted; nothing here is judged by a clock.
#include "scenario.hpp"

#include <doctest/doctest.h>

#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <vector>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

void limit_descriptors(pid_t pid, rlim_t count) {
    rlimit limit{};
    REQUIRE(::prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) == 0);
    limit.rlim_cur = count;
    REQUIRE(::prlimit(pid, RLIMIT_NOFILE, &limit, nullptr) == 0);
}

/// Descriptors are given out from the lowest free number on.
rlim_t first_free_descriptor(pid_t pid) {
    for (rlim_t fd = 0;; fd++) {
        const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
        char target[2];
        if (::readlink(path.c_str(), target, sizeof target) < 0) {
            return fd;
        }
    }
}

unsigned descriptor_count(FaultyDaemon& daemon) {
    unsigned all = 0;
    for (const auto& [kind, count] : daemon.holdings().descriptors) {
        all += count;
    }
    return all;
}

int try_to_connect(const std::string& address) {
    ipcbus_connect_options options = IPCBUS_INIT(options);
    options.address = address.c_str();
    ipcbus_bus* bus = nullptr;
    const int result = ipcbus_connect(&options, &bus);
    ipcbus_close(bus);
    return result;
}

}  // namespace

TEST_CASE("accepts that fail are tried again, ever more rarely, and the daemon sleeps in between") {
    for (const int error : {EMFILE, ENOMEM}) {
        const std::string which = std::strerror(error);
        INFO(which);
        FaultyDaemon daemon;
        daemon.arm(Call::op_accept, error, 1, 4);
        daemon.must_start();
        // 100, 200, 400 ms, and at most a second each from there on
        CHECK(daemon.wait_until([&] { return daemon.failed(Call::op_accept) >= 3; }));
        CHECK(daemon.block()->turns.load() < 40);
        (void)connect(daemon.address());
        CHECK(daemon.failed(Call::op_accept) == 4);
        CHECK(daemon.calls(Call::op_accept) == 5);
        CHECK(daemon.block()->turns.load() < 80);
        CHECK(daemon.stop().value_or(-1) == 0);
        const std::string& log = daemon.process().output();
        CHECK(log.find(std::string("cannot accept connections on ") + daemon.socket_path() + ": " +
                       std::strerror(error)) != std::string::npos);
        CHECK(log.find("accepting connections on " + daemon.socket_path() + " again") !=
              std::string::npos);
    }
}

TEST_CASE("with no descriptor left, connections wait, the others go on, and it does not spin") {
    // A connection takes two: with one limit of two the last one is left over, and goes to those
    // who are accepted and refused in turn.
    unsigned full = 0;
    for (unsigned descriptors = 60; full == 0 && descriptors < 70; descriptors++) {
        FaultyDaemon daemon("[limits]\ndescriptors = 1000\n[limits.per_uid]\ndescriptors = 1000\n",
                            descriptors);
        daemon.must_start();
        Witnesses witnesses(daemon);
        std::vector<sys::UniqueFd> silent;
        // One by one: of many at once it would take the sockets first, and have none left for
        // their pidfds. Those that come too late are refused, or wait.
        while (silent.size() < 50) {
            silent.push_back(connect_silently(daemon.socket_path()));
            witnesses.ask();
        }
        daemon.arm(Call::op_accept, EPERM, 1, 0);  // counts
        const std::uint32_t turns = daemon.block()->turns.load();
        if (descriptor_count(daemon) >= descriptors) {
            full++;
            CHECK(daemon.wait_until([&] { return daemon.calls(Call::op_accept) >= 2; }));
            CHECK(daemon.process().output().find("cannot accept connections") != std::string::npos);
        }
        witnesses.talk();
        witnesses.ask();
        CHECK(daemon.block()->turns.load() - turns < 60);
        silent.clear();
        // Those in the queue are taken first, have gone already, and may still have the last.
        int result = -EMFILE;
        for (unsigned tries = 0; result == -EMFILE && tries < 60; tries++) {
            result = try_to_connect(daemon.address());
        }
        CHECK(result == 0);
        witnesses.talk();
        witnesses.ask();
        witnesses.check_sleeper();
    }
    CHECK(full > 0);
}

TEST_CASE("with few descriptors left, whoever is refused is told what to raise") {
    Scenario scenario;
    FaultyDaemon& daemon = scenario.daemon;
    const pid_t pid = daemon.process().pid();
    rlimit before{};
    REQUIRE(::prlimit(pid, RLIMIT_NOFILE, nullptr, &before) == 0);
    const rlim_t full = first_free_descriptor(pid);
    unsigned refused = 0;
    // From two on: socket and pidfd. With ten more there is enough for all that a victim does.
    for (rlim_t more = 2; more < 22; more += all_faults() ? 1 : 3) {
        INFO(more, " descriptors more");
        limit_descriptors(pid, full + more);
        const Outcome outcome = scenario.victim();
        INFO(outcome.words());
        if (!outcome.ok()) {
            refused++;
            CHECK(outcome.text.find(std::strerror(EMFILE)) != std::string::npos);
        }
        scenario.settle();
        scenario.witnesses.talk();
        scenario.witnesses.ask();
        limit_descriptors(pid, before.rlim_cur);
        scenario.check_recovery();
    }
    CHECK(refused > 2);
    CHECK(scenario.victim().ok());
    scenario.check_quota();
}
