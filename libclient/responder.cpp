// SPDX-License-Identifier: Apache-2.0
// Getting requests and answering them. See responder.hpp.
#include "responder.hpp"

#include "error_text.hpp"
#include "protocol/topic.hpp"

#include <algorithm>
#include <utility>

namespace ipcbus::client {

using sys::fail;
using sys::Result;

namespace {

/// How long one is kept that does not ask any more, has something unanswered, and cannot be heard
/// to have gone, for its daemon is no more: it has found another one by then.
constexpr i64 kOrphanNs = 10'000'000'000;
/// Waiting for room is for one part in so many of the time, and one.
constexpr i64 kWaitPart = 10;
/// So many uids have a budget before those that are whole again are forgotten.
constexpr std::size_t kBudgetsKept = 64;

}  // namespace

Result<std::unique_ptr<Responder>> Responder::create(Bus& bus, const std::string& filter,
                                                     const ResponderOptions& options) {
    if (const char* fault = protocol::filter_fault(filter); *fault != '\0') {
        return fail(EINVAL, "the filter '" + filter + "' cannot be served: " + fault);
    }
    std::unique_ptr<Responder> responder(new Responder(bus, options));
    SubscriberOptions subscriber;
    subscriber.spin_ns = options.spin_ns;
    responder->requests_ = IPCBUS_TRY(
        Subscriber::create_headed(bus, filter, subscriber, {false, {}, responder.get()}));
    return responder;
}

Responder::~Responder() {
    if (bus_.in_child()) {
        return;
    }
    correspondents_.clear();  // what has been answered stands there before they learn that we leave
    requests_.reset();
    const Bus::Lock guard = bus_.lock();
    for (const TakenWaiter& waiter : waiters_) {
        waiter.link->give_waiter(waiter.number);
    }
}

// -------------------------------------------------------------------------------------- requests

bool Responder::wants(const Attached& attached, const protocol::Head& head) {
    from_ = &attached;
    return head.number == 0 || head.number == attached.id;
}

void Responder::gone(const Attached& attached) {
    const auto found = numbers_.find({&attached.ring().link(), attached.id});
    if (found == numbers_.end() || found->second->gone) {
        return;  // it has asked nothing of us
    }
    Correspondent& one = *found->second;
    one.gone = true;
    one.gone_ns = sys::coarse_ns();
    one.next_gone = std::exchange(gone_, &one);
}

int Responder::next(void* buffer, std::size_t bytes, i64 timeout_ns,
                    ipcbus_request* ret_request) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    drop_gone();
    make_spares();
    ipcbus_message message{};
    const int result = requests_->receive_or(buffer, bytes, timeout_ns, message, [this] {
        drop_gone();
        return -EAGAIN;
    });
    if (result != 0 && result != -EMSGSIZE) {
        switch (result) {
            case -EAGAIN: return failed(EAGAIN, "there is no request");
            case -ETIMEDOUT: return failed(ETIMEDOUT, "no request came in time");
            default: return waited(result);
        }
    }
    *ret_request = ipcbus_request{};
    ret_request->data = message.data;
    ret_request->size = message.size;
    ret_request->topic = message.topic;
    ret_request->topic_size = message.topic_size;
    ret_request->sequence = message.sequence;
    if (result == 0) {
        Correspondent& from = correspondent(*from_);
        from.open++;
        ret_request->requester = from.number;
        ret_request->uid = from.uid;
        Subscriber::pass(*from_);  // it may take long: what is to others shall not wait for us
    }
    return result;
}

/// Before anything is received: out of memory it throws.
void Responder::make_spares() {
    if (spare_correspondent_.empty()) {
        Correspondents made;
        made[0].topic.reserve(protocol::kTopicBytesMax);
        spare_correspondent_ = made.extract(made.begin());
    }
    if (spare_number_.empty()) {
        Numbers made;
        made[{nullptr, 0}] = nullptr;
        spare_number_ = made.extract(made.begin());
    }
}

/// Who asked through that attachment.
Responder::Correspondent& Responder::correspondent(const Attached& from) {
    Link& link = from.ring().link();
    if (recent_ != nullptr && recent_->attachment == from.id && recent_->link.get() == &link) {
        return *recent_;
    }
    if (const auto known = numbers_.find({&link, from.id}); known != numbers_.end()) {
        recent_ = known->second;
        return *recent_;
    }
    spare_correspondent_.key() = ++last_number_;
    recent_ = &correspondents_.insert(std::move(spare_correspondent_)).position->second;
    recent_->number = last_number_;
    recent_->link = link.shared_from_this();
    recent_->attachment = from.id;
    recent_->uid = from.ring().lineage().uid;
    recent_->topic = from.ring().topic();
    spare_number_.key() = {&link, from.id};
    spare_number_.mapped() = recent_;
    numbers_.insert(std::move(spare_number_));
    return *recent_;
}

/// Forgets requesters that have gone.
void Responder::drop_gone() {
    if (gone_ == nullptr) {
        return;
    }
    const i64 now_ns = sys::coarse_ns();
    bool any = false;
    for (Correspondent** place = &gone_; *place != nullptr;) {
        Correspondent& one = **place;
        // Under another daemon it asks in another ring, and still reads what is answered in this.
        if (one.replies != nullptr && one.open != 0 && one.replies->subscriber_count() != 0 &&
            now_ns - one.gone_ns <= kOrphanNs) {
            place = &one.next_gone;
            continue;
        }
        *place = one.next_gone;
        numbers_.erase({one.link.get(), one.attachment});
        correspondents_.erase(one.number);
        any = true;
    }
    if (any) {
        recent_ = nullptr;
        give_waiters_back();
    }
}

/// Those on links of which nothing is left; the present one keeps its.
void Responder::give_waiters_back() {
    const Bus::Lock guard = bus_.lock();
    std::erase_if(waiters_, [&](const TakenWaiter& waiter) {
        const bool unused =
            waiter.link != bus_.link(guard) &&
            std::none_of(correspondents_.begin(), correspondents_.end(),
                         [&](const auto& entry) { return entry.second.link == waiter.link; });
        if (unused) {
            waiter.link->give_waiter(waiter.number);
        }
        return unused;
    });
}

// --------------------------------------------------------------------------------------- replies

Result<u32> Responder::waiter_on(const std::shared_ptr<Link>& link) {
    for (const TakenWaiter& waiter : waiters_) {
        if (waiter.link == link) {
            return waiter.number;
        }
    }
    waiters_.reserve(waiters_.size() + 1);
    const Bus::Lock guard = bus_.lock();
    const u32 number = IPCBUS_TRY(link->take_waiter());
    waiters_.push_back({link, number});
    return number;
}

/// The ring in which it is answered, from that request on.
int Responder::open_replies(Correspondent& to, u64 sequence) {
    const Result<u32> waiter = waiter_on(to.link);
    if (!waiter.ok()) {
        return failed(waiter.error());
    }
    auto replies =
        Publisher::create_replies(bus_, to.topic,
                                  {to.link, to.attachment, waiter.value(), sequence});
    if (!replies.ok()) {
        if (replies.error().code == ENOENT) {
            return failed(EPIPE, "the requester has gone");
        }
        return failed(replies.error());
    }
    to.replies = std::move(replies).value();
    return 0;
}

/// Makes it the recent one.
int Responder::look_up(u64 requester) {
    if (recent_ != nullptr && recent_->number == requester) {
        return 0;
    }
    const auto found = correspondents_.find(requester);
    if (found == correspondents_.end()) {
        return requester == 0 || requester > last_number_
                   ? failed(EINVAL, "no request came from that requester")
                   : failed(EPIPE, "the requester has gone");
    }
    recent_ = &found->second;
    return 0;
}

int Responder::respond(u64 requester, u64 sequence, const void* data, std::size_t bytes,
                       u32 status, bool more) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (const int unknown = look_up(requester); unknown != 0) {
        return unknown;
    }
    if (recent_->replies == nullptr) {
        // It is to have no more rings than it must; and its requester may have gone meanwhile.
        requests_->attend_now();
        requests_->drop_ended();
        drop_gone();
        if (const int unknown = look_up(requester); unknown != 0) {
            return unknown;
        }
    }
    Correspondent& to = *recent_;
    int result = to.replies == nullptr ? open_replies(to, sequence) : 0;
    if (result == 0) {
        const protocol::Head head{sequence, status, more ? protocol::kReplyMore : 0};
        result = to.replies->subscriber_count() == 0 ? failed(EPIPE, "the requester has gone")
                                                     : publish(to, head, data, bytes);
        to.slow = result == -EAGAIN || result == -ETIMEDOUT;
    }
    if (result == -EMSGSIZE || result == -EINTR || result == -EDEADLK) {
        return failed_to_respond(result, to, bytes);  // not answered: it may be tried again
    }
    if (!more && to.open != 0) {
        to.open--;
    }
    return failed_to_respond(result, to, bytes);
}

int Responder::publish(Correspondent& to, const protocol::Head& head, const void* data,
                       std::size_t bytes) {
    if (options_.max_block_ns > 0 && !to.slow && !to.replies->has_room(bytes)) {
        return publish_waiting(to, head, data, bytes);
    }
    to.replies->set_max_block(to.slow ? 0 : options_.max_block_ns);
    return to.replies->publish_headed(head, data, bytes);
}

/// It may have to wait for room: as long as its uid has not had all the waiting there is.
int Responder::publish_waiting(Correspondent& to, const protocol::Head& head, const void* data,
                               std::size_t bytes) {
    const i64 before_ns = sys::monotonic_ns();
    const auto left_ns = [&](const Budget& budget) {
        return std::min(budget.left_ns + (before_ns - budget.at_ns) / kWaitPart,
                        options_.max_block_ns);
    };
    if (budgets_.size() >= kBudgetsKept) {
        std::erase_if(budgets_, [&](const auto& entry) {
            return left_ns(entry.second) == options_.max_block_ns;
        });
    }
    const Budget whole{options_.max_block_ns, before_ns};
    Budget& budget = budgets_.try_emplace(to.uid, whole).first->second;
    budget = {left_ns(budget), before_ns};
    to.replies->set_max_block(budget.left_ns);
    const int result = to.replies->publish_headed(head, data, bytes);
    budget.at_ns = sys::monotonic_ns();
    budget.left_ns = std::max<i64>(budget.left_ns - (budget.at_ns - before_ns), 0);
    return result;
}

int Responder::failed_to_respond(int result, const Correspondent& to, std::size_t bytes) const {
    switch (result) {
        case -EMSGSIZE:
            return failed(EMSGSIZE,
                          "a reply of " + std::to_string(bytes) +
                              " bytes is larger than this requester takes, " +
                              std::to_string(to.replies->message_bytes_max()) +
                              ": it chooses so with its reply_bytes_max");
        case -EAGAIN:
        case -ETIMEDOUT:
            return failed(-result, "the requester does not take its replies: this one is dropped");
        default: return result;
    }
}

}  // namespace ipcbus::client
