// SPDX-License-Identifier: Apache-2.0
// PeerLoops: ping-pongs and streams over a peer's send() and receive(), the same for all peers and
// inlined into each. peer.hpp tells what a peer must have. Used by the one thread of a side.
#pragma once

#include "bench/clock.hpp"
#include "bench/histogram.hpp"
#include "bench/samples.hpp"
#include "peers/peer.hpp"
#include "sys/clock.hpp"

#include <unistd.h>

#include <vector>

namespace ipcbus::bench {

/// kSleepPauseNs of the clock, if this is a ping-pong that sleeps; else 0.
inline std::uint64_t pause_ticks(const Turn& turn) {
    const bool sleeps = turn.slice.waiting == Waiting::sleep;
    return sleeps ? measure::TickClock::get().ticks(kSleepPauseNs) : 0;
}

inline void spin_for(std::uint64_t ticks) {
    if (ticks != 0) {
        const auto& clock = measure::TickClock::get();
        for (const std::uint64_t began = clock.now(); clock.now() - began < ticks;) {}
    }
}

template <class Derived>
class PeerLoops : public Peer {
public:
    void ping(Turn& turn) override {
        Checker checker = messages_.checker(traits().name, turn.slice);
        if constexpr (requires(Derived& peer) { peer.lend(std::size_t{}); }) {
            if (turn.slice.in_place) {
                return time_trips(turn, [&](std::uint64_t number) {
                    send_in_place(turn.slice.message_bytes, number);
                    std::size_t bytes = 0;
                    const void* data = self().receive(bytes);
                    checker.take(data, bytes);
                });
            }
        }
        Message& message = messages_.of(turn.slice)[0];
        time_trips(turn, [&](std::uint64_t number) {
            message.number(number);
            self().send(message.data(), message.bytes());
            self().flush();
            std::size_t bytes = 0;
            const void* data = self().receive(bytes);
            checker.take(data, bytes);
        });
    }

    void pong(Turn& turn) override {
        if constexpr (requires(Derived& peer) { peer.lend(std::size_t{}); }) {
            if (turn.slice.in_place) {
                return pong_in_place(turn);
            }
        }
        Message& message = messages_.of(turn.slice)[0];
        Checker checker = messages_.checker(traits().name, turn.slice);
        const std::uint64_t pause = pause_ticks(turn);
        for (std::uint64_t i = 0; i < turn.count; i++) {
            std::size_t bytes = 0;
            const void* data = self().receive(bytes);
            checker.take(data, bytes);
            message.number(i);
            spin_for(pause);
            self().send(message.data(), message.bytes());
            self().flush();
        }
        self().settle();
    }

    void write(Turn& turn) override {
        if (turn.slice.batch > 1) {
            return write_batches(turn);
        }
        const std::size_t window = traits().window;
        Message& message = messages_.of(turn.slice)[0];
        turn.began_ns = sys::monotonic_ns();
        for (std::uint64_t i = 0; i < turn.count; i++) {
            if (window != 0) {
                hold(turn, i, window);
            }
            message.number(i);
            self().send(message.data(), message.bytes());
        }
        self().flush();
    }

    void read(Turn& turn) override {
        const bool report = traits().window != 0;
        Checker checker = messages_.checker(traits().name, turn.slice);
        for (std::uint64_t i = 0; i < turn.count; i++) {
            std::size_t bytes = 0;
            const void* data = self().receive(bytes);
            checker.take(data, bytes);
            if (report) {
                turn.received->store(i + 1, std::memory_order_relaxed);
            }
        }
        self().settle();
    }

protected:
    Messages messages_;

private:
    static constexpr std::uint64_t kBlockTrips = 32;

    /// The first half of fast round trips in blocks, since reading the clock around each costs
    /// about as much as the fastest takes; the rest one by one, for the percentiles.
    template <class Trip>
    void time_trips(Turn& turn, Trip&& trip) {
        const auto& clock = measure::TickClock::get();
        std::uint64_t number = 0;
        std::vector<double> blocks;
        if (turn.slice.waiting != Waiting::sleep) {
            while (number + kBlockTrips <= turn.count / 2) {
                const std::uint64_t began = clock.now();
                for (std::uint64_t i = 0; i < kBlockTrips; i++) {
                    trip(number++);
                }
                const auto ticks = static_cast<double>(clock.now() - began);
                blocks.push_back(clock.ns_exact(ticks) / (2 * kBlockTrips));
            }
        }
        turn.block_ns = measure::median(std::move(blocks));
        const std::uint64_t pause = pause_ticks(turn);
        while (number < turn.count) {
            spin_for(pause);
            const std::uint64_t began = clock.now();
            trip(number++);
            turn.latency->record(clock.ns((clock.now() - began - pause) / 2));
        }
        self().settle();
    }

    Derived& self() { return static_cast<Derived&>(*this); }

    /// Waits until no more than `window` messages are on the way.
    void hold(Turn& turn, std::uint64_t sent, std::size_t window) {
        while (sent - turn.received->load(std::memory_order_relaxed) >= window) {
            self().flush();
            (void)::usleep(50);  // on few CPUs, a broker needs this one
        }
    }

    /// By send_many(const Message* first, std::size_t count) if the peer has it.
    void write_batches(Turn& turn) {
        const std::size_t window = traits().window;
        std::vector<Message>& messages = messages_.of(turn.slice);
        turn.began_ns = sys::monotonic_ns();
        for (std::uint64_t done = 0; done < turn.count;) {
            std::size_t count = 0;
            for (; count < turn.slice.batch && done < turn.count; count++, done++) {
                messages[count].number(done);
            }
            if (window != 0) {
                hold(turn, done, window + count);
            }
            if constexpr (requires(Derived& peer) { peer.send_many(messages.data(), count); }) {
                self().send_many(messages.data(), count);
            } else {
                for (std::size_t i = 0; i < count; i++) {
                    self().send(messages[i].data(), messages[i].bytes());
                }
                self().flush();
            }
        }
        self().flush();
    }

    // In place: `void* lend(bytes)` is room for a message where it will be read, `give(bytes)`
    // sends it. Only its first and last word are written.
    void send_in_place(std::size_t bytes, std::uint64_t number) {
        auto* data = static_cast<char*>(self().lend(bytes));
        const std::uint64_t last = ~number;
        std::memcpy(data, &number, 8);
        std::memcpy(data + bytes - 8, &last, 8);
        self().give(bytes);
    }

    void pong_in_place(Turn& turn) {
        Checker checker = messages_.checker(traits().name, turn.slice);
        for (std::uint64_t i = 0; i < turn.count; i++) {
            std::size_t bytes = 0;
            const void* data = self().receive(bytes);
            checker.take(data, bytes);
            send_in_place(turn.slice.message_bytes, i);
        }
        self().settle();
    }
};

}  // namespace ipcbus::bench
