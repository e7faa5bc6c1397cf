// SPDX-License-Identifier: Apache-2.0
// See publishing.hpp.
#include "publishing.hpp"

#include "protocol/layout.hpp"
#include "sys/clock.hpp"

#include <cerrno>

namespace ipcbus::torture {

using test::kMillisecondNs;
using test::must;
using test::must_be;

namespace {

constexpr std::uint64_t kWrap = std::uint64_t{1} << 32;
/// Messages that are filled and checked byte for byte; larger ones are hollow.
constexpr std::uint64_t kFilledMax = 256 << 10;
constexpr std::uint64_t kBatchMax = 32;
/// Longer than this no publish may take: stall timeouts in impatient rounds are a fraction of a
/// second, and in patient ones nobody is still for long, but the dead.
const std::int64_t kPublishMaxNs = 12 * test::kSecondNs * test::patience();

}  // namespace

PublisherPlan PublisherRole::draw_plan() {
    PublisherPlan plan;
    plan.ring_bytes = dice_.pick({1, 1, 1, 1, 1, 2, 4, 4, 16, 16}) << 16;
    if (dice_.one_in(24)) {
        plan.ring_bytes = dice_.pick({16, 64}) << 20;
    }
    plan.usual_bytes = dice_.pick({48, 64, 400, 400, 4000, plan.ring_bytes / 16});
    plan.burst = dice_.pick({1, 8, 100, 1000});
    plan.pause_ms = static_cast<int>(dice_.pick({0, 0, 1, 3}));
    plan.max_block_ns = dice_.one_in(3) ? static_cast<std::int64_t>(dice_.below(3)) * kMillisecondNs
                                        : IPCBUS_FOREVER;
    plan.messages = dice_.one_in(2) ? dice_.pick({0, 1, 10, 1000}) : 0;
    if (dice_.one_in(4)) {
        plan.wraps = true;
        plan.ring_bytes = dice_.pick({1, 4}) << 20;  // so that it does not take long
        plan.messages = 0;
    }
    return plan;
}

void PublisherRole::play() {
    while (scene_.over.value() == 0) {
        plan_ = draw_plan();
        number_ = scene_.new_sender();
        if (number_ == 0) {
            break;
        }
        const bool more = play_publication();
        sender_->ended = 1;
        if (!more) {
            break;
        }
    }
    publisher_.reset();
}

/// False: this was the last one.
bool PublisherRole::play_publication() {
    sender_ = &scene_.sender[number_];
    sender_->kind = plan_.wraps ? Kind::plain : static_cast<Kind>(dice_.pick({0, 0, 1, 2, 2}));
    sender_->group = dice_.below(kGroups);
    next_ = 1;
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = plan_.ring_bytes;
    ipcbus_publisher* publisher = nullptr;
    const std::string topic = topic_of(*sender_, number_, 0);
    (void)must(ipcbus_advertise(bus_.get(), topic.c_str(), &options, &publisher), "advertise");
    publisher_.reset(publisher);
    scene_.counts.publications++;
    bytes_max_ = ipcbus_message_bytes_max(publisher);
    message_.resize(std::max(message_.size(), std::min(bytes_max_, kFilledMax)));
    if (scene_.verbose) {
        (void)std::fprintf(
            stderr, "  %d: sender %zu: %s, ring %zu, usually %zu bytes, %zu in all\n", ::getpid(),
            number_, topic.c_str(), plan_.ring_bytes, plan_.usual_bytes, plan_.messages);
    }
    if (plan_.wraps) {
        fast_forward();
    }
    (void)must(ipcbus_set_max_block(publisher, plan_.max_block_ns), "set_max_block");
    std::uint64_t burst = 0;
    while (scene_.over.value() == 0 && (plan_.messages == 0 || next_ <= plan_.messages)) {
        publish_some();
        if (plan_.pause_ms != 0 && ++burst >= plan_.burst) {
            burst = 0;
            (void)scene_.over.wait(1, plan_.pause_ms);
        }
    }
    scene_.counts.published += next_ - 1;
    if (scene_.over.value() != 0 && alone_ && dice_.one_in(3)) {
        (void)publisher_.release();  // ends with its client, without a word
        return false;
    }
    publisher_.reset();
    return scene_.over.value() == 0;
}

/// To shortly below position 2^32, by messages as large as they may be.
void PublisherRole::fast_forward() {
    const std::uint64_t record = protocol::record_bytes(0, bytes_max_);
    const std::uint64_t end = kWrap - 4 * record - dice_.below(plan_.ring_bytes);
    std::uint64_t position = plan_.ring_bytes;
    for (; position < end && scene_.over.value() == 0; position += record) {
        sender_->begun = next_;
        void* room = nullptr;
        const std::int64_t began_ns = sys::monotonic_ns();
        (void)must(ipcbus_claim(publisher_.get(), bytes_max_, &room), "claim");
        fill_hollow(room, bytes_max_, number_, next_);
        returned(ipcbus_commit(publisher_.get(), bytes_max_) == 0 ? 1 : -EPROTO, began_ns);
    }
    scene_.counts.wraps += position >= end ? 1 : 0;
}

std::uint64_t PublisherRole::draw_bytes() {
    constexpr std::uint64_t kHead = sizeof(test::CheckedHeader);
    if (dice_.one_in(200)) {
        return dice_.one_in(2) ? bytes_max_ : kHead + dice_.below(bytes_max_ - kHead + 1);
    }
    return kHead + dice_.below(std::min(plan_.usual_bytes, bytes_max_ - kHead));
}

const char* PublisherRole::topic_of_next() {
    if (sender_->kind != Kind::filter) {
        return nullptr;
    }
    topic_ = topic_of(*sender_, number_, next_);
    return topic_.c_str();
}

/// What a call said that publishes: how many messages, or why not.
void PublisherRole::returned(std::int64_t result, std::int64_t began_ns) {
    const std::int64_t took_ns = sys::monotonic_ns() - began_ns;
    raise_to(scene_.counts.longest_publish_ns, static_cast<std::uint64_t>(took_ns));
    if (took_ns > kPublishMaxNs) {
        must_be(false, "a publish has taken " + std::to_string(took_ns / kMillisecondNs) + " ms");
    }
    if (result == -EAGAIN || result == -ETIMEDOUT) {
        must_be(plan_.max_block_ns >= 0, "a publish that may wait for ever has given up");
        scene_.counts.refused++;
        // Who may not wait is not to spin either: somebody else has to read.
        (void)scene_.over.wait(1, 1);
        return;
    }
    next_ += static_cast<std::uint64_t>(must(result, "publish"));
    sender_->published = next_ - 1;
}

void PublisherRole::publish_some() {
    switch (dice_.below(4)) {
    case 0:
        publish_claimed();
        return;
    case 1:
        if (sender_->kind != Kind::filter) {
            publish_many();
            return;
        }
        break;
    default:
        break;
    }
    const std::uint64_t bytes = std::min<std::uint64_t>(draw_bytes(), kFilledMax);
    test::fill_checked(message_.data(), bytes, number_, next_);
    const char* topic = topic_of_next();
    sender_->begun = next_;
    const std::int64_t began_ns = sys::monotonic_ns();
    const int result = topic == nullptr
                           ? ipcbus_publish(publisher_.get(), message_.data(), bytes)
                           : ipcbus_publish_to(publisher_.get(), topic, message_.data(), bytes);
    returned(result == 0 ? 1 : result, began_ns);
}

void PublisherRole::publish_claimed() {
    const std::uint64_t bytes = draw_bytes();
    const std::uint64_t more = std::min<std::uint64_t>(bytes + dice_.below(100), bytes_max_);
    const char* topic = topic_of_next();
    void* room = nullptr;
    const std::int64_t began_ns = sys::monotonic_ns();
    const int result = topic == nullptr ? ipcbus_claim(publisher_.get(), more, &room)
                                        : ipcbus_claim_to(publisher_.get(), topic, more, &room);
    if (result != 0) {
        returned(result, began_ns);
        return;
    }
    if (dice_.one_in(8)) {
        std::memset(room, static_cast<int>(dice_.any() & 0xff), std::min(more, kFilledMax));
        (void)must(ipcbus_abort(publisher_.get()), "abort");
        scene_.counts.aborted++;
        return;
    }
    if (bytes > kFilledMax) {
        fill_hollow(room, bytes, number_, next_);
    } else {
        test::fill_checked(room, bytes, number_, next_);
    }
    sender_->begun = next_;
    (void)must(ipcbus_commit(publisher_.get(), bytes), "commit");
    returned(1, began_ns);
}

void PublisherRole::publish_many() {
    std::array<ipcbus_buffer, kBatchMax> batch;
    const std::uint64_t count = 1 + dice_.below(kBatchMax);
    std::size_t at = 0;
    std::size_t filled = 0;
    while (filled < count) {
        const std::uint64_t bytes = draw_bytes();
        if (at + bytes > message_.size()) {
            break;
        }
        test::fill_checked(message_.data() + at, bytes, number_, next_ + filled);
        batch[filled++] = {message_.data() + at, bytes};
        at += bytes;
    }
    if (filled == 0) {
        return;
    }
    sender_->begun = next_ + filled - 1;
    const std::int64_t began_ns = sys::monotonic_ns();
    const std::int64_t result = ipcbus_publish_many(publisher_.get(), batch.data(), filled);
    must_be(result != 0 && result <= static_cast<std::int64_t>(filled), "publish_many: a count");
    returned(result, began_ns);
}

}  // namespace ipcbus::torture
