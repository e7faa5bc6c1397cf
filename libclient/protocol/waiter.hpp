// SPDX-License-Identifier: Apache-2.0
//
// SLEEPING, the reader's side. A Waiter is what one thread sleeps on: a number in the client's
// pages (bell, summary, activity bitmap, asleep word) and the Sources (one a subscription) whose
// attachments it waits for. An attachment is ACTIVE, polled by its reader, or PARKED, when its
// writer must say that there is news; to sleep is to park everything. So waiting for 10,000 rings
// costs what the active ones cost. The writer's side is reader_table.hpp.
//
// Used by one thread at a time. Owned by a subscription or a set. Needs no daemon: what else may
// end a sleep (frames, the socket) is asked through `elsewhere`.
//
// WORDS            written by                             order
//   bell           whoever rings: +1                      release; loaded first, [S1], acquire
//   summary,       writers: fetch_or, bit before summary  taken by exchange, summary before words,
//   activity         [P5] [P6]                            before the rings are looked at [A1] [A2]
//   parked         its reader alone                       relaxed [S2], published by [S4]
//   asleep         its reader alone                       relaxed [S3], published by [S4]
//   sleepers       readers: 1 [S4], release               its writer: exchange for 0 [P2], acquire
//
// TO SLEEP                                          THE WRITER, after a record (reader_table.hpp)
//   [S1] v = bell                                     [P1] full fence
//   [S2] parked = new odd episode, of each active     [P2] sleepers set: exchange for 0
//   [S3] asleep = odd                                 [P3] of each attachment: load parked
//   [S4] sleepers = 1, release, of each of them       [P4] odd, and not rung in this episode yet:
//   [S5] full fence; [F4] a writer is unfenced:       [P5] activity bit   [P6] summary bit
//        barrier everywhere (ring_publisher.hpp)      [P7] full fence
//   [S6] look at every ring just parked, to the       [P8] asleep odd: bell + 1, FUTEX_WAKE
//        last one; news: active again
//   [S7] look at summary, and elsewhere
//   [S8] nothing: FUTEX_WAIT(v)
//   [S9] asleep = even
//
// AWAKE   [A1] exchange summary for 0, acquire   [A2] exchange each word that it names for 0,
//         acquire; its attachments are active. Summary first: what is set after [A1] sets it again.
//
// Either the writer's [P2] sees our [S4], and then [P3] our [S2] (release, acquire), and it rings:
// the bell has moved since [S1], so [S8] does not sleep. Or its [P2] came before our [S4]; then its
// record came before its fence [P1], our look [S6] after ours [S5]: we see the record.
//
// WHAT WOULD BREAK IT:
//   the bell read after the look    R looks: nothing | W publishes, rings | R reads bell, sleeps
//   one fence, but `sleepers` not   R parked (not yet visible), sleepers = 1 | W takes sleepers,
//   last, on a weak machine         sees parked even, rings nobody | R looks: nothing, sleeps
//   the look ends at the first      R parks A and B | both publish before they can see sleepers |
//   ring with news                  R finds A's, leaves B parked: B never rings for that record
//   one episode twice               W remembers the episode it rang: the second parking is not rung
//   the look before the barrier     R looks: nothing | W's record leaves its store buffer, it has
//                                   loaded sleepers = 0 before | barrier | R sleeps
//   words taken before summary      W sets bit and summary | R takes the word, then clears summary:
//                                   a bit set in between stands without summary
//
// ARMED: who waits in an event loop goes to sleep without the wait, and wakes with its next call.
//   [E1] as [S1] to [S7]. News: awake, and the descriptor stays readable.
//   [E2] nothing: the kernel is asked to make the descriptor readable once the bell is not v or is
//        rung (it compares and queues in one step, as [S8] does), or the slice is over.
//   [E3] The descriptor is made unreadable: what made it readable was of before.
//   [E4] Has [E2] ended by now? Then perhaps [E3] has taken away its signal: readable again.
//   [E5] The next call that looks at the rings, whoever makes it and why: readable, then [S9] and
//        [A1]. Whether [E2] ended by a ring or by its time is for the clock to say, not for the
//        bell: whoever has the page may wake without adding, or take back what it has added.
// So the descriptor is readable unless armed, and while it is armed [S1] to [S8] hold as they do
// for a sleeper. Without [E4]: [E2] queued | W rings: readable | [E3] | nobody rings any more.
// Without [E5]'s first half, after a call that nothing but its caller's whim has brought: R takes
// one of two messages, its rings are active, nobody rings for them | R polls, and sleeps.
//
// Waits are bounded all the same (16 ms, 64 ... 10 s), and after each one every ring is looked
// at, and so it is every 10 ms by a reader that never sleeps: a hostile peer that wipes bits or
// swallows a wake-up costs milliseconds. After several fruitless wakes in a row the waiter naps,
// whatever bell and summary say: a hostile ringer cannot burn its CPU. After each nap it listens
// again, and a slice that nobody rang in, or a message, ends it.
// Checked: tests/model/wake.pml. Change the model first.
#pragma once

#include "protocol/attachment.hpp"
#include "sys/clock.hpp"

#include <algorithm>
#include <span>
#include <vector>

namespace ipcbus::protocol {

class Waiter;

/// The attachments of one subscription. Has a Waiter whenever it is read.
class Source {
public:
    Source() = default;
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;

    /// The next attachment to look at, in turn; nullptr: none is active. Look at its ring, then
    /// say fruitful() or fruitless().
    [[nodiscard]] Attachment* turn() {
        if (active_ == 0) {
            return nullptr;
        }
        if (turn_ >= active_) {
            turn_ = 0;
        }
        return attachments_[turn_];
    }
    [[nodiscard]] std::size_t active_count() const { return active_; }
    /// All of them, in no order that lasts: the active ones first.
    [[nodiscard]] std::span<Attachment* const> attachments() const { return attachments_; }
    [[nodiscard]] Waiter* waiter() const { return waiter_; }

    /// A message (or a batch) was taken from it. One that is never empty does not starve the rest.
    void fruitful(Attachment& attachment) {
        attachment.fruitless_looks_ = 0;
        took(1);
    }
    /// Messages were taken from the one whose turn it is.
    void took(u32 messages) {
        streak_ += messages;
        if (streak_ >= kStreakMax) {
            streak_ = 0;
            turn_++;
        }
    }
    /// There is more in its ring, but nothing that is wanted so far: the next in turn.
    void skipped(Attachment& attachment) {
        attachment.fruitless_looks_ = 0;
        streak_ = 0;
        turn_++;
    }
    /// Its ring was empty: the next in turn. Among several, one that is empty for long is parked.
    void fruitless(Attachment& attachment);

private:
    friend class Waiter;
    static constexpr u32 kStreakMax = 64;

    [[nodiscard]] std::span<Attachment* const> active() const {
        return std::span(attachments_).first(active_);
    }
    // Each attachment knows its place (place_) in attachments_: the active ones first.
    void add(Attachment& attachment);
    void remove(Attachment& attachment);
    void set_active(Attachment& attachment);
    void set_inactive(Attachment& attachment);
    void swap_places(Attachment& attachment, std::size_t with);

    std::vector<Attachment*> attachments_;
    std::size_t active_ = 0;
    std::size_t turn_ = 0;
    u32 streak_ = 0;
    Waiter* waiter_ = nullptr;
};

/// What may end a sleep besides the rings: frames of the daemon, a hang-up.
class Elsewhere {
public:
    /// Whether there is something to hear; looked at before each sleep and after each wake. May
    /// make system calls.
    virtual bool look() = 0;

protected:
    ~Elsewhere() = default;
};

class Waiter {
public:
    /// The words of waiter `number`: bell, summary and bitmap in the own doorbell page, `asleep` in
    /// the own cursor page. They outlive the Waiter.
    struct Words {
        DoorbellWaiter* doorbell = nullptr;
        std::atomic<u32>* asleep = nullptr;
        u32 number = 0;
    };
    enum class Slept { news, timed_out, interrupted };
    /// [E2] What an armed waiter waits for.
    struct Armed {
        std::atomic<u32>* bell = nullptr;  ///< nullptr: a nap, which only its time ends
        u32 value = 0;
        std::int64_t slice_ns = 0;
        std::int64_t until_ns = 0;  ///< when the slice is over
        /// When the alarm's own time is: not later. What ends before that was rung.
        std::int64_t ends_ns = 0;
    };
    /// How long what nobody rings for waits to be looked at.
    static constexpr std::int64_t kPolledSliceNs = 4'000'000;

    explicit Waiter(const Words& words);
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;

    /// So that the next add() cannot fail: nor can that of a source which was here before.
    void make_room();
    void add(Source& source);
    /// Its attachments become active (unparked), and are no longer waited for.
    void remove(Source& source);
    void attach(Source& source, Attachment& attachment);
    void detach(Attachment& attachment);
    /// Other pages (a new connection): everything becomes active; what is attached now is polled
    /// from here on, for its writers ring the old pages.
    void rebind(const Words& words);

    /// Looks at the summary word: takes what was rung and makes those attachments active. One load
    /// if nothing was.
    void take_activity() {
        // relaxed: a hint; take_summary exchanges it with acquire.
        if (words_.doorbell->summary.load(std::memory_order_relaxed) != 0) {
            take_summary();
        }
    }
    /// Makes an attachment active, because something other than a bit says that it has news.
    void activate(Attachment& attachment);
    /// Makes every parked attachment active that has news.
    void sweep();
    /// The same, if it has not been done for a while. To be called now and then by whoever is
    /// awake: one hostile peer may wipe the bits that others set, and keep this thread from ever
    /// sleeping by messages of its own.
    void sweep_if_due(std::int64_t now_ns) {
        if (now_ns - last_sweep_ns_ >= sweep_pause_ns_) {
            sweep_now(now_ns);
        }
    }

    /// [S1] to [S9], one wait of at most `timeout_ns` (>= 0), bounded further by what fruitless
    /// sleeps before it allow. news: take_activity() and look at the active rings, and elsewhere.
    /// `only`, if given: the others' rings are neither parked nor looked at.
    Slept sleep(std::int64_t timeout_ns, Elsewhere& elsewhere, const Source* only = nullptr);
    /// [E1] True: asleep, or about to nap, until disarm(); wait for what *ret_armed says. False:
    /// there is news: take_activity() and look, then try again.
    bool arm(Elsewhere& elsewhere, Armed& ret_armed);
    /// [E5] Awake again. `ended`: what was waited for has come to pass, as far as the alarm knows.
    void disarm(const Armed& armed, bool ended);
    /// sleep() for whoever waits for its bell by other means, having read it before, [S1]: [S2] to
    /// [S7]. False: there is news, in what is active now or in the summary word; nobody may sleep.
    /// True: [S8] is the caller's, of at most kPolledSliceNs if that is so of `ret_polled`: nobody
    /// rings for some of what is active.
    [[nodiscard]] bool lie_down(bool& ret_polled);
    /// [S9] to [A2], after lie_down() said true. `swept`: every ring is looked at, for a bell that
    /// brings no news, or a clock.
    void get_up(bool swept);
    /// A message was received: the next wait begins with short slices again.
    void fruitful() {
        slice_ns_ = kFirstSliceNs;
        fruitless_wakes_ = 0;
        nap_until_ns_ = 0;
    }
    /// The next sleep is no longer than this: something outside the rings is being waited for.
    void limit_slice(std::int64_t ns) { slice_ns_ = std::min(slice_ns_, ns); }
    /// Parks one ring and stays awake: [S2] [S4] [S5] and the look [S6].
    void park(Attachment& attachment);

    [[nodiscard]] u32 number() const { return words_.number; }
    [[nodiscard]] bool has_active() const;
    [[nodiscard]] const std::vector<Source*>& sources() const { return sources_; }
    [[nodiscard]] u64 sleeps() const { return sleeps_; }

private:
    /// Shorter, and each sleep arms a timer that is the processor's next: 3.5 us, which made the
    /// waking of eight readers 1.66 times as long as that of bare futexes instead of 1.17.
    static constexpr std::int64_t kFirstSliceNs = 16'000'000;
    static constexpr std::int64_t kNapMinNs = 1'000'000;
    static constexpr std::int64_t kLastSliceNs = 10'000'000'000;
    static constexpr std::int64_t kSweepPauseNs = 10'000'000;
    static constexpr std::int64_t kSweepShare = 64;  ///< at most one part in so many of the time
    static constexpr u32 kFruitlessWakesMax = 16;
    static constexpr std::int64_t kNapMaxNs = 64'000'000;

    /// What a look before a sleep has found.
    enum class Before { nothing, news, elsewhere };
    struct Quiet {
        u32 bell = 0;             ///< [S1]
        std::int64_t most_ns = 0;  ///< how long the wait may be
    };

    Before settle_down(Elsewhere& elsewhere, const Source* only, Quiet& ret_quiet);
    void timed_out(std::int64_t slice_ns);
    void rung();
    void fruitless();
    [[nodiscard]] std::int64_t nap_ns() const;
    bool park_active(const Source* only);
    void grow_buckets();
    void link(Attachment& attachment);
    void unlink(Attachment& attachment);
    void activate_all(Source& source);
    void take_summary();
    void sweep_now(std::int64_t now_ns);
    bool fence_writers();
    bool look_again(const Source* only);
    void set_asleep(bool asleep);
    void woken(std::int64_t left_ns);

    Words words_;
    std::vector<Source*> sources_;
    /// Its attachments by their bit, modulo the number of buckets, a power of two: heads of lists
    /// linked by Attachment::next_. As many as there are attachments, about, and no more.
    std::vector<Attachment*> buckets_;
    std::size_t linked_ = 0;
    std::int64_t slice_ns_ = kFirstSliceNs;
    std::int64_t last_sweep_ns_ = 0;
    std::int64_t sweep_pause_ns_ = kSweepPauseNs;
    u32 fruitless_wakes_ = 0;
    std::int64_t nap_until_ns_ = 0;  ///< of who waits in an event loop; 0: no nap
    u64 sleeps_ = 0;
    u32 asleep_episode_ = 0;
};

}  // namespace ipcbus::protocol
