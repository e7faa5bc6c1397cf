// SPDX-License-Identifier: Apache-2.0
// Limits of latency: a cache line that goes back and forth, without any content; and a futex woken
// back and forth, with both sides asleep in between. Nothing that moves messages between processes
// can be faster.
#include "bench/placement.hpp"
#include "bench/samples.hpp"
#include "peers/loops.hpp"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <new>

namespace ipcbus::bench {
namespace {

template <class Page>
Page* make_shared() {
    void* memory = ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return memory == MAP_FAILED ? nullptr : new (memory) Page();
}

class CacheLine : public Peer {
public:
    const Traits& traits() const override { return traits_; }
    std::string start(const Setup&) override {
        page_ = make_shared<measure::PingPongPage>();
        return page_ != nullptr ? "" : "no memory";
    }
    void open(Side) override { line_ = std::make_unique<measure::PingPong>(*page_); }
    void ping(Turn& turn) override {
        std::vector<double> blocks;
        for (std::uint64_t i = 0; i < calls(turn); i++) {
            const auto measured = line_->measure();
            blocks.push_back(measured ? measured.value() : 0);
        }
        turn.block_ns = measure::median(std::move(blocks));
        if (!line_->record(rest(turn), *turn.latency)) {
            fail(traits_.name, "the other side does not answer");
        }
    }
    void pong(Turn& turn) override {
        for (std::uint64_t i = 0; i < calls(turn); i++) {
            (void)line_->answer();
        }
        (void)line_->answer(rest(turn));
    }
    void write(Turn&) override {}
    void read(Turn&) override {}

private:
    /// Half of the round trips by measure(), which reads the clock seldom; the rest one by one.
    static std::uint64_t calls(const Turn& turn) {
        return turn.count / 2 / measure::PingPong::kRounds;
    }
    static std::uint32_t rest(const Turn& turn) {
        return static_cast<std::uint32_t>(turn.count - calls(turn) * measure::PingPong::kRounds);
    }

    Traits traits_{.name = "bare cache line",
                   .message_bytes_max = 64,
                   .stream = false,
                   .spins = true,
                   .sleeps = false,
                   .limit = true};
    measure::PingPongPage* page_ = nullptr;
    std::unique_ptr<measure::PingPong> line_;
};

/// Each side sleeps on a word of its own, which the other raises and wakes.
class Futex : public Peer {
public:
    const Traits& traits() const override { return traits_; }
    std::string start(const Setup&) override {
        page_ = make_shared<Page>();
        return page_ != nullptr ? "" : "no memory";
    }
    void open(Side side) override {
        mine_ = side == Side::a ? &page_->a : &page_->b;
        other_ = side == Side::a ? &page_->b : &page_->a;
    }
    void ping(Turn& turn) override {
        const auto& clock = measure::TickClock::get();
        const std::uint64_t pause = pause_ticks(turn);
        for (std::uint64_t i = 0; i < turn.count; i++) {
            spin_for(pause);
            const std::uint64_t began = clock.now();
            wake();
            sleep();
            turn.latency->record(clock.ns((clock.now() - began - pause) / 2));
        }
    }
    void pong(Turn& turn) override {
        for (std::uint64_t i = 0; i < turn.count; i++) {
            sleep();
            spin_for(pause_ticks(turn));
            wake();
        }
    }
    void write(Turn&) override {}
    void read(Turn&) override {}

private:
    struct Page {
        alignas(128) std::atomic<std::uint32_t> a{0};
        alignas(128) std::atomic<std::uint32_t> b{0};
    };

    void wake() {
        other_->fetch_add(1, std::memory_order_release);
        (void)::syscall(SYS_futex, other_, FUTEX_WAKE, 1, nullptr, nullptr, 0);
    }
    void sleep() {
        while (mine_->load(std::memory_order_acquire) == seen_) {
            (void)::syscall(SYS_futex, mine_, FUTEX_WAIT, seen_, nullptr, nullptr, 0);
        }
        seen_++;
    }

    Traits traits_{.name = "bare futex", .message_bytes_max = 64, .stream = false, .limit = true};
    Page* page_ = nullptr;
    std::atomic<std::uint32_t>* mine_ = nullptr;
    std::atomic<std::uint32_t>* other_ = nullptr;
    std::uint32_t seen_ = 0;
};

const Registered cache_line(10, [] { return std::make_unique<CacheLine>(); });
const Registered futex(11, [] { return std::make_unique<Futex>(); });

}  // namespace
}  // namespace ipcbus::bench
