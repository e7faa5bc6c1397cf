// SPDX-License-Identifier: Apache-2.0
// ipcbus-bench request: the same two processes, in turn by slices, hand numbered messages to and
// fro over two topics, as `latency` does, and ask and answer as many times. Of messages one way is
// half a round trip; of requests the whole is told. Between slices the two do a bare ping-pong,
// which also tells the answerer what comes next.
#include "bench/clock.hpp"
#include "bench/machine.hpp"
#include "bench/modes.hpp"
#include "cli.hpp"
#include "protocol/limits.hpp"
#include "sys/clock.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

namespace ipcbus::bench {

using measure::Histogram;
using measure::PingPong;
using measure::TickClock;

namespace {

/// What a requester that asks for nothing sends and takes.
constexpr std::uint64_t kUsual = 16384;

/// What is measured, of either kind.
struct Kept {
    Slices slices;
    std::array<Histogram, measure::kDistances> times;
};

struct RequestPage {
    measure::PingPongPage ping;
    Meeting ready;
    std::atomic<std::uint64_t> round_trips{0};  // of the next slice; 0: it is over
    std::atomic<std::uint32_t> asks{0};         // 1: the next slice is of requests
    Kept messages;
    Kept requests;
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

/// Numbered requests, of which each reply must be the request itself.
class Asker {
public:
    Asker(const Member& member, const Run& run, ipcbus_bus* bus, const std::string& topic)
        : member_(member),
          size_(run.options.size),
          source_(size_, run.salt),
          buffer_(std::max<std::size_t>(size_, 1)) {
        ipcbus_requester_options options = IPCBUS_INIT(options);
        // Rings as those of the messages, or, by default, as large as requesters have them.
        options.request_bytes_max =
            std::max<std::uint64_t>(size_, run.options.ring_bytes / protocol::kPayloadPart);
        options.request_bytes_max = size_ > kUsual || run.options.ring_bytes != 0
                                        ? std::max<std::uint64_t>(options.request_bytes_max, 1)
                                        : 0;
        options.reply_bytes_max = options.request_bytes_max;
        options.spin_ns = run.options.spin_ns();
        ipcbus_requester* handle = nullptr;
        int result = ipcbus_requester_create(bus, topic.c_str(), &options, &handle);
        if (result != 0) {
            member.fail_library("send requests to " + tools::quoted(topic), result);
        }
        handle_.reset(handle);
        result = ipcbus_wait_responders(handle, 1, kPatienceNs);
        if (result != 0) {
            member.fail_library("wait for the responder", result);
        }
    }

    /// One request and its reply; what is timed.
    void ask(const TickClock& clock, Histogram& histogram) {
        const void* request = source_.make(0, number_);
        ipcbus_reply reply{};
        const std::uint64_t began = clock.now();
        const int result = ipcbus_call(handle_.get(), request, size_, buffer_.data(),
                                       buffer_.size(), kPatienceNs, &reply);
        const std::uint64_t ended = clock.now();
        if (__builtin_expect(result != 0, 0)) {
            member_.fail_library("get a reply", result);
        }
        if (reply.size != size_ || std::memcmp(buffer_.data(), request, size_) != 0) {
            member_.fail(tools::kExitFailed,
                         "the reply to request " + std::to_string(number_) + " is corrupt");
        }
        number_++;
        histogram.record(clock.ns(ended - began));
    }

private:
    const Member& member_;
    const std::size_t size_;
    Source source_;
    std::vector<char> buffer_;
    tools::RequesterPtr handle_;
    std::uint64_t number_ = 0;
};

/// Answers each request with itself.
class Answerer {
public:
    Answerer(const Member& member, const Run& run, ipcbus_bus* bus, const std::string& topic)
        : member_(member), buffer_(std::max<std::size_t>(run.options.size, 1)) {
        ipcbus_responder_options options = IPCBUS_INIT(options);
        options.spin_ns = run.options.spin_ns();
        ipcbus_responder* handle = nullptr;
        const int result = ipcbus_serve(bus, topic.c_str(), &options, &handle);
        if (result != 0) {
            member.fail_library("serve " + tools::quoted(topic), result);
        }
        handle_.reset(handle);
    }

    void answer() {
        ipcbus_request request{};
        int result = ipcbus_next_request(handle_.get(), buffer_.data(), buffer_.size(),
                                         kPatienceNs, &request);
        if (__builtin_expect(result != 0, 0)) {
            member_.fail_library("get a request", result);
        }
        result = ipcbus_respond(handle_.get(), &request, buffer_.data(), request.size, 0, 0);
        if (__builtin_expect(result != 0, 0)) {
            member_.fail_library("answer", result);
        }
    }

private:
    const Member& member_;
    std::vector<char> buffer_;
    tools::ResponderPtr handle_;
};

/// One message there and one back.
void pass(Writer& writer, Reader& reader, const TickClock& clock, Histogram& histogram) {
    writer.prepare();
    const std::uint64_t began = clock.now();
    writer.publish(1);
    reader.receive_one();
    const std::uint64_t ended = clock.now();
    reader.finish();
    histogram.record((clock.ns(ended - began) + 1) / 2);
}

void asker(const Member& member, const Run& run, RequestPage& page) {
    const tools::BusPtr bus = connect(member, run);
    Writer writer(member, run, bus.get(), run.topic + "/ping");
    Reader reader(member, run, bus.get(), run.topic + "/pong");
    writer.wait_for(1);
    page.ring_bytes = writer.ring_bytes();
    member.meet(page.ready, 2);
    Asker requests(member, run, bus.get(), run.topic + "/request");
    const TickClock& clock = TickClock::get();
    PingPong ping(page.ping);
    const auto histogram = std::make_unique<Histogram>();
    SliceLength length(run.options.slice_ns, 8);
    const std::int64_t warm_ns = sys::monotonic_ns() + run.options.warmup_ns;
    const std::int64_t end_ns = warm_ns + run.options.duration_ns;
    bool is_warm = false;
    bool asks = false;
    Usage daemon;
    std::uint64_t round_trips = length.next();
    // relaxed: the next turn of the ping-pong publishes both
    page.round_trips.store(round_trips, std::memory_order_relaxed);
    double before_ns = measure_ping(member, ping);
    while (round_trips != 0) {
        Slice slice;
        slice.before_ns = before_ns;
        slice.messages = round_trips;
        histogram->clear();
        const std::int64_t began_ns = sys::monotonic_ns();
        for (std::uint64_t i = 0; i < round_trips; ++i) {
            if (asks) {
                requests.ask(clock, *histogram);
            } else {
                pass(writer, reader, clock, *histogram);
            }
        }
        const std::int64_t now_ns = sys::monotonic_ns();
        slice.wall_ns = now_ns - began_ns;
        length.took(round_trips, slice.wall_ns);
        Kept& kept = asks ? page.requests : page.messages;
        // A slice of each counts at least, however short the time or long the message.
        const bool is_over = is_warm && asks && now_ns >= end_ns;
        asks = !asks;
        round_trips = is_over || kept.slices.full() ? 0 : length.next();
        page.round_trips.store(round_trips, std::memory_order_relaxed);  // as above
        page.asks.store(asks ? 1 : 0, std::memory_order_relaxed);
        slice.after_ns = before_ns = measure_ping(member, ping);
        if (is_warm) {
            kept.slices.add(slice);
            kept.times[static_cast<std::size_t>(slice.distance())].merge(*histogram);
        } else if (now_ns >= warm_ns && !asks) {
            is_warm = true;
            daemon = usage_of(run.daemon);
        }
    }
    page.daemon_cpu_ns = usage_of(run.daemon).cpu_ns - daemon.cpu_ns;
}

void answerer(const Member& member, const Run& run, RequestPage& page) {
    const tools::BusPtr bus = connect(member, run);
    Reader reader(member, run, bus.get(), run.topic + "/ping");
    Writer writer(member, run, bus.get(), run.topic + "/pong");
    Answerer requests(member, run, bus.get(), run.topic + "/request");
    writer.wait_for(1);
    member.meet(page.ready, 2);
    PingPong ping(page.ping);
    while (true) {
        if (const auto answered = ping.answer(); !answered.ok()) {
            member.fail(tools::kExitTimedOut, answered.error().what);
        }
        // relaxed: see asker()
        std::uint64_t round_trips = page.round_trips.load(std::memory_order_relaxed);
        const bool asks = page.asks.load(std::memory_order_relaxed) != 0;
        if (round_trips == 0) {
            return;
        }
        for (; round_trips > 0; --round_trips) {
            if (asks) {
                requests.answer();
            } else {
                writer.prepare();
                reader.receive_one();
                writer.publish(1);
                reader.finish();
            }
        }
    }
}

void take(const Kept& kept, LatencyResult& ret_result) {
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        ret_result.at[i].one_way.merge(kept.times[i]);
        ret_result.all.merge(kept.times[i]);
    }
    for (const Slice& slice : kept.slices.taken()) {
        LatencyResult::At& at = ret_result.at[static_cast<std::size_t>(slice.distance())];
        at.slices++;
        at.wall_ns += static_cast<double>(slice.wall_ns);
        at.ping_ns.push_back((slice.before_ns + slice.after_ns) / 2);
    }
}

}  // namespace

int run_request(const Run& run, RequestResult& ret_result) {
    const Shared<RequestPage> page;
    Team team;
    team.add("bench-asker", cpu_for(run.options.pin, 0),
             [&](const Member& member) { asker(member, run, *page); });
    team.add("bench-answerer", cpu_for(run.options.pin, 1),
             [&](const Member& member) { answerer(member, run, *page); });
    if (const int code = team.run(kTool); code != tools::kExitDone) {
        return code;
    }
    take(page->messages, ret_result.messages);
    take(page->requests, ret_result.requests);
    ret_result.messages.ring_bytes = page->ring_bytes;
    ret_result.messages.daemon_cpu_ns =
        run.daemon > 0 ? static_cast<double>(page->daemon_cpu_ns) : -1;
    return tools::kExitDone;
}

}  // namespace ipcbus::bench
