// SPDX-License-Identifier: Apache-2.0
// A client's pages. See client_memory.hpp; the layout and who may write what: protocol/layout.hpp.
#include "client_memory.hpp"

#include "protocol/fence.hpp"
#include "sys/futex.hpp"
#include "sys/memfd.hpp"

#include <sys/mman.h>

#include <algorithm>

namespace ipcbus::daemon {

using protocol::u32;
using protocol::u64;

namespace {

/// Gives a stretch of a mapping its memory now: later, a lack of it would be a signal in whoever
/// touches it first. Through the mapping and not with fallocate, which would need a writable
/// descriptor, one more for each client. `advice` as the mapping allows: reading a hole of shared
/// memory allocates it as writing does.
sys::Result<void> populate(const sys::Mapping& mapping, u64& backed, u64 bytes, int advice) {
    const u64 wanted = std::min<u64>(protocol::align_up(bytes, protocol::kPageBytes),
                                     mapping.bytes());
    if (wanted <= backed) {
        return {};
    }
    if (::madvise(mapping.data() + backed, wanted - backed, advice) != 0) {
        return sys::fail_errno("madvise(MADV_POPULATE) of a client's pages");
    }
    backed = wanted;
    return {};
}

}  // namespace

sys::Result<ClientMemory> ClientMemory::create(Id client, const protocol::Geometry& geometry) {
    IPCBUS_ASSERT(geometry.valid());
    ClientMemory memory;
    memory.client_ = client;
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
    memory.cursor_ = IPCBUS_TRY(sys::map_shared(memory.cursor_fd_->get(), 0, cursor_bytes,
                                                sys::Access::read_only));
    memory.doorbell_ = IPCBUS_TRY(sys::map_shared(memory.doorbell_fd_->get(), 0, doorbell_bytes,
                                                  sys::Access::read_write));
    memory.mailbox_ = IPCBUS_TRY(sys::map_shared(memory.mailbox_fd_->get(), 0, mailbox_bytes,
                                                 sys::Access::read_write));
    // What announce_frames() reads, and the first slots and publications.
    IPCBUS_TRY(memory.back_slot(0));
    IPCBUS_TRY(memory.back_publication(0));
    return memory;
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
    const u64 backed = cursor_backed_;
    cursor_backed_ = 0;
    IPCBUS_TRY(populate(cursor_, cursor_backed_, backed, MADV_POPULATE_READ));
    // Opened after the seal: see sys/memfd.hpp.
    sys::UniqueFd read_only = IPCBUS_TRY(sys::reopen_read_only(cursor_fd_->get()));
    pages_ = std::make_shared<const PeerPages>(
        PeerPages{client_, geometry_, share(std::move(read_only)), doorbell_fd_});
    cursor_fd_.reset();
    mailbox_fd_.reset();
    return {};
}

sys::Result<void> ClientMemory::back_slot(u32 slot) {
    IPCBUS_ASSERT(slot < geometry_.attachments_max);
    return populate(cursor_, cursor_backed_, protocol::slot_offset(geometry_, slot + 1),
                    MADV_POPULATE_READ);
}

sys::Result<void> ClientMemory::back_publication(u32 index) {
    IPCBUS_ASSERT(index < geometry_.publications_max);
    return populate(mailbox_, mailbox_backed_, protocol::attention_offset(index + 1),
                    MADV_POPULATE_WRITE);
}

protocol::MailboxPublication& ClientMemory::line(u32 index) const {
    IPCBUS_ASSERT(index < geometry_.publications_max);
    return *reinterpret_cast<protocol::MailboxPublication*>(mailbox_.data() +
                                                            protocol::attention_offset(index));
}

void ClientMemory::store_attention(u32 index, u64 number) {
    // [J1] release, for ThreadSanitizer's sake; the caller's full fence [J2] is what orders it.
    line(index).attention.store(number, std::memory_order_release);
}

void ClientMemory::store_readers(u32 index, u32 readers) {
    // relaxed: a figure, nothing is ordered by it
    line(index).readers.store(readers, std::memory_order_relaxed);
}

void ClientMemory::announce_frames() {
    auto* mailbox = reinterpret_cast<protocol::MailboxHeader*>(mailbox_.data());
    // release: the frames are in the socket before they are counted.
    mailbox->frames.fetch_add(1, std::memory_order_release);
    // Either a waiter's last look at `frames` before it sleeps sees this, or we see it asleep.
    protocol::full_fence();
    const auto* header = reinterpret_cast<const protocol::CursorHeader*>(cursor_.data());
    // relaxed: only a bound. A waiter that comes into use later looks before it sleeps.
    const u32 used_untrusted = header->waiters_used.load(std::memory_order_relaxed);
    const u32 used = std::min(used_untrusted, geometry_.waiters_max);
    for (u32 waiter = 0; waiter < used; waiter++) {
        const auto* asleep = reinterpret_cast<const std::atomic<u32>*>(
            cursor_.data() + protocol::asleep_offset(waiter));
        // relaxed: the full fence above orders it after `frames`
        if ((asleep->load(std::memory_order_relaxed) & 1) != 0) {
            auto* doorbell = reinterpret_cast<protocol::DoorbellWaiter*>(
                doorbell_.data() + protocol::waiter_offset(waiter));
            // release: who sees the count sees `frames`
            doorbell->bell.fetch_add(1, std::memory_order_release);
            sys::futex_wake_all(doorbell->bell);
        }
    }
}

}  // namespace ipcbus::daemon
