// SPDX-License-Identifier: Apache-2.0
// Statistics of few numbers (a result for each slice or repeat): median, percentile, ratios. For
// many, histogram.hpp. Pure functions over copies; any thread.
#pragma once

#include "sys/assert.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace ipcbus::measure {

/// The value at `percent` (0..100) of the sorted samples, between two neighbours in proportion.
/// 0 if there are none.
[[nodiscard]] inline double percentile(std::vector<double> samples, double percent) {
    if (samples.empty()) {
        return 0;
    }
    std::sort(samples.begin(), samples.end());
    const double place =
        std::clamp(percent, 0.0, 100.0) / 100 * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<std::size_t>(std::floor(place));
    const std::size_t above = std::min(below + 1, samples.size() - 1);
    const double part = place - std::floor(place);
    return samples[below] + (samples[above] - samples[below]) * part;
}

[[nodiscard]] inline double median(std::vector<double> samples) {
    return percentile(std::move(samples), 50);
}

/// Half the distance from the first to the third quartile, as a share of the median: how far to
/// trust it. 0 for fewer than 2 samples.
[[nodiscard]] inline double spread(const std::vector<double>& samples) {
    const double middle = median(samples);
    if (samples.size() < 2 || middle == 0) {
        return 0;
    }
    return (percentile(samples, 75) - percentile(samples, 25)) / 2 / std::abs(middle);
}

/// a[i] / b[i]: of pairs that were measured one after the other, so that what disturbs both cancels
/// out. As many as the shorter has; pairs with b[i] == 0 are left out.
[[nodiscard]] inline std::vector<double> ratios(std::span<const double> a,
                                                std::span<const double> b) {
    std::vector<double> result;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        if (b[i] != 0) {
            result.push_back(a[i] / b[i]);
        }
    }
    return result;
}

/// median(a) / median(b); 0 if either has no samples (or b's median is 0).
[[nodiscard]] inline double ratio_of_medians(const std::vector<double>& a,
                                             const std::vector<double>& b) {
    const double below = median(b);
    return a.empty() || below == 0 ? 0 : median(a) / below;
}

}  // namespace ipcbus::measure
