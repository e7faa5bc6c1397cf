// SPDX-License-Identifier: Apache-2.0
// How long a thread spins before it sleeps: a reader for a message, a writer for room. Each waiter
// has its own; one thread at a time. No shared memory.
#pragma once

#include "protocol/layout.hpp"

#include <algorithm>

namespace ipcbus::protocol {

/// How long to spin before sleeping. Spinning pays when the message comes sooner than a wake-up
/// would take (tens of microseconds between virtual CPUs), and costs a CPU when not: so the budget
/// doubles when a wait was that short, and halves when it was not. Always above zero, so that a
/// change of pace is noticed. A spin that fails all the same, again and again (whoever publishes
/// needs this very CPU, or comes just after the budget), is tried ever more rarely.
class SpinBudget {
public:
    /// spin_ns: 0 adapts, negative never spins, positive is a fixed budget.
    explicit SpinBudget(i64 spin_ns) : fixed_ns_(spin_ns) {}

    [[nodiscard]] bool adaptive() const { return fixed_ns_ == 0; }
    /// For the wait that begins now.
    [[nodiscard]] i64 ns() const {
        if (!adaptive()) {
            return std::max<i64>(fixed_ns_, 0);
        }
        return held_off_ != 0 ? kLeastNs : adaptive_ns_;
    }
    /// The message came while this thread was spinning.
    void spun() {
        adaptive_ns_ = std::min(adaptive_ns_ * 2, kMostNs);
        failures_ = 0;
        held_off_ = 0;
    }
    /// It came only when this thread slept, `ns` after the wait began.
    void slept(i64 ns) {
        if (held_off_ != 0) {
            held_off_--;
            return;
        }
        if (ns > kPaysNs) {
            adaptive_ns_ = std::max(adaptive_ns_ / 2, kLeastNs);
            return;
        }
        adaptive_ns_ = std::min(adaptive_ns_ * 2, kMostNs);
        if (++failures_ >= kFailuresMax) {
            held_off_ = 1U << std::min(failures_ - kFailuresMax + 3, 10U);
        }
    }

private:
    static constexpr i64 kPaysNs = 60'000;
    static constexpr i64 kMostNs = 50'000;
    static constexpr i64 kLeastNs = 1'000;
    static constexpr u32 kFailuresMax = 8;

    i64 fixed_ns_;
    i64 adaptive_ns_ = 20'000;
    u32 failures_ = 0;  ///< spins in a row that were in vain although the wait was short
    u32 held_off_ = 0;  ///< waits without a try
};

/// Whether somebody else has had this CPU between two looks at the clock, which a spinning thread
/// takes within a microsecond (or it has hundreds of rings to look at, and should rather sleep):
/// then whoever is waited for may need it, and sleeping wakes up sooner. sched_yield() would find
/// out earlier. But the scheduler of Linux 6.18 loses its reference of virtual time when threads
/// yield all the time beside others of low weight (nice, SCHED_IDLE): whoever should run next, the
/// kernel's own threads too, is then without a CPU for a minute.
inline bool was_interrupted(i64 before_ns, i64 now_ns) { return now_ns - before_ns > 20'000; }

}  // namespace ipcbus::protocol
