// SPDX-License-Identifier: Apache-2.0
// Percentiles and the picture of a histogram; see histogram.hpp.
#include "bench/histogram.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

namespace ipcbus::measure {

namespace {

struct Scale {
    double factor;
    const char* unit;
};

/// Three digits of `value`, in the largest of `scales` (ascending) that is not larger than it.
template <std::size_t N>
std::string show_scaled(double value, const Scale (&scales)[N]) {
    // 999.6 of a unit would be shown as 1000 of it: it is 1.00 of the next.
    std::size_t at = 0;
    while (at + 1 < N && value >= scales[at + 1].factor * 0.9995) {
        ++at;
    }
    const double shown = value / scales[at].factor;
    const bool is_whole = at == 0 && shown == std::floor(shown);
    const int decimals = is_whole || shown >= 99.95 ? 0 : shown >= 9.995 ? 1 : 2;
    char text[64];
    std::snprintf(text, sizeof(text), "%.*f %s", decimals, shown, scales[at].unit);
    return text;
}

}  // namespace

void Histogram::merge(const Histogram& other) {
    for (std::size_t i = 0; i < kCount; ++i) {
        counts_[i] += other.counts_[i];
    }
    count_ += other.count_;
    sum_ += other.sum_;
    min_ = std::min(min_, other.min_);
    max_ = std::max(max_, other.max_);
}

double Histogram::mean() const { return empty() ? 0 : sum_ / static_cast<double>(count_); }

std::uint64_t Histogram::last_of(std::size_t step) {
    if (step < kSteps) {
        return step;
    }
    const std::size_t power = step / kSteps - 1;
    const std::uint64_t first = (std::uint64_t{kSteps} + step % kSteps) << power;
    return first + (std::uint64_t{1} << power) - 1;
}

std::uint64_t Histogram::percentile(double percent) const {
    if (empty()) {
        return 0;
    }
    const double share = std::clamp(percent, 0.0, 100.0) / 100;
    // At least one, so that percentile(0) is the smallest. The small amount taken off is what
    // 99.9 / 100 may be too large by: it must not ask for one value more.
    const double wanted_exact = std::ceil(share * static_cast<double>(count_) - 1e-6);
    const auto wanted = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(wanted_exact));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i + 1 < kCount; ++i) {
        seen += counts_[i];
        if (seen >= wanted) {
            return std::clamp(last_of(i), min_, max_);
        }
    }
    return max_;
}

std::uint64_t Histogram::count_up_to(std::uint64_t value) const {
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i <= step_of(value); ++i) {
        seen += counts_[i];
    }
    return seen;
}

std::string Histogram::picture(std::size_t rows, std::size_t columns) const {
    if (empty() || rows == 0) {
        return "nothing was measured\n";
    }
    // Stretches of equal ratio from the smallest value to p99.99; what is above has the last line.
    const double first = std::max<double>(1, static_cast<double>(min()));
    const double last = std::max<double>(first, static_cast<double>(percentile(99.99)));
    const double ratio = std::max(std::pow(last / first, 1 / static_cast<double>(rows)), 1.03);
    struct Row {
        std::uint64_t to = 0;
        std::uint64_t count = 0;
        std::uint64_t up_to = 0;
    };
    std::vector<Row> shown;
    std::uint64_t before = 0;
    double edge = first;
    while (before < count_ && shown.size() < rows) {
        edge = std::max(edge * ratio, edge + 1);
        const bool is_last = shown.size() + 1 == rows;
        const auto to = is_last ? max_ : std::min(static_cast<std::uint64_t>(edge), max_);
        const std::uint64_t up_to = to >= max_ ? count_ : count_up_to(to);
        shown.push_back(Row{to, up_to - before, up_to});
        before = up_to;
    }
    std::uint64_t most = 1;
    for (const Row& row : shown) {
        most = std::max(most, row.count);
    }
    std::string text;
    for (const Row& row : shown) {
        if (row.count == 0) {
            continue;  // the next line begins where the last one ended
        }
        const double share = static_cast<double>(row.count) / static_cast<double>(most);
        const auto full =
            static_cast<std::size_t>(std::lround(share * static_cast<double>(columns)));
        const bool is_few = full == 0;  // few is not none
        std::string bar(is_few ? 1 : full, is_few ? '.' : '#');
        bar.resize(columns, ' ');
        const double all = static_cast<double>(count_);
        char line[256];
        std::snprintf(line, sizeof(line), "  <= %8s |%s| %6.2f %%  %8.4f %%\n",
                      show_ns(static_cast<double>(row.to)).c_str(), bar.c_str(),
                      100 * static_cast<double>(row.count) / all,
                      100 * static_cast<double>(row.up_to) / all);
        text += line;
    }
    return text;
}

std::string show_ns(double ns) {
    static constexpr Scale kScales[] = {{1, "ns"}, {1e3, "us"}, {1e6, "ms"}, {1e9, "s"}};
    return show_scaled(ns, kScales);
}

std::string show_number(double number) {
    static constexpr Scale kScales[] = {{1, ""}, {1e3, "k"}, {1e6, "M"}, {1e9, "G"}};
    std::string text = show_scaled(number, kScales);
    if (text.ends_with(' ')) {
        text.pop_back();
    }
    return text;
}

}  // namespace ipcbus::measure
