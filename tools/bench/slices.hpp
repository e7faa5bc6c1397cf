// SPDX-License-Identifier: Apache-2.0
// The few milliseconds that one measurement takes, between two ping-pongs; and how the next one is
// made as long as it should be. Filled by one member of a team, in shared memory; read by the
// parent when the team has ended.
#pragma once

#include "bench/placement.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ipcbus::bench {

struct Slice {
    double before_ns = 0;  // one way, of the bare ping-pong
    double after_ns = 0;
    std::uint64_t messages = 0;
    std::int64_t wall_ns = 0;
    std::int64_t writer_cpu_ns = 0;
    bool is_burst = false;

    [[nodiscard]] measure::Distance distance() const {
        return measure::distance_of(before_ns, after_ns);
    }
};

/// All slices of a run, as many as there is room for.
struct Slices {
    static constexpr std::size_t kMost = 1 << 16;

    std::array<Slice, kMost> all;
    std::size_t count = 0;

    [[nodiscard]] bool full() const { return count == kMost; }
    void add(const Slice& slice) {
        if (!full()) {
            all[count++] = slice;
        }
    }
    [[nodiscard]] std::span<const Slice> taken() const { return {all.data(), count}; }
};

/// How many messages make a slice of the length that is wanted.
class SliceLength {
public:
    SliceLength(std::int64_t wanted_ns, std::uint64_t first)
        : wanted_ns_(wanted_ns), next_(first) {}

    [[nodiscard]] std::uint64_t next() const { return next_; }
    void took(std::uint64_t messages, std::int64_t wall_ns) {
        const double fitting = static_cast<double>(messages) * static_cast<double>(wanted_ns_) /
                               static_cast<double>(std::max<std::int64_t>(wall_ns, 1));
        // One slice that was disturbed does not make the next ten too short.
        const double least = std::max(1.0, static_cast<double>(next_) / 2);
        const double most = std::min(1e12, static_cast<double>(next_) * 4);
        next_ = static_cast<std::uint64_t>(std::clamp(fitting, least, most));
    }

private:
    std::int64_t wanted_ns_;
    std::uint64_t next_;
};

}  // namespace ipcbus::bench
