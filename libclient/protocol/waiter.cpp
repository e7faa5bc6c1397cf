// SPDX-License-Identifier: Apache-2.0
// Parking, sleeping and waking of a reader. The protocol and its argument are in waiter.hpp.
#include "protocol/waiter.hpp"

#include "sys/assert.hpp"

#include <algorithm>
#include <bit>

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

void Source::fruitless(Attachment& attachment) {
    turn_++;
    if (active_.size() < 2 || attachment.polled()) {
        return;
    }
    if (++attachment.fruitless_looks_ >= kFruitlessLooksMax && waiter_ != nullptr) {
        waiter_->park(attachment);
    }
}

void Waiter::add(Source& source) {
    IPCBUS_ASSERT(source.waiter_ == nullptr);
    source.waiter_ = this;
    sources_.push_back(&source);
    for (Attachment* attachment : source.active_) {
        if (by_bit_.size() <= attachment->bit()) {
            by_bit_.resize(attachment->bit() + 1, nullptr);
        }
        attachment->same_bit_ = by_bit_[attachment->bit()];
        by_bit_[attachment->bit()] = attachment;
    }
}

void Waiter::remove(Source& source) {
    IPCBUS_ASSERT(source.waiter_ == this);
    // The bits of a parked attachment may be set in our bitmap for ever: it is made active first,
    // with an even episode, so that no writer rings this waiter for it again.
    for (Attachment*& head : by_bit_) {
        Attachment** link = &head;
        while (*link != nullptr) {
            Attachment* attachment = *link;
            if (attachment->source_ == &source) {
                activate(*attachment);
                *link = attachment->same_bit_;
                attachment->same_bit_ = nullptr;
            } else {
                link = &attachment->same_bit_;
            }
        }
    }
    source.waiter_ = nullptr;
    std::erase(sources_, &source);
}

void Waiter::attach(Source& source, Attachment& attachment) {
    IPCBUS_ASSERT(source.waiter_ == this && attachment.bit() < kActivityBits);
    attachment.source_ = &source;
    source.active_.push_back(&attachment);
    if (by_bit_.size() <= attachment.bit()) {
        by_bit_.resize(attachment.bit() + 1, nullptr);
    }
    attachment.same_bit_ = by_bit_[attachment.bit()];
    by_bit_[attachment.bit()] = &attachment;
}

void Waiter::detach(Attachment& attachment) {
    Attachment** link = &by_bit_[attachment.bit()];
    while (*link != &attachment) {
        IPCBUS_ASSERT(*link != nullptr);
        link = &(*link)->same_bit_;
    }
    *link = attachment.same_bit_;
    std::erase(attachment.source_->active_, &attachment);
    attachment.source_ = nullptr;
}

void Waiter::activate(Attachment& attachment) {
    if (attachment.parked()) {
        attachment.unpark();
        attachment.fruitless_looks_ = 0;
        attachment.source_->active_.push_back(&attachment);
    }
}

void Waiter::rebind(const Words& words) {
    for (Attachment* attachment : by_bit_) {
        for (; attachment != nullptr; attachment = attachment->same_bit_) {
            activate(*attachment);
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
            Attachment* attachment = bit < by_bit_.size() ? by_bit_[bit] : nullptr;
            for (; attachment != nullptr; attachment = attachment->same_bit_) {
                activate(*attachment);
            }
        }
    }
}

void Waiter::sweep() {
    for (Attachment* attachment : by_bit_) {
        for (; attachment != nullptr; attachment = attachment->same_bit_) {
            if (attachment->parked() && attachment->reader_.news()) {
                activate(*attachment);
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
                       [](const Source* source) { return !source->active_.empty(); });
}

void Waiter::park(Attachment& attachment) {
    attachment.store_cursor();
    attachment.set_parked(words_.number);  // [S2]
    attachment.set_sleepers();             // [S4]
    full_fence();                          // [S5] pairs with [P1]
    attachment.fruitless_looks_ = 0;
    if (attachment.reader_.news()) {  // [S6]
        attachment.unpark();
    } else {
        std::erase(attachment.source_->active_, &attachment);
    }
}

void Waiter::set_asleep(bool asleep) {
    asleep_episode_ += ((asleep_episode_ & 1) != 0) == asleep ? 0 : 1;
    // [S3] [S9] release: going to sleep it is published by [S4], but a waiter without attachments
    // sets no `sleepers`, and the daemon looks at it, too.
    words_.asleep->store(asleep_episode_, std::memory_order_release);
}

/// [S6] The look at every ring just parked. True: there is news.
bool Waiter::look_again(const Source* only) {
    bool found = false;
    for (Source* source : sources_) {
        if (only != nullptr && source != only) {
            continue;
        }
        std::erase_if(source->active_, [&found](Attachment* attachment) {
            if (!attachment->reader_.news()) {
                return !attachment->polled();
            }
            attachment->unpark();
            found = true;
            return false;
        });
    }
    return found;
}

Waiter::Slept Waiter::sleep(std::int64_t timeout_ns, Elsewhere& elsewhere, const Source* only) {
    sweep_if_due(sys::coarse_ns());
    // [S1] acquire: before every look. Pairs with ring_bell.
    const u32 bell = words_.doorbell->bell.load(std::memory_order_acquire);
    bool polled = false;
    for (Source* source : sources_) {
        for (Attachment* attachment : source->active_) {
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
        for (Attachment* attachment : source->active_) {
            if (attachment->parked()) {
                attachment->set_sleepers();  // [S4]
            }
        }
    }
    full_fence();  // [S5] pairs with [P1], [P7] and the daemon's fence before it looks at `asleep`
    const bool found = look_again(only);
    // [S7] relaxed: ordered by the fence.
    if (found || words_.doorbell->summary.load(std::memory_order_relaxed) != 0 ||
        elsewhere.look()) {
        set_asleep(false);
        woken(timeout_ns);
        return Slept::news;
    }
    const std::int64_t longest_ns = polled ? std::min(slice_ns_, kPolledSliceNs) : slice_ns_;
    const std::int64_t slice_ns = std::min(timeout_ns, longest_ns);
    sleeps_++;
    const sys::FutexWait ended = sys::futex_wait(words_.doorbell->bell, bell, slice_ns);  // [S8]
    set_asleep(false);                                                                    // [S9]
    switch (ended) {
        case sys::FutexWait::interrupted: return Slept::interrupted;
        case sys::FutexWait::timed_out:
            if (slice_ns == slice_ns_) {
                slice_ns_ = std::min(slice_ns_ * 4, kLastSliceNs);
            }
            sweep();
            return Slept::timed_out;
        case sys::FutexWait::woken:
        case sys::FutexWait::value_changed:
            // Rung, and no bit says why: the daemon, or somebody has cleared the bit.
            if (words_.doorbell->summary.load(std::memory_order_relaxed) == 0) {
                sweep();
            }
            break;
    }
    woken(timeout_ns);
    return Slept::news;
}

/// A wake that brings no message, again and again, may be somebody's malice: nap.
void Waiter::woken(std::int64_t left_ns) {
    if (++fruitless_wakes_ > kFruitlessWakesMax) {
        const u32 doublings = std::min<u32>(fruitless_wakes_ - kFruitlessWakesMax, 6);
        nap(std::min({kFirstSliceNs << doublings, kNapMaxNs, left_ns}));
        sweep();
    }
}

}  // namespace ipcbus::protocol
