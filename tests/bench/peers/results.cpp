// SPDX-License-Identifier: Apache-2.0
// Results as JSON: {"tasks": [...], "left_out": [...], "slices": [...], "pooled": [...]}.
#include "peers/results.hpp"

namespace ipcbus::bench {
namespace {

std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            result += '\\';
        }
        result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return result + '"';
}

const char* name(measure::Distance distance) { return measure::distance_name(distance).data(); }

/// A comma and a new line between elements, none before the first.
class Separator {
public:
    const char* next() { return first_ ? (first_ = false, "\n  ") : ",\n  "; }

private:
    bool first_ = true;
};

}  // namespace

void Results::add(const SliceResult& slice, const measure::Histogram& latency) {
    slices_.push_back(slice);
    if (!latency.empty()) {
        pooled_[{slice.task, slice.distance}].merge(latency);
    }
}

void Results::write_json(std::FILE* file, const std::vector<Name>& names,
                         const std::vector<LeftOut>& left_out) const {
    std::fprintf(file, "{\"tasks\": [");
    Separator task;
    for (const Name& of : names) {
        std::fprintf(file, "%s{\"workload\": %s, \"peer\": %s, \"ping_pong\": %s}", task.next(),
                     quoted(of.workload).c_str(), quoted(of.peer).c_str(),
                     of.ping_pong ? "true" : "false");
    }
    std::fprintf(file, "],\n\"left_out\": [");
    Separator absent;
    for (const LeftOut& of : left_out) {
        std::fprintf(file, "%s{\"peer\": %s, \"why\": %s}", absent.next(), quoted(of.peer).c_str(),
                     quoted(of.why).c_str());
    }
    std::fprintf(file, "],\n\"slices\": [");
    Separator line;
    for (const SliceResult& slice : slices_) {
        std::fprintf(file,
                     "%s{\"task\": %zu, \"round\": %u, \"distance\": \"%s\", \"before_ns\": %.1f, "
                     "\"after_ns\": %.1f, \"count\": %llu, \"value_ns\": %.3f, "
                     "\"elapsed_ns\": %lld, \"writer_cpu_ns\": %lld, \"reader_cpu_ns\": %lld, "
                     "\"server_cpu_ns\": %lld, \"writer_sleeps\": %llu, \"reader_sleeps\": %llu}",
                     line.next(), slice.task, slice.round, name(slice.distance), slice.before_ns,
                     slice.after_ns, static_cast<unsigned long long>(slice.count), slice.value_ns,
                     static_cast<long long>(slice.elapsed_ns),
                     static_cast<long long>(slice.writer_cpu_ns),
                     static_cast<long long>(slice.reader_cpu_ns),
                     static_cast<long long>(slice.server_cpu_ns),
                     static_cast<unsigned long long>(slice.writer_sleeps),
                     static_cast<unsigned long long>(slice.reader_sleeps));
    }
    std::fprintf(file, "],\n\"pooled\": [");
    Separator pool;
    for (const auto& [key, histogram] : pooled_) {
        std::fprintf(file,
                     "%s{\"task\": %zu, \"distance\": \"%s\", \"count\": %llu, \"p50_ns\": %llu, "
                     "\"p90_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, \"max_ns\": %llu}",
                     pool.next(), key.first, name(key.second),
                     static_cast<unsigned long long>(histogram.count()),
                     static_cast<unsigned long long>(histogram.percentile(50)),
                     static_cast<unsigned long long>(histogram.percentile(90)),
                     static_cast<unsigned long long>(histogram.percentile(99)),
                     static_cast<unsigned long long>(histogram.percentile(99.9)),
                     static_cast<unsigned long long>(histogram.max()));
    }
    std::fprintf(file, "]}\n");
}

}  // namespace ipcbus::bench
