// SPDX-License-Identifier: Apache-2.0
// The two clocks ipcbus measures with, as nanoseconds in a signed 64-bit number (292 years), and
// Deadline, an instant to be done by. Both are CLOCK_MONOTONIC's time line, so they can be
// compared: the coarse one is a few milliseconds behind and five times cheaper.
// Plain values: any thread, any process.
#pragma once

#include <time.h>

#include <cstdint>
#include <limits>

namespace ipcbus::sys {

/// "For ever", for deadlines and the times that remain to them.
inline constexpr std::int64_t kForeverNs = std::numeric_limits<std::int64_t>::max();

namespace detail {
inline std::int64_t read_clock(clockid_t clock) {
    timespec now{};
    (void)::clock_gettime(clock, &now);  // cannot fail for a clock that every kernel has
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}
}  // namespace detail

[[nodiscard]] inline std::int64_t monotonic_ns() { return detail::read_clock(CLOCK_MONOTONIC); }
[[nodiscard]] inline std::int64_t coarse_ns() { return detail::read_clock(CLOCK_MONOTONIC_COARSE); }

struct Deadline {
    std::int64_t at_ns = kForeverNs;

    /// A deadline so long from now; negative: never.
    [[nodiscard]] static Deadline after(std::int64_t timeout_ns) {
        const std::int64_t now_ns = monotonic_ns();
        if (timeout_ns < 0 || timeout_ns > kForeverNs - now_ns) {
            return Deadline{};
        }
        return Deadline{now_ns + timeout_ns};
    }

    [[nodiscard]] bool never() const { return at_ns == kForeverNs; }
    [[nodiscard]] bool passed() const { return !never() && monotonic_ns() >= at_ns; }

    /// 0 when it has passed, kForeverNs when there is none: so it can go into std::min with the
    /// length of a slice, and into futex_wait, which takes kForeverNs for what it says.
    [[nodiscard]] std::int64_t remaining_ns() const {
        if (never()) {
            return kForeverNs;
        }
        const std::int64_t left_ns = at_ns - monotonic_ns();
        return left_ns > 0 ? left_ns : 0;
    }
};

}  // namespace ipcbus::sys
