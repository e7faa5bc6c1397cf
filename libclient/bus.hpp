// SPDX-License-Identifier: Apache-2.0
// Bus: this process's client of one bus. Owns the Link to the daemon, sends requests, reads frames
// and hands each to the publisher or subscriber that it concerns; makes the connection again when
// it is lost. There is no thread of its own: whichever thread of the program is in the library
// reads the socket, under the control lock, for all. The lock is never held while waiting for a
// particular frame: one thread polls without it (the reader of the moment), the others wait to be
// told. Any thread; handles have their own rules.
#pragma once

#include "credentials.hpp"
#include "link.hpp"
#include "protocol/waiter.hpp"
#include "sys/address.hpp"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

namespace ipcbus::client {

class Publisher;
class Subscriber;
struct Attached;

/// What the control side gives a handle from whichever thread read it. Implemented by publishers
/// and subscribers; called under the control lock, on any thread: stores, and returns.
class FrameSink {
public:
    /// The frame is about this handle. Takes from `link` the descriptors that belong to it.
    virtual void frame(Link& link, const protocol::FrameHeader& header,
                       std::span<const std::byte> fields) = 0;
    /// The bell and asleep word of the handle's waiter, to be rung when something was stored.
    virtual void wake() = 0;

protected:
    ~FrameSink() = default;
};

/// An answer: the frame of type welcome .. attached that came back, or the refusal.
struct Answer {
    protocol::FrameType type{};
    std::vector<std::byte> fields;
    sys::UniqueFd fd;
};

struct BusOptions {
    std::string address;  ///< empty: the default
    std::string name;
    i64 timeout_ns = 0;
    bool reconnect = true;
    TlsOptions tls = {};
};

class Bus {
    /// A request on its way; known to the bus for as long as it lives, under the lock.
    struct Pending {
        Pending(Bus& bus, u64 number) : bus_(bus), number_(number) {
            bus_.pending_.emplace(number_, this);
        }
        ~Pending() { bus_.pending_.erase(number_); }
        Pending(const Pending&) = delete;
        Pending& operator=(const Pending&) = delete;

        [[nodiscard]] u64 number() const { return number_; }

        bool done = false;
        FrameSink* sink = nullptr;
        Answer answer;

    private:
        Bus& bus_;
        u64 number_;
    };

public:
    /// A daemon that has not answered by then is treated as one that is gone (making a ring of 1
    /// GiB takes it a quarter of a second); how often whoever waits for it looks around.
    static constexpr i64 kAnswerTimeoutNs = 10'000'000'000;
    static constexpr i64 kAnswerSliceNs = 100'000'000;

    using Lock = std::unique_lock<std::mutex>;
    enum class State { connected, orphaned, closed };

    [[nodiscard]] static sys::Result<std::unique_ptr<Bus>> connect(const BusOptions& options);
    Bus(const Bus&) = delete;
    Bus& operator=(const Bus&) = delete;

    [[nodiscard]] bool in_child() const { return fork_.in_child(); }
    [[nodiscard]] State state();
    /// Grows by one with each new connection; 1 for the first. Handles compare it with their own.
    [[nodiscard]] u64 generation() const {
        // acquire: link() of that generation. Pairs with the store in open_link().
        return generation_.load(std::memory_order_acquire);
    }
    /// The connection is lost, and is not to be made again.
    [[nodiscard]] bool closed() const { return !options_.reconnect && lost(); }
    /// That it is lost and, as far as it is known, why: what the daemon said last, or the system.
    [[nodiscard]] std::string why_lost(const Lock&) const;
    [[nodiscard]] std::string why_lost() { return why_lost(lock()); }
    /// acquire: pairs with the stores in open_link() and note_hang_up().
    [[nodiscard]] bool lost() const { return lost_.load(std::memory_order_acquire); }

    [[nodiscard]] Lock lock() { return Lock(mutex_); }
    /// The present link. Under the lock.
    [[nodiscard]] std::shared_ptr<Link> link(const Lock&) const { return link_; }

    /// Sends a request on `link` and waits for its answer. `sink`, if given, is the handle that
    /// ADVERTISED or SUBSCRIBED makes known before any later frame is handed out. Errors: the
    /// daemon's refusal; ESHUTDOWN when that connection is lost.
    template <class Frame>
    [[nodiscard]] sys::Result<Answer> request(const std::shared_ptr<Link>& link, const Frame& frame,
                                              FrameSink* sink = nullptr) {
        Lock guard = lock();
        if (link != link_ || lost()) {
            return sys::fail(ESHUTDOWN, why_lost(guard));
        }
        Pending pending(*this, Link::next_request());
        pending.sink = sink;
        link->send(frame, pending.number());
        return await(guard, link, pending);
    }

    /// For who has no memory to wait for an answer: sends the request, if that connection is still
    /// there, and does not want to know.
    template <class Frame>
    void request_unheard(const std::shared_ptr<Link>& link, const Frame& frame) noexcept {
        try {
            const Lock guard = lock();
            if (link == link_ && !lost()) {
                link->send(frame, Link::next_request());
            }
        } catch (const std::exception&) {
            // Nor to send it, which a link has as soon as it has sent a frame so large: the daemon
            // learns it when the connection ends.
        }
    }

    /// Reads and hands out what is there, without waiting. Cheap when nothing is. Notices a
    /// hang-up.
    void hear();
    /// Waits for frames (any), then hands them out; under the lock, which it gives up meanwhile.
    /// False: the connection that was `link` is lost.
    bool wait_for_frames(Lock& guard, const std::shared_ptr<Link>& link, i64 timeout_ns);

    /// When the connection is lost: makes it again, at most ten times a second. True if there is a
    /// connection now.
    bool reconnect();
    /// Same, but tells why not.
    [[nodiscard]] sys::Result<void> require_connection();

    // Who gets frames about what. Under the lock.
    void forget(FrameSink* sink, const Lock&);
    /// One that was granted on that link, and is given up while its sink goes on.
    void forget_publication(u64 publication, const Link& link, const Lock&);
    void route_attachment(Attached& attached);
    void unroute_attachment(const Attached& attached);
    /// Who reads an attachment of that link; it need not be the present one.
    [[nodiscard]] FrameSink* reader_of(const Link& link, u64 attachment, const Lock&) const;

    /// Handles made from this bus, closed with it.
    void adopt(const void* handle, std::function<void()> close);
    void disown(const void* handle);
    void close_handles();

private:
    explicit Bus(BusOptions options) : options_(std::move(options)) {}
    sys::Result<Answer> await(Lock& guard, const std::shared_ptr<Link>& link, Pending& pending);
    void read_frames(const Lock&, Link& link);
    void dispatch(const Lock&);
    void take_frames(const Lock&);
    void dispatch_frame(const Lock& guard, const protocol::FrameHeader& header,
                        std::span<const std::byte> fields);
    void answer(const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void hand_over(std::unordered_map<u64, FrameSink*>& sinks, u64 id,
                   const protocol::FrameHeader& header, std::span<const std::byte> fields);
    void note_hang_up();
    sys::Result<void> open_link(i64 connect_timeout_ns, i64 answer_timeout_ns);
    sys::Result<std::shared_ptr<Link>> open_bridged(i64 connect_timeout_ns, i64 answer_timeout_ns);

    BusOptions options_;
    sys::Address where_;  ///< of the first connection: a later one is never to another bus
    std::shared_ptr<Bridge> dialled_;  ///< to another host: on its way, or ready
    sys::WipeOnFork fork_;

    std::mutex mutex_;
    std::condition_variable read_;  ///< frames have been read, or the link was lost
    bool reader_busy_ = false;      ///< a thread polls the socket without the lock
    std::shared_ptr<Link> link_;
    std::atomic<u64> generation_{0};
    std::atomic<bool> lost_{false};
    i64 next_try_ns_ = 0;

    std::map<u64, Pending*> pending_;
    std::unordered_map<u64, FrameSink*> publications_;
    std::unordered_map<u64, FrameSink*> subscriptions_;
    std::vector<Attached*> attachments_;  ///< of all links; sorted by id
    std::string session_error_;

    std::mutex handles_mutex_;
    std::map<const void*, std::function<void()>> handles_;
};

}  // namespace ipcbus::client
