// SPDX-License-Identifier: Apache-2.0
// The life of a remote client's connection. See remote_session.hpp.
#include "remote_session.hpp"

#include "log.hpp"
#include "remote_hub.hpp"
#include "remote_streams.hpp"
#include "sys/clock.hpp"
#include "sys/tcp.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

namespace ipcbus::daemon {

namespace {

/// How long what is in the queue at the end may take to be sent.
constexpr std::int64_t kLastWordsNs = 500'000'000;
/// Two sockets more than a local client, and what is on its way out.
constexpr Amounts kRemoteCost{.descriptors = 2, .ring_bytes = 192 * 1024};
/// Its pages, and what an Alarm's thread has: a stack with a guard.
constexpr std::uint64_t kOwnMappings = 3;
constexpr std::uint64_t kAlarmMappings = 2;

}  // namespace

RemoteSession::RemoteSession(RemoteHub& hub, EventLoop& loop, sys::UniqueFd tcp, std::string name,
                             std::unique_ptr<sys::TlsStream> tls)
    : hub_(hub),
      loop_(loop),
      name_(std::move(name)),
      tcp_(std::move(tcp)),
      tls_(std::move(tls)),
      scope_(loop),
      recv_(
          scope_, [this](std::span<const std::byte> bytes) { received(bytes); },
          [this](int error) { receive_ended(error); }),
      send_(scope_, [this](int error) { sent(error); }),
      bus_send_(scope_, [this](int error) { told_bus(error); }),
      bus_poll_(scope_, [this](int error) { bus_ready(error); }),
      bell_(scope_, [this] { rung(); }),
      bell_poll_(scope_, [this](int) { rung(); }),
      timer_(scope_, [this] { time_is_over(); }) {}

RemoteSession::~RemoteSession() = default;

std::string RemoteSession::describe() const {
    return logged_in_ || certified_ ? fmt::format("remote {} ('{}')", name_, identity_)
                                    : fmt::format("remote {}", name_);
}

/// The kind belongs to it: a token that is named like a certificate's subject is not that client.
uid_t RemoteSession::uid() const {
    const char* const kind = certified_ ? "subject:" : logged_in_ ? "token:" : "host:";
    return RemoteHub::uid_of(kind + identity_);
}

void RemoteSession::start(std::string identity, Charge charge) {
    identity_ = std::move(identity);
    charge_ = std::move(charge);
    if (auto set = sys::set_tcp_options(
            tcp_.get(), static_cast<std::int64_t>(hub_.config().dead_peer_timeout_ns));
        !set.ok()) {
        log_debug("{}: {}", describe(), set.error().what);
    }
    recv_.start(tcp_.get(), RecvBuffers::bulk);
    timer_.start(static_cast<std::int64_t>(hub_.config().handshake_timeout_ns));
}

// ------------------------------------------------------------------------------------ the remote

void RemoteSession::received(std::span<const std::byte> bytes) {
    if (state_ == State::closing || state_ == State::draining || state_ == State::gone) {
        return;
    }
    if (tls_) {
        received_sealed(bytes);
    } else {
        received_plain(bytes);
    }
    if (bus_queue_.size() > kQueueBytesMax) {
        recv_.cancel();  // the bus is slow to hear; the socket holds the rest back
    }
}

void RemoteSession::received_plain(std::span<const std::byte> bytes) {
    remote_frames_.lend(bytes);
    take_remote_frames();
    remote_frames_.keep();
}

/// What it says comes first, then what is wrong with how it says it.
void RemoteSession::received_sealed(std::span<const std::byte> bytes) {
    const bool was_ready = tls_->ready();
    std::vector<std::byte> plain;
    const sys::Result<void> fed = tls_->feed(bytes, plain);
    if (!was_ready && tls_->ready() && !tls_->peer().empty()) {
        identity_ = tls_->peer();
        certified_ = true;
    }
    if (!plain.empty()) {
        received_plain(plain);
    }
    if (tls_->spoken_to_plainly()) {
        tls_.reset();
        misunderstood(bytes, fed.error().what);
    } else if (!fed.ok()) {
        if (hub_.bus().may_log() && state_ != State::closing && state_ != State::gone) {
            log_warning("{}: {}, closing its connection", describe(), fed.error().what);
        }
        end_when_sent();
    } else if (tls_->ended() && state_ != State::closing) {
        receive_ended(0);
    } else if (tls_->due()) {
        later();
    }
}

void RemoteSession::receive_ended(int error) {
    if (state_ == State::gone) {
        return;
    }
    if (error == ECANCELED) {
        later();  // taken up again there
        return;
    }
    if (state_ == State::closing) {
        finish();
        return;
    }
    remote_ended_ = true;
    if (error != 0 && error != ECONNRESET && error != EPIPE && hub_.bus().may_log()) {
        log_info("{}: {}: its connection has ended", describe(), std::strerror(error));
    }
    if (state_ == State::active) {
        drain();
    } else if (state_ != State::draining) {
        finish();
    }
}

/// What it had sent stays on its way into the rings, as what a dead local publisher has written
/// stays in them. Not for ever: whoever is in the way is demoted after the stall timeout.
void RemoteSession::drain() {
    state_ = State::draining;
    drained_by_ns_ = sys::monotonic_ns() + 2 * stall_ns_;
    queue_.clear();
    for (auto& [id, outgoing] : outgoing_) {
        unlist(*outgoing);
    }
    later();
}

void RemoteSession::sent(int error) {
    if (error != 0) {
        // Why is known from the receive, or does not matter any more.
        if (state_ == State::active) {
            drain();
        } else if (state_ != State::draining) {
            finish();
        }
    } else if (state_ == State::closing && queue_.empty() && (!tls_ || tls_->closed())) {
        finish();
    } else {
        later();
    }
}

void RemoteSession::fail(protocol::u64 request, int code, std::string text) {
    if (state_ == State::closing || state_ == State::gone) {
        return;
    }
    if (hub_.bus().may_log()) {
        log_warning("{}: {}, closing its connection", describe(), text);
    }
    protocol::ErrorFrame frame;
    frame.code = static_cast<protocol::u32>(code);
    frame.text = text.substr(0, protocol::kErrorTextBytesMax);
    say(frame, request);
    end_when_sent();
}

/// The queue goes out, and nothing else is done any more.
void RemoteSession::end_when_sent() {
    if (state_ == State::closing || state_ == State::gone) {
        return;
    }
    state_ = State::closing;
    hub_.no_stranger(*this);
    if (bus_) {
        (void)::shutdown(bus_.get(), SHUT_RDWR);  // the client of the bus has gone
    }
    timer_.start(kLastWordsNs);
    later();
}

void RemoteSession::time_is_over() {
    switch (state_) {
    case State::awaiting_hello:
    case State::opening:
        if (hub_.bus().may_log()) {
            log_info("{}: no greeting in {}, closing", describe(),
                     format_duration(hub_.config().handshake_timeout_ns));
        }
        finish();
        return;
    case State::draining:
        if (sys::monotonic_ns() >= drained_by_ns_) {
            finish();
            return;
        }
        [[fallthrough]];
    case State::active:
        get_up(true);
        digest_due_ = true;
        later();
        return;
    case State::closing:
        finish();
        return;
    case State::gone:
        return;
    }
}

void RemoteSession::abandon() {
    if (state_ == State::active) {
        end_when_sent();  // what was read for it is on its way, and soon out
    } else if (state_ != State::closing) {
        finish();
    }
}

void RemoteSession::give_way() {
    if (hub_.bus().may_log()) {
        log_warning("{}: has not been greeted, and too many others wait for that: closing",
                    describe());
    }
    finish();
}

/// As if it had hung up: only the way to its client is broken, perhaps, in a place from where
/// nobody tells it.
bool RemoteSession::end_if_replaced(const protocol::Replaces& by) {
    if (!greeted_ || self_.client != by.client || !equal(self_.token, by.token)) {
        return false;
    }
    if (hub_.bus().may_log()) {
        log_info("{}: its client has come back on another connection: closing", describe());
    }
    receive_ended(0);
    return true;
}

void RemoteSession::look_whether_dead() {
    const auto dead_ns = static_cast<std::int64_t>(hub_.config().dead_peer_timeout_ns);
    if (!remote_ended_ && state_ != State::gone && sys::peer_is_dead(tcp_.get(), dead_ns)) {
        receive_ended(ETIMEDOUT);
    }
}

void RemoteSession::finish() {
    if (state_ == State::gone) {
        return;
    }
    state_ = State::gone;
    hub_.no_stranger(*this);
    (void)::shutdown(tcp_.get(), SHUT_RDWR);
    if (bus_) {
        (void)::shutdown(bus_.get(), SHUT_RDWR);
    }
    scope_.close([this] { hub_.gone(*this); });
}

// --------------------------------------------------------------------------------------- the bus

/// Becomes a client of the bus: its identity is what the bus knows of it.
sys::Result<void> RemoteSession::join_bus() {
    Amounts cost = kRemoteCost;
    cost.ring_bytes += tls_ ? sys::TlsStream::kMemoryBytes : 0;
    // That of one that says nothing goes: the bus charges it as a client from here on.
    charge_ = IPCBUS_TRY(hub_.bus().charge(uid(), cost, "remote connection"));
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return sys::fail_errno("socketpair");
    }
    bus_.reset(pair[0]);
    PeerIdentity identity;
    identity.uid = uid();
    identity.gid = identity.uid;
    identity.remote = true;
    (certified_ ? identity.subject : identity.token) =
        certified_ || logged_in_ ? identity_ : std::string();
    hub_.bus().connect(sys::UniqueFd(pair[1]), std::move(identity));
    bus_poll_.start(bus_.get(), POLLIN);
    return {};
}

void RemoteSession::told_bus(int error) {
    if (error != 0) {
        return;  // it has hung up, which bus_ready() finds out after what it said last
    }
    later();
}

sys::Result<void> RemoteSession::map_pages(const protocol::Geometry& geometry, int cursor,
                                           int doorbell, int mailbox) {
    const bool watched = !loop_.can_wait_for_futex();
    share_ = IPCBUS_TRY(
        hub_.memory().take(uid(), kOwnMappings + (watched ? kAlarmMappings : 0), "remote client"));
    pages_ = IPCBUS_TRY(client::ClientPages::map(geometry, cursor, doorbell, mailbox));
    return watch_bell();
}

/// Somebody rings us for news, or because he has read.
sys::Result<void> RemoteSession::watch_bell() {
    if (!loop_.can_wait_for_futex()) {
        alarm_ = IPCBUS_TRY(sys::Alarm::create());
    }
    const protocol::Waiter::Words words{&pages_.waiter(0), &pages_.asleep(0), 0};
    // relaxed: only a bound for the daemon's own looks
    pages_.header().waiters_used.store(1, std::memory_order_relaxed);
    waiter_ = std::make_unique<protocol::Waiter>(words);
    waiter_->add(source_);
    return {};
}

}  // namespace ipcbus::daemon
