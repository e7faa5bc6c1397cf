// SPDX-License-Identifier: Apache-2.0
// The three memfds of one client (cursor page, doorbell page, mailbox): made, sealed, mapped, and
// what the daemon reads and writes there. What the client can write is hostile input: loaded once,
// bounded. Owned by its Client, the daemon's one thread.
// announce_frames, ring_sleepers: checked by tests/model/wake.pml, full.pml.
#pragma once

#include "event_loop.hpp"
#include "protocol/layout.hpp"
#include "quota.hpp"
#include "registry.hpp"
#include "sys/mapping.hpp"
#include "sys/result.hpp"

#include <memory>
#include <vector>

namespace ipcbus::daemon {

/// What other clients are sent of a client's memory. Outlives the client: its rings may still be
/// handed out after its death.
struct PeerPages {
    Id client = 0;
    protocol::Geometry geometry;
    SharedFd cursor;    ///< read-only
    SharedFd doorbell;  ///< read-write
    Charge charge;      ///< of the two descriptors
};
using SharedPages = std::shared_ptr<const PeerPages>;

class ClientMemory {
public:
    /// May be made ahead of time, for whoever comes.
    [[nodiscard]] static sys::Result<ClientMemory> create(const protocol::Geometry& geometry);
    /// It is that client's from now on. `pages_charge` is what peers being able to map it costs,
    /// `unsealed_charge` what it costs more until seal().
    void give_to(Id client, Charge pages_charge, Charge unsealed_charge);

    [[nodiscard]] const protocol::Geometry& geometry() const { return geometry_; }
    [[nodiscard]] Id client() const { return client_; }
    /// For WELCOME, before seal(): cursor page, doorbell page, mailbox, all read-write.
    [[nodiscard]] std::vector<SharedFd> descriptors() const;
    /// The client has mapped everything: from now on nobody else can write its cursor page. Fails
    /// if the client had put seals of its own there.
    [[nodiscard]] sys::Result<void> seal();
    /// Null until seal() has succeeded.
    [[nodiscard]] const SharedPages& pages() const { return pages_; }

    /// The pages are sized for the largest client and have memory for what is used: these get the
    /// memory for one more slot or publication, before anybody is told of it.
    [[nodiscard]] sys::Result<void> back_slot(protocol::u32 slot);
    [[nodiscard]] sys::Result<void> back_publication(protocol::u32 index);

    /// Of that slot, which is backed: how far its attachment says it has read.
    [[nodiscard]] protocol::u64 cursor(protocol::u32 slot) const;

    /// What its slot says, each word of one moment: whatever the client has written there.
    struct SlotFigures {
        protocol::u64 cursor = 0;
        protocol::u64 parked = 0;
        protocol::u64 received = 0;
        protocol::u64 lost = 0;
    };
    [[nodiscard]] SlotFigures slot(protocol::u32 number) const;
    /// How often its waiters went to sleep, and how many it says it has.
    [[nodiscard]] protocol::u64 sleeps(protocol::u32& ret_waiters) const;

    /// Of the publication with that index; below publications_max.
    void store_attention(protocol::u32 index, protocol::u64 number);
    void store_readers(protocol::u32 index, protocol::u32 readers);

    /// After a send has completed: counts it in the mailbox. Then every waiter that sleeps is to be
    /// rung: ring_sleepers(), until there is none.
    void announce_frames();
    /// Rings at most `count_max` sleeping waiters, `ret_rung` of them. True: all have been looked
    /// at since the last announce_frames(). Not all at once: a client may claim to have thousands
    /// asleep.
    bool ring_sleepers(unsigned count_max, unsigned& ret_rung);

private:
    ClientMemory() = default;
    [[nodiscard]] sys::Result<void> back_first();
    [[nodiscard]] bool bell_there(protocol::u64 offset) const;
    [[nodiscard]] protocol::u32 waiters_used() const;
    [[nodiscard]] const std::atomic<protocol::u32>& asleep(protocol::u32 waiter) const;
    [[nodiscard]] protocol::MailboxPublication& line(protocol::u32 index) const;

    protocol::Geometry geometry_;
    Id client_ = 0;
    SharedFd cursor_fd_;  ///< read-write, until seal()
    SharedFd doorbell_fd_;
    SharedFd mailbox_fd_;  ///< until seal()
    SharedPages pages_;
    Charge pages_charge_;     ///< until seal()
    Charge unsealed_charge_;  ///< until seal(): of the one descriptor more
    sys::Mapping cursor_;     ///< read-only
    sys::Mapping doorbell_;
    sys::Mapping mailbox_;
    protocol::u64 slots_backed_ = 0;    ///< slots in the cursor page with memory behind them
    protocol::u64 mailbox_backed_ = 0;  ///< bytes, the same
    protocol::u32 ring_next_ = 0;       ///< the waiter to look at next
    protocol::u32 ring_left_ = 0;       ///< how many are still to be looked at
    protocol::u32 ring_end_ = 0;        ///< after the last one of this round
};

}  // namespace ipcbus::daemon
