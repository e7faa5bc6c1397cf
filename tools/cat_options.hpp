// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-cat. Plain values, read once.
#pragma once

#include "connection.hpp"
#include "format.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ipcbus::tools {

struct CatOptions {
    CommonOptions common;
    std::vector<std::string> filters;
    std::uint64_t count_max = UINT64_MAX;  // -C
    std::int64_t timeout_ns = -1;          // -W; negative: none
    std::int64_t idle_ns = -1;             // --idle; negative: none
    bool end = false;                      // --end
    OutputStyle style;
    std::uint32_t mode = IPCBUS_RELIABLE;
    std::uint64_t history = 0;             // --from; IPCBUS_OLDEST: all there is
    bool strict = false;
    bool progress = false;
    int ready_fd = -1;                     // -1: none
    std::string command;                   // of --exec; empty: none
    int signal = 0;                        // of --signal; 0: none
    std::string pidfile;                   // who gets it
};

/// `arguments` is argv without the program's name. Checked; the text of an Error is for people.
[[nodiscard]] sys::Result<CatOptions> parse_cat_options(std::span<char* const> arguments);
[[nodiscard]] std::string cat_help();

}  // namespace ipcbus::tools
