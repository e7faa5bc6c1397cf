// SPDX-License-Identifier: Apache-2.0
// A client of the bus: who it is, its memory, what it has, and what it is still to be told. It has
// one session at a time, and moves to another one with RESUME. Mostly data; the bus works on it.
// Owned by the bus, the daemon's one thread.
#pragma once

#include "attachment.hpp"
#include "client_memory.hpp"
#include "quota.hpp"

#include <sys/types.h>

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

namespace ipcbus::daemon {

class Session;

/// Small numbers, the ones given back first: slots of the cursor page, indices of publications.
class NumberPool {
public:
    explicit NumberPool(protocol::u32 count) : count_(count) {}
    [[nodiscard]] protocol::u32 free() const {
        return count_ - next_ + static_cast<protocol::u32>(returned_.size());
    }
    /// What take() will give; free() is not 0.
    [[nodiscard]] protocol::u32 next() const {
        return returned_.empty() ? next_ : returned_.back();
    }
    [[nodiscard]] protocol::u32 take();
    void give_back(protocol::u32 number);
    [[nodiscard]] protocol::u32 count() const { return count_; }

private:
    protocol::u32 count_;
    protocol::u32 next_ = 0;
    std::vector<protocol::u32> returned_;
};

/// What joins a client to another one (or to itself): how many attachments, and which of the
/// other's pages it has been sent.
struct PeerLink {
    SharedPages pages;
    std::uint32_t uses = 0;
    std::uint8_t told = 0;  ///< protocol::kPeerCursor | kPeerDoorbell
};

/// A client's filter. What it reads by it is in `attachments`.
struct Subscription {
    Kind kind = Kind::messages;
    Id id = 0;
    Id client = 0;
    std::string filter;          ///< Kind::replies: empty
    protocol::Id128 collects{};  ///< Kind::replies: the lineage of the requests
    protocol::ReaderMode mode = protocol::ReaderMode::reliable;
    protocol::u64 history = 0;  ///< as in SUBSCRIBE_FROM; 0: that was SUBSCRIBE
    bool beginning = false;     ///< with history, and SUBSCRIBED is due
    std::uint32_t awaited = 0;  ///< attachments that CAUGHT_UP waits for
    AttachmentList<&Attachment::place_in_subscription> attachments;
    std::uint32_t ends_owed = 0;  ///< of its attachments, those whose ENDED is due
    /// Kind::replies: for how many rings, by the uid that answers in them, the client's uid pays.
    std::map<uid_t, std::uint32_t> pays_for;
    Charge charge;
};

/// What a subscription was not attached to, of the publications that it matches, for want of room.
/// They are numbered as they arrived (Publication::arrival): in this order they have their turn,
/// but for some that a job came to late. These take no more room here than they had in that job.
struct Lacking {
    std::uint64_t from = 0;  ///< all that arrived as that number or later, and
    std::vector<Id> before;  ///< of those that arrived earlier, these

    void add(Id publication, std::uint64_t arrival) {
        if (arrival < from) {
            before.push_back(publication);
        }
    }
};

/// A subscription being attached to publications that may be too many to be attached at once. Those
/// that come to it meanwhile wait behind them.
struct Attaching {
    Id subscription = 0;
    std::uint64_t request = 0;  ///< SUBSCRIBED is due to it; 0: not, or its connection is no more
    std::vector<Id> publications;
    std::uint64_t from = 0;  ///< none that arrived as that number or later has had its turn
    std::size_t next = 0;
    std::uint32_t attached = 0;  ///< as SUBSCRIBED is to say
    /// Who waited to be worked off by that number of FairQueue's comes first.
    std::uint64_t behind = 0;
};

/// Requests of a client, from one sequence to another, that will not be answered, and why.
struct Refusal {
    protocol::u64 first = 0;
    protocol::u64 last = 0;
    std::uint32_t code = 0;
};

class Client {
public:
    Client(Id client_id, uid_t client_uid, std::string client_name, ClientMemory client_memory);

    const Id id;
    const uid_t uid;
    const std::string name;
    Identity identity;  ///< as it connected first
    Access access;      ///< what the rules of today let it do
    protocol::Id128 token{};
    Session* session = nullptr;  ///< never null once the client is on the bus
    ClientMemory memory;
    NumberPool slots;
    NumberPool indices;
    std::vector<Charge> slot_charges;  ///< a page of slots each, with what the books on them cost

    std::map<Id, Publication*> publications;  ///< those that have not ended
    std::map<Id, Publication*> unmapped;      ///< of them, those it has not said MAPPED of
    std::map<Id, Subscription> subscriptions;
    std::map<protocol::Id128, Subscription*> collectors;  ///< of them, COLLECT's, by their lineage
    std::set<protocol::Id128> asking;  ///< lineages of ASK's publications that have not ended

    // What it is to be told, as soon as descriptors may be sent and the last send is done.
    std::map<Id, Publication*> publications_to_tell;  ///< ADVERTISED or MEMBERS is due
    std::map<Id, Attachment*> attachments_to_tell;    ///< ATTACHED or ENDED is due
    std::set<Id> caught_up;                           ///< subscriptions that CAUGHT_UP is due to
    std::set<Id> peers_to_drop;                       ///< PEER_GONE is due
    std::map<Id, Refusal> refusals_to_tell;           ///< REFUSED is due: of attachments
    [[nodiscard]] bool something_to_tell() const {
        return !publications_to_tell.empty() || !attachments_to_tell.empty() ||
               !caught_up.empty() || !refusals_to_tell.empty();
    }

    // Jobs: work that is done piece by piece (Bus::go_on), in turn with what others want. As long
    // as there is one, no other frame of the client is looked at.
    std::deque<Id> arriving;  ///< publications of its that readers are being attached to
    std::optional<Attaching> attaching;
    [[nodiscard]] bool has_job() const { return !arriving.empty() || attaching.has_value(); }
    /// Subscriptions that were not attached to everything they match, for want of room.
    std::map<Id, Lacking> incomplete;
    /// There may be room since: they are tried again, in turn, those behind the one named here. Not
    /// before a frame that waits: it may free more, or want what is free.
    std::optional<Id> retry_after;
    bool to_ring = false;  ///< it is in the bus's list of those

    /// For the log: "client 7 'pump' (uid 1000)".
    [[nodiscard]] std::string describe() const;

    void use_peer(const SharedPages& pages);
    void release_peer(Id peer);
    /// The link to a peer in use.
    [[nodiscard]] PeerLink& peer(Id peer_id);
    /// PEER_GONE has been said.
    void forget_peer(Id peer_id);
    /// The peer's pages may have been lost with a connection.
    void untell_peer(Id peer_id, std::uint8_t pages);

private:
    std::unordered_map<Id, PeerLink> peers_;
};

}  // namespace ipcbus::daemon
