// SPDX-License-Identifier: Apache-2.0
// The life of a subscriber's attachments: begun, followed by one to the next ring, ended. Used by
// the subscriber's thread. See attached.hpp.
// attach, admit, let_go, drop_orphans: checked by tests/model/succession.pml.
#include "attached.hpp"

#include "protocol/topic.hpp"
#include "subscriber.hpp"
#include "sys/room.hpp"

#include <algorithm>

namespace ipcbus::client {

using protocol::RingReader;

namespace {

/// How long a ring of a daemon that is no more is kept once it is empty: its publisher, if it
/// lives, closes it as soon as it has found the new daemon.
constexpr i64 kOrphanNs = 10'000'000'000;

}  // namespace

Attached::Attached(const protocol::Attached& told, CountedRing&& of_ring, Feed& feed)
    : Attachment(of_ring->readable(told.record_bytes_max), told.start, told.start_sequence,
                 Words{&of_ring->link().slot(told.slot), of_ring.get(),
                       told.slot % protocol::kActivityBits},
                 &feed),
      filter(feed.headed || protocol::has_wildcards(told.topic)),
      headed(feed.headed),
      latest(told.mode == static_cast<u8>(protocol::ReaderMode::latest)),
      ended(false),
      orphaned(false),
      has_aside(false),
      behind(false),
      id(told.attachment) {
    (void)of_ring.release();  // the count is this attachment's from here on
}

void Subscriber::end(const Link* link, u64 attachment, protocol::EndReason reason) {
    const auto is_it = [link, attachment](const auto* candidate) {
        const auto* attached = static_cast<const Attached*>(candidate);
        return attached->id == attachment && &attached->ring().link() == link;
    };
    for (const auto& held : held_) {
        if (is_it(held.get())) {
            held->ended = true;  // read to its end when its turn has come
            return;
        }
    }
    const std::span<protocol::Attachment* const> all = source_.attachments();
    const auto found = std::find_if(all.begin(), all.end(), is_it);
    if (found == all.end()) {
        return;
    }
    Attached& attached = static_cast<Attached&>(**found);
    attached.ended = true;
    waiter().activate(attached);  // it may have news that nobody rang for
    attached.set_polled();        // and nobody will: it is not parked before it is drained
    if (reason == protocol::EndReason::detached && loan_ != &attached) {
        let_go(attached);
    }
}

/// A publication's rings are read one after the other: each ends, closed or given up. Not those of
/// requests, which may be handled in any order, nor of replies, which have no successors: under the
/// next daemon other ones may have the same lineage.
bool Subscriber::has_kin(const Attached& attached) const {
    if (headed_) {
        return false;
    }
    if (orphans_ == 0 && !Rings::is_one_of_several(attached.ring())) {
        return false;
    }
    const auto is_kin = [&](const auto& other) {
        const Ring& ring = static_cast<const Attached&>(*other).ring();
        return &ring == &attached.ring() || ring.lineage() == attached.ring().lineage();
    };
    const std::span<protocol::Attachment* const> all = source_.attachments();
    return std::any_of(all.begin(), all.end(), is_kin) ||
           std::any_of(held_.begin(), held_.end(), is_kin);
}

/// Takes it, if nothing fails.
void Subscriber::attach(std::unique_ptr<Attached>& attached) {
    if (has_kin(*attached)) {
        held_.push_back(nullptr);
        held_.back() = std::move(attached);
    } else {
        admit(attached);
    }
}

/// Reads it from now on. What lies between the ring before it and this one is lost. Out of memory
/// it throws before anything has changed.
void Subscriber::admit(std::unique_ptr<Attached>& attached) {
    const Lineage& lineage = attached->ring().lineage();
    const u64* const expected = headed_ ? nullptr : expected_.find(lineage);
    const i64 missing =
        expected == nullptr ? 0 : protocol::distance(attached->reader().expected(), *expected);
    if (missing > 0) {
        sys::make_room(asides_);
    }
    if (attached->ended || &attached->ring().link() != &slept_on()) {
        // Nobody rings any more; or its writer rings pages that the waiter has left meanwhile.
        attached->set_polled();
    }
    waiter().attach(source_, *attached);
    Attached& admitted = *attached.release();
    admitted.behind = history_ != 0;
    if (missing > 0) {
        aside(admitted).lost_before_start = static_cast<u64>(missing);
    }
    expected_.forget(lineage);
}

/// Ends an attachment: its ring is drained, or no more to be read. Its successor takes its place.
/// Out of memory it throws while the attachment still is there, to be ended again.
void Subscriber::let_go(Attached& attached, bool closed) {
    plain_left_ = 0;  // it may be the one that the short way would look at
    const Lineage& lineage = attached.ring().lineage();
    if (lost_before_start(attached) != 0) {
        // Perhaps nothing follows that could tell it.
        sys::make_room(untold_);
        ipcbus_message message;
        keep(report_loss_before_start(attached, &message), message);
    }
    if (headed_) {
        headed_->heads->gone(attached);
    } else {
        expected_.remember(lineage, attached.reader().expected(), closed,
                           source_.attachments().size() + held_.size());
    }
    const auto successor =
        std::find_if(held_.begin(), held_.end(),
                     [&](const auto& held) { return held->ring().lineage() == lineage; });
    if (successor != held_.end()) {
        admit(*successor);
        held_.erase(successor);
        admitted_ = true;
    }
    waiter().detach(attached);
    attached.clear_slot();
    std::erase_if(asides_, [&](const Aside& aside) { return aside.attached == &attached; });
    if (attached.orphaned && --orphans_ == 0) {
        orphaned_links_.clear();
    }
    const Bus::Lock guard = bus_.lock();
    bus_.unroute_attachment(attached);
    const u64 id = attached.id;
    const bool tell = !attached.orphaned && !bus_.lost();
    delete &attached;
    if (tell) {
        link_->send(protocol::Detached{id}, Link::next_request());
    }
}

void Subscriber::drop_orphans(i64 now_ns) {
    if (orphans_ == 0) {
        return;
    }
    for (std::size_t i = source_.attachments().size(); i-- != 0;) {
        Attached& attached = static_cast<Attached&>(*source_.attachments()[i]);
        if (attached.orphaned && now_ns - orphaned_ns(attached) > kOrphanNs && loan_ != &attached &&
            !attached.reader().news()) {
            let_go(attached);
            // Perhaps in the middle of going to sleep: what took its place is to be looked at.
            news_.store(true, std::memory_order_relaxed);
        }
    }
}

/// What is there but to let go is left to find(). Who has ended may still write, out of malice: so
/// few records are passed over.
void Subscriber::drop_ended() {
    for (std::size_t i = source_.attachments().size(); i-- != 0;) {
        Attached& attached = static_cast<Attached&>(*source_.attachments()[i]);
        if (!attached.ended || loan_ == &attached) {
            continue;
        }
        RingReader& reader = attached.reader();
        protocol::Record record;
        RingReader::Look found = reader.look(record);
        for (u32 skips = 0; skips < kSkipsMax && found == RingReader::Look::record &&
                            !accepts(attached, record) && reader.intact(record.position);
             skips++) {
            reader.advance(record);
            attached.moved();
            found = reader.look(record);
        }
        if (found == RingReader::Look::empty || found == RingReader::Look::closed) {
            let_go(attached, found == RingReader::Look::closed);
        }
    }
}

i64 Subscriber::orphaned_ns(const Attached& attached) const {
    const auto known =
        std::find_if(orphaned_links_.rbegin(), orphaned_links_.rend(),
                     [&](const auto& entry) { return entry.first == &attached.ring().link(); });
    return known == orphaned_links_.rend() ? 0 : known->second;
}

// -------------------------------------------------------------------------------------- asides

Aside& Subscriber::aside(Attached& attached) {
    if (!attached.has_aside) {
        asides_.push_back({&attached});
        attached.has_aside = true;
    }
    return const_cast<Aside&>(known_aside(attached));
}

/// Of one that has an aside.
const Aside& Subscriber::known_aside(const Attached& attached) const {
    return *std::find_if(asides_.begin(), asides_.end(),
                         [&](const Aside& aside) { return aside.attached == &attached; });
}

void Subscriber::drop_if_empty(Attached& attached) {
    if (const Aside& known = aside(attached);
        known.passed_over == 0 && known.lost_before_start == 0) {
        asides_.erase(asides_.begin() + (&known - asides_.data()));
        attached.has_aside = false;
    }
}

u64 Subscriber::passed_over(const Attached& attached) const {
    return attached.has_aside ? known_aside(attached).passed_over : 0;
}

void Subscriber::forget_passed_over(Attached& attached) {
    aside(attached).passed_over = 0;
    drop_if_empty(attached);
}

u64 Subscriber::lost_before_start(const Attached& attached) const {
    return attached.has_aside ? known_aside(attached).lost_before_start : 0;
}

void Subscriber::forget_lost_before_start(Attached& attached) {
    aside(attached).lost_before_start = 0;
    drop_if_empty(attached);
}

}  // namespace ipcbus::client
