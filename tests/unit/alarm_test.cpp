// SPDX-License-Identifier: Apache-2.0
// Goal: the descriptor of an Alarm is readable when it is not armed, not when it is, and again once
// its word was rung or its time is over; no ring between any two of its steps is lost; it works by
// io_uring and by a thread, changes from one to the other when it must, and between threads.
// Method: each case runs in a process of its own, as it is and with io_uring refused by seccomp.
#include "sys/alarm.hpp"

#include "child_process.hpp"
#include "seccomp.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::sys;
using namespace ipcbus::test;

namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kLongNs = 60'000 * kMs;

#define EXPECT(condition)                                           \
    do {                                                            \
        if (!(condition)) {                                         \
            std::fprintf(stderr, "%d: %s\n", __LINE__, #condition); \
            return 1;                                               \
        }                                                           \
    } while (false)

bool readable(const Alarm& alarm, int timeout_ms = 0) {
    pollfd waited{alarm.fd(), POLLIN, 0};
    return ::poll(&waited, 1, timeout_ms) == 1;
}

void ring(std::atomic<std::uint32_t>& word) {
    word.fetch_add(1);
    futex_wake_all(word);
}

unsigned threads() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("Threads:", 0) == 0) {
            return static_cast<unsigned>(std::stoul(line.substr(8)));
        }
    }
    return 0;
}

/// Runs `body` as the kernel is, and with io_uring refused.
void in_both_ways(int (*body)()) {
    CHECK(ChildProcess::fork(body).wait() == 0);
    CHECK(ChildProcess::fork([body] {
              return refuse_system_call(SYS_io_uring_setup) ? body() : 99;
          }).wait() == 0);
}

int armed_and_not() {
    auto made = Alarm::create();
    EXPECT(made.ok());
    Alarm& alarm = *made.value();
    std::atomic<std::uint32_t> word{7};
    EXPECT(readable(alarm) && !alarm.armed());
    EXPECT(!alarm.disarm());
    for (int i = 0; i < 3; i++) {
        alarm.call_off();
        EXPECT(alarm.arm(&word, word.load(), kLongNs).ok());
        EXPECT(alarm.armed() && !readable(alarm));
        ring(word);
        EXPECT(readable(alarm, kTimeoutMs));
        EXPECT(readable(alarm));  // level-triggered
        EXPECT(alarm.disarm());
        EXPECT(readable(alarm) && !alarm.armed());
    }
    // Rung before it was armed.
    alarm.call_off();
    EXPECT(alarm.arm(&word, word.load() - 1, kLongNs).ok());
    EXPECT(readable(alarm, kTimeoutMs));
    EXPECT(alarm.disarm());
    // Called off: readable by the caller's own doing, and armed anew.
    alarm.call_off();
    EXPECT(alarm.arm(&word, word.load(), kLongNs).ok());
    EXPECT(!alarm.disarm());
    EXPECT(readable(alarm));
    alarm.call_off();
    EXPECT(alarm.arm(&word, word.load(), kLongNs).ok());
    EXPECT(!readable(alarm));
    ring(word);
    EXPECT(readable(alarm, kTimeoutMs));
    return 0;
}

int time_passes() {
    auto made = Alarm::create();
    EXPECT(made.ok());
    Alarm& alarm = *made.value();
    std::atomic<std::uint32_t> word{0};
    // The long one first: a shorter one must not wait for its end.
    for (const std::int64_t ns : {kLongNs, 30 * kMs, 5 * kMs}) {
        for (std::atomic<std::uint32_t>* what : {&word, static_cast<decltype(&word)>(nullptr)}) {
            alarm.call_off();
            const std::int64_t began_ns = monotonic_ns();
            EXPECT(alarm.arm(what, word.load(), ns).ok());
            EXPECT(!readable(alarm));
            if (ns != kLongNs) {
                EXPECT(readable(alarm, kTimeoutMs));
                EXPECT(monotonic_ns() - began_ns >= ns);
            } else if (what == nullptr) {
                ring(word);  // nobody waits for it
                EXPECT(!readable(alarm, 20));
            }
            EXPECT(alarm.disarm() == (ns != kLongNs));
        }
    }
    return 0;
}

/// A ring between any two steps is found: its number is compared after each wait.
int no_ring_is_lost() {
    constexpr std::uint32_t kRings = 20'000;
    auto made = Alarm::create();
    EXPECT(made.ok());
    Alarm& alarm = *made.value();
    std::atomic<std::uint32_t> word{0};
    std::atomic<std::uint32_t> news{0};
    std::atomic<std::uint32_t> seen{0};
    std::thread ringer([&] {
        for (std::uint32_t i = 1; i <= kRings; i++) {
            news = i;
            ring(word);
            for (int spins = 0; seen.load() != i; spins++) {
                if (spins > 100) {
                    std::this_thread::yield();
                }
            }
            for (unsigned pause = i % 64; pause != 0; pause--) {
                (void)word.load();
            }
        }
    });
    bool good = true;
    while (good && seen.load() != kRings) {
        alarm.call_off();
        const std::uint32_t value = word.load();
        if (news.load() != seen.load()) {
            seen = news.load();
            continue;
        }
        good = alarm.arm(&word, value, kLongNs).ok() && readable(alarm, kTimeoutMs);
        (void)alarm.disarm();
        seen = news.load();
    }
    if (!good) {
        std::fprintf(stderr, "lost after %u\n", seen.load());
        std::_Exit(1);
    }
    ringer.join();
    return 0;
}

int other_threads() {
    auto made = Alarm::create();
    EXPECT(made.ok());
    Alarm& alarm = *made.value();
    std::atomic<std::uint32_t> word{0};
    for (int i = 0; i < 3; i++) {
        bool good = false;
        std::thread([&] {
            alarm.call_off();
            good = alarm.arm(&word, word.load(), kLongNs).ok() && !readable(alarm);
        }).join();
        EXPECT(good);
        // The thread that armed it is gone: either it still is armed, or it is readable.
        ring(word);
        EXPECT(readable(alarm, kTimeoutMs));
        (void)alarm.disarm();
        alarm.call_off();
        EXPECT(alarm.arm(&word, word.load(), kLongNs).ok());
        EXPECT(readable(alarm) || true);  // a signal of the ring that went may still come
        ring(word);
        EXPECT(readable(alarm, kTimeoutMs));
        (void)alarm.disarm();
    }
    return 0;
}

int refused_later() {
    auto made = Alarm::create();
    EXPECT(made.ok());
    Alarm& alarm = *made.value();
    std::atomic<std::uint32_t> word{0};
    EXPECT(alarm.arm(&word, 0, kLongNs).ok());
    ring(word);
    EXPECT(readable(alarm, kTimeoutMs));
    (void)alarm.disarm();
    EXPECT(refuse_system_call(SYS_io_uring_enter));
    alarm.call_off();
    EXPECT(alarm.arm(&word, word.load(), kLongNs).ok());
    EXPECT(threads() == 2);
    // What the ring had queued may make it readable once more.
    for (int i = 0; i < 2; i++) {
        ring(word);
        EXPECT(readable(alarm, kTimeoutMs));
        (void)alarm.disarm();
        alarm.call_off();
        EXPECT(alarm.arm(&word, word.load(), kLongNs).ok());
    }
    for (int tries = 0; readable(alarm); tries++) {
        EXPECT(tries < 100);
        (void)alarm.disarm();
        alarm.call_off();
        EXPECT(alarm.arm(&word, word.load(), kLongNs).ok());
    }
    return 0;
}

}  // namespace

TEST_CASE("readable unless armed, and when rung") { in_both_ways(armed_and_not); }
TEST_CASE("readable when the time is over") { in_both_ways(time_passes); }
TEST_CASE("no ring is lost, whenever it comes") { in_both_ways(no_ring_is_lost); }
TEST_CASE("armed by one thread, waited for and armed again by another") {
    in_both_ways(other_threads);
}
TEST_CASE(
    "io_uring forbidden while it is in use: a thread takes over, behind the same descriptor") {
    CHECK(ChildProcess::fork(refused_later).wait() == 0);
}
TEST_CASE("a thread where io_uring is refused, none where it is not") {
    CHECK(ChildProcess::fork([] {
              const auto alarm = Alarm::create();
              const auto ring = alarm.ok() ? FutexRing::create(alarm.value()->fd())
                                           : sys::Result<std::unique_ptr<FutexRing>>(nullptr);
              return alarm.ok() && threads() == (ring.ok() ? 1U : 2U) ? 0 : 1;
          }).wait() == 0);
    CHECK(ChildProcess::fork([] {
              if (!refuse_system_call(SYS_io_uring_register)) {
                  return 99;
              }
              const auto alarm = Alarm::create();
              return alarm.ok() && threads() == 2 ? 0 : 1;
          }).wait() == 0);
}
TEST_CASE("a child has none of it") {
    auto made = Alarm::create();
    REQUIRE(made.ok());
    const int fd = made.value()->fd();
    CHECK(ChildProcess::fork([fd] {
              return ::fcntl(fd, F_GETFD) < 0 && errno == EBADF ? 0 : 1;
          }).wait() == 0);
    CHECK(::fcntl(fd, F_GETFD) >= 0);
}
