// SPDX-License-Identifier: Apache-2.0
// Mapping another client's pages. See peer_pages.hpp.
#include "peer_pages.hpp"

#include "sys/mapping.hpp"

namespace ipcbus::client {

using sys::Result;

PeerPages::~PeerPages() {
    if (has_cursor()) {
        sys::Mapping(const_cast<std::byte*>(cursor()), protocol::cursor_bytes(geometry())).reset();
    }
    if (has_doorbell()) {
        sys::Mapping(doorbell(), protocol::doorbell_bytes(geometry())).reset();
    }
}

Result<void> PeerPages::map(int cursor_fd, int doorbell_fd) {
    if (cursor_fd >= 0 && !has_cursor()) {
        sys::Mapping mapped = IPCBUS_TRY(sys::map_shared(
            cursor_fd, 0, protocol::cursor_bytes(geometry()), sys::Access::read_only));
        waiters_.asleep = reinterpret_cast<const std::atomic<u32>*>(
            mapped.release() + protocol::asleep_offset(geometry(), 0));
    }
    if (doorbell_fd >= 0 && !has_doorbell()) {
        sys::Mapping mapped = IPCBUS_TRY(sys::map_shared(
            doorbell_fd, 0, protocol::doorbell_bytes(geometry()), sys::Access::read_write));
        waiters_.doorbell = reinterpret_cast<protocol::DoorbellWaiter*>(mapped.release() +
                                                                        protocol::waiter_offset(0));
    }
    return {};
}

const std::byte* PeerPages::cursor() const {
    return reinterpret_cast<const std::byte*>(waiters_.asleep) -
           protocol::asleep_offset(geometry(), 0);
}
std::byte* PeerPages::doorbell() const {
    return reinterpret_cast<std::byte*>(waiters_.doorbell) - protocol::waiter_offset(0);
}

const protocol::CursorSlot* PeerPages::slot(u32 slot) const {
    return reinterpret_cast<const protocol::CursorSlot*>(cursor() + protocol::slot_offset(slot));
}
protocol::DoorbellPublication* PeerPages::publication(u32 index) const {
    return reinterpret_cast<protocol::DoorbellPublication*>(
        doorbell() + protocol::sleepers_offset(geometry(), index));
}

}  // namespace ipcbus::client
