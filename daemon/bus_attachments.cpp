// SPDX-License-Identifier: Apache-2.0
// Requests of subscribers, what writers say of their readers, and attaching and detaching. See
// bus.hpp; the protocol of joining is in protocol/join.hpp.
// attach, detach_at_writer, taken: checked by tests/model/join.pml.
#include "bus.hpp"

#include "log.hpp"
#include "protocol/fence.hpp"
#include "protocol/topic.hpp"
#include "sys/clock.hpp"

namespace ipcbus::daemon {

using protocol::ReaderMode;
using protocol::u32;
using protocol::u64;

namespace {

/// How much longer than stall_timeout a uid that stalled a publisher gets lossy attachments only.
constexpr std::int64_t kSuspensionFactor = 10;

/// A page of slots, and what the daemon keeps of an attachment, its slot included.
constexpr std::size_t kSlotsPerCharge = protocol::kPageBytes / sizeof(protocol::CursorSlot);
constexpr std::size_t kAttachmentBytes = 384;

}  // namespace

// ------------------------------------------------------------------------------------- SUBSCRIBE

void Bus::subscribe(Client& client, u64 request, const protocol::SubscribeFrom& frame) {
    if (stopping_) {
        client.session->refuse(request, stopping_error());
        return;
    }
    if (frame.mode > static_cast<protocol::u8>(ReaderMode::latest)) {
        client.session->refuse(
            request, sys::fail(EINVAL, fmt::format("subscription '{}': no mode {}", frame.filter,
                                                   frame.mode)));
        return;
    }
    Subscription asked_for;
    asked_for.filter = frame.filter;
    asked_for.mode = static_cast<ReaderMode>(frame.mode);
    asked_for.history = frame.history;
    asked_for.beginning = frame.history != 0;
    begin_subscription(client, request, std::move(asked_for));
}

/// The subscription, of any kind, as far as the client's frame says; its attachments follow.
void Bus::begin_subscription(Client& client, u64 request, Subscription asked_for) {
    const Kind kind = asked_for.kind;
    const std::string& filter = asked_for.filter;
    const std::string what = kind == Kind::replies ? "subscription to replies"
                                                   : fmt::format("subscription '{}'", filter);
    const char* fault = kind == Kind::replies ? "" : protocol::filter_fault(filter);
    if (*fault != '\0') {
        client.session->refuse(
            request, sys::fail(EINVAL, fmt::format("'{}' is no filter: {}", filter, fault)));
        return;
    }
    if (auto allowed = may_subscribe(client, asked_for, what); !allowed.ok()) {
        client.session->refuse(request, allowed.error());
        return;
    }
    auto charge = quota_.charge(client.uid, Amounts{.subscriptions = 1}, what);
    if (!charge.ok()) {
        client.session->refuse(request, charge.error());
        return;
    }
    std::vector<Id> matches;
    if (kind != Kind::replies) {
        matches = registry_of(kind).publications_matching(filter);
    }
    if (auto provided = provide_slots(client, matches.size(), what); !provided.ok()) {
        client.session->refuse(request, provided.error());
        return;
    }
    const Id id = registry_.next_id();
    asked_for.id = id;
    asked_for.client = client.id;
    asked_for.charge = std::move(charge).value();
    Subscription& subscription =
        client.subscriptions.emplace(id, std::move(asked_for)).first->second;
    subscriptions_.emplace(id, &client);
    if (kind != Kind::replies) {
        registry_of(kind).add_subscription(subscription.filter, id);
    } else {
        client.collectors.emplace(subscription.collects, &subscription);
    }
    client.attaching =
        Attaching{.subscription = id, .request = request, .publications = std::move(matches)};
    if (subscription.history != 0) {
        // What was published before this was asked for is to be there, and the MAPPED of its
        // publisher may be among what has been received, but comes to its turn later: completions
        // have no order.
        client.attaching->behind = to_work_.added();
        return;
    }
    attach_some(client);
}

void Bus::unsubscribe(Client& client, u64 request, Id id) {
    const auto found = client.subscriptions.find(id);
    if (found == client.subscriptions.end()) {
        client.session->refuse(request, sys::fail(ENOENT, fmt::format("no subscription {}", id)));
        return;
    }
    end_subscription(client, found->second);
    client.session->reply(protocol::Done{}, request);
}

void Bus::end_subscription(Client& client, Subscription& subscription) {
    if (subscription.kind != Kind::replies) {
        registry_of(subscription.kind).remove_subscription(subscription.filter, subscription.id);
    } else {
        client.collectors.erase(subscription.collects);
    }
    const std::vector<Attachment*> all = subscription.attachments.all();
    for (Attachment* attachment : all) {
        let_go(*attachment);
    }
    const Id id = subscription.id;
    subscriptions_.erase(id);
    client.incomplete.erase(id);
    client.caught_up.erase(id);
    client.subscriptions.erase(id);
}

void Bus::detached(Client& client, Id id) {
    Attachment* attachment = attachments_.find(id);
    // One that is gone, or another client's: the reader may have crossed with its end.
    if (attachment != nullptr && attachment->reader == client.id &&
        attachment->subscription != nullptr) {
        let_go(*attachment);
    }
}

// ------------------------------------------------------------------------------ TAKEN, COMPLAIN

void Bus::taken(Client& client, const protocol::Taken& frame) {
    const auto found = client.publications.find(frame.publication);
    if (found == client.publications.end()) {
        return;  // ended meanwhile
    }
    Publication& publication = *found->second;
    std::vector<Attachment*> gone;
    if (!publication.membership.taken(frame.number, gone)) {
        client.session->fail(0, sys::fail(EPROTO, "TAKEN: a number that was not sent"));
        return;
    }
    for (Attachment* attachment : gone) {
        client.release_peer(attachment->reader);
        release_if_over(*attachment);
    }
    if (publication.membership.due()) {
        client.publications_to_tell.emplace(frame.publication, &publication);
    }
    client.session->touch();
}

void Bus::complain(Client& client, const protocol::Complain& frame) {
    const auto publication = client.publications.find(frame.publication);
    Attachment* found = attachments_.find(frame.attachment);
    if (publication == client.publications.end() || found == nullptr ||
        found->publication != publication->second ||
        found->writer_end != Attachment::Writer::told) {
        log_debug("{}: complaint about attachment {}, which is none of its readers",
                  client.describe(), frame.attachment);
        return;
    }
    Attachment& attachment = *found;
    const bool reliable = attachment.mode == ReaderMode::reliable;
    const Client& reader = *find_client(attachment.reader);
    const std::string& topic = publication->second->about().topic;
    if (frame.complaint == static_cast<protocol::u8>(protocol::Complaint::stalled)) {
        const std::int64_t until_ns =
            sys::monotonic_ns() +
            kSuspensionFactor * static_cast<std::int64_t>(config_.publications.stall_timeout_ns);
        if (reliable && may_log()) {
            log_info("{} stalled the publisher of '{}': lossy from now on", reader.describe(),
                     topic);
        }
        attachment.mode = ReaderMode::lossy;
        publication->second->suspend(reader.uid, until_ns);
    } else if (frame.complaint == static_cast<protocol::u8>(protocol::Complaint::bad_cursor)) {
        if (may_log()) {
            log_info("{} shows a cursor out of range to the publisher of '{}': detached",
                     reader.describe(), topic);
        }
        detach(attachment);
    } else {
        client.session->fail(0, sys::fail(EPROTO, "COMPLAIN: an unknown complaint"));
    }
}

// ----------------------------------------------------------------------------- attach and detach

/// Attachments are counted per client, and above a first page of slots they are paid for as rings
/// are: clients times publications would be a number that nobody has limited.
sys::Result<void> Bus::provide_slots(Client& client, std::size_t count, std::string_view what) {
    const std::size_t used = client.slots.count() - client.slots.free();
    if (count > client.slots.free()) {
        return sys::fail(EDQUOT, fmt::format("{}: refused: it matches {} publications, the client "
                                             "has {} of {} attachments in use; raise {}",
                                             what, count, used, client.slots.count(),
                                             key::kAttachmentsPerClient));
    }
    while ((client.slot_charges.size() + 1) * kSlotsPerCharge < used + count) {
        client.slot_charges.push_back(IPCBUS_TRY(quota_.charge(
            client.uid, Amounts{.ring_bytes = kSlotsPerCharge * kAttachmentBytes}, what)));
    }
    return {};
}

/// For one more.
sys::Result<void> Bus::make_room(Client& reader, std::string_view what) {
    IPCBUS_TRY(provide_slots(reader, 1, what));
    return reader.memory.back_slot(reader.slots.next());
}

/// Not done: the reader has no room, and the caller notes what it lacks; or it may not read it; or
/// the ring's content is a lie.
Bus::Attach Bus::attach(Publication& publication, Subscription& subscription) {
    const auto& about = publication.about();
    Client& writer = *find_client(about.publisher);
    Client& reader = *find_client(subscription.client);
    if (!may_read(reader, publication)) {
        return Attach::denied;
    }
    if (auto room = make_room(reader, fmt::format("attaching to '{}'", about.topic)); !room.ok()) {
        if (reader.incomplete.empty() && may_log()) {
            log_warning("{}: not attached: {}", reader.describe(), room.error().what);
        }
        if (about.kind != Kind::replies) {  // whose responder is told, and may try again
            retry_soon();
        }
        return Attach::no_room;
    }
    const u32 slot = reader.slots.take();
    // [J1] [J2] of protocol/join.hpp; settle() is [J3] and [J4]. The frames [J5] come later, from
    // what is written down here.
    publication.membership.raise();
    writer.memory.store_attention(about.index, publication.membership.number());
    protocol::full_fence();
    protocol::Start start;
    if (!publication.settle(subscription.history, start)) {
        if (!std::exchange(publication.blamed, true) && may_log()) {
            log_warning("{}: the ring of '{}' says what cannot be true: nobody is attached to it",
                        writer.describe(), about.topic);
        }
        reader.slots.give_back(slot);
        changed(publication);
        return Attach::bad_ring;
    }
    const Id id = registry_.next_id();
    Attachment& attachment = attachments_.add(id);
    attachment.publication = &publication;
    attachment.subscription = &subscription;
    attachment.reader = reader.id;
    attachment.start = start.position;
    attachment.start_sequence = start.sequence;
    attachment.slot = slot;
    attachment.mode = subscription.mode;
    if (attachment.mode == ReaderMode::reliable &&
        (publication.suspended(reader.uid, sys::monotonic_ns()) ||
         (about.kind == Kind::messages &&
          !reader.access.may(Right::subscribe_reliably, about.topic)))) {
        attachment.mode = ReaderMode::lossy;
    }
    publication.attachments.add(attachment);
    subscription.attachments.add(attachment);
    publication.membership.attach(attachment);
    writer.memory.store_readers(about.index, ++publication.readers);
    writer.use_peer(reader.memory.pages());
    reader.use_peer(publication.publisher_pages());
    changed(publication);
    const bool open = publication.state() == Publication::State::open;
    if (subscription.beginning && (open || publication.state() == Publication::State::sealing)) {
        await(attachment);  // nothing but us and the kernel is waited for
    }
    if (open) {
        set_reader_end(attachment, Attachment::Reader::ready);
        tell_reader(attachment);
    }
    return Attach::done;
}

void Bus::set_reader_end(Attachment& attachment, Attachment::Reader reader_end) {
    Publication& publication = *attachment.publication;
    publication.ready -= attachment.reader_end == Attachment::Reader::ready ? 1 : 0;
    publication.ready += reader_end == Attachment::Reader::ready ? 1 : 0;
    attachment.reader_end = reader_end;
    const bool settled =
        reader_end == Attachment::Reader::told || reader_end == Attachment::Reader::gone;
    if (attachment.awaited && settled) {
        attachment.awaited = false;
        Subscription& subscription = *attachment.subscription;
        subscription.awaited--;
        tell_caught_up(subscription);
    }
}

/// CAUGHT_UP waits for its ATTACHED.
void Bus::await(Attachment& attachment) {
    attachment.awaited = true;
    attachment.subscription->awaited++;
}

/// If it has.
void Bus::tell_caught_up(Subscription& subscription) {
    if (subscription.history != 0 && !subscription.beginning && subscription.awaited == 0) {
        Client& reader = *find_client(subscription.client);
        reader.caught_up.insert(subscription.id);
        reader.session->touch();
    }
}

/// The writer shall count it no more.
void Bus::detach_at_writer(Attachment& attachment) {
    if (attachment.writer_end != Attachment::Writer::untold &&
        attachment.writer_end != Attachment::Writer::told) {
        return;
    }
    Publication& publication = *attachment.publication;
    const u32 index = publication.about().index;
    Client& writer = *find_client(publication.about().publisher);
    publication.membership.raise();
    publication.membership.detach(attachment);
    publication.readers--;
    if (!stopping_) {
        writer.memory.store_attention(index, publication.membership.number());
        writer.memory.store_readers(index, publication.readers);
    }
    if (attachment.writer_end == Attachment::Writer::gone) {
        writer.release_peer(attachment.reader);
    }
    changed(publication);
}

/// The reader reads it no more: it is told so, if it has it.
void Bus::detach(Attachment& attachment) {
    detach_at_writer(attachment);
    if (attachment.shown) {
        owe_end(attachment, protocol::EndReason::detached);
        tell_reader(attachment);
    } else {
        let_go(attachment);
    }
}

/// The publication has ended: its writer counts nobody any more.
void Bus::writer_gone(Attachment& attachment) {
    if (attachment.writer_end != Attachment::Writer::gone) {
        attachment.publication->membership.forget(attachment);
        if (Client* writer = find_client(attachment.publication->about().publisher)) {
            writer->release_peer(attachment.reader);
            writer->session->touch();
        }
    }
    release_if_over(attachment);
}

/// The reader has unmapped the ring and zeroed the slot, or is dead, or never saw either.
void Bus::let_go(Attachment& attachment) {
    detach_at_writer(attachment);
    if (attachment.reader_end != Attachment::Reader::gone) {
        set_reader_end(attachment, Attachment::Reader::gone);
        Client& reader = *find_client(attachment.reader);
        reader.attachments_to_tell.erase(attachment.id);
        reader.release_peer(attachment.publication->about().publisher);
        reader.session->touch();
        Subscription& subscription = *attachment.subscription;
        if (attachment.end_reason != 0 && !attachment.end_told) {
            subscription.ends_owed--;
        }
        subscription.attachments.remove(attachment);
        attachment.subscription = nullptr;
        if (subscription.kind == Kind::requests) {
            end_replies(attachment);
        } else if (subscription.kind == Kind::replies) {
            abandon_replies(*attachment.publication);
        }
    }
    release_if_over(attachment);
}

/// Its reader is to be told that it has ended, once there is room; unless he has been owed that
/// before, or has let go.
void Bus::owe_end(Attachment& attachment, protocol::EndReason reason) {
    if (attachment.end_reason != 0) {
        return;
    }
    attachment.end_reason = static_cast<std::uint8_t>(reason);
    if (attachment.subscription != nullptr) {
        attachment.subscription->ends_owed++;
    }
}

void Bus::release_if_over(Attachment& attachment) {
    if (!attachment.over()) {
        return;
    }
    IPCBUS_ASSERT(attachment.chain == 0);  // else its neighbours would go on pointing here
    Publication& publication = *attachment.publication;
    publication.attachments.remove(attachment);
    if (Client* reader = find_client(attachment.reader)) {
        reader->slots.give_back(attachment.slot);
        retry(*reader);
    }
    attachments_.erase(attachment);
    release_publication(publication);
}

void Bus::tell_reader(Attachment& attachment) {
    Client& reader = *find_client(attachment.reader);
    reader.attachments_to_tell.emplace(attachment.id, &attachment);
    reader.session->touch();
}

void Bus::changed(Publication& publication) {
    Client& writer = *find_client(publication.about().publisher);
    writer.publications_to_tell.emplace(publication.about().id, &publication);
    writer.session->touch();
}

}  // namespace ipcbus::daemon
