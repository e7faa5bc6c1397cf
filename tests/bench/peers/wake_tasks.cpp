// SPDX-License-Identifier: Apache-2.0
// wake-8: eight reader processes asleep on one CPU; how long from telling them until the last one
// has been told. By ipcbus: one publish. The limit: a futex word for each, woken one after the
// other (each belongs to another process), or one word for all of them.
#include "bench/clock.hpp"
#include "bench/histogram.hpp"
#include "peers/ipcbus_handles.hpp"
#include "peers/ipcbus_tasks.hpp"
#include "peers/loops.hpp"
#include "sys/clock.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>

namespace ipcbus::bench {
namespace {

constexpr std::uint64_t kPauseNs = 400'000;  // so long, and all of them sleep again

/// The frame of all kinds: tell() in the writer, listen() in each reader.
class Wake : public Task {
public:
    explicit Wake(std::string peer_name) : Task("wake-8", std::move(peer_name)) {
        readers = kReadersMax;
        ping_pong = true;  // each wake is timed
        slice_factor = 3;
        every = 2;
    }
    void write(Turn& turn) override {
        const std::uint64_t pause = measure::TickClock::get().ticks(kPauseNs);
        for (std::uint64_t i = 0; i < turn.count; i++) {
            spin_for(pause);
            const std::int64_t began_ns = sys::monotonic_ns();
            tell();
            told_ += kReadersMax;
            wait_until(page_->heard, told_);
            wait_until(page_->stamped, ++rounds_);
            turn.latency->record(static_cast<std::uint64_t>(page_->last_ns.load() - began_ns));
        }
    }
    void read(Turn& turn, int reader) override {
        for (std::uint64_t i = 0; i < turn.count; i++) {
            listen(reader);
            if ((page_->heard.fetch_add(1) + 1) % kReadersMax == 0) {
                page_->last_ns.store(sys::monotonic_ns());
                page_->stamped.fetch_add(1);
            }
        }
    }

protected:
    virtual void tell() = 0;
    virtual void listen(int reader) = 0;

private:
    struct Page {
        alignas(128) std::atomic<std::uint64_t> heard{0};
        std::atomic<std::uint64_t> stamped{0};
        std::atomic<std::int64_t> last_ns{0};
    };

    Shared<Page> page_;
    std::uint64_t told_ = 0;
    std::uint64_t rounds_ = 0;
};

class WakeByIpcbus : public Wake {
public:
    WakeByIpcbus() : Wake("ipcbus") {}
    void open(int reader) override {
        ipcbus_bus* bus = connect_bus(bus_address());
        if (reader >= 0) {
            subscriber_ = subscribe(bus, "wake", Waiting::sleep);
            return;
        }
        publisher_ = advertise(bus, "wake");
        check(ipcbus_wait_subscribers(publisher_, kReadersMax, IPCBUS_FOREVER), "wait");
    }

protected:
    void tell() override {
        message_.number(number_++);
        check(ipcbus_publish(publisher_, message_.data(), message_.bytes()), "publish");
    }
    void listen(int) override {
        std::array<std::uint64_t, 8> words;
        check(ipcbus_receive(subscriber_, words.data(), sizeof words, IPCBUS_FOREVER, nullptr),
              "receive");
        if (words.front() != number_++) {
            fail(workload, "a message is missing or wrong");
        }
    }

private:
    Message message_{64};
    std::uint64_t number_ = 0;
    ipcbus_publisher* publisher_ = nullptr;
    ipcbus_subscriber* subscriber_ = nullptr;
};

class WakeByFutex : public Wake {
public:
    explicit WakeByFutex(bool one_word)
        : Wake(one_word ? "bare futex, one word" : "bare futex"), one_word_(one_word) {}

protected:
    void tell() override {
        for (int i = 0; i < (one_word_ ? 1 : kReadersMax); i++) {
            auto& word = words_->of[static_cast<std::size_t>(i)].value;
            word.fetch_add(1, std::memory_order_release);
            (void)::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
        }
    }
    void listen(int reader) override {
        auto& word = words_->of[one_word_ ? 0 : static_cast<std::size_t>(reader)].value;
        while (word.load(std::memory_order_acquire) == seen_) {
            (void)::syscall(SYS_futex, &word, FUTEX_WAIT, seen_, nullptr, nullptr, 0);
        }
        seen_++;
    }

private:
    struct Words {
        struct alignas(128) Word {
            std::atomic<std::uint32_t> value{0};
        };
        std::array<Word, kReadersMax> of{};
    };

    bool one_word_;
    Shared<Words> words_;
    std::uint32_t seen_ = 0;
};

}  // namespace

void add_wake_tasks(Peer& peer, Tasks& tasks) {
    if (peer.traits().name == "ipcbus") {
        tasks.push_back(std::make_unique<WakeByIpcbus>());
    } else if (peer.traits().name == "bare futex") {
        tasks.push_back(std::make_unique<WakeByFutex>(false));
        tasks.push_back(std::make_unique<WakeByFutex>(true));
    }
}

}  // namespace ipcbus::bench
