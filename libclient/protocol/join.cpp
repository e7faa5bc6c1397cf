// SPDX-License-Identifier: Apache-2.0
// The daemon's side of joining. The argument is in join.hpp.
#include "protocol/join.hpp"

namespace ipcbus::protocol {

namespace {

/// [J4] A mark at or above `lowest` to begin at for the sake of history; where there is none,
/// `start`, the end of the newest record, stays. A mark that cannot be true is none.
void go_back(const RingHeader& ring, const std::byte* data, u64 capacity, u64 lowest,
             const Start& first, u64 history, Start& start) {
    const bool all = history >= start.sequence - first.sequence;
    const u64 wanted = all ? first.sequence : start.sequence - history;
    Start before;  // the last mark that is not behind what is wanted
    Start behind;  // else the first
    for (const auto& mark : ring.marks) {
        // [J4] acquire: the record that it names is there. Pairs with [W9].
        const u64 position = mark.load(std::memory_order_acquire);
        if (position == 0 || position % kRecordAlignment != 0 || distance(position, lowest) < 0 ||
            distance(start.position, position) <= 0) {
            continue;
        }
        const auto* header =
            reinterpret_cast<const RecordHeader*>(data + (position & (capacity - 1)));
        // relaxed: it was there before the mark was.
        const u64 sequence = header->sequence.load(std::memory_order_relaxed);
        if (distance(sequence, first.sequence) < 0 ||
            start.sequence - sequence - 1 >= (start.position - position) / kRecordHeaderBytes) {
            continue;
        }
        if (distance(wanted, sequence) < 0) {
            if (behind.position == 0 || distance(behind.position, position) > 0) {
                behind = {position, sequence};
            }
        } else if (before.position == 0 || distance(position, before.position) > 0) {
            before = {position, wanted};
        }
    }
    if (before.position != 0) {
        start = before;
    } else if (behind.position != 0) {
        start = behind;
    }
}

}  // namespace

bool settle_start(const RingHeader& ring, const std::byte* data, u64 capacity,
                  u64 record_bytes_max, const Start& first, u64 history, Start& ret_start) {
    // [J3] acquire: `newest` is loaded after it. Pairs with [W3] through the two full fences.
    const u64 announced = ring.announced.load(std::memory_order_acquire);
    // [J3] acquire: what stands at `newest` is loaded after it. Pairs with [W10].
    const u64 newest = ring.newest.load(std::memory_order_acquire);
    u64 position = first.position;
    if (newest % kRecordAlignment != 0) {
        return false;
    }
    const auto* header = reinterpret_cast<const RecordHeader*>(data + (newest & (capacity - 1)));
    // acquire: not needed for order here; the word was stored before `newest`, [W8].
    const u64 word = header->word.load(std::memory_order_acquire);
    // 0 is "none yet" as long as it lies behind the ring, which begins at its capacity; when it is
    // within the ring, once in 2^64 bytes, it is a position as any other. What stands there cannot
    // tell: it may be part of a payload.
    const bool within =
        distance(announced, newest) >= 0 && distance(newest, announced - capacity) >= 0;
    if (newest != 0 || within) {
        if (!within || (word_flags(word) & kRecordPresent) == 0) {
            return false;
        }
        const u64 bytes = record_bytes(word_topic_bytes(word), word_payload_bytes(word));
        if (bytes > record_bytes_max) {
            return false;
        }
        position = newest + bytes;
    }
    // [J4] A terminator, or by now a record: both tell the same sequence.
    const auto* end = reinterpret_cast<const RecordHeader*>(data + (position & (capacity - 1)));
    const u64 sequence = end->sequence.load(std::memory_order_acquire);
    const u64 lowest = announced - capacity + raise_max(capacity, record_bytes_max);
    // Every record takes at least 16 bytes: a sequence further on than that is a lie.
    // Unsigned: a publisher that claims much and writes little gets beyond 2^63 bytes in hours.
    const u64 records = sequence - first.sequence;
    if (distance(position, lowest) < 0 ||
        records > (position - first.position) / kRecordHeaderBytes) {
        return false;
    }
    ret_start = Start{position, sequence};
    if (history != 0) {
        go_back(ring, data, capacity, lowest, first, history, ret_start);
    }
    return true;
}

}  // namespace ipcbus::protocol
