// SPDX-License-Identifier: Apache-2.0
// Results as JSON; see report.hpp. Times are nanoseconds, rates are by the second. The members are
// described in ipcbus-bench(1): added to, never changed.
#include "bench/clock.hpp"
#include "bench/report.hpp"
#include "bench/samples.hpp"

namespace ipcbus::bench {

using measure::Distance;
using measure::Histogram;

namespace {

void write_histogram(std::string_view name, const Histogram& histogram, Json& json) {
    json.key(name).open('{');
    json.member("count", histogram.count()).member("min", histogram.min());
    json.member("mean", histogram.mean()).member("p50", histogram.percentile(50));
    json.member("p90", histogram.percentile(90)).member("p99", histogram.percentile(99));
    json.member("p99.9", histogram.percentile(99.9)).member("p99.99", histogram.percentile(99.99));
    json.member("max", histogram.max()).close('}');
}

/// Median, quartiles, number.
void write_samples(std::string_view name, const std::vector<double>& samples, Json& json) {
    json.key(name).open('{');
    json.member("count", std::uint64_t{samples.size()});
    json.member("p25", measure::percentile(samples, 25)).member("p50", measure::median(samples));
    json.member("p75", measure::percentile(samples, 75)).close('}');
}

/// An element of "classes", open.
void open_class(std::size_t i, const DistanceResult& at, double all_ns, Json& json) {
    json.open('{').member("class", measure::distance_name(static_cast<Distance>(i)));
    json.member("slices", at.slices);
    json.member("share", all_ns > 0 ? at.wall_ns / all_ns : 0);
    json.member("ping_pong_ns", measure::median(at.ping_ns));
}

void write_daemon_cpu(double cpu_ns, Json& json) {
    if (cpu_ns >= 0) {
        json.member("daemon_cpu_ns", cpu_ns);
    }
}

}  // namespace

void write_circumstances(const Run& run, const Machine& machine, Json& json) {
    const BenchOptions& options = run.options;
    using Mode = BenchOptions::Mode;
    json.key("options").open('{');
    if (options.mode == Mode::control) {
        json.member("clients", options.clients).member("publications", options.publications);
        json.member("subscriptions", options.subscriptions).member("matches", options.matches);
        json.member("processes", options.processes);
    } else {
        json.member("duration_ns", options.duration_ns).member("warmup_ns", options.warmup_ns);
    }
    if (options.mode != Mode::control && options.mode != Mode::connect) {
        json.member("size", options.size).member("mode", tools::delivery_name(options.delivery));
        json.member("wait", tools::wait_name(options.wait)).member("slice_ns", options.slice_ns);
        json.member("batch", options.write_batch).member("read_batch", options.read_batch);
        json.member("in_place", options.write_in_place);
        json.member("read_in_place", options.read_in_place);
        json.member("untouched", options.untouched).member("readers", options.readers);
    }
    json.member("repeat", options.repeat).key("pin").open('[');
    for (const int cpu : options.pin) {
        json.value(cpu);
    }
    json.close(']').close('}');
    json.key("machine").open('{').member("processor", machine.processor);
    json.member("cpus", machine.cpus).member("virtual", machine.is_virtual);
    json.member("kernel", machine.kernel);
    json.member("clock", measure::TickClock::get().name()).close('}');
}

void write_result(const Run& run, const LatencyResult& result, Json& json) {
    json.open('{').member("ring_bytes", result.ring_bytes);
    json.member("messages", 2 * result.all.count())
        .member("checked_payload", !run.options.untouched);
    write_histogram("one_way_ns", result.all, json);
    double all_ns = 0;
    for (const LatencyResult::At& at : result.at) {
        all_ns += at.wall_ns;
    }
    json.key("classes").open('[');
    for (std::size_t i = 0; i < result.at.size(); ++i) {
        if (result.at[i].slices > 0) {
            open_class(i, result.at[i], all_ns, json);
            write_histogram("one_way_ns", result.at[i].one_way, json);
            json.close('}');
        }
    }
    json.close(']');
    write_daemon_cpu(result.daemon_cpu_ns, json);
    json.close('}');
}

void write_result(const Run&, const RequestResult& result, Json& json) {
    json.open('{').member("ring_bytes", result.messages.ring_bytes);
    json.member("requests", result.requests.all.count());
    json.member("messages", 2 * result.messages.all.count());
    write_histogram("one_way_ns", result.messages.all, json);
    write_histogram("request_ns", result.requests.all, json);
    json.member("ratio", RequestResult::ratio(result.requests.all, result.messages.all));
    double all_ns = 0;
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        all_ns += result.messages.at[i].wall_ns + result.requests.at[i].wall_ns;
    }
    json.key("classes").open('[');
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        const LatencyResult::At& messages = result.messages.at[i];
        const LatencyResult::At& requests = result.requests.at[i];
        if (messages.slices > 0 && requests.slices > 0) {
            LatencyResult::At both = messages;
            both.merge(requests);
            open_class(i, both, all_ns, json);
            write_histogram("one_way_ns", messages.one_way, json);
            write_histogram("request_ns", requests.one_way, json);
            json.member("ratio", RequestResult::ratio(requests.one_way, messages.one_way));
            json.close('}');
        }
    }
    json.close(']');
    write_daemon_cpu(result.messages.daemon_cpu_ns, json);
    json.close('}');
}

namespace {

void write_stream_samples(const StreamResult::At& at, Json& json) {
    write_samples("messages_per_second", at.rates, json);
    write_samples("writer_cpu_ns", at.writer_cpu_ns, json);
    if (!at.burst_cpu_ns.empty()) {
        write_samples("burst_writer_cpu_ns", at.burst_cpu_ns, json);
    }
}

}  // namespace

void write_result(const Run& run, const StreamResult& result, Json& json) {
    json.open('{').member("ring_bytes", result.ring_bytes).member("messages", result.messages);
    json.member("seconds", result.all.wall_ns / 1e9);
    json.member("rate", result.rate());
    json.member("bytes_per_second", result.rate() * static_cast<double>(run.options.size));
    json.member("published", result.published)
        .member("received", result.checked)
        .member("lost", result.lost);
    json.member("checked_payload", !run.options.untouched);
    json.member("reader_cpu_ns", result.checked > 0
                                     ? result.reader_cpu_ns / static_cast<double>(result.checked)
                                     : 0);
    json.member("slices", result.all.slices);
    write_stream_samples(result.all, json);
    json.key("classes").open('[');
    for (std::size_t i = 0; i < result.at.size(); ++i) {
        if (result.at[i].slices > 0) {
            open_class(i, result.at[i], result.all.wall_ns, json);
            write_stream_samples(result.at[i], json);
            json.close('}');
        }
    }
    json.close(']');
    write_daemon_cpu(result.daemon_cpu_ns, json);
    json.close('}');
}

void write_result(const Run&, const ConnectResult& result, Json& json) {
    json.open('{').member("ring_bytes", result.ring_bytes);
    for (std::size_t i = 0; i < ConnectResult::kPhases; ++i) {
        write_histogram(std::string(ConnectResult::kNames[i]) + "_ns", result.phase[i], json);
    }
    json.close('}');
}

void write_result(const Run&, const ControlResult& result, Json& json) {
    json.open('{').member("ring_bytes", result.ring_bytes);
    json.member("attachments", result.attachments).member("received", result.checked);
    json.member("set_up_ns", result.set_up_ns).key("phases").open('[');
    for (const ControlResult::Phase& phase : result.phases) {
        json.open('{').member("phase", phase.name).member("operations", phase.operations);
        json.member("wall_ns", phase.wall_ns);
        write_daemon_cpu(phase.daemon_cpu_ns, json);
        json.close('}');
    }
    json.close(']');
    if (result.daemon_known) {
        json.member("daemon_rss_bytes", result.daemon_rss_bytes);
        json.member("daemon_shared_bytes", result.daemon_shared_bytes);
    }
    json.close('}');
}

}  // namespace ipcbus::bench
