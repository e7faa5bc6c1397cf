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
#pragma once

#include "attachment.hpp"
#include "protocol/wire.hpp"

#include <map>
#include <vector>

namespace ipcbus::daemon {

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

    /// Whether the writer is to be told something now.
    [[nodiscard]] bool due() const { return sent_ == taken_ && number_ != sent_; }

    /// The next attachment to tell of, or null. The caller decides whether it can.
    [[nodiscard]] Attachment* next() const {
        return to_attach_.empty() ? nullptr : to_attach_.begin()->second;
    }
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
    std::map<Id, Attachment*> to_attach_;
    std::map<Id, Attachment*> to_detach_;
    // Of this round, until it is acknowledged.
    std::map<Id, Attachment*> attached_;
    std::map<Id, Attachment*> detached_;
};

}  // namespace ipcbus::daemon
