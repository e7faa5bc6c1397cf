// SPDX-License-Identifier: Apache-2.0
// Waiting for several subscribers at once. See set.hpp.
#include "set.hpp"

#include "sys/room.hpp"

namespace ipcbus::client {

using sys::Result;

Result<std::unique_ptr<Set>> Set::create(Bus& bus) {
    std::unique_ptr<Set> set(new Set(bus));
    IPCBUS_TRY(bus.require_connection());
    IPCBUS_TRY(set->take_waiter());
    return set;
}

Result<void> Set::take_waiter() {
    const Bus::Lock guard = bus_.lock();
    const u64 generation = bus_.generation();
    const std::shared_ptr<Link> link = bus_.link(guard);
    const u32 number = IPCBUS_TRY(link->take_waiter());
    Link::TakenWaiter taken(*link, number);
    const protocol::Waiter::Words words{&link->waiter(number), &link->asleep(number), number};
    if (waiter_ == nullptr) {
        waiter_ = std::make_unique<protocol::Waiter>(words);
    } else {
        if (readiness_ != nullptr) {
            readiness_->let_go();
        }
        waiter_->rebind(words);
    }
    taken.keep();
    // Only now may the last link, whose pages the waiter was on, go.
    link_ = link;
    waiter_number_ = number;
    generation_ = generation;
    for (Subscriber* subscriber : subscribers_) {
        subscriber->ring_at(*link_, number);
    }
    return {};
}

void Set::rebind() {
    if (generation_ != bus_.generation()) {
        // A refusal is tried again at the next look at the connection.
        (void)take_waiter();
    }
}

Set::~Set() {
    if (bus_.in_child()) {
        return;
    }
    while (!subscribers_.empty()) {
        (void)remove(*subscribers_.back());
    }
    readiness_.reset();  // before its bell goes
    if (waiter_ != nullptr) {
        const Bus::Lock guard = bus_.lock();
        link_->give_waiter(waiter_number_);
    }
}

int Set::add(Subscriber& subscriber) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (&subscriber.bus_ != &bus_) {
        return failed(EINVAL, "the subscriber belongs to another connection");
    }
    if (subscriber.set_ != nullptr) {
        return failed(EBUSY, "the subscriber is in a set already");
    }
    if (subscriber.readiness_ != nullptr) {
        return failed(EBUSY, "the subscriber has a descriptor of its own: it cannot be in a set");
    }
    disarm();
    rebind();
    if (subscriber.generation_ != generation_) {
        subscriber.hear_control();  // what it reads from the last daemon is polled, in a set, too
    }
    sys::make_room(subscribers_);
    waiter_->make_room();
    subscriber.waiter_->remove(subscriber.source_);  // from here on nothing can fail
    waiter_->add(subscriber.source_);
    const Bus::Lock guard = bus_.lock();
    subscriber.set_ = this;
    subscriber.ring_at(*link_, waiter_number_);
    subscribers_.push_back(&subscriber);
    return 0;
}

int Set::remove(Subscriber& subscriber) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (subscriber.set_ != this) {
        return failed(ENOENT, "the subscriber is not in this set");
    }
    disarm();
    waiter_->remove(subscriber.source_);
    subscriber.waiter_->add(subscriber.source_);
    const Bus::Lock guard = bus_.lock();
    subscriber.set_ = nullptr;
    subscriber.ring_at(*subscriber.link_, subscriber.waiter_number_);
    std::erase(subscribers_, &subscriber);
    return 0;
}

bool Set::look() {
    bool found = false;
    for (Subscriber* subscriber : subscribers_) {
        found = subscriber->look() || found;
    }
    return found;
}

int Set::try_wait(Subscriber** ret_subscriber) {
    waiter_->take_activity();
    bool skipped = false;
    for (std::size_t left = subscribers_.size(); left != 0; left--) {
        turn_ = turn_ + 1 < subscribers_.size() ? turn_ + 1 : 0;
        const int result = subscribers_[turn_]->ready();
        if (result == 0) {
            *ret_subscriber = subscribers_[turn_];
            return 0;
        }
        skipped = skipped || result == kSkipped;
    }
    return skipped ? kSkipped : -EAGAIN;
}

u64 Set::rounds_to_newest() const {
    u64 most = 0;
    for (const Subscriber* subscriber : subscribers_) {
        most = std::max(most, subscriber->rounds_to_newest());
    }
    return most;
}

int Set::wait(i64 timeout_ns, Subscriber** ret_subscriber) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (subscribers_.empty()) {
        rest();  // until one is added
        return failed(ENOENT, "the set is empty");
    }
    disarm();
    for (Subscriber* subscriber : subscribers_) {
        if (const int error = subscriber->begin_use(); error != 0) {
            return error;
        }
    }
    Subscriber* found = nullptr;
    const auto wait = [&](i64 for_ns) {
        return wait_until(*waiter_, nullptr, patience_, *this, for_ns,
                          [&] { return try_wait(&found); }, [&] { return rounds_to_newest(); },
                          [] { return nullptr; },
                          [] { return -EAGAIN; });
    };
    const int result =
        wait_or_arm(readiness_.get(), *waiter_, *this, timeout_ns, wait, [this] { note_armed(); });
    if (result == 0) {
        waiter_->fruitful();
        patience_.distance.received(1);
        *ret_subscriber = found;
        return 0;
    }
    return waited(result);
}

/// A receive from one of them is to disarm it, too.
void Set::note_armed() {
    for (Subscriber* subscriber : subscribers_) {
        subscriber->note_armed();
    }
}

void Set::rest() {
    if (readiness_ != nullptr) {
        readiness_->rest(*waiter_);
        note_armed();
    }
}

void Set::disarm() {
    if (readiness_ != nullptr) {
        readiness_->disarm(*waiter_);
    }
}

int Set::fd() {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (readiness_ == nullptr) {
        auto made = Readiness::create();
        if (!made.ok()) {
            return failed(made.error());
        }
        readiness_ = std::move(made).value();
    }
    return readiness_->fd();
}

}  // namespace ipcbus::client
