// SPDX-License-Identifier: Apache-2.0
// ipcbus-bench latency: two processes hand numbered messages to and fro over two topics, a round
// trip after the other. The asker takes the time; both check every message. One way is half a round
// trip. Between slices the two do a bare ping-pong, which also tells the answerer how long the next
// slice is.
#include "bench/clock.hpp"
#include "bench/machine.hpp"
#include "bench/modes.hpp"
#include "cli.hpp"
#include "sys/clock.hpp"

#include <memory>

namespace ipcbus::bench {

using measure::Distance;
using measure::Histogram;
using measure::PingPong;
using measure::TickClock;

namespace {

struct LatencyPage {
    measure::PingPongPage ping;
    Meeting ready;
    std::atomic<std::uint64_t> round_trips{0};  // of the next slice; 0: it is over
    Slices slices;
    std::array<Histogram, measure::kDistances> one_way;
    std::uint64_t ring_bytes = 0;
    std::int64_t daemon_cpu_ns = 0;
};

double measure_ping(const Member& member, PingPong& ping) {
    const auto result = ping.measure();
    if (!result.ok()) {
        member.fail(tools::kExitTimedOut, result.error().what);
    }
    return result.value();
}

/// One message there and one back: what is timed.
void ask(Writer& writer, Reader& reader, const TickClock& clock, Histogram& histogram) {
    writer.prepare();
    const std::uint64_t began = clock.now();
    writer.publish(1);
    reader.receive_one();
    const std::uint64_t ended = clock.now();
    reader.finish();
    histogram.record((clock.ns(ended - began) + 1) / 2);
}

void asker(const Member& member, const Run& run, LatencyPage& page) {
    const tools::BusPtr bus = connect(member, run);
    Writer writer(member, run, bus.get(), run.topic + "/ping");
    Reader reader(member, run, bus.get(), run.topic + "/pong");
    writer.wait_for(1);
    page.ring_bytes = writer.ring_bytes();
    member.meet(page.ready, 2);
    const TickClock& clock = TickClock::get();
    PingPong ping(page.ping);
    const auto histogram = std::make_unique<Histogram>();
    SliceLength length(run.options.slice_ns, 8);
    const std::int64_t warm_ns = sys::monotonic_ns() + run.options.warmup_ns;
    const std::int64_t end_ns = warm_ns + run.options.duration_ns;
    bool is_warm = false;
    Usage daemon;
    std::uint64_t round_trips = length.next();
    // relaxed: the next turn of the ping-pong publishes it
    page.round_trips.store(round_trips, std::memory_order_relaxed);
    double before_ns = measure_ping(member, ping);
    while (round_trips != 0) {
        Slice slice;
        slice.before_ns = before_ns;
        slice.messages = round_trips;
        histogram->clear();
        const std::int64_t began_ns = sys::monotonic_ns();
        for (std::uint64_t i = 0; i < round_trips; ++i) {
            ask(writer, reader, clock, *histogram);
        }
        const std::int64_t now_ns = sys::monotonic_ns();
        slice.wall_ns = now_ns - began_ns;
        length.took(round_trips, slice.wall_ns);
        // One slice counts at least, however short the time or long the message.
        const bool is_over = is_warm && now_ns >= end_ns;
        round_trips = is_over || page.slices.full() ? 0 : length.next();
        page.round_trips.store(round_trips, std::memory_order_relaxed);  // as above
        slice.after_ns = before_ns = measure_ping(member, ping);
        if (is_warm) {
            page.slices.add(slice);
            page.one_way[static_cast<std::size_t>(slice.distance())].merge(*histogram);
        } else if (now_ns >= warm_ns) {
            is_warm = true;
            daemon = usage_of(run.daemon);
        }
    }
    page.daemon_cpu_ns = usage_of(run.daemon).cpu_ns - daemon.cpu_ns;
}

void answerer(const Member& member, const Run& run, LatencyPage& page) {
    const tools::BusPtr bus = connect(member, run);
    Reader reader(member, run, bus.get(), run.topic + "/ping");
    Writer writer(member, run, bus.get(), run.topic + "/pong");
    writer.wait_for(1);
    member.meet(page.ready, 2);
    PingPong ping(page.ping);
    while (true) {
        if (const auto answered = ping.answer(); !answered.ok()) {
            member.fail(tools::kExitTimedOut, answered.error().what);
        }
        // relaxed: see asker()
        std::uint64_t round_trips = page.round_trips.load(std::memory_order_relaxed);
        if (round_trips == 0) {
            return;
        }
        for (; round_trips > 0; --round_trips) {
            writer.prepare();
            reader.receive_one();
            writer.publish(1);
            reader.finish();
        }
    }
}

}  // namespace

int run_latency(const Run& run, LatencyResult& ret_result) {
    const Shared<LatencyPage> page;
    Team team;
    team.add("bench-asker", cpu_for(run.options.pin, 0),
             [&](const Member& member) { asker(member, run, *page); });
    team.add("bench-answerer", cpu_for(run.options.pin, 1),
             [&](const Member& member) { answerer(member, run, *page); });
    if (const int code = team.run(kTool); code != tools::kExitDone) {
        return code;
    }
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        ret_result.at[i].one_way.merge(page->one_way[i]);
        ret_result.all.merge(page->one_way[i]);
    }
    for (const Slice& slice : page->slices.taken()) {
        LatencyResult::At& at = ret_result.at[static_cast<std::size_t>(slice.distance())];
        at.slices++;
        at.wall_ns += static_cast<double>(slice.wall_ns);
        at.ping_ns.push_back((slice.before_ns + slice.after_ns) / 2);
    }
    ret_result.ring_bytes = page->ring_bytes;
    ret_result.daemon_cpu_ns = run.daemon > 0 ? static_cast<double>(page->daemon_cpu_ns) : -1;
    return tools::kExitDone;
}

}  // namespace ipcbus::bench
