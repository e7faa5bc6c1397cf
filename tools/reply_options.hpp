// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-reply. Plain values, read once.
#pragma once

#include "connection.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace ipcbus::tools {

struct ReplyOptions {
    enum class Answer { command, echo, text };

    CommonOptions common;
    std::string filter;
    Answer answer = Answer::echo;
    std::string text;                       // of --exec, or of -m
    std::uint64_t count_max = UINT64_MAX;   // -C
    std::int64_t timeout_ns = -1;           // -W; negative: none
    std::int64_t exec_timeout_ns = -1;      // of a command; negative: none
    int ready_fd = -1;                      // -1: none
};

/// `arguments` is argv without the program's name. Checked; the text of an Error is for people.
[[nodiscard]] sys::Result<ReplyOptions> parse_reply_options(std::span<char* const> arguments);
[[nodiscard]] std::string reply_help();

}  // namespace ipcbus::tools
