// SPDX-License-Identifier: Apache-2.0
// A client's pages. See client_memory.hpp; the layout and who may write what: protocol/layout.hpp.
#include "client_memory.hpp"

#include "protocol/fence.hpp"
#include "sys/futex.hpp"
#include "sys/memfd.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace ipcbus::daemon {

using protocol::u32;
using protocol::u64;

namespace {

/// Gives a stretch of a mapping its memory now: later, a lack of it would be a signal in whoever
/// touches it first. Through the mapping and not with fallocate, which would need a writable
/// descriptor, one more for each client. `advice` as the mapping allows: reading a hole of shared
/// memory allocates it as writing does.
sys::Result<void> populate(const sys::Mapping& mapping, u64 begin, u64 end, int advice) {
    begin &= ~u64{protocol::kPageBytes - 1};
    end = protocol::align_up(end, protocol::kPageBytes);
    IPCBUS_ASSERT(begin < end && end <= mapping.bytes());
    if (::madvise(mapping.data() + begin, end - begin, advice) != 0) {
        return sys::fail_errno("madvise(MADV_POPULATE) of a client's pages");
    }
    return {};
}

}  // namespace

sys::Result<ClientMemory> ClientMemory::create(const protocol::Geometry& geometry) {
    IPCBUS_ASSERT(geometry.valid());
    ClientMemory memory;
    memory.geometry_ = geometry;
    const u64 cursor_bytes = protocol::cursor_bytes(geometry);
    const u64 doorbell_bytes = protocol::doorbell_bytes(geometry);
    const u64 mailbox_bytes = protocol::mailbox_bytes(geometry);
    memory.cursor_fd_ = share(IPCBUS_TRY(sys::create_memfd("ipcbus-cursor", cursor_bytes)));
    memory.doorbell_fd_ = share(IPCBUS_TRY(sys::create_memfd("ipcbus-doorbell", doorbell_bytes)));
    memory.mailbox_fd_ = share(IPCBUS_TRY(sys::create_memfd("ipcbus-mailbox", mailbox_bytes)));
    IPCBUS_TRY(sys::add_seals(memory.cursor_fd_->get(), sys::kSealsAtBirth));
    IPCBUS_TRY(sys::add_seals(memory.doorbell_fd_->get(), sys::kSealsShared));
    IPCBUS_TRY(sys::add_seals(memory.mailbox_fd_->get(), sys::kSealsShared));
    memory.cursor_ = IPCBUS_TRY(
        sys::map_shared(memory.cursor_fd_->get(), 0, cursor_bytes, sys::Access::read_only));
    memory.doorbell_ = IPCBUS_TRY(
        sys::map_shared(memory.doorbell_fd_->get(), 0, doorbell_bytes, sys::Access::read_write));
    memory.mailbox_ = IPCBUS_TRY(
        sys::map_shared(memory.mailbox_fd_->get(), 0, mailbox_bytes, sys::Access::read_write));
    IPCBUS_TRY(memory.back_first());
    IPCBUS_TRY(memory.back_publication(0));
    return memory;
}

void ClientMemory::give_to(Id client, Charge pages_charge, Charge unsealed_charge) {
    IPCBUS_ASSERT(client_ == 0 && client != 0);
    client_ = client;
    pages_charge_ = std::move(pages_charge);
    unsealed_charge_ = std::move(unsealed_charge);
}

/// What every client uses: the header with the first slots, and the first waiters.
sys::Result<void> ClientMemory::back_first() {
    IPCBUS_TRY(back_slot(0));
    return populate(cursor_, protocol::asleep_offset(geometry_, 0),
                    protocol::asleep_offset(geometry_, 1), MADV_POPULATE_READ);
}

std::vector<SharedFd> ClientMemory::descriptors() const {
    IPCBUS_ASSERT(cursor_fd_ && mailbox_fd_);
    return {cursor_fd_, doorbell_fd_, mailbox_fd_};
}

sys::Result<void> ClientMemory::seal() {
    IPCBUS_ASSERT(!pages_);
    IPCBUS_TRY(sys::add_seals(cursor_fd_->get(), F_SEAL_FUTURE_WRITE));
    IPCBUS_TRY(sys::expect_seals(cursor_fd_->get(), sys::kSealsRing));
    // Holes that the client may have punched before the seal: nothing can punch one after it.
    slots_backed_ = 0;
    IPCBUS_TRY(back_first());
    // Opened after the seal: see sys/memfd.hpp.
    sys::UniqueFd read_only = IPCBUS_TRY(sys::reopen_read_only(cursor_fd_->get()));
    pages_ = std::make_shared<const PeerPages>(PeerPages{
        client_, geometry_, share(std::move(read_only)), doorbell_fd_, std::move(pages_charge_)});
    cursor_fd_.reset();
    mailbox_fd_.reset();
    unsealed_charge_.reset();
    return {};
}

sys::Result<void> ClientMemory::back_slot(u32 slot) {
    IPCBUS_ASSERT(slot < geometry_.attachments_max);
    if (slot < slots_backed_) {
        return {};
    }
    const u64 end = protocol::align_up(protocol::slot_offset(slot + 1), protocol::kPageBytes);
    IPCBUS_TRY(populate(cursor_, protocol::slot_offset(slot), end, MADV_POPULATE_READ));
    slots_backed_ = (end - protocol::slot_offset(0)) / sizeof(protocol::CursorSlot);
    return {};
}

sys::Result<void> ClientMemory::back_publication(u32 index) {
    IPCBUS_ASSERT(index < geometry_.publications_max);
    const u64 end = protocol::align_up(protocol::attention_offset(index + 1), protocol::kPageBytes);
    if (end > mailbox_backed_) {
        IPCBUS_TRY(populate(mailbox_, mailbox_backed_, end, MADV_POPULATE_WRITE));
        mailbox_backed_ = end;
    }
    return {};
}

protocol::MailboxPublication& ClientMemory::line(u32 index) const {
    IPCBUS_ASSERT(index < geometry_.publications_max);
    return *reinterpret_cast<protocol::MailboxPublication*>(mailbox_.data() +
                                                            protocol::attention_offset(index));
}

u64 ClientMemory::cursor(u32 slot) const {
    const auto* place =
        reinterpret_cast<const protocol::CursorSlot*>(cursor_.data() + protocol::slot_offset(slot));
    // relaxed: nothing is ordered by it
    return place->cursor.load(std::memory_order_relaxed);
}

ClientMemory::SlotFigures ClientMemory::slot(u32 number) const {
    IPCBUS_ASSERT(number < geometry_.attachments_max);
    const auto* place = reinterpret_cast<const protocol::CursorSlot*>(
        cursor_.data() + protocol::slot_offset(number));
    SlotFigures figures;
    // acquire: what it was loaded before is not older. The others, relaxed: figures.
    figures.cursor = place->cursor.load(std::memory_order_acquire);
    figures.parked = place->parked.load(std::memory_order_relaxed);
    figures.received = place->received.load(std::memory_order_relaxed);
    figures.lost = place->lost.load(std::memory_order_relaxed);
    return figures;
}

/// Bounded: a client may say anything.
u32 ClientMemory::waiters_used() const {
    const auto* header = reinterpret_cast<const protocol::CursorHeader*>(cursor_.data());
    // relaxed: only a bound. A waiter that comes into use later looks before it sleeps.
    const u32 used_untrusted = header->waiters_used.load(std::memory_order_relaxed);
    return std::min(used_untrusted, geometry_.waiters_max);
}

const std::atomic<u32>& ClientMemory::asleep(u32 waiter) const {
    return *reinterpret_cast<const std::atomic<u32>*>(cursor_.data() +
                                                      protocol::asleep_offset(geometry_, waiter));
}

u64 ClientMemory::sleeps(u32& ret_waiters) const {
    ret_waiters = waiters_used();
    u64 sum = 0;
    for (u32 waiter = 0; waiter < ret_waiters; waiter++) {
        // relaxed: a figure. Odd while it sleeps, and it never goes back: two for each time.
        sum += (u64{asleep(waiter).load(std::memory_order_relaxed)} + 1) / 2;
    }
    return sum;
}

void ClientMemory::store_attention(u32 index, u64 number) {
    // [J1] release, for ThreadSanitizer's sake; the caller's full fence [J2] is what orders it.
    line(index).attention.store(number, std::memory_order_release);
}

void ClientMemory::store_readers(u32 index, u32 readers) {
    // release: whoever has seen so many sees the attention that was raised for them. Pairs with
    // Publisher::subscriber_count().
    line(index).readers.store(readers, std::memory_order_release);
}

/// A waiter that sleeps has read its bell, so there is a page. One that claims to sleep may have
/// none: to ring it would allocate memory, at our expense.
bool ClientMemory::bell_there(u64 offset) const {
    const auto page = static_cast<off_t>(offset & ~u64{protocol::kPageBytes - 1});
    return ::lseek(doorbell_fd_->get(), page, SEEK_DATA) == page;
}

void ClientMemory::announce_frames() {
    auto* mailbox = reinterpret_cast<protocol::MailboxHeader*>(mailbox_.data());
    // release: the frames are in the socket before they are counted.
    mailbox->frames.fetch_add(1, std::memory_order_release);
    // Either a waiter's last look at `frames` before it sleeps sees this, or we see it asleep.
    protocol::full_fence();
    // Once around, from wherever an earlier round has come to.
    ring_left_ = waiters_used();
    ring_next_ = ring_next_ < ring_left_ ? ring_next_ : 0;
    ring_end_ = ring_left_;
}

bool ClientMemory::ring_sleepers(unsigned count_max, unsigned& ret_rung) {
    ret_rung = 0;
    for (; ring_left_ > 0; ring_left_--) {
        const u32 waiter = ring_next_;
        // relaxed: the full fence of announce_frames() orders it after `frames`
        if ((asleep(waiter).load(std::memory_order_relaxed) & 1) != 0) {
            if (ret_rung == count_max) {
                return false;
            }
            ret_rung++;
            const u64 offset = protocol::waiter_offset(waiter);
            if (bell_there(offset)) {
                auto* bell =
                    &reinterpret_cast<protocol::DoorbellWaiter*>(doorbell_.data() + offset)->bell;
                // release: who sees the count sees `frames`
                bell->fetch_add(1, std::memory_order_release);
                sys::futex_wake_all(*bell);
            }
        }
        ring_next_ = waiter + 1 < ring_end_ ? waiter + 1 : 0;
    }
    return true;
}

}  // namespace ipcbus::daemon
