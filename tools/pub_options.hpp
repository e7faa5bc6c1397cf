// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-pub. Plain values, read once.
#pragma once

#include "connection.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace ipcbus::tools {

struct PubOptions {
    enum class Payload { text, file, lines, whole, empty, nul, framed };

    CommonOptions common;
    std::string topic;
    Payload payload = Payload::lines;
    std::string text;                       // of -m; the path of -f
    std::string fifo;                       // of --follow: instead of stdin; empty: stdin
    std::uint64_t count_max = UINT64_MAX;   // -C
    std::int64_t timeout_ns = -1;           // -W; negative: none
    std::uint64_t repeat = 1;
    std::int64_t repeat_delay_ns = 0;
    double rate_hz = 0;                     // 0: as fast as it goes
    std::uint32_t wait_subscribers = 0;
    int on_signal = 0;                      // of --on-signal; 0: none
    bool progress = false;
    std::int64_t max_block_ns = -1;         // negative: for ever
    std::uint64_t ring_bytes = 0;           // a power of two; 0: as configured

    /// Whether messages come one after the other, from stdin or a FIFO that is followed.
    [[nodiscard]] bool streams() const {
        if (!fifo.empty()) {
            return true;
        }
        return payload == Payload::lines || payload == Payload::nul || payload == Payload::framed;
    }
};

/// `arguments` is argv without the program's name. Checked; the text of an Error is for people.
[[nodiscard]] sys::Result<PubOptions> parse_pub_options(std::span<char* const> arguments);
[[nodiscard]] std::string pub_help();

}  // namespace ipcbus::tools
