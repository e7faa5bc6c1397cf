// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-stat. Plain values, read once.
#pragma once

#include "connection.hpp"
#include "stat/report.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ipcbus::tools {

struct StatOptions {
    enum class Form { text, json, prometheus };

    CommonOptions common;
    std::vector<std::string> filters;
    Form form = Form::text;
    stats::TextStyle style;
    bool once = false;   // one look, so no rates
    bool watch = false;  // look again and again
    std::int64_t interval_ns = 1'000'000'000;
    std::uint64_t count_max = UINT64_MAX;  // reports, under --watch
};

[[nodiscard]] sys::Result<StatOptions> parse_stat_options(std::span<char* const> arguments);
[[nodiscard]] std::string stat_help();

}  // namespace ipcbus::tools
