// SPDX-License-Identifier: Apache-2.0
//
// THE SHARED-MEMORY LAYOUT OF IPCBUS. This header is a document first: it says what lies where in
// the four kinds of memory that processes of one bus share, who writes each word and who may only
// read it. It is a promise between versions of the library and the daemon: the specification is
// ipcbus-protocol(7), tests/unit/layout_test.cpp pins the numbers, and the three change together.
// The orders in which the words are stored and loaded are told where that is done: ring_writer.hpp,
// ring_reader.hpp, reader_table.hpp, waiter.hpp, join.hpp.
//
// FOUR OBJECTS, each one memfd that the daemon creates:
//
//   object         one per       written by              mapped by
//   ring           publication   its publisher           its readers and the daemon, read-only
//   cursor page    client        that client             publishers it reads from, the daemon: r/o
//   doorbell page  client        that client, and        the same, read-write
//                                whoever may ring it
//   mailbox        client        the daemon (and that    that client, read-write
//                                client, to its own harm)
//
// TERMS. A position counts the bytes written since the ring began: u64, begins at `capacity`, only
// grows, compared by signed difference, never by `<`. Its offset in the ring is position modulo
// capacity. The data of a ring is mapped twice, back to back: a record that runs over the end is
// contiguous all the same, and a pointer plus capacity points at the same byte.
//
//   ring memfd                                   as mapped
//   +-----------------+ 0                        +-----------------+
//   | RingHeader      |                          | RingHeader      |
//   +-----------------+ kRingDataOffset          +-----------------+
//   | data            |                          | data            |  position & (capacity-1)
//   +-----------------+ + capacity               +-----------------+
//                                                | data once more  |
//                                                +-----------------+
//
//   record, at a multiple of 16                                               terminator
//   +------------------+------------------+-----------------+-------------+  +--------+--------+
//   | word        u64  | sequence    u64  | topic, padded   | payload,    |  | 0      | next   |
//   |                  |                  | to 16 (filters) | padded to 16|  |        | seq.   |
//   +------------------+------------------+-----------------+-------------+  +--------+--------+
//     word: bits 0-31 payload bytes, 32-47 topic bytes, 48-63 flags; bit 63 is always set, so
//     that the word of a record is never zero. Stored last, with release.
//     A closed ring ends in a word with the flag `closed` where the terminator stood.
//
// TRUST. A ring is hostile input to its readers and to the daemon; a cursor page is hostile input
// to publishers and to the daemon; a doorbell page is anybody's; a mailbox is believed by its
// client, since only the daemon and that client itself can write it. Geometry is never read from
// shared memory: it comes with the daemon's frames. A word is loaded once into a local, checked,
// and the local is used. Zeroed memory is a valid cursor page, doorbell page and mailbox.
//
// Only fixed-width types, and atomics of at most 8 bytes: a 16-byte atomic load faults on a
// read-only mapping. Never std::atomic::wait: it uses futexes that are private to a process.
#pragma once

#include "protocol/limits.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ipcbus::protocol {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i64 = std::int64_t;

/// Raised by one when anything in this file changes its place or meaning. HELLO carries it.
inline constexpr u32 kLayoutVersion = 2;

// ---------------------------------------------------------------------------------------- ring

/// "ipcbring", so that a dump or a core file tells what it is.
inline constexpr u64 kRingMagic = 0x676e697262637069;

/// The first page of a ring. One line per pattern of use; all but the first written by the
/// publisher alone. The first is written by the daemon before the publisher gets the ring, for
/// people and debuggers: no program takes its geometry from here.
struct RingHeader {
    // Line 0: what this is. Constant.
    u64 magic;
    u32 incompatible_flags;  ///< none yet: a reader refuses what it does not know
    u32 compatible_flags;    ///< none yet: a reader ignores what it does not know
    u32 header_bytes;
    u32 layout_version;
    u64 ring_bytes;
    u64 data_offset;
    u64 publication;
    u32 record_alignment;
    u32 record_bytes_max;
    u64 reserved0;

    // Line 1: looked at by each reader once a batch, written in the publisher's slow path only.
    /// The publisher never touches a byte at or beyond this position; what lies below
    /// announced - capacity is gone. Only grows.
    alignas(kCacheLine) std::atomic<u64> announced;
    /// The cursor that a blocked publisher needs (position + record + 16 - capacity), 0: not
    /// blocked. A reader whose cursor passes it rings the publisher.
    std::atomic<u64> wanted;
    /// 1: publishes go without a full fence, and a reader that wants to sleep has to bring one
    /// about (waiter.hpp); 0: each publish ends with one.
    std::atomic<u32> unfenced;
    /// 1: the publisher has been blocked for a while: each move of a reader is to be seen, so that
    /// a slow one is not taken for one that has stopped.
    std::atomic<u32> hurry;

    // Line 2: written with each publish, looked at by lapped readers, `latest` readers and the
    // daemon.
    /// Position of the newest record. 0, which lies behind a ring that begins at its capacity:
    /// none yet; when the positions have wrapped, and 0 lies in the ring: that record.
    alignas(kCacheLine) std::atomic<u64> newest;

    // Lines 3, 4: mark i is the first record boundary in the i-th sixteenth of the ring, 0: none.
    alignas(kCacheLine) std::atomic<u64> marks[kMarks];
};

inline constexpr u64 kRingDataOffset = kPageBytes;

/// A record's header, and, with word 0, the terminator.
struct RecordHeader {
    std::atomic<u64> word;
    std::atomic<u64> sequence;
};

inline constexpr u64 kRecordAlignment = 16;
inline constexpr u64 kRecordHeaderBytes = 16;
inline constexpr u16 kRecordPresent = 0x8000;  ///< set in every record
inline constexpr u16 kRecordClosed = 0x4000;   ///< no record: the ring ends here
/// No message: the sequences up to the u64 that is its payload are missing here. Only in rings that
/// a relay writes (kRelayed): it had not lost them itself, but was told so from afar.
inline constexpr u16 kRecordGap = 0x2000;
inline constexpr u16 kRecordFlagsKnown = kRecordPresent | kRecordClosed | kRecordGap;

constexpr u64 align_record(u64 bytes) {
    return (bytes + kRecordAlignment - 1) & ~(kRecordAlignment - 1);
}
/// Bytes of a whole record: header, topic, payload, padding. Terminator not included.
constexpr u64 record_bytes(u64 topic_bytes, u64 payload_bytes) {
    return kRecordHeaderBytes + align_record(topic_bytes) + align_record(payload_bytes);
}
/// The word of a record.
constexpr u64 record_word(u32 payload_bytes, u16 topic_bytes, u16 flags) {
    return u64{payload_bytes} | u64{topic_bytes} << 32 |
           u64{static_cast<u16>(flags | kRecordPresent)} << 48;
}
constexpr u32 word_payload_bytes(u64 word) { return static_cast<u32>(word); }
constexpr u16 word_topic_bytes(u64 word) { return static_cast<u16>(word >> 32); }
constexpr u16 word_flags(u64 word) { return static_cast<u16>(word >> 48); }

/// The largest payload of a ring.
constexpr u64 payload_bytes_max(u64 capacity) { return capacity / kPayloadPart; }
/// The largest record of a ring, which has room for the largest payload with the longest topic:
/// what a publication may declare at most. 3 of these + 32 fit the smallest ring.
constexpr u64 record_bytes_max(u64 capacity) {
    return record_bytes(kTopicBytesMax, payload_bytes_max(capacity));
}
/// A gap is as large as this.
inline constexpr u64 kGapBytes = record_bytes(0, sizeof(u64));
/// Set in the record_bytes_max that a reader is told of a ring which a relay writes. That number is
/// a multiple of 16 otherwise, and no record has a length in between.
inline constexpr u32 kRelayed = 1;
/// The largest step by which `announced` is raised at once.
constexpr u64 raise_max(u64 capacity, u64 largest_record_bytes) {
    const u64 stride = capacity / kStridePart;
    const u64 record = largest_record_bytes + kRecordHeaderBytes;
    return stride > record ? stride : record;
}
/// Signed distance from position b to position a.
constexpr i64 distance(u64 a, u64 b) { return static_cast<i64>(a - b); }

// ----------------------------------------------------------- the memory of a client: geometry

/// How many of each a client's pages have room for. The daemon's choice (configuration), told in
/// WELCOME to the client and in PEER to those who map its pages.
struct Geometry {
    u32 waiters_max = 0;
    u32 publications_max = 0;
    u32 attachments_max = 0;

    [[nodiscard]] constexpr bool valid() const {
        return waiters_max >= 1 && waiters_max <= kWaitersMax && publications_max >= 1 &&
               publications_max <= kPublicationsMax && attachments_max >= 1 &&
               attachments_max <= kAttachmentsMax;
    }
    bool operator==(const Geometry&) const = default;
};

constexpr u64 align_up(u64 bytes, u64 to) { return (bytes + to - 1) & ~(to - 1); }

// --------------------------------------------------------------------------------- cursor page

/// Line 0 of the cursor page. Written by the client.
struct CursorHeader {
    alignas(kCacheLine) std::atomic<u32> waiters_used;  ///< waiters 0 .. waiters_used-1 may sleep
    u32 reserved[15];
};

/// One attachment of that client. Two share a line: both have the same writer, and publishers look
/// only in their slow path and in rounds.
struct CursorSlot {
    /// The position up to which the attachment has read; 0: not begun, the publisher counts the
    /// start it was given.
    std::atomic<u64> cursor;
    /// Bits 16-63 an episode, odd while parked; bits 0-15 the waiter to wake. Each parking is a new
    /// episode.
    std::atomic<u64> parked;
    std::atomic<u64> lost;      ///< messages lost so far; for statistics
    std::atomic<u64> received;  ///< messages received so far; for statistics
};

// Behind the header: the slots, then an `asleep` word a waiter (u32 episode, odd while its thread
// may be in FUTEX_WAIT). Slots are given out from 0 on, and so are waiters: of a page that is large
// enough for anybody, a client pays for what it uses.
constexpr u64 slot_offset(u32 slot) {
    return sizeof(CursorHeader) + sizeof(CursorSlot) * u64{slot};
}
constexpr u64 asleep_offset(const Geometry& g, u32 waiter) {
    return align_up(slot_offset(g.attachments_max), kCacheLine) + u64{4} * waiter;
}
constexpr u64 cursor_bytes(const Geometry& g) {
    return align_up(asleep_offset(g, g.waiters_max), kPageBytes);
}

constexpr u64 kParkedWaiterBits = 16;
constexpr u64 parked_word(u64 episode, u32 waiter) {
    return episode << kParkedWaiterBits | (waiter & 0xffff);
}
constexpr bool is_parked(u64 word) { return ((word >> kParkedWaiterBits) & 1) != 0; }
constexpr u32 parked_waiter(u64 word) { return static_cast<u32>(word & 0xffff); }

// ------------------------------------------------------------------------------- doorbell page

/// What one thread of the client sleeps on: its futex word and the bits that say which of its
/// parked attachments have news.
struct DoorbellWaiter {
    alignas(kCacheLine) std::atomic<u32> bell;  ///< futex word; only ever counted up
    u32 reserved;
    std::atomic<u64> summary;  ///< bit i: look at activity[i]
    u64 reserved1[6];
    std::atomic<u64> activity[kActivityWords];
};

/// One publication of the client.
struct DoorbellPublication {
    /// Set by a reader that parks; taken (exchanged for 0) by the publisher before a round.
    alignas(kCacheLine) std::atomic<u32> sleepers;
    u32 reserved[15];
};

constexpr u64 waiter_offset(u32 waiter) { return sizeof(DoorbellWaiter) * waiter; }
constexpr u64 sleepers_offset(const Geometry& g, u32 index) {
    return align_up(waiter_offset(g.waiters_max), kPageBytes) +
           sizeof(DoorbellPublication) * index;
}
constexpr u64 doorbell_bytes(const Geometry& g) {
    return align_up(sleepers_offset(g, g.publications_max), kPageBytes);
}

// ------------------------------------------------------------------------------------- mailbox

/// Line 0 of the mailbox. Written by the daemon.
struct MailboxHeader {
    /// Frames sent to this client that want its attention; raised after the send has completed.
    alignas(kCacheLine) std::atomic<u64> frames;
    u64 reserved[7];
};

/// One publication of the client. Written by the daemon.
struct MailboxPublication {
    /// Number of changes of the publication's membership; raised before the frame is sent.
    std::atomic<u64> attention;
    /// Attachments right now.
    std::atomic<u32> readers;
    u32 reserved;
};

constexpr u64 attention_offset(u32 index) {
    return sizeof(MailboxHeader) + sizeof(MailboxPublication) * index;
}
constexpr u64 mailbox_bytes(const Geometry& g) {
    return align_up(attention_offset(g.publications_max), kPageBytes);
}

// ----------------------------------------------------------------- the promise, in numbers

static_assert(sizeof(std::atomic<u64>) == 8 && std::atomic<u64>::is_always_lock_free);
static_assert(sizeof(std::atomic<u32>) == 4 && std::atomic<u32>::is_always_lock_free);

static_assert(std::is_standard_layout_v<RingHeader> && sizeof(RingHeader) == 320);
static_assert(sizeof(RingHeader) <= kRingDataOffset);
static_assert(3 * record_bytes_max(kRingBytesMin) + 2 * kRecordHeaderBytes <= kRingBytesMin);
static_assert(record_bytes_max(kRingBytesMax) < u64{1} << 32);
static_assert(offsetof(RingHeader, magic) == 0);
static_assert(offsetof(RingHeader, incompatible_flags) == 8);
static_assert(offsetof(RingHeader, compatible_flags) == 12);
static_assert(offsetof(RingHeader, header_bytes) == 16);
static_assert(offsetof(RingHeader, layout_version) == 20);
static_assert(offsetof(RingHeader, ring_bytes) == 24);
static_assert(offsetof(RingHeader, data_offset) == 32);
static_assert(offsetof(RingHeader, publication) == 40);
static_assert(offsetof(RingHeader, record_alignment) == 48);
static_assert(offsetof(RingHeader, record_bytes_max) == 52);
static_assert(offsetof(RingHeader, announced) == 64);
static_assert(offsetof(RingHeader, wanted) == 72);
static_assert(offsetof(RingHeader, unfenced) == 80);
static_assert(offsetof(RingHeader, hurry) == 84);
static_assert(offsetof(RingHeader, newest) == 128);
static_assert(offsetof(RingHeader, marks) == 192);

static_assert(std::is_standard_layout_v<RecordHeader> && sizeof(RecordHeader) == 16);
static_assert(offsetof(RecordHeader, word) == 0 && offsetof(RecordHeader, sequence) == 8);

static_assert(std::is_standard_layout_v<CursorHeader> && sizeof(CursorHeader) == 64);
static_assert(std::is_standard_layout_v<CursorSlot> && sizeof(CursorSlot) == 32);
static_assert(offsetof(CursorSlot, cursor) == 0 && offsetof(CursorSlot, parked) == 8);
static_assert(offsetof(CursorSlot, lost) == 16 && offsetof(CursorSlot, received) == 24);

static_assert(std::is_standard_layout_v<DoorbellWaiter> && sizeof(DoorbellWaiter) == 576);
static_assert(offsetof(DoorbellWaiter, bell) == 0 && offsetof(DoorbellWaiter, summary) == 8);
static_assert(offsetof(DoorbellWaiter, activity) == 64);
static_assert(std::is_standard_layout_v<DoorbellPublication>);
static_assert(sizeof(DoorbellPublication) == 64);

static_assert(std::is_standard_layout_v<MailboxHeader> && sizeof(MailboxHeader) == 64);
static_assert(std::is_standard_layout_v<MailboxPublication>);
static_assert(sizeof(MailboxPublication) == 16);
static_assert(offsetof(MailboxPublication, attention) == 0);
static_assert(offsetof(MailboxPublication, readers) == 8);

}  // namespace ipcbus::protocol
