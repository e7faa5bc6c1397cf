// SPDX-License-Identifier: Apache-2.0
//
// THE CONTROL PROTOCOL: every frame that a client and the daemon exchange, one struct each, over a
// Unix stream socket; specified in ipcbus-protocol(7), pinned by tests/unit/wire_test.cpp.
// Used by the daemon's one thread and, under the client's control lock, by the library. Encoding
// and decoding are derived from one list of fields a frame (fields()), so they cannot disagree.
//
//   frame:  u32 bytes (of the whole frame) | u16 type | u16 flags (0) | u64 request | fields
//
// Little-endian, no padding. A string or list is its u16 count, then its bytes or items. `request`
// is chosen by the client, is not 0, and comes back in the answer: the frame that says yes, or
// ERROR. Frames that the daemon sends by itself have request 0. A frame that is too long, of an
// unknown type, with flags, too short for its fields or with bytes left over is malformed: the
// daemon answers with ERROR and ends that session; the library ends the connection.
//
// Descriptors ride, from the daemon to a client alone, with the first byte of the frame that names
// them, in the order told there. The client answers with RECEIVED, so that never more than
// kFdsUnacknowledgedMax are on the way.
//
// ON TCP the same frames cross without descriptors, and without those that are about shared memory
// (MAPPED, RECEIVED, TAKEN, COMPLAIN, PEER, PEER_GONE, MEMBERS, RESUME). Messages cross in DATA, in
// streams: one for each publication of the client, one for each of its attachments. A stream is the
// records of a ring one after the other, as layout.hpp has them (header, topic, payload, padded to
// 16; little-endian; a word with `closed` ends it), cut into frames anywhere. CREDIT says how much
// of a stream may be sent in all: its receiver never has to keep more than it has promised room
// for, and a slow one holds back its stream and no other. protocol/stream.hpp has both ends.
#pragma once

#include "protocol/layout.hpp"
#include "sys/assert.hpp"

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::protocol {

inline constexpr u16 kProtocolMajor = 1;  ///< another one is refused
inline constexpr u16 kProtocolMinor = 3;  ///< grows when frames or features are added
inline constexpr u16 kMinorHistory = 1;   ///< from which on there is SUBSCRIBE_FROM
inline constexpr u16 kMinorRequests = 2;  ///< from which on there are ASK, SERVE, COLLECT, RESPOND
inline constexpr u16 kMinorLook = 3;      ///< from which on there is LOOK (wire_look.hpp)
inline constexpr u64 kHistoryAll = ~u64{0};
inline constexpr u64 kFeatures = 0;       ///< feature bits we offer; none yet
inline constexpr std::size_t kFrameHeaderBytes = 16;

using Id128 = std::array<u8, 16>;

enum class FrameType : u16 {
    // client to daemon
    hello = 1,
    resume = 2,
    advertise = 3,
    mapped = 4,
    unadvertise = 5,
    subscribe = 6,
    unsubscribe = 7,
    detached = 8,
    taken = 9,
    received = 10,
    complain = 11,
    subscribe_from = 12,
    ask = 48,
    serve = 49,
    collect = 50,
    respond = 51,
    // both ways, on TCP alone
    login = 80,
    data = 81,
    credit = 82,
    readers = 83,
    replaces = 84,
    responders = 85,
    overtaken = 86,
    // daemon to client
    welcome = 64,
    error = 65,
    done = 66,
    advertised = 67,
    subscribed = 68,
    peer = 69,
    peer_gone = 70,
    members = 71,
    attached = 72,
    ended = 73,
    stopping = 74,
    caught_up = 75,
    refused = 96,
    move = 97,
    revoked = 98,
    // the state of the bus: wire_look.hpp
    look = 112,
    clients_page = 113,
    publications_page = 114,
    subscriptions_page = 115,
    attachments_page = 116,
};
[[nodiscard]] const char* frame_name(FrameType type);

struct FrameHeader {
    u32 bytes = 0;
    FrameType type{};
    u64 request = 0;
};

// ------------------------------------------------------------------------- client to daemon

/// First frame of a connection. Answer: WELCOME, or ERROR EPROTONOSUPPORT.
struct Hello {
    static constexpr FrameType kType = FrameType::hello;
    u16 protocol_major = kProtocolMajor;
    u16 protocol_minor = kProtocolMinor;
    u32 layout_version = kLayoutVersion;
    u64 features = kFeatures;
    std::string name;  ///< at most kClientNameBytesMax, printable; may be empty
    static void fields(auto& self, auto& v) {
        v(self.protocol_major, self.protocol_minor, self.layout_version, self.features);
        v.text(self.name, kClientNameBytesMax);
    }
};

/// Instead of HELLO: this connection takes the place of an earlier one of the same client. Answer:
/// WELCOME with `resumed` 1 (no descriptors), or ERROR ENOENT: unknown here, say HELLO.
struct Resume {
    static constexpr FrameType kType = FrameType::resume;
    u16 protocol_major = kProtocolMajor;
    u16 protocol_minor = kProtocolMinor;
    u32 layout_version = kLayoutVersion;
    u64 features = kFeatures;
    u64 client = 0;
    Id128 token{};
    static void fields(auto& self, auto& v) {
        v(self.protocol_major, self.protocol_minor, self.layout_version, self.features, self.client,
          self.token);
    }
};

/// Asks for a ring to publish `topic` (or, with wildcards, every topic under a filter). Answer:
/// ADVERTISED.
struct Advertise {
    static constexpr FrameType kType = FrameType::advertise;
    std::string topic;
    u64 ring_bytes = 0;        ///< 0: the bus decides
    u32 record_bytes_max = 0;  ///< largest record; 0: a quarter of the ring
    u32 waiter = 0;            ///< the waiter that readers ring when the publisher is blocked
    Id128 lineage{};           ///< names the publication across rings and daemons; random
    u64 first_sequence = 0;    ///< the sequence of the first record in this ring
    static void fields(auto& self, auto& v) {
        v.text(self.topic, kTopicBytesMax);
        v(self.ring_bytes, self.record_bytes_max, self.waiter, self.lineage, self.first_sequence);
    }
};

/// The client has mapped what it must write: a publication's ring, or, with `publication` 0, its
/// cursor page, doorbell and mailbox. From here on the daemon seals, and shows it to others. Not
/// answered.
struct Mapped {
    static constexpr FrameType kType = FrameType::mapped;
    u64 publication = 0;
    static void fields(auto& self, auto& v) { v(self.publication); }
};

/// Ends a publication; the ring has been closed (record flag `closed`). Answer: DONE.
struct Unadvertise {
    static constexpr FrameType kType = FrameType::unadvertise;
    u64 publication = 0;
    static void fields(auto& self, auto& v) { v(self.publication); }
};

enum class ReaderMode : u8 { reliable = 0, lossy = 1, latest = 2 };

/// Answer: SUBSCRIBED; ATTACHED frames follow, now and later. Once SUBSCRIBED is here, no later
/// message is missed.
struct Subscribe {
    static constexpr FrameType kType = FrameType::subscribe;
    std::string filter;
    u8 mode = 0;  ///< ReaderMode
    static void fields(auto& self, auto& v) {
        v.text(self.filter, kTopicBytesMax);
        v(self.mode);
    }
};

/// A subscription that begins with what was published before. Answer: SUBSCRIBED; CAUGHT_UP
/// follows. Since minor version 1.
struct SubscribeFrom {
    static constexpr FrameType kType = FrameType::subscribe_from;
    std::string filter;
    u8 mode = 0;      ///< ReaderMode
    u64 history = 0;  ///< messages of each publication to begin with; kHistoryAll: all there are
    static void fields(auto& self, auto& v) {
        v.text(self.filter, kTopicBytesMax);
        v(self.mode, self.history);
    }
};

/// The client has stopped reading and zeroed the slots of all its attachments. Answer: DONE; no
/// frame about the subscription or its attachments comes after it.
struct Unsubscribe {
    static constexpr FrameType kType = FrameType::unsubscribe;
    u64 subscription = 0;
    static void fields(auto& self, auto& v) { v(self.subscription); }
};

/// The reader has let go of an attachment (after ENDED, or because its ring was closed and is
/// drained): ring unmapped, slot zeroed. Not answered.
struct Detached {
    static constexpr FrameType kType = FrameType::detached;
    u64 attachment = 0;
    static void fields(auto& self, auto& v) { v(self.attachment); }
};

/// The writer's client has received its publication's membership up to `number`. Not answered.
struct Taken {
    static constexpr FrameType kType = FrameType::taken;
    u64 publication = 0;
    u64 number = 0;
    static void fields(auto& self, auto& v) { v(self.publication, self.number); }
};

/// `fds` more descriptors have been received. Not answered.
struct Received {
    static constexpr FrameType kType = FrameType::received;
    u32 fds = 0;
    static void fields(auto& self, auto& v) { v(self.fds); }
};

enum class Complaint : u8 {
    stalled = 1,     ///< its cursor stood still for stall_timeout: the writer counts it no more
    bad_cursor = 2,  ///< its cursor is out of range: the writer counts it no more
};

/// A writer about one of its readers. Not answered; about an attachment that is gone: ignored.
struct Complain {
    static constexpr FrameType kType = FrameType::complain;
    u64 publication = 0;
    u64 attachment = 0;
    u8 complaint = 0;
    static void fields(auto& self, auto& v) {
        v(self.publication, self.attachment, self.complaint);
    }
};

// Requests and replies: protocol/exchange.hpp tells what they are for.

/// As ADVERTISE, for a ring of requests to whoever serves `topic`, which has no wildcards. Its
/// readers are subscriptions of SERVE alone. Answer: ADVERTISED.
struct Ask {
    static constexpr FrameType kType = FrameType::ask;
    Advertise publication;
    u64 reply_ring_bytes = 0;  ///< of each ring that a responder answers in; 0: the bus decides
    static void fields(auto& self, auto& v) {
        Advertise::fields(self.publication, v);
        v(self.reply_ring_bytes);
    }
};

/// As SUBSCRIBE, reliable, to requests and to nothing else. Answer: SUBSCRIBED.
struct Serve {
    static constexpr FrameType kType = FrameType::serve;
    std::string filter;
    static void fields(auto& self, auto& v) { v.text(self.filter, kTopicBytesMax); }
};

/// A subscription to what is answered to the requests of this client's publication of that lineage,
/// and to nothing else. Answer: SUBSCRIBED.
struct Collect {
    static constexpr FrameType kType = FrameType::collect;
    Id128 lineage{};
    static void fields(auto& self, auto& v) { v(self.lineage); }
};

/// Asks for the ring in which to answer what comes through `attachment`, which is one of SERVE. Its
/// reader is the COLLECT of the client that asks there, and nobody else. Answer: ADVERTISED.
struct Respond {
    static constexpr FrameType kType = FrameType::respond;
    u64 attachment = 0;
    u32 waiter = 0;    ///< as in ADVERTISE
    u64 sequence = 0;  ///< of the request that is to be answered first
    static void fields(auto& self, auto& v) { v(self.attachment, self.waiter, self.sequence); }
};

// ------------------------------------------------------------------------- daemon to client

/// Descriptors, unless resumed: cursor page, doorbell page, mailbox, all read-write.
struct Welcome {
    static constexpr FrameType kType = FrameType::welcome;
    u16 protocol_major = kProtocolMajor;
    u16 protocol_minor = kProtocolMinor;
    u32 layout_version = kLayoutVersion;
    u64 features = kFeatures;
    Id128 bus{};
    u64 client = 0;
    Id128 token{};
    Geometry geometry{};
    u64 stall_timeout_ns = 0;
    u8 resumed = 0;
    static void fields(auto& self, auto& v) {
        v(self.protocol_major, self.protocol_minor, self.layout_version, self.features, self.bus,
          self.client, self.token, self.geometry.waiters_max, self.geometry.publications_max,
          self.geometry.attachments_max, self.stall_timeout_ns, self.resumed);
    }
};

/// Refuses the request of that number; with request 0 the session ends (the text says why).
struct ErrorFrame {
    static constexpr FrameType kType = FrameType::error;
    u32 code = 0;  ///< Linux errno, of the table in ipcbus(3)
    std::string text;
    static void fields(auto& self, auto& v) {
        v(self.code);
        v.text(self.text, kErrorTextBytesMax);
    }
};

/// Yes, to a request that has no answer of its own.
struct Done {
    static constexpr FrameType kType = FrameType::done;
    static void fields(auto&, auto&) {}
};

/// Descriptors: the ring, read-write. The ring is formatted (RingWriter::format).
struct Advertised {
    static constexpr FrameType kType = FrameType::advertised;
    u64 publication = 0;
    u32 index = 0;  ///< of its DoorbellPublication and MailboxPublication
    u64 ring_bytes = 0;
    u32 record_bytes_max = 0;
    u64 start = 0;  ///< position of the first record
    u64 first_sequence = 0;
    static void fields(auto& self, auto& v) {
        v(self.publication, self.index, self.ring_bytes, self.record_bytes_max, self.start,
          self.first_sequence);
    }
};

struct Subscribed {
    static constexpr FrameType kType = FrameType::subscribed;
    u64 subscription = 0;
    u32 attachments = 0;  ///< publications that match at this moment; their ATTACHED follow
    static void fields(auto& self, auto& v) { v(self.subscription, self.attachments); }
};

inline constexpr u8 kPeerCursor = 1;    ///< its cursor page, read-only
inline constexpr u8 kPeerDoorbell = 2;  ///< its doorbell page, read-write

/// Introduces another client's memory. May come twice for one peer, with what had not been sent
/// yet. Descriptors, as `pages` says: cursor page, doorbell page.
struct Peer {
    static constexpr FrameType kType = FrameType::peer;
    u64 client = 0;
    Geometry geometry{};
    u8 pages = 0;
    static void fields(auto& self, auto& v) {
        v(self.client, self.geometry.waiters_max, self.geometry.publications_max,
          self.geometry.attachments_max, self.pages);
    }
};

/// Nothing of that peer is attached to anything of this client any more: unmap its pages.
struct PeerGone {
    static constexpr FrameType kType = FrameType::peer_gone;
    u64 client = 0;
    static void fields(auto& self, auto& v) { v(self.client); }
};

struct Member {
    u64 attachment = 0;
    u64 peer = 0;   ///< the reader's client
    u32 slot = 0;   ///< in the reader's cursor page
    u64 start = 0;  ///< its cursor until the slot holds one
    u8 reliable = 0;
    static void fields(auto& self, auto& v) {
        v(self.attachment, self.peer, self.slot, self.start, self.reliable);
    }
};

/// To a writer: brings its membership up to `number`; may be empty. Answer: TAKEN.
struct Members {
    static constexpr FrameType kType = FrameType::members;
    u64 publication = 0;
    u64 number = 0;
    std::vector<Member> attach;
    std::vector<u64> detach;
    static void fields(auto& self, auto& v) {
        v(self.publication, self.number);
        v.list(self.attach, kMembersPerFrameMax);
        v.list(self.detach, kMembersPerFrameMax);
    }
};

/// To a reader. Descriptors: the ring, read-only.
struct Attached {
    static constexpr FrameType kType = FrameType::attached;
    u64 subscription = 0;
    u64 attachment = 0;
    u64 publication = 0;
    u64 peer = 0;    ///< the writer's client
    u32 index = 0;   ///< of the publication in the writer's doorbell page
    u32 waiter = 0;  ///< the writer's waiter, for `wanted`
    u32 slot = 0;    ///< in this client's cursor page
    u64 ring_bytes = 0;
    u32 record_bytes_max = 0;
    u64 start = 0;           ///< position to begin at
    u64 start_sequence = 0;  ///< of the first record that is wanted: that there or, with history,
                             ///< a later one
    u8 mode = 0;             ///< ReaderMode as granted
    Id128 lineage{};
    u32 uid = 0;        ///< the publisher's, as the kernel told it
    std::string topic;  ///< the publication's topic or filter
    static void fields(auto& self, auto& v) {
        v(self.subscription, self.attachment, self.publication, self.peer, self.index, self.waiter,
          self.slot, self.ring_bytes, self.record_bytes_max, self.start, self.start_sequence,
          self.mode, self.lineage, self.uid);
        v.text(self.topic, kTopicBytesMax);
    }
};

enum class EndReason : u8 {
    publisher_gone = 1,  ///< ended or died: read what is there
    detached = 2,        ///< the daemon took the attachment away: stop
};

/// To a reader: nothing more will be written. Answer, when drained: DETACHED.
struct Ended {
    static constexpr FrameType kType = FrameType::ended;
    u64 attachment = 0;
    u8 reason = 0;
    static void fields(auto& self, auto& v) { v(self.attachment, self.reason); }
};

/// To a requester: who reads its requests through `attachment` cannot answer some, for it got no
/// ring to do it in. What it was asked before and after may be answered yet.
struct Refused {
    static constexpr FrameType kType = FrameType::refused;
    u64 publication = 0;  ///< of ASK
    u64 attachment = 0;
    u64 first = 0;  ///< sequences: this request,
    u64 last = 0;   ///< and all up to this one
    u32 code = 0;   ///< an errno of Linux: EDQUOT, ENOSPC, EMFILE or ENOMEM
    static void fields(auto& self, auto& v) {
        v(self.publication, self.attachment, self.first, self.last, self.code);
    }
};

/// To a publisher: who had this ring may not read it any more. What follows is to be published in
/// another one of the same lineage: ADVERTISE, then UNADVERTISE of this one.
struct Move {
    static constexpr FrameType kType = FrameType::move;
    u64 publication = 0;
    static void fields(auto& self, auto& v) { v(self.publication); }
};

/// To a publisher: it may not publish this any more, and has no readers.
struct Revoked {
    static constexpr FrameType kType = FrameType::revoked;
    u64 publication = 0;
    std::string text;  ///< why, for people
    static void fields(auto& self, auto& v) {
        v(self.publication);
        v.text(self.text, kErrorTextBytesMax);
    }
};

/// The daemon is about to end in good order; rings go on.
struct Stopping {
    static constexpr FrameType kType = FrameType::stopping;
    static void fields(auto&, auto&) {}
};

/// Of a subscription made by SUBSCRIBE_FROM: the ATTACHED of all publications that it matched, and
/// that waited for nobody but the daemon, have been sent. Since minor version 1.
struct CaughtUp {
    static constexpr FrameType kType = FrameType::caught_up;
    u64 subscription = 0;
    static void fields(auto& self, auto& v) { v(self.subscription); }
};

// ------------------------------------------------------------------------------ on TCP alone

/// Who the client is, if the bus wants to know: before HELLO. Not answered, unless it is refused.
struct Login {
    static constexpr FrameType kType = FrameType::login;
    std::string token;
    static void fields(auto& self, auto& v) { v.text(self.token, kLoginTokenBytesMax); }
};

/// The client had another connection to this bus, with that WELCOME. It is over, whatever is known
/// of it there (who has only lost the way to the other end does not know it): it ends before this
/// one begins. Before HELLO. Not answered.
struct Replaces {
    static constexpr FrameType kType = FrameType::replaces;
    u64 client = 0;
    Id128 token{};
    static void fields(auto& self, auto& v) { v(self.client, self.token); }
};

/// What DATA begins with; the rest of the frame is bytes of the stream. To the daemon, `stream` is
/// a publication; from it, an attachment.
struct DataHead {
    u64 stream = 0;
    /// Bytes of the record that these go on with which have been sent: 0 where one begins. (One
    /// that was begun and is not gone on with has been overtaken in its ring: it will not come.)
    u32 offset = 0;
    static void fields(auto& self, auto& v) { v(self.stream, self.offset); }
};
inline constexpr std::size_t kDataHeadBytes = sizeof(u64) + sizeof(u32);
/// Of a stream in one frame.
inline constexpr std::size_t kDataBytesMax =
    (kFrameBytesMax - kFrameHeaderBytes - kDataHeadBytes) / 16 * 16;

/// To who sends a stream: so many bytes of it may be sent, those that were sent included.
struct Credit {
    static constexpr FrameType kType = FrameType::credit;
    u64 stream = 0;
    u64 bytes = 0;
    static void fields(auto& self, auto& v) { v(self.stream, self.bytes); }
};

/// To a publisher: so many attachments read it now.
struct Readers {
    static constexpr FrameType kType = FrameType::readers;
    u64 publication = 0;
    u32 count = 0;
    static void fields(auto& self, auto& v) { v(self.publication, self.count); }
};

/// To a remote requester: who reads its requests now, beside those it has been told of.
struct Responders {
    static constexpr FrameType kType = FrameType::responders;
    u64 publication = 0;
    u8 complete = 0;          ///< 0: there are others, whom it is told of next
    std::vector<u64> attach;  ///< attachments, as a local one is told by MEMBERS
    std::vector<u64> detach;
    static void fields(auto& self, auto& v) {
        v(self.publication, self.complete);
        v.list(self.attach, kMembersPerFrameMax);
        v.list(self.detach, kMembersPerFrameMax);
    }
};

/// To a remote requester: what is to that attachment and begins in that part of the stream may be
/// lost, for it was not read as long as the ring held it.
struct Overtaken {
    static constexpr FrameType kType = FrameType::overtaken;
    u64 publication = 0;
    u64 attachment = 0;
    u64 from = 0;  ///< bytes of the stream
    u64 to = 0;
    static void fields(auto& self, auto& v) {
        v(self.publication, self.attachment, self.from, self.to);
    }
};

// ------------------------------------------------------------------------ encode, decode

/// Appends fields to a buffer, little-endian. Every string and list must be within its bound: the
/// caller has checked it.
class FieldWriter {
public:
    explicit FieldWriter(std::vector<std::byte>& out) : out_(out) {}

    void operator()(const auto&... values) { (put(values), ...); }
    void text(const std::string& value, std::size_t bytes_max);
    template <class T>
    void list(const std::vector<T>& values, std::size_t count_max) {
        IPCBUS_ASSERT(values.size() <= count_max);
        put(static_cast<u16>(values.size()));
        for (const T& value : values) {
            if constexpr (std::is_integral_v<T>) {
                put(value);
            } else {
                T::fields(value, *this);
            }
        }
    }

private:
    template <class T>
        requires std::is_unsigned_v<T>
    void put(T value) {
        for (std::size_t i = 0; i < sizeof(T); i++) {
            out_.push_back(static_cast<std::byte>(value >> (8 * i)));
        }
    }
    void put(const Id128& value) {
        for (u8 byte : value) {
            out_.push_back(static_cast<std::byte>(byte));
        }
    }

    std::vector<std::byte>& out_;
};

/// Takes fields from bytes that another process sent; remembers whether all were there and within
/// their bounds.
class FieldReader {
public:
    explicit FieldReader(std::span<const std::byte> in) : in_(in) {}

    void operator()(auto&... values) { (get(values), ...); }
    void text(std::string& ret_value, std::size_t bytes_max);
    template <class T>
    void list(std::vector<T>& ret_values, std::size_t count_max) {
        u16 count = 0;
        get(count);
        if (count > count_max) {
            good_ = false;
        }
        ret_values.clear();
        for (std::size_t i = 0; good_ && i < count; i++) {
            T value{};
            if constexpr (std::is_integral_v<T>) {
                get(value);
            } else {
                T::fields(value, *this);
            }
            ret_values.push_back(value);
        }
    }
    /// True if every field was there and no byte is left over.
    [[nodiscard]] bool complete() const { return good_ && in_.empty(); }

private:
    template <class T>
        requires std::is_unsigned_v<T>
    void get(T& ret_value) {
        if (!good_ || in_.size() < sizeof(T)) {
            good_ = false;
            return;
        }
        T value = 0;
        for (std::size_t i = 0; i < sizeof(T); i++) {
            value = static_cast<T>(value | static_cast<T>(static_cast<T>(in_[i]) << (8 * i)));
        }
        ret_value = value;
        in_ = in_.subspan(sizeof(T));
    }
    void get(Id128& ret_value) {
        for (u8& byte : ret_value) {
            get(byte);
        }
    }

    std::span<const std::byte> in_;
    bool good_ = true;
};

/// Appends header with a length to be filled in by end_frame; returns where the frame begins.
std::size_t begin_frame(std::vector<std::byte>& out, FrameType type, u64 request);
void end_frame(std::vector<std::byte>& out, std::size_t begin);

/// Appends `frame` to `out`.
template <class Frame>
void encode(std::vector<std::byte>& out, const Frame& frame, u64 request) {
    const std::size_t begin = begin_frame(out, Frame::kType, request);
    FieldWriter writer(out);
    Frame::fields(frame, writer);
    end_frame(out, begin);
}

/// Decodes the fields of a frame (what follows its header). False: malformed; `ret_frame` is then
/// half filled and must not be used.
template <class Frame>
[[nodiscard]] bool decode(std::span<const std::byte> fields, Frame& ret_frame) {
    FieldReader reader(fields);
    Frame::fields(ret_frame, reader);
    return reader.complete();
}

/// The head of a DATA frame that will carry `bytes` of a stream behind it.
void encode_data_head(std::vector<std::byte>& out, const DataHead& head, std::size_t bytes);
/// The fields of a DATA frame. False: too short.
[[nodiscard]] bool decode_data(std::span<const std::byte> fields, DataHead& ret_head,
                               std::span<const std::byte>& ret_bytes);

}  // namespace ipcbus::protocol
