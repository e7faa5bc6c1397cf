// SPDX-License-Identifier: Apache-2.0
// What compare_run has measured: a line for each slice, and the latencies of all slices of a task
// and distance together. Written as JSON for the script, which makes the table. In A alone.
#pragma once

#include "bench/histogram.hpp"
#include "bench/placement.hpp"

#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace ipcbus::bench {

struct SliceResult {
    std::size_t task = 0;
    unsigned round = 0;
    measure::Distance distance = measure::Distance::mixed;
    double before_ns = 0;  // the ping-pongs around it
    double after_ns = 0;
    std::uint64_t count = 0;
    double value_ns = 0;  // per message; for a ping-pong the median one way
    std::int64_t writer_cpu_ns = 0;
    std::int64_t reader_cpu_ns = 0;  // of reader 0
    std::int64_t elapsed_ns = 0;
    std::int64_t server_cpu_ns = 0;
    std::uint64_t writer_sleeps = 0;
    std::uint64_t reader_sleeps = 0;
};

class Results {
public:
    void add(const SliceResult& slice, const measure::Histogram& latency);
    [[nodiscard]] std::size_t size() const { return slices_.size(); }

    struct Name {
        std::string workload;
        std::string peer;
        bool ping_pong = false;
    };
    struct LeftOut {
        std::string peer;
        std::string why;
    };
    /// `names` by task.
    void write_json(std::FILE* file, const std::vector<Name>& names,
                    const std::vector<LeftOut>& left_out) const;

private:
    std::vector<SliceResult> slices_;
    std::map<std::pair<std::size_t, measure::Distance>, measure::Histogram> pooled_;
};

}  // namespace ipcbus::bench
