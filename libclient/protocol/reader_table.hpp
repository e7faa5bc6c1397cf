// SPDX-License-Identifier: Apache-2.0
//
// ReaderTable: the attachments of one publication as its writer knows them: whose cursors hold it
// back, and whom to wake. Used by the publisher's thread. What it reads in other processes' pages
// (cursors, parked, asleep) is hostile input: bounded, and believed only where it harms its owner.
//
// A ROUND, after a record is visible ([W8]); waiter.hpp has the reader's side and the argument:
//   [P1] full fence.   [P2] `sleepers` set, or a round due: exchange it for 0, acquire, before any
//        `parked` is loaded.
//   [P3] of each attachment: load parked. [P4] odd, and not the very value rung last: remember it.
//        One ring an episode, or every publish to a stopped sleeper would be a system call.
//   [P5] set its bit in the activity bitmap of the waiter that parked names
//   [P6] then the bit of that word in summary   [P7] full fence
//   [P8] that waiter's asleep is odd: bell + 1, FUTEX_WAKE.
// A round is due after an attachment was taken in: its `sleepers` may have been exchanged away
// before the writer knew whom to look for.
//
// THE SMALLEST CURSOR: [W1] acquire, of every reliable attachment; 0 counts as the start that came
// with the attachment. A cursor that goes back, or beyond the writer, is not counted any more and
// is reported once. One that stands still for the stall timeout while the writer waits for it is
// demoted: the writer's own decision, which needs nobody's consent, for a reader finds out by
// [R4] that it was overtaken.
// Checked: tests/model/wake.pml (rounds), full.pml (cursors, stall), join.pml.
#pragma once

#include "protocol/attachment.hpp"
#include "protocol/wire.hpp"

#include <vector>

namespace ipcbus::protocol {

/// Where the waiters of one peer are, in its pages.
struct PeerWaiters {
    const std::atomic<u32>* asleep = nullptr;  ///< of waiter 0
    DoorbellWaiter* doorbell = nullptr;        ///< of waiter 0
    u32 waiters_max = 0;
};

/// One attachment of a publication. Pointers into the peer's pages, which outlive the entry.
struct ReaderEntry {
    u64 attachment = 0;
    const CursorSlot* slot = nullptr;
    const PeerWaiters* waiters = nullptr;  ///< outlives the entry, too
    u32 bit = 0;
    u64 start = 0;  ///< its cursor, until the slot holds one
    bool reliable = false;
};

/// For who may not ring blindly: a write to a hole of another's doorbell page allocates memory.
class DoorbellGuard {
public:
    /// Whether that waiter's words have memory.
    virtual bool there(const PeerWaiters& peer, u32 waiter) = 0;

protected:
    ~DoorbellGuard() = default;
};

class ReaderTable {
public:
    /// An accusation for the daemon.
    struct Fault {
        u64 attachment = 0;
        Complaint complaint{};
    };

    void set_guard(DoorbellGuard& guard) { guard_ = &guard; }
    /// Takes an attachment in; a second time with the same id is ignored. A round is due.
    void add(const ReaderEntry& entry);
    /// Whose it was; nullptr: there is none of that id.
    const PeerWaiters* remove(u64 attachment);
    [[nodiscard]] bool empty() const { return readers_.empty(); }
    [[nodiscard]] std::size_t size() const { return readers_.size(); }
    [[nodiscard]] bool contains(u64 attachment) const;
    /// Whether an attachment of that peer is left.
    [[nodiscard]] bool knows(const PeerWaiters& waiters) const;

    /// [W1] The smallest cursor of the reliable attachments; `position` if there is none.
    [[nodiscard]] u64 smallest_cursor(u64 position);
    /// Grows with each add() and remove(): the smallest cursor is another one.
    [[nodiscard]] u64 changes() const { return changes_; }
    /// Grows whenever smallest_cursor() finds that a cursor has moved.
    [[nodiscard]] u64 moves() const { return moves_; }
    /// The attachments whose cursor is below `needed`. `visit(u64 attachment)`.
    template <class Visit>
    void holders(u64 needed, Visit&& visit) const {
        for (const Reader& reader : readers_) {
            if (reader.reliable && distance(reader.cursor, needed) < 0) {
                visit(reader.attachment);
            }
        }
    }

    /// From now on each move of a reader is to be seen: slices are counted from here.
    void begin_slices();
    /// The writer, at `position`, has waited one more slice for `needed`. Whose cursor is below
    /// `needed` and has not moved for `slices_max` slices in a row is demoted, and with it those of
    /// the same client that stand still as long further on: each of them would hold the writer once
    /// more. Not those of the calling thread, `is_own(u64 attachment)`, which cannot move just now.
    template <class IsOwn>
    void stall(u64 needed, u64 position, u32 slices_max, IsOwn&& is_own) {
        count_slice(position);
        for (const Reader& reader : readers_) {
            if (reader.reliable && distance(reader.cursor, needed) < 0 &&
                reader.slices >= slices_max) {
                demote_client(*reader.waiters, needed, slices_max, is_own);
            }
        }
    }
    /// Whether nobody stands still: each of the reliable ones has moved since its last slice, or
    /// has nothing to read at `position`. Call smallest_cursor() first.
    bool all_move(u64 position);

    /// [P2] to [P8], if somebody sleeps or a round is due; true if so. Call after [P1].
    bool wake(DoorbellPublication& own) {
        if (!called(own)) {
            return false;
        }
        round(own);
        return true;
    }
    /// [P2] Whether somebody sleeps or a round is due.
    [[nodiscard]] bool called(const DoorbellPublication& own) const {
        // relaxed: ordered by the fence [P1], or by [F4] of the reader; the exchange in the round
        // is what acquires.
        return round_due_ || own.sleepers.load(std::memory_order_relaxed) != 0;
    }
    [[nodiscard]] bool round_due() const { return round_due_; }
    void set_round_due() { round_due_ = true; }

    /// What is to be told to the daemon; the caller clears it.
    [[nodiscard]] std::vector<Fault>& faults() { return faults_; }

private:
    /// A publication may have thousands: small.
    struct Reader {
        u64 attachment;
        const CursorSlot* slot;
        const PeerWaiters* waiters;
        u64 cursor;             ///< last one believed
        u64 rung = 0;           ///< parked, as it was when rung last
        u32 slices = 0;         ///< slices that it has stood still
        u16 bit;
        bool reliable;
        bool moved = false;     ///< since the last slice
    };

    [[nodiscard]] static bool has_more(const Reader& reader, u64 position) {
        return reader.reliable && distance(reader.cursor, position) < 0;
    }
    void count_slice(u64 position);
    template <class IsOwn>
    void demote_client(const PeerWaiters& client, u64 needed, u32 slices_max, IsOwn&& is_own) {
        for (Reader& reader : readers_) {
            if (!reader.reliable || reader.waiters != &client || reader.slices + 1 < slices_max) {
                continue;
            }
            const bool in_the_way = distance(reader.cursor, needed) < 0;
            if (in_the_way ? reader.slices >= slices_max : !is_own(reader.attachment)) {
                reader.reliable = false;
                faults_.push_back({reader.attachment, Complaint::stalled});
            }
        }
    }
    void round(DoorbellPublication& own);
    void ring(Reader& reader);

    std::vector<Reader> readers_;
    std::vector<Fault> faults_;
    DoorbellGuard* guard_ = nullptr;  ///< asked before each ring, if there is one
    u64 moves_ = 0;
    u64 changes_ = 0;
    bool round_due_ = false;
};

}  // namespace ipcbus::protocol
