// SPDX-License-Identifier: Apache-2.0
// See signal_name.hpp.
#include "signal_name.hpp"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>

namespace ipcbus::tools {

using sys::fail;
using sys::Result;

namespace {

/// "RTMIN", "RTMIN+3", "RTMAX-2".
std::optional<int> real_time(std::string_view name) {
    const bool from_least = name.starts_with("RTMIN");
    if (!from_least && !name.starts_with("RTMAX")) {
        return std::nullopt;
    }
    const std::string_view rest = name.substr(5);
    const int base = from_least ? SIGRTMIN : SIGRTMAX;
    if (rest.empty()) {
        return base;
    }
    if (rest.front() != (from_least ? '+' : '-')) {
        return std::nullopt;
    }
    const Result<std::uint64_t> by = parse_count(rest.substr(1), 0);
    if (!by.ok() || by.value() > static_cast<std::uint64_t>(SIGRTMAX - SIGRTMIN)) {
        return std::nullopt;
    }
    return from_least ? base + static_cast<int>(by.value()) : base - static_cast<int>(by.value());
}

}  // namespace

Result<int> parse_signal(std::string_view text) {
    std::string name(text);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    if (name.starts_with("SIG")) {
        name.erase(0, 3);
    }
    if (const std::optional<int> number = real_time(name)) {
        return *number;
    }
    if (const Result<std::uint64_t> number = parse_count(name, 1);
        number.ok() && number.value() <= static_cast<std::uint64_t>(SIGRTMAX)) {
        // Some below SIGRTMIN have no name: they are the C library's own.
        const int known = static_cast<int>(number.value());
        if (known >= SIGRTMIN || ::sigabbrev_np(known) != nullptr) {
            return known;
        }
    }
    for (int number = 1; number < SIGRTMIN; number++) {
        const char* known = ::sigabbrev_np(number);
        if (known != nullptr && name == known) {
            return number;
        }
    }
    return fail(EINVAL, "there is no signal " + quoted(text) + " (kill -l lists them)");
}

Result<int> signal_option(const Option& option) {
    const Result<int> number = parse_signal(option.value);
    return number.ok() ? number
                       : Result<int>(fail(EINVAL, option.shown + ": " + number.error().what));
}

std::string signal_name(int number) {
    if (const char* known = ::sigabbrev_np(number); known != nullptr) {
        return known;
    }
    if (number >= SIGRTMIN && number <= SIGRTMAX) {
        return "RTMIN+" + std::to_string(number - SIGRTMIN);
    }
    return std::to_string(number);
}

}  // namespace ipcbus::tools
