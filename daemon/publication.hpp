// SPDX-License-Identifier: Apache-2.0
// The life of one ring: its memory is made and reserved, formatted, offered to its publisher;
// sealed once the publisher has mapped it; from then on shown to readers; retired. And what the
// daemon knows of the publication, none of which is ever read from the ring. Owned by the bus, the
// daemon's one thread.
//
//   making -> offered -> sealing -> open          each arrow may take a kernel worker's time, for
//      \________\____________\______> refused     a large ring: then the loop goes on meanwhile
#pragma once

#include "attachment.hpp"
#include "client_memory.hpp"
#include "membership.hpp"
#include "operations.hpp"
#include "protocol/join.hpp"
#include "protocol/ring_figures.hpp"
#include "quota.hpp"
#include "ring_pool.hpp"

#include <functional>
#include <map>
#include <string>

namespace ipcbus::daemon {

class Publication {
public:
    enum class State { making, offered, sealing, open, refused };

    struct Description {
        Kind kind = Kind::messages;
        Id id = 0;
        Id publisher = 0;
        uid_t uid = 0;
        bool remote = false;  ///< its publisher is: that is no uid of this host
        std::string topic;
        protocol::Id128 lineage{};
        protocol::u64 ring_bytes = 0;
        protocol::u32 record_bytes_max = 0;
        protocol::u32 waiter = 0;
        protocol::u32 index = 0;
        protocol::u64 first_sequence = 0;
        protocol::u64 reply_ring_bytes = 0;  ///< Kind::requests: of those who answer
        Id answers = 0;                      ///< Kind::replies: the attachment,
        uid_t asks = 0;                      ///< and whose requests,
        protocol::u64 answers_first = 0;     ///< of which this one first
    };
    using Done = std::function<void(Publication&, sys::Result<void>)>;

    /// `own_charge`: until the daemon has let go of it; `ring_charge`: until everybody has.
    Publication(EventLoop& loop, Description description, SharedPages publisher_pages,
                Charge own_charge, SharedCharge ring_charge);

    /// making -> offered or refused. `done` comes once, perhaps before this returns. `spare`: its
    /// memory, if it was made ahead of time.
    void make(RingMemory spare, Done done);
    /// offered -> sealing -> open or refused. The publisher has mapped the ring.
    void seal(Done done);

    [[nodiscard]] State state() const { return state_; }
    [[nodiscard]] const Description& about() const { return about_; }
    [[nodiscard]] protocol::Start first() const {
        return {about_.ring_bytes, about_.first_sequence};
    }
    [[nodiscard]] const SharedPages& publisher_pages() const { return publisher_pages_; }
    /// Of the ring's memory.
    [[nodiscard]] const SharedCharge& charge() const { return ring_charge_; }
    /// Read-write; while `offered`.
    [[nodiscard]] const SharedFd& writable() const { return writable_; }
    /// Read-only; while `open` and not let_go().
    [[nodiscard]] const SharedFd& readable() const { return readable_; }

    /// Where a reader that joins now begins; attention has been raised, and fenced. False: what
    /// stands in the ring cannot be true.
    [[nodiscard]] bool settle(protocol::u64 history, protocol::Start& ret_start) const;

    /// Position of the newest record, as the ring has it, or had it when it ended; 0: none.
    [[nodiscard]] protocol::u64 newest() const;

    // For statistics (protocol/ring_figures.hpp).
    /// How far it has come, or had when it ended.
    [[nodiscard]] protocol::RingFigures figures() const;
    /// How far behind that is an attachment that began at `start`; `cursor` was loaded before.
    [[nodiscard]] protocol::Behind behind(const protocol::RingFigures& now, protocol::u64 start,
                                          protocol::u64 cursor) const;
    /// The cursor that its blocked publisher waits for, untrusted; 0: it does not.
    [[nodiscard]] protocol::u64 wanted() const;

    /// Whether that subscription is one of the first readers, and not attached yet.
    [[nodiscard]] bool will_meet(Id subscription) const;

    /// Nobody joins any more; the daemon's mapping goes.
    void end();
    [[nodiscard]] bool ended() const { return ended_; }
    /// No reader will be sent the ring any more: its descriptors go.
    void let_go();
    /// Runs `closed` once no operation of the ring is under way; then it may be destroyed.
    void close(std::function<void()> closed) { scope_.close(std::move(closed)); }

    /// Reliable claims that were misused: until when (monotonic) this uid gets lossy attachments.
    void suspend(uid_t uid, std::int64_t until_ns);
    [[nodiscard]] bool suspended(uid_t uid, std::int64_t now_ns) const;

    Membership membership;
    AttachmentList<&Attachment::place_in_publication> attachments;
    std::uint32_t readers = 0;            ///< attachments that the writer counts or will count
    std::uint32_t ready = 0;              ///< of its attachments, those whose reader is `ready`
    bool overdue = false;                 ///< its end is stall_timeout ago
    std::uint64_t advertise_request = 0;  ///< ADVERTISED is due, to this request
    bool registered = false;              ///< the registry knows it
    std::uint64_t arrival = 0;            ///< its number among all it ever knew
    bool arriving = false;                ///< ADVERTISED waits for all its first readers
    std::vector<Id> first_readers;        ///< subscriptions still to be attached then, descending
    bool blamed = false;                  ///< its lies have been logged
    bool move_due = false;                ///< MOVE is to be told, or has been
    bool move_told = false;
    std::string revoked;                  ///< why its publisher may not publish any more
    bool revocation_due = false;          ///< and REVOKED is to be told
    Id paid_by = 0;                       ///< Kind::replies: the COLLECT whose uid pays, 0: none
    bool abandoned = false;               ///< the same: nobody reads it, and it has not ended

private:
    void reserve();
    void reserved(int error);
    sys::Result<void> format();
    sys::Result<void> show();
    void finish(State good, sys::Result<void> result);
    [[nodiscard]] const protocol::RingHeader& header() const;

    EventLoop& loop_;
    Description about_;
    SharedPages publisher_pages_;
    Charge own_charge_;
    SharedCharge ring_charge_;
    State state_ = State::making;
    bool ended_ = false;
    SharedFd writable_;
    SharedFd readable_;
    sys::Mapping ring_;                ///< read-only, header and data once
    protocol::u64 newest_at_end_ = 0;  ///< untrusted, as newest() is
    protocol::RingFigures figures_at_end_;
    std::map<uid_t, std::int64_t> suspended_;
    Done done_;
    OperationScope scope_;
    FallocateOperation fallocate_;
};

}  // namespace ipcbus::daemon
