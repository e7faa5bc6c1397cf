// SPDX-License-Identifier: Apache-2.0
// Requests and replies: who asks, who serves, and the rings through which is answered, each with
// one reader. What they are for: protocol/exchange.hpp. Part of the bus (bus.hpp), the daemon's one
// thread.
#include "bus.hpp"

#include "log.hpp"
#include "protocol/exchange.hpp"
#include "protocol/topic.hpp"

#include <utility>

namespace ipcbus::daemon {

using protocol::u64;

namespace {

sys::Error not_collected(const std::string& topic) {
    return sys::fail(ENOENT, fmt::format("replies of '{}': the requester does not collect them "
                                         "(any more)",
                                         topic));
}

u64 charged_bytes(const Publication::Description& about) {
    return about.ring_bytes + protocol::kRingDataOffset;
}

}  // namespace

void Bus::ask(Client& client, u64 request, const protocol::Ask& frame) {
    if (stopping_) {
        client.session->refuse(request, stopping_error());
        return;
    }
    const std::string& topic = frame.publication.topic;
    if (protocol::has_wildcards(topic)) {
        client.session->refuse(
            request, sys::fail(EINVAL, fmt::format("'{}': requests go to one topic, without "
                                                   "wildcards",
                                                   topic)));
        return;
    }
    if (auto replies = config_.ring_for(topic, frame.reply_ring_bytes); !replies.ok()) {
        client.session->refuse(request, replies.error());
        return;
    }
    if (repeated(client, request, Kind::requests, frame.publication) != nullptr) {
        return;
    }
    // Who serves has one ring of replies for each: how many there are is not for who asks to say.
    if (client.asking.count(frame.publication.lineage) != 0) {
        client.session->refuse(
            request, sys::fail(EEXIST, fmt::format("requests to '{}': refused: the client has a "
                                                   "ring of that lineage: it is to end that first",
                                                   topic)));
        return;
    }
    Publication::Description about;
    about.kind = Kind::requests;
    about.reply_ring_bytes = frame.reply_ring_bytes;
    auto requests = new_publication(client, client.uid, frame.publication, std::move(about));
    if (requests.ok()) {
        client.asking.insert(frame.publication.lineage);
    }
    make_publication(client, request, std::move(requests));
}

void Bus::serve(Client& client, u64 request, const protocol::Serve& frame) {
    if (stopping_) {
        client.session->refuse(request, stopping_error());
        return;
    }
    Subscription asked_for;
    asked_for.kind = Kind::requests;
    asked_for.filter = frame.filter;
    begin_subscription(client, request, std::move(asked_for));
}

void Bus::collect(Client& client, u64 request, const protocol::Collect& frame) {
    if (stopping_) {
        client.session->refuse(request, stopping_error());
        return;
    }
    // Said again, because its connection broke before the answer came.
    if (const Subscription* known = collector(client.id, frame.lineage); known != nullptr) {
        protocol::Subscribed answer;
        answer.subscription = known->id;
        client.session->reply(answer, request);
        return;
    }
    Subscription asked_for;
    asked_for.kind = Kind::replies;
    asked_for.collects = frame.lineage;
    begin_subscription(client, request, std::move(asked_for));
}

void Bus::respond(Client& client, u64 request, const protocol::Respond& frame) {
    if (stopping_) {
        client.session->refuse(request, stopping_error());
        return;
    }
    // Said again, because its connection broke before the answer came.
    if (const auto known = replies_.find(frame.attachment); known != replies_.end()) {
        if (const auto unmapped = client.unmapped.find(known->second);
            unmapped != client.unmapped.end()) {
            unmapped->second->advertise_request = request;
            changed(*unmapped->second);
            return;
        }
    }
    auto replies = new_replies(client, frame);
    if (!replies.ok()) {
        tell_refusal(frame.attachment, frame.sequence, replies.error().code);
    }
    make_publication(client, request, std::move(replies));
}

/// Who asks is told, too, that he will not be answered: it is for him to know, and his limit may be
/// the reason. Several that he has not been told of yet are one range to him: what he has asked in
/// between and still awaits fails with them, though it might have been answered yet.
void Bus::tell_refusal(Id answered, u64 sequence, int code) {
    if (code != EDQUOT && code != ENOSPC && code != EMFILE && code != ENOMEM) {
        return;
    }
    const Attachment* attachment = attachments_.find(answered);
    if (attachment == nullptr || attachment->subscription == nullptr ||
        attachment->publication->ended()) {
        return;
    }
    Client& requester = *find_client(attachment->publication->about().publisher);
    Refusal& refusal = requester.refusals_to_tell
                           .try_emplace(answered, Refusal{.first = sequence, .last = sequence})
                           .first->second;
    refusal.first = protocol::distance(sequence, refusal.first) < 0 ? sequence : refusal.first;
    refusal.last = protocol::distance(sequence, refusal.last) > 0 ? sequence : refusal.last;
    refusal.code = static_cast<std::uint32_t>(code);
    requester.session->touch();
}

/// Each requester takes a publication of who answers it: a user has no more of another one's than
/// half. And of what that one may have in bytes no more than a quarter is kept by who answers when
/// nobody reads it any more: who works for long has a ring or two of that kind.
sys::Result<void> Bus::may_be_answered(uid_t asks, uid_t answers) const {
    const auto known = replies_between_.find({asks, answers});
    const std::uint64_t most = (config_.limits.per_uid.publications + 1) / 2;
    if (known == replies_between_.end()) {
        return {};
    }
    const RepliesBetween& between = known->second;
    if (between.abandoned_bytes >= config_.limits.per_uid.ring_bytes / 4) {
        return sys::fail(EDQUOT,
                         fmt::format("replies to uid {}: refused: uid {} keeps {} in rings of "
                                     "replies to requesters of it that have gone, a quarter of "
                                     "what that one may have: it is to end those first, or raise "
                                     "{}",
                                     asks, answers, format_bytes(between.abandoned_bytes),
                                     key::kUidRingBytes));
    }
    if (between.rings < most) {
        return {};
    }
    return sys::fail(EDQUOT,
                     fmt::format("replies to uid {}: refused: uid {} answers it in {} rings, half "
                                 "of what it may have; raise {}",
                                 asks, answers, between.rings, key::kUidPublications));
}

/// The ring is as large as the requester says, who has no say in how many there are.
sys::Result<uid_t> Bus::payer_of_replies(const Subscription& reader,
                                         const Publication::Description& asked,
                                         uid_t answers) const {
    const auto paid_for = reader.pays_for.find(answers);
    if (paid_for == reader.pays_for.end() || paid_for->second < protocol::kRepliesPaidFor) {
        return asked.uid;
    }
    const RingSizing ring =
        IPCBUS_TRY(config_.ring_for(asked.topic, asked.reply_ring_bytes));
    if (answers != asked.uid && ring.bytes > protocol::kReplyRingPaidBytesMax) {
        return sys::fail(EDQUOT,
                         fmt::format("replies of '{}': refused: {} responders of uid {} have a "
                                     "ring at the requester's expense, and further ones of {} at "
                                     "most, not of {}: ask for smaller replies, or serve by fewer",
                                     asked.topic, paid_for->second, answers,
                                     format_bytes(protocol::kReplyRingPaidBytesMax),
                                     format_bytes(ring.bytes)));
    }
    return answers;
}

sys::Result<Publication*> Bus::new_replies(Client& client, const protocol::Respond& frame) {
    const Attachment* attachment = attachments_.find(frame.attachment);
    if (attachment == nullptr || attachment->reader != client.id ||
        attachment->subscription == nullptr || attachment->reader_end != Attachment::Reader::told ||
        attachment->publication->about().kind != Kind::requests ||
        attachment->publication->ended()) {
        return sys::fail(ENOENT, fmt::format("RESPOND: nobody asks through attachment {} (any "
                                             "more)",
                                             frame.attachment));
    }
    if (replies_.count(frame.attachment) != 0) {
        return sys::fail(EBUSY,
                         fmt::format("RESPOND: attachment {} has, or had, a ring: there is no "
                                     "second one",
                                     frame.attachment));
    }
    const Publication::Description& asked = attachment->publication->about();
    Subscription* reader = collector(asked.publisher, asked.lineage);
    if (reader == nullptr) {
        return not_collected(asked.topic);
    }
    if (asked.uid != client.uid) {
        IPCBUS_TRY(may_be_answered(asked.uid, client.uid));
    }
    const uid_t payer = IPCBUS_TRY(payer_of_replies(*reader, asked, client.uid));
    protocol::Advertise ring;
    ring.topic = asked.topic;
    ring.ring_bytes = asked.reply_ring_bytes;
    ring.waiter = frame.waiter;
    ring.first_sequence = 1;
    Publication::Description about;
    about.kind = Kind::replies;
    about.answers = frame.attachment;
    about.asks = asked.uid;
    about.answers_first = frame.sequence;
    Publication* replies = IPCBUS_TRY(new_publication(client, payer, ring, std::move(about)));
    replies_.emplace(frame.attachment, replies->about().id);
    if (replies->about().asks != client.uid) {
        replies_between_[{replies->about().asks, client.uid}].rings++;
    }
    if (payer != client.uid) {
        replies->paid_by = reader->id;
        reader->pays_for[client.uid]++;
    }
    return replies;
}

/// Its reader has let go of a ring of replies. If it has not ended, who answers there still has it,
/// and the requester pays for it: so who answers is told to let go, too, by being asked no more.
void Bus::abandon_replies(Publication& replies) {
    const auto& about = replies.about();
    if (replies.ended() || replies.abandoned) {
        return;
    }
    replies.abandoned = true;
    if (replies.paid_by != 0 && about.asks != about.uid) {
        replies_between_.at({about.asks, about.uid}).abandoned_bytes += charged_bytes(about);
    }
    Attachment* answered = attachments_.find(about.answers);
    if (answered != nullptr && answered->subscription != nullptr &&
        !answered->publication->ended()) {
        detach(*answered);
    }
}

/// It has ended, or goes.
void Bus::end_abandonment(Publication& publication) {
    const auto& about = publication.about();
    if (std::exchange(publication.abandoned, false) && publication.paid_by != 0 &&
        about.asks != about.uid) {
        replies_between_.at({about.asks, about.uid}).abandoned_bytes -= charged_bytes(about);
    }
}

/// A ring of replies is no more.
void Bus::forget_replies(const Publication& replies) {
    const auto& about = replies.about();
    if (const auto client = subscriptions_.find(replies.paid_by); client != subscriptions_.end()) {
        Subscription& reader = client->second->subscriptions.at(replies.paid_by);
        if (const auto count = reader.pays_for.find(about.uid); --count->second == 0) {
            reader.pays_for.erase(count);
        }
    }
    if (about.asks == about.uid) {
        return;
    }
    const auto count = replies_between_.find({about.asks, about.uid});
    if (--count->second.rings == 0) {
        replies_between_.erase(count);
    }
}

/// Through that attachment nothing more is asked, or nobody is there who could answer: so nothing
/// more is answered. The requester reads what there is. The ring is its publisher's until he says
/// UNADVERTISE: he may be writing.
void Bus::end_replies(const Attachment& answered) {
    if (Client* requester = find_client(answered.publication->about().publisher)) {
        requester->refusals_to_tell.erase(answered.id);
    }
    const auto found = replies_.find(answered.id);
    if (found == replies_.end()) {
        return;
    }
    const auto known = publications_.find(found->second);
    replies_.erase(found);
    if (known == publications_.end() || known->second->ended()) {
        return;
    }
    Publication& replies = *known->second;
    const std::vector<Attachment*> readers = replies.attachments.all();
    for (Attachment* attachment : readers) {
        if (attachment->reader_end == Attachment::Reader::gone) {
            continue;
        }
        detach_at_writer(*attachment);
        if (attachment->reader_end == Attachment::Reader::waiting &&
            replies.state() != Publication::State::sealing) {
            let_go(*attachment);
            continue;
        }
        owe_end(*attachment, protocol::EndReason::publisher_gone);
        if (attachment->reader_end == Attachment::Reader::told) {
            tell_reader(*attachment);
        }
    }
}

/// What that client has to collect replies to requests of that lineage; null: nothing.
Subscription* Bus::collector(Id requester, const protocol::Id128& lineage) {
    Client* client = find_client(requester);
    if (client == nullptr) {
        return nullptr;
    }
    const auto found = client->collectors.find(lineage);
    return found == client->collectors.end() ? nullptr : found->second;
}

/// The ring is there. Its one reader is the requester, if that still is there; it may have gone
/// while a large ring was made.
sys::Result<void> Bus::show_to_requester(Publication& replies) {
    const Attachment* answered = attachments_.find(replies.about().answers);
    Subscription* reader = nullptr;
    if (answered != nullptr && answered->subscription != nullptr &&
        !answered->publication->ended()) {
        const Publication::Description& asked = answered->publication->about();
        reader = collector(asked.publisher, asked.lineage);
    }
    if (reader == nullptr) {
        return not_collected(replies.about().topic);
    }
    if (attach(replies, *reader) != Attach::done) {
        return sys::fail(EDQUOT, fmt::format("replies of '{}': the requester has no room for "
                                             "another ring; raise {} or {}",
                                             replies.about().topic, key::kAttachmentsPerClient,
                                             key::kUidRingBytes));
    }
    return {};
}

/// Whether the client is to be told of ends of replies before it may be told who serves its
/// requests no more: see DEATH in protocol/exchange.hpp.
bool Bus::owes_replies(const Client& client, const Publication& publication) {
    if (publication.about().kind != Kind::requests) {
        return false;
    }
    const auto found = client.collectors.find(publication.about().lineage);
    if (found == client.collectors.end()) {
        return false;
    }
    return found->second->ends_owed != 0;
}

}  // namespace ipcbus::daemon
