// SPDX-License-Identifier: Apache-2.0
// ClientPages: the three pages of a client (layout.hpp), mapped to be written, and where each word
// lies in them. For whoever does a client's part without being the library of a process: the daemon
// on behalf of a remote client, the bridge at the other end. One thread; numbers are the caller's,
// within the geometry.
#pragma once

#include "protocol/layout.hpp"
#include "sys/mapping.hpp"

namespace ipcbus::client {

struct ClientPages {
    protocol::Geometry geometry;
    sys::Mapping cursor;
    sys::Mapping doorbell;
    sys::Mapping mailbox;

    /// Maps what the descriptors name; `mailbox_fd` may be -1.
    [[nodiscard]] static sys::Result<ClientPages>
    map(const protocol::Geometry& geometry, int cursor_fd, int doorbell_fd, int mailbox_fd) {
        ClientPages pages;
        pages.geometry = geometry;
        pages.cursor = IPCBUS_TRY(sys::map_shared(cursor_fd, 0, protocol::cursor_bytes(geometry),
                                                  sys::Access::read_write));
        pages.doorbell = IPCBUS_TRY(sys::map_shared(
            doorbell_fd, 0, protocol::doorbell_bytes(geometry), sys::Access::read_write));
        if (mailbox_fd >= 0) {
            pages.mailbox = IPCBUS_TRY(sys::map_shared(
                mailbox_fd, 0, protocol::mailbox_bytes(geometry), sys::Access::read_write));
        }
        return pages;
    }

    [[nodiscard]] protocol::CursorHeader& header() const {
        return *at<protocol::CursorHeader>(cursor, 0);
    }
    [[nodiscard]] protocol::CursorSlot& slot(protocol::u32 number) const {
        return *at<protocol::CursorSlot>(cursor, protocol::slot_offset(number));
    }
    [[nodiscard]] std::atomic<protocol::u32>& asleep(protocol::u32 waiter) const {
        return *at<std::atomic<protocol::u32>>(cursor, protocol::asleep_offset(geometry, waiter));
    }
    [[nodiscard]] protocol::DoorbellWaiter& waiter(protocol::u32 number) const {
        return *at<protocol::DoorbellWaiter>(doorbell, protocol::waiter_offset(number));
    }
    [[nodiscard]] protocol::DoorbellPublication& publication(protocol::u32 index) const {
        return *at<protocol::DoorbellPublication>(doorbell,
                                                  protocol::sleepers_offset(geometry, index));
    }
    [[nodiscard]] protocol::MailboxHeader& mail() const {
        return *at<protocol::MailboxHeader>(mailbox, 0);
    }
    [[nodiscard]] protocol::MailboxPublication& mail(protocol::u32 index) const {
        return *at<protocol::MailboxPublication>(mailbox, protocol::attention_offset(index));
    }

private:
    template <class T>
    static T* at(const sys::Mapping& page, protocol::u64 offset) {
        return reinterpret_cast<T*>(page.data() + offset);
    }
};

}  // namespace ipcbus::client
