// SPDX-License-Identifier: Apache-2.0
// What ipcbus-bench can measure. Each mode runs a team of processes once and returns what came out;
// the parent calls them in turn, adds up repeats and prints. See ipcbus-bench(1) for what each
// measures and what of every message is checked.
#pragma once

#include "bench/endpoint.hpp"
#include "bench/histogram.hpp"
#include "bench/placement.hpp"
#include "bench/slices.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::bench {

inline constexpr std::string_view kTool = "ipcbus-bench";

/// Of the slices that were taken while the processes were that far apart.
struct DistanceResult {
    std::uint64_t slices = 0;
    double wall_ns = 0;
    std::vector<double> ping_ns;  // the bare ping-pong's one way, for each slice

    void merge(const DistanceResult& other);
};

struct LatencyResult {
    struct At : DistanceResult {
        measure::Histogram one_way;

        void merge(const At& other);
    };
    std::array<At, measure::kDistances> at;
    measure::Histogram all;
    std::uint64_t ring_bytes = 0;
    double daemon_cpu_ns = -1;  // while messages went; -1: unknown

    /// Takes in another run's.
    void merge(const LatencyResult& other);
};

/// Of messages one way, of requests the round trip, in slices of either in turn.
struct RequestResult {
    LatencyResult messages;
    LatencyResult requests;

    void merge(const RequestResult& other) {
        messages.merge(other.messages);
        requests.merge(other.requests);
    }
    /// Median round trip by median one way; 0: unknown.
    [[nodiscard]] static double ratio(const measure::Histogram& requests,
                                      const measure::Histogram& messages) {
        const auto one_way = static_cast<double>(messages.percentile(50));
        return one_way > 0 && requests.count() > 0
                   ? static_cast<double>(requests.percentile(50)) / one_way
                   : 0;
    }
};

struct StreamResult {
    struct At : DistanceResult {
        std::vector<double> rates;          // messages a second, for each slice
        std::vector<double> writer_cpu_ns;  // for each message, of each slice
        std::vector<double> burst_cpu_ns;   // the same in bursts, in which the ring is never full

        void merge(const At& other);
    };
    std::array<At, measure::kDistances> at;
    At all;
    std::uint64_t messages = 0;   // published, in slices that are not bursts
    std::uint64_t published = 0;  // in all, warm-up and bursts included
    std::uint64_t lost = 0;       // by all readers together, in all slices and before
    std::uint64_t checked = 0;    // received and found right, by all readers together
    std::uint64_t ring_bytes = 0;
    double reader_cpu_ns = 0;  // of all readers together
    double daemon_cpu_ns = -1;

    void merge(const StreamResult& other);
    /// Over all slices; so that it counts what the median leaves out.
    [[nodiscard]] double rate() const {
        return all.wall_ns > 0 ? static_cast<double>(messages) * 1e9 / all.wall_ns : 0;
    }
};

struct ConnectResult {
    static constexpr std::size_t kPhases = 6;
    static constexpr std::array<std::string_view, kPhases> kNames = {
        "connect", "advertise", "subscribe", "message", "total", "close"};
    std::array<measure::Histogram, kPhases> phase;  // total: to the first message
    std::uint64_t ring_bytes = 0;

    void merge(const ConnectResult& other);
};

struct ControlResult {
    struct Phase {
        std::string_view name;
        std::uint64_t operations = 0;
        double wall_ns = 0;
        double daemon_cpu_ns = -1;
    };
    std::vector<Phase> phases;
    std::uint64_t attachments = 0;
    std::uint64_t checked = 0;  // messages
    double set_up_ns = 0;       // all phases before the messages
    bool daemon_known = false;
    std::uint64_t daemon_rss_bytes = 0;
    std::uint64_t daemon_shared_bytes = 0;
    std::uint64_t ring_bytes = 0;
};

/// Each returns an exit code; what went wrong has been reported.
[[nodiscard]] int run_latency(const Run& run, LatencyResult& ret_result);
[[nodiscard]] int run_request(const Run& run, RequestResult& ret_result);
/// Throughput, which has one reader and no bursts, and fanout.
[[nodiscard]] int run_stream(const Run& run, StreamResult& ret_result);
[[nodiscard]] int run_connect(const Run& run, ConnectResult& ret_result);
[[nodiscard]] int run_control(const Run& run, ControlResult& ret_result);

}  // namespace ipcbus::bench
