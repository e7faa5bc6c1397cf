// SPDX-License-Identifier: Apache-2.0
// Goal: a change of the word makes the descriptor readable, none is missed, and whatever others do
// with the word, the watch ends at once and burns no time.
#include "sys/bell_watch.hpp"

#include "child_process.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <doctest/doctest.h>

#include <poll.h>
#include <time.h>

#include <atomic>
#include <thread>

using namespace ipcbus::sys;
using namespace ipcbus::test;

namespace {

bool readable(const BellWatch& watch, int timeout_ms) {
    pollfd wait{watch.fd(), POLLIN, 0};
    return ::poll(&wait, 1, timeout_ms) == 1;
}

void ring(std::atomic<std::uint32_t>& bell) {
    bell.fetch_add(1);
    futex_wake_all(bell);
}

std::int64_t used_ns(clockid_t clock) {
    timespec used{};
    (void)::clock_gettime(clock, &used);
    return used.tv_sec * 1'000'000'000 + used.tv_nsec;
}

}  // namespace

TEST_SUITE_BEGIN("bell_watch");

TEST_CASE("each change after a clear is told") {
    std::atomic<std::uint32_t> bell{5};
    auto made = BellWatch::create(bell);
    REQUIRE(made.ok());
    BellWatch& watch = *made.value();
    CHECK_FALSE(readable(watch, 0));
    for (int i = 0; i < 1000; i++) {
        ring(bell);
        REQUIRE(readable(watch, kTimeoutMs));
        if (i % 2 == 0) {
            ring(bell);  // while it is told already
        }
        watch.clear();
    }
    // What was rung before the last clear may be told once more, and then there is nothing.
    while (readable(watch, 50)) {
        watch.clear();
    }
    ring(bell);
    CHECK(readable(watch, kTimeoutMs));
}

TEST_CASE("it ends although somebody rings and takes it back without a pause") {
    ChildProcess child = ChildProcess::fork([] {
        std::atomic<std::uint32_t> bell{0};
        std::atomic<bool> over{false};
        std::atomic<bool> quiet{false};
        std::thread ringing([&] {
            while (!over.load()) {
                bell.store(0);
                if (!quiet.load()) {
                    ring(bell);
                }
            }
        });
        for (int i = 0; i < 2000; i++) {
            auto made = BellWatch::create(bell);
            if (!made.ok()) {
                return 1;
            }
            (void)readable(*made.value(), i % 3);
            made.value()->clear();
            quiet.store(true);  // from here on the word is taken back, and nobody is woken
            made.value().reset();
            quiet.store(false);
        }
        over.store(true);
        ringing.join();
        return 0;
    });
    CHECK(child.wait(3 * kTimeoutMs) == 0);
}

TEST_CASE("who is rung and takes no notice uses no time") {
    std::atomic<std::uint32_t> bell{0};
    auto made = BellWatch::create(bell);
    REQUIRE(made.ok());
    ring(bell);
    REQUIRE(readable(*made.value(), kTimeoutMs));
    const auto of_watch_ns = [] {
        return used_ns(CLOCK_PROCESS_CPUTIME_ID) - used_ns(CLOCK_THREAD_CPUTIME_ID);
    };
    const std::int64_t before_ns = of_watch_ns();
    for (int i = 0; i < 10'000; i++) {
        ring(bell);
        const timespec pause{0, 20'000};
        (void)::nanosleep(&pause, nullptr);
    }
    CHECK(of_watch_ns() - before_ns < 8'000'000);
}
