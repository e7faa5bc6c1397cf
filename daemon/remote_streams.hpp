// SPDX-License-Identifier: Apache-2.0
// What moves messages for a remote client: one end of a ring that the daemon holds for it, and one
// end of a stream (protocol/stream.hpp). Parts of a RemoteSession, the daemon's one thread.
#pragma once

#include "remote_session.hpp"

namespace ipcbus::daemon {

/// A publication of the remote's: from DATA into a ring.
struct RemoteSession::Incoming {
    Incoming(sys::RingMapping mapped, const protocol::Advertised& told,
             const client::ClientPages& pages, protocol::i64 stall_ns, protocol::Control& control);
    RemoteMemory::Share share;
    sys::RingMapping memory;
    protocol::u64 id;
    protocol::u32 index;
    protocol::u64 begin;  ///< the position of its first record
    protocol::RingPublisher ring;
    protocol::StreamReceiver receiver;
    std::vector<RemoteMemory::SharedPeer> peers;
    protocol::u64 digested = 0;  ///< of the receiver, as it was looked at last
    protocol::u64 leaving = 0;  ///< the request of an UNADVERTISE that waits for the rest
    Charge charge;              ///< of the window
};

/// An attachment of the remote's: from a ring into DATA.
struct RemoteSession::Outgoing final : protocol::Attachment {
    Outgoing(const protocol::Attached& told, RemoteMemory::SharedRing ring,
             RemoteMemory::SharedPeer writer, std::unique_ptr<protocol::WriterWords> words,
             protocol::CursorSlot& slot, protocol::Source& source);
    std::unique_ptr<protocol::WriterWords> words;
    RemoteMemory::SharedRing memory;
    RemoteMemory::SharedPeer pages;
    protocol::u64 id;
    protocol::u64 subscription;
    protocol::StreamSender sender;
    bool listed = false;   ///< in source_, because it may send
    bool ended = false;    ///< the publisher has gone: ENDED is due when all has been sent
    bool done = false;     ///< nothing more will be sent
    bool awaited = false;  ///< by CAUGHT_UP
};

}  // namespace ipcbus::daemon
