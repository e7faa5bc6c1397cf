// SPDX-License-Identifier: Apache-2.0
// How a thread of this client waits for messages: looks, spins for as long as that has paid, then
// sleeps in slices. Shared by a subscriber that waits for itself and a set. One thread at a time.
#pragma once

#include "bus.hpp"
#include "error_text.hpp"

#include <sched.h>

#include <algorithm>

namespace ipcbus::client {

/// How long to spin before sleeping. Spinning pays when the message comes sooner than a wake-up
/// would take (tens of microseconds between virtual CPUs), and costs a CPU when not: so the budget
/// doubles when a wait was that short, however it ended, and halves when it was not. Always above
/// zero, so that a change of pace is noticed; zero where there is one CPU, on which the spinner
/// keeps the publisher from running.
class SpinBudget {
public:
    /// spin_ns: 0 adapts, negative never spins, positive is a fixed budget.
    explicit SpinBudget(i64 spin_ns) : fixed_ns_(spin_ns) {
        if (fixed_ns_ == 0 && one_cpu()) {
            fixed_ns_ = -1;
        }
    }
    [[nodiscard]] i64 ns() const {
        return fixed_ns_ == 0 ? adaptive_ns_ : std::max<i64>(fixed_ns_, 0);
    }
    void waited(i64 ns) {
        adaptive_ns_ = ns <= kPaysNs ? std::min(adaptive_ns_ * 2, kMostNs)
                                     : std::max(adaptive_ns_ / 2, kLeastNs);
    }

private:
    static constexpr i64 kPaysNs = 60'000;
    static constexpr i64 kMostNs = 50'000;
    static constexpr i64 kLeastNs = 1'000;

    static bool one_cpu() {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        return ::sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) == 1;
    }

    i64 fixed_ns_;
    i64 adaptive_ns_ = 20'000;
};

/// Calls `try_once` until it answers something but -EAGAIN, or the timeout passes. It looks at
/// whatever the waiter has active, and at what the control side has stored; `elsewhere` tells,
/// before a sleep, whether the latter has anything. `only`: the one source that is waited for;
/// nullptr: all of the waiter's.
template <class TryOnce>
int wait_until(protocol::Waiter& waiter, const protocol::Source* only, SpinBudget& spin,
               protocol::Elsewhere& elsewhere, i64 timeout_ns, TryOnce&& try_once) {
    int result = try_once();
    if (result != -EAGAIN || timeout_ns == 0) {
        return result;
    }
    const i64 began_ns = sys::monotonic_ns();
    sys::Deadline deadline;
    if (timeout_ns > 0 && timeout_ns < sys::kForeverNs - began_ns) {
        deadline.at_ns = began_ns + timeout_ns;
    }
    const i64 spin_until_ns =
        spin.ns() > sys::kForeverNs - began_ns ? sys::kForeverNs : began_ns + spin.ns();
    i64 now_ns = began_ns;
    while (now_ns < spin_until_ns && now_ns < deadline.at_ns) {
        for (int i = 0; i < 32; i++) {
            protocol::cpu_relax();
            result = try_once();
            if (result != -EAGAIN) {
                spin.waited(sys::monotonic_ns() - began_ns);
                return result;
            }
        }
        now_ns = sys::monotonic_ns();
    }
    for (;;) {
        const i64 left_ns = deadline.remaining_ns();
        if (left_ns == 0) {
            return -ETIMEDOUT;
        }
        const protocol::Waiter::Slept slept = waiter.sleep(left_ns, elsewhere, only);
        result = try_once();
        if (result != -EAGAIN) {
            spin.waited(sys::monotonic_ns() - began_ns);
            return result;
        }
        if (slept == protocol::Waiter::Slept::interrupted) {
            return -EINTR;
        }
    }
}

/// The texts for what wait_until tells.
inline int waited(int result) {
    switch (result) {
        case -EAGAIN: return failed(EAGAIN, "there is no message");
        case -ETIMEDOUT: return failed(ETIMEDOUT, "no message came in time");
        case -EINTR: return failed(EINTR, "interrupted by a signal");
        default: return result;
    }
}

}  // namespace ipcbus::client
