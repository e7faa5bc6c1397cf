// SPDX-License-Identifier: Apache-2.0
// The slow paths of a publish: raising `announced`, waiting for readers, taking membership in. The
// protocol and its argument are in ring_publisher.hpp.
#include "protocol/ring_publisher.hpp"

#include <algorithm>
#include <utility>

namespace ipcbus::protocol {

namespace {

constexpr i64 kFirstWaitNs = 1'000'000;
constexpr u32 kFruitlessWakesMax = 16;
constexpr i64 kNapMaxNs = 64'000'000;

}  // namespace

bool RingPublisher::attention_changed() const {
    // [W5] [B4] acquire: pairs with [J1]; the caller has fenced.
    return words_.mailbox->attention.load(std::memory_order_acquire) != taken_;
}

/// [F1] to [F3]. True if somebody slept.
bool RingPublisher::stop_fencing() {
    quiet_ = 0;
    if (!sys::register_for_barriers()) {
        return false;
    }
    // [F1] relaxed: ordered by [F2]. Pairs with [F4].
    writer_.header().unfenced.store(1, std::memory_order_relaxed);
    full_fence();  // [F2] pairs with [S5]
    unfenced_ = true;
    return readers_.called(*words_.publication) && fence_again();  // [F3]
}

/// [F5] and the round that is due. True.
bool RingPublisher::fence_again() {
    unfenced_ = false;
    // [F5] release: the records published before. Pairs with [F4].
    writer_.header().unfenced.store(0, std::memory_order_release);
    full_fence();  // [P1]
    (void)readers_.wake(*words_.publication);
    return true;
}

/// [W1] to [W5]. The cursors are only looked at when those known do not do: with many readers they
/// are what a raise costs. An old cursor is too small at worst, if its reader is counted at all;
/// changes() makes sure of that: a reader that joins may begin below the position that the smallest
/// was taken from, for that record was in the writer's store buffer when its start was settled.
bool RingPublisher::raise(u64 bytes) {
    if (readers_.changes() != smallest_changes_ ||
        distance(smallest_ + writer_.capacity(), writer_.raise_target(bytes)) < 0) {
        smallest_ = readers_.smallest_cursor(writer_.position());
        smallest_changes_ = readers_.changes();
    }
    if (readers_.addressed()) {
        readers_.look_before(writer_.raise_target(bytes) - writer_.capacity(), writer_.position());
    }
    const bool raised = writer_.raise(bytes, smallest_);
    tell_faults();
    if (raised && readers_.addressed()) {
        tell_overtaken();
    }
    if (raised && attention_changed()) {
        // The room that was raised is the writer's: the margin in settle_start covers it. From the
        // next raise on, the new readers' cursors count.
        // relaxed: just loaded.
        (void)control_.take_in(words_.mailbox->attention.load(std::memory_order_relaxed));
    }
    return raised;
}

void RingPublisher::tell_overtaken() {
    const u64 floor = writer_.announced() - writer_.capacity();
    readers_.overtaken(floor, writer_.part_begin(floor + writer_.part_bytes() - 1),
                       [this](u64 attachment, u64 from, u64 to) {
                           control_.overtaken(attachment, from, to);
                       });
}

RingPublisher::Status RingPublisher::make_room(u64 bytes, i64 timeout_ns) {
    if (raise(bytes)) {
        not_full();
        return Status::ok;
    }
    (void)finish();  // what was committed before must be known before anything is waited for
    if (raise(bytes)) {
        not_full();
        return Status::ok;
    }
    if (timeout_ns == 0) {
        // The stall clock of a writer that does not wait begins with its first "full".
        const i64 now_ns = sys::coarse_ns();
        if (last_full_ns_ != 0) {
            waited(bytes, now_ns - last_full_ns_);
        }
        last_full_ns_ = now_ns;
        if (!raise(bytes)) {
            return Status::full;
        }
        not_full();
        return Status::ok;
    }
    const sys::Deadline deadline = sys::Deadline::after(timeout_ns);
    const i64 began_ns = sys::monotonic_ns();
    if (spin(bytes, deadline)) {
        not_full();
        return Status::ok;
    }
    struct Blocked {
        RingPublisher& publisher;
        ~Blocked() { publisher.go_on(); }
    } const blocked{*this};  // taking membership in may run out of memory, and throw
    const Status status = block(bytes, deadline);
    budget_.slept(sys::monotonic_ns() - began_ns);
    if (status == Status::ok) {
        not_full();
    }
    return status;
}

/// [B6]
void RingPublisher::go_on() {
    // relaxed: a reader that still sees it rings once in vain.
    writer_.header().wanted.store(0, std::memory_order_relaxed);
    asleep_episode_ += asleep_episode_ & 1;
    words_.asleep->store(asleep_episode_, std::memory_order_relaxed);
}

/// There is room: for a writer that does not wait, its wait is over.
void RingPublisher::not_full() {
    last_full_ns_ = 0;
    if (hurries_) {
        (void)readers_.smallest_cursor(writer_.position());
        hurry(!readers_.all_move(writer_.position()));
        tell_faults();
    }
}

/// [B7]
void RingPublisher::hurry(bool on) {
    if (hurries_ != on) {
        hurries_ = on;
        // relaxed: a reader that sees it late stores its cursor a move late.
        writer_.header().hurry.store(on ? 1 : 0, std::memory_order_relaxed);
    }
}

/// [B2]
void RingPublisher::want_cursor(u64 needed) {
    // 0 would mean "none": at the wrap, one unit more is reached as surely.
    const u64 wanted = needed == 0 ? kRecordAlignment : needed;
    // release: nothing depends on it but the fence that follows.
    writer_.header().wanted.store(wanted, std::memory_order_release);
}

/// [B2]
void RingPublisher::want(u64 needed) {
    want_cursor(needed);
    asleep_episode_ |= 1;
    words_.asleep->store(asleep_episode_, std::memory_order_release);
}

/// A reader that keeps up stores its cursor within microseconds: sooner than a sleeper wakes, and
/// without having to wake anybody. The looks are some way apart, for each fetches the line of a
/// cursor from a reader that is busy with it.
bool RingPublisher::spin(u64 bytes, const sys::Deadline& deadline) {
    constexpr int kPausesPerLook = 32;
    const i64 began_ns = sys::monotonic_ns();
    const i64 until_ns = std::min(began_ns + budget_.ns(), deadline.at_ns);
    i64 now_ns = began_ns;
    while (now_ns < until_ns) {
        for (int i = 0; i < kPausesPerLook; i++) {
            cpu_relax();
        }
        if (raise(bytes)) {
            budget_.spun();
            return true;
        }
        const i64 before_ns = std::exchange(now_ns, sys::monotonic_ns());
        if (was_interrupted(before_ns, now_ns)) {
            break;
        }
    }
    // It counts as waiting: who never waits for longer must find out who stands still, too.
    waited(bytes, std::min(now_ns, until_ns) - began_ns);
    return false;
}

bool RingPublisher::ask(u64 bytes) {
    want_cursor(writer_.cursor_needed(bytes));  // [B2]
    full_fence();                               // [B3] pairs with [C1]
    if (!raise(bytes)) {                        // [B4]
        return false;
    }
    not_full();
    stop_asking();
    return true;
}

RingPublisher::Status RingPublisher::block(u64 bytes, const sys::Deadline& deadline) {
    const u64 needed = writer_.cursor_needed(bytes);
    const i64 slice_ns = std::max(stall_timeout_ns_ / kStallSlices, kFirstWaitNs);
    i64 wait_ns = kFirstWaitNs;
    u64 moves = readers_.moves();
    for (;;) {
        // [B1] acquire: before every look. Pairs with ring_bell.
        const u32 bell = words_.bell->load(std::memory_order_acquire);
        const u64 wanted = readers_.wanted(needed);
        want(wanted);
        full_fence();  // [B3] pairs with [C1] and the daemon's fence before it looks at `asleep`
        if (attention_changed()) {
            (void)control_.take_in(words_.mailbox->attention.load(std::memory_order_relaxed));
        }
        (void)control_.look();
        if (raise(bytes)) {
            fruitless_wakes_ = 0;
            return Status::ok;
        }
        if (moves != readers_.moves()) {
            moves = readers_.moves();
            fruitless_wakes_ = 0;  // one of many has made way: that is no malice
        }
        if (readers_.wanted(needed) != wanted) {
            continue;  // who would have crossed it has, unseen
        }
        if (waits_for_itself(bytes)) {
            return Status::own_reader;
        }
        const i64 left_ns = deadline.remaining_ns();
        if (left_ns == 0) {
            return Status::timed_out;
        }
        const i64 this_ns = std::min({wait_ns, slice_ns, left_ns});
        const i64 before_ns = sys::monotonic_ns();
        const sys::FutexWait ended = sys::futex_wait(*words_.bell, bell, this_ns);  // [B5]
        if (ended == sys::FutexWait::interrupted) {
            return Status::interrupted;
        }
        if (ended == sys::FutexWait::timed_out) {
            wait_ns = std::min(wait_ns * 4, slice_ns);
        } else if (++fruitless_wakes_ > kFruitlessWakesMax) {
            // Somebody rings and frees no room: nap, whatever is rung.
            const std::atomic<u32> never{0};
            const u32 doublings = std::min<u32>(fruitless_wakes_ - kFruitlessWakesMax, 6);
            (void)sys::futex_wait(never, 0,
                                  std::min({kFirstWaitNs << doublings, kNapMaxNs, left_ns}));
        }
        // At most what was asked for: a host that paused makes no reader look stalled.
        waited(bytes, std::min(sys::monotonic_ns() - before_ns, this_ns));
    }
}

/// The writer has been waiting for `ns` more: a full slice is a look at who does not move.
void RingPublisher::waited(u64 bytes, i64 ns) {
    const i64 slice_ns = std::max(stall_timeout_ns_ / kStallSlices, kFirstWaitNs);
    waited_ns_ += std::min(ns, slice_ns);
    if (waited_ns_ < slice_ns) {
        return;
    }
    waited_ns_ = 0;
    (void)readers_.smallest_cursor(writer_.position());  // recompute first: who moved is innocent
    if (hurries_) {
        readers_.stall(writer_.cursor_needed(bytes), writer_.position(), kStallSlices,
                       [this](u64 attachment) { return control_.is_own(attachment); });
    } else {
        readers_.begin_slices();
        hurry(true);
    }
    tell_faults();
}

bool RingPublisher::waits_for_itself(u64 bytes) {
    bool own = false;
    readers_.holders(writer_.cursor_needed(bytes),
                     [&](u64 attachment) { own = own || control_.is_own(attachment); });
    return own;
}

void RingPublisher::finish_slow() {
    for (;;) {
        // [M1] acquire: as in finish().
        const u64 attention = words_.mailbox->attention.load(std::memory_order_acquire);
        if (attention != taken_ && control_.take_in(attention) == Control::Heard::hung_up) {
            taken_ = attention;  // nobody is left who could tell more
        }
        if (!readers_.round_due()) {
            return;
        }
        full_fence();  // [P1]
        (void)readers_.wake(*words_.publication);
    }
}

void RingPublisher::close() {
    writer_.close();
    full_fence();  // [P1]
    (void)readers_.wake(*words_.publication);
}

void RingPublisher::tell_faults() {
    for (const ReaderTable::Fault& fault : readers_.faults()) {
        control_.complain(fault);
    }
    readers_.faults().clear();
}

}  // namespace ipcbus::protocol
