// SPDX-License-Identifier: Apache-2.0
// What one writes by hand without futexes: slots in shared memory, and an eventfd to sleep on. The
// writer writes to the eventfd only if the reader has said that it is about to sleep, which costs
// both a full fence. A writer that finds no room yields until there is some.
#include "peers/loops.hpp"
#include "peers/ring_bytes.hpp"
#include "sys/unique_fd.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace ipcbus::bench {
namespace {

struct Ring {
    alignas(128) std::atomic<std::uint64_t> written{0};
    alignas(128) std::atomic<std::uint64_t> read{0};
    alignas(128) std::atomic<std::uint32_t> sleeps{0};
    alignas(4096) char data[kLargeRingBytes];
};

class EventfdRing : public PeerLoops<EventfdRing> {
public:
    const Traits& traits() const override { return traits_; }
    std::string start(const Setup&) override {
        for (int way = 0; way < 2; way++) {
            void* memory = ::mmap(nullptr, sizeof(Ring), PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
            bells_[way].reset(::eventfd(0, EFD_CLOEXEC));
            if (memory == MAP_FAILED || !bells_[way]) {
                return "no memory";
            }
            rings_[way] = new (memory) Ring();
        }
        return {};
    }
    void open(Side side) override {
        const std::size_t out = side == Side::a ? 0 : 1;
        out_ = rings_[out];
        in_ = rings_[1 - out];
        out_bell_ = bells_[out].get();
        in_bell_ = bells_[1 - out].get();
        std::uint64_t sum = 0;
        for (std::size_t at = 0; at < sizeof in_->data; at += 4096) {  // maps the pages here, too
            sum += static_cast<unsigned char>(in_->data[at]);
            sum += static_cast<unsigned char>(out_->data[at]);
        }
        mapped_ = sum;
    }
    void prepare(const Slice& slice) override {
        bytes_ = slice.message_bytes;
        slots_ = ring_bytes_for(bytes_) / bytes_;
        told_every_ = std::max<std::uint64_t>(slots_ / 8, 1);
        waiting_ = slice.waiting;
    }

    void send(const void* data, std::size_t bytes) {
        while (written_ - room_seen_ >= slots_) {
            room_seen_ = out_->read.load(std::memory_order_acquire);
            if (written_ - room_seen_ >= slots_) {
                ::sched_yield();
            }
        }
        std::memcpy(out_->data + (written_ & (slots_ - 1)) * bytes_, data, bytes);
        out_->written.store(++written_, std::memory_order_seq_cst);
        if (out_->sleeps.load(std::memory_order_seq_cst) != 0) {
            out_->sleeps.store(0, std::memory_order_relaxed);
            (void)::eventfd_write(out_bell_, 1);
        }
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) {
        if (read_ == seen_ || read_ - told_ >= told_every_) {
            settle();
            wait();
        }
        ret_bytes = bytes_;
        return in_->data + (read_++ & (slots_ - 1)) * bytes_;
    }
    void settle() {
        told_ = read_;
        in_->read.store(read_, std::memory_order_release);
    }

private:
    static constexpr int kLooksBeforeSleep = 20'000;  // some 20 us

    void wait() {
        for (int looks = waiting_ == Waiting::sleep ? kLooksBeforeSleep : 0;
             read_ == (seen_ = in_->written.load(std::memory_order_acquire)); looks++) {
            if (waiting_ != Waiting::spin && looks >= kLooksBeforeSleep) {
                in_->sleeps.store(1, std::memory_order_seq_cst);
                if (in_->written.load(std::memory_order_seq_cst) == read_) {
                    eventfd_t news = 0;
                    (void)::eventfd_read(in_bell_, &news);
                }
            }
        }
    }

    Traits traits_{.name = "eventfd + memory", .spins = true, .adapts = true};
    Ring* rings_[2] = {nullptr, nullptr};
    sys::UniqueFd bells_[2];
    Ring* out_ = nullptr;
    Ring* in_ = nullptr;
    int out_bell_ = -1;
    int in_bell_ = -1;
    Waiting waiting_ = Waiting::best;
    std::size_t bytes_ = 64;
    std::uint64_t slots_ = 1;
    std::uint64_t told_every_ = 1;
    std::uint64_t mapped_ = 0;
    alignas(128) std::uint64_t written_ = 0;
    std::uint64_t room_seen_ = 0;
    alignas(128) std::uint64_t read_ = 0;
    std::uint64_t seen_ = 0;
    std::uint64_t told_ = 0;
};

const Registered registered(103, [] { return std::make_unique<EventfdRing>(); });

}  // namespace
}  // namespace ipcbus::bench
