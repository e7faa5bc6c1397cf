// SPDX-License-Identifier: Apache-2.0
// A histogram of times (or any whole numbers): log-linear, 64 steps for each power of two, so that
// a value is known to 1.6 % whatever its size, from 1 ns to 18 minutes. Of fixed size (19 KiB) and
// without pointers: it can lie in memory that processes share, where one fills it and another reads
// it afterwards. Recording allocates nothing and takes a few nanoseconds. One thread at a time.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

namespace ipcbus::measure {

class Histogram {
public:
    /// Values from here on are counted together; max() is exact all the same.
    static constexpr std::uint64_t kValueMax = std::uint64_t{1} << 40;

    void record(std::uint64_t value) { record_many(value, 1); }
    /// The same value `count` times.
    void record_many(std::uint64_t value, std::uint64_t count) {
        if (count == 0) {
            return;
        }
        counts_[step_of(value)] += count;
        count_ += count;
        sum_ += static_cast<double>(value) * static_cast<double>(count);
        min_ = value < min_ ? value : min_;
        max_ = value > max_ ? value : max_;
    }
    /// Takes in all that `other` has counted.
    void merge(const Histogram& other);
    void clear() { *this = Histogram(); }

    [[nodiscard]] std::uint64_t count() const { return count_; }
    [[nodiscard]] bool empty() const { return count_ == 0; }
    /// Exact; 0 if nothing was recorded.
    [[nodiscard]] std::uint64_t min() const { return empty() ? 0 : min_; }
    [[nodiscard]] std::uint64_t max() const { return max_; }
    [[nodiscard]] double mean() const;

    /// The value that at least `percent` of all values do not exceed, at most 1.6 % too high and
    /// never above max(); monotone in `percent`. 0 if nothing was recorded.
    [[nodiscard]] std::uint64_t percentile(double percent) const;
    /// How many values are at most `value`, by whole steps.
    [[nodiscard]] std::uint64_t count_up_to(std::uint64_t value) const;

    /// A picture for people: a line for each stretch of values (which are nanoseconds), with a bar,
    /// its share and the share up to here. At most `rows` lines, bars at most `columns` wide.
    [[nodiscard]] std::string picture(std::size_t rows = 20, std::size_t columns = 40) const;

private:
    static constexpr unsigned kStepBits = 6;
    static constexpr std::size_t kSteps = std::size_t{1} << kStepBits;  // in a power of two
    static constexpr unsigned kValueBits = 40;
    static constexpr std::size_t kCount = kSteps * (kValueBits - kStepBits + 1) + 1;
    static_assert(kValueMax == std::uint64_t{1} << kValueBits);

    /// 0..63 are steps of 1; then each power of two has 64 steps.
    [[nodiscard]] static std::size_t step_of(std::uint64_t value) {
        if (value < kSteps) {
            return static_cast<std::size_t>(value);
        }
        if (value >= kValueMax) {
            return kCount - 1;
        }
        const unsigned power = static_cast<unsigned>(std::bit_width(value)) - 1 - kStepBits;
        return (power + 1) * kSteps + static_cast<std::size_t>((value >> power) - kSteps);
    }
    /// The largest value of a step.
    [[nodiscard]] static std::uint64_t last_of(std::size_t step);

    std::array<std::uint64_t, kCount> counts_{};
    std::uint64_t count_ = 0;
    double sum_ = 0;
    std::uint64_t min_ = UINT64_MAX;
    std::uint64_t max_ = 0;
};

/// "850 ns", "1.25 us", "31.4 ms", "2.10 s": three digits.
[[nodiscard]] std::string show_ns(double ns);
/// "850", "1.25 k", "31.4 M", "2.10 G": three digits.
[[nodiscard]] std::string show_number(double number);

}  // namespace ipcbus::measure
