// SPDX-License-Identifier: Apache-2.0
// Publishing: the way of a message from the caller into the ring. What the control side does for a
// publication is in publication.cpp. See publisher.hpp.
#include "publisher.hpp"

#include "error_text.hpp"
#include "protocol/topic.hpp"

#include <algorithm>

namespace ipcbus::client {

using protocol::RingPublisher;

/// What every publish begins with: the checks, and room for the record.
int Publisher::prepare(std::string_view topic, std::size_t bytes, u16* ret_topic_bytes) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (claimed_) {
        return failed(EBUSY, "a claim is open: commit or abort it first");
    }
    if (const int error = look_if_due(); error != 0) {
        return error;
    }
    std::size_t topic_bytes = 0;
    if (filter_) {
        if (!protocol::valid_topic(topic) || !protocol::topic_matches(topic_, topic)) {
            return failed(EINVAL, "a message under '" + topic_ +
                                      "' must name a topic of it, not '" + std::string(topic) +
                                      "'");
        }
        topic_bytes = topic.size();
    } else if (!topic.empty() && topic != topic_) {
        return failed(EINVAL, "this publication is of '" + topic_ + "' alone, not of '" +
                                  std::string(topic) + "'");
    }
    if (const int error = reserve(topic_bytes, bytes); error != 0) {
        return error;
    }
    if (filter_) {
        protocol::copy_into_ring(ring_->writer().topic(), topic.data(), topic_bytes);
    }
    *ret_topic_bytes = static_cast<u16>(topic_bytes);
    return 0;
}

/// Looks at the daemon, every so many publishes.
int Publisher::look_if_due() {
    if (publishes_until_look_ == 0) {
        look_at_daemon();
        plain_bytes_ = filter_ ? 0 : message_bytes_max() + 1;
    } else {
        publishes_until_look_--;
    }
    if (bus_.closed()) {
        publishes_until_look_ = 0;
        return failed(ESHUTDOWN, bus_.why_lost());
    }
    return leaving_ || !revoked_.empty() || failures_.load(std::memory_order_relaxed)
               ? heed_rules()
               : 0;
}

int Publisher::reserve(std::size_t topic_bytes, std::size_t bytes) {
    if (bytes > message_bytes_max()) {
        return too_large(bytes);
    }
    const RingPublisher::Status status =
        ring_->reserve(protocol::record_bytes(topic_bytes, bytes), options_.max_block_ns);
    if (status != RingPublisher::Status::ok) {
        return refused(status);
    }
    if (!leaving_ && revoked_.empty()) {
        return 0;
    }
    // Who was waited for has lost its right meanwhile: so this message is not for that ring either.
    const RingPublisher* const waited_in = ring_.get();
    if (const int error = heed_rules(); error != 0) {
        return error;
    }
    return ring_.get() == waited_in ? 0 : reserve(topic_bytes, bytes);
}

int Publisher::too_large(std::size_t bytes) const {
    const u64 capacity = ring_->writer().capacity();
    const std::string text = "a message of " + std::to_string(bytes) +
                             " bytes is larger than the " + std::to_string(message_bytes_max());
    if (ring_->writer().record_bytes_limit() < protocol::record_bytes_max(capacity)) {
        return failed(EMSGSIZE, text + " that were agreed on (message_bytes_max, or " +
                                    "record_bytes_max in the configuration of the bus)");
    }
    return failed(EMSGSIZE, text + " that a ring of " + std::to_string(capacity) +
                                " bytes takes: ask for a larger ring");
}

int Publisher::refused(RingPublisher::Status status) const {
    switch (status) {
        case RingPublisher::Status::full: return failed(EAGAIN, "the ring is full");
        case RingPublisher::Status::timed_out:
            return failed(ETIMEDOUT, "the ring stayed full: a reliable reader is slow");
        case RingPublisher::Status::interrupted: return failed(EINTR, "interrupted by a signal");
        case RingPublisher::Status::own_reader:
            return failed(EDEADLK, "the ring is full and this thread is the one that reads it");
        case RingPublisher::Status::ok: break;
    }
    return 0;
}

void Publisher::write(u16 topic_bytes, const void* data, std::size_t bytes) {
    if (bytes != 0) {
        protocol::copy_into_ring(ring_->writer().payload(topic_bytes), data, bytes);
    }
    ring_->commit(topic_bytes, static_cast<u32>(bytes));
}

inline void Publisher::finish() {
    const bool slept = ring_->finish();
    if (slept || ring_->readers().empty()) {
        publishes_until_look_ = 0;
    }
}

inline void Publisher::write_headed(RingPublisher& ring, const protocol::Head& head,
                                    const void* data, std::size_t bytes) {
    protocol::copy_into_ring(ring.writer().topic(), &head, sizeof head);
    if (bytes != 0) {
        protocol::copy_into_ring(ring.writer().payload(protocol::kHeadBytes), data, bytes);
    }
    ring.commit_headed(head.number, static_cast<u32>(bytes));
}

/// Whether what prepare() would find is known: nothing that a message must know of has happened.
/// What is left to look at is its size, and whether there is room.
bool Publisher::plain() const {
    return plain_bytes_ != 0 && publishes_until_look_ != 0 && !claimed_ && !bus_.in_child() &&
           !bus_.lost();
}

/// The short way, for most messages; needs plain(). False: not this one, nothing has happened.
[[gnu::always_inline]] inline bool Publisher::publish_plainly(RingPublisher& ring,
                                                              const void* data,
                                                              std::size_t bytes) const {
    if (bytes >= plain_bytes_ || !ring.writer().has_room(protocol::record_bytes(0, bytes))) {
        return false;
    }
    protocol::copy_into_ring(ring.writer().payload(0), data, bytes);
    ring.commit(0, static_cast<u32>(bytes));
    return true;
}

int Publisher::publish(std::string_view topic, const void* data, std::size_t bytes) {
    if (topic.empty() && plain()) {
        RingPublisher& ring = *ring_;
        if (publish_plainly(ring, data, bytes)) {
            publishes_until_look_--;
            return ring.finished() && !ring.readers().empty() ? 0 : finished_slowly();
        }
    }
    return publish_slowly(topic, data, bytes);
}

/// Out of line, as publish_slowly(): what it calls would cost the short way registers.
int Publisher::finished_slowly() {
    finish();
    return 0;
}

int Publisher::publish_slowly(std::string_view topic, const void* data, std::size_t bytes) {
    u16 topic_bytes = 0;
    if (const int error = prepare(topic, bytes, &topic_bytes); error != 0) {
        return error;
    }
    write(topic_bytes, data, bytes);
    finish();
    return 0;
}

int Publisher::publish_headed(const protocol::Head& head, const void* data, std::size_t bytes) {
    if (!plain() || bytes >= plain_bytes_ || !has_room(bytes)) {
        return publish_headed_slowly(head, data, bytes);
    }
    RingPublisher& ring = *ring_;
    publishes_until_look_--;
    write_headed(ring, head, data, bytes);
    return ring.finished() && !ring.readers().empty() ? 0 : finished_slowly();
}

int Publisher::publish_headed_slowly(const protocol::Head& head, const void* data,
                                     std::size_t bytes) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (const int error = look_if_due(); error != 0) {
        return error;
    }
    if (const int error = reserve(protocol::kHeadBytes, bytes); error != 0) {
        return error;
    }
    write_headed(*ring_, head, data, bytes);
    return finished_slowly();
}

i64 Publisher::publish_many(const ipcbus_buffer* messages, std::size_t count) {
    std::size_t done = 0;
    int error = 0;
    if (plain()) {
        RingPublisher& ring = *ring_;
        while (done < count && publish_plainly(ring, messages[done].data, messages[done].size)) {
            done++;
        }
        publishes_until_look_ -= static_cast<u32>(
            std::min<std::size_t>(done, publishes_until_look_));
    }
    for (; done < count; done++) {
        u16 topic_bytes = 0;
        error = prepare({}, messages[done].size, &topic_bytes);
        if (error != 0) {
            break;
        }
        write(topic_bytes, messages[done].data, messages[done].size);
    }
    if (done != 0) {
        finish();
        return static_cast<i64>(done);
    }
    return error;
}

int Publisher::claim(std::string_view topic, std::size_t bytes, void** ret_data) {
    u16 topic_bytes = 0;
    if (const int error = prepare(topic, bytes, &topic_bytes); error != 0) {
        return error;
    }
    claimed_ = true;
    claimed_bytes_ = bytes;
    claimed_topic_bytes_ = topic_bytes;
    *ret_data = ring_->writer().payload(topic_bytes);
    return 0;
}

int Publisher::commit(std::size_t bytes) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (!claimed_) {
        return failed(ENOENT, "nothing is claimed");
    }
    if (bytes > claimed_bytes_) {
        return failed(EINVAL, "only " + std::to_string(claimed_bytes_) +
                                  " bytes were claimed, not " + std::to_string(bytes));
    }
    claimed_ = false;
    ring_->commit(claimed_topic_bytes_, static_cast<u32>(bytes));
    finish();
    return 0;
}

int Publisher::abort() {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (!claimed_) {
        return failed(ENOENT, "nothing is claimed");
    }
    // The header at the position is still {0, sequence}: nobody has seen anything.
    claimed_ = false;
    return 0;
}

u32 Publisher::subscriber_count() const {
    if (bus_.in_child()) {
        return 0;
    }
    // acquire: the next look at attention sees what was raised for these. Pairs with the daemon's
    // store_readers(), or the bridge's.
    return ring_->words().mailbox->readers.load(std::memory_order_acquire);
}

std::size_t Publisher::message_bytes_max() const {
    // Whatever the topic of a message under a filter: so the limit is the same for all.
    const u64 topic_bytes = filter_    ? protocol::align_record(protocol::kTopicBytesMax)
                            : headed() ? protocol::kHeadBytes
                                       : 0;
    return std::min(
        ring_->writer().record_bytes_limit() - protocol::kRecordHeaderBytes - topic_bytes,
        protocol::payload_bytes_max(ring_->writer().capacity()));
}

}  // namespace ipcbus::client
