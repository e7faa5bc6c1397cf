// SPDX-License-Identifier: Apache-2.0
// Mapping rings and pages for remote clients. See remote_memory.hpp.
#include "remote_memory.hpp"

#include <fmt/format.h>
#include <unistd.h>

namespace ipcbus::daemon {

using protocol::u32;
using protocol::u64;
using sys::Result;

namespace {

constexpr std::uint64_t kRingMappings = 2;
constexpr std::uint64_t kPeerMappings = 2;
/// Two pages of its writer's doorbell: written without a look whether they are there.
constexpr Amounts kRingCost{.ring_bytes = 2 * protocol::kPageBytes};
constexpr Amounts kPeerCost{.descriptors = 1};

bool page_there(int fd, u64 offset) {
    const auto page = static_cast<off_t>(offset & ~u64{protocol::kPageBytes - 1});
    return ::lseek(fd, page, SEEK_DATA) == page;
}

}  // namespace

const protocol::CursorSlot* RemoteMemory::Peer::slot(u32 number) const {
    return reinterpret_cast<const protocol::CursorSlot*>(cursor_page.data() +
                                                         protocol::slot_offset(number));
}

protocol::DoorbellPublication* RemoteMemory::Peer::publication(u32 index) const {
    return reinterpret_cast<protocol::DoorbellPublication*>(
        doorbell_page.data() + protocol::sleepers_offset(geometry, index));
}

Result<RemoteMemory::Share> RemoteMemory::take(std::uint64_t count, std::string_view what) {
    if (count > mappings_max_ || mappings_ > mappings_max_ - count) {
        return sys::fail(
            ENOSPC, fmt::format("{}: {} mappings more than the {} that remote clients have; raise "
                                "{} (now {}), and vm.max_map_count with it",
                                what, count, mappings_, key::kTcpMappings, mappings_max_));
    }
    mappings_ += count;
    return Share(*this, count);
}

Result<Charge> RemoteMemory::charge(const Amounts& amounts, std::string_view what) {
    Charge charge = bus_.charge_bus(amounts);
    if (!charge) {
        return sys::fail(ENOSPC, fmt::format("{}: the bus has no room for it; raise {} or {}", what,
                                             key::kDescriptors, key::kRingBytes));
    }
    return charge;
}

Result<RemoteMemory::SharedRing> RemoteMemory::ring(Id publication, int fd,
                                                    std::uint64_t ring_bytes) {
    if (const auto found = rings_.find(publication); found != rings_.end()) {
        SharedRing shared = found->second.lock();
        IPCBUS_ASSERT(shared && shared->mapped.capacity() == ring_bytes);
        return shared;
    }
    Ring made;
    made.share = IPCBUS_TRY(take(kRingMappings, "a ring that a remote client reads"));
    made.charge = IPCBUS_TRY(charge(kRingCost, "a ring that a remote client reads"));
    made.mapped = IPCBUS_TRY(
        sys::map_ring(fd, protocol::kRingDataOffset, ring_bytes, sys::Access::read_only));
    SharedRing shared(new Ring(std::move(made)), [this, publication](const Ring* ring) {
        rings_.erase(publication);
        delete ring;
    });
    rings_.emplace(publication, shared);
    return shared;
}

Result<RemoteMemory::SharedPeer> RemoteMemory::peer(Id client, const protocol::Geometry& geometry,
                                                    int cursor, sys::UniqueFd doorbell) {
    const auto found = peers_.find(client);
    SharedPeer shared = found != peers_.end() ? found->second.lock() : nullptr;
    if (!shared) {
        Peer made;
        made.share = IPCBUS_TRY(take(kPeerMappings, "a client that remote ones are attached to"));
        made.charge = IPCBUS_TRY(charge(kPeerCost, "a client that remote ones are attached to"));
        made.geometry = geometry;
        made.waiters_max = geometry.waiters_max;
        shared = SharedPeer(new Peer(std::move(made)), [this, client](const Peer* peer) {
            peers_.erase(client);
            delete peer;
        });
        peers_.emplace(client, shared);
    }
    if (cursor >= 0 && !shared->has_cursor()) {
        shared->cursor_page = IPCBUS_TRY(
            sys::map_shared(cursor, 0, protocol::cursor_bytes(geometry), sys::Access::read_only));
        shared->asleep = reinterpret_cast<const std::atomic<u32>*>(
            shared->cursor_page.data() + protocol::asleep_offset(geometry, 0));
    }
    if (doorbell && !shared->has_doorbell()) {
        shared->doorbell_page = IPCBUS_TRY(sys::map_shared(
            doorbell.get(), 0, protocol::doorbell_bytes(geometry), sys::Access::read_write));
        shared->doorbell = reinterpret_cast<protocol::DoorbellWaiter*>(
            shared->doorbell_page.data() + protocol::waiter_offset(0));
        shared->doorbell_fd = std::move(doorbell);
    }
    return shared;
}

/// A waiter that parks has read its words, so there are pages. One that claims to may have none.
bool RemoteMemory::there(const protocol::PeerWaiters& peer, u32 waiter) {
    const int fd = static_cast<const Peer&>(peer).doorbell_fd.get();
    const u64 offset = protocol::waiter_offset(waiter);
    return page_there(fd, offset) && page_there(fd, offset + sizeof(protocol::DoorbellWaiter) - 1);
}

}  // namespace ipcbus::daemon
