// SPDX-License-Identifier: Apache-2.0
// Requests of publishers, and the end of publications. See bus.hpp.
#include "bus.hpp"

#include "log.hpp"
#include "protocol/exchange.hpp"
#include "protocol/topic.hpp"
#include "sys/clock.hpp"

#include <algorithm>

namespace ipcbus::daemon {

using protocol::u32;
using protocol::u64;

namespace {

/// Room for a header and one payload line.
constexpr u32 kRecordBytesMin = 32;

std::string what_publication(const std::string& topic) {
    return fmt::format("publication '{}'", topic);
}

/// The largest record: what was asked for, else what the configuration says, else what fits.
sys::Result<u32> record_bytes_for(const protocol::Advertise& frame, const RingSizing& ring) {
    u64 most = protocol::record_bytes_max(ring.bytes);
    if (ring.record_bytes_max != 0) {
        most = std::min<u64>(most, ring.record_bytes_max & ~(protocol::kRecordAlignment - 1));
    }
    if (frame.record_bytes_max == 0) {
        return static_cast<u32>(std::max<u64>(most, kRecordBytesMin));
    }
    const u64 wanted =
        std::max<u64>(protocol::align_record(frame.record_bytes_max), kRecordBytesMin);
    if (wanted > most) {
        return sys::fail(
            EMSGSIZE,
            fmt::format("{}: refused: records of {} bytes, a ring of {} takes {} at "
                        "most; {}",
                        what_publication(frame.topic), wanted, format_bytes(ring.bytes), most,
                        most < protocol::record_bytes_max(ring.bytes)
                            ? "raise record_bytes_max of its [[ring]]"
                            : "ask for a larger ring"));
    }
    return static_cast<u32>(wanted);
}

/// The ring: as large as was asked for; else as the configuration says, and larger if the largest
/// record needs it.
sys::Result<RingSizing> ring_for(const Config& config, const protocol::Advertise& frame) {
    const RingSizing usual = IPCBUS_TRY(config.ring_for(frame.topic, frame.ring_bytes));
    const u64 record = protocol::align_record(frame.record_bytes_max);
    if (frame.ring_bytes != 0 || record <= protocol::record_bytes_max(usual.bytes)) {
        return usual;
    }
    u64 bytes = usual.bytes;
    while (protocol::record_bytes_max(bytes) < record && bytes < protocol::kRingBytesMax) {
        bytes *= 2;
    }
    return config.ring_for(frame.topic, bytes);
}

sys::Result<void> check_topic(const std::string& topic) {
    if (const char* fault = protocol::filter_fault(topic); *fault != '\0') {
        return sys::fail(EINVAL, fmt::format("'{}' is no topic: {}", topic, fault));
    }
    if (protocol::is_bus_topic(topic)) {
        return sys::fail(EACCES,
                         fmt::format("'{}': topics that begin with $ belong to the bus", topic));
    }
    return {};
}

}  // namespace

// ------------------------------------------------------------------------------------- ADVERTISE

void Bus::advertise(Client& client, u64 request, const protocol::Advertise& frame) {
    if (stopping_) {
        client.session->refuse(request, stopping_error());
        return;
    }
    if (repeated(client, request, Kind::messages, frame) != nullptr) {
        return;
    }
    make_publication(client, request, new_publication(client, client.uid, frame, {}));
}

/// Goes on with one that has been written down: its ring. Or tells why not.
void Bus::make_publication(Client& client, u64 request,
                           sys::Result<Publication*> made_publication) {
    if (!made_publication.ok()) {
        client.session->refuse(request, made_publication.error());
        return;
    }
    Publication& publication = *made_publication.value();
    publication.advertise_request = request;
    publication.make(
        pool_.take(publication.about().ring_bytes),
        [this](Publication& which, sys::Result<void> result) { made(which, std::move(result)); });
}

/// Requests are idempotent: one that is said again, because its connection broke before the answer
/// came, is answered again, or then only. The lineage, which the client drew at random, tells it.
Publication* Bus::repeated(Client& client, u64 request, Kind kind,
                           const protocol::Advertise& frame) {
    if (frame.lineage == protocol::Id128{}) {
        return nullptr;
    }
    for (const auto& [id, publication] : client.unmapped) {
        const auto& about = publication->about();
        if ((publication->state() == Publication::State::making ||
             publication->state() == Publication::State::offered) &&
            about.kind == kind && about.lineage == frame.lineage && about.topic == frame.topic) {
            publication->advertise_request = request;
            client.publications_to_tell.emplace(id, publication);
            client.session->touch();
            return publication;
        }
    }
    return nullptr;
}

/// `ring_payer`: against whose limit the ring's bytes count; all else is the client's uid's.
/// `about`: as far as it does not follow from `frame`.
sys::Result<Publication*> Bus::new_publication(Client& client, uid_t ring_payer,
                                               const protocol::Advertise& frame,
                                               Publication::Description about) {
    IPCBUS_TRY(check_topic(frame.topic));
    if (about.kind != Kind::replies) {
        IPCBUS_TRY(check_right(client, Right::publish, frame.topic, what_publication(frame.topic),
                               true));
    }
    if (frame.waiter >= client.memory.geometry().waiters_max) {
        return sys::fail(EINVAL,
                         fmt::format("{}: refused: waiter {}, the client has {}; raise {}",
                                     what_publication(frame.topic), frame.waiter,
                                     client.memory.geometry().waiters_max, key::kWaitersPerClient));
    }
    const RingSizing ring = IPCBUS_TRY(ring_for(config_, frame));
    const u32 record_bytes_max = IPCBUS_TRY(record_bytes_for(frame, ring));
    const std::string what = what_publication(frame.topic);
    Charge charge = IPCBUS_TRY(
        quota_.charge(client.uid, Amounts{.publications = 1, .descriptors = 1}, what));
    Charge ring_charge = IPCBUS_TRY(quota_.charge(
        ring_payer, Amounts{.ring_bytes = ring.bytes + protocol::kRingDataOffset}, what));
    if (client.indices.free() == 0) {
        return sys::fail(EDQUOT, fmt::format("{}: refused: the client has {} of {} publications in "
                                             "use, as {} said when it connected",
                                             what, client.indices.count(), client.indices.count(),
                                             key::kUidPublications));
    }
    about.id = registry_.next_id();
    about.publisher = client.id;
    about.uid = client.uid;
    about.remote = client.identity.remote;
    about.topic = frame.topic;
    about.lineage = about.kind == Kind::replies ? protocol::reply_lineage(about.answers, about.id)
                                                : frame.lineage;
    about.ring_bytes = ring.bytes;
    about.record_bytes_max = record_bytes_max;
    about.waiter = frame.waiter;
    about.index = client.indices.take();
    about.first_sequence = frame.first_sequence;
    const Id id = about.id;
    const u32 index = about.index;
    auto backed = client.memory.back_publication(index);
    if (!backed.ok()) {
        client.indices.give_back(index);
        return std::move(backed.error());
    }
    client.memory.store_attention(index, 0);
    client.memory.store_readers(index, 0);
    auto publication = std::make_unique<Publication>(
        loop_, std::move(about), client.memory.pages(), std::move(charge),
        std::make_shared<Charge>(std::move(ring_charge)));
    Publication* made_publication = publication.get();
    publications_.emplace(id, std::move(publication));
    client.publications.emplace(id, made_publication);
    client.unmapped.emplace(id, made_publication);
    return made_publication;
}

/// The ring is there: readers that match already begin with its first record, and ADVERTISED goes
/// out with them.
void Bus::made(Publication& publication, sys::Result<void> result) {
    if (publication.ended()) {
        release_publication(publication);
        return;
    }
    const auto& about = publication.about();
    Client& client = *find_client(about.publisher);
    if (result.ok() && about.kind == Kind::replies) {
        result = show_to_requester(publication);
    }
    if (result.ok() && !publication.revoked.empty()) {
        result = sys::fail(EACCES, publication.revoked);  // while it was made
    }
    if (!result.ok()) {
        tell_refusal(about.answers, about.answers_first, result.error().code);
        client.session->refuse(publication.advertise_request,
                               with_remedy(what_publication(about.topic), result.error()));
        end_publication(publication);
        return;
    }
    if (about.kind == Kind::replies) {
        return;
    }
    Registry& registry = registry_of(about.kind);
    registry.add_publication(about.topic, about.id);
    publication.registered = true;
    publication.arrival = ++arrivals_;
    publication.arriving = true;
    publication.first_readers = registry.subscriptions_matching(about.topic);
    std::reverse(publication.first_readers.begin(), publication.first_readers.end());
    meet_readers(publication);
    if (publication.arriving) {
        client.arriving.push_back(about.id);
        client.session->work_later();
    }
}

// ---------------------------------------------------------------------------------------- MAPPED

/// The client's publication, if it has been told of it. An id can be guessed: what is said of one
/// whose ADVERTISED is still due is said of nothing.
Publication* Bus::advertised(Client& client, Id id) {
    const auto found = client.publications.find(id);
    return found == client.publications.end() || found->second->advertise_request != 0
               ? nullptr
               : found->second;
}

void Bus::mapped(Client& client, Id id) {
    if (id == 0) {
        if (client.memory.pages()) {
            return;  // said again after a RESUME
        }
        if (auto result = client.memory.seal(); !result.ok()) {
            client.session->fail(
                0, sys::fail(result.error().code,
                             fmt::format("the client's pages: {}", result.error().what)));
        }
        return;
    }
    Publication* publication = advertised(client, id);
    if (publication == nullptr) {
        client.session->fail(0, sys::fail(EPROTO, fmt::format("MAPPED: no publication {}", id)));
        return;
    }
    if (publication->state() != Publication::State::offered) {
        return;  // said again
    }
    client.unmapped.erase(id);
    publication->seal(
        [this](Publication& which, sys::Result<void> result) { sealed(which, std::move(result)); });
}

void Bus::sealed(Publication& publication, sys::Result<void> result) {
    const auto& about = publication.about();
    if (!result.ok()) {
        const sys::Error error =
            sys::fail(result.error().code,
                      fmt::format("{}: {}", what_publication(about.topic), result.error().what));
        // The publisher may be dead already, or have ended it; then there is nobody to tell.
        Client* publisher = publication.ended() ? nullptr : find_client(about.publisher);
        if (publisher == nullptr) {
            if (may_log()) {
                log_warning("{}", error.what);
            }
            release_ring(publication);
            return;
        }
        Session* session = publisher->session;
        end_publication(publication);
        session->fail(0, error);
        return;
    }
    const std::vector<Attachment*> readers = publication.attachments.all();
    for (Attachment* attachment : readers) {
        if (attachment->reader_end == Attachment::Reader::waiting) {
            set_reader_end(*attachment, Attachment::Reader::ready);
            tell_reader(*attachment);
        }
    }
    if (publication.ended()) {
        watch_readers(publication);
        release_publication(publication);
    }
}

// ------------------------------------------------------------------------------------ their end

void Bus::unadvertise(Client& client, u64 request, Id id) {
    Publication* publication = advertised(client, id);
    if (publication == nullptr) {
        client.session->refuse(request, sys::fail(ENOENT, fmt::format("no publication {}", id)));
        return;
    }
    end_publication(*publication);
    client.session->reply(protocol::Done{}, request);
}

/// Its publisher has ended it, or has gone. Readers keep what they have; those that were promised
/// the ring still get it.
void Bus::end_publication(Publication& publication) {
    const auto& about = publication.about();
    if (publication.registered) {
        registry_of(about.kind).remove_publication(about.topic, about.id);
        publication.registered = false;
    }
    if (about.kind == Kind::replies && publication.state() != Publication::State::sealing &&
        publication.state() != Publication::State::open) {
        replies_.erase(about.answers);  // nobody has seen it: there may be another one
    }
    publication.end();
    end_abandonment(publication);
    if (Client* client = find_client(about.publisher)) {
        client->publications.erase(about.id);
        client->unmapped.erase(about.id);
        if (about.kind == Kind::requests) {
            client->asking.erase(about.lineage);
        }
        // Readers may still set its `sleepers` word: a round for nothing, for the next one there.
        client->indices.give_back(about.index);
        client->publications_to_tell.erase(about.id);
    }
    const std::vector<Attachment*> readers = publication.attachments.all();
    for (Attachment* attachment : readers) {
        if (about.kind == Kind::requests) {
            end_replies(*attachment);
        }
        owe_end(*attachment, protocol::EndReason::publisher_gone);
        if (attachment->reader_end == Attachment::Reader::told) {
            tell_reader(*attachment);
        }
        writer_gone(*attachment);
    }
    if (publication.state() == Publication::State::sealing) {
        return;  // sealed() goes on with it
    }
    release_ring(publication);
}

/// Readers that were still waiting for a ring that will never be shown do so no more.
void Bus::release_ring(Publication& publication) {
    const std::vector<Attachment*> readers = publication.attachments.all();
    for (Attachment* attachment : readers) {
        if (attachment->reader_end == Attachment::Reader::waiting) {
            let_go(*attachment);
        }
    }
    watch_readers(publication);
    release_publication(publication);
}

/// Forgets it, if nothing is left of it; else lets go of what nobody needs any more.
void Bus::release_publication(Publication& publication) {
    if (!publication.ended() || publication.state() == Publication::State::sealing ||
        publication.state() == Publication::State::making) {
        return;
    }
    if (publication.ready == 0) {
        publication.let_go();
    }
    if (!publication.attachments.all().empty()) {
        if (publication.overdue) {
            charge_holder(publication);
        }
        return;
    }
    const auto found = publications_.find(publication.about().id);
    if (found == publications_.end()) {
        return;  // retired already: its last reader went a moment ago
    }
    if (publication.about().kind == Kind::replies) {
        forget_replies(publication);
    }
    lingering_.take_over(publication.charge());
    // Its operation may be what called us: it goes at the end of the turn.
    Publication* retired = found->second.get();
    retired_.emplace(retired, std::move(found->second));
    publications_.erase(found);
    retired->close([this, retired] { retired_.erase(retired); });
}

/// Who still has the ring, long after its end, pays for it: not who published there. But nobody has
/// asked for more rings of replies than he pays for anyway.
void Bus::charge_holder(Publication& publication) {
    if (publication.about().kind == Kind::replies) {
        return;
    }
    const Attachment& holder = *publication.attachments.all().front();
    publication.charge()->move_to(find_client(holder.reader)->uid);
}

/// Readers have stall_timeout to take the ring and to drain it: as long as they may hold a
/// publisher.
void Bus::watch_readers(Publication& publication) {
    if (publication.attachments.all().empty()) {
        return;
    }
    const auto stall_ns = static_cast<std::int64_t>(config_.publications.stall_timeout_ns);
    overdue_.emplace_back(sys::monotonic_ns() + stall_ns, publication.about().id);
    if (!stall_timer_.running()) {
        stall_timer_.start(stall_ns);
    }
}

/// A reader that has been owed the ring for too long does not get it any more. If it was shown on a
/// connection before this one, it may have it: then only the reader can say that it has let go.
void Bus::give_up_showing(Attachment& attachment) {
    if (may_log()) {
        log_warning(
            "attachment {} to '{}': its reader took nothing for {} after the end of the "
            "publication: detached",
            attachment.id, attachment.publication->about().topic,
            format_duration(config_.publications.stall_timeout_ns));
    }
    if (attachment.shown) {
        set_reader_end(attachment, Attachment::Reader::told);
        tell_reader(attachment);
    } else {
        let_go(attachment);
    }
}

void Bus::stall_time_over() {
    const std::int64_t now_ns = sys::monotonic_ns();
    while (!overdue_.empty() && overdue_.front().first <= now_ns) {
        const auto found = publications_.find(overdue_.front().second);
        overdue_.pop_front();
        if (found == publications_.end()) {
            continue;
        }
        Publication& publication = *found->second;
        publication.overdue = true;
        const std::vector<Attachment*> readers = publication.attachments.all();
        for (Attachment* attachment : readers) {
            if (attachment->reader_end == Attachment::Reader::ready) {
                give_up_showing(*attachment);
            }
        }
        release_publication(publication);
    }
    if (!overdue_.empty()) {
        stall_timer_.start(std::max<std::int64_t>(overdue_.front().first - now_ns, 1));
    }
}

}  // namespace ipcbus::daemon
