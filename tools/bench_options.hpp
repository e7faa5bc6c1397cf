// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-bench. Plain values, read once, by the parent; the processes that it
// forks have copies.
#pragma once

#include "connection.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::tools {

struct BenchOptions {
    enum class Mode { latency, request, throughput, fanout, connect, control };
    enum class Wait { spin, adaptive, sleep };

    CommonOptions common;
    Mode mode = Mode::latency;
    bool json = false;
    std::string topic;  // all topics are below it; empty: one that nobody else has
    bool private_bus = false;
    std::string daemon_path;  // empty: where ipcbusd is looked for

    // What is sent, and how.
    std::uint64_t size = 64;
    std::uint32_t delivery = IPCBUS_RELIABLE;
    bool strict = false;
    std::uint32_t write_batch = 1;
    std::uint32_t read_batch = 0;  // parsed: never 0
    bool write_in_place = false;
    bool read_in_place = false;  // also when read_batch > 1
    bool untouched = false;
    Wait wait = Wait::adaptive;
    std::uint64_t ring_bytes = 0;  // 0: as configured
    std::uint32_t readers = 1;

    // For how long.
    std::int64_t duration_ns = 3'000'000'000;
    std::int64_t warmup_ns = 300'000'000;
    std::int64_t slice_ns = 5'000'000;
    std::uint32_t repeat = 1;
    std::vector<int> pin;

    // Mode::control.
    std::uint32_t clients = 1000;
    std::uint32_t publications = 1000;
    std::uint32_t subscriptions = 1000;
    std::uint32_t matches = 1;
    std::uint32_t processes = 4;

    /// ipcbus_subscriber_options::spin_ns for `wait`.
    [[nodiscard]] std::int64_t spin_ns() const;
    /// Several messages in one call, or lent: what borrow_many reads.
    [[nodiscard]] bool borrows() const { return read_in_place || read_batch > 1; }
};

[[nodiscard]] std::string_view mode_name(BenchOptions::Mode mode);
[[nodiscard]] std::string_view wait_name(BenchOptions::Wait wait);
[[nodiscard]] std::string_view delivery_name(std::uint32_t delivery);

/// `arguments` is argv without the program's name. Checked; the text of an Error is for people.
[[nodiscard]] sys::Result<BenchOptions> parse_bench_options(std::span<char* const> arguments);
[[nodiscard]] std::string bench_help();

}  // namespace ipcbus::tools
