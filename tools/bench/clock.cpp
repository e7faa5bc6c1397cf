// SPDX-License-Identifier: Apache-2.0
// Whether the time stamp counter can be trusted, and how fast it runs; see clock.hpp.
#include "bench/clock.hpp"

#include "sys/clock.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ipcbus::measure {

namespace {

constexpr std::int64_t kCalibrationNs = 20'000'000;

#if defined(__x86_64__)
/// "Invariant TSC": one rate in all states of the processor, never stopping.
bool has_invariant_counter() {
    constexpr unsigned kPowerLeaf = 0x80000007;
    constexpr unsigned kInvariant = 1u << 8;
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(kPowerLeaf, &a, &b, &c, &d) != 0 && (d & kInvariant) != 0;
}

struct Instant {
    std::uint64_t ticks = 0;
    std::int64_t ns = 0;
};

/// Both clocks at one instant: of several readings the one that took the least time, because
/// whoever is interrupted between the two reads two instants.
Instant read_both() {
    constexpr int kReadings = 32;
    Instant best;
    std::uint64_t best_took = UINT64_MAX;
    for (int i = 0; i < kReadings; ++i) {
        _mm_lfence();
        const std::uint64_t before = __rdtsc();
        const std::int64_t ns = sys::monotonic_ns();
        _mm_lfence();
        const std::uint64_t after = __rdtsc();
        if (after - before < best_took) {
            best_took = after - before;
            best = Instant{before + (after - before) / 2, ns};
        }
    }
    return best;
}
#endif

}  // namespace

TickClock::TickClock() {
#if defined(__x86_64__)
    if (!has_invariant_counter()) {
        return;
    }
    const Instant first = read_both();
    while (sys::monotonic_ns() - first.ns < kCalibrationNs) {}
    const Instant last = read_both();
    const double ticks = static_cast<double>(last.ticks - first.ticks);
    const double rate = static_cast<double>(last.ns - first.ns) / ticks;
    // From 0.1 to 10 GHz; anything else is no clock.
    if (last.ticks > first.ticks && rate > 0.1 && rate < 10.0) {
        counter_ = true;
        ns_per_tick_ = rate;
    }
#endif
}

const TickClock& TickClock::get() {
    static const TickClock clock;
    return clock;
}

std::uint64_t TickClock::monotonic_ticks() {
    return static_cast<std::uint64_t>(sys::monotonic_ns());
}

std::int64_t thread_cpu_ns() { return sys::detail::read_clock(CLOCK_THREAD_CPUTIME_ID); }

}  // namespace ipcbus::measure
