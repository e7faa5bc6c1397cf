// SPDX-License-Identifier: Apache-2.0
// Goal: each signal becomes one call of the right callback, in the loop. Method: a child process
// (signal masks are the process's) that raises them itself and exits with what it saw.
#include "signals.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

using namespace ipcbus;
using daemon::EventLoop;

namespace {

/// Raises these signals one after the other; what the callbacks saw, a letter each.
std::string seen_after(const std::vector<int>& signals) {
    auto loop = EventLoop::create();
    if (!loop) {
        return "no loop";
    }
    std::string seen;
    auto watched = daemon::Signals::create(
        *loop.value(), [&](int signal) { seen += signal == SIGTERM ? 'T' : 'I'; },
        [&] { seen += 'H'; });
    if (!watched) {
        return "no signalfd";
    }
    for (const int signal : signals) {
        (void)::kill(::getpid(), signal);
        const std::size_t before = seen.size();
        while (signal != SIGPIPE && seen.size() == before) {
            if (!loop.value()->run_once()) {
                return "no turn";
            }
        }
    }
    watched.value()->stop();
    return loop.value()->run_until_idle().ok() ? seen : "not idle";
}

}  // namespace

TEST_SUITE_BEGIN("signals");

TEST_CASE("stop and reload, again and again; SIGPIPE is nothing") {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        (void)::alarm(10);
        const std::string seen = seen_after({SIGHUP, SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGTERM});
        ::_exit(seen == "HTIHT" ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

TEST_SUITE_END();
