// SPDX-License-Identifier: Apache-2.0
// What can be told of a ring by looking at it. The argument is in ring_figures.hpp.
#include "protocol/ring_figures.hpp"

#include "protocol/fence.hpp"

namespace ipcbus::protocol {

namespace {

/// A writer that laps a look of some twenty loads has a tiny ring, or is not what it seems.
constexpr int kLooksMax = 4;

const RecordHeader& header_at(const std::byte* data, u64 capacity, u64 position) {
    return *reinterpret_cast<const RecordHeader*>(data + (position & (capacity - 1)));
}

/// [L3] Whether nothing at or above `position` had been overwritten up to now. `ret_announced`: by
/// what.
bool intact(const RingHeader& ring, u64 capacity, u64 position, u64& ret_announced) {
    acquire_fence();
    // [L3] acquire: ThreadSanitizer's substitute for the fence; free on x86-64.
    ret_announced = ring.announced.load(std::memory_order_acquire);
    return distance(ret_announced - capacity, position) <= 0;
}

}  // namespace

RingFigures look_at_ring(const RingHeader& ring, const std::byte* data, u64 capacity,
                         u64 record_bytes_max, const Start& first) {
    for (int looks = 0; looks < kLooksMax; looks++) {
        // [L1] acquire: the record that it names is there. Pairs with [W10].
        const u64 newest = ring.newest.load(std::memory_order_acquire);
        if (newest == 0) {
            return {first.position, first.sequence, true};
        }
        if (newest % kRecordAlignment != 0) {
            return {};
        }
        // [L2] acquire: the sequence behind the record was stored before its word, [W7] [W8].
        const u64 word = header_at(data, capacity, newest).word.load(std::memory_order_acquire);
        const u64 bytes = record_bytes(word_topic_bytes(word), word_payload_bytes(word));
        const u64 end = newest + bytes;
        // [L2] A terminator, or by now a record: both tell the same sequence. Wherever `bytes`
        // leads, it is an aligned place of the ring.
        const u64 sequence =
            header_at(data, capacity, end).sequence.load(std::memory_order_acquire);
        u64 announced = 0;
        if (!intact(ring, capacity, newest, announced)) {
            continue;
        }
        const bool good = (word_flags(word) & kRecordPresent) != 0 && bytes <= record_bytes_max &&
                          distance(announced, end) >= 0 &&
                          // Unsigned: a publisher that claims much and writes little gets beyond
                          // 2^63 bytes in hours.
                          sequence - first.sequence <= (end - first.position) / kRecordHeaderBytes;
        return good ? RingFigures{end, sequence, true} : RingFigures{};
    }
    return {};
}

Behind look_behind(const RingHeader* ring, const std::byte* data, u64 capacity,
                   const RingFigures& now, u64 start, u64 cursor) {
    Behind behind;
    if (cursor % kRecordAlignment != 0 || distance(cursor, start) < 0 ||
        distance(now.position, cursor) < 0) {
        return behind;
    }
    behind.believable = true;
    behind.bytes = now.position - cursor;
    if (behind.bytes == 0) {
        behind.counted = true;
        return behind;
    }
    if (ring == nullptr) {
        return behind;
    }
    // relaxed: stored long before the cursor came there; [L3] orders it before `announced`.
    const u64 sequence = header_at(data, capacity, cursor).sequence.load(std::memory_order_relaxed);
    u64 announced = 0;
    behind.overtaken = !intact(*ring, capacity, cursor, announced);
    // What a lying cursor points at is no record's header: more records than fit, or none.
    const u64 messages = now.sequence - sequence;
    behind.counted =
        !behind.overtaken && messages != 0 && messages <= behind.bytes / kRecordHeaderBytes;
    behind.messages = behind.counted ? messages : 0;
    return behind;
}

}  // namespace ipcbus::protocol
