// SPDX-License-Identifier: Apache-2.0
// For the fuzzer of RingReader: a ring between guards, and who writes it: an honest writer that can
// be stopped at every step of a publish, or a hostile one that writes any word. To be included by
// one file of a program. One thread.
#pragma once

#include "load_hook.hpp"

#include "protocol/ring_reader.hpp"
#include "protocol/ring_writer.hpp"
#include "ring_origin.hpp"
#include "sys/memfd.hpp"

#include <sys/mman.h>

#include <vector>

namespace ipcbus::fuzz {

using namespace ipcbus::protocol;

inline constexpr u64 kCapacity = kRingBytesMin;
inline constexpr u64 kGuardBytes = 65536;
inline constexpr unsigned kLoadsMax =
    40;  // a resync: announced, 16 marks, sequence, announced again

/// The ring, mirrored, between guards: read-only for the reader, and writable elsewhere.
class Memory {
public:
    static Memory& instance() {
        static Memory memory;
        return memory;
    }

    [[nodiscard]] WritableRing writable() const {
        return {reinterpret_cast<RingHeader*>(writer_), writer_ + kRingDataOffset, kCapacity};
    }
    [[nodiscard]] ReadableRing readable(u64 record_max) const {
        return {reinterpret_cast<const RingHeader*>(reader_), reader_ + kRingDataOffset, kCapacity,
                record_max};
    }
    /// As the daemon has it: once, with the guard behind it.
    [[nodiscard]] const std::byte* last_copy() const {
        return reader_ + kRingDataOffset + kCapacity;
    }
    [[nodiscard]] HostileMemory::Range range() const {
        return {reader_, kRingDataOffset + 2 * kCapacity};
    }
    void clear() { std::memset(writer_, 0, kRingDataOffset + kCapacity); }

private:
    Memory() {
        auto fd = sys::create_memfd("fuzz-ring", kBytes);
        FUZZ_CHECK(fd.ok());
        fd_ = std::move(fd).value();
        writer_ = map_between_guards(PROT_READ | PROT_WRITE);
        reader_ = map_between_guards(PROT_READ);
    }
    static constexpr u64 kBytes = kRingDataOffset + kCapacity;

    [[nodiscard]] std::byte* map_between_guards(int protection) const {
        void* reserved = ::mmap(nullptr, 2 * kGuardBytes + kBytes + kCapacity, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        FUZZ_CHECK(reserved != MAP_FAILED);
        std::byte* start = static_cast<std::byte*>(reserved) + kGuardBytes;
        constexpr int kFlags = MAP_SHARED | MAP_FIXED;
        FUZZ_CHECK(::mmap(start, kBytes, protection, kFlags, fd_.get(), 0) != MAP_FAILED);
        FUZZ_CHECK(::mmap(start + kBytes, kCapacity, protection, kFlags, fd_.get(),
                          kRingDataOffset) != MAP_FAILED);
        return start;
    }

    sys::UniqueFd fd_;
    std::byte* writer_ = nullptr;
    std::byte* reader_ = nullptr;
};

constexpr std::byte pattern(u64 sequence, u64 index) {
    return static_cast<std::byte>(1 + (sequence * 31 + index * 7) % 255);
}

/// The other side of a run: what it has written, in steps.
struct Other {
    bool honest = false;
    RingWriter writer;
    u64 first_sequence = 0;
    bool may_raise = true;
    unsigned phase = 0;
    u32 payload_bytes = 0;
    u16 topic_bytes = 0;
    struct Written {
        u64 position;
        u32 payload_bytes;
        u16 topic_bytes;
    };
    std::vector<Written> written;        ///< by sequence
    const RingReader* reader = nullptr;  ///< lies are told around it
};
inline Other other;

/// The next step of a publish: room, one half of the content, the other half, the record.
inline void honest_step(const HostileMemory::Change& change) {
    const u64 sequence = other.writer.sequence();
    if (other.phase == 0) {
        other.payload_bytes = change.value % (payload_bytes_max(kCapacity) + 1);
        other.topic_bytes = change.what % 4 == 0 ? change.what : 0;
        const u64 bytes = record_bytes(other.topic_bytes, other.payload_bytes);
        if (bytes > other.writer.record_bytes_limit()) {
            return;
        }
        if (!other.writer.has_room(bytes)) {
            if (!other.may_raise) {
                return;
            }
            FUZZ_CHECK(other.writer.raise(bytes, other.writer.position()));
        }
        FUZZ_CHECK(other.writer.has_room(bytes));
    } else if (other.phase < 3) {
        std::byte* payload = other.writer.payload(other.topic_bytes);
        for (u64 i = other.phase - 1; i < other.payload_bytes; i += 2) {
            payload[i] = pattern(sequence, i);
        }
        for (u64 i = other.phase - 1; i < other.topic_bytes; i += 2) {
            other.writer.topic()[i] = pattern(sequence, i);
        }
    } else {
        other.written.push_back({other.writer.position(), other.payload_bytes, other.topic_bytes});
        other.writer.commit(other.topic_bytes, other.payload_bytes);
    }
    other.phase = (other.phase + 1) % 4;
}

inline u64 lie(const HostileMemory::Change& change) {
    const u64 position = other.reader->position();
    const u64 value = change.value;
    switch (change.kind % 12) {
    case 0:
        return value % 5;
    case 1:
        return position + (value - 32768) * kRecordAlignment;
    case 2:
        return position + value;
    case 3:
        return record_word(static_cast<u32>(value % 1400), 0, 0);
    case 4:
        return record_word(static_cast<u32>(value), static_cast<u16>(change.what * 3), 0);
    case 5:
        return record_word(0, 0, kRecordClosed);
    case 6:
        return value << 48 | value;
    case 7:
        return other.reader->expected() + value % 64;
    case 8:
        return other.reader->expected() - value % 64;
    case 9:
        return u64{1} << (value % 64);
    case 10:
        return position + kCapacity + value % (2 * kCapacity);
    default:
        return 0 - value;
    }
}

inline void hostile_store(const HostileMemory::Change& change) {
    const WritableRing ring = Memory::instance().writable();
    const auto store = [&](u64 position, bool sequence) {
        auto* header = reinterpret_cast<RecordHeader*>(
            ring.data + (position & (kCapacity - 1) & ~(kRecordAlignment - 1)));
        (sequence ? header->sequence : header->word).store(lie(change));
    };
    const u64 position = other.reader->position();
    switch (change.what % 12) {
    case 0:
    case 1:
        ring.header->announced.store(lie(change));
        break;
    case 2:
        ring.header->newest.store(lie(change));
        break;
    case 3:
        ring.header->wanted.store(lie(change));
        break;
    case 4:
    case 5:
        ring.header->marks[change.what / 12 % kMarks].store(lie(change));
        break;
    case 6:
    case 7:
        store(position, false);
        break;
    case 8:
        store(position, true);
        break;
    case 9:
        store(position + u64{change.what} * 16, change.kind >= 128);
        break;
    case 10:
        store(change.value, true);
        break;
    default:
        store(ring.header->newest.load(), change.kind >= 128);
        break;
    }
}

inline HostileMemory::Change take_change(Input& input) {
    HostileMemory::Change change;
    change.delay = static_cast<std::uint8_t>(input.below(24));
    change.what = input.byte();
    change.value = input.u16();
    change.kind = other.honest ? std::uint8_t{0} : input.byte();
    change.make = other.honest ? honest_step : hostile_store;
    return change;
}

}  // namespace ipcbus::fuzz
