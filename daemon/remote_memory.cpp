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
/// Of all mappings: what one uid may have, and what is kept for who reads remote publications.
constexpr std::uint64_t kUidPart = 2;
constexpr std::uint64_t kReadersPart = 4;
/// Instead of a uid: of no remote client, but of who reads one's publication.
constexpr auto kReader = static_cast<uid_t>(-1);
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

Result<RemoteMemory::Share> RemoteMemory::take(uid_t uid, std::uint64_t count,
                                               std::string_view what) {
    const std::uint64_t all = mappings_max_ - mappings_max_ / kReadersPart;
    const std::uint64_t own_max = mappings_max_ / kUidPart;
    const auto found = by_uid_.find(uid);
    const std::uint64_t own = found == by_uid_.end() ? 0 : found->second;
    if (uid != kReader && own + count > own_max) {
        return sys::fail(
            ENOSPC,
            fmt::format("{}: {} mappings more than the {} that one identity of remote "
                        "clients may have, half of all; raise {} (now {}), and "
                        "vm.max_map_count with it",
                        what, own + count - own_max, own_max, key::kTcpMappings, mappings_max_));
    }
    const std::uint64_t most = uid == kReader ? mappings_max_ : all;
    if (mappings_ + count > most) {
        return sys::fail(
            ENOSPC,
            fmt::format("{}: {} mappings more than the {} that remote clients have; raise "
                        "{} (now {}), and vm.max_map_count with it",
                        what, mappings_ + count - most, most, key::kTcpMappings, mappings_max_));
    }
    mappings_ += count;
    if (uid != kReader) {
        by_uid_[uid] += count;
    }
    return Share(*this, uid, count);
}

void RemoteMemory::give_back(uid_t uid, std::uint64_t count) {
    mappings_ -= count;
    if (const auto found = by_uid_.find(uid); found != by_uid_.end()) {
        found->second -= count;
        if (found->second == 0) {
            by_uid_.erase(found);
        }
    }
}

Result<Charge> RemoteMemory::charge(const Amounts& amounts, std::string_view what) {
    Charge charge = bus_.charge_bus(amounts);
    if (!charge) {
        return sys::fail(ENOSPC, fmt::format("{}: the bus has no room for it; raise {} or {}", what,
                                             key::kDescriptors, key::kRingBytes));
    }
    return charge;
}

Result<RemoteMemory::SharedRing> RemoteMemory::ring(uid_t uid, Id publication, int fd,
                                                    std::uint64_t ring_bytes) {
    if (const auto found = rings_.find(publication); found != rings_.end()) {
        SharedRing shared = found->second.lock();
        IPCBUS_ASSERT(shared && shared->mapped.capacity() == ring_bytes);
        return shared;
    }
    Ring made;
    made.share = IPCBUS_TRY(take(uid, kRingMappings, "a ring that a remote client reads"));
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

Result<RemoteMemory::SharedPeer> RemoteMemory::peer(uid_t uid, Id client,
                                                    const protocol::Geometry& geometry, int cursor,
                                                    sys::UniqueFd doorbell) {
    const auto found = peers_.find(client);
    SharedPeer shared = found != peers_.end() ? found->second.lock() : nullptr;
    if (!shared) {
        Peer made;
        made.share = IPCBUS_TRY(take(cursor >= 0 ? kReader : uid, kPeerMappings,
                                     "a client that remote ones are attached to"));
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
