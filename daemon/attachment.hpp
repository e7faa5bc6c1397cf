// SPDX-License-Identifier: Apache-2.0
// One subscription reading one publication, as the daemon's books have it. It has two ends, which
// come and go on their own: what the writer has been told (MEMBERS), and what the reader has been
// told (ATTACHED, ENDED). It is over when both have let go; until then its slot is not used again.
// Plain data, owned by the bus, the daemon's one thread; a few are made for each subscription and
// there may be hundreds of thousands: keep it small.
#pragma once

#include "protocol/wire.hpp"
#include "registry.hpp"

#include <string>
#include <vector>

namespace ipcbus::daemon {

class Publication;
struct Subscription;

struct Attachment {
    enum class Writer : std::uint8_t {
        untold,   ///< owed an attach
        told,     ///< counts it
        leaving,  ///< owed a detach, or has not taken it in yet
        gone,     ///< does not know it (any more), or has itself gone
    };
    enum class Reader : std::uint8_t {
        waiting,  ///< the ring may not be shown yet
        ready,    ///< owed ATTACHED
        told,     ///< has the ring
        gone,     ///< has let go
    };

    Id id = 0;
    Publication* publication = nullptr;    ///< outlives its attachments
    Subscription* subscription = nullptr;  ///< null once the reader has let go
    Id reader = 0;                         ///< the client
    protocol::u64 start = 0;
    protocol::u64 start_sequence = 0;
    protocol::u32 slot = 0;
    std::uint32_t place_in_publication = 0;   ///< where it stands in that list
    std::uint32_t place_in_subscription = 0;  ///< the same
    protocol::ReaderMode mode : 2 = protocol::ReaderMode::reliable;  ///< as granted
    Writer writer_end : 2 = Writer::untold;
    Reader reader_end : 2 = Reader::waiting;
    std::uint8_t end_reason : 2 = 0;  ///< protocol::EndReason once the reader is to be told, else 0
    std::uint8_t chain : 3 = 0;       ///< which of Membership's, 0: none
    bool end_told : 1 = false;
    bool awaited : 1 = false;  ///< by CAUGHT_UP
    bool shown : 1 = false;    ///< ATTACHED was sent, if perhaps on a connection before this one
    Attachment* previous = nullptr;  ///< in that chain
    Attachment* next = nullptr;

    [[nodiscard]] bool over() const {
        return writer_end == Writer::gone && reader_end == Reader::gone;
    }
};
static_assert(sizeof(Attachment) <= 80, "there may be hundreds of thousands");

/// A list of attachments from which one is removed in constant time: each knows its place.
template <std::uint32_t Attachment::* place>
class AttachmentList {
public:
    void add(Attachment& attachment) {
        attachment.*place = static_cast<std::uint32_t>(all_.size());
        if (all_.size() == all_.capacity()) {
            all_.reserve(all_.size() + all_.size() / 4 + 4);  // not twice: there are many lists
        }
        all_.push_back(&attachment);
    }
    void remove(Attachment& attachment) {
        IPCBUS_ASSERT(all_.at(attachment.*place) == &attachment);
        all_.back()->*place = attachment.*place;
        all_[attachment.*place] = all_.back();
        all_.pop_back();
    }
    [[nodiscard]] const std::vector<Attachment*>& all() const { return all_; }

private:
    std::vector<Attachment*> all_;
};

}  // namespace ipcbus::daemon
