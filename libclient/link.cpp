// SPDX-License-Identifier: Apache-2.0
// One connection to one daemon. See link.hpp.
#include "link.hpp"

#include "sys/address.hpp"
#include "sys/fd_passing.hpp"
#include "sys/room.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>

namespace ipcbus::client {

using protocol::FrameHeader;
using protocol::FrameReader;
using protocol::FrameType;
using sys::fail;
using sys::Result;

namespace {

/// How long to wait before a daemon that hung up on us is tried again.
constexpr long kTryAgainNs = 5'000'000;
/// How long what was published may take to reach a daemon on another host, once nobody publishes.
constexpr i64 kLastMessagesNs = 10'000'000'000;

template <class T>
T* words_at(const sys::Mapping& page, u64 offset) {
    return reinterpret_cast<T*>(page.data() + offset);
}

bool is_before(const sys::Ref<PeerPages>& pages, u64 client) { return pages->client() < client; }

}  // namespace

// --------------------------------------------------------------------------------------- Link

sys::Error refusal(const protocol::ErrorFrame& frame) {
    constexpr u32 kErrnoMax = 4095;
    if (frame.code == 0 || frame.code > kErrnoMax) {
        return fail(EPROTO, "the daemon refuses with a code that is none: " + frame.text);
    }
    return fail(static_cast<int>(frame.code), frame.text);
}

Link::Link() = default;

Link::~Link() {
    // Whoever has inherited the socket keeps it open: the daemon is told all the same.
    (void)::shutdown(socket_.get(), SHUT_RDWR);
    if (bridge_ && bridge_->in_child()) {
        (void)new std::shared_ptr<Bridge>(std::move(bridge_));  // its threads are the parent's
    } else if (bridge_) {
        bridge_->wait_end(kLastMessagesNs);
    }
}

u64 Link::next_request() {
    static std::atomic<u64> last{0};
    return last.fetch_add(1, std::memory_order_relaxed) + 1;  // relaxed: only has to be unique
}

Result<std::shared_ptr<Link>> Link::open(const std::string& path, const std::string& name,
                                         const sys::Deadline& connect, i64 answer_timeout_ns) {
    for (bool again = true;; again = false) {
        std::shared_ptr<Link> link(new Link);
        const i64 left_ns = connect.never() ? -1 : connect.remaining_ns();
        link->socket_.reset(IPCBUS_TRY(sys::connect_unix(path, left_ns)));
        Result<void> greeted = link->greet(name, answer_timeout_ns);
        if (greeted.ok()) {
            return link;
        }
        // A daemon that was just killed accepts for a moment and hangs up: wait for the next one.
        // Once more in any case: the next one may be a socket's that systemd holds.
        if (greeted.error().code != ECONNREFUSED || (connect.passed() && !again)) {
            return std::move(greeted.error());
        }
        const timespec pause{0, kTryAgainNs};
        (void)::nanosleep(&pause, nullptr);
    }
}

Result<std::shared_ptr<Link>> Link::open(std::shared_ptr<Bridge> bridge, const std::string& name,
                                         i64 answer_timeout_ns) {
    std::shared_ptr<Link> link(new Link);
    link->socket_.reset(bridge->take_socket());
    link->bridge_ = std::move(bridge);
    IPCBUS_TRY(link->greet(name, answer_timeout_ns));
    return link;
}

Result<void> Link::greet(const std::string& name, i64 answer_timeout_ns) {
    protocol::Hello hello;
    hello.name = name;
    send(hello, next_request());
    const sys::Deadline deadline = sys::Deadline::after(answer_timeout_ns);
    for (;;) {
        const bool there = read_available();
        FrameHeader header;
        std::span<const std::byte> fields;
        const FrameReader::Status status = next(header, fields);
        if (status == FrameReader::Status::frame && header.type == FrameType::error) {
            protocol::ErrorFrame error;
            if (!protocol::decode(fields, error)) {
                return fail(EPROTO, "the daemon's refusal is malformed");
            }
            return refusal(error);
        }
        if (status == FrameReader::Status::frame) {
            if (header.type != FrameType::welcome || !protocol::decode(fields, welcome_) ||
                !welcome_.geometry.valid()) {
                return fail(EPROTO, "the daemon does not answer as ipcbusd does");
            }
            return map_pages();
        }
        if (status == FrameReader::Status::malformed || !there) {
            if (there) {
                return fail(EPROTO, "the daemon does not answer as ipcbusd does");
            }
            return fail(
                why_.code != 0 ? why_.code : ECONNREFUSED,
                why_.code != 0 ? why_.what : "the daemon closed the connection before it answered");
        }
        pollfd wait{socket_.get(), POLLIN, 0};
        const i64 left_ns = deadline.remaining_ns();
        if (left_ns == 0) {
            return fail(ETIMEDOUT, "the daemon does not answer");
        }
        (void)::poll(&wait, 1, static_cast<int>(left_ns / 1'000'000) + 1);
    }
}

Result<void> Link::map_pages() {
    const protocol::Geometry& geometry = welcome_.geometry;
    const sys::UniqueFd cursor = take_fd();
    const sys::UniqueFd doorbell = take_fd();
    const sys::UniqueFd mailbox = take_fd();
    cursor_ = IPCBUS_TRY(sys::map_shared(cursor.get(), 0, protocol::cursor_bytes(geometry),
                                         sys::Access::read_write));
    doorbell_ = IPCBUS_TRY(sys::map_shared(doorbell.get(), 0, protocol::doorbell_bytes(geometry),
                                           sys::Access::read_write));
    mailbox_ = IPCBUS_TRY(sys::map_shared(mailbox.get(), 0, protocol::mailbox_bytes(geometry),
                                          sys::Access::read_write));
    waiters_.assign(geometry.waiters_max, false);
    acknowledge_fds();
    send(protocol::Mapped{}, next_request());
    return {};
}

protocol::DoorbellWaiter& Link::waiter(u32 number) const {
    return *words_at<protocol::DoorbellWaiter>(doorbell_, protocol::waiter_offset(number));
}
std::atomic<u32>& Link::asleep(u32 number) const {
    return *words_at<std::atomic<u32>>(cursor_, protocol::asleep_offset(welcome_.geometry, number));
}
protocol::CursorSlot& Link::slot(u32 number) const {
    return *words_at<protocol::CursorSlot>(cursor_, protocol::slot_offset(number));
}
protocol::DoorbellPublication& Link::publication(u32 index) const {
    return *words_at<protocol::DoorbellPublication>(
        doorbell_, protocol::sleepers_offset(welcome_.geometry, index));
}
protocol::MailboxPublication& Link::mailbox(u32 index) const {
    return *words_at<protocol::MailboxPublication>(mailbox_, protocol::attention_offset(index));
}
const std::atomic<u64>& Link::frames() const {
    return words_at<protocol::MailboxHeader>(mailbox_, 0)->frames;
}

Result<u32> Link::take_waiter() {
    for (u32 number = first_free_; number < waiters_.size(); number++) {
        if (!waiters_[number]) {
            waiters_[number] = true;
            first_free_ = number + 1;
            auto& used = words_at<protocol::CursorHeader>(cursor_, 0)->waiters_used;
            // relaxed: only this client stores it; the daemon needs it before it sees `asleep`
            // odd, which is stored later, with release.
            if (used.load(std::memory_order_relaxed) <= number) {
                used.store(number + 1, std::memory_order_relaxed);
            }
            return number;
        }
    }
    return fail(EMFILE, "no waiter is left for another subscription, set or publication (" +
                            std::to_string(waiters_.size()) +
                            " of limits.waiters_per_client in use)");
}

void Link::give_waiter(u32 number) {
    IPCBUS_ASSERT(number < waiters_.size() && waiters_[number]);
    waiters_[number] = false;
    first_free_ = std::min(first_free_, number);
}

bool Link::read_available() {
    std::array<std::byte, protocol::kFrameBytesMax> bytes;
    std::vector<sys::UniqueFd> fds;
    while (!hung_up_) {
        Result<std::size_t> got = sys::receive_with_fds(socket_.get(), bytes, fds, true);
        for (sys::UniqueFd& fd : fds) {
            fds_.push_back(std::move(fd));
        }
        fds.clear();
        if (!got.ok()) {
            if (got.error().code == EINTR) {
                continue;
            }
            if (got.error().code == EAGAIN || got.error().code == EWOULDBLOCK) {
                return true;
            }
            give_up(got.error().code == ECONNRESET ? 0 : got.error().code, got.error().what);
        } else if (got.value() == 0) {
            give_up(0, "the daemon closed the connection");
        } else {
            frame_reader_.add(std::span(bytes).first(got.value()));
            if (got.value() < bytes.size() && fds_.empty()) {
                return true;
            }
        }
    }
    return false;
}

FrameReader::Status Link::next(FrameHeader& ret_header, std::span<const std::byte>& ret_fields) {
    return frame_reader_.next(ret_header, ret_fields);
}

sys::UniqueFd Link::take_fd() {
    if (fds_.empty()) {
        return {};
    }
    sys::UniqueFd fd = std::move(fds_.front());
    fds_.pop_front();
    fds_taken_++;
    return fd;
}

void Link::acknowledge_fds() {
    if (fds_taken_ != 0) {
        send(protocol::Received{fds_taken_}, next_request());
        fds_taken_ = 0;
    }
}

void Link::give_up(int code, std::string why) {
    if (!hung_up_) {
        hung_up_ = true;
        why_ = fail(code, std::move(why));
        // The daemon must see the end, too, when it was we who ended it.
        (void)::shutdown(socket_.get(), SHUT_RDWR);
    }
}

void Link::send_bytes() try {
    std::span<const std::byte> rest = out_;
    while (!hung_up_ && !rest.empty()) {
        Result<std::size_t> sent = sys::send_with_fds(socket_.get(), rest, {});
        if (sent.ok()) {
            rest = rest.subspan(sent.value());
        } else if (sent.error().code == EAGAIN || sent.error().code == EWOULDBLOCK) {
            pollfd wait{socket_.get(), POLLOUT, 0};
            (void)::poll(&wait, 1, -1);
        } else if (sent.error().code != EINTR) {
            // What the daemon said before it closed is still there to be read.
            (void)read_available();
            give_up(0, sent.error().what);
        }
    }
} catch (const std::bad_alloc&) {
    // Half a frame may have been sent, and the next one must not be taken for its other half.
    give_up(ENOMEM, "out of memory");
}

sys::Ref<PeerPages> Link::peer(u64 client) const {
    const auto place = std::lower_bound(peers_.begin(), peers_.end(), client, is_before);
    return place != peers_.end() && (*place)->client() == client ? *place : sys::Ref<PeerPages>();
}

void Link::add_peer(const protocol::Peer& frame) {
    auto place = std::lower_bound(peers_.begin(), peers_.end(), frame.client, is_before);
    if (place == peers_.end() || (*place)->client() != frame.client) {
        const auto index = place - peers_.begin();
        sys::make_room(peers_);
        place = peers_.insert(peers_.begin() + index,
                              sys::Ref<PeerPages>(new PeerPages(frame.client, frame.geometry)));
    }
    const sys::UniqueFd cursor =
        (frame.pages & protocol::kPeerCursor) != 0 ? take_fd() : sys::UniqueFd();
    const sys::UniqueFd doorbell =
        (frame.pages & protocol::kPeerDoorbell) != 0 ? take_fd() : sys::UniqueFd();
    if (const Result<void> mapped = (*place)->map(cursor.get(), doorbell.get()); !mapped.ok()) {
        // Without its pages no attachment with that peer can work: each will say so.
        peers_.erase(place);
    }
}

void Link::drop_peer(u64 client) {
    const auto place = std::lower_bound(peers_.begin(), peers_.end(), client, is_before);
    if (place != peers_.end() && (*place)->client() == client) {
        peers_.erase(place);
        sys::give_back_room(peers_);
    }
}

}  // namespace ipcbus::client
