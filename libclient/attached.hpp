// SPDX-License-Identifier: Apache-2.0
// Attached: one subscription of this client reading one ring. Made by whichever thread reads the
// socket, under the control lock; used and ended by the thread of its subscriber. What is common
// to all who read that ring is in the Ring (rings.hpp).
#pragma once

#include "protocol/waiter.hpp"
#include "rings.hpp"

namespace ipcbus::client {

class FrameSink;

/// The attachments of one subscriber.
struct Feed : protocol::Source {
    explicit Feed(FrameSink& subscriber) : sink(subscriber) {}
    FrameSink& sink;
    bool headed = false;
};

/// Beside its ring an attachment costs this, malloc's eight bytes, and a place in three tables: its
/// source's, its waiter's, and that of the bus.
struct Attached : protocol::Attachment {
    Attached(const protocol::Attached& told, CountedRing&& of_ring, Feed& feed);
    ~Attached() { Rings::give(ring()); }
    Attached(const Attached&) = delete;
    Attached& operator=(const Attached&) = delete;

    [[nodiscard]] const Ring& ring() const { return static_cast<const Ring&>(writer()); }
    /// Any thread: it never changes.
    [[nodiscard]] FrameSink& sink() const { return static_cast<const Feed*>(source())->sink; }

    bool filter : 1;  ///< each record is looked at before it is received: it names its topic,
    bool headed : 1;  ///< or has a head (protocol/exchange.hpp)
    bool latest : 1;
    bool ended : 1;     ///< the publisher is gone: what is there is all there will be
    bool orphaned : 1;  ///< from a daemon that is no more
    bool has_aside : 1;
    bool behind : 1;  ///< begins with history, and is not yet where it begins: pass_to_expected()
    u8 resyncs_in_vain = 0;
    u64 id;
};
static_assert(sizeof(Attached) == 88);

/// What hardly any attachment has, and those for moments: kept apart.
struct Aside {
    const Attached* attached;
    u64 passed_over = 0;        ///< by a `latest` reader, before the message it reads next
    u64 lost_before_start = 0;  ///< messages between the last ring of this lineage and this one
};

}  // namespace ipcbus::client
