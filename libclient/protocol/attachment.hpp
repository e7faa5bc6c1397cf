// SPDX-License-Identifier: Apache-2.0
//
// Attachment: one subscription reading one publication, as the reader has it: its way through the
// ring, its slot in the own cursor page (cursor, parked), and the writer's words that it may touch
// (`sleepers`, and the bell of a blocked writer). Used by the thread of its waiter (waiter.hpp).
//
// THE CURSOR tells the writer up to where it may overwrite. It is stored every capacity/8, whenever
// a receive finds the ring empty, and before any sleep: then a reader that has read everything can
// never hold its writer, since largest record + batch + 16 <= capacity.
//   [R6] store cursor, release: everything read before. Pairs with [W1].
//   [C1] full fence.   [C2] load `wanted`: if previous cursor < wanted <= this one, ring the
//        writer: its bell + 1, FUTEX_WAKE. Pairs with [B2] to [B4] in ring_publisher.hpp.
//   [C3] With each move: the writer has set `hurry`: [R6] now. Else one that reads a message a
//        second would fill a batch in half an hour, and be demoted meanwhile as one that stands
//        still. Pairs with [B7]; it may be seen a move late.
// Without the fence: R stores its cursor (still in its store buffer) and finds wanted = 0; W stores
// wanted and finds the old cursor; W sleeps although there is room, and nobody rings.
// Checked: tests/model/full.pml (cursor, wanted), wake.pml (parked, sleepers).
#pragma once

#include "protocol/ring_reader.hpp"
#include "sys/futex.hpp"

namespace ipcbus::protocol {

class Source;

/// Adds one to a bell and wakes whoever sleeps on it. Everybody: a hostile process may be waiting
/// on the same word, and would take the wake-up that one sleeper needs.
inline void ring_bell(std::atomic<u32>& bell) {
    // release: what the sleeper is to find. Pairs with [S1] and [B1], which load it first.
    bell.fetch_add(1, std::memory_order_release);
    sys::futex_wake_all(bell);
}

/// The words of one publication's writer that its readers may touch.
struct WriterWords {
    DoorbellPublication* publication = nullptr;  ///< sleepers
    std::atomic<u32>* bell = nullptr;            ///< of the waiter that the writer blocks on
};

/// There may be 10,000 of them in a process, and little else grows with their number: small.
class Attachment {
public:
    /// Where the attachment's words are. All of it outlives the attachment.
    struct Words {
        CursorSlot* slot = nullptr;  ///< own
        const WriterWords* writer = nullptr;
        u32 bit = 0;  ///< slot number modulo kActivityBits
    };

    /// `source` is the one that it will be attached to (waiter.hpp).
    Attachment(const ReadableRing& ring, u64 start, u64 start_sequence, const Words& words,
               Source* source = nullptr)
        : reader_(ring, start, start_sequence),
          slot_(words.slot),
          writer_(words.writer),
          source_(source),
          stored_(static_cast<u32>(start)),
          bit_(static_cast<u16>(words.bit)) {}

    [[nodiscard]] RingReader& reader() { return reader_; }
    [[nodiscard]] const RingReader& reader() const { return reader_; }
    [[nodiscard]] u32 bit() const { return bit_; }
    [[nodiscard]] bool parked() const { return parked_; }
    [[nodiscard]] Source* source() const { return source_; }
    [[nodiscard]] const WriterWords& writer() const { return *writer_; }

    /// Never parked again: its writer is gone, or rings pages that its reader does not sleep on any
    /// more (the bus was restarted). Must not be parked now.
    void set_polled() { polled_ = true; }
    [[nodiscard]] bool polled() const { return polled_; }

    /// The reader has moved: stores the cursor if a batch is full, or the writer is in a hurry.
    void moved() {
        if (static_cast<u32>(reader_.position()) - stored_ >=
                reader_.ring().capacity / kCursorPart ||
            reader_.writer_hurries()) [[unlikely]] {
            store_cursor();
        }
    }
    /// The ring was found empty, or the reader is about to sleep: stores the cursor if it moved.
    void store_cursor() {
        if (const u64 position = reader_.position(); static_cast<u32>(position) != stored_) {
            store_cursor(position);
        }
    }

    /// [S2] A new odd episode, with the waiter to wake. The caller goes on as waiter.hpp says.
    void set_parked(u32 waiter) {
        parked_ = true;
        // relaxed: `sleepers` is stored after it with release [S4].
        slot_->parked.store(parked_word(next_episode(1), waiter), std::memory_order_relaxed);
    }
    /// [S4] Tells the writer that somebody may want to be rung.
    void set_sleepers() {
        // release: `parked` [S2] and `asleep` [S3]. Pairs with [P2] in reader_table.hpp. A
        // read-modify-write, so that it goes on with what other readers have released there.
        writer_->publication->sleepers.fetch_or(1, std::memory_order_release);
    }
    /// Polled from now on: an even episode.
    void unpark() {
        if (parked()) {
            parked_ = false;
            // release: no order needed for the wake-up; a writer that sees it late rings in vain.
            slot_->parked.store(parked_word(next_episode(0), 0), std::memory_order_release);
        }
    }

    /// For whoever looks at the page. relaxed: counters that only this thread writes.
    void count_received(u64 messages) { count(slot_->received, messages); }
    void count_lost(u64 messages) { count(slot_->lost, messages); }

    /// Zeroes the slot: before the daemon is told that it is free.
    void clear_slot() {
        // relaxed: the frame that tells the daemon is sent by a system call after it.
        slot_->parked.store(0, std::memory_order_relaxed);
        slot_->lost.store(0, std::memory_order_relaxed);
        slot_->received.store(0, std::memory_order_relaxed);
        slot_->cursor.store(0, std::memory_order_relaxed);
    }

private:
    friend class Waiter;
    friend class Source;

    void store_cursor(u64 position) {
        // A cursor of 0 would mean "not begun": at the wrap, one unit less is as good.
        const u64 cursor = position == 0 ? position - kRecordAlignment : position;
        // relaxed: only this thread stores it. 0: none yet, nothing is known of what was before.
        const u64 before = slot_->cursor.load(std::memory_order_relaxed);
        // [R6] release: all reads below it are done. Pairs with [W1].
        slot_->cursor.store(cursor, std::memory_order_release);
        full_fence();  // [C1]
        // [C2] relaxed: the fence orders it; the value is compared and nothing else.
        const u64 wanted_untrusted =
            reader_.ring().header->wanted.load(std::memory_order_relaxed);
        if (wanted_untrusted != 0 && distance(cursor, wanted_untrusted) >= 0 &&
            (before == 0 || distance(wanted_untrusted, before) > 0)) {
            ring_bell(*writer_->bell);
        }
        stored_ = static_cast<u32>(cursor);
    }
    /// The next odd or even episode. relaxed: the word is stored by this thread alone.
    [[nodiscard]] u64 next_episode(u64 odd) const {
        const u64 episode = slot_->parked.load(std::memory_order_relaxed) >> kParkedWaiterBits;
        return episode + ((episode & 1) == odd ? 2 : 1);
    }
    static void count(std::atomic<u64>& word, u64 by) {
        word.store(word.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
    }

    RingReader reader_;
    CursorSlot* slot_;
    const WriterWords* writer_;

    // Kept by Source and Waiter.
    Source* source_;
    Attachment* next_ = nullptr;  ///< in the waiter's bucket
    u32 place_ = 0;               ///< in its source

    /// Lower half of the cursor stored last, which tells how far the reader has moved since: less
    /// than 2^32 while its cursor holds the writer back. After a longer jump over what it lost or
    /// did not want, a store may come a batch later; its writer does not wait for it then.
    u32 stored_;
    u16 bit_;
    u16 fruitless_looks_ = 0;
    bool parked_ = false;
    bool polled_ = false;
};

}  // namespace ipcbus::protocol
