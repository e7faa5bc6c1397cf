// SPDX-License-Identifier: Apache-2.0
// The daemon's log: log_info("client {} has gone", id). One line an event, on stderr, in the
// journal or in a file (reopened by log_open at SIGHUP). Writing never blocks and never fails the
// daemon: a target that is full or gone loses lines, which are counted, and the count is logged
// once it is back. Control characters are made harmless, so texts of clients may be logged. One per
// process; the daemon's one thread.
#pragma once

#include "config.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <string_view>
#include <utility>

namespace ipcbus::daemon {

/// Opens (or opens again) the target. On failure the old target stays, or stderr at the start.
[[nodiscard]] sys::Result<void> log_open(const LogConfig& config);

[[nodiscard]] bool log_enabled(LogLevel level);
void log_text(LogLevel level, std::string_view text);
/// Lines lost since the start.
[[nodiscard]] std::uint64_t log_lines_dropped();

template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
    log_text(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
    if (log_enabled(LogLevel::warning)) {
        log_text(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
    }
}

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
    if (log_enabled(LogLevel::info)) {
        log_text(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
    }
}

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
    if (log_enabled(LogLevel::debug)) {
        log_text(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
    }
}

}  // namespace ipcbus::daemon
