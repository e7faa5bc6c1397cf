// SPDX-License-Identifier: Apache-2.0
// Jobs: attaching a subscription to all publications that it matches, a publication to all
// subscriptions, and both once more when there is room. Any of these can be tens of thousands, so
// they are done piece by piece, in turn with what others want: each belongs to the client that
// caused it, and its session goes on with it before it looks at the client's next frame. Part of
// the bus (bus.hpp), the daemon's one thread.
//
// A pair that matches is attached once: by whichever of the two came later, at once or in its job;
// or, if there was no room, when there is. The latter leaves pairs alone that a job will come to.
// What a subscription lacks is known exactly, and not by what it has: that may have been let go of
// since. It goes by the numbers of arrival, of which only one is kept (Lacking::from): publications
// have their turn in that order, but for those whose own jobs came to the subscription late, which
// are kept by name. (Their ids are given when their rings begin to be made: another order.)
#include "bus.hpp"

#include <algorithm>

namespace ipcbus::daemon {

namespace {

/// A few hundred microseconds' work.
constexpr std::size_t kAttachedAtOnce = 64;
/// How often who waits for room tries again without having been told of any.
constexpr std::int64_t kRetryNs = 1'000'000'000;

}  // namespace

bool Bus::go_on(Client& client) {
    if (!client.arriving.empty()) {
        const auto found = publications_.find(client.arriving.front());
        if (found != publications_.end() && found->second->arriving) {
            meet_readers(*found->second);
        }
        if (found == publications_.end() || !found->second->arriving) {
            client.arriving.pop_front();
        }
    } else if (client.attaching) {
        if (!to_work_.passed(client.attaching->behind)) {
            return false;
        }
        client.attaching->behind = 0;
        attach_some(client);
    } else {
        retry_next(client);
    }
    return true;
}

/// Who subscribes from now on attaches to it: it is in the registry. Of who was there, some go
/// meanwhile.
void Bus::meet_readers(Publication& publication) {
    std::vector<Id>& left = publication.first_readers;
    for (std::size_t i = 0; i < kAttachedAtOnce && !left.empty() && !stopping_; i++) {
        const Id id = left.back();
        left.pop_back();
        if (const auto owner = subscriptions_.find(id); owner != subscriptions_.end()) {
            meet(publication, *owner->second, id);
        }
    }
    if (left.empty() || stopping_) {
        left = {};
        publication.arriving = false;
        changed(publication);  // ADVERTISED is due
    }
}

/// One that waits for others waits for this one, too.
void Bus::meet(Publication& publication, Client& reader, Id subscription) {
    const Id id = publication.about().id;
    if (reader.attaching && reader.attaching->subscription == subscription) {
        reader.attaching->publications.push_back(id);
    } else if (const auto waits = reader.incomplete.find(subscription);
               waits != reader.incomplete.end()) {
        waits->second.add(id, publication.arrival);
        retry(reader);
    } else if (attach(publication, reader.subscriptions.at(subscription)) == Attach::no_room) {
        reader.incomplete.emplace(subscription, Lacking{.from = arrivals_ + 1, .before = {id}});
    }
}

/// What comes from now on is attached when it comes: the subscription is in the registry. Of what
/// was there, some goes meanwhile.
void Bus::attach_some(Client& client) {
    Attaching& work = *client.attaching;
    Subscription& subscription = client.subscriptions.at(work.subscription);
    for (std::size_t i = 0; i < kAttachedAtOnce; i++) {
        if (work.next == work.publications.size() || stopping_) {
            attached_all(client);
            return;
        }
        const auto found = publications_.find(work.publications[work.next]);
        if (found == publications_.end() || !found->second->registered) {
            work.next++;
            continue;
        }
        const Attach result = attach(*found->second, subscription);
        if (result == Attach::no_room) {  // nor for those that follow, of this client
            client.incomplete.emplace(work.subscription, left_of(work));
            client.retry_after.reset();
            attached_all(client);
            return;
        }
        work.attached += result == Attach::done ? 1 : 0;
        work.from = std::max(work.from, found->second->arrival + 1);
        work.next++;
    }
}

Lacking Bus::left_of(const Attaching& work) const {
    Lacking lacks{.from = work.from, .before = {}};
    for (std::size_t i = work.next; i < work.publications.size(); i++) {
        const auto found = publications_.find(work.publications[i]);
        if (found != publications_.end() && found->second->registered) {
            lacks.add(work.publications[i], found->second->arrival);
        }
    }
    return lacks;
}

void Bus::attached_all(Client& client) {
    const Attaching done = std::move(*client.attaching);
    client.attaching.reset();
    client.session->touch();  // its ATTACHED were held back
    if (done.request != 0) {
        client.session->reply(protocol::Subscribed{done.subscription, done.attached}, done.request);
    }
    Subscription& subscription = client.subscriptions.at(done.subscription);
    if (std::exchange(subscription.beginning, false)) {
        tell_caught_up(subscription);
    }
}

/// There may be room: who waits tries again.
void Bus::retry(Client& client) {
    if (!client.incomplete.empty() && client.slots.free() > 0) {
        client.retry_after = 0;
        client.session->work_later();
    }
}

/// What others of its uid give back makes room as well, and nobody tells.
void Bus::retry_all() {
    for (const auto& [id, client] : clients_) {
        if (client->incomplete.empty()) {
            continue;
        }
        if (!client->retry_after) {
            retry(*client);
        }
        retry_soon();
    }
}

void Bus::retry_soon() {
    if (!retry_timer_.running()) {
        retry_timer_.start(kRetryNs);
    }
}

/// The next subscription that lacks something is attached to what it lacks.
void Bus::retry_next(Client& client) {
    const auto next = client.incomplete.upper_bound(*client.retry_after);
    if (next == client.incomplete.end() || stopping_ || !make_room(client, "attaching").ok()) {
        client.retry_after.reset();
        return;
    }
    const Id id = next->first;
    Lacking lacks = std::move(next->second);
    client.retry_after = id;
    client.incomplete.erase(next);
    std::vector<std::pair<std::uint64_t, Id>> later;
    const Subscription& subscription = client.subscriptions.at(id);
    for (const Id one :
         registry_of(subscription.kind).publications_matching(subscription.filter)) {
        const Publication& publication = *publications_.at(one);
        if (publication.arrival >= lacks.from && !publication.will_meet(id)) {
            later.emplace_back(publication.arrival, one);
        }
    }
    std::sort(later.begin(), later.end());
    client.attaching = Attaching{
        .subscription = id, .publications = std::move(lacks.before), .from = lacks.from};
    for (const auto& [arrival, one] : later) {
        client.attaching->publications.push_back(one);
    }
}

}  // namespace ipcbus::daemon
