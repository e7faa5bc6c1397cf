// SPDX-License-Identifier: Apache-2.0
// How compare_run's parent leads its readers: an order is posted to some of them, carried out, and
// reported done. A page of shared memory with a seat for each reader; who waits spins shortly, then
// sleeps. The parent, A, is one thread; so is each reader. Reader 0 is B; the others are only used
// where several readers are measured.
#pragma once

#include "bench/placement.hpp"

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>

namespace ipcbus::bench {

inline constexpr int kReadersMax = 8;

struct Order {
    enum class Kind : std::uint32_t {
        open_peer,  // of `index`
        open_task,
        prepare,  // task `index`
        turn,     // the same: `count` messages
        bracket,  // answer the ping-pong
        quit,
    };
    Kind kind = Kind::quit;
    std::uint32_t index = 0;
    std::uint64_t count = 0;
};

/// What a reader tells when it has done an order.
struct Report {
    std::int64_t ended_ns = 0;  // when, on the monotonic clock
    std::int64_t cpu_ns = 0;    // its CPU time during it
    std::uint64_t sleeps = 0;   // how often it slept
};

struct alignas(4096) Control {
    struct alignas(128) Seat {
        std::atomic<std::uint32_t> posted{0};  // counts orders
        alignas(128) std::atomic<std::uint32_t> done{0};
        Report report;
    };
    std::array<Seat, kReadersMax> seats;
    alignas(128) Order order;
    alignas(128) std::atomic<std::uint64_t> received{0};  // Turn::received
    measure::PingPongPage bracket;

    /// In memory that forked children share.
    static Control* make();
};

/// A's side.
class Leader {
public:
    explicit Leader(Control& control) : control_(control), bracket_(control.bracket) {}

    /// Forks reader `number`, which calls `follow` and ends. It dies with this process.
    void fork_reader(int number, const std::function<void(int)>& follow);

    /// To readers 0 .. readers-1.
    void post(int readers, const Order& order);
    /// Until all of them have done it. `spin`: at most for some microseconds.
    void await(int readers, bool spin);
    void run(int readers, const Order& order) {
        post(readers, order);
        await(readers, false);
    }
    [[nodiscard]] const Report& report(int reader) const;
    /// One-way time of the bare ping-pong between A and B, ns.
    [[nodiscard]] double bracket();
    /// Ends all readers and waits for them.
    void quit();

private:
    Control& control_;
    measure::PingPong bracket_;
    int readers_ = 0;
    std::array<pid_t, kReadersMax> pids_{};
};

/// CPU time and sleeps of the calling thread since begin().
class Usage {
public:
    Usage();
    [[nodiscard]] std::int64_t cpu_ns() const;
    [[nodiscard]] std::uint64_t sleeps() const;

private:
    std::int64_t cpu_ns_;
    std::uint64_t sleeps_;
};

/// A reader's life: carries out orders by `obey` until it is to quit.
void follow(Control& control, int reader, const std::function<void(const Order&)>& obey);

}  // namespace ipcbus::bench
