// SPDX-License-Identifier: Apache-2.0
// Limits of throughput: the barest loops over shared memory that still carry messages. Slots of one
// size; the writer copies a message into the next one and publishes how far it is, for every
// message or every 16; the reader reads them where they lie and tells how far it is every eighth of
// the ring. No lengths, no sleeping, no joining, one reader. For long messages the copying decides:
// with glibc's memcpy, with a loop of 32-byte loads and stores, and the same within one process.
#include "peers/loops.hpp"
#include "peers/ring_bytes.hpp"

#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <new>

namespace ipcbus::bench {
namespace {

struct Shared {
    alignas(128) std::atomic<std::uint64_t> written{0};
    alignas(128) std::atomic<std::uint64_t> read{0};
    alignas(4096) char data[kLargeRingBytes];
};

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

using Copy = void (*)(void*, const void*, std::size_t);

void copy_memcpy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }

#if defined(__x86_64__)
[[gnu::target("avx2")]] void copy_wide(void* to, const void* from, std::size_t bytes) {
    auto* target = static_cast<char*>(to);
    const auto* source = static_cast<const char*>(from);
    for (; bytes >= 128; target += 128, source += 128, bytes -= 128) {
        __m256i parts[4];
        for (int i = 0; i < 4; i++) {
            parts[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + 32 * i));
        }
        for (int i = 0; i < 4; i++) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + 32 * i), parts[i]);
        }
    }
    std::memcpy(target, source, bytes);
}
bool has_wide() { return __builtin_cpu_supports("avx2") != 0; }
#else
void copy_wide(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
bool has_wide() { return false; }
#endif

class BareRing : public PeerLoops<BareRing> {
public:
    struct Kind {
        const char* name;
        std::uint64_t publish_every;
        Copy copy;   // null: 64 bytes, copied by the loop itself
        bool alone;  // writer and reader are the same process
    };

    explicit BareRing(const Kind& kind) : kind_(kind) {
        traits_.name = kind.name;
        traits_.ping_pong = false;
        traits_.limit = true;
        traits_.batches = kind.publish_every > 1;
        traits_.message_bytes_min = kind.copy != nullptr ? 1024 : 64;
        traits_.message_bytes_max = kind.copy != nullptr ? std::size_t{1} << 20 : 64;
    }

    const Traits& traits() const override { return traits_; }
    std::string start(const Setup&) override {
        if (kind_.copy == copy_wide && !has_wide()) {
            return "this processor has no AVX2";
        }
        void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (memory == MAP_FAILED) {
            return "no memory";
        }
        shared_ = new (memory) Shared();
        return {};
    }
    void open(Side) override {
        for (std::size_t i = 0; i < sizeof shared_->data; i += 4096) {
            sum_ += static_cast<unsigned char>(shared_->data[i]);  // maps the page here, too
        }
    }
    void prepare(const Slice& slice) override {
        bytes_ = slice.message_bytes;
        slots_ = ring_bytes_for(bytes_) / bytes_;
        told_every_ = std::max<std::uint64_t>(slots_ / 8, 1);
    }

    void send(const void* data, std::size_t bytes) {
        if (written_ - room_seen_ >= slots_) [[unlikely]] {
            flush();
            while (written_ - (room_seen_ = shared_->read.load(std::memory_order_acquire)) >=
                   slots_) {
                relax();
            }
        }
        char* slot = shared_->data + (written_ & (slots_ - 1)) * bytes_;
        if (kind_.copy == nullptr) {
            std::memcpy(slot, data, 64);
        } else {
            kind_.copy(slot, data, bytes);
        }
        written_++;
        if (kind_.publish_every == 1 || written_ % kind_.publish_every == 0) {
            flush();
        }
    }
    void flush() { shared_->written.store(written_, std::memory_order_release); }
    const void* receive(std::size_t& ret_bytes) {
        if (read_ == seen_ || read_ - told_ >= told_every_) {
            settle();
            while (read_ == (seen_ = shared_->written.load(std::memory_order_acquire))) {
                relax();
            }
        }
        ret_bytes = bytes_;
        return shared_->data + (read_++ & (slots_ - 1)) * bytes_;
    }
    void settle() {
        told_ = read_;
        shared_->read.store(read_, std::memory_order_release);
    }

    void write(Turn& turn) override {
        if (!kind_.alone) {
            return PeerLoops::write(turn);
        }
        Message& message = messages_.of(turn.slice)[0];
        Checker checker = messages_.checker(kind_.name, turn.slice);
        turn.began_ns = sys::monotonic_ns();
        for (std::uint64_t i = 0; i < turn.count; i++) {
            message.number(i);
            send(message.data(), bytes_);
            flush();
            std::size_t bytes = 0;
            const void* data = receive(bytes);
            checker.take(data, bytes);
        }
        settle();
    }
    void read(Turn& turn) override {
        if (!kind_.alone) {
            PeerLoops::read(turn);
        }
    }

private:
    const Kind kind_;
    Traits traits_;
    Shared* shared_ = nullptr;
    std::size_t bytes_ = 64;
    std::uint64_t slots_ = 0;
    std::uint64_t told_every_ = 0;
    std::uint64_t sum_ = 0;
    alignas(128) std::uint64_t written_ = 0;
    std::uint64_t room_seen_ = 0;
    alignas(128) std::uint64_t read_ = 0;
    std::uint64_t seen_ = 0;
    std::uint64_t told_ = 0;
};

Registered bare_ring(int order, const BareRing::Kind& kind) {
    return {order, [kind] { return std::make_unique<BareRing>(kind); }};
}

const Registered every = bare_ring(20, {"bare loop, every", 1, nullptr, false});
const Registered every_16 = bare_ring(21, {"bare loop, every 16", 16, nullptr, false});
const Registered by_memcpy = bare_ring(22, {"copying, memcpy", 1, copy_memcpy, false});
const Registered by_wide = bare_ring(23, {"copying, wide", 1, copy_wide, false});
const Registered alone = bare_ring(24, {"copying, one process", 1, copy_wide, true});

}  // namespace
}  // namespace ipcbus::bench
