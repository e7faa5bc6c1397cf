// SPDX-License-Identifier: Apache-2.0
// PeerPages: another client's pages (or our own, seen as a peer's), as far as they have been
// mapped. Shared by the link that got them, the publications that read cursors there and the rings
// whose writer it is; unmapped when the last one lets go. Mapped under the control lock; the words
// in them follow the rules of layout.hpp. Small: a client may have thousands of peers.
#pragma once

#include "protocol/reader_table.hpp"
#include "sys/ref.hpp"
#include "sys/result.hpp"

namespace ipcbus::client {

using protocol::i64;
using protocol::u16;
using protocol::u32;
using protocol::u64;
using protocol::u8;

class PeerPages final : public sys::Counted {
public:
    PeerPages(u64 client, const protocol::Geometry& geometry)
        : client_(client),
          waiters_{nullptr, nullptr, geometry.waiters_max},
          publications_max_(geometry.publications_max),
          attachments_max_(geometry.attachments_max) {}
    ~PeerPages();

    [[nodiscard]] u64 client() const { return client_; }
    [[nodiscard]] protocol::Geometry geometry() const {
        return {waiters_.waiters_max, publications_max_, attachments_max_};
    }
    /// Maps what the daemon sent; a page that is mapped already stays.
    [[nodiscard]] sys::Result<void> map(int cursor_fd, int doorbell_fd);
    [[nodiscard]] bool has_cursor() const { return waiters_.asleep != nullptr; }
    [[nodiscard]] bool has_doorbell() const { return waiters_.doorbell != nullptr; }

    /// Where its waiters are: both pages must be mapped.
    [[nodiscard]] const protocol::PeerWaiters& waiters() const { return waiters_; }
    /// Bounds have been checked by the caller: the numbers come from the daemon.
    [[nodiscard]] const protocol::CursorSlot* slot(u32 slot) const;
    [[nodiscard]] protocol::DoorbellPublication* publication(u32 index) const;

private:
    /// Where the pages begin: in front of the words of waiter 0.
    [[nodiscard]] const std::byte* cursor() const;
    [[nodiscard]] std::byte* doorbell() const;

    u64 client_;
    protocol::PeerWaiters waiters_;
    u32 publications_max_;
    u32 attachments_max_;
};

}  // namespace ipcbus::client
