// SPDX-License-Identifier: Apache-2.0
// Adding up the results of several runs; see modes.hpp and report.hpp.
#include "bench/report.hpp"
#include "bench/samples.hpp"

#include <algorithm>

namespace ipcbus::bench {

namespace {

void append(std::vector<double>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
}

/// -1 is unknown, and stays so.
void add_known(double& to, double other) { to = to < 0 ? other : other < 0 ? to : to + other; }

template <class Result>
Result merged(const std::vector<Result>& runs) {
    Result all;
    for (const Result& run : runs) {
        all.merge(run);
    }
    return all;
}

}  // namespace

void DistanceResult::merge(const DistanceResult& other) {
    slices += other.slices;
    wall_ns += other.wall_ns;
    append(ping_ns, other.ping_ns);
}

void LatencyResult::At::merge(const At& other) {
    DistanceResult::merge(other);
    one_way.merge(other.one_way);
}

void LatencyResult::merge(const LatencyResult& other) {
    for (std::size_t i = 0; i < at.size(); ++i) {
        at[i].merge(other.at[i]);
    }
    all.merge(other.all);
    ring_bytes = other.ring_bytes;
    add_known(daemon_cpu_ns, other.daemon_cpu_ns);
}

void StreamResult::At::merge(const At& other) {
    DistanceResult::merge(other);
    append(rates, other.rates);
    append(writer_cpu_ns, other.writer_cpu_ns);
    append(burst_cpu_ns, other.burst_cpu_ns);
}

void StreamResult::merge(const StreamResult& other) {
    for (std::size_t i = 0; i < at.size(); ++i) {
        at[i].merge(other.at[i]);
    }
    all.merge(other.all);
    messages += other.messages;
    published += other.published;
    lost += other.lost;
    checked += other.checked;
    reader_cpu_ns += other.reader_cpu_ns;
    ring_bytes = other.ring_bytes;
    add_known(daemon_cpu_ns, other.daemon_cpu_ns);
}

void ConnectResult::merge(const ConnectResult& other) {
    for (std::size_t i = 0; i < kPhases; ++i) {
        phase[i].merge(other.phase[i]);
    }
    ring_bytes = other.ring_bytes;
}

LatencyResult together(const std::vector<LatencyResult>& runs) { return merged(runs); }
RequestResult together(const std::vector<RequestResult>& runs) { return merged(runs); }
StreamResult together(const std::vector<StreamResult>& runs) { return merged(runs); }
ConnectResult together(const std::vector<ConnectResult>& runs) { return merged(runs); }

ControlResult together(const std::vector<ControlResult>& runs) {
    const auto median_of = [&](auto&& number) {
        std::vector<double> numbers;
        for (const ControlResult& run : runs) {
            numbers.push_back(number(run));
        }
        return measure::median(numbers);
    };
    ControlResult all = runs.back();
    for (std::size_t i = 0; i < all.phases.size(); ++i) {
        all.phases[i].wall_ns = median_of([&](const auto& run) { return run.phases[i].wall_ns; });
        all.phases[i].daemon_cpu_ns =
            median_of([&](const auto& run) { return run.phases[i].daemon_cpu_ns; });
    }
    all.set_up_ns = median_of([](const auto& run) { return run.set_up_ns; });
    all.checked = 0;
    for (const ControlResult& run : runs) {
        all.checked += run.checked;
    }
    return all;
}

}  // namespace ipcbus::bench
