// SPDX-License-Identifier: Apache-2.0
// LOOK: what is on the bus, a page at a time, for who may know. Reads what is there anyway: the
// daemon's own books, and words that publishers and readers keep for each other in their memory.
// Nothing is counted for it, nobody waits for it, and nothing is kept from one page to the next.
// Part of the bus (bus.hpp), the daemon's one thread.
//
// Who may know what: root and the daemon's own user all; others what is their uid's, and of their
// publications and subscriptions the attachments, whoever is at the other end (whose memory they
// can read anyway); unless statistics.visible says "all". A client over TCP is never root or that
// user, whatever number stands for it here.
#include "bus.hpp"

#include "protocol/topic.hpp"
#include "sys/clock.hpp"

#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>

namespace ipcbus::daemon {

using protocol::u64;
using protocol::u8;

namespace {

static_assert(static_cast<u8>(Kind::messages) == static_cast<u8>(protocol::LookKind::messages) &&
              static_cast<u8>(Kind::requests) == static_cast<u8>(protocol::LookKind::requests) &&
              static_cast<u8>(Kind::replies) == static_cast<u8>(protocol::LookKind::replies));

/// Things looked at for one page, shown or not: some hundred microseconds at most.
constexpr std::size_t kLookedAtMax = 1024;

template <class Page>
Page new_page(bool all) {
    Page page;
    page.head.time_ns = static_cast<u64>(sys::monotonic_ns());
    page.head.all = all ? 1 : 0;
    return page;
}

/// Of things by their ids, those after `after`. `tell` gets one, and adds its entry if it is to be
/// shown.
template <class Page, class Things, class Tell>
Page page_of(const Things& things, Id after, bool all, std::size_t entries_max, Tell tell) {
    auto page = new_page<Page>(all);
    auto next = things.upper_bound(after);
    for (std::size_t looked_at = 0; next != things.end(); ++next, ++looked_at) {
        if (looked_at == kLookedAtMax || page.entries.size() == entries_max) {
            page.head.next = std::prev(next)->first;
            break;
        }
        tell(next->first, *next->second, page.entries);
    }
    return page;
}

protocol::PublicationEntry entry_of(const Publication& publication) {
    const auto& about = publication.about();
    const protocol::RingFigures figures = publication.figures();
    protocol::PublicationEntry entry;
    entry.publication = about.id;
    entry.client = about.publisher;
    entry.uid = about.uid;
    entry.ring_bytes = about.ring_bytes;
    entry.record_bytes_max = about.record_bytes_max;
    entry.kind = static_cast<u8>(about.kind);
    entry.readers = publication.readers;
    entry.topic = about.topic;
    if (publication.ended()) {
        entry.flags |= protocol::kPublicationEnded;
        entry.readers = static_cast<protocol::u32>(publication.attachments.all().size());
    }
    if (publication.wanted() != 0) {
        entry.flags |= protocol::kPublicationBlocked;
    }
    if (figures.believable) {
        entry.messages = figures.sequence - publication.first().sequence;
        entry.bytes = figures.position - publication.first().position;
        entry.sequence = figures.sequence;
    } else {
        entry.flags |= protocol::kPublicationDisbelief;
    }
    return entry;
}

void tell_lag(const Attachment& attachment, u64 cursor, protocol::AttachmentEntry& ret_entry) {
    const Publication& publication = *attachment.publication;
    const protocol::RingFigures now = publication.figures();
    const protocol::Behind behind = publication.behind(now, attachment.start, cursor);
    if (!behind.believable) {
        ret_entry.flags |= protocol::kAttachmentDisbelief | protocol::kAttachmentUncounted;
        return;
    }
    ret_entry.lag_bytes = behind.bytes;
    ret_entry.lag_messages = behind.messages;
    if (!behind.counted) {
        ret_entry.flags |= protocol::kAttachmentUncounted;
    }
    if (behind.overtaken) {
        ret_entry.flags |= protocol::kAttachmentOvertaken;
    }
    // Who blocks is let go on by a cursor at `wanted`: by the last one that comes there. Requests
    // are addressed: only the writer knows whom those are to that it waits for, unless there is one
    // reader.
    const u64 wanted = publication.wanted();
    const bool known = publication.about().kind != Kind::requests || publication.readers == 1;
    if (wanted != 0 && known && attachment.mode == protocol::ReaderMode::reliable &&
        attachment.writer_end == Attachment::Writer::told &&
        protocol::distance(wanted, cursor) > 0) {
        ret_entry.flags |= protocol::kAttachmentHolds;
    }
}

protocol::AttachmentEntry entry_of(const Attachment& attachment, const Client& reader) {
    // Before anything of the ring: it is never ahead of an honest writer then.
    const ClientMemory::SlotFigures slot = reader.memory.slot(attachment.slot);
    protocol::AttachmentEntry entry;
    entry.attachment = attachment.id;
    entry.subscription = attachment.subscription->id;
    entry.publication = attachment.publication->about().id;
    entry.reader = reader.id;
    entry.writer = attachment.publication->about().publisher;
    entry.topic = attachment.publication->about().topic;
    entry.mode = static_cast<u8>(attachment.mode);
    entry.flags = protocol::is_parked(slot.parked) ? protocol::kAttachmentParked : u8{0};
    entry.received = slot.received;
    entry.lost = slot.lost;
    // Odd while it is parked, and it never goes back: two for each time.
    entry.sleeps = ((slot.parked >> protocol::kParkedWaiterBits) + 1) / 2;
    tell_lag(attachment, slot.cursor != 0 ? slot.cursor : attachment.start, entry);
    return entry;
}

}  // namespace

/// What a client may see, and what it asks for.
struct Bus::Viewer {
    bool all = false;
    uid_t uid = 0;
    const std::string& filter;

    /// Who asks is of this host: that of a remote one is no uid of his, though it may look like it.
    [[nodiscard]] bool sees(uid_t owner, bool remote) const {
        return all || (owner == uid && !remote);
    }
    [[nodiscard]] bool wants(const std::string& topic) const {
        // COLLECT has none: it goes by a lineage.
        return filter.empty() || (!topic.empty() && protocol::filters_intersect(filter, topic));
    }
};

void Bus::look(Client& client, u64 request, const protocol::Look& frame) {
    if (const char* fault = frame.filter.empty() ? "" : protocol::filter_fault(frame.filter);
        *fault != '\0') {
        client.session->refuse(
            request, sys::fail(EINVAL, fmt::format("'{}' is no filter: {}", frame.filter, fault)));
        return;
    }
    const bool privileged =
        !client.session->remote() && (client.uid == 0 || client.uid == ::geteuid());
    const Viewer viewer{config_.statistics.visible_to_all || privileged, client.uid, frame.filter};
    switch (static_cast<protocol::LookAt>(frame.at)) {
    case protocol::LookAt::clients:
        client.session->reply(page_of_clients(viewer, frame.after), request);
        return;
    case protocol::LookAt::publications:
        client.session->reply(page_of_publications(viewer, frame.after), request);
        return;
    case protocol::LookAt::subscriptions:
        client.session->reply(page_of_subscriptions(viewer, frame.after), request);
        return;
    case protocol::LookAt::attachments:
        client.session->reply(page_of_attachments(viewer, frame.after), request);
        return;
    }
    client.session->refuse(request,
                           sys::fail(EINVAL, fmt::format("LOOK: no such thing as {}", frame.at)));
}

protocol::ClientsPage Bus::page_of_clients(const Viewer& viewer, Id after) const {
    return page_of<protocol::ClientsPage>(
        clients_, after, viewer.all, protocol::kClientsPerPageMax,
        [&](Id, const Client& client, std::vector<protocol::ClientEntry>& entries) {
            if (!viewer.sees(client.uid, client.identity.remote)) {
                return;
            }
            protocol::ClientEntry& entry = entries.emplace_back();
            entry.client = client.id;
            entry.uid = client.uid;
            entry.pid = static_cast<protocol::u32>(client.session->pid());
            entry.transport = static_cast<u8>(client.session->remote() ? protocol::Transport::tcp
                                                                       : protocol::Transport::shm);
            entry.publications = static_cast<protocol::u32>(client.publications.size());
            entry.subscriptions = static_cast<protocol::u32>(client.subscriptions.size());
            entry.sleeps = client.memory.sleeps(entry.waiters);
            entry.name = client.name;
        });
}

protocol::PublicationsPage Bus::page_of_publications(const Viewer& viewer, Id after) const {
    return page_of<protocol::PublicationsPage>(
        publications_, after, viewer.all, protocol::kPublicationsPerPageMax,
        [&](Id, const Publication& publication, std::vector<protocol::PublicationEntry>& entries) {
            const auto& about = publication.about();
            if (viewer.sees(about.uid, about.remote) && viewer.wants(about.topic)) {
                entries.push_back(entry_of(publication));
            }
        });
}

protocol::SubscriptionsPage Bus::page_of_subscriptions(const Viewer& viewer, Id after) const {
    return page_of<protocol::SubscriptionsPage>(
        subscriptions_, after, viewer.all, protocol::kSubscriptionsPerPageMax,
        [&](Id id, const Client& client, std::vector<protocol::SubscriptionEntry>& entries) {
            const Subscription& subscription = client.subscriptions.at(id);
            if (!viewer.sees(client.uid, client.identity.remote) ||
                !viewer.wants(subscription.filter)) {
                return;
            }
            protocol::SubscriptionEntry& entry = entries.emplace_back();
            entry.subscription = id;
            entry.client = client.id;
            entry.uid = client.uid;
            entry.mode = static_cast<u8>(subscription.mode);
            entry.kind = static_cast<u8>(subscription.kind);
            entry.attachments = static_cast<protocol::u32>(subscription.attachments.all().size());
            entry.filter = subscription.filter;
        });
}

/// By their places in the table, where each stays until it is over.
protocol::AttachmentsPage Bus::page_of_attachments(const Viewer& viewer, u64 after) const {
    auto page = new_page<protocol::AttachmentsPage>(viewer.all);
    const std::size_t places = attachments_.places();
    std::size_t place = std::min<u64>(after, places);
    const std::size_t end = std::min(place + kLookedAtMax, places);
    for (; place < end; place++) {
        const Attachment* attachment = attachments_.at_place(place);
        if (attachment == nullptr || attachment->subscription == nullptr) {
            continue;  // none, or its reader has let go
        }
        const auto& about = attachment->publication->about();
        const Client& reader = *clients_.at(attachment->reader);
        if (!(viewer.sees(about.uid, about.remote) ||
              viewer.sees(reader.uid, reader.identity.remote)) ||
            !viewer.wants(about.topic)) {
            continue;
        }
        if (page.entries.size() == protocol::kAttachmentsPerPageMax) {
            break;
        }
        page.entries.push_back(entry_of(*attachment, reader));
    }
    page.head.next = place < places ? place : 0;
    return page;
}

}  // namespace ipcbus::daemon
