// SPDX-License-Identifier: Apache-2.0
//
// Both ends of a stream (wire.hpp: DATA, CREDIT): what carries the records of one ring over TCP
// into another. StreamSender reads a ring and makes DATA frames; StreamReceiver takes these and
// writes a ring. The daemon has both for each of its remote clients, and so has the library's
// bridge (bridge.hpp): the same code at either end. Each is used by one thread, and never waits.
//
// FLOW CONTROL. A receiver promises room (CREDIT): what it has digested, plus a window, plus what
// is left of a record for which it has already claimed its place in the ring. So it keeps at most a
// window of bytes per stream, whatever the size of a record, and however long its ring stays full.
// A sender that has no credit leaves its records where they are: its cursor stays, and the
// publisher waits for it, demotes it after the stall timeout, or laps it, as it would a local
// reader of that mode. It copies records out and looks whether they are intact ([R4]) before they
// are sent: no torn record leaves, and the cursor moves as soon as they are copied.
//
// LOSS. A sender that was lapped goes on where [R7] says. The next record tells by its sequence
// what is missing, and the receiver writes a gap (RingWriter::skip_to): so the reader at the far
// end is told the same number at the same place as it would be in the first ring. A record that was
// overtaken when half of it was sent is abandoned by the next DATA frame, which begins another;
// what was not sent of it counts as sent, on both sides, so that what was promised for it is used
// up.
//
// TRUST. Both believe nothing of a ring, or of the other end. What a sender sends is rebuilt from
// what it has checked; a receiver bounds every length before it claims a place.
#pragma once

#include "protocol/attachment.hpp"
#include "protocol/ring_publisher.hpp"
#include "protocol/wire.hpp"

#include <deque>
#include <vector>

namespace ipcbus::protocol {

class StreamSender {
public:
    enum class State {
        more,       ///< a frame is there; perhaps another can be made
        empty,      ///< nothing to send now; the cursor is stored
        no_credit,  ///< there may be something to send, and it may not be sent
        passing,    ///< what is older than is wanted has been passed over; there is more of it
        again,      ///< the writer was faster; look again soon
        closed,     ///< all of the ring has been sent, its end included
        corrupt,    ///< the publisher breaks the protocol
    };

    /// `latest`: goes to the newest message before each frame.
    StreamSender(u64 stream, Attachment& attachment, bool latest);

    [[nodiscard]] Attachment& attachment() { return attachment_; }
    /// What CREDIT says; never less than before.
    void allow(u64 bytes) { credit_ = bytes > credit_ ? bytes : credit_; }
    [[nodiscard]] bool has_credit() const { return room() != 0; }
    /// The end of the ring has been sent.
    [[nodiscard]] bool ended() const { return ended_; }
    /// All that stood in the ring when this was made has been sent, or is gone.
    [[nodiscard]] bool caught_up() const {
        return distance(attachment_.reader().position(), caught_up_at_) >= 0;
    }

    /// Appends a DATA frame to `out`, if there is something to send and credit for it.
    State fill(std::vector<std::byte>& out);

private:
    /// Of the stream, what may be sent just now; whole units of 16 bytes.
    [[nodiscard]] u64 room() const {
        return credit_ <= sent_ ? 0 : (credit_ - sent_) & ~(kRecordAlignment - 1);
    }
    State begin();
    State skip_lost();
    State send_end(std::vector<std::byte>& out);
    State go_on(std::vector<std::byte>& out);
    State send_records(std::vector<std::byte>& out, const Record& first);

    u64 stream_;
    Attachment& attachment_;
    bool latest_;
    bool behind_ = true;  ///< perhaps before what is wanted of the ring
    bool ended_ = false;
    u64 credit_ = 0;
    u64 sent_ = 0;
    Record record_;    ///< the one that is being sent
    u64 done_ = 0;     ///< bytes of it that have been; 0: none is
    u32 in_vain_ = 0;  ///< resyncs in a row
    u64 caught_up_at_;
};

class StreamReceiver {
public:
    enum class State {
        digested,  ///< all that has come
        full,      ///< the ring: its readers will ring (RingPublisher::ask)
        behind,    ///< the membership of the ring has to be taken in first
        closed,    ///< the stream has ended, and so has the ring
        broken,    ///< what came cannot be true: why()
    };

    /// `gaps`: whether its records may leave out sequences.
    StreamReceiver(RingPublisher& ring, bool gaps) : ring_(ring), gaps_(gaps) {}

    /// Takes what a DATA frame has brought, and digests what it can; or only keeps it behind what
    /// waits already, and says again why that waits.
    State receive(u32 offset, std::span<const std::byte> bytes);
    /// Goes on with what could not be digested: when its readers have rung, by a clock, or when
    /// membership has been taken in.
    State digest();
    [[nodiscard]] const char* why() const { return why_; }
    [[nodiscard]] bool closed() const { return closed_; }
    [[nodiscard]] bool waiting() const { return !pending_.empty(); }
    /// Bytes that found their place so far, or were given up.
    [[nodiscard]] u64 digested() const { return digested_; }

    /// Whether more may be sent than its sender knows. Then: how much in all.
    [[nodiscard]] bool grants() const { return allowed() - granted_ >= kStreamWindowBytes / 4; }
    [[nodiscard]] u64 grant() { return granted_ = allowed(); }

private:
    /// What waits: frames that go on with one another.
    struct Pending {
        u32 offset;  ///< within its record, of the first byte
        std::vector<std::byte> bytes;
        std::size_t done = 0;
    };
    /// Never less than before.
    [[nodiscard]] u64 allowed() const { return digested_ + kStreamWindowBytes + (total_ - have_); }
    State broken(const char* why) {
        why_ = why;
        return state_ = State::broken;
    }
    [[nodiscard]] bool possible(u64 word) const;
    State begin_at(u32 offset);
    State keep(u32 offset, std::span<const std::byte> bytes);
    State consume(std::span<const std::byte>& bytes);
    State begin_record(std::span<const std::byte>& bytes);
    void commit();
    State digest_some();
    State announce(State state);

    RingPublisher& ring_;
    bool gaps_;
    bool closed_ = false;
    bool committed_ = false;  ///< something has been, that finish() is due for
    u64 received_ = 0;
    u64 digested_ = 0;
    u64 granted_ = 0;
    u64 asked_for_ = 0;  ///< bytes of the record that there is no room for
    // The record for which a place is claimed.
    u64 total_ = 0;
    u64 have_ = 0;  ///< of it; both 0: none
    u16 topic_bytes_ = 0;
    u32 payload_bytes_ = 0;
    std::deque<Pending> pending_;
    // The record that the last of what waits is in the middle of; both 0: none.
    u64 tail_total_ = 0;
    u64 tail_have_ = 0;
    State state_ = State::digested;
    const char* why_ = "";
};

}  // namespace ipcbus::protocol
