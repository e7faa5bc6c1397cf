// SPDX-License-Identifier: Apache-2.0
// The futex system call, which glibc does not wrap. See futex.hpp.
#include "sys/futex.hpp"

#include "sys/clock.hpp"

#include <array>
#include <cerrno>
#include <climits>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ipcbus::sys {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t) &&
                  std::atomic<std::uint32_t>::is_always_lock_free,
              "the kernel compares the word itself");

FutexWait futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                     std::int64_t timeout_ns) {
    timespec timeout{};
    const bool forever = timeout_ns < 0 || timeout_ns == kForeverNs;
    if (!forever) {
        timeout.tv_sec = static_cast<time_t>(timeout_ns / 1'000'000'000);
        timeout.tv_nsec = static_cast<long>(timeout_ns % 1'000'000'000);
    }
    if (::syscall(SYS_futex, &word, FUTEX_WAIT, expected, forever ? nullptr : &timeout, nullptr,
                  0) == 0) {
        return FutexWait::woken;
    }
    switch (errno) {
    case ETIMEDOUT:
        return FutexWait::timed_out;
    case EINTR:
        return FutexWait::interrupted;
    default:
        // EAGAIN, and what should not be (EFAULT: a page that cannot be had): "look again" is the
        // answer with which a waiter cannot sleep through anything. Its naps after fruitless
        // looks bound what that costs.
        return FutexWait::value_changed;
    }
}

std::optional<FutexWait> futex_wait_either(const FutexWord& one, const FutexWord& other,
                                           std::int64_t at_ns) {
    const auto entry = [](const FutexWord& of) {
        futex_waitv made{};
        made.val = of.expected;
        made.uaddr = reinterpret_cast<std::uintptr_t>(of.word);
        made.flags = FUTEX_32;  // shared
        return made;
    };
    const std::array<futex_waitv, 2> words{entry(one), entry(other)};
    timespec at{};
    at.tv_sec = static_cast<time_t>(at_ns / 1'000'000'000);
    at.tv_nsec = static_cast<long>(at_ns % 1'000'000'000);
    if (::syscall(SYS_futex_waitv, words.data(), words.size(), 0, &at, CLOCK_MONOTONIC) >= 0) {
        return FutexWait::woken;
    }
    switch (errno) {
    case EAGAIN:
    case EFAULT:
        return FutexWait::value_changed;
    case ETIMEDOUT:
        return FutexWait::timed_out;
    case EINTR:
        return FutexWait::interrupted;
    default:
        return std::nullopt;
    }
}

void futex_wake_all(std::atomic<std::uint32_t>& word) {
    (void)::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace ipcbus::sys
