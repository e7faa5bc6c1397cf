// SPDX-License-Identifier: Apache-2.0
// How a thread of this client waits for messages: looks, spins for as long as that has paid, then
// sleeps in slices. Shared by a subscriber that waits for itself and a set. One thread at a time.
#pragma once

#include "bus.hpp"
#include "error_text.hpp"
#include "protocol/spin_budget.hpp"

#include <algorithm>
#include <utility>

namespace ipcbus::client {

/// KEEPING OFF THE WRITER'S HEELS. A reader that takes each record as it comes makes both slow:
/// each line is fetched from the writer's cache the moment it is written, one by one. A reader that
/// looks away for a microsecond finds a hundred records and streams them: 50 against 190 million a
/// second with near CPUs, 9 against 70 with distant ones (64 bytes, bare loops, a Zen 5). But one
/// that looks away from a ping-pong, or from a stream that is paced, only delays it. No rule over
/// times or lengths tells these apart on every machine; so it is tried, and kept while it pays:
///   kSteps times that the rings were found empty: the rate on the heels, messages by time
///   then kSteps times looking away for away_ns first: the rate so. A first look that finds nothing
///   ends it at once. At least an eighth better: go on, for twice as long (up to kAwayMaxNs) as
///   long as that is better still, and measure both anew after kCycles; else the next try comes
///   twice as late.
/// Between distant CPUs 32 us give 1.4 times what 2 us do; a ring that is full before then is
/// better off with less. A stream whose messages are more than kHotNs apart is never tried.
class Distance {
public:
    /// The rings were found empty. How long to look away.
    [[nodiscard]] i64 found_empty(i64 now_ns) {
        const u64 messages = messages_ - messages_before_;
        const i64 took_ns = now_ns - before_ns_;
        messages_before_ = messages_;
        before_ns_ = now_ns;
        if (messages == 0 || took_ns > static_cast<i64>(messages) * kHotNs) {
            begin(away_ns_ != 0);
            return 0;
        }
        step_messages_ += messages;
        step_ns_ += took_ns;
        if (++steps_ < kSteps) {
            return away_ns_;
        }
        judge();
        return away_ns_;
    }
    /// The first look after looking away found nothing: whoever publishes was waiting for us.
    void in_vain() { begin(true); }
    void received(u64 messages) { messages_ += messages; }

private:
    static constexpr i64 kHotNs = 1'000;
    static constexpr u32 kSteps = 8;
    static constexpr u32 kCycles = 256;
    static constexpr i64 kAwayMinNs = 500;
    static constexpr i64 kAwayMaxNs = 32'000;
    static constexpr u32 kHoldOffMax = 4096;
    static constexpr u64 kSettled = ~u64{0};

    void begin(bool failed) {
        if (failed) {
            hold_off_ = std::min(hold_off_ * 2, kHoldOffMax);
            held_off_ = hold_off_;
        }
        away_ns_ = 0;
        steps_ = 0;
        step_messages_ = 0;
        step_ns_ = 0;
    }

    void judge() {
        // Messages a microsecond, times 1024.
        const u64 rate = step_messages_ * 1'024'000 / static_cast<u64>(std::max<i64>(step_ns_, 1));
        steps_ = 0;
        step_messages_ = 0;
        step_ns_ = 0;
        if (away_ns_ == 0) {
            heel_rate_ = rate;
            if (held_off_ != 0) {
                held_off_--;
                return;
            }
            away_ns_ = kAwayMinNs;
            away_rate_ = 0;
            cycles_ = 0;
        } else if (rate < heel_rate_ + heel_rate_ / 8) {
            begin(true);
        } else if (++cycles_ == kCycles) {
            away_ns_ = 0;
        } else {
            hold_off_ = 1;
            lengthen(rate);
        }
    }

    /// Twice as long, until that is no better; then as long as it was before.
    void lengthen(u64 rate) {
        if (away_rate_ == kSettled) {
            return;
        }
        if (rate < away_rate_ + away_rate_ / 16) {
            away_rate_ = kSettled;
            away_ns_ /= 2;
        } else {
            away_rate_ = away_ns_ == kAwayMaxNs ? kSettled : rate;
            away_ns_ = std::min(away_ns_ * 2, kAwayMaxNs);
        }
    }

    u64 messages_ = 0;
    u64 messages_before_ = 0;
    i64 before_ns_ = 0;
    i64 away_ns_ = 0;  ///< 0: on the heels
    u32 steps_ = 0;
    u32 cycles_ = 0;
    u64 step_messages_ = 0;
    i64 step_ns_ = 0;
    u64 heel_rate_ = 0;
    u64 away_rate_ = 0;  ///< when away_ns_ was half as long; kSettled: it stays as it is
    u32 hold_off_ = 1;  ///< tries that the next failure puts off, doubled
    u32 held_off_ = 0;
};

/// How one subscriber, or set, waits.
struct Patience {
    explicit Patience(i64 spin_ns) : budget(spin_ns) {}
    protocol::SpinBudget budget;
    Distance distance;
};

/// Waits `ns` without looking at any ring. Returns the time then.
inline i64 look_away(i64 now_ns, i64 ns) {
    const i64 until_ns = now_ns + ns;
    while (now_ns < until_ns) {
        for (int i = 0; i < 4; i++) {
            protocol::cpu_relax();
        }
        now_ns = sys::monotonic_ns();
    }
    return now_ns;
}

/// A few looks at the reader's next word.
inline bool word_comes(const protocol::RingReader& reader) {
    for (int looks = 0; looks < 3; looks++) {
        if (reader.word_there()) {
            return true;
        }
    }
    return false;
}

/// What try_once answers when it has passed over some of what is not wanted, and there is more in
/// a ring: go on, without a pause. No errno.
constexpr int kSkipped = -4096;

/// With a timeout of 0: goes on as far as there was something when the look began.
template <class TryOnce>
[[gnu::noinline]] int skip_on(u64 rounds, TryOnce&& try_once) {
    int result = kSkipped;
    for (; result == kSkipped && rounds != 0; rounds--) {
        result = try_once();
    }
    return result == kSkipped ? -EAGAIN : result;
}

/// Calls `try_once` until it answers something but -EAGAIN, or the timeout passes. It looks at
/// whatever the waiter has active, and at what the control side has stored; `elsewhere` tells,
/// before a sleep, whether the latter has anything. `only`: the one source that is waited for;
/// nullptr: all of the waiter's.
/// `watched()` is a reader whose ring alone can have the next message, or nullptr: then most looks
/// while spinning are at one word, and `try_watched` takes what is there by the shortest way (else
/// -EAGAIN, and try_once is asked). With a few looks for each pause, which is long, that takes a
/// fifth off a message's way between near CPUs; with many, the way between distant ones is shorter
/// still, but that between near ones longer.
/// `rounds()`: how often try_once may answer kSkipped until all is looked at that is there now.
template <class TryOnce, class Rounds, class Watched, class TryWatched>
int wait_until(protocol::Waiter& waiter, const protocol::Source* only, Patience& patience,
               protocol::Elsewhere& elsewhere, i64 timeout_ns, TryOnce&& try_once, Rounds&& rounds,
               Watched&& watched, TryWatched&& try_watched) {
    int result = try_once();
    if (timeout_ns == 0) {
        return result == kSkipped ? skip_on(rounds(), try_once) : result;
    }
    if (result != -EAGAIN && result != kSkipped) {
        return result;
    }
    protocol::SpinBudget& budget = patience.budget;
    const i64 began_ns = sys::monotonic_ns();
    i64 now_ns = began_ns;
    sys::Deadline deadline;
    if (timeout_ns > 0 && timeout_ns < sys::kForeverNs - began_ns) {
        deadline.at_ns = began_ns + timeout_ns;
    }
    const auto look = [&] {
        int found = kSkipped;
        do {
            found = try_once();
        } while (found == kSkipped && !deadline.passed());
        return found == kSkipped ? -EAGAIN : found;
    };
    if (result == kSkipped) {
        result = look();
        if (result != -EAGAIN) {
            return result;
        }
    }
    if (const i64 away_ns = patience.distance.found_empty(began_ns); away_ns != 0) {
        now_ns = look_away(now_ns, timeout_ns > 0 ? std::min(away_ns, timeout_ns) : away_ns);
        result = look();
        if (result != -EAGAIN) {
            return result;
        }
        patience.distance.in_vain();
    }
    const i64 budget_ns = budget.ns();
    const i64 spin_until_ns =
        budget_ns > sys::kForeverNs - began_ns ? sys::kForeverNs : began_ns + budget_ns;
    while (now_ns < spin_until_ns && now_ns < deadline.at_ns) {
        const protocol::RingReader* alone = watched();
        for (int i = 0; i < 32; i++) {
            protocol::cpu_relax();
            if (alone != nullptr && i != 31 && !word_comes(*alone)) {
                continue;
            }
            result = alone != nullptr ? try_watched() : -EAGAIN;
            if (result == -EAGAIN) {
                result = look();
            }
            if (result != -EAGAIN) {
                budget.spun();
                return result;
            }
            alone = watched();  // the look may have been the end of its attachment
        }
        const i64 before_ns = std::exchange(now_ns, sys::monotonic_ns());
        if (budget.adaptive() && protocol::was_interrupted(before_ns, now_ns)) {
            break;
        }
    }
    for (;;) {
        result = look();
        if (result != -EAGAIN) {
            break;
        }
        const i64 left_ns = deadline.remaining_ns();
        if (left_ns == 0) {
            return -ETIMEDOUT;
        }
        const protocol::Waiter::Slept slept = waiter.sleep(left_ns, elsewhere, only);
        if (slept == protocol::Waiter::Slept::interrupted) {
            result = look();
            if (result != -EAGAIN) {
                break;
            }
            return -EINTR;
        }
    }
    budget.slept(sys::monotonic_ns() - began_ns);
    return result;
}

/// The texts for what wait_until tells.
inline int waited(int result) {
    switch (result) {
        case -EAGAIN: return failed(EAGAIN, "there is no message");
        case -ETIMEDOUT: return failed(ETIMEDOUT, "no message came in time");
        case -EINTR: return failed(EINTR, "interrupted by a signal");
        default: return result;
    }
}

}  // namespace ipcbus::client
