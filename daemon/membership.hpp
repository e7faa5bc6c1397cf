// SPDX-License-Identifier: Apache-2.0
// Membership: which changes of a publication's readers its writer is still to be told. Numbered
// state, not a queue: every change raises the number; the writer is told in rounds, one at a time,
// and what changes while a round is not acknowledged (TAKEN) waits for the next. An attach whose
// detach comes before it was told cancels, but its number is owed all the same: an empty frame. So
// a writer that takes nothing in costs what it has been told and what is there, nothing that came
// and went. Pure data; owned by its publication, the daemon's one thread.
//
//   frames of a round: MEMBERS with the number acknowledged before, as many as it takes, then one
//   with the number of the moment. Only that one is answered with a number that counts.
// Checked: tests/model/join.pml.
#pragma once

#include "attachment.hpp"
#include "protocol/wire.hpp"

#include <vector>

namespace ipcbus::daemon {

/// Attachments, each in one chain of its membership at most, linked through themselves.
class AttachmentChain {
public:
    explicit AttachmentChain(std::uint8_t number) : number_(number) {}
    [[nodiscard]] bool empty() const { return first_ == nullptr; }
    [[nodiscard]] Attachment* first() const { return first_; }
    void add(Attachment& attachment);
    /// If it is in this one.
    void remove(Attachment& attachment);
    /// All of `others`, before what is here.
    void take_before(AttachmentChain& others);
    void clear();

private:
    std::uint8_t number_;
    Attachment* first_ = nullptr;
    Attachment* last_ = nullptr;
};

class Membership {
public:
    /// Changes so far: what the attention word shows.
    [[nodiscard]] protocol::u64 number() const { return number_; }

    /// Raises the number without a change: an attach that came to nothing after attention was
    /// raised for it.
    void raise() { number_++; }
    /// A new attachment; its number has been raised.
    void attach(Attachment& attachment);
    /// One that is untold or told. The number has been raised. It is `gone` afterwards if it
    /// cancelled, else `leaving`.
    void detach(Attachment& attachment);

    /// The writer has gone: the attachment is in no chain any more, and may be erased.
    void forget(Attachment& attachment);

    /// Whether the writer is to be told something now.
    [[nodiscard]] bool due() const { return sent_ == taken_ && number_ != sent_; }

    /// The next attachment to tell of, or null. The caller decides whether it can.
    [[nodiscard]] Attachment* next() const { return to_attach_.first(); }
    /// Moves next() into `frame`.
    void tell_next(protocol::Members& frame);
    /// Moves as many detachments into `frame` as fit.
    void tell_detached(protocol::Members& frame);
    /// Gives `frame` its number. True: it ends the round.
    bool finish(protocol::Members& frame);

    /// TAKEN. False: a number that was never sent. `ret_gone`: attachments that the writer knows
    /// no more.
    [[nodiscard]] bool taken(protocol::u64 number, std::vector<Attachment*>& ret_gone);
    /// The frames of a round may have been lost with their connection: tells them again.
    void tell_again();

private:
    protocol::u64 number_ = 0;
    protocol::u64 sent_ = 0;       ///< of the last round that was ended
    protocol::u64 taken_ = 0;      ///< sent_ once that round is acknowledged
    protocol::u64 ever_sent_ = 0;  ///< on connections before this one, too
    AttachmentChain to_attach_{1};
    AttachmentChain to_detach_{2};
    // Of this round, until it is acknowledged.
    AttachmentChain attached_{3};
    AttachmentChain detached_{4};
};

}  // namespace ipcbus::daemon
