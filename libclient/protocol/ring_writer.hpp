// SPDX-License-Identifier: Apache-2.0
//
// RingWriter: the publisher's side of one ring. Owned by one publication and used by one thread at
// a time; the only writer of that ring's memory. Works over any mirrored span: no daemon needed.
//
// THE WORDS                written by            order
//   record word            writer                release [W8], after everything of the record
//   record sequence        writer                relaxed, before the word (stood in the terminator)
//   announced              writer, slow path     release [W3], then a full fence [W4]
//   newest, marks          writer                release [W9] [W10], after the word
//   wanted                 writer, when blocked  release, then a full fence (ring_publisher.hpp)
//   unfenced, hurry        writer                [F1] [F5], [B7] (ring_publisher.hpp)
//   cursors                each its reader       loaded with acquire [W1] before the room is used
//
// PUBLISHING record N at position p, of r bytes (header, topic, payload):
//   [W0] p + r + 16 <= announced, the writer's own copy: fast path, go to [W6].
//   [W1] smallest reliable cursor c, each loaded with acquire: what those readers have read may now
//        be overwritten. Pairs with [R6] in attachment.hpp.
//   [W2] a = min(max(announced + capacity/16, p + r + 16), c + capacity); below p + r + 16: full.
//   [W3] store announced = a   [W4] full fence   [W5] look at attention: changed: take it in, so
//        that the next raise counts the new readers' cursors. The room just raised is the writer's
//        (join.hpp says why).
//   [W6] write the payload
//   [W7] write the header {0, N+1} where N+1 will stand: the terminator
//   [W8] store N's word, with release. A reader finds N by an acquire load of it: one line travels.
//   [W9] if p is the first boundary in its sixteenth: its mark = p   [W10] newest = p
//   then reader_table.hpp: full fence, sleepers, round, attention.
//   [W11] A gap, which a relay writes: [W6] to [W9] of a record whose payload is the sequence that
//        comes next; the terminator has that one, and the gap the one that is missing first. Not
//        [W10]: there is nothing to go to. (Not in the model: it is a record there.)
//
// WHAT WOULD BREAK IT. Without room for the terminator in [W0] and [W2] it would land on the
// slowest reader's own header, which then reads 0 = empty and sleeps while the writer is full:
//     W  fills up to exactly c + capacity          R  consumed nothing, looks at c
//     W  terminator at c + capacity = offset of c  R  word is 0: empty; sleeps. Deadlock.
// Without the fence [W4] a weakly ordered machine lets payload stores be seen before `announced`:
// a lapped reader would copy new bytes and still find announced - capacity <= its position ([R4]).
// Positions and sequences are u64 and compared by signed difference: at 100 GB/s a wrap takes five
// years (claims that are committed unwritten get there sooner), and the tests start just below it.
// Checked: tests/model/ring.pml (and join.pml, full.pml). Change the model first.
#pragma once

#include "protocol/fence.hpp"

#include <span>

namespace ipcbus::protocol {

/// A mirrored ring as the publisher has it: data[i] and data[i + capacity] are the same byte.
struct WritableRing {
    RingHeader* header = nullptr;
    std::byte* data = nullptr;
    u64 capacity = 0;
};

class RingWriter {
public:
    /// Makes `ring`, zeroed memory, an empty ring whose first record will stand at position
    /// `origin` (a multiple of 16; capacity, but for tests of the wrap) with `first_sequence`.
    /// Called by the ring's maker before anybody else sees it.
    static void format(const WritableRing& ring, u64 origin, u64 first_sequence, u64 publication,
                       u64 record_bytes_max);

    RingWriter() = default;
    /// Takes over a formatted, empty ring. `record_bytes_max` as granted (multiple of 16).
    RingWriter(const WritableRing& ring, u64 origin, u64 first_sequence, u64 record_bytes_max);

    [[nodiscard]] u64 position() const { return position_; }
    [[nodiscard]] u64 sequence() const { return sequence_; }
    [[nodiscard]] u64 announced() const { return announced_; }
    [[nodiscard]] u64 capacity() const { return ring_.capacity; }
    [[nodiscard]] u64 record_bytes_limit() const { return record_bytes_max_; }
    [[nodiscard]] RingHeader& header() const { return *ring_.header; }

    /// [W0] Whether a record of `bytes` (record_bytes()) can be written without the slow path.
    [[nodiscard]] bool has_room(u64 bytes) const {
        return distance(announced_, position_ + bytes + kRecordHeaderBytes) >= 0;
    }
    /// [W2] The cursor that would give a record of `bytes` room.
    [[nodiscard]] u64 cursor_needed(u64 bytes) const {
        return position_ + bytes + kRecordHeaderBytes - ring_.capacity;
    }
    /// Where the sixteenth begins in which `position` lies. As long as nothing at or above that has
    /// been announced away, its mark stands, and who was overtaken goes no further than there.
    [[nodiscard]] u64 part_begin(u64 position) const { return position - position % part_bytes_; }
    [[nodiscard]] u64 part_bytes() const { return part_bytes_; }
    /// [W2] How far a raise for a record of `bytes` would like to go.
    [[nodiscard]] u64 raise_target(u64 bytes) const {
        const u64 stride = announced_ + ring_.capacity / kStridePart;
        const u64 end = position_ + bytes + kRecordHeaderBytes;
        return distance(stride, end) > 0 ? stride : end;
    }
    /// [W2] to [W4]. `smallest` is the smallest reliable cursor, or position() if there is none.
    /// False: full, nothing has changed. After true, look at attention [W5].
    [[nodiscard]] bool raise(u64 bytes, u64 smallest);

    /// [W6] Where the payload of the next record goes. Needs has_room().
    [[nodiscard]] std::byte* payload(u64 topic_bytes) const {
        return at(position_) + kRecordHeaderBytes + align_record(topic_bytes);
    }
    /// Where its topic goes. Needs has_room().
    [[nodiscard]] std::byte* topic() const { return at(position_) + kRecordHeaderBytes; }

    /// [W7] to [W10]: the next record is there, its payload and topic have been written.
    void commit(u16 topic_bytes, u32 payload_bytes) {
        // Members once into locals: the compiler must take each store into the ring for one that
        // may change them, and would load them again after it.
        const WritableRing ring = ring_;
        const u64 position = position_;
        const u64 sequence = sequence_ + 1;
        const u64 next_part = next_part_;
        const u64 next = position + record_bytes(topic_bytes, payload_bytes);
        sequence_ = sequence;
        position_ = next;
        const auto at = [&ring](u64 place) { return ring.data + (place & (ring.capacity - 1)); };
        auto& record = *reinterpret_cast<RecordHeader*>(at(position));
        auto& terminator = *reinterpret_cast<RecordHeader*>(at(next));
        // [W7] relaxed: [W8] orders both before the record can be seen.
        terminator.word.store(0, std::memory_order_relaxed);
        terminator.sequence.store(sequence, std::memory_order_relaxed);
        // [W8] release: payload, topic, terminator. Pairs with [R1] in RingReader::look.
        record.word.store(record_word(payload_bytes, topic_bytes, 0), std::memory_order_release);
        if (distance(position, next_part) >= 0) [[unlikely]] {
            mark(position);
        }
        // [W10] release: the newest record is there. Pairs with [R8] and [J3].
        ring.header->newest.store(position, std::memory_order_release);
        // The lines of a record some way ahead: a reader that trails has them, and each store would
        // wait for one. With the reader across a slow link this gives 1.6 times the messages, with
        // a near one 1.05, and costs an instruction or two.
        prefetch_for_write(at(next + kPrefetchBytes));
        prefetch_for_write(at(next + kPrefetchBytes + kCacheLine));
    }

    /// A relay's way to say that what has the sequences from here up to `next` will not come. Needs
    /// room for kGapBytes, and next > sequence(). Not in `newest`: there is nothing to go to.
    void skip_to(u64 next);

    /// Ends the ring: readers that come here know that nothing follows. The terminator's place is
    /// always free, so this needs no room. No record may be written afterwards.
    void close() {
        // [W8] release: as for a record. Pairs with [R1].
        header_at(position_).word.store(record_word(0, 0, kRecordClosed),
                                        std::memory_order_release);
    }

private:
    static constexpr u64 kPrefetchBytes = 512;

    [[gnu::noinline]] void mark(u64 position) {
        const u64 part = position / part_bytes_;
        next_part_ = (part + 1) * part_bytes_;
        // [W9] release: a mark names a record that is there. Pairs with [R7].
        ring_.header->marks[part % kMarks].store(position, std::memory_order_release);
    }
    [[nodiscard]] std::byte* at(u64 position) const {
        return ring_.data + (position & (ring_.capacity - 1));
    }
    [[nodiscard]] RecordHeader& header_at(u64 position) const {
        return *reinterpret_cast<RecordHeader*>(at(position));
    }

    WritableRing ring_;
    u64 position_ = 0;
    u64 sequence_ = 0;
    u64 announced_ = 0;  ///< own copy of the word: this is its only writer
    u64 part_bytes_ = 1;
    u64 next_part_ = 0;  ///< where the next sixteenth begins
    u64 record_bytes_max_ = 0;
};

}  // namespace ipcbus::protocol
