// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-req. Plain values, read once.
#pragma once

#include "connection.hpp"
#include "format.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace ipcbus::tools {

struct ReqOptions {
    enum class Payload { text, file, lines, whole, empty, nul };

    CommonOptions common;
    std::string topic;
    Payload payload = Payload::lines;
    std::string text;                            // of -m; the path of -f
    bool all = false;                            // -a, or -C
    std::uint64_t count = 0;                     // -C: replies to a request; 0: all there are
    std::int64_t timeout_ns = 10'000'000'000;    // -W, for each request
    std::uint32_t wait_responders = 0;
    std::uint64_t request_bytes_max = 0;         // 0: what is needed, or usual
    std::uint64_t reply_bytes_max = 256 * 1024;
    OutputStyle style;

    /// Whether requests come from stdin one after the other.
    [[nodiscard]] bool streams() const {
        return payload == Payload::lines || payload == Payload::nul;
    }
};

/// `arguments` is argv without the program's name. Checked; the text of an Error is for people.
[[nodiscard]] sys::Result<ReqOptions> parse_req_options(std::span<char* const> arguments);
[[nodiscard]] std::string req_help();

}  // namespace ipcbus::tools
