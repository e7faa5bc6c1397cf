// SPDX-License-Identifier: Apache-2.0
// See reading.hpp.
#include "reading.hpp"

#include "sys/clock.hpp"

#include <cerrno>

namespace ipcbus::torture {

using test::kMillisecondNs;
using test::must;
using test::must_be;

namespace {

constexpr std::size_t kLoansMax = 32;
/// After everybody has ended: for what is on its way.
const std::int64_t kDrainNs = 30 * test::kSecondNs * test::patience();

void insist(const std::string& fault, std::uint32_t mode) {
    if (!fault.empty()) {
        must_be(false, std::string(mode == IPCBUS_RELIABLE ? "reliable"
                                   : mode == IPCBUS_LOSSY  ? "lossy"
                                                           : "latest") +
                           ": " + fault);
    }
}

}  // namespace

void ReaderRole::draw(Subscription& one) {
    const std::string group = std::to_string(dice_.below(kGroups));
    const std::string form = std::to_string(dice_.below(kForms));
    one.mode = static_cast<std::uint32_t>(dice_.pick({0, 0, 0, 1, 1, 2}));
    switch (dice_.below(one.mode == IPCBUS_LATEST ? 6 : 8)) {
    case 0:
    case 1:
        one.filter = "t/#";
        break;
    case 2:
        one.filter = "#";
        break;
    case 3:
        one.filter = "t/" + group + "/#";
        break;
    case 4:
        one.filter = "t/+/s0";
        break;
    case 5:
        one.filter = "t/+/+";
        break;
    case 6:
        one.filter = "t/+/+/f" + form;
        break;
    default:
        one.filter = "t/" + group + "/+/f" + form;
        break;
    }
    // 0 adapts, negative sleeps at once, much never sleeps.
    one.spin_ns = static_cast<std::int64_t>(dice_.pick({0, 0, 1, 2})) - 1;
    one.spin_ns = one.spin_ns == 1 ? 20'000 : one.spin_ns;
}

void ReaderRole::subscribe(Subscription& one) {
    Snapshot before(scene_, Snapshot::Of::published);
    one.subscriber = test::subscribe(bus_, one.filter, one.mode, one.spin_ns);
    one.account = std::make_unique<Account>(scene_, one.filter, one.mode, std::move(before),
                                            Snapshot(scene_, Snapshot::Of::begun));
    scene_.counts.subscriptions++;
    if (set_ != nullptr) {
        (void)must(ipcbus_set_add(set_.get(), one.subscriber.get()), "set_add");
    }
    if (scene_.verbose) {
        (void)std::fprintf(stderr, "  %d: '%s', mode %u\n", ::getpid(), one.filter.c_str(),
                           one.mode);
    }
}

void ReaderRole::begin() {
    const bool in_set = !steady_ && dice_.one_in(3);
    subscriptions_.resize(in_set ? 1 + dice_.below(3) : 1);
    slow_every_ = steady_ ? 0 : dice_.pick({0, 0, 1000, 100, 20});
    if (in_set) {
        ipcbus_set* set = nullptr;
        (void)must(ipcbus_set_create(bus_.get(), &set), "set_create");
        set_.reset(set);
    }
    for (Subscription& one : subscriptions_) {
        draw(one);
        if (steady_) {
            one.mode = IPCBUS_RELIABLE;
            one.filter = "t/#";
        }
        subscribe(one);
    }
}

void ReaderRole::subscribe_anew(Subscription& one) {
    // A set lets go of a subscriber that ends, or is told before.
    if (set_ != nullptr && dice_.one_in(2)) {
        (void)must(ipcbus_set_remove(set_.get(), one.subscriber.get()), "set_remove");
    }
    one.subscriber.reset();
    scene_.counts.received += one.account->received_count();
    draw(one);
    subscribe(one);
}

void ReaderRole::play() {
    sys::Deadline deadline = sys::Deadline::after(kDrainNs);
    while (!may_end()) {
        const bool ending = scene_.ended.value() != 0;
        if (!ending) {
            deadline = sys::Deadline::after(kDrainNs);
        }
        idle_ = false;
        // Also without waiting, as one does between other work.
        const std::int64_t timeout_ns = dice_.one_in(4) ? 0 : 20 * kMillisecondNs;
        Subscription* one = &subscriptions_[dice_.below(subscriptions_.size())];
        if (set_ != nullptr && !dice_.one_in(8)) {
            ipcbus_subscriber* ready = nullptr;
            const int result = ipcbus_set_wait(set_.get(), timeout_ns, &ready);
            idle_ = result == -ETIMEDOUT || result == -EAGAIN;
            if (!idle_) {
                (void)must(result, "set_wait");
                for (Subscription& each : subscriptions_) {
                    one = each.subscriber.get() == ready ? &each : one;
                }
            }
        }
        if (!idle_) {
            read(*one, set_ != nullptr ? 0 : timeout_ns);
        }
        turns_++;
        if (slow_every_ != 0 && turns_ % slow_every_ == 0 && !ending) {
            (void)scene_.over.wait(1, 1 + static_cast<int>(dice_.below(4)));
        }
        if (!steady_ && scene_.over.value() == 0 && dice_.one_in(3000)) {
            subscribe_anew(*one);
        }
        if (deadline.passed()) {
            give_up();
        }
    }
    for (Subscription& each : subscriptions_) {
        finish(each);
    }
}

/// Says what does not end, and whether the bus knows of it.
void ReaderRole::give_up() {
    std::string left;
    for (Subscription& each : subscriptions_) {
        finish(each);
        left += " '" + each.filter + "' has " +
                std::to_string(ipcbus_publication_count(each.subscriber.get()));
    }
    const test::Subscriber anew = test::subscribe(bus_, "#");
    (void)test::receive(anew, test::kSecondNs);
    must_be(false, "publications of a reader do not end:" + left + "; to a new one the bus gives " +
                       std::to_string(ipcbus_publication_count(anew.get())));
}

/// Everything has ended, been read to its end, and accounts are complete.
bool ReaderRole::may_end() {
    if (!idle_ || scene_.ended.value() == 0) {
        return false;
    }
    for (Subscription& one : subscriptions_) {
        if (ipcbus_publication_count(one.subscriber.get()) != 0 ||
            (scene_.patient && !one.account->complete())) {
            return false;
        }
    }
    // One more look: a loss may be left to tell.
    idle_ = false;
    for (Subscription& one : subscriptions_) {
        receive(one, 0);
        if (!idle_) {
            return false;
        }
    }
    return true;
}

void ReaderRole::finish(Subscription& one) {
    insist(one.account->finish(!scene_.patient), one.mode);
    must_be(ipcbus_lost(one.subscriber.get()) == one.account->lost_count(),
            "ipcbus_lost says " + std::to_string(ipcbus_lost(one.subscriber.get())) + ", told " +
                std::to_string(one.account->lost_count()));
    scene_.counts.received += one.account->received_count();
}

void ReaderRole::read(Subscription& one, std::int64_t timeout_ns) {
    if (dice_.one_in(2)) {
        receive(one, timeout_ns);
    } else {
        borrow(one, timeout_ns);
    }
}

void ReaderRole::lost(const Subscription& one, std::uint64_t count) {
    scene_.counts.lost += count;
    if (one.mode == IPCBUS_RELIABLE && count != 0) {
        scene_.counts.lost_reliably += count;
        must_be(!scene_.patient, "a reliable subscriber of '" + one.filter + "' has lost " +
                                     std::to_string(count) + " messages: " + ipcbus_last_error());
    }
}

/// Whether a call gave no message; a loss is taken into account.
bool ReaderRole::nothing(Subscription& one, std::int64_t result, const ipcbus_message& message) {
    if (result == -ETIMEDOUT || result == -EAGAIN) {
        idle_ = true;
        return true;
    }
    if (result == -ESTALE) {
        lost(one, message.lost);
        insist(one.account->lost(message), one.mode);
        return true;
    }
    (void)must(result, "receive");
    return false;
}

void ReaderRole::receive(Subscription& one, std::int64_t timeout_ns) {
    ipcbus_message message{};
    const int result =
        ipcbus_receive(one.subscriber.get(), buffer_.data(), buffer_.size(), timeout_ns, &message);
    if (result == -EMSGSIZE) {
        must_be(message.size > buffer_.size(), "-EMSGSIZE, but it fits");
        buffer_.resize(message.size);
        idle_ = false;
        return;  // it comes with the next receive; or, in a lossy mode, another one
    }
    if (nothing(one, result, message)) {
        return;
    }
    idle_ = false;
    lost(one, message.lost);
    const auto header = read_message(message.data, message.size);
    if (!header) {
        must_be(false, "a torn message of " + std::to_string(message.size) + " bytes");
    }
    insist(one.account->topic_fault(*header, message), one.mode);
    insist(one.account->received(*header, message), one.mode);
}

void ReaderRole::borrow(Subscription& one, std::int64_t timeout_ns) {
    std::array<ipcbus_message, kLoansMax> loans;
    std::array<std::optional<test::CheckedHeader>, kLoansMax> headers;
    std::array<std::string, kLoansMax> faults;
    std::int64_t count = 1;
    if (dice_.one_in(2)) {
        const int result = ipcbus_borrow(one.subscriber.get(), timeout_ns, loans.data());
        count = result == 0 ? 1 : result;
    } else {
        count = ipcbus_borrow_many(one.subscriber.get(), timeout_ns, loans.data(),
                                   1 + dice_.below(kLoansMax));
    }
    if (nothing(one, count, loans[0])) {
        return;
    }
    if (dice_.one_in(200)) {
        (void)scene_.over.wait(1, 1 + static_cast<int>(dice_.below(10)));
    }
    // Read before it is given back; believed only after.
    for (std::int64_t i = 0; i < count; i++) {
        headers[i] = read_message(loans[i].data, loans[i].size);
        if (headers[i] && headers[i]->sender != 0 && headers[i]->sender < scene_.senders_end()) {
            faults[i] = one.account->topic_fault(*headers[i], loans[i]);
        }
    }
    const int result = ipcbus_release(one.subscriber.get());
    lost(one, loans[0].lost);
    if (result == -ESTALE) {
        must_be(!scene_.patient || one.mode != IPCBUS_RELIABLE,
                "a reliable subscriber's loan was overwritten");
        scene_.counts.overwritten++;
        insist(one.account->overwritten(loans[0]), one.mode);
        return;
    }
    (void)must(result, "release");
    for (std::int64_t i = 0; i < count; i++) {
        if (!headers[i]) {
            must_be(false, "a torn loan of " + std::to_string(loans[i].size) + " bytes");
        }
        insist(faults[i], one.mode);
        insist(one.account->received(*headers[i], loans[i]), one.mode);
    }
}

}  // namespace ipcbus::torture
