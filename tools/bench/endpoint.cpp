// SPDX-License-Identifier: Apache-2.0
// Publishing and checking numbered messages; see endpoint.hpp.
#include "bench/endpoint.hpp"

#include "cli.hpp"
#include "connection.hpp"

#include <algorithm>
#include <cerrno>

namespace ipcbus::bench {

namespace {

/// What fits any ring that an administrator is likely to configure.
constexpr std::uint64_t kUsualBytes = 4096;

}  // namespace

tools::BusPtr connect(const Member& member, const Run& run) {
    const tools::CommonOptions& common = run.options.common;
    ipcbus_connect_options options = IPCBUS_INIT(options);
    options.address = run.address.empty() ? nullptr : run.address.c_str();
    options.name = common.name.empty() ? "ipcbus-bench" : common.name.c_str();
    options.timeout_ns = common.connect_timeout_ns;
    options.flags = common.reconnect ? 0 : IPCBUS_NO_RECONNECT;
    ipcbus_bus* bus = nullptr;
    if (const int result = ipcbus_connect(&options, &bus); result != 0) {
        member.fail_library("connect", result);
    }
    return tools::BusPtr(bus);
}

Writer::Writer(const Member& member, const Run& run, ipcbus_bus* bus, const std::string& topic)
    : member_(member),
      run_(run),
      size_(run.options.size),
      source_(size_, run.salt, std::max<std::uint32_t>(run.options.write_batch, 2)) {
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = run.options.ring_bytes;
    if (size_ > kUsualBytes && options.ring_bytes == 0) {
        options.message_bytes_max = size_;  // the daemon chooses a ring that fits
    }
    ipcbus_publisher* handle = nullptr;
    if (const int result = ipcbus_advertise(bus, topic.c_str(), &options, &handle); result != 0) {
        member.fail_library("publish to " + tools::quoted(topic), result);
    }
    handle_.reset(handle);
    if (size_ > ipcbus_message_bytes_max(handle)) {
        member.fail(tools::kExitUsage, "messages of " + std::to_string(size_) +
                                           " bytes do not fit: the largest in "
                                           "this ring has " +
                                           std::to_string(ipcbus_message_bytes_max(handle)) +
                                           "; a larger --ring allows more");
    }
    batch_.resize(run.options.write_batch);
}

void Writer::wait_for(std::uint32_t readers) {
    if (const int result = ipcbus_wait_subscribers(handle_.get(), readers, kPatienceNs);
        result != 0) {
        member_.fail_library("wait for the subscribers", result);
    }
}

void Writer::prepare() {
    if (made_ == nullptr && !run_.options.write_in_place) {
        made_ = source_.make(next_ % 2, next_);
    }
}

void Writer::publish(std::uint64_t count) {
    if (run_.options.write_batch > 1) {
        publish_batches(count);
        return;
    }
    if (run_.options.write_in_place) {
        for (; count > 0; --count) {
            publish_in_place();
        }
        return;
    }
    prepare();
    for (; count > 0; --count) {
        const void* message = made_;
        // The one after it is made first: a copy in wide pieces of what was stored in narrow ones
        // a moment ago would wait for the stores.
        made_ = count > 1 ? source_.make((next_ + 1) % 2, next_ + 1) : nullptr;
        const int result = ipcbus_publish(handle_.get(), message, size_);
        if (__builtin_expect(result != 0, 0)) {
            member_.fail_library("publish", result);
        }
        ++next_;
    }
}

void Writer::publish_in_place() {
    void* room = nullptr;
    int result = ipcbus_claim(handle_.get(), size_, &room);
    if (__builtin_expect(result == 0, 1)) {
        fill(room, run_.options.untouched ? std::min(size_, kHeadBytes) : size_, next_, run_.salt);
        result = ipcbus_commit(handle_.get(), size_);
    }
    if (__builtin_expect(result != 0, 0)) {
        member_.fail_library("publish", result);
    }
    ++next_;
}

void Writer::publish_batches(std::uint64_t count) {
    while (count > 0) {
        const std::size_t now = std::min<std::uint64_t>(count, batch_.size());
        for (std::size_t i = 0; i < now; ++i) {
            batch_[i] = ipcbus_buffer{source_.make(i, next_ + i), size_};
        }
        std::size_t sent = 0;
        while (sent < now) {
            const std::int64_t result =
                ipcbus_publish_many(handle_.get(), batch_.data() + sent, now - sent);
            if (__builtin_expect(result < 0, 0)) {
                member_.fail_library("publish", result);
            }
            sent += static_cast<std::size_t>(result);
        }
        next_ += now;
        count -= now;
    }
}

// ------------------------------------------------------------------------------------ Reader

Reader::Reader(const Member& member, const Run& run, ipcbus_bus* bus, const std::string& topic)
    : member_(member),
      run_(run),
      size_(run.options.size),
      buffer_(size_),
      messages_(std::max<std::uint32_t>(run.options.read_batch, 1)) {
    ipcbus_subscriber_options options = IPCBUS_INIT(options);
    options.mode = run.options.delivery;
    options.spin_ns = run.options.spin_ns();
    ipcbus_subscriber* handle = nullptr;
    if (const int result = ipcbus_subscribe(bus, topic.c_str(), &options, &handle); result != 0) {
        member.fail_library("subscribe to " + tools::quoted(topic), result);
    }
    handle_.reset(handle);
}

void Reader::read_until(std::uint64_t end) {
    while (got_ + lost_ < end) {
        const std::size_t count = receive(messages_.size());
        if (count != 0) {
            judge(count);
        }
    }
}

void Reader::receive_one() {
    while (unfinished_ == 0) {
        unfinished_ = receive(1);
    }
    if (run_.options.borrows()) {
        is_judged_ = is_right(messages_[0], got_ + lost_);
        if (!is_judged_) {
            finish();
        }
    }
}

void Reader::finish() {
    const std::size_t count = std::exchange(unfinished_, 0);
    if (count != 0 && !std::exchange(is_judged_, false)) {
        judge(count);
    } else if (count != 0 && give_back()) {
        ++got_;
    }
}

std::size_t Reader::receive(std::size_t count) {
    const std::int64_t result =
        run_.options.borrows()
            ? ipcbus_borrow_many(handle_.get(), kPatienceNs, messages_.data(), count)
            : ipcbus_receive(handle_.get(), buffer_.data(), size_, kPatienceNs, messages_.data());
    if (__builtin_expect(result > 0, 1) || result == 0) {
        return result > 0 ? static_cast<std::size_t>(result) : 1;
    }
    switch (result) {
        case -ESTALE: note_loss(); return 0;
        case -EMSGSIZE: tell_wrong(messages_[0]);
        case -ETIMEDOUT:
            member_.fail(tools::kExitTimedOut, "message " + std::to_string(got_ + lost_) +
                                                   " did not come within " +
                                                   tools::show_duration(kPatienceNs));
        default: member_.fail_library("receive", result);
    }
}

bool Reader::is_right(const ipcbus_message& message, std::uint64_t number) const {
    if (message.size != size_ || message.publication != publication_ ||
        message.sequence != sequence_ + number) {
        return false;
    }
    return says(message, number);
}

/// Whether its bytes are those of message `number`.
bool Reader::says(const ipcbus_message& message, std::uint64_t number) const {
    return run_.options.untouched ? check_head(message.data, size_, number, run_.salt)
                                  : check(message.data, size_, number, run_.salt);
}

/// False: it was overwritten while it was lent. It is lost, as the next receive will tell.
bool Reader::give_back() {
    const int result = ipcbus_release(handle_.get());
    if (__builtin_expect(result != 0 && result != -ESTALE, 0)) {
        member_.fail_library("release", result);
    }
    return result == 0;
}

/// Messages 0 to `count` - 1 of messages_ are the next ones, or the run has failed.
void Reader::judge(std::size_t count) {
    if (__builtin_expect(messages_[0].lost != 0, 0)) {
        note_loss();  // what a subscriber of mode latest has passed over
    }
    if (__builtin_expect(publication_ == 0 && got_ == 0, 0)) {
        publication_ = messages_[0].publication;
        sequence_ = messages_[0].sequence - lost_;
    }
    std::size_t wrong = 0;
    while (wrong < count && is_right(messages_[wrong], got_ + lost_ + wrong)) {
        ++wrong;
    }
    ipcbus_message message = messages_[wrong < count ? wrong : 0];
    if (__builtin_expect(wrong < count, 0) && run_.options.borrows()) {
        // It is explained after the release, which tells whether it counts at all.
        const auto* bytes = static_cast<const std::byte*>(message.data);
        buffer_.assign(bytes, bytes + message.size);
        message.data = buffer_.data();
    }
    if (run_.options.borrows() && !give_back()) {
        return;
    }
    got_ += wrong;
    if (__builtin_expect(wrong < count, 0)) {
        tell_wrong(message);
    }
    got_ += count - wrong;
}

/// Ends the run: `message` is not message got() + lost().
void Reader::tell_wrong(const ipcbus_message& message) {
    const std::uint64_t number = got_ + lost_;
    const std::string which = "message " + std::to_string(number);
    if (message.size != size_) {
        member_.fail(tools::kExitFailed, which + " is corrupt: it has " +
                                             std::to_string(message.size) + " bytes instead of " +
                                             std::to_string(size_));
    }
    // Which message it may be instead: what it says itself, or, too short for that, the bus.
    std::uint64_t carried = number;
    if (size_ >= kHeadBytes) {
        std::memcpy(&carried, message.data, kWord);
    } else if (message.publication == publication_) {
        carried = message.sequence - sequence_;
    }
    const bool is_another = carried != number && says(message, carried);
    if (is_another && carried > number) {
        member_.fail(tools::kExitLost, which + " was lost, and nobody told: message " +
                                           std::to_string(carried) + " came in its place");
    }
    if (is_another) {
        member_.fail(tools::kExitFailed,
                     "message " + std::to_string(carried) + " came again, as " + which);
    }
    if (!says(message, number)) {
        member_.fail(tools::kExitFailed,
                     which + " is corrupt: " + explain(message.data, size_, number, run_.salt));
    }
    if (message.publication != publication_) {
        member_.fail(tools::kExitFailed, which + " is of another publication than those before");
    }
    member_.fail(tools::kExitFailed, which + " is corrupt: its sequence is " +
                                         std::to_string(message.sequence) + " instead of " +
                                         std::to_string(sequence_ + number));
}

void Reader::note_loss() {
    lost_ = ipcbus_lost(handle_.get());
    if (run_.options.delivery == IPCBUS_RELIABLE) {
        member_.fail(tools::kExitLost, tools::plural(lost_, "message") + " from number " +
                                           std::to_string(got_) +
                                           " on were lost by a reliable subscriber");
    }
}

}  // namespace ipcbus::bench
