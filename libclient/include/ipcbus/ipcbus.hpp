// SPDX-License-Identifier: Apache-2.0
//
// ipcbus.hpp - libipcbus for C++20: owners for the handles of ipcbus.h, and nothing but inline
// calls of it. No layout, no state of its own, no C++ symbol in the library.
//
// SET-UP (connect, advertise, subscribe, making a set) throws std::system_error: its code is the
// errno of ipcbus.h's table, its text ipcbus_last_error(). THE HOT PATH (publish, receive, borrow,
// wait ...) throws nothing and allocates nothing: it returns a Status that must not be ignored, and
// fills what its last parameters refer to.
//
// OWNERSHIP. All handles are move-only. Publishers, subscribers and sets keep the connection of
// their Bus alive, so they may be destroyed in any order. A Claim must not outlive its Publisher,
// nor a Loan or a Batch its Subscriber. A handle that was moved from may be assigned or destroyed,
// nothing else.
//
// THREADS are as in ipcbus.h: one thread at a time for one handle; different handles of one Bus at
// once. TIMES are std::chrono::nanoseconds (any duration converts): ipcbus::forever, or 0ns for not
// waiting at all.
#ifndef IPCBUS_HPP
#define IPCBUS_HPP

#include <ipcbus/ipcbus.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace ipcbus {

/// Wait without a limit.
inline constexpr std::chrono::nanoseconds forever{IPCBUS_FOREVER};
/// As history: as much as there is.
inline constexpr std::uint64_t oldest = IPCBUS_OLDEST;

/// What became of a call on the hot path: ok, or one of ipcbus.h's negative errnos. Those without a
/// name here are compared with `static_cast<Status>(-ENOSPC)`.
enum class [[nodiscard]] Status : int {
    ok = 0,
    again = -EAGAIN,              ///< nothing there, or no room, and the timeout was 0
    timed_out = -ETIMEDOUT,       ///< the deadline passed first
    interrupted = -EINTR,         ///< a signal handler ran during the wait; nothing was done
    lost = -ESTALE,               ///< messages were lost, or overwritten while lent
    too_large = -EMSGSIZE,        ///< larger than a message may be, or than the buffer
    disconnected = -ESHUTDOWN,    ///< the connection is gone and was not to be made again
    would_deadlock = -EDEADLK,    ///< it would wait for the calling thread itself
    busy = -EBUSY,                ///< a claim, a loan or another handle is in the way
    forked = -ECHILD,             ///< the handle was made before a fork, in the parent
    invalid = -EINVAL,            ///< an argument is wrong
    none = -ENOENT,               ///< there is no such thing: no claim, loan, awaited reply ...
    nobody = -EHOSTUNREACH,       ///< nobody serves the topic of the request
    gone = -EPIPE,                ///< who was asked, or who asked, has gone before the answer
};

/// Whether the call did what it was asked for.
[[nodiscard]] constexpr bool ok(Status status) noexcept { return status == Status::ok; }

/// The last error of this thread in words, with the remedy where there is one. Valid until this
/// thread's next call into the library.
[[nodiscard]] inline std::string_view last_error() noexcept { return ipcbus_last_error(); }

/// A received message: payload, topic, sequence, publication, lost; see ipcbus.h for each member.
using Message = ipcbus_message;
/// A message to publish: where its bytes are.
using Buffer = ipcbus_buffer;

/// The payload of `message`. Valid for as long as the call that filled it says.
[[nodiscard]] inline std::span<const std::byte> payload(const Message& message) noexcept {
    return {static_cast<const std::byte*>(message.data), message.size};
}
/// The payload of `message` as text.
[[nodiscard]] inline std::string_view text(const Message& message) noexcept {
    return {static_cast<const char*>(message.data), message.size};
}
/// The topic of `message`.
[[nodiscard]] inline std::string_view topic(const Message& message) noexcept {
    return {message.topic, message.topic_size};
}

namespace detail {

/// Throws what a set-up call returned, with the library's text.
[[noreturn]] inline void throw_error(int result) {
    throw std::system_error(-result, std::generic_category(), ipcbus_last_error());
}

inline void check(int result) {
    if (result < 0) {
        throw_error(result);
    }
}

struct CloseBus {
    void operator()(ipcbus_bus* bus) const noexcept { ipcbus_close(bus); }
};
struct Unadvertise {
    void operator()(ipcbus_publisher* publisher) const noexcept { ipcbus_unadvertise(publisher); }
};
struct Unsubscribe {
    void operator()(ipcbus_subscriber* subscriber) const noexcept {
        ipcbus_unsubscribe(subscriber);
    }
};
struct FreeSet {
    void operator()(ipcbus_set* set) const noexcept { ipcbus_set_free(set); }
};
struct FreeRequester {
    void operator()(ipcbus_requester* requester) const noexcept {
        ipcbus_requester_free(requester);
    }
};
struct FreeResponder {
    void operator()(ipcbus_responder* responder) const noexcept {
        ipcbus_responder_free(responder);
    }
};

using SharedBus = std::shared_ptr<ipcbus_bus>;

}  // namespace detail

/// Room for one message in the ring itself, to be filled in place. Aborts in its destructor what
/// was not committed.
class Claim {
public:
    Claim() = default;
    Claim(Claim&& other) noexcept
        : publisher_(std::exchange(other.publisher_, nullptr)), room_(other.room_) {}
    Claim& operator=(Claim&& other) noexcept {
        if (this != &other) {
            abort();
            publisher_ = std::exchange(other.publisher_, nullptr);
            room_ = other.room_;
        }
        return *this;
    }
    ~Claim() { abort(); }

    /// Whether there is a claim to fill.
    explicit operator bool() const noexcept { return publisher_ != nullptr; }
    /// Where the payload goes: as many bytes as were claimed, from a 16-byte boundary.
    [[nodiscard]] std::span<std::byte> room() const noexcept { return room_; }

    /// Publishes all of room().
    Status commit() noexcept { return commit(room_.size()); }
    /// Publishes the first `size` bytes of room(). Status::invalid, and the claim is still open, if
    /// that is more than there is.
    Status commit(std::size_t size) noexcept {
        if (publisher_ == nullptr) {
            return Status::none;
        }
        const auto status = static_cast<Status>(ipcbus_commit(publisher_, size));
        if (status != Status::invalid) {
            publisher_ = nullptr;
        }
        return status;
    }
    /// Gives the room back; nothing is published. Without a claim: nothing happens.
    void abort() noexcept {
        if (publisher_ != nullptr) {
            (void)ipcbus_abort(std::exchange(publisher_, nullptr));
        }
    }

private:
    friend class Publisher;
    Claim(ipcbus_publisher* publisher, void* data, std::size_t size) noexcept
        : publisher_(publisher), room_(static_cast<std::byte*>(data), size) {}

    ipcbus_publisher* publisher_ = nullptr;  // borrowed; null: no claim
    std::span<std::byte> room_;
};

/// How a publication is made; see ipcbus.h.
struct PublisherOptions {
    /// Bytes of the ring, a power of two; 0: as configured for the topic.
    std::uint64_t ring_bytes = 0;
    /// The largest message that will be published, bytes; 0: as large as the ring allows.
    std::uint64_t message_bytes_max = 0;
    /// How long a publish may wait for slow reliable readers; 0ns: not at all (Status::again).
    std::chrono::nanoseconds max_block = forever;
};

/// The right to write a topic, or all topics under a filter. Made by Bus::advertise.
class Publisher {
public:
    Publisher(Publisher&&) noexcept = default;
    Publisher& operator=(Publisher&& other) noexcept {
        handle_ = std::move(other.handle_);  // ended before its connection may go
        bus_ = std::move(other.bus_);
        return *this;
    }

    /// Publishes one message. ok: it is in the ring, and sleeping readers have been woken.
    /// Otherwise nothing was published: again, timed_out, interrupted, too_large, would_deadlock,
    /// busy (a claim is open), invalid (the publication is under a filter), disconnected, forked.
    Status publish(std::span<const std::byte> data) noexcept {
        return static_cast<Status>(ipcbus_publish(handle_.get(), data.data(), data.size()));
    }
    /// The same for text, without a terminating zero.
    Status publish(std::string_view data) noexcept {
        return static_cast<Status>(ipcbus_publish(handle_.get(), data.data(), data.size()));
    }
    /// The same under a filter, which `topic` (zero-terminated) must match.
    Status publish_to(const char* topic, std::span<const std::byte> data) noexcept {
        return static_cast<Status>(
            ipcbus_publish_to(handle_.get(), topic, data.data(), data.size()));
    }
    Status publish_to(const char* topic, std::string_view data) noexcept {
        return static_cast<Status>(
            ipcbus_publish_to(handle_.get(), topic, data.data(), data.size()));
    }

    /// Publishes `messages` in order with one look for sleepers at the end. `published`: how many
    /// were; fewer than all of them with ok when the next one failed, whose error comes with the
    /// next call; 0 with any other status.
    Status publish_many(std::span<const Buffer> messages, std::size_t& published) noexcept {
        const std::int64_t result =
            ipcbus_publish_many(handle_.get(), messages.data(), messages.size());
        published = result < 0 ? 0 : static_cast<std::size_t>(result);
        return result < 0 ? static_cast<Status>(result) : Status::ok;
    }

    /// Lends room for a message of at most `size` bytes; `claim` (aborted first if it was open)
    /// takes it. One claim at a time. Otherwise as publish().
    Status claim(std::size_t size, Claim& claim) noexcept {
        claim.abort();
        void* data = nullptr;
        const auto status = static_cast<Status>(ipcbus_claim(handle_.get(), size, &data));
        if (ok(status)) {
            claim = Claim(handle_.get(), data, size);
        }
        return status;
    }
    /// The same under a filter, which `topic` (zero-terminated) must match.
    Status claim_to(const char* topic, std::size_t size, Claim& claim) noexcept {
        claim.abort();
        void* data = nullptr;
        const auto status =
            static_cast<Status>(ipcbus_claim_to(handle_.get(), topic, size, &data));
        if (ok(status)) {
            claim = Claim(handle_.get(), data, size);
        }
        return status;
    }

    /// Changes how long a publish may wait; 0ns: not at all.
    Status set_max_block(std::chrono::nanoseconds max_block) noexcept {
        return static_cast<Status>(ipcbus_set_max_block(handle_.get(), max_block.count()));
    }
    /// Readers attached at this moment.
    [[nodiscard]] std::uint32_t subscriber_count() const noexcept {
        return ipcbus_subscriber_count(handle_.get());
    }
    /// Waits until at least `count` readers are attached: ok, again, timed_out, interrupted,
    /// disconnected, busy (a claim is open).
    Status wait_subscribers(std::uint32_t count,
                            std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(
            ipcbus_wait_subscribers(handle_.get(), count, timeout.count()));
    }
    /// The largest message of this publication, bytes.
    [[nodiscard]] std::size_t message_bytes_max() const noexcept {
        return ipcbus_message_bytes_max(handle_.get());
    }
    /// Bytes of its ring.
    [[nodiscard]] std::uint64_t ring_bytes() const noexcept {
        return ipcbus_ring_bytes(handle_.get());
    }
    /// The handle of the C interface; still owned by this object.
    [[nodiscard]] ipcbus_publisher* handle() const noexcept { return handle_.get(); }

private:
    friend class Bus;
    Publisher(detail::SharedBus bus, ipcbus_publisher* handle) noexcept
        : bus_(std::move(bus)), handle_(handle) {}

    detail::SharedBus bus_;  // first: goes last
    std::unique_ptr<ipcbus_publisher, detail::Unadvertise> handle_;
};

/// One message where it lies in the ring, until release() or the destructor. Its publisher can
/// change the bytes at any time: validate a copy.
class Loan {
public:
    Loan() = default;
    Loan(Loan&& other) noexcept
        : subscriber_(std::exchange(other.subscriber_, nullptr)), message_(other.message_) {}
    Loan& operator=(Loan&& other) noexcept {
        if (this != &other) {
            (void)release();
            subscriber_ = std::exchange(other.subscriber_, nullptr);
            message_ = other.message_;
        }
        return *this;
    }
    ~Loan() { (void)release(); }

    /// Whether a message is lent.
    explicit operator bool() const noexcept { return subscriber_ != nullptr; }
    /// The message that is lent; after Status::lost of a borrow: its `lost` alone.
    [[nodiscard]] const Message& message() const noexcept { return message_; }
    /// Gives it back. lost: it was overwritten while it was lent, what was read is worth nothing.
    /// none: there is no loan.
    Status release() noexcept {
        if (subscriber_ == nullptr) {
            return Status::none;
        }
        return static_cast<Status>(ipcbus_release(std::exchange(subscriber_, nullptr)));
    }

private:
    friend class SubscriberView;
    ipcbus_subscriber* subscriber_ = nullptr;  // borrowed; null: nothing is lent
    Message message_{};
};

/// Several messages of one publication where they lie, until release() or the destructor; as Loan.
class Batch {
public:
    Batch() = default;
    Batch(Batch&& other) noexcept
        : subscriber_(std::exchange(other.subscriber_, nullptr)), messages_(other.messages_) {}
    Batch& operator=(Batch&& other) noexcept {
        if (this != &other) {
            (void)release();
            subscriber_ = std::exchange(other.subscriber_, nullptr);
            messages_ = other.messages_;
        }
        return *this;
    }
    ~Batch() { (void)release(); }

    /// Whether messages are lent.
    explicit operator bool() const noexcept { return subscriber_ != nullptr; }
    /// What is lent, in order: `for (const ipcbus::Message& message : batch.messages())`.
    [[nodiscard]] std::span<const Message> messages() const noexcept { return messages_; }
    /// Gives all of them back. lost: some were overwritten meanwhile, throw all of them away.
    Status release() noexcept {
        if (subscriber_ == nullptr) {
            return Status::none;
        }
        messages_ = {};
        return static_cast<Status>(ipcbus_release(std::exchange(subscriber_, nullptr)));
    }

private:
    friend class SubscriberView;
    ipcbus_subscriber* subscriber_ = nullptr;  // borrowed; null: nothing is lent
    std::span<const Message> messages_;
};

/// A subscriber that somebody else owns: what can be done with one. Set::wait tells with it which
/// subscriber has something. Copies freely; must not outlive the Subscriber.
class SubscriberView {
public:
    SubscriberView() = default;

    /// Receives one message by copying it into `buffer`; `message` tells size, topic, sequence and
    /// what was lost. too_large: message.size tells what it takes, and the message stays. lost:
    /// message.lost messages are lost and none was received; go on receiving. Or again, timed_out,
    /// interrupted, disconnected, busy (a loan is open), forked.
    Status receive(std::span<std::byte> buffer, Message& message,
                   std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(
            ipcbus_receive(handle_, buffer.data(), buffer.size(), timeout.count(), &message));
    }
    /// Lends one message in place; `loan` (released first if it was open) takes it. Otherwise as
    /// receive(); with lost, loan.message().lost tells how many.
    Status borrow(Loan& loan, std::chrono::nanoseconds timeout = forever) noexcept {
        (void)loan.release();
        const auto status =
            static_cast<Status>(ipcbus_borrow(handle_, timeout.count(), &loan.message_));
        if (ok(status)) {
            loan.subscriber_ = handle_;
        }
        return status;
    }
    /// Lends up to room.size() messages of one publication, waiting for the first alone; they are
    /// described in `room`, and `batch` (released first if it was open) holds them. Their topics
    /// are not zero-terminated. Otherwise as receive(); with lost, room[0].lost tells how many.
    Status borrow_many(std::span<Message> room, Batch& batch,
                       std::chrono::nanoseconds timeout = forever) noexcept {
        (void)batch.release();
        const std::int64_t result =
            ipcbus_borrow_many(handle_, timeout.count(), room.data(), room.size());
        if (result < 0) {
            return static_cast<Status>(result);
        }
        batch.subscriber_ = handle_;
        batch.messages_ = room.first(static_cast<std::size_t>(result));
        return Status::ok;
    }

    /// A descriptor for event loops, readable while there is something to receive or to report, and
    /// until receive() or borrow() with 0ns has answered again; see ipcbus_fd(). Throws
    /// std::system_error: EBUSY (it is in a set), EMFILE, ENOMEM, ECHILD.
    [[nodiscard]] int fd() {
        const int result = ipcbus_fd(handle_);
        detail::check(result);
        return result;
    }
    /// Queues `signal` to this process, with `value`, when the subscriber goes from empty to not
    /// empty; 0 ends it; see ipcbus_notify(). Throws std::system_error: EINVAL, EBUSY (it is in a
    /// set), EMFILE, ENOMEM, ECHILD.
    void notify(int signal, void* value = nullptr) {
        detail::check(ipcbus_notify(handle_, signal, value));
    }
    /// Messages lost so far, in all publications of the subscription.
    [[nodiscard]] std::uint64_t lost() const noexcept { return ipcbus_lost(handle_); }
    /// Publications attached right now.
    [[nodiscard]] std::uint32_t publication_count() const noexcept {
        return ipcbus_publication_count(handle_);
    }
    /// The handle of the C interface; not to be closed.
    [[nodiscard]] ipcbus_subscriber* handle() const noexcept { return handle_; }
    /// Whether both are the same subscriber.
    friend bool operator==(const SubscriberView& a, const SubscriberView& b) noexcept {
        return a.handle_ == b.handle_;
    }

protected:
    friend class Set;
    explicit SubscriberView(ipcbus_subscriber* handle) noexcept : handle_(handle) {}

    ipcbus_subscriber* handle_ = nullptr;
};

/// How a subscription is delivered; see ipcbus.h.
enum class Mode : std::uint32_t {
    reliable = IPCBUS_RELIABLE,  ///< the publisher waits for it
    lossy = IPCBUS_LOSSY,        ///< never holds a publisher; what it loses is counted
    latest = IPCBUS_LATEST,      ///< lossy, and each receive goes to the newest message
};

/// How a subscription is made; see ipcbus.h.
struct SubscriberOptions {
    Mode mode = Mode::reliable;
    /// How long a wait may spin before it sleeps: 0ns adapts, negative never spins.
    std::chrono::nanoseconds spin{0};
    /// How many earlier messages of each publication to begin with; ipcbus::oldest: all there are.
    std::uint64_t history = 0;
};

/// A filter, and what has been published under it. Made by Bus::subscribe.
class Subscriber : public SubscriberView {
public:
    Subscriber(Subscriber&& other) noexcept
        : SubscriberView(std::exchange(other.handle_, nullptr)),
          bus_(std::move(other.bus_)),
          owner_(std::move(other.owner_)) {}
    Subscriber& operator=(Subscriber&& other) noexcept {
        if (this != &other) {
            owner_ = std::move(other.owner_);  // ended before its connection may go
            bus_ = std::move(other.bus_);
            handle_ = std::exchange(other.handle_, nullptr);
        }
        return *this;
    }

private:
    friend class Bus;
    Subscriber(detail::SharedBus bus, ipcbus_subscriber* handle) noexcept
        : SubscriberView(handle), bus_(std::move(bus)), owner_(handle) {}

    detail::SharedBus bus_;  // first: goes last
    std::unique_ptr<ipcbus_subscriber, detail::Unsubscribe> owner_;
};

/// Several subscribers of one bus that one thread waits for at once. Made by Bus::make_set. Does
/// not own them: remove a subscriber before it goes.
class Set {
public:
    Set(Set&&) noexcept = default;
    Set& operator=(Set&& other) noexcept {
        handle_ = std::move(other.handle_);
        bus_ = std::move(other.bus_);
        return *this;
    }

    /// Takes `subscriber` in. Throws std::system_error: EBUSY if it is in a set already, or has a
    /// descriptor of its own.
    void add(const SubscriberView& subscriber) {
        detail::check(ipcbus_set_add(handle_.get(), subscriber.handle()));
    }
    /// Takes `subscriber` out. Throws std::system_error: ENOENT if it is not in this set.
    void remove(const SubscriberView& subscriber) {
        detail::check(ipcbus_set_remove(handle_.get(), subscriber.handle()));
    }
    /// Waits until a subscriber has something to receive or to report, and tells which in `ready`.
    /// Or again, timed_out, interrupted, disconnected, none (the set is empty).
    Status wait(SubscriberView& ready, std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(
            ipcbus_set_wait(handle_.get(), timeout.count(), &ready.handle_));
    }
    /// A descriptor for event loops, readable until wait() with 0ns has answered again; see
    /// ipcbus_fd(). Throws std::system_error: EMFILE, ENOMEM, ECHILD.
    [[nodiscard]] int fd() {
        const int result = ipcbus_set_fd(handle_.get());
        detail::check(result);
        return result;
    }
    /// The handle of the C interface; still owned by this object.
    [[nodiscard]] ipcbus_set* handle() const noexcept { return handle_.get(); }

private:
    friend class Bus;
    Set(detail::SharedBus bus, ipcbus_set* handle) noexcept
        : bus_(std::move(bus)), handle_(handle) {}

    detail::SharedBus bus_;  // first: goes last
    std::unique_ptr<ipcbus_set, detail::FreeSet> handle_;
};

/// A request that was received: payload, topic, who asks; see ipcbus.h for each member.
using Request = ipcbus_request;
/// A reply: payload, which request it answers, its status; see ipcbus.h for each member.
using Reply = ipcbus_reply;

/// The bytes of `request` or of `reply`, in the buffer that was given.
[[nodiscard]] inline std::span<const std::byte> payload(const Request& request) noexcept {
    return {static_cast<const std::byte*>(request.data), request.size};
}
[[nodiscard]] inline std::span<const std::byte> payload(const Reply& reply) noexcept {
    return {static_cast<const std::byte*>(reply.data), reply.size};
}
/// The same as text.
[[nodiscard]] inline std::string_view text(const Request& request) noexcept {
    return {static_cast<const char*>(request.data), request.size};
}
[[nodiscard]] inline std::string_view text(const Reply& reply) noexcept {
    return {static_cast<const char*>(reply.data), reply.size};
}
/// The topic of `request`.
[[nodiscard]] inline std::string_view topic(const Request& request) noexcept {
    return {request.topic, request.topic_size};
}

/// How a requester is made; see ipcbus.h.
struct RequesterOptions {
    std::uint64_t request_bytes_max = 0;  ///< the largest request; 0: 16 KiB
    std::uint64_t reply_bytes_max = 0;    ///< the largest reply; 0: 16 KiB
    /// How long a wait may spin before it sleeps: 0ns adapts, negative never spins.
    std::chrono::nanoseconds spin{0};
};

/// Asks whoever serves one topic. Made by Bus::make_requester.
class Requester {
public:
    Requester(Requester&&) noexcept = default;
    Requester& operator=(Requester&& other) noexcept {
        handle_ = std::move(other.handle_);
        bus_ = std::move(other.bus_);
        return *this;
    }

    /// Asks one responder and waits for its reply, which goes to `buffer`; `reply` tells the rest.
    /// nobody: known at once, nothing was sent. gone: the responder has ended before it answered.
    /// too_large: the request (nothing was sent), or the reply: then it stays, for next_reply. Or
    /// again, timed_out, interrupted, lost, busy (replies to ask() are awaited), would_deadlock
    /// (only this very thread serves), disconnected; or -EDQUOT and so on: see ipcbus.h.
    Status call(std::span<const std::byte> request, std::span<std::byte> buffer, Reply& reply,
                std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(ipcbus_call(handle_.get(), request.data(), request.size(),
                                               buffer.data(), buffer.size(), timeout.count(),
                                               &reply));
    }
    Status call(std::string_view request, std::span<std::byte> buffer, Reply& reply,
                std::chrono::nanoseconds timeout = forever) noexcept {
        return call(std::as_bytes(std::span(request)), buffer, reply, timeout);
    }
    /// Asks one responder and returns; `number` is that of the request. `timeout` is for room.
    /// nobody, again, timed_out, interrupted, too_large, would_deadlock, disconnected.
    Status ask(std::span<const std::byte> request, std::uint64_t& number,
               std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(ipcbus_ask(handle_.get(), request.data(), request.size(), 0,
                                              timeout.count(), &number));
    }
    Status ask(std::string_view request, std::uint64_t& number,
               std::chrono::nanoseconds timeout = forever) noexcept {
        return ask(std::as_bytes(std::span(request)), number, timeout);
    }
    /// The same of everyone who serves the topic at this moment.
    Status ask_all(std::span<const std::byte> request, std::uint64_t& number,
                   std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(ipcbus_ask(handle_.get(), request.data(), request.size(),
                                              IPCBUS_ASK_ALL, timeout.count(), &number));
    }
    Status ask_all(std::string_view request, std::uint64_t& number,
                   std::chrono::nanoseconds timeout = forever) noexcept {
        return ask_all(std::as_bytes(std::span(request)), number, timeout);
    }
    /// Takes the next reply to any request. none: all have been answered. gone: reply.request will
    /// not be. too_large: reply.size tells what it takes, and the reply stays. lost: reply.lost
    /// were. Or again, timed_out, interrupted, disconnected.
    Status next_reply(std::span<std::byte> buffer, Reply& reply,
                      std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(ipcbus_next_reply(handle_.get(), buffer.data(), buffer.size(),
                                                     timeout.count(), &reply));
    }
    /// Replies to that request are awaited no more. none: there are none.
    Status abandon(std::uint64_t number) noexcept {
        return static_cast<Status>(ipcbus_abandon(handle_.get(), number));
    }

    /// Who serves the topic at this moment.
    [[nodiscard]] std::uint32_t responder_count() const noexcept {
        return ipcbus_responder_count(handle_.get());
    }
    /// Waits until at least `count` serve it: again, timed_out, interrupted, disconnected.
    Status wait_responders(std::uint32_t count,
                           std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(
            ipcbus_wait_responders(handle_.get(), count, timeout.count()));
    }
    /// The largest request, bytes.
    [[nodiscard]] std::size_t request_bytes_max() const noexcept {
        return ipcbus_request_bytes_max(handle_.get());
    }
    /// The handle of the C interface; still owned by this object.
    [[nodiscard]] ipcbus_requester* handle() const noexcept { return handle_.get(); }

private:
    friend class Bus;
    Requester(detail::SharedBus bus, ipcbus_requester* handle) noexcept
        : bus_(std::move(bus)), handle_(handle) {}

    detail::SharedBus bus_;  // first: goes last
    std::unique_ptr<ipcbus_requester, detail::FreeRequester> handle_;
};

/// How a responder is made; see ipcbus.h.
struct ResponderOptions {
    /// How long a reply may wait for a requester that does not take its replies.
    std::chrono::nanoseconds max_block = std::chrono::seconds(1);
    /// How long a wait may spin before it sleeps: 0ns adapts, negative never spins.
    std::chrono::nanoseconds spin{0};
};

/// Serves the topics under a filter. Made by Bus::serve. Its end fails what is not answered.
class Responder {
public:
    Responder(Responder&&) noexcept = default;
    Responder& operator=(Responder&& other) noexcept {
        handle_ = std::move(other.handle_);
        bus_ = std::move(other.bus_);
        return *this;
    }

    /// Gets the next request, copied into `buffer`; `request` tells the rest, and is what to
    /// respond() to. too_large: request.size tells what it takes, and the request stays. Or again,
    /// timed_out, interrupted, disconnected.
    Status next_request(std::span<std::byte> buffer, Request& request,
                        std::chrono::nanoseconds timeout = forever) noexcept {
        return static_cast<Status>(ipcbus_next_request(handle_.get(), buffer.data(), buffer.size(),
                                                       timeout.count(), &request));
    }
    /// Answers `request`; with `more` another answer to it follows. gone: the requester has.
    /// too_large: more than it takes. timed_out, again: it does not take its replies.
    Status respond(const Request& request, std::span<const std::byte> reply,
                   std::uint32_t status = 0, bool more = false) noexcept {
        return static_cast<Status>(ipcbus_respond(handle_.get(), &request, reply.data(),
                                                  reply.size(), status,
                                                  more ? IPCBUS_REPLY_MORE : 0));
    }
    Status respond(const Request& request, std::string_view reply, std::uint32_t status = 0,
                   bool more = false) noexcept {
        return respond(request, std::as_bytes(std::span(reply)), status, more);
    }

    /// Who may ask at this moment.
    [[nodiscard]] std::uint32_t requester_count() const noexcept {
        return ipcbus_requester_count(handle_.get());
    }
    /// The handle of the C interface; still owned by this object.
    [[nodiscard]] ipcbus_responder* handle() const noexcept { return handle_.get(); }

private:
    friend class Bus;
    Responder(detail::SharedBus bus, ipcbus_responder* handle) noexcept
        : bus_(std::move(bus)), handle_(handle) {}

    detail::SharedBus bus_;  // first: goes last
    std::unique_ptr<ipcbus_responder, detail::FreeResponder> handle_;
};

/// How a connection is made; see ipcbus.h.
struct ConnectOptions {
    /// "unix:/path", "tls:host:port", "tcp:host:port"; empty: $IPCBUS_ADDRESS, or where the bus
    /// usually is.
    std::string address;
    /// What the client calls itself, at most 64 bytes; empty: the name of the program.
    std::string name;
    /// How long to try; 0ns: once.
    std::chrono::nanoseconds timeout{0};
    /// Whether a lost connection is to be made again; otherwise calls answer disconnected.
    bool reconnect = true;
    /// For "tls:"; empty: as the environment says, see ipcbus.h.
    std::string ca_file = {};
    std::string certificate_file = {};
    std::string key_file = {};
    std::string server_name = {};
};

/// Whether the daemon is there.
enum class State : int {
    connected = IPCBUS_CONNECTED,
    orphaned = IPCBUS_ORPHANED,  ///< the daemon is away: rings go on between those attached
    closed = IPCBUS_CLOSED,      ///< lost for good: it was not to be made again
};

/// This process's connection to one bus.
class Bus {
public:
    /// Connects. Throws std::system_error: ECONNREFUSED, EACCES, ETIMEDOUT, EINTR,
    /// EPROTONOSUPPORT, EDQUOT, ENOSPC, EMFILE, ENOMEM, EINVAL, ENAMETOOLONG.
    explicit Bus(const ConnectOptions& options = {}) {
        ipcbus_connect_options c{};
        c.struct_size = sizeof c;
        const auto text = [](const std::string& given) {
            return given.empty() ? nullptr : given.c_str();
        };
        c.address = text(options.address);
        c.name = text(options.name);
        c.ca_file = text(options.ca_file);
        c.certificate_file = text(options.certificate_file);
        c.key_file = text(options.key_file);
        c.server_name = text(options.server_name);
        c.timeout_ns = options.timeout.count();
        c.flags = options.reconnect ? 0 : IPCBUS_NO_RECONNECT;
        ipcbus_bus* bus = nullptr;
        detail::check(ipcbus_connect(&c, &bus));
        bus_ = detail::SharedBus(bus, detail::CloseBus{});
    }
    Bus(Bus&&) noexcept = default;
    Bus& operator=(Bus&&) noexcept = default;

    /// Makes a publication of `topic`; with wildcards one of any topic under it (publish_to). When
    /// it returns, everyone subscribed is attached. Throws std::system_error: EINVAL, EDQUOT,
    /// ENOSPC, EMFILE, EACCES, ESHUTDOWN.
    [[nodiscard]] Publisher advertise(const char* topic, const PublisherOptions& options = {}) {
        ipcbus_publisher_options c{};
        c.struct_size = sizeof c;
        c.ring_bytes = options.ring_bytes;
        c.message_bytes_max = options.message_bytes_max;
        c.max_block_ns = options.max_block.count();  // 0 means for ever there: see below
        ipcbus_publisher* handle = nullptr;
        detail::check(ipcbus_advertise(bus_.get(), topic, &c, &handle));
        Publisher publisher(bus_, handle);
        if (options.max_block.count() == 0) {
            detail::check(ipcbus_set_max_block(handle, 0));
        }
        return publisher;
    }
    [[nodiscard]] Publisher advertise(const std::string& topic,
                                      const PublisherOptions& options = {}) {
        return advertise(topic.c_str(), options);
    }

    /// Subscribes to every topic that `filter` matches, now and later. When it returns, no message
    /// published afterwards is missed. Throws std::system_error: EINVAL, EDQUOT, EMFILE, EACCES,
    /// ESHUTDOWN; with a history, EPROTONOSUPPORT, ETIMEDOUT.
    [[nodiscard]] Subscriber subscribe(const char* filter, const SubscriberOptions& options = {}) {
        ipcbus_subscriber_options c{};
        c.struct_size = sizeof c;
        c.mode = static_cast<std::uint32_t>(options.mode);
        c.spin_ns = options.spin.count();
        c.history = options.history;
        ipcbus_subscriber* handle = nullptr;
        detail::check(ipcbus_subscribe(bus_.get(), filter, &c, &handle));
        return Subscriber(bus_, handle);
    }
    [[nodiscard]] Subscriber subscribe(const std::string& filter,
                                       const SubscriberOptions& options = {}) {
        return subscribe(filter.c_str(), options);
    }

    /// Makes an empty set. Throws std::system_error: EDQUOT, ENOMEM.
    [[nodiscard]] Set make_set() {
        ipcbus_set* handle = nullptr;
        detail::check(ipcbus_set_create(bus_.get(), &handle));
        return Set(bus_, handle);
    }

    /// Makes a requester for `topic`. When it returns, everyone who serves it can be asked. Throws
    /// std::system_error: EINVAL, EMSGSIZE, EDQUOT, ENOSPC, EMFILE, EACCES, EPROTONOSUPPORT,
    /// ESHUTDOWN.
    [[nodiscard]] Requester make_requester(const char* topic,
                                           const RequesterOptions& options = {}) {
        ipcbus_requester_options c{};
        c.struct_size = sizeof c;
        c.request_bytes_max = options.request_bytes_max;
        c.reply_bytes_max = options.reply_bytes_max;
        c.spin_ns = options.spin.count();
        ipcbus_requester* handle = nullptr;
        detail::check(ipcbus_requester_create(bus_.get(), topic, &c, &handle));
        return Requester(bus_, handle);
    }
    [[nodiscard]] Requester make_requester(const std::string& topic,
                                           const RequesterOptions& options = {}) {
        return make_requester(topic.c_str(), options);
    }

    /// Serves every topic that `filter` matches, now and later. When it returns, requests come.
    /// Throws std::system_error: EINVAL, EDQUOT, EMFILE, EACCES, EPROTONOSUPPORT, ESHUTDOWN.
    [[nodiscard]] Responder serve(const char* filter, const ResponderOptions& options = {}) {
        ipcbus_responder_options c{};
        c.struct_size = sizeof c;
        c.max_block_ns = options.max_block.count() == 0 ? 1 : options.max_block.count();
        c.spin_ns = options.spin.count();
        ipcbus_responder* handle = nullptr;
        detail::check(ipcbus_serve(bus_.get(), filter, &c, &handle));
        return Responder(bus_, handle);
    }
    [[nodiscard]] Responder serve(const std::string& filter,
                                  const ResponderOptions& options = {}) {
        return serve(filter.c_str(), options);
    }

    /// Whether the daemon is there; tries to connect again when it is not. Waits for a second at
    /// most, and only if a daemon has come and does not answer. Any thread.
    [[nodiscard]] State state() noexcept { return static_cast<State>(ipcbus_state(bus_.get())); }
    /// How often the connection was made again. Any thread.
    [[nodiscard]] std::uint64_t reconnects() const noexcept {
        return ipcbus_reconnects(bus_.get());
    }
    /// The handle of the C interface; still owned by this object.
    [[nodiscard]] ipcbus_bus* handle() const noexcept { return bus_.get(); }

private:
    detail::SharedBus bus_;
};

}  // namespace ipcbus

#endif
