// SPDX-License-Identifier: Apache-2.0
// The processes that ipcbus-bench forks. Goal: a run is as good as its worst member, nobody is left
// behind, and memory is shared. Method: small roles; what is reported goes to the test's stderr.
#include "bench/team.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <csignal>
#include <sys/wait.h>
#include <unistd.h>

using namespace ipcbus::bench;

namespace {

constexpr std::string_view kTool = "team_test";

struct Page {
    Meeting meeting;
    std::atomic<std::uint32_t> sum{0};
};

/// Whether this process has no child left.
bool childless() { return ::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD; }

}  // namespace

TEST_SUITE("team") {
    TEST_CASE("all do their part, meet, and end") {
        const Shared<Page> page;
        Team team;
        for (unsigned i = 0; i < 5; ++i) {
            team.add("member", -1, [&](const Member& member) {
                for (std::uint32_t round = 1; round <= 100; ++round) {
                    page->sum += member.number();
                    member.meet(page->meeting, 5);
                    if (page->sum != round * 10) {
                        member.fail(7, "somebody was not waited for");
                    }
                    member.meet(page->meeting, 5);
                }
            });
        }
        CHECK(team.run(kTool) == 0);
        CHECK(page->sum == 1000);
        CHECK(childless());
    }

    TEST_CASE("one that fails ends the others, with its exit code") {
        Team team;
        team.add("waits", -1, [](const Member&) {
            while (true) {
                ::pause();
            }
        });
        team.add("fails", -1,
                 [](const Member& member) { member.fail(42, "as the test wants it"); });
        CHECK(team.run(kTool) == 42);
        CHECK(childless());
    }

    TEST_CASE("one that is killed fails the run") {
        Team team;
        team.add("waits", -1, [](const Member&) {
            while (true) {
                ::pause();
            }
        });
        team.add("dies", -1, [](const Member&) { (void)::raise(SIGKILL); });
        CHECK(team.run(kTool) == 1);
        CHECK(childless());
    }

    TEST_CASE("who does not come is not waited for for ever") {
        const Shared<Page> page;
        CHECK(!page->meeting.arrive(2, 1'000'000));
    }

    TEST_CASE("pinning: the first CPU is the first process's") {
        CHECK(cpu_for({}, 3) == -1);
        CHECK(cpu_for({5}, 0) == 5);
        CHECK(cpu_for({5}, 3) == 5);
        CHECK(cpu_for({5, 6, 7}, 0) == 5);
        CHECK(cpu_for({5, 6, 7}, 1) == 6);
        CHECK(cpu_for({5, 6, 7}, 2) == 7);
        CHECK(cpu_for({5, 6, 7}, 3) == 6);
    }
}
