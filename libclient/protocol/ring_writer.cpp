// SPDX-License-Identifier: Apache-2.0
// The publisher's side of a ring: what is not on its hot path. The protocol is in ring_writer.hpp.
#include "protocol/ring_writer.hpp"

#include "sys/assert.hpp"

#include <bit>

namespace ipcbus::protocol {

void RingWriter::format(const WritableRing& ring, u64 origin, u64 first_sequence, u64 publication,
                        u64 record_bytes_max) {
    IPCBUS_ASSERT(std::has_single_bit(ring.capacity) && ring.capacity >= kRingBytesMin);
    IPCBUS_ASSERT(origin % kRecordAlignment == 0);
    RingHeader& header = *ring.header;
    header.magic = kRingMagic;
    header.incompatible_flags = 0;
    header.compatible_flags = 0;
    header.header_bytes = sizeof(RingHeader);
    header.layout_version = kLayoutVersion;
    header.ring_bytes = ring.capacity;
    header.data_offset = kRingDataOffset;
    header.publication = publication;
    header.record_alignment = kRecordAlignment;
    header.record_bytes_max = static_cast<u32>(record_bytes_max);
    // relaxed: nobody else has the ring yet; the kernel's fd passing orders it before they do.
    header.announced.store(origin + kRecordHeaderBytes, std::memory_order_relaxed);
    auto* first =
        reinterpret_cast<RecordHeader*>(ring.data + (origin & (ring.capacity - 1)));
    first->word.store(0, std::memory_order_relaxed);
    first->sequence.store(first_sequence, std::memory_order_relaxed);
}

RingWriter::RingWriter(const WritableRing& ring, u64 origin, u64 first_sequence,
                       u64 record_bytes_max)
    : ring_(ring),
      position_(origin),
      sequence_(first_sequence),
      announced_(origin + kRecordHeaderBytes),
      part_bytes_(ring.capacity / kMarks),
      next_part_(origin),
      record_bytes_max_(record_bytes_max) {
    IPCBUS_ASSERT(record_bytes_max_ <= ipcbus::protocol::record_bytes_max(ring.capacity));
}

bool RingWriter::raise(u64 bytes, u64 smallest) {
    if (has_room(bytes)) {
        return true;
    }
    const u64 limit = smallest + ring_.capacity;
    u64 raised = raise_target(bytes);
    if (distance(raised, limit) > 0) {
        raised = limit;
    }
    if (distance(raised, position_ + bytes + kRecordHeaderBytes) < 0) {
        return false;
    }
    announced_ = raised;
    // [W3] release: nothing before it matters to it, but it is what ThreadSanitizer understands.
    ring_.header->announced.store(raised, std::memory_order_release);
    // [W4] The bytes that follow are written after `announced` is visible, and attention [W5] is
    // loaded after it. Pairs with the fence between copy and check [R4] and with [J2].
    full_fence();
    return true;
}

/// [W11]
void RingWriter::skip_to(u64 next) {
    IPCBUS_ASSERT(distance(next, sequence_) > 0 && has_room(kGapBytes));
    const u64 behind = position_ + kGapBytes;
    RecordHeader& terminator = header_at(behind);
    // [W6] relaxed, and [W7]: [W8] orders them before the gap can be seen.
    reinterpret_cast<std::atomic<u64>*>(payload(0))->store(next, std::memory_order_relaxed);
    terminator.word.store(0, std::memory_order_relaxed);
    terminator.sequence.store(next, std::memory_order_relaxed);
    // [W8] release: as for a record. Pairs with [R1].
    header_at(position_).word.store(record_word(sizeof(u64), 0, kRecordGap),
                                    std::memory_order_release);
    if (distance(position_, next_part_) >= 0) {
        mark(position_);
    }
    position_ = behind;
    sequence_ = next;
}

}  // namespace ipcbus::protocol
