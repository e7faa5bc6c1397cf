// SPDX-License-Identifier: Apache-2.0
// Topics and filters read naively: as lists of levels, one topic at a time. For tests and fuzzers
// that hold the code against something written without it. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace ipcbus::test {

using Levels = std::vector<std::string>;

inline Levels split(const std::string& text) {
    Levels levels(1);
    for (const char c : text) {
        if (c == '/') {
            levels.emplace_back();
        } else {
            levels.back() += c;
        }
    }
    return levels;
}

/// Whether a topic's levels from `i` on are what the filter's say from `i` on.
inline bool names(const Levels& filter, const Levels& topic, std::size_t i = 0) {
    if (i == filter.size()) {
        return i == topic.size();
    }
    const bool hidden = i == 0 && topic[0].starts_with("$");
    if (filter[i] == "#") {
        return !hidden;
    }
    if (i == topic.size()) {
        return false;
    }
    return ((filter[i] == "+" && !hidden) || filter[i] == topic[i]) && names(filter, topic, i + 1);
}

}  // namespace ipcbus::test
