// SPDX-License-Identifier: Apache-2.0
// Rounds of MEMBERS. See membership.hpp.
#include "membership.hpp"

namespace ipcbus::daemon {

void AttachmentChain::add(Attachment& attachment) {
    IPCBUS_ASSERT(attachment.chain == 0);
    attachment.chain = number_;
    attachment.previous = last_;
    attachment.next = nullptr;
    (last_ == nullptr ? first_ : last_->next) = &attachment;
    last_ = &attachment;
}

void AttachmentChain::remove(Attachment& attachment) {
    if (attachment.chain != number_) {
        return;
    }
    attachment.chain = 0;
    (attachment.previous == nullptr ? first_ : attachment.previous->next) = attachment.next;
    (attachment.next == nullptr ? last_ : attachment.next->previous) = attachment.previous;
}

void AttachmentChain::take_before(AttachmentChain& others) {
    for (Attachment* one = others.first_; one != nullptr; one = one->next) {
        one->chain = number_;
    }
    if (others.empty()) {
        return;
    }
    others.last_->next = first_;
    (first_ == nullptr ? last_ : first_->previous) = others.last_;
    first_ = others.first_;
    others.first_ = others.last_ = nullptr;
}

void AttachmentChain::clear() {
    while (first_ != nullptr) {
        remove(*first_);
    }
}

void Membership::attach(Attachment& attachment) {
    IPCBUS_ASSERT(attachment.writer_end == Attachment::Writer::untold);
    to_attach_.add(attachment);
}

void Membership::detach(Attachment& attachment) {
    if (attachment.writer_end == Attachment::Writer::untold) {
        to_attach_.remove(attachment);
        attachment.writer_end = Attachment::Writer::gone;
        return;
    }
    IPCBUS_ASSERT(attachment.writer_end == Attachment::Writer::told);
    to_attach_.remove(attachment);  // there only if it was to be told again
    attached_.remove(attachment);
    to_detach_.add(attachment);
    attachment.writer_end = Attachment::Writer::leaving;
}

void Membership::forget(Attachment& attachment) {
    for (AttachmentChain* chain : {&to_attach_, &to_detach_, &attached_, &detached_}) {
        chain->remove(attachment);
    }
    attachment.writer_end = Attachment::Writer::gone;
}

void Membership::tell_next(protocol::Members& frame) {
    Attachment& attachment = *to_attach_.first();
    attachment.writer_end = Attachment::Writer::told;
    frame.attach.push_back(protocol::Member{
        .attachment = attachment.id,
        .peer = attachment.reader,
        .slot = attachment.slot,
        .start = attachment.start,
        .reliable =
            attachment.mode == protocol::ReaderMode::reliable ? protocol::u8{1} : protocol::u8{0},
    });
    to_attach_.remove(attachment);
    attached_.add(attachment);
}

void Membership::tell_detached(protocol::Members& frame) {
    while (!to_detach_.empty() && frame.detach.size() < protocol::kMembersPerFrameMax) {
        Attachment& attachment = *to_detach_.first();
        frame.detach.push_back(attachment.id);
        to_detach_.remove(attachment);
        detached_.add(attachment);
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
        for (Attachment* gone = detached_.first(); gone != nullptr; gone = gone->next) {
            gone->writer_end = Attachment::Writer::gone;
            ret_gone.push_back(gone);
        }
        detached_.clear();
    }
    return true;
}

void Membership::tell_again() {
    // They stay `told`: the writer may know them, and must then be told of their detach.
    to_attach_.take_before(attached_);
    to_detach_.take_before(detached_);
    sent_ = taken_;
}

}  // namespace ipcbus::daemon
