// SPDX-License-Identifier: Apache-2.0
//
// RingPublisher: all that a publish does in memory: room, record, wake-ups, membership, waiting for
// slow readers. Owned by a publication (publisher.hpp), used by one thread at a time. Needs no
// daemon: what must be told to it or heard from it goes through Control.
//
// A PUBLISH: room ([W0] to [W5]), record ([W6] to [W10]), then
//   [P1] full fence, unless unfenced; round if somebody sleeps or a round is due ([P2] to [P8]);
//   [M1] look at attention, acquire: another number than the one taken in: take it in, waiting for
//        the frame if need be, and begin again at the round, which is then due. A publish returns
//        only when none is due: so no reader that was there is left asleep, and none that has
//        joined is left unknown.
// Many records may share one [P1]: but before the writer waits for anything, it is due.
//
// WITHOUT A FENCE. [P1] costs more than the rest of a publish (6.2 ns against 1.8 alone, 10 against
// 5 with a reader that keeps up, on a Zen 5), and is there for those who sleep. So a writer in
// whose last kQuietPublishes publishes nobody slept leaves it out, and whoever goes to sleep has
// the kernel fence the writer instead (membarrier; 0.3 us, 11 if the writer runs):
//   [F1] unfenced = 1   [F2] full fence   [F3] somebody sleeps already: not now, unfenced = 0 (this
//        only saves that one its barrier)
//   reader: [S4] sleepers = 1   [S5] full fence   [F4] unfenced: barrier everywhere   [S6] look
//   [F5] a publish that finds sleepers set: unfenced = 0, full fence, round; fenced from then on.
// Either the next look at sleepers sees [S4], or [F4] sees [F1]. Then each record is stored before
// the writer's part of the barrier, and [S6] sees it; or after, and so is its load of sleepers,
// which sees [S4].
// Attention may be seen one publish late: settle_start's margin covers what that publish may write,
// for a raise has a fence of its own, and the reader that joins looks before it sleeps.
//
// WHEN THE RING IS FULL the writer looks again for as long as that has paid (spin_budget.hpp), with
// nothing stored that a reader would have to act upon; then it waits:
//   [B1] v = own bell, acquire   [B2] wanted = the cursor needed; asleep = odd   [B3] full fence
//   [B4] look at attention and at the socket: take in what changed; recompute [W1] [W2]
//   [B5] still full: FUTEX_WAIT(v), a slice   [B6] wanted = 0 and asleep = even when it goes on.
//   [B7] a slice (a sixteenth of the stall timeout) has passed: hurry = 1, and sixteen slices are
//        counted from here. Who is in the way and does not move in any of them is demoted, and with
//        it what else of its client stands still further on: one after the other, each would hold
//        the writer. hurry = 0 when there is room and nobody stands still: as long as a count is
//        kept, a move that would end it is to be seen, also one between two waits.
//   Where records are addressed (reader_table.hpp) the cursor needed in [B2] is the first at which
//   somebody in the way may be out of it; if after [B4] that is another one, [B1] again.
// A reader that frees room after [B4] has stored its cursor after our fence, so its load [C2] sees
// `wanted` and it rings; the bell has moved since [B1]. A reader's death, or an attachment, is seen
// by [B4] or rings, too: the daemon raises attention, sends, then rings who is asleep.
//
// WHAT WOULD BREAK IT: the bell read after [B4] (a ring in between is slept through); attention
// looked at before the bell is read (a reader that dies in between is waited for); `wanted` stored
// after the recompute (the reader that makes room in between finds nobody wanting).
// Checked: tests/model/full.pml (waiting), wake.pml (rounds, unfenced), join.pml.
#pragma once

#include "protocol/exchange.hpp"
#include "protocol/reader_table.hpp"
#include "protocol/ring_writer.hpp"
#include "protocol/spin_budget.hpp"
#include "sys/clock.hpp"
#include "sys/membarrier.hpp"

namespace ipcbus::protocol {

/// The way to the daemon, as a publish needs it.
class Control {
public:
    enum class Heard { nothing, something, hung_up };

    /// Brings the ReaderTable up to at least `number`, waiting for frames of the daemon if they are
    /// not here yet. A hang-up ends the wait.
    virtual Heard take_in(u64 number) = 0;
    /// Blocked: looks at frames that wait, without waiting for any.
    virtual Heard look() = 0;
    /// Tells the daemon; must not wait.
    virtual void complain(const ReaderTable::Fault& fault) = 0;
    /// Whether that attachment is read by the calling thread: to wait for it would be for ever.
    virtual bool is_own(u64 attachment) = 0;
    /// Of the records to that attachment, which no more holds the writer, those that stand from
    /// `from` to below `to` may be lost to it.
    virtual void overtaken(u64 /*attachment*/, u64 /*from*/, u64 /*to*/) {}

protected:
    ~Control() = default;
};

class RingPublisher {
public:
    enum class Status { ok, full, timed_out, interrupted, own_reader };

    struct Words {
        const MailboxPublication* mailbox = nullptr;  ///< attention, readers
        DoorbellPublication* publication = nullptr;   ///< sleepers
        std::atomic<u32>* bell = nullptr;             ///< of the own waiter
        std::atomic<u32>* asleep = nullptr;           ///< of the own waiter, in the cursor page
    };

    RingPublisher(const RingWriter& writer, const Words& words, i64 stall_timeout_ns,
                  Control& control)
        : writer_(writer), words_(words), stall_timeout_ns_(stall_timeout_ns), control_(control) {}

    [[nodiscard]] RingWriter& writer() { return writer_; }
    [[nodiscard]] const RingWriter& writer() const { return writer_; }
    [[nodiscard]] ReaderTable& readers() { return readers_; }
    [[nodiscard]] const Words& words() const { return words_; }

    /// Makes room for a record of `bytes` (at most the declared largest). timeout_ns: 0 does not
    /// wait (full), negative for ever. Records committed before are made known before it waits.
    Status reserve(u64 bytes, i64 timeout_ns) {
        return writer_.has_room(bytes) ? Status::ok : make_room(bytes, timeout_ns);
    }
    /// After `full`, for a writer that must not wait here: [B1], its bell, has been read before.
    /// Asks to be rung when there is room for a record of `bytes`. True: there is, by now.
    bool ask(u64 bytes);
    /// Whoever asked goes on: [B6].
    void stop_asking() {
        // relaxed: a reader that still sees it rings once in vain.
        writer_.header().wanted.store(0, std::memory_order_relaxed);
    }
    /// Membership has changed and has not been taken in. Who cannot wait for the frame ([M1])
    /// writes nothing more until it has come, and then calls finish().
    [[nodiscard]] bool behind() const {
        // [M1] acquire: pairs with [J1].
        return words_.mailbox->attention.load(std::memory_order_acquire) != taken_;
    }
    /// The next record, prepared in place after reserve(): visible from here on.
    void commit(u16 topic_bytes, u32 payload_bytes) {
        writer_.commit(topic_bytes, payload_bytes);
    }
    /// The same of one with a head (exchange.hpp), whose number is `to`: where records are
    /// addressed, it holds the writer until it has been read by whom it is to.
    void commit_headed(u64 to, u32 payload_bytes) {
        const u64 position = writer_.position();
        writer_.commit(kHeadBytes, payload_bytes);
        if (readers_.addressed()) {
            readers_.address(to, writer_.part_begin(position), writer_.position());
        }
    }
    /// Ends a publish, or many: [P1] to [M1]. True if somebody may have slept.
    bool finish() {
        const bool slept = unfenced_ ? wake_unfenced() : wake_fenced();
        // [M1] acquire: pairs with [J1].
        if (words_.mailbox->attention.load(std::memory_order_acquire) != taken_ ||
            readers_.round_due()) {
            finish_slow();
        }
        return slept;
    }
    /// Whether finish() would find nothing to do, as it mostly does for a writer without a fence.
    [[nodiscard]] bool finished() const {
        sys::barrier_by_others();  // pairs with [F4]
        // [M1] acquire: pairs with [J1].
        return unfenced_ && !readers_.called(*words_.publication) &&
               words_.mailbox->attention.load(std::memory_order_acquire) == taken_;
    }
    /// Rings every reader that sleeps, although there is no news in the ring.
    void call_readers() {
        readers_.set_round_due();
        (void)finish();
    }
    /// Closes the ring and wakes its readers. Nothing may be published afterwards.
    void close();

    /// The membership number up to which the table is up to date; set by whoever fills the table.
    void set_taken(u64 number) { taken_ = number; }
    [[nodiscard]] u64 taken() const { return taken_; }

private:
    /// A stall is this many slices without a move.
    static constexpr u32 kStallSlices = 16;
    /// A barrier by the reader costs what so many fences cost, at most.
    static constexpr u32 kQuietPublishes = 1024;

    bool wake_fenced() {
        full_fence();  // [P1] pairs with [S5], [J2]
        if (readers_.wake(*words_.publication)) {
            quiet_ = 0;
            return true;
        }
        return ++quiet_ >= kQuietPublishes && stop_fencing();
    }
    bool wake_unfenced() {
        sys::barrier_by_others();  // pairs with [F4]
        return readers_.called(*words_.publication) && fence_again();
    }

    Status make_room(u64 bytes, i64 timeout_ns);
    Status block(u64 bytes, const sys::Deadline& deadline);
    bool spin(u64 bytes, const sys::Deadline& deadline);
    bool raise(u64 bytes);
    void tell_overtaken();
    bool stop_fencing();
    bool fence_again();
    bool attention_changed() const;
    bool waits_for_itself(u64 bytes);
    void waited(u64 bytes, i64 ns);
    void want(u64 needed);
    void go_on();
    void want_cursor(u64 needed);
    void hurry(bool on);
    void not_full();
    void finish_slow();
    void tell_faults();

    RingWriter writer_;
    ReaderTable readers_;
    Words words_;
    u64 taken_ = 0;
    i64 stall_timeout_ns_;
    i64 waited_ns_ = 0;        ///< of the current slice
    i64 last_full_ns_ = 0;     ///< when a publish that does not wait last found the ring full
    SpinBudget budget_{0};
    u32 fruitless_wakes_ = 0;
    u32 asleep_episode_ = 0;
    u32 quiet_ = 0;  ///< publishes in a row in which nobody slept
    bool unfenced_ = false;
    bool hurries_ = false;  ///< [B7]
    u64 smallest_ = 0;                ///< [W1] when last looked
    u64 smallest_changes_ = ~u64{0};  ///< of the table, then
    Control& control_;
};

}  // namespace ipcbus::protocol
