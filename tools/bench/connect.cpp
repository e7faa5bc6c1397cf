// SPDX-License-Identifier: Apache-2.0
// ipcbus-bench connect: how long it takes from nothing to the first message. One process connects,
// advertises, subscribes, publishes and receives one message, checks it, and closes; again and
// again, each time on a topic of its own, so that nothing of the time before is attached to.
#include "bench/clock.hpp"
#include "bench/modes.hpp"
#include "cli.hpp"
#include "sys/clock.hpp"

namespace ipcbus::bench {

using measure::TickClock;

namespace {

struct ConnectPage {
    std::array<measure::Histogram, ConnectResult::kPhases> phase;
    std::uint64_t ring_bytes = 0;
};

void subscribe(const Member& member, ipcbus_bus* bus, const std::string& topic,
               tools::SubscriberPtr& ret_subscriber) {
    ipcbus_subscriber* subscriber = nullptr;
    if (const int result = ipcbus_subscribe(bus, topic.c_str(), nullptr, &subscriber);
        result != 0) {
        member.fail_library("subscribe", result);
    }
    ret_subscriber.reset(subscriber);
}

void advertise(const Member& member, const Run& run, ipcbus_bus* bus, const std::string& topic,
               tools::PublisherPtr& ret_publisher) {
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = run.options.ring_bytes;
    ipcbus_publisher* publisher = nullptr;
    if (const int result = ipcbus_advertise(bus, topic.c_str(), &options, &publisher);
        result != 0) {
        member.fail_library("publish", result);
    }
    ret_publisher.reset(publisher);
}

/// One message there, checked.
void exchange(const Member& member, const Run& run, std::uint64_t number,
              ipcbus_publisher* publisher, ipcbus_subscriber* subscriber) {
    constexpr std::size_t kBytes = 64;
    alignas(kLine) std::byte message[kBytes];
    fill(message, kBytes, number, run.salt);
    if (const int result = ipcbus_publish(publisher, message, kBytes); result != 0) {
        member.fail_library("publish", result);
    }
    ipcbus_message received{};
    if (const int result = ipcbus_receive(subscriber, message, kBytes, kPatienceNs, &received);
        result != 0) {
        member.fail_library("receive the first message", result);
    }
    if (received.size != kBytes || !check(message, kBytes, number, run.salt)) {
        member.fail(tools::kExitFailed,
                    "the first message of connection " + std::to_string(number) + " is corrupt");
    }
}

/// Once; the instants between the phases, in ticks.
std::array<std::uint64_t, ConnectResult::kPhases> once(const Member& member, const Run& run,
                                                       std::uint64_t number, ConnectPage& page) {
    const TickClock& clock = TickClock::get();
    const std::string topic = run.topic + "/connect/" + std::to_string(number);
    std::array<std::uint64_t, ConnectResult::kPhases> at{};
    at[0] = clock.now();
    tools::BusPtr bus = connect(member, run);
    at[1] = clock.now();
    tools::PublisherPtr publisher;
    advertise(member, run, bus.get(), topic, publisher);
    at[2] = clock.now();
    tools::SubscriberPtr subscriber;
    subscribe(member, bus.get(), topic, subscriber);
    at[3] = clock.now();
    exchange(member, run, number, publisher.get(), subscriber.get());
    at[4] = clock.now();
    page.ring_bytes = ipcbus_ring_bytes(publisher.get());
    publisher.release();  // the bus closes both
    subscriber.release();
    bus.reset();
    at[5] = clock.now();
    return at;
}

void connect_again_and_again(const Member& member, const Run& run, ConnectPage& page) {
    const TickClock& clock = TickClock::get();
    const std::int64_t warm_ns = sys::monotonic_ns() + run.options.warmup_ns;
    const std::int64_t end_ns = warm_ns + run.options.duration_ns;
    bool is_warm = false;
    for (std::uint64_t number = 0;; ++number) {
        const auto at = once(member, run, number, page);
        const std::int64_t now_ns = sys::monotonic_ns();
        if (is_warm) {
            for (std::size_t i = 0; i < 4; ++i) {
                page.phase[i].record(clock.ns(at[i + 1] - at[i]));
            }
            page.phase[4].record(clock.ns(at[4] - at[0]));
            page.phase[5].record(clock.ns(at[5] - at[4]));
            if (now_ns >= end_ns) {
                return;
            }
        }
        is_warm = now_ns >= warm_ns;
    }
}

}  // namespace

int run_connect(const Run& run, ConnectResult& ret_result) {
    const Shared<ConnectPage> page;
    Team team;
    team.add("bench-client", cpu_for(run.options.pin, 0),
             [&](const Member& member) { connect_again_and_again(member, run, *page); });
    if (const int code = team.run(kTool); code != tools::kExitDone) {
        return code;
    }
    for (std::size_t i = 0; i < ConnectResult::kPhases; ++i) {
        ret_result.phase[i].merge(page->phase[i]);
    }
    ret_result.ring_bytes = page->ring_bytes;
    return tools::kExitDone;
}

}  // namespace ipcbus::bench
