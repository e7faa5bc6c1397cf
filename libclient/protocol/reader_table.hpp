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
//
// ADDRESSED RECORDS. Where each record is to one reader, or to all (requests: exchange.hpp), a
// reader holds the writer as long as it has not read all that is to it, and from the sixteenth of
// the ring on in which the first of those stands: it counts as [W1] its cursor or where that
// sixteenth begins, whichever is later, and not at all once its cursor is behind the last one. So
// who is busy does not hold up the others, and is overtaken without losing anything. All of it is
// the writer's own book, kept by its one thread; cursors are stored and read as ever. A move that
// ends below the hold is none: else who is far behind could creep towards it without end.
//   [H1] after [W8]: look at the cursor; owes nothing: the hold begins, and the next raise is to
//        look at all cursors, for it may be below the smallest one known.
// WHAT WOULD BREAK IT. The hold at the record itself, at P: who has been overtaken below it comes
// back through a mark [R7], and P's sixteenth has one, at the first record there:
//     W  raises announced to P + capacity: that mark is gone, P is not
//     R  is lapped; the oldest mark that is whole is behind P: it goes there, and has passed P over
// Nor is the mark's own position enough: with records across the boundary it lies behind the
// beginning of the sixteenth, and a record that begins between the two, one ring later, takes the
// mark away. From the beginning of the sixteenth on, no record can.
//
// WHO HAS BEEN DEMOTED holds nobody and loses records that are to it. The writer is told which:
//   [H2] before [W3]: the cursors of those that the raise may overtake. Not after it: who has been
//        overtaken by then has a cursor behind what it has passed over.
//   [H3] after [W4]: of what it had not read then, what stands in sixteenths that begin below
//        announced - capacity may be lost: overtaken(). It comes to all that is behind those.
// Checked: tests/model/wake.pml (rounds), full.pml (cursors, stall), addressed.pml, join.pml.
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

    /// From now on each record is said to address() somebody. Nobody is in the table yet.
    void set_addressed() { addressed_ = true; }
    [[nodiscard]] bool addressed() const { return addressed_; }
    /// [H1] The record that ends at `end`, the writer's position, is to that attachment; 0: to all.
    /// `part` is where the sixteenth begins in which it stands.
    void address(u64 attachment, u64 part, u64 end);
    /// [H2] What is below `floor` may be overwritten soon.
    void look_before(u64 floor, u64 position);
    /// [H3] What was below `floor` may be overwritten by now; `kept` is where the first sixteenth
    /// begins that is not below it. `visit(u64 attachment, u64 from, u64 to)`: of those who hold
    /// nobody, each that may have lost what is to it between these positions.
    template <class Visit>
    void overtaken(u64 floor, u64 kept, Visit&& visit) {
        for (Reader& reader : readers_) {
            if (!reader.reliable && is_behind(reader, floor)) {
                const u64 from = hold(reader);
                reader.owed_from = kept;
                reader.owed_to =
                    distance(reader.owed_to, kept) > 0 ? reader.owed_to : reader.cursor;
                visit(reader.attachment, from, kept);
            }
        }
    }
    /// The cursor to wait for if the writer needs `needed`: the first at which somebody in the way
    /// may be out of it. To be asked again after the fence [B3], for that one may be by then.
    [[nodiscard]] u64 wanted(u64 needed) const;

    /// [W1] The smallest cursor of the reliable attachments; `position` if there is none.
    [[nodiscard]] u64 smallest_cursor(u64 position);
    /// Grows with each add() and remove() and each hold that begins: the smallest cursor may be
    /// below the one that was found last.
    [[nodiscard]] u64 changes() const { return changes_; }
    /// Grows whenever smallest_cursor() finds that a cursor has moved, and not below its hold.
    [[nodiscard]] u64 moves() const { return moves_; }
    /// The attachments whose cursor is below `needed`. `visit(u64 attachment)`.
    template <class Visit>
    void holders(u64 needed, Visit&& visit) const {
        for (const Reader& reader : readers_) {
            if (in_the_way(reader, needed)) {
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
            if (in_the_way(reader, needed) && reader.slices >= slices_max) {
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
        u64 owed_from = 0;      ///< of records to it: the sixteenth of the first that it may not
        u64 owed_to = 0;        ///< have read, and where the last one ends
    };

    [[nodiscard]] bool owes(const Reader& reader) const {
        return addressed_ && distance(reader.cursor, reader.owed_to) < 0;
    }
    [[nodiscard]] bool is_behind(const Reader& reader, u64 floor) const {
        return owes(reader) && distance(hold(reader), floor) < 0;
    }
    /// Whether the writer waits for it at all,
    [[nodiscard]] bool counts(const Reader& reader) const {
        return reader.reliable && (!addressed_ || owes(reader));
    }
    /// and where.
    [[nodiscard]] u64 hold(const Reader& reader) const {
        return addressed_ && distance(reader.cursor, reader.owed_from) < 0 ? reader.owed_from
                                                                          : reader.cursor;
    }
    [[nodiscard]] bool in_the_way(const Reader& reader, u64 needed) const {
        return counts(reader) && distance(hold(reader), needed) < 0;
    }
    [[nodiscard]] bool has_more(const Reader& reader, u64 position) const {
        return counts(reader) && distance(reader.cursor, position) < 0;
    }
    void look(Reader& reader, u64 position);
    void move(Reader& reader, u64 cursor);
    void count_slice(u64 position);
    template <class IsOwn>
    void demote_client(const PeerWaiters& client, u64 needed, u32 slices_max, IsOwn&& is_own) {
        for (Reader& reader : readers_) {
            if (!reader.reliable || reader.waiters != &client || reader.slices + 1 < slices_max) {
                continue;
            }
            if (in_the_way(reader, needed) ? reader.slices >= slices_max
                                           : !is_own(reader.attachment)) {
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
    bool addressed_ = false;
};

}  // namespace ipcbus::protocol
