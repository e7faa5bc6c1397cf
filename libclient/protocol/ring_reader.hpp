// SPDX-License-Identifier: Apache-2.0
//
// RingReader: one reader's way through one ring, over a read-only mapping of memory that another
// process writes: nothing in it is believed before it is bounded, and no value in it makes the
// reader leave the mapping, loop for ever or wait for ever. Owned by one attachment, used by one
// thread at a time. Works over any mirrored span: no daemon needed.
//
// ONE READ PATH for reliable, lossy and latest readers; a reliable reader differs only in that its
// cursor holds the writer back (attachment.hpp), until the writer decides otherwise:
//   [R1] load the word at the position, acquire. Pairs with [W8] in ring_writer.hpp.
//   [R2] zero: empty, but only if [R4] finds that the position was not overtaken. A reader lapped
//        in the middle of a zero-filled payload would otherwise sleep on it and never tell.
//   [R3] bound length and topic; read or copy payload, topic, sequence.
//   [R4] acquire fence; load announced: overtaken if announced - capacity > position. Once a batch
//        is enough, against its FIRST record: if that was overtaken the whole batch is thrown away,
//        for a torn length makes every later boundary unreliable. Pairs with [W3] [W4].
//   [R5] position += record.   [R6] cursors: attachment.hpp.
//
// A LAPPED READER cannot walk backwards: it goes to a mark.
//   [R7] load announced; of the marks (acquire) take the oldest that is not below announced -
//        capacity; load the sequence there; acquire fence; load announced again: still intact?
//   [R8] `latest` does the same with `newest`.
//   [R9] A reader that begins with history is told a mark, and the sequence that it wants: it loads
//        the one at the mark, and goes from record to record up to the wanted one, batches as in
//        [R4]. Overtaken before it is there, it does [R7]: the mark it was told is the last one
//        before the wanted record, so every later one is behind that.
// lost = the sequence there - the expected one: exact, and known at once. A record takes 16 bytes:
// more were not lost than fit between the two positions.
//
// A RING THAT A RELAY WRITES may have gaps: a word with the flag, told like a lap by look(), and by
// resync() as what it says. Nowhere else: there it is corrupt, and no loss is larger than what the
// ring could have held.
//
// WHAT WOULD BREAK IT. The check before the copy instead of after it:
//     R  announced - capacity <= position: fine          W  (stopped)
//     R  (stopped)                                       W  raises announced, overwrites the record
//     R  copies bytes of another record and accepts them
// Checked: tests/model/ring.pml. Change the model first.
#pragma once

#include "protocol/fence.hpp"
#include "sys/assert.hpp"

namespace ipcbus::protocol {

/// A mirrored ring as its readers have it: its header lies right before its data. capacity and
/// record_bytes_max come from the daemon, the latter with kRelayed or without.
struct ReadableRing {
    const RingHeader* header = nullptr;
    const std::byte* data = nullptr;
    u64 capacity = 0;
    u64 record_bytes_max = 0;
};

/// A record where it lies. Within the mapping, whatever its bytes say; true only if
/// RingReader::intact() said so after they were read.
struct Record {
    u64 position = 0;
    u64 next = 0;  ///< position behind it
    u64 sequence = 0;
    const std::byte* topic = nullptr;
    const std::byte* payload = nullptr;
    u32 payload_bytes = 0;
    u16 topic_bytes = 0;
};

class RingReader {
public:
    enum class Look {
        record,
        empty,
        closed,   ///< the writer has closed the ring here: nothing follows
        lapped,   ///< overtaken: resync()
        corrupt,  ///< not overtaken, and yet no record: the publisher breaks the protocol
    };
    enum class Resync {
        done,
        on_the_way,  ///< of pass_to_expected: there is more to pass over
        again,       ///< the writer was faster: try later
        corrupt,
    };

    RingReader() = default;
    RingReader(const ReadableRing& ring, u64 start, u64 start_sequence)
        : data_(ring.data),
          position_(start),
          expected_(start_sequence),
          capacity_(static_cast<u32>(ring.capacity)),
          record_bytes_max_(static_cast<u32>(ring.record_bytes_max)) {
        IPCBUS_ASSERT(ring.header == header() && ring.capacity <= kRingBytesMax &&
                      (ring.record_bytes_max & ~u64{kRelayed}) <=
                          protocol::record_bytes_max(ring.capacity));
    }

    [[nodiscard]] u64 position() const { return position_; }
    /// Of the records from position() up to the newest one: at least so many, unless it has been
    /// overtaken; never more than fit between them. A bound for loops.
    [[nodiscard]] u64 records_to_newest() const;
    /// The sequence that the record at position() must have.
    [[nodiscard]] u64 expected() const { return expected_; }
    [[nodiscard]] ReadableRing ring() const {
        return {header(), data_, capacity_, record_bytes_max_};
    }

    /// [R1] to [R3] at position(): what is there. A record that it tells must still pass intact().
    Look look(Record& ret_record) const {
        return look_at(position_, expected_, ret_record);
    }
    /// The same for the record behind `before`, in a batch.
    Look look_behind(const Record& before, Record& ret_record) const {
        return look_at(before.next, before.sequence + 1, ret_record);
    }
    /// The same by position and sequence.
    Look look_at(u64 position, u64 sequence, Record& ret_record) const;

    /// The same for a record and nothing else: false asks for a proper look.
    [[nodiscard]] bool record_at(u64 position, u64 sequence, Record& ret_record) const;

    /// [R4] Whether nothing at or above `position` had been overwritten up to now.
    [[nodiscard]] bool intact(u64 position) const {
        acquire_fence();
        // acquire: ThreadSanitizer's substitute for the fence; free on x86-64.
        const u64 announced = header()->announced.load(std::memory_order_acquire);
        return distance(announced - capacity_, position) <= 0;
    }

    /// Whether there may be a record at position(): a hint, for whoever looks properly soon anyway.
    [[nodiscard]] bool word_there() const {
        return header_at(position_).word.load(std::memory_order_relaxed) != 0;
    }
    /// Whether there is anything to see at position(), a loss included. For the look before sleep.
    [[nodiscard]] bool news() const {
        // acquire: [R1], the caller reads the record next.
        return header_at(position_).word.load(std::memory_order_acquire) != 0 ||
               !intact(position_);
    }

    /// [F4] Whether its writer leaves out the fence [P1]: waiter.hpp.
    [[nodiscard]] bool writer_unfenced() const {
        // acquire: a record written before this was cleared is seen by the look after it. Pairs
        // with [F5] in ring_publisher.cpp.
        return header()->unfenced.load(std::memory_order_acquire) != 0;
    }

    /// [C3] Whether its writer is blocked and wants to see each move: attachment.hpp.
    [[nodiscard]] bool writer_hurries() const {
        // relaxed: whoever misses it now sees it with the next move.
        return header()->hurry.load(std::memory_order_relaxed) != 0;
    }

    /// [R5] Goes behind `record`, which passed intact().
    void advance(const Record& record) {
        position_ = record.next;
        expected_ = record.sequence + 1;
    }
    /// Bytes of a record, believed to be those of the one before until it is known better: else
    /// each record's place would be known only after the word of the one before it had been
    /// loaded, and a reader's speed would be the latency of its cache.
    class Stride {
    public:
        /// `bytes`, by way of a branch that the processor predicts: what depends on it need not
        /// wait for it.
        [[nodiscard]] u64 predicted(u64 bytes) {
            u64 stride = bytes_;
            if (stride != bytes) [[unlikely]] {
                stride = bytes;
                __asm__ __volatile__("" : "+r"(stride));  // two values, not one
                bytes_ = stride;
            }
            return stride;
        }

    private:
        u64 bytes_ = 0;
    };

    /// [R5] The same for a batch of `records` from position() on.
    void advance_to(u64 next, u64 records) {
        position_ = next;
        expected_ += records;
    }

    /// [R7] After `lapped`: goes to the oldest record that is still whole and tells how many were
    /// lost. again: the writer was faster (try later). Bounded: one pass.
    Resync resync(u64& ret_lost);
    /// [R8] Goes to the newest record, if position() is behind it; tells how many were passed over.
    /// again: nothing there, or the writer was faster.
    Resync go_to_newest(u64& ret_passed);
    /// [R9] Of one that begins with history, before any look, until it is done: goes to the record
    /// expected(), which may be behind position(), or, overtaken, to the oldest that is still
    /// whole, and tells how many were lost. Passes over at most `records_max`. Until it is done,
    /// expected() is what is wanted, and position() a boundary that is not behind it.
    Resync pass_to_expected(u64 records_max, u64& ret_lost);

private:
    /// What a header says.
    struct Header {
        u64 word = 0;
        u64 sequence = 0;
    };
    bool read_at(u64 position, u64 sequence, Header& ret_header, Record& ret_record) const;
    [[nodiscard]] bool relayed() const { return (record_bytes_max_ & kRelayed) != 0; }
    bool pass_gap(u64& ret_lost);
    [[nodiscard]] Look odd_word(u64 position, u64 word, bool sequence_fits) const;
    Resync go_to(u64 position, u64& ret_skipped);
    [[nodiscard]] u64 oldest_mark() const;

    [[nodiscard]] const RingHeader* header() const {
        return reinterpret_cast<const RingHeader*>(data_ - kRingDataOffset);
    }
    [[nodiscard]] const std::byte* at(u64 position) const {
        return data_ + (position & (capacity_ - 1));
    }
    [[nodiscard]] const RecordHeader& header_at(u64 position) const {
        return *reinterpret_cast<const RecordHeader*>(at(position));
    }

    // What each look needs, in half a cache line: there is one for each of perhaps 10,000 rings.
    const std::byte* data_ = nullptr;
    u64 position_ = 0;
    u64 expected_ = 0;
    u32 capacity_ = 0;
    u32 record_bytes_max_ = 0;
};

/// Loads the header at `position` once. True: it is that of a record, with this sequence.
inline bool RingReader::read_at(u64 position, u64 sequence, Header& ret_header,
                                Record& ret_record) const {
    const RecordHeader& header = header_at(position);
    // [R1] acquire: everything of the record. Pairs with [W8].
    const u64 word = header.word.load(std::memory_order_acquire);
    // relaxed: ordered by the word when it is a record's; checked by intact() when not.
    const u64 found_sequence = header.sequence.load(std::memory_order_relaxed);
    ret_header = {word, found_sequence};
    const u16 topic_bytes = word_topic_bytes(word);
    const u32 payload_bytes = word_payload_bytes(word);
    const u64 bytes = record_bytes(topic_bytes, payload_bytes);
    if (found_sequence != sequence || word_flags(word) != kRecordPresent ||
        bytes > record_bytes_max_) {
        return false;
    }
    const std::byte* start = at(position) + kRecordHeaderBytes;
    ret_record = Record{position,
                        position + bytes,
                        sequence,
                        start,
                        start + align_record(topic_bytes),
                        payload_bytes,
                        topic_bytes};
    return true;
}

inline bool RingReader::record_at(u64 position, u64 sequence, Record& ret_record) const {
    Header unwanted;
    return read_at(position, sequence, unwanted, ret_record);
}

inline RingReader::Look RingReader::look_at(u64 position, u64 sequence, Record& ret_record) const {
    Header header;
    if (read_at(position, sequence, header, ret_record)) {
        return Look::record;
    }
    if (header.word == 0) {  // [R2] empty only if not overtaken
        return intact(position) ? Look::empty : Look::lapped;
    }
    return odd_word(position, header.word, header.sequence == sequence);
}

}  // namespace ipcbus::protocol
