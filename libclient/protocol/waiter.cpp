// SPDX-License-Identifier: Apache-2.0
// Parking, sleeping and waking of a reader. The protocol and its argument are in waiter.hpp.
#include "protocol/waiter.hpp"

#include "sys/assert.hpp"
#include "sys/membarrier.hpp"
#include "sys/room.hpp"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

namespace ipcbus::protocol {

namespace {

/// An attachment among several that is found empty this often in a row is parked. Looks cost a
/// nanosecond or two while the line stays in the cache, a parking and a ring several hundred.
constexpr u32 kFruitlessLooksMax = 256;

/// Sleeps, whatever anybody rings: the word is ours and never changes.
void nap(std::int64_t ns) {
    const std::atomic<u32> never{0};
    (void)sys::futex_wait(never, 0, ns);
}

}  // namespace

void Source::add(Attachment& attachment) {
    sys::make_room(attachments_);
    attachment.place_ = static_cast<u32>(attachments_.size());
    attachments_.push_back(&attachment);
    set_active(attachment);
}

void Source::remove(Attachment& attachment) {
    set_inactive(attachment);
    swap_places(attachment, attachments_.size() - 1);
    attachments_.pop_back();
    sys::give_back_room(attachments_);
}

void Source::swap_places(Attachment& attachment, std::size_t with) {
    Attachment& other = *attachments_[with];
    std::swap(attachments_[attachment.place_], attachments_[with]);
    std::swap(attachment.place_, other.place_);
}

void Source::set_active(Attachment& attachment) {
    if (attachment.place_ >= active_) {
        swap_places(attachment, active_++);
    }
}

void Source::set_inactive(Attachment& attachment) {
    if (attachment.place_ < active_) {
        swap_places(attachment, --active_);
    }
}

void Source::fruitless(Attachment& attachment) {
    if (active_ >= 2 && !attachment.polled() &&
        ++attachment.fruitless_looks_ >= kFruitlessLooksMax && waiter_ != nullptr) {
        waiter_->park(attachment);
        if (attachment.parked()) {
            return;  // another has taken its place, and with it the turn
        }
    }
    turn_++;
}

Waiter::Waiter(const Words& words) : words_(words), buckets_(2) {}

void Waiter::make_room() { sys::make_room(sources_); }

void Waiter::add(Source& source) {
    IPCBUS_ASSERT(source.waiter_ == nullptr);
    sources_.push_back(&source);  // the one thing that can fail, unless make_room() was called
    source.waiter_ = this;
    for (Attachment* attachment : source.attachments_) {
        grow_buckets();
        link(*attachment);
    }
}

void Waiter::remove(Source& source) {
    IPCBUS_ASSERT(source.waiter_ == this);
    // The bits of a parked attachment may be set in our bitmap for ever: it is made active first,
    // with an even episode, so that no writer rings this waiter for it again.
    activate_all(source);
    for (Attachment* attachment : source.attachments_) {
        unlink(*attachment);
    }
    source.waiter_ = nullptr;
    std::erase(sources_, &source);
}

void Waiter::attach(Source& source, Attachment& attachment) {
    IPCBUS_ASSERT(source.waiter_ == this && attachment.bit() < kActivityBits);
    // Else another thread may be looking, who asks whose it is.
    if (attachment.source_ != &source) {
        attachment.source_ = &source;
    }
    grow_buckets();
    source.add(attachment);
    link(attachment);  // nothing is left to fail
}

void Waiter::detach(Attachment& attachment) {
    unlink(attachment);
    attachment.source_->remove(attachment);
}

/// Before one more is linked. Two attachments a bucket, and at most a bucket a bit.
void Waiter::grow_buckets() {
    if (linked_ < buckets_.size() * 2 || buckets_.size() == kActivityBits) {
        return;
    }
    std::vector<Attachment*> before;
    try {
        before.resize(buckets_.size() * 2);
    } catch (const std::bad_alloc&) {
        return;  // longer lists will do
    }
    before.swap(buckets_);
    for (Attachment* attachment : before) {
        while (attachment != nullptr) {
            Attachment*& head = buckets_[attachment->bit() & (buckets_.size() - 1)];
            attachment = std::exchange(attachment->next_, std::exchange(head, attachment));
        }
    }
}

void Waiter::link(Attachment& attachment) {
    Attachment*& head = buckets_[attachment.bit() & (buckets_.size() - 1)];
    attachment.next_ = std::exchange(head, &attachment);
    linked_++;
}

void Waiter::unlink(Attachment& attachment) {
    Attachment** link = &buckets_[attachment.bit() & (buckets_.size() - 1)];
    while (*link != &attachment) {
        IPCBUS_ASSERT(*link != nullptr);
        link = &(*link)->next_;
    }
    *link = std::exchange(attachment.next_, nullptr);
    linked_--;
}

void Waiter::activate(Attachment& attachment) {
    if (attachment.parked()) {
        attachment.unpark();
        attachment.fruitless_looks_ = 0;
        attachment.source_->set_active(attachment);
    }
}

void Waiter::activate_all(Source& source) {
    for (Attachment* attachment : source.attachments_) {
        attachment->unpark();
        attachment->fruitless_looks_ = 0;
    }
    source.active_ = source.attachments_.size();
}

void Waiter::rebind(const Words& words) {
    for (Source* source : sources_) {
        activate_all(*source);
        for (Attachment* attachment : source->attachments_) {
            attachment->set_polled();
        }
    }
    words_ = words;
    asleep_episode_ = 0;
    fruitful();
}

void Waiter::take_summary() {
    // [A1] acquire, summary before words: a bit that is set after this exchange sets it again.
    // Pairs with [P6].
    u64 summary = words_.doorbell->summary.exchange(0, std::memory_order_acquire);
    while (summary != 0) {
        const auto index = static_cast<unsigned>(std::countr_zero(summary));
        summary &= summary - 1;
        // [A2] acquire: the rings are looked at after it, so a record whose bit is taken here is
        // seen there. Pairs with [P5].
        u64 bits = words_.doorbell->activity[index].exchange(0, std::memory_order_acquire);
        while (bits != 0) {
            const u32 bit = index * 64 + static_cast<u32>(std::countr_zero(bits));
            bits &= bits - 1;
            Attachment* attachment =
                buckets_.empty() ? nullptr : buckets_[bit & (buckets_.size() - 1)];
            for (; attachment != nullptr; attachment = attachment->next_) {
                if (attachment->bit() == bit) {
                    activate(*attachment);
                }
            }
        }
    }
}

void Waiter::sweep() {
    for (Source* source : sources_) {
        // What becomes active changes places with one that has been looked at, or is at its own.
        for (std::size_t i = source->active_; i < source->attachments_.size(); i++) {
            Attachment& attachment = *source->attachments_[i];
            if (attachment.reader_.news()) {
                activate(attachment);
            }
        }
    }
}

void Waiter::sweep_now(std::int64_t now_ns) {
    const std::int64_t began_ns = sys::monotonic_ns();
    sweep();
    const std::int64_t took_ns = sys::monotonic_ns() - began_ns;
    sweep_pause_ns_ = std::max(kSweepPauseNs, took_ns * kSweepShare);
    last_sweep_ns_ = now_ns;
}

bool Waiter::has_active() const {
    return std::any_of(sources_.begin(), sources_.end(),
                       [](const Source* source) { return source->active_ != 0; });
}

void Waiter::park(Attachment& attachment) {
    attachment.store_cursor();
    attachment.set_parked(words_.number);  // [S2]
    attachment.set_sleepers();             // [S4]
    full_fence();                          // [S5] pairs with [P1], [F2]
    attachment.fruitless_looks_ = 0;
    if ((attachment.reader_.writer_unfenced() && !sys::barrier_everywhere()) ||  // [F4]
        attachment.reader_.news()) {                                             // [S6]
        attachment.unpark();
    } else {
        attachment.source_->set_inactive(attachment);
    }
}

void Waiter::set_asleep(bool asleep) {
    asleep_episode_ += ((asleep_episode_ & 1) != 0) == asleep ? 0 : 1;
    // [S3] [S9] release: going to sleep it is published by [S4], but a waiter without attachments
    // sets no `sleepers`, and the daemon looks at it, too.
    words_.asleep->store(asleep_episode_, std::memory_order_release);
}

/// [F4] Whoever writes without fences is fenced from here. False: that is refused, and those rings
/// are not parked.
bool Waiter::fence_writers() {
    bool unfenced = false;
    for (const Source* source : sources_) {
        for (const Attachment* attachment : source->active()) {
            unfenced = unfenced || (attachment->parked() && attachment->reader_.writer_unfenced());
        }
    }
    if (!unfenced || sys::barrier_everywhere()) {
        return true;
    }
    for (Source* source : sources_) {
        for (Attachment* attachment : source->active()) {
            if (attachment->reader_.writer_unfenced()) {
                attachment->unpark();
            }
        }
    }
    return false;
}

/// [S6] The look at every ring just parked. True: there is news.
bool Waiter::look_again(const Source* only) {
    bool found = false;
    for (Source* source : sources_) {
        if (only != nullptr && source != only) {
            continue;
        }
        for (std::size_t i = 0; i < source->active_;) {
            Attachment& attachment = *source->attachments_[i];
            if (attachment.reader_.news()) {
                attachment.unpark();
                found = true;
            } else if (attachment.parked()) {
                source->set_inactive(attachment);  // the last active one comes here
                continue;
            }
            i++;
        }
    }
    return found;
}

/// [S1] to [S7]. Asleep, if there is nothing.
Waiter::Before Waiter::settle_down(Elsewhere& elsewhere, const Source* only, Quiet& ret_quiet) {
    sweep_if_due(sys::coarse_ns());
    // [S1] acquire: before every look. Pairs with ring_bell.
    ret_quiet.bell = words_.doorbell->bell.load(std::memory_order_acquire);
    const bool polled = park_active(only);
    // `elsewhere` may throw.
    struct Awake {
        Waiter& waiter;
        bool stays = true;
        ~Awake() {
            if (stays) {
                waiter.set_asleep(false);
            }
        }
    } awake{*this};
    const bool found = look_again(only);
    // [S7] relaxed: ordered by the fence.
    if (found || words_.doorbell->summary.load(std::memory_order_relaxed) != 0 ||
        elsewhere.look()) {
        return found ? Before::news : Before::elsewhere;
    }
    awake.stays = false;
    ret_quiet.most_ns = polled ? std::min(slice_ns_, kPolledSliceNs) : slice_ns_;
    return Before::nothing;
}

Waiter::Slept Waiter::sleep(std::int64_t timeout_ns, Elsewhere& elsewhere, const Source* only) {
    Quiet quiet;
    if (settle_down(elsewhere, only, quiet) != Before::nothing) {
        woken(timeout_ns);
        return Slept::news;
    }
    const std::int64_t slice_ns = std::min(timeout_ns, quiet.most_ns);
    sleeps_++;
    const sys::FutexWait ended =
        sys::futex_wait(words_.doorbell->bell, quiet.bell, slice_ns);  // [S8]
    set_asleep(false);                                                 // [S9]
    switch (ended) {
    case sys::FutexWait::interrupted:
        return Slept::interrupted;
    case sys::FutexWait::timed_out:
        timed_out(slice_ns);
        return Slept::timed_out;
    case sys::FutexWait::woken:
    case sys::FutexWait::value_changed:
        rung();
        break;
    }
    woken(timeout_ns);
    return Slept::news;
}

/// [S2] to [S5] and [F4]. True: some stay active, to be looked at by the clock.
bool Waiter::park_active(const Source* only) {
    bool polled = false;
    for (Source* source : sources_) {
        for (Attachment* attachment : source->active()) {
            attachment->store_cursor();
            attachment->fruitless_looks_ = 0;
            if (only != nullptr && source != only) {
                continue;
            }
            if (attachment->polled()) {
                polled = true;
            } else {
                attachment->set_parked(words_.number);  // [S2]
            }
        }
    }
    set_asleep(true);  // [S3]
    for (Source* source : sources_) {
        for (Attachment* attachment : source->active()) {
            if (attachment->parked()) {
                attachment->set_sleepers();  // [S4]
            }
        }
    }
    full_fence();  // [S5] pairs with [P1], [P7] and the daemon's fence before it looks at `asleep`
    return !fence_writers() || polled;
}

bool Waiter::lie_down(bool& ret_polled) {
    ret_polled = park_active(nullptr);
    // [S7] relaxed: ordered by the fence.
    if (look_again(nullptr) || words_.doorbell->summary.load(std::memory_order_relaxed) != 0) {
        set_asleep(false);
        return false;
    }
    sleeps_++;
    return true;
}

void Waiter::get_up(bool swept) {
    set_asleep(false);  // [S9]
    take_activity();
    if (swept) {
        sweep();
    }
}

void Waiter::timed_out(std::int64_t slice_ns) {
    if (slice_ns == slice_ns_) {
        slice_ns_ = std::min(slice_ns_ * 4, kLastSliceNs);
        fruitless_wakes_ = 0;
    }
    sweep();
}

/// Rung, and no bit says why: the daemon, or somebody has cleared the bit.
void Waiter::rung() {
    if (words_.doorbell->summary.load(std::memory_order_relaxed) == 0) {
        sweep();
    }
}

bool Waiter::arm(Elsewhere& elsewhere, Armed& ret_armed) {
    if (nap_until_ns_ != 0) {
        const std::int64_t now_ns = sys::monotonic_ns();
        if (now_ns < nap_until_ns_) {
            ret_armed = {nullptr, 0, nap_until_ns_ - now_ns, nap_until_ns_, nap_until_ns_};
            return true;
        }
        nap_until_ns_ = 0;
    }
    Quiet quiet;
    if (settle_down(elsewhere, nullptr, quiet) != Before::nothing) {  // [E1]
        fruitless();  // unless something is taken now
        return false;
    }
    sleeps_++;
    const std::int64_t until_ns = sys::monotonic_ns() + quiet.most_ns;
    ret_armed = {&words_.doorbell->bell, quiet.bell, quiet.most_ns, until_ns, until_ns};
    return true;
}

void Waiter::disarm(const Armed& armed, bool ended) {
    set_asleep(false);  // [S9]
    if (!ended) {
        return;  // whoever came of its own accord
    }
    const std::int64_t now_ns = sys::monotonic_ns();
    if (armed.bell == nullptr || (now_ns >= armed.ends_ns && now_ns < armed.until_ns)) {
        sweep();  // a nap; or the time of something before, which says nothing about the slice
    } else if (now_ns >= armed.until_ns) {
        timed_out(armed.slice_ns);
    } else {
        fruitless();
        rung();
    }
}

/// Who waits in an event loop was woken, or kept from sleeping. If that goes on and brings no
/// message, it may be somebody's malice: the next time it naps, and listens again after that.
void Waiter::fruitless() {
    if (++fruitless_wakes_ >= kFruitlessWakesMax) {
        nap_until_ns_ = sys::monotonic_ns() + nap_ns();
    }
}

std::int64_t Waiter::nap_ns() const {
    const u32 doublings =
        fruitless_wakes_ > kFruitlessWakesMax
            ? std::min<u32>(fruitless_wakes_ - kFruitlessWakesMax, 6)
            : 0;
    return std::min(kNapMinNs << doublings, kNapMaxNs);
}

/// A wake that brings no message, again and again, may be somebody's malice: nap.
void Waiter::woken(std::int64_t left_ns) {
    if (++fruitless_wakes_ > kFruitlessWakesMax) {
        nap(std::min(nap_ns(), left_ns));
        sweep();
    }
}

}  // namespace ipcbus::protocol
