// SPDX-License-Identifier: Apache-2.0
// Rounds of MEMBERS. See membership.hpp.
#include "membership.hpp"

namespace ipcbus::daemon {

void Membership::attach(Attachment& attachment) {
    IPCBUS_ASSERT(attachment.writer_end == Attachment::Writer::untold);
    to_attach_.emplace(attachment.id, &attachment);
}

void Membership::detach(Attachment& attachment) {
    if (attachment.writer_end == Attachment::Writer::untold) {
        to_attach_.erase(attachment.id);
        attachment.writer_end = Attachment::Writer::gone;
        return;
    }
    IPCBUS_ASSERT(attachment.writer_end == Attachment::Writer::told);
    to_attach_.erase(attachment.id);  // there only if it was to be told again
    attached_.erase(attachment.id);
    to_detach_.emplace(attachment.id, &attachment);
    attachment.writer_end = Attachment::Writer::leaving;
}

void Membership::tell_next(protocol::Members& frame) {
    const auto first = to_attach_.begin();
    Attachment& attachment = *first->second;
    attachment.writer_end = Attachment::Writer::told;
    frame.attach.push_back(protocol::Member{
        .attachment = attachment.id,
        .peer = attachment.reader,
        .slot = attachment.slot,
        .start = attachment.start,
        .reliable =
            attachment.mode == protocol::ReaderMode::reliable ? protocol::u8{1} : protocol::u8{0},
    });
    attached_.insert(to_attach_.extract(first));
}

void Membership::tell_detached(protocol::Members& frame) {
    while (!to_detach_.empty() && frame.detach.size() < protocol::kMembersPerFrameMax) {
        frame.detach.push_back(to_detach_.begin()->first);
        detached_.insert(to_detach_.extract(to_detach_.begin()));
    }
}

bool Membership::finish(protocol::Members& frame) {
    const bool all = to_attach_.empty() && to_detach_.empty();
    if (all) {
        sent_ = number_;
        ever_sent_ = number_;
    }
    frame.number = all ? number_ : taken_;
    return all;
}

bool Membership::taken(protocol::u64 number, std::vector<Attachment*>& ret_gone) {
    if (number > ever_sent_) {
        return false;
    }
    // Other numbers answer the earlier frames of a round, an earlier round, or one that was sent on
    // a connection that broke: it is sent again.
    if (number == sent_ && taken_ != sent_) {
        taken_ = sent_;
        attached_.clear();
        for (const auto& [id, attachment] : detached_) {
            attachment->writer_end = Attachment::Writer::gone;
            ret_gone.push_back(attachment);
        }
        detached_.clear();
    }
    return true;
}

void Membership::tell_again() {
    // They stay `told`: the writer may know them, and must then be told of their detach.
    to_attach_.merge(attached_);
    to_detach_.merge(detached_);
    sent_ = taken_;
}

}  // namespace ipcbus::daemon
