// SPDX-License-Identifier: Apache-2.0
// What a client is told by itself: who its peers are, who reads what it writes, what it may read.
// Written from the state of the moment when there is room to send, never queued: a client that does
// not read costs no more than what there is to tell. Part of the bus (bus.hpp), the daemon's one
// thread. tell_publication: checked by tests/model/join.pml.
#include "bus.hpp"

#include <algorithm>
#include <bit>

namespace ipcbus::daemon {

namespace {

/// Enough for a few thousand readers to go out at once, little enough to be had per client.
constexpr std::size_t kStateBytesMax = 64 * 1024;

/// State frames leave the better part of what a client may leave unread to its answers.
std::size_t room_for_state(std::uint64_t unread_bytes_max) {
    return std::min<std::size_t>(kStateBytesMax, unread_bytes_max / 2);
}

/// Introduces what is `wanted` of a peer's pages and was not introduced before. False: no
/// descriptors may be sent now; `and_fds` more are to follow with the next frame.
bool introduce(PeerLink& link, std::uint8_t wanted, unsigned and_fds, Outbox& outbox) {
    const auto missing = static_cast<std::uint8_t>(wanted & ~link.told);
    if (static_cast<unsigned>(std::popcount(missing)) + and_fds > outbox.credit()) {
        return false;
    }
    if (missing == 0) {
        return true;
    }
    protocol::Peer frame;
    frame.client = link.pages->client;
    frame.geometry = link.pages->geometry;
    frame.pages = missing;
    std::vector<SharedFd> fds;
    if ((missing & protocol::kPeerCursor) != 0) {
        fds.push_back(link.pages->cursor);
    }
    if ((missing & protocol::kPeerDoorbell) != 0) {
        fds.push_back(link.pages->doorbell);
    }
    outbox.add(frame, 0, std::move(fds),
               {.what = Outbox::Told::What::peer, .pages = missing, .id = frame.client});
    link.told |= missing;
    return true;
}

}  // namespace

void Bus::tell(Client& client, Outbox& outbox) {
    if (stopping_) {
        return;
    }
    const std::size_t room = room_for_state(unread_bytes_max());
    while (!client.peers_to_drop.empty() && outbox.bytes() < room) {
        protocol::PeerGone frame;
        frame.client = *client.peers_to_drop.begin();
        outbox.add(frame, 0);
        client.forget_peer(frame.client);
    }
    tell_publications(client, outbox);  // writers first: they may be waiting for it
    bool replies_ended = false;
    while (!client.attachments_to_tell.empty() && outbox.bytes() < room) {
        const auto first = client.attachments_to_tell.begin();
        if (client.attaching && first->second->subscription->id == client.attaching->subscription) {
            break;  // SUBSCRIBED comes first
        }
        if (!tell_attachment(client, *first->second, outbox)) {
            break;  // all the others want descriptors, too, or can wait as well
        }
        replies_ended = replies_ended || (first->second->end_told &&
                                          first->second->subscription->kind == Kind::replies);
        client.attachments_to_tell.erase(first);
    }
    // Behind the last ATTACHED that it waited for.
    while (!client.caught_up.empty() && outbox.bytes() < room) {
        outbox.add(protocol::CaughtUp{*client.caught_up.begin()}, 0);
        client.caught_up.erase(client.caught_up.begin());
    }
    while (!client.refusals_to_tell.empty() && outbox.bytes() < room) {
        const auto [answered, refusal] = *client.refusals_to_tell.begin();
        client.refusals_to_tell.erase(client.refusals_to_tell.begin());
        protocol::Refused frame;
        frame.publication = attachments_.find(answered)->publication->about().id;
        frame.attachment = answered;
        frame.first = refusal.first;
        frame.last = refusal.last;
        frame.code = refusal.code;
        outbox.add(frame, 0);
    }
    if (replies_ended) {
        tell_publications(client, outbox);  // of who answers no more, if it waited for that
    }
}

void Bus::tell_publications(Client& client, Outbox& outbox) {
    const std::size_t room = room_for_state(unread_bytes_max());
    for (auto next = client.publications_to_tell.begin();
         next != client.publications_to_tell.end() && outbox.bytes() < room;) {
        const auto current = next++;
        if (tell_publication(client, *current->second, outbox)) {
            client.publications_to_tell.erase(current);
        }
    }
}

/// What the rules have changed about it: ahead of the MEMBERS that follow from that.
void Bus::tell_access(Publication& publication, Outbox& outbox) {
    if (publication.advertise_request != 0) {
        return;  // ADVERTISED comes first
    }
    if (publication.revoked.empty() && publication.move_due &&
        !std::exchange(publication.move_told, true)) {
        outbox.add(protocol::Move{publication.about().id}, 0);
    }
    if (std::exchange(publication.revocation_due, false)) {
        outbox.add(protocol::Revoked{publication.about().id, publication.revoked}, 0);
    }
}

/// True: nothing is left to tell for now.
bool Bus::tell_publication(Client& client, Publication& publication, Outbox& outbox) {
    tell_access(publication, outbox);
    const bool all_told = tell_members(client, publication, outbox);
    tell_access(publication, outbox);  // of one that was ADVERTISED just now
    return all_told;
}

/// ADVERTISED or MEMBERS. True: nothing is left to tell for now.
bool Bus::tell_members(Client& client, Publication& publication, Outbox& outbox) {
    const auto& about = publication.about();
    if (publication.state() == Publication::State::making || publication.arriving) {
        return true;  // once its ring is there, with its last reader it is told of
    }
    if (publication.advertise_request != 0) {
        if (outbox.credit() < 1) {
            return false;
        }
        protocol::Advertised frame;
        frame.publication = about.id;
        frame.index = about.index;
        frame.ring_bytes = about.ring_bytes;
        frame.record_bytes_max = about.record_bytes_max;
        frame.start = publication.first().position;
        frame.first_sequence = publication.first().sequence;
        outbox.add(frame, std::exchange(publication.advertise_request, 0), {publication.writable()},
                   {.what = Outbox::Told::What::advertised, .id = about.id});
    }
    Membership& membership = publication.membership;
    if (membership.due() && owes_replies(client, publication)) {
        return false;
    }
    while (membership.due()) {
        if (outbox.bytes() >= room_for_state(unread_bytes_max())) {
            return false;
        }
        protocol::Members frame;
        frame.publication = about.id;
        bool blocked = false;
        while (frame.attach.size() < protocol::kMembersPerFrameMax &&
               membership.next() != nullptr) {
            if (!introduce(client.peer(membership.next()->reader),
                           protocol::kPeerCursor | protocol::kPeerDoorbell, 0, outbox)) {
                blocked = true;
                break;
            }
            membership.tell_next(frame);
        }
        membership.tell_detached(frame);
        if (blocked && frame.attach.empty() && frame.detach.empty()) {
            return false;
        }
        membership.finish(frame);
        outbox.add(frame, 0);
        if (blocked) {
            return false;
        }
    }
    return true;
}

/// True: nothing is left to tell for now.
bool Bus::tell_attachment(Client& client, Attachment& attachment, Outbox& outbox) {
    Publication& publication = *attachment.publication;
    const auto& about = publication.about();
    if (attachment.reader_end == Attachment::Reader::ready) {
        if (!introduce(client.peer(about.publisher), protocol::kPeerDoorbell, 1, outbox)) {
            return false;
        }
        protocol::Attached frame;
        frame.subscription = attachment.subscription->id;
        frame.attachment = attachment.id;
        frame.publication = about.id;
        frame.peer = about.publisher;
        frame.index = about.index;
        frame.waiter = about.waiter;
        frame.slot = attachment.slot;
        frame.ring_bytes = about.ring_bytes;
        frame.record_bytes_max = about.record_bytes_max;
        frame.start = attachment.start;
        frame.start_sequence = attachment.start_sequence;
        frame.mode = static_cast<protocol::u8>(attachment.mode);
        frame.lineage = about.lineage;
        frame.uid = about.uid;
        frame.topic = about.topic;
        outbox.add(frame, 0, {publication.readable()},
                   {.what = Outbox::Told::What::attached, .id = attachment.id});
        set_reader_end(attachment, Attachment::Reader::told);
        attachment.shown = true;
        release_publication(publication);
    }
    if (attachment.end_reason != 0 && !attachment.end_told) {
        protocol::Ended frame;
        frame.attachment = attachment.id;
        frame.reason = attachment.end_reason;
        outbox.add(frame, 0);
        attachment.end_told = true;
        attachment.subscription->ends_owed--;
    }
    return true;
}

}  // namespace ipcbus::daemon
