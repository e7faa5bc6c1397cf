// SPDX-License-Identifier: Apache-2.0
//
// LOOK and its answers: the frames in which the daemon tells the state of the bus, a page at a
// time, since minor version 3. As all frames (wire.hpp) specified in ipcbus-protocol(7) and pinned
// by tests/unit/wire_test.cpp. Used by the daemon's one thread, and by tools.
//
// The daemon keeps nothing between two pages: `next` of one is `after` of the next LOOK, and 0
// begins and ends. What was there all the time comes once; what came or went meanwhile, perhaps
// not. A page may be empty and yet not the last: the daemon looks at a bounded number of things for
// each, and not all are for everybody to see.
//
// Figures are those of one moment, but of a moment each. They come from memory that publishers and
// readers write: the daemon has bounded them, and tells where it could not believe them.
#pragma once

#include "protocol/wire.hpp"

namespace ipcbus::protocol {

enum class LookAt : u8 { clients = 1, publications = 2, subscriptions = 3, attachments = 4 };

enum class Transport : u8 { shm = 0, tcp = 1 };

/// What a ring carries, and a subscription is to.
enum class LookKind : u8 { messages = 0, requests = 1, replies = 2 };

/// Entries of one page, so that the longest fit the frame.
inline constexpr std::size_t kClientsPerPageMax = 64;
inline constexpr std::size_t kPublicationsPerPageMax = 48;
inline constexpr std::size_t kSubscriptionsPerPageMax = 48;
inline constexpr std::size_t kAttachmentsPerPageMax = 48;

/// Answer: the page that it asks for. Also before MAPPED.
struct Look {
    static constexpr FrameType kType = FrameType::look;
    u8 at = 0;           ///< LookAt
    u64 after = 0;       ///< 0: the first page; else `next` of the one before
    std::string filter;  ///< only what has a topic in common with it; empty: everything
    static void fields(auto& self, auto& v) {
        v(self.at, self.after);
        v.text(self.filter, kTopicBytesMax);
    }
};

/// What stands before the entries of every page.
struct PageHead {
    u64 next = 0;     ///< for the next page; 0: this was the last
    u64 time_ns = 0;  ///< of the daemon's CLOCK_MONOTONIC: for rates
    u8 all = 0;       ///< 1: everything is shown to this client; 0: what is its uid's
    static void fields(auto& self, auto& v) { v(self.next, self.time_ns, self.all); }
};

struct ClientEntry {
    u64 client = 0;
    u32 uid = 0;
    u32 pid = 0;       ///< as the daemon sees it; 0: it cannot
    u8 transport = 0;  ///< Transport
    u32 publications = 0;
    u32 subscriptions = 0;
    u32 waiters = 0;  ///< in use
    u64 sleeps = 0;   ///< of all of them: how often one went to sleep
    std::string name;
    static void fields(auto& self, auto& v) {
        v(self.client, self.uid, self.pid, self.transport, self.publications, self.subscriptions,
          self.waiters, self.sleeps);
        v.text(self.name, kClientNameBytesMax);
    }
};
struct ClientsPage {
    static constexpr FrameType kType = FrameType::clients_page;
    PageHead head;
    std::vector<ClientEntry> entries;
    static void fields(auto& self, auto& v) {
        PageHead::fields(self.head, v);
        v.list(self.entries, kClientsPerPageMax);
    }
};

inline constexpr u8 kPublicationEnded = 1;      ///< its publisher has gone, readers drain it
inline constexpr u8 kPublicationBlocked = 2;    ///< its publisher waits for readers
inline constexpr u8 kPublicationDisbelief = 4;  ///< the ring says what cannot be true

struct PublicationEntry {
    u64 publication = 0;
    u64 client = 0;  ///< the publisher; it may have gone
    u32 uid = 0;
    u8 flags = 0;  ///< kPublicationEnded ...
    u8 kind = 0;   ///< LookKind
    u64 ring_bytes = 0;
    u32 record_bytes_max = 0;
    u32 readers = 0;
    u64 messages = 0;  ///< published in this ring
    u64 bytes = 0;     ///< that they take there, headers and padding included
    u64 sequence = 0;  ///< of the message that comes next
    std::string topic;
    static void fields(auto& self, auto& v) {
        v(self.publication, self.client, self.uid, self.flags, self.kind, self.ring_bytes,
          self.record_bytes_max, self.readers, self.messages, self.bytes, self.sequence);
        v.text(self.topic, kTopicBytesMax);
    }
};
struct PublicationsPage {
    static constexpr FrameType kType = FrameType::publications_page;
    PageHead head;
    std::vector<PublicationEntry> entries;
    static void fields(auto& self, auto& v) {
        PageHead::fields(self.head, v);
        v.list(self.entries, kPublicationsPerPageMax);
    }
};

struct SubscriptionEntry {
    u64 subscription = 0;
    u64 client = 0;
    u32 uid = 0;
    u8 mode = 0;  ///< ReaderMode, as asked for
    u8 kind = 0;  ///< LookKind
    u32 attachments = 0;
    std::string filter;  ///< of replies: empty
    static void fields(auto& self, auto& v) {
        v(self.subscription, self.client, self.uid, self.mode, self.kind, self.attachments);
        v.text(self.filter, kTopicBytesMax);
    }
};
struct SubscriptionsPage {
    static constexpr FrameType kType = FrameType::subscriptions_page;
    PageHead head;
    std::vector<SubscriptionEntry> entries;
    static void fields(auto& self, auto& v) {
        PageHead::fields(self.head, v);
        v.list(self.entries, kSubscriptionsPerPageMax);
    }
};

inline constexpr u8 kAttachmentHolds = 1;       ///< its publisher is blocked, and waits for it. Of
                                                ///< requests: told if it is the one reader
inline constexpr u8 kAttachmentOvertaken = 2;   ///< what it would read next is gone
inline constexpr u8 kAttachmentParked = 4;      ///< it is to be woken when there is news
inline constexpr u8 kAttachmentDisbelief = 8;   ///< its cursor is where it cannot be: lag unknown
inline constexpr u8 kAttachmentUncounted = 16;  ///< lag_messages is unknown

/// Told to who may see either end.
struct AttachmentEntry {
    u64 attachment = 0;
    u64 subscription = 0;
    u64 publication = 0;
    u64 reader = 0;  ///< its client
    u64 writer = 0;  ///< the publication's client
    u8 mode = 0;     ///< ReaderMode as it is now: reliable may have become lossy
    u8 flags = 0;    ///< kAttachmentHolds ...
    u64 lag_bytes = 0;
    u64 lag_messages = 0;
    u64 received = 0;  ///< messages; these three as the reader says
    u64 lost = 0;
    u64 sleeps = 0;     ///< how often it was parked
    std::string topic;  ///< the publication's
    static void fields(auto& self, auto& v) {
        v(self.attachment, self.subscription, self.publication, self.reader, self.writer, self.mode,
          self.flags, self.lag_bytes, self.lag_messages, self.received, self.lost, self.sleeps);
        v.text(self.topic, kTopicBytesMax);
    }
};
struct AttachmentsPage {
    static constexpr FrameType kType = FrameType::attachments_page;
    PageHead head;
    std::vector<AttachmentEntry> entries;
    static void fields(auto& self, auto& v) {
        PageHead::fields(self.head, v);
        v.list(self.entries, kAttachmentsPerPageMax);
    }
};

}  // namespace ipcbus::protocol
