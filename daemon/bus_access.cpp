// SPDX-License-Identifier: Apache-2.0
// Who may publish and read what, by the rules (access.hpp), and what becomes of what there is when
// they change. Part of the bus (bus.hpp), the daemon's one thread.
//
// WHAT IS REVOKED. A ring that has been mapped cannot be taken back. So a reader that lost its
// right is detached, and if it had the ring, the publication leaves it: MOVE, ahead of the MEMBERS
// that says who is gone. The publisher takes both in before a publish returns, and the next
// message goes into a ring of the same lineage, which the revoked reader never gets; the others
// drain the first and find the second by its lineage. So it reads what was being published when
// its detach became known, and nothing else. A publisher that lost its right has its readers taken
// away, and is told why.
//
// All publications are looked at, so many pairs in a turn, or one publication's; who comes
// meanwhile is judged by the new rules anyway. What is newly allowed holds for what is made from
// now on.
#include "bus.hpp"

#include "log.hpp"

#include <fmt/format.h>

namespace ipcbus::daemon {

namespace {

/// Publications and their readers: a few hundred microseconds' work with some ten rules.
constexpr std::size_t kCheckedPerTurn = 256;

}  // namespace

sys::Result<void> Bus::check_right(const Client& client, Right right, const std::string& filter,
                                   std::string_view what, bool whole) {
    if (whole ? client.access.may(right, filter) : client.access.may_partly(right, filter)) {
        return {};
    }
    return sys::fail(EACCES, fmt::format("{}: refused: {}", what,
                                         client.access.why_not(right, filter, whole)));
}

/// Requests are read as a reliable reader does: who serves needs both rights. Replies are for who
/// may ask.
sys::Result<void> Bus::may_subscribe(const Client& client, const Subscription& asked_for,
                                     std::string_view what) {
    if (asked_for.kind == Kind::replies) {
        return {};
    }
    IPCBUS_TRY(check_right(client, Right::subscribe, asked_for.filter, what, false));
    if (asked_for.mode != protocol::ReaderMode::reliable) {
        return {};
    }
    auto reliably =
        check_right(client, Right::subscribe_reliably, asked_for.filter, what, false);
    if (!reliably.ok() && asked_for.kind == Kind::messages) {
        return sys::fail(EACCES, reliably.error().what +
                                     ": it may be read by a subscription that is lossy, or of the "
                                     "latest");
    }
    return reliably;
}

bool Bus::may_read(const Client& reader, const Publication& publication) {
    const auto& about = publication.about();
    switch (about.kind) {
    case Kind::replies:
        return true;
    case Kind::requests:
        return reader.access.may(Right::subscribe, about.topic) &&
               reader.access.may(Right::subscribe_reliably, about.topic);
    case Kind::messages:
        break;
    }
    return reader.access.may(Right::subscribe, about.topic);
}

/// The rules are others. The first piece is done at once: on most buses that is all, and who has
/// waited for the reload finds it done.
void Bus::apply_access() {
    for (const auto& [id, client] : clients_) {
        client->access = Access(config_.access, client->identity);
    }
    checked_to_ = 0;
    if (check_some()) {
        schedule();
    }
}

/// True: there are more.
bool Bus::check_some() {
    if (!checked_to_ || stopping_) {
        return false;
    }
    std::size_t checked = 0;
    for (auto next = publications_.upper_bound(*checked_to_);
         next != publications_.end() && checked < kCheckedPerTurn;) {
        Publication& publication = *(next++)->second;
        checked_to_ = publication.about().id;
        checked += 1 + publication.readers;
        check(publication);
    }
    if (checked < kCheckedPerTurn) {
        checked_to_.reset();
    }
    return checked_to_.has_value();
}

void Bus::check(Publication& publication) {
    const auto& about = publication.about();
    Client* const writer = find_client(about.publisher);
    const bool live = writer != nullptr && !publication.ended();
    if (about.kind != Kind::replies && live && publication.revoked.empty() &&
        !writer->access.may(Right::publish, about.topic)) {
        revoke(publication, *writer);
        return;
    }
    bool leave = false;
    const std::vector<Attachment*> readers = publication.attachments.all();
    for (Attachment* attachment : readers) {
        const Client* const reader = find_client(attachment->reader);
        if (attachment->subscription == nullptr || attachment->end_reason != 0 ||
            may_read(*reader, publication)) {
            continue;
        }
        if (may_log()) {
            log_info("{}: detached from '{}': {}", reader->describe(), about.topic,
                     reader->access.why_not(Right::subscribe, about.topic, true));
        }
        leave = leave || attachment->shown;
        detach(*attachment);
    }
    if (leave && live && about.kind == Kind::messages && !publication.move_due) {
        publication.move_due = true;
        changed(publication);
    }
}

/// Its publisher has the ring still, and writes to nobody.
void Bus::revoke(Publication& publication, Client& writer) {
    const auto& about = publication.about();
    publication.revoked = fmt::format("'{}': {}", about.topic,
                                      writer.access.why_not(Right::publish, about.topic, true))
                              .substr(0, protocol::kErrorTextBytesMax);
    if (may_log()) {
        log_info("{}: publishes no more: {}", writer.describe(), publication.revoked);
    }
    if (publication.registered) {
        registry_of(about.kind).remove_publication(about.topic, about.id);
        publication.registered = false;
    }
    const std::vector<Attachment*> readers = publication.attachments.all();
    for (Attachment* attachment : readers) {
        if (attachment->subscription != nullptr) {
            detach(*attachment);
        }
    }
    publication.first_readers.clear();  // who would be attached yet
    publication.revocation_due = true;
    changed(publication);
}

}  // namespace ipcbus::daemon
