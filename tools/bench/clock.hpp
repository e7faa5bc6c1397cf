// SPDX-License-Identifier: Apache-2.0
// The clock that latencies are measured with: the processor's time stamp counter where it runs at
// one rate and never stops, calibrated once against CLOCK_MONOTONIC; else CLOCK_MONOTONIC itself.
// Why: reading it takes 10 ns instead of 25, of two readings around something that takes 60.
// Differences are taken within one process; instants of different processes are compared by
// CLOCK_MONOTONIC (sys/clock.hpp). Immutable once made: any thread; a forked child inherits it.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace ipcbus::measure {

class TickClock {
public:
    /// The process's clock. The first call takes 20 ms, to calibrate it: make it before fork().
    [[nodiscard]] static const TickClock& get();

    /// Now, in ticks. Not before what stands before it in the program has been done.
    [[nodiscard]] std::uint64_t now() const {
#if defined(__x86_64__)
        if (counter_) {
            _mm_lfence();  // it is no serialising instruction, and would be executed early
            return __rdtsc();
        }
#endif
        return monotonic_ticks();
    }

    /// Nanoseconds of a difference of two instants, rounded.
    [[nodiscard]] std::uint64_t ns(std::uint64_t ticks) const {
        return static_cast<std::uint64_t>(static_cast<double>(ticks) * ns_per_tick_ + 0.5);
    }
    /// The same, not rounded.
    [[nodiscard]] double ns_exact(double ticks) const { return ticks * ns_per_tick_; }
    /// Ticks of a time in nanoseconds.
    [[nodiscard]] std::uint64_t ticks(std::uint64_t ns) const {
        return static_cast<std::uint64_t>(static_cast<double>(ns) / ns_per_tick_);
    }
    /// "tsc" or "clock_gettime".
    [[nodiscard]] const char* name() const { return counter_ ? "tsc" : "clock_gettime"; }

private:
    TickClock();
    [[nodiscard]] static std::uint64_t monotonic_ticks();

    bool counter_ = false;
    double ns_per_tick_ = 1.0;
};

/// CPU time that the calling thread has used, ns.
[[nodiscard]] std::int64_t thread_cpu_ns();

}  // namespace ipcbus::measure
