// SPDX-License-Identifier: Apache-2.0
// The table of all keys with a number behind them: one place for name, unit, allowed range, tag and
// member, from which the parser, its errors and the diff all work. Private to config*.cpp.
#pragma once

#include "config.hpp"

#include <span>

namespace ipcbus::daemon {

enum class Unit { count, bytes, ring_bytes, duration, mode };

struct NumberKey {
    std::string_view name;
    Tag tag;
    Unit unit;
    std::uint64_t min;
    std::uint64_t max;
    std::uint64_t& (*member)(Config&);
};

[[nodiscard]] std::span<const NumberKey> number_keys();
[[nodiscard]] std::string format_number(Unit unit, std::uint64_t value);

/// "64KiB", "1MiB", "1GiB", "4096". "5s", "500ms", "2min", "1h". "0660". nullopt: not of that form.
[[nodiscard]] std::optional<std::uint64_t> parse_bytes(std::string_view text);
[[nodiscard]] std::optional<std::uint64_t> parse_duration(std::string_view text);
[[nodiscard]] std::optional<std::uint64_t> parse_mode(std::string_view text);

[[nodiscard]] std::optional<LogLevel> parse_level(std::string_view text);
[[nodiscard]] std::string_view level_name(LogLevel level);

/// A share of the bus that one uid may have unless told otherwise.
void set_per_uid_defaults(Config& config);

inline constexpr std::uint64_t kConfigRingBytesMin = std::uint64_t{64} << 10;
inline constexpr std::uint64_t kConfigRingBytesMax = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kRecordBytesMaxMin = 64;

}  // namespace ipcbus::daemon
