// SPDX-License-Identifier: Apache-2.0
// Goal: the descriptor of an Alarm is readable when it is not armed, not when it is, and again once
// its word was rung or its time is over; no ring between any two of its steps is lost; it works by
// io_uring and by a thread, changes from one to the other when it must, and between threads, and
// disturbs none of them.
// Method: each case runs in a process of its own, as it is and with io_uring refused by seccomp.
#include "sys/alarm.hpp"

#include "child_process.hpp"
#include "seccomp.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

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

/// ThreadSanitizer has a thread of its own, which is counted, and lets no forked child of a process
/// with threads make another.
#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadsAreCounted = false;
#else
constexpr bool kThreadsAreCounted = true;
#endif

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
            EXPECT(alarm.ends_ns() <= monotonic_ns() + ns);
            if (ns != kLongNs) {
                EXPECT(readable(alarm, kTimeoutMs));
                EXPECT(monotonic_ns() - began_ns >= ns && monotonic_ns() >= alarm.ends_ns());
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

/// A time that is armed for before a longer one: it may end that one, and says so.
int earlier_time() {
    auto made = Alarm::create();
    EXPECT(made.ok());
    Alarm& alarm = *made.value();
    std::atomic<std::uint32_t> word{0};
    EXPECT(alarm.arm(&word, 0, 30 * kMs).ok());
    (void)alarm.disarm();
    alarm.call_off();
    EXPECT(alarm.arm(&word, word.load(), 40 * kMs).ok());
    EXPECT(alarm.ends_ns() <= monotonic_ns() + 40 * kMs);
    EXPECT(readable(alarm, kTimeoutMs) && monotonic_ns() >= alarm.ends_ns());
    EXPECT(alarm.disarm());
    // Woken by the word, changed or not: before that time.
    for (int i = 0; i < 3; i++) {
        alarm.call_off();
        EXPECT(alarm.arm(&word, word.load(), kLongNs).ok());
        while (!readable(alarm)) {
            futex_wake_all(word);
        }
        EXPECT(alarm.disarm() && monotonic_ns() < alarm.ends_ns());
    }
    return 0;
}

/// Whoever may map the word has moved the thread that waits there to another one: called off, it
/// is gone all the same, and a call that must not wait has not waited for the rest of its time.
int moved_elsewhere() {
    sigset_t blocked;
    (void)::sigemptyset(&blocked);
    (void)::sigaddset(&blocked, SIGRTMIN);
    EXPECT(::sigprocmask(SIG_BLOCK, &blocked, nullptr) == 0);
    auto made = Alarm::create();
    EXPECT(made.ok() && made.value()->notify(SIGRTMIN, nullptr).ok());  // a thread
    Alarm& alarm = *made.value();
    std::atomic<std::uint32_t> word{0};
    std::atomic<std::uint32_t> other{0};
    EXPECT(alarm.arm(&word, 0, kLongNs).ok());
    for (long moved = 0; moved == 0;) {  // until it is in its wait
        moved = ::syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE, 0, 1L, &other, 0);
        EXPECT(moved >= 0);
    }
    (void)alarm.disarm();
    const std::int64_t began_ns = monotonic_ns();
    alarm.call_off();
    EXPECT(monotonic_ns() - began_ns < kLongNs / 4);
    EXPECT(alarm.arm(&word, word.load(), kLongNs).ok() && !readable(alarm));
    ring(word);
    EXPECT(readable(alarm, kTimeoutMs));
    return 0;
}

std::size_t open_fds() {
    std::size_t count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += ::fcntl(fd, F_GETFD) >= 0 ? 1U : 0U;
    }
    return count;
}

/// Waits that end with EINTR although no signal has come, of `rounds`.
int disturbed(int rounds, const std::function<void()>& deed) {
    const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    int count = 0;
    for (int i = 0; i < rounds; i++) {
        deed();
        epoll_event event{};
        count += ::epoll_wait(epoll.get(), &event, 1, 30) < 0 && errno == EINTR ? 1 : 0;
    }
    return count;
}

/// Alarms that go, by their own thread and by others, end nobody's epoll_wait.
int nobody_is_disturbed() {
    std::atomic<std::uint32_t> word{0};
    const auto made = [&] {
        auto alarm = Alarm::create();
        return alarm.ok() && alarm.value()->arm(&word, word.load(), kLongNs).ok()
                   ? std::move(alarm).value()
                   : nullptr;
    };
    EXPECT(made() != nullptr);
    const std::size_t fds = open_fds();
    EXPECT(disturbed(10, [&] { (void)made(); }) == 0);
    EXPECT(open_fds() == fds);  // the next takes what the last one had
    // Another thread destroys it, or goes on with it.
    EXPECT(disturbed(10, [&] {
               std::thread([alarm = made()]() mutable { alarm.reset(); }).join();
           }) == 0);
    EXPECT(disturbed(10, [&] {
               const auto alarm = made();
               std::thread([&] {
                   (void)alarm->disarm();
                   alarm->call_off();
                   (void)alarm->arm(&word, word.load(), kLongNs);
               }).join();
           }) == 0);
    EXPECT(open_fds() == fds);
    // By turns: none is made for it.
    const auto alarm = made();
    EXPECT(alarm != nullptr);
    std::atomic<int> turn{0};
    std::size_t most = 0;
    bool good = true;
    std::thread other([&] {
        for (int i = 0; i < 100; i++) {
            while (turn.load() % 2 == 0) {
                std::this_thread::yield();
            }
            (void)alarm->disarm();
            alarm->call_off();
            good = alarm->arm(&word, word.load(), kLongNs).ok() && good;
            turn++;
        }
    });
    for (int i = 0; i < 100; i++) {
        while (turn.load() % 2 != 0) {
            std::this_thread::yield();
        }
        (void)alarm->disarm();
        alarm->call_off();
        good = alarm->arm(&word, word.load(), kLongNs).ok() && good;
        most = std::max(most, open_fds());
        turn++;
    }
    other.join();
    EXPECT(good && most <= fds + 2);  // an eventfd is among the first ones, too
    return 0;
}

/// Threads that have all of them in turn do not each keep a ring of each.
int descriptors_are_bounded() {
    constexpr std::size_t kAlarms = 24;
    constexpr int kThreads = 5;
    std::atomic<std::uint32_t> word{0};
    std::atomic<int> turn{0};
    std::atomic<bool> good{true};
    const std::size_t before = open_fds();
    std::vector<std::unique_ptr<Alarm>> alarms;
    const auto arm_all = [&] {
        for (const auto& alarm : alarms) {
            (void)alarm->disarm();
            alarm->call_off();
            good = alarm->arm(&word, word.load(), kLongNs).ok() && good;
        }
    };
    for (std::size_t i = 0; i < kAlarms; i++) {
        auto made = Alarm::create();
        EXPECT(made.ok());
        alarms.push_back(std::move(made).value());
    }
    arm_all();
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; i++) {
        threads.emplace_back([&, i] {
            while (turn.load() != i) {
                std::this_thread::yield();
            }
            arm_all();
            turn++;
            while (turn.load() <= kThreads) {  // what a thread has goes with it
                std::this_thread::yield();
            }
        });
    }
    while (turn.load() != kThreads) {
        std::this_thread::yield();
    }
    const std::size_t after = open_fds();
    turn++;
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT(good && after - before <= 2 * kAlarms + FutexRing::kFreeMax);
    ring(word);
    for (const auto& alarm : alarms) {
        EXPECT(readable(*alarm, kTimeoutMs));
    }
    return 0;
}

/// A child makes its own, whatever its parent had.
int in_a_child() {
    std::atomic<std::uint32_t> word{0};
    { const auto given_back = Alarm::create(); }
    const auto kept = Alarm::create();
    EXPECT(kept.ok() && kept.value()->arm(&word, 0, kLongNs).ok());
    EXPECT(ChildProcess::fork([&] {
               auto made = Alarm::create();
               EXPECT(made.ok() && made.value()->arm(&word, word.load(), kLongNs).ok());
               EXPECT(!readable(*made.value()));
               ring(word);
               EXPECT(readable(*made.value(), kTimeoutMs));
               return 0;
           }).wait() == 0);
    EXPECT(!readable(*kept.value()));
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
TEST_CASE("an earlier time, and wakes that change nothing") { in_both_ways(earlier_time); }
TEST_CASE("nobody's epoll_wait is ended by alarms that go, or change threads") {
    in_both_ways(nobody_is_disturbed);
    CHECK(ChildProcess::fork([] {
              return refuse_system_call(SYS_io_uring_register) ? nobody_is_disturbed() : 99;
          }).wait() == 0);
}
TEST_CASE("a thread that was moved away from its word is called off") {
    CHECK(ChildProcess::fork(moved_elsewhere).wait() == 0);
    CHECK(ChildProcess::fork([] {
              return refuse_system_call(SYS_futex_waitv) ? moved_elsewhere() : 99;
          }).wait() == 0);
}
TEST_CASE("the rings that threads keep are bounded") { in_both_ways(descriptors_are_bounded); }
TEST_CASE("a forked child makes its own" * doctest::skip(!kThreadsAreCounted)) {
    in_both_ways(in_a_child);
}
TEST_CASE("no ring is lost, whenever it comes") { in_both_ways(no_ring_is_lost); }
TEST_CASE("armed by one thread, waited for and armed again by another") {
    in_both_ways(other_threads);
}
TEST_CASE("io_uring forbidden while it is in use: a thread takes over, behind the same descriptor" *
          doctest::skip(!kThreadsAreCounted)) {
    CHECK(ChildProcess::fork(refused_later).wait() == 0);
}
TEST_CASE("a thread where io_uring is refused, none where it is not" *
          doctest::skip(!kThreadsAreCounted)) {
    CHECK(ChildProcess::fork([] {
              const auto alarm = Alarm::create();
              if (!alarm.ok()) {
                  return 1;
              }
              const auto ring = FutexRing::take(alarm.value()->fd());
              return threads() == (ring.ok() ? 1U : 2U) ? 0 : 1;
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
