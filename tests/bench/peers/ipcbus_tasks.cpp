// SPDX-License-Identifier: Apache-2.0
// publish-cost, shared-cpu, rings-latency, rings-drain, idle-waiter; see ipcbus_tasks.hpp.
#include "peers/ipcbus_tasks.hpp"

#include "bench/clock.hpp"
#include "bench/histogram.hpp"
#include "peers/ipcbus_handles.hpp"
#include "sys/clock.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ipcbus::bench {
namespace {

constexpr std::size_t kBytes = 64;
constexpr std::size_t kBorrowMax = 64;

/// Receives exactly `count` messages, each numbered one more than the one before.
class Drain {
public:
    explicit Drain(ipcbus_subscriber* subscriber) : subscriber_(subscriber) {}

    void run(std::uint64_t count) {
        std::array<ipcbus_message, kBorrowMax> messages;
        while (count > 0) {
            const auto got = static_cast<std::size_t>(
                check(ipcbus_borrow_many(subscriber_, IPCBUS_FOREVER, messages.data(),
                                         std::min<std::uint64_t>(count, messages.size())),
                      "borrow"));
            for (std::size_t i = 0; i < got; i++) {
                take(messages[i]);
            }
            check(ipcbus_release(subscriber_), "release");
            count -= got;
        }
    }

private:
    void take(const ipcbus_message& message) {
        std::uint64_t number = 0;
        std::memcpy(&number, message.data, sizeof number);
        if (message.size != kBytes || number != next_++) {
            fail("ipcbus", "a message is missing or wrong");
        }
    }

    ipcbus_subscriber* subscriber_;
    std::uint64_t next_ = 0;
};

/// CPU time of the writer for a publish while many reliable readers are attached: none asleep, none
/// running. They are clients each, all in B, and read when the writer pauses, to the last message
/// and no further: so none has found its ring empty, and the ring is never full.
class PublishCost : public Task {
public:
    explicit PublishCost(int subscribers)
        : Task("publish-cost-" + std::to_string(subscribers), "ipcbus"),
          subscribers_(subscribers),
          message_(kBytes) {
        own_value = true;
        every = 2;
        count_max = 2 * kStep;
    }
    void open(int reader) override {
        const std::string topic = workload;
        if (reader < 0) {
            publisher_ = advertise(connect_bus(bus_address()), topic, kRingBytes);
            const auto count = static_cast<std::uint32_t>(subscribers_);
            check(ipcbus_wait_subscribers(publisher_, count, IPCBUS_FOREVER), "wait");
            return;
        }
        for (int i = 0; i < subscribers_; i++) {
            drains_.emplace_back(subscribe(connect_bus(bus_address()), topic, Waiting::spin));
        }
    }
    void write(Turn& turn) override {
        std::int64_t cpu_ns = 0;
        for (std::uint64_t done = 0; done < turn.count;) {
            const std::uint64_t step = std::min(kStep, turn.count - done);
            const std::int64_t began_ns = measure::thread_cpu_ns();
            for (std::uint64_t i = 0; i < step; i++) {
                message_.number(number_++);
                check(ipcbus_publish(publisher_, message_.data(), kBytes), "publish");
            }
            cpu_ns += measure::thread_cpu_ns() - began_ns;
            steps_->go.store(++step_, std::memory_order_release);
            wait_until(steps_->done, step_);
            done += step;
        }
        value_ = static_cast<double>(cpu_ns) / static_cast<double>(turn.count);
    }
    void read(Turn& turn, int) override {
        for (std::uint64_t done = 0; done < turn.count;) {
            const std::uint64_t step = std::min(kStep, turn.count - done);
            wait_until(steps_->go, ++step_);
            for (Drain& drain : drains_) {
                drain.run(step);
            }
            steps_->done.store(step_, std::memory_order_release);
            done += step;
        }
    }
    double value() const override { return value_; }

private:
    static constexpr std::uint64_t kStep = 6000;  // about half of the ring

    int subscribers_;
    Message message_;
    Shared<Steps> steps_;
    ipcbus_publisher* publisher_ = nullptr;
    std::vector<Drain> drains_;
    std::uint64_t number_ = 0;
    std::uint64_t step_ = 0;
    double value_ = 0;
};

/// One writer, several reader processes on one CPU; each reads everything.
class SharedCpu : public Task {
public:
    explicit SharedCpu(int count)
        : Task("shared-cpu-" + std::to_string(count), "ipcbus"), message_(kBytes) {
        readers = count;
        slice_factor = 4;
        every = 2;
    }
    void open(int reader) override {
        ipcbus_bus* bus = connect_bus(bus_address());
        if (reader >= 0) {
            drain_ = std::make_unique<Drain>(subscribe(bus, workload, Waiting::best));
            return;
        }
        publisher_ = advertise(bus, workload, kRingBytes);
        const auto count = static_cast<std::uint32_t>(readers);
        check(ipcbus_wait_subscribers(publisher_, count, IPCBUS_FOREVER), "wait");
    }
    void write(Turn& turn) override {
        for (std::uint64_t i = 0; i < turn.count; i++) {
            message_.number(number_++);
            check(ipcbus_publish(publisher_, message_.data(), kBytes), "publish");
        }
    }
    void read(Turn& turn, int) override { drain_->run(turn.count); }

private:
    Message message_;
    ipcbus_publisher* publisher_ = nullptr;
    std::unique_ptr<Drain> drain_;
    std::uint64_t number_ = 0;
};

/// B subscribes to all of many rings, of which A writes one. rings-latency: a ping-pong; B answers
/// on another topic. rings-drain: what a receive takes when messages are there already.
class Rings : public Task {
public:
    Rings(int count, bool latency)
        : Task((latency ? "rings-latency-" : "rings-drain-") + std::to_string(count), "ipcbus"),
          count_(count),
          latency_(latency),
          message_(kBytes) {
        ping_pong = latency;
        own_value = !latency;
        if (own_value) {
            count_max = 40 * kStep;
        }
    }
    void open(int reader) override {
        ipcbus_bus* bus = connect_bus(bus_address());
        const bool writer = reader < 0;
        const std::string there = workload + "/there";
        const std::string back = workload + "/back";
        in_ = subscribe(bus, writer ? back : there + "/#", Waiting::best);
        if (!writer) {
            out_ = advertise(bus, back, kSmallRingBytes);
            check(ipcbus_wait_subscribers(out_, 1, IPCBUS_FOREVER), "wait");
            return;
        }
        for (int i = 0; i < count_; i++) {
            ipcbus_publisher* publisher =
                advertise(bus, there + "/" + std::to_string(i), kSmallRingBytes);
            check(ipcbus_wait_subscribers(publisher, 1, IPCBUS_FOREVER), "wait");
            out_ = i == count_ / 2 || i == 0 ? publisher : out_;
        }
    }
    void write(Turn& turn) override { latency_ ? ping(turn) : fill(turn); }
    void read(Turn& turn, int) override { latency_ ? pong(turn) : drain(turn); }
    double value() const override { return value_; }

private:
    static constexpr std::size_t kSmallRingBytes = std::size_t{64} << 10;
    static constexpr std::uint64_t kStep = 400;  // half of such a ring

    void send(std::uint64_t number) {
        message_.number(number);
        check(ipcbus_publish(out_, message_.data(), kBytes), "publish");
    }
    void receive(std::uint64_t number) {
        std::array<std::uint64_t, kBytes / 8> words;
        check(ipcbus_receive(in_, words.data(), sizeof words, IPCBUS_FOREVER, nullptr), "receive");
        if (words.front() != number || words.back() != ~number) {
            fail(workload, "a message is missing or wrong");
        }
    }
    void ping(Turn& turn) {
        const auto& clock = measure::TickClock::get();
        for (std::uint64_t i = 0; i < turn.count; i++) {
            const std::uint64_t began = clock.now();
            send(i);
            receive(i);
            turn.latency->record(clock.ns((clock.now() - began) / 2));
        }
    }
    void pong(Turn& turn) {
        for (std::uint64_t i = 0; i < turn.count; i++) {
            receive(i);
            send(i);
        }
    }
    void fill(Turn& turn) {
        for (std::uint64_t done = 0; done < turn.count;) {
            const std::uint64_t step = std::min(kStep, turn.count - done);
            for (std::uint64_t i = 0; i < step; i++) {
                send(number_++);
            }
            steps_->go.store(++step_, std::memory_order_release);
            wait_until(steps_->done, step_);
            done += step;
        }
        value_ = static_cast<double>(steps_->result.load()) / static_cast<double>(turn.count);
    }
    void drain(Turn& turn) {
        const auto& clock = measure::TickClock::get();
        std::uint64_t ticks = 0;
        for (std::uint64_t done = 0; done < turn.count;) {
            const std::uint64_t step = std::min(kStep, turn.count - done);
            wait_until(steps_->go, ++step_);
            const std::uint64_t began = clock.now();
            for (std::uint64_t i = 0; i < step; i++) {
                receive(number_++);
            }
            ticks += clock.now() - began;
            steps_->result.store(clock.ns(ticks));
            steps_->done.store(step_, std::memory_order_release);
            done += step;
        }
    }

    int count_;
    bool latency_;
    Message message_;
    Shared<Steps> steps_;
    ipcbus_publisher* out_ = nullptr;
    ipcbus_subscriber* in_ = nullptr;
    std::uint64_t number_ = 0;
    std::uint64_t step_ = 0;
    double value_ = 0;
};

/// The CPU time of a waiter to whom nothing comes: ns in a second.
class IdleWaiter : public Task {
public:
    IdleWaiter() : Task("idle-waiter", "ipcbus") {
        own_value = true;
        every = 10;
        count_max = 1;
    }
    void open(int reader) override {
        ipcbus_bus* bus = connect_bus(bus_address());
        if (reader < 0) {
            (void)advertise(bus, workload);
        } else {
            in_ = subscribe(bus, workload, Waiting::best);
        }
    }
    void write(Turn&) override {
        (void)::usleep(kWaitNs / 1000);
        wait_until(steps_->done, ++step_);
    }
    void read(Turn&, int) override {
        const Usage usage;
        char byte = 0;
        (void)ipcbus_receive(in_, &byte, sizeof byte, kWaitNs, nullptr);
        steps_->result.store(static_cast<std::uint64_t>(usage.cpu_ns()));
        steps_->done.store(++step_, std::memory_order_release);
    }
    double value() const override {
        return static_cast<double>(steps_->result.load()) * (1e9 / kWaitNs);
    }

private:
    static constexpr std::int64_t kWaitNs = 300'000'000;

    Shared<Steps> steps_;
    ipcbus_subscriber* in_ = nullptr;
    std::uint64_t step_ = 0;
};

}  // namespace

void wait_until(const std::atomic<std::uint64_t>& word, std::uint64_t value) {
    while (word.load(std::memory_order_acquire) < value) {
#if defined(__x86_64__)
        _mm_pause();
#endif
    }
}

void add_ipcbus_tasks(Peer& peer, Tasks& tasks) {
    add_wake_tasks(peer, tasks);
    if (peer.traits().name != "ipcbus") {
        return;
    }
    for (const int subscribers : {1, 8, 64}) {
        tasks.push_back(std::make_unique<PublishCost>(subscribers));
    }
    for (const int readers : {1, 2, 3, 4}) {
        tasks.push_back(std::make_unique<SharedCpu>(readers));
    }
    for (const bool latency : {true, false}) {
        for (const int rings : {1, 1000}) {
            tasks.push_back(std::make_unique<Rings>(rings, latency));
        }
    }
    tasks.push_back(std::make_unique<IdleWaiter>());
}

}  // namespace ipcbus::bench
