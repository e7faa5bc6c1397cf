// SPDX-License-Identifier: Apache-2.0
// When the next messages are due, for --rate and --repeat-delay. Plain arithmetic on times that the
// caller gives; one thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace ipcbus::tools {

class Pacer {
public:
    /// A message every `interval_ns` (0: no limit). One who is late may catch up with what was due
    /// in the last `catch_up_ns`, and forgets the rest: no burst after a long stall.
    Pacer(double interval_ns, std::int64_t catch_up_ns)
        : interval_ns_(interval_ns), catch_up_ns_(static_cast<double>(catch_up_ns)) {}

    /// At most so many messages of `count_max` are due at `now_ns`.
    [[nodiscard]] std::size_t due(std::int64_t now_ns, std::size_t count_max) {
        if (interval_ns_ <= 0) {
            return count_max;
        }
        if (start_ns_ < 0) {
            start_ns_ = now_ns;
        }
        const auto now = static_cast<double>(now_ns - start_ns_);
        if (now < next_) {
            return 0;
        }
        next_ = std::max(next_, now - catch_up_ns_);
        const double due = 1 + std::floor((now - next_) / interval_ns_);
        return due < static_cast<double>(count_max) ? static_cast<std::size_t>(due) : count_max;
    }

    /// So many were published.
    void took(std::size_t count) { next_ += static_cast<double>(count) * interval_ns_; }

    /// When the next is due, if none was.
    [[nodiscard]] std::int64_t next_ns() const {
        return start_ns_ + static_cast<std::int64_t>(std::ceil(next_));
    }

private:
    const double interval_ns_;
    const double catch_up_ns_;
    std::int64_t start_ns_ = -1;  // of the first call
    double next_ = 0;             // since then; exact to the nanosecond for a hundred days
};

}  // namespace ipcbus::tools
