// SPDX-License-Identifier: Apache-2.0
// Asking, and taking what is answered. See requester.hpp.
#include "requester.hpp"

#include "error_text.hpp"
#include "protocol/topic.hpp"

#include <sys/random.h>

#include <algorithm>
#include <bit>

namespace ipcbus::client {

using sys::fail;
using sys::Result;

namespace {

/// What may be asked and answered unless the caller says otherwise: a ring of 64 KiB each.
constexpr u64 kUsualBytes = 16384;
/// So many others are asked before one that has let a deadline pass is tried again.
constexpr u64 kLeftOutFor = 64;

/// The smallest ring that takes messages of `bytes`.
Result<u64> ring_for(u64 bytes, const char* what) {
    bytes = bytes == 0 ? kUsualBytes : bytes;
    if (bytes > protocol::payload_bytes_max(protocol::kRingBytesMax)) {
        return fail(EMSGSIZE, std::string(what) + ": no ring can hold messages of " +
                                  std::to_string(bytes) + " bytes");
    }
    return std::max(std::bit_ceil(bytes * protocol::kPayloadPart), protocol::kRingBytesMin);
}

}  // namespace

Result<std::unique_ptr<Requester>> Requester::create(Bus& bus, const std::string& topic,
                                                     const RequesterOptions& options) {
    if (const char* fault = protocol::topic_fault(topic); *fault != '\0') {
        return fail(EINVAL, "requests cannot go to the topic '" + topic + "': " + fault);
    }
    std::unique_ptr<Requester> requester(new Requester(bus, topic));
    RequestsOptions requests;
    if (::getrandom(requests.lineage.data(), requests.lineage.size(), 0) !=
        static_cast<ssize_t>(requests.lineage.size())) {
        return sys::fail_errno("getrandom");
    }
    PublisherOptions ring;
    ring.ring_bytes = IPCBUS_TRY(ring_for(options.request_bytes_max, "request_bytes_max"));
    requests.reply_ring_bytes = IPCBUS_TRY(ring_for(options.reply_bytes_max, "reply_bytes_max"));
    SubscriberOptions subscriber;
    subscriber.spin_ns = options.spin_ns;
    requester->replies_ = IPCBUS_TRY(Subscriber::create_headed(
        bus, topic, subscriber, {true, requests.lineage, requester.get()}));
    requests.audience = requester.get();
    requests.replies = requester->replies_.get();
    requester->requests_ = IPCBUS_TRY(Publisher::create_requests(bus, topic, ring, requests));
    return requester;
}

// ------------------------------------------------------------------------------------ who serves

Requester::Responder* Requester::find(const Link& link, u64 attachment) {
    const auto found =
        std::find_if(responders_.begin(), responders_.end(), [&](const Responder& one) {
            return one.attachment == attachment && one.link.get() == &link;
        });
    return found == responders_.end() ? nullptr : &*found;
}

void Requester::joined(const std::shared_ptr<Link>& link, u64 attachment, bool own) {
    if (find(*link, attachment) == nullptr) {
        responders_.push_back({link, attachment, own});
    }
}

void Requester::left(u64 attachment) {
    const auto found =
        std::find_if(responders_.begin(), responders_.end(), [&](const Responder& one) {
            return one.member && one.attachment == attachment;
        });
    if (found == responders_.end()) {
        return;  // one that could not be joined, or that has broken the protocol
    }
    found->member = false;
    gone_ += found->awaited != 0 ? 1 : 0;
    drop_gone();
}

void Requester::overtaken(u64 attachment, u64 from, u64 to) {
    note_failed(attachment, EPIPE, [=](const Awaited& one) {
        return protocol::distance(one.position, from) >= 0 &&
               protocol::distance(one.position, to) < 0;
    });
}

void Requester::refused(const protocol::Refused& told) {
    note_failed(told.attachment, static_cast<int>(told.code), [&](const Awaited& one) {
        return protocol::distance(one.request, told.first) >= 0 &&
               protocol::distance(one.request, told.last) <= 0;
    });
}

/// Of what has been asked of it that will not be answered, `which(Awaited&)`.
template <class Which>
void Requester::note_failed(u64 attachment, int code, Which&& which) {
    const auto of = std::find_if(responders_.begin(), responders_.end(), [&](const Responder& one) {
        return one.member && one.attachment == attachment;
    });
    if (of == responders_.end()) {
        return;
    }
    for (Awaited& one : awaited_) {
        if (one.attachment == attachment && one.link == of->link.get() && one.failed == 0 &&
            which(one)) {
            one.failed = code;
            of->left_out_to = asked_ + kLeftOutFor;
            some_failed_ = true;
        }
    }
}

void Requester::moved() {
    for (Responder& responder : responders_) {
        gone_ += responder.member && responder.awaited != 0 ? 1 : 0;
        responder.member = false;
    }
    drop_gone();
}

void Requester::drop_gone() {
    std::erase_if(responders_,
                  [](const Responder& one) { return !one.member && one.awaited == 0; });
}

/// Who is asked next; nullptr: nobody is there. `elsewhere`: not one that this very thread reads,
/// which could not answer while it waits.
Requester::Responder* Requester::choose(bool elsewhere) {
    Responder* chosen = nullptr;
    u64 least = 0;
    for (std::size_t i = 0; i < responders_.size(); i++) {
        const std::size_t place = (turn_ + i) % responders_.size();
        Responder& one = responders_[place];
        if (!one.member || (elsewhere && one.own && requests_->is_own(one.attachment))) {
            continue;
        }
        constexpr u64 kLeftOut = u64{1} << 32;
        const u64 weight = one.awaited + (asked_ < one.left_out_to ? kLeftOut : 0);
        if (chosen == nullptr || weight < least) {
            chosen = &one;
            least = weight;
        }
    }
    if (chosen != nullptr) {
        turn_ = static_cast<std::size_t>(chosen - responders_.data()) + 1;
    }
    return chosen;
}

int Requester::nobody(bool elsewhere) const {
    const bool any = std::any_of(responders_.begin(), responders_.end(),
                                 [](const Responder& one) { return one.member; });
    return elsewhere && any
               ? failed(EDEADLK, "the only one who serves '" + topic_ +
                                     "' is this thread, which cannot answer while it waits")
               : failed(EHOSTUNREACH, "nobody serves '" + topic_ + "'");
}

// ---------------------------------------------------------------------------------------- asking

/// What is to be known of the daemon before somebody is chosen.
int Requester::prepare() {
    if (const int error = requests_->settle(); error != 0) {
        return error;
    }
    replies_->attend_now();  // under another daemon: to be heard there before anybody is asked
    return 0;
}

int Requester::ask(const void* data, std::size_t bytes, bool all, i64 timeout_ns,
                   u64* ret_request) {
    return send(data, bytes, all ? Whom::all : Whom::one, timeout_ns, ret_request);
}

int Requester::send(const void* data, std::size_t bytes, Whom whom, i64 timeout_ns,
                    u64* ret_request) {
    if (const int error = prepare(); error != 0) {
        return error;
    }
    if (bytes > requests_->message_bytes_max()) {
        return requests_->too_large(bytes);
    }
    const bool elsewhere = whom == Whom::one_elsewhere;
    Responder* const one = choose(elsewhere);
    if (one == nullptr) {
        return nobody(elsewhere);
    }
    const u64 request = requests_->next_sequence();
    const protocol::Head head{whom == Whom::all ? 0 : one->attachment, 0, 0};
    // Before it is published: who leaves meanwhile is then known to owe a reply.
    if (whom == Whom::all) {
        for (Responder& responder : responders_) {
            if (responder.member) {
                await(responder, request);
            }
        }
    } else {
        await(*one, request);
    }
    requests_->set_max_block(timeout_ns);
    if (const int error = requests_->publish_headed(head, data, bytes); error != 0) {
        (void)forget(request, [](Responder&) {});  // nothing was sent: nobody is to blame
        return error;
    }
    asked_++;
    *ret_request = request;
    return 0;
}

void Requester::await(Responder& responder, u64 request) {
    awaited_.push_back({request, responder.attachment, responder.link.get(),
                        requests_->next_position()});
    responder.awaited++;
}

Requester::Responder& Requester::responder_of(const Awaited& awaited) {
    Responder* const found = find(*awaited.link, awaited.attachment);
    IPCBUS_ASSERT(found != nullptr);
    return *found;
}

/// That reply is awaited no more.
void Requester::settle(std::size_t index) {
    Responder& responder = responder_of(awaited_[index]);
    awaited_.erase(awaited_.begin() + static_cast<std::ptrdiff_t>(index));
    if (--responder.awaited == 0 && !responder.member) {
        gone_--;
        drop_gone();
    }
}

int Requester::abandon(u64 request) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    const auto leave_out = [this](Responder& one) { one.left_out_to = asked_ + kLeftOutFor; };
    return forget(request, leave_out) ? 0
                                      : failed(ENOENT, "no reply to that request is awaited");
}

/// Nothing is awaited any more of those who have been asked that, `each(Responder&)`. Whether there
/// was anybody.
template <class Each>
bool Requester::forget(u64 request, Each&& each) {
    bool any = false;
    for (std::size_t i = awaited_.size(); i-- != 0;) {
        if (awaited_[i].request == request) {
            any = true;
            each(responder_of(awaited_[i]));
            settle(i);
        }
    }
    return any;
}

int Requester::wait_responders(u32 count, i64 timeout_ns) {
    return requests_->wait_subscribers(count, timeout_ns);
}

// ---------------------------------------------------------------------------------------- replies

bool Requester::wants(const Attached& attached, const protocol::Head& head) {
    const Ring& ring = attached.ring();
    const u64 attachment = protocol::answered_attachment(ring.lineage().id);
    for (matched_ = 0; matched_ < awaited_.size(); matched_++) {
        const Awaited& one = awaited_[matched_];
        if (one.request == head.number && one.attachment == attachment &&
            one.link == &ring.link()) {
            matched_uid_ = ring.lineage().uid;
            return true;
        }
    }
    // Too late. If what was read is torn, somebody is asked a little sooner than he should.
    if (Responder* const one = find(ring.link(), attachment); one != nullptr) {
        one->left_out_to = 0;
    }
    return false;
}

/// There is no reply: will there be one?
int Requester::look_at_responders() {
    if (requests_->attend()) {
        replies_->look_soon();
    }
    if (some_failed_) {
        if (const int result = look_at_failed(); result != -EAGAIN) {
            return result;
        }
    }
    if (gone_ == 0) {
        return -EAGAIN;
    }
    // Every ring in which somebody who has left has answered was told of before: it is attached
    // now, or has been read to its end.
    replies_->attend_now();
    for (std::size_t i = 0; i < awaited_.size(); i++) {
        if (!responder_of(awaited_[i]).member &&
            !replies_->reads_replies_of(*awaited_[i].link, awaited_[i].attachment)) {
            return tell_failed(i, EPIPE, "has gone before it answered");
        }
    }
    return -EAGAIN;
}

int Requester::look_at_failed() {
    for (std::size_t i = 0; i < awaited_.size(); i++) {
        if (const int code = awaited_[i].failed; code != 0) {
            return tell_failed(
                i, code,
                code == EPIPE
                    ? "has not read what it was asked for so long that it is lost"
                : code == EDQUOT
                    ? "cannot answer: there is no room for a ring of replies within "
                      "limits.per_uid, as to ring_bytes of this user or publications of its own"
                    : "cannot answer: the bus, or the host, has no room for a ring of replies");
        }
    }
    some_failed_ = false;
    return -EAGAIN;
}

int Requester::tell_failed(std::size_t index, int code, const std::string& why) {
    failed_request_ = awaited_[index].request;
    settle(index);
    return failed(code, "the responder of '" + topic_ + "' " + why +
                            ": whether it has done anything is not known");
}

/// Who has broken the protocol is heard no more, and has left as far as we are concerned.
void Requester::broken(const Attached& attached) {
    const Ring& ring = attached.ring();
    Responder* const one =
        find(ring.link(), protocol::answered_attachment(ring.lineage().id));
    if (one != nullptr && one->member) {
        one->member = false;
        gone_ += one->awaited != 0 ? 1 : 0;
        drop_gone();
    }
}

void Requester::fill(const ipcbus_message& message, ipcbus_reply* ret_reply) const {
    const protocol::Head& head = replies_->head();
    *ret_reply = ipcbus_reply{};
    ret_reply->data = message.data;
    ret_reply->size = message.size;
    ret_reply->request = head.number;
    ret_reply->responder = awaited_[matched_].attachment;
    ret_reply->status = head.status;
    ret_reply->flags = head.flags & protocol::kReplyMore;
    ret_reply->uid = matched_uid_;
}

int Requester::next_reply(void* buffer, std::size_t bytes, i64 timeout_ns,
                          ipcbus_reply* ret_reply) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (awaited_.empty()) {
        return failed(ENOENT, "no reply is awaited");
    }
    ipcbus_message message{};
    failed_request_ = 0;
    const int result = replies_->receive_or(buffer, bytes, timeout_ns, message,
                                            [this] { return look_at_responders(); });
    if (failed_request_ != 0) {
        *ret_reply = ipcbus_reply{};
        ret_reply->request = failed_request_;
        return result;
    }
    switch (result) {
        case 0:
            fill(message, ret_reply);
            responder_of(awaited_[matched_]).left_out_to = 0;
            if ((ret_reply->flags & IPCBUS_REPLY_MORE) == 0) {
                settle(matched_);
            }
            return 0;
        case -EMSGSIZE: fill(message, ret_reply); return result;
        case -ESTALE:
            *ret_reply = ipcbus_reply{};
            ret_reply->lost = message.lost;
            return result;
        case -EAGAIN: return failed(EAGAIN, "there is no reply");
        case -ETIMEDOUT: return failed(ETIMEDOUT, "no reply came in time");
        case -EMFILE:
        case -ENOMEM: *ret_reply = ipcbus_reply{}; return result;  // no request: a ring that came
        default: return waited(result);
    }
}

int Requester::call(const void* data, std::size_t bytes, void* buffer, std::size_t buffer_bytes,
                    i64 timeout_ns, ipcbus_reply* ret_reply) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (!awaited_.empty()) {
        return failed(EBUSY, "replies are awaited: take or abandon them first");
    }
    sys::Deadline deadline;
    const bool may_block = timeout_ns > 0 && !requests_->has_room(bytes);
    if (may_block) {
        deadline = sys::Deadline::after(timeout_ns);
    }
    u64 request = 0;
    if (const int error = send(data, bytes, Whom::one_elsewhere, timeout_ns, &request);
        error != 0) {
        return error;
    }
    const i64 left_ns = may_block ? deadline.remaining_ns() : timeout_ns;
    const int result = next_reply(buffer, buffer_bytes, left_ns, ret_reply);
    if (!awaited_.empty() && result != -EMSGSIZE) {
        // It keeps the text of what has gone wrong.
        for (std::size_t i = awaited_.size(); i-- != 0;) {
            if (result != 0) {
                responder_of(awaited_[i]).left_out_to = asked_ + kLeftOutFor;
            }
            settle(i);
        }
    }
    return result;
}

}  // namespace ipcbus::client
