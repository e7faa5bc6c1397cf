// SPDX-License-Identifier: Apache-2.0
// Listening on TCP, and letting remote clients in. See remote_hub.hpp.
#include "remote_hub.hpp"

#include "log.hpp"
#include "sys/clock.hpp"
#include "sys/tcp.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

namespace ipcbus::daemon {

namespace {

constexpr int kBacklog = 1024;
constexpr std::int64_t kPauseNs = 500'000'000;
constexpr std::int64_t kTakenNs = 3'000'000'000;
constexpr long kTakenPauseNs = 10'000'000;
/// Connected and not greeted.
constexpr std::size_t kStrangersMax = 128;
constexpr Amounts kStrangerCost{.clients = 1, .descriptors = 2};
/// How often, in the time after which a silent host is dead, we look.
constexpr std::int64_t kLooks = 4;
/// Of a certificate, what is left when it should have been renewed.
constexpr std::int64_t kRenewSoonS = 7 * 24 * 3600;
constexpr std::int64_t kLookAgainS = 24 * 3600;
constexpr std::int64_t kLookMinNs = 250'000'000;
constexpr std::int64_t kLookMaxNs = 10'000'000'000;

}  // namespace

struct RemoteHub::Socket {
    Socket(RemoteHub& hub, sys::UniqueFd listening, bool speaks_tls)
        : fd(std::move(listening)),
          tls(speaks_tls),
          accept(
              hub.scope_,
              [&hub, this](sys::UniqueFd socket) {
                  failing = false;
                  hub.accepted(std::move(socket), tls);
              },
              [&hub, this](int error) { hub.accept_failed(*this, error); }),
          pause(hub.scope_, [this] { accept.start(fd.get()); }) {}

    [[nodiscard]] std::string address() const {
        return (tls ? "tls:" : "tcp:") + sys::tcp_name(fd.get(), true);
    }

    sys::UniqueFd fd;
    bool tls;
    bool failing = false;
    AcceptOperation accept;
    Timer pause;
};

namespace {

/// Sockets of a daemon that was killed last until the kernel has taken its io_uring apart: a moment
/// longer than the process. Its successor, at start, waits for them.
sys::Result<std::vector<sys::UniqueFd>> listen_soon(const sys::TcpEndpoint& endpoint) {
    const sys::Deadline deadline = sys::Deadline::after(kTakenNs);
    for (;;) {
        auto made = sys::listen_tcp(endpoint, kBacklog);
        if (made.ok() || made.error().code != EADDRINUSE || deadline.passed()) {
            return made;
        }
        const timespec pause{0, kTakenPauseNs};
        (void)::nanosleep(&pause, nullptr);
    }
}

}  // namespace

sys::Result<std::unique_ptr<RemoteHub>> RemoteHub::create(EventLoop& loop, Bus& bus,
                                                          const Config& config) {
    std::unique_ptr<RemoteHub> hub(new RemoteHub(loop, bus, config.tcp));
    for (const bool tls : {false, true}) {
        for (const sys::TcpEndpoint& endpoint : tls ? config.tcp.listen_tls : config.tcp.listen) {
            for (sys::UniqueFd& fd : IPCBUS_TRY(listen_soon(endpoint))) {
                hub->sockets_.push_back(std::make_unique<Socket>(*hub, std::move(fd), tls));
            }
        }
    }
    hub->look_at_certificate();
    for (const auto& socket : hub->sockets_) {
        socket->accept.start(socket->fd.get());
    }
    return hub;
}

RemoteHub::RemoteHub(EventLoop& loop, Bus& bus, const TcpConfig& config)
    : loop_(loop),
      bus_(bus),
      config_(config),
      memory_(bus, config.mappings),
      scope_(loop),
      watch_(scope_, [this] { look_who_is_dead(); }),
      certificate_(scope_, [this] { look_at_certificate(); }) {}

RemoteHub::~RemoteHub() = default;

void RemoteHub::set_config(const Config& config) {
    config_ = config.tcp;
    memory_.set_limit(config_.mappings);
    look_at_certificate();
}

/// Clients refuse what has expired: who runs the bus is to know it before they do, and is told when
/// it is so, and once a day.
void RemoteHub::look_at_certificate() {
    if (config_.listen_tls.empty() || stopped_) {
        return;
    }
    const std::int64_t left_s = config_.tls->expires_s() - ::time(nullptr);
    if (left_s <= 0) {
        log_warning("tcp.certificate: {} has expired: clients will refuse it",
                    config_.tls->certificate());
    } else if (left_s < kRenewSoonS) {
        log_warning("tcp.certificate: {} expires soon: renew it, and send SIGHUP",
                    config_.tls->certificate());
    }
    const std::int64_t next_s = left_s > 0 ? std::min(left_s, kLookAgainS) : kLookAgainS;
    certificate_.start(next_s * 1'000'000'000);
}

std::vector<std::string> RemoteHub::addresses() const {
    std::vector<std::string> all;
    for (const auto& socket : sockets_) {
        all.push_back(socket->address());
    }
    return all;
}

void RemoteHub::accepted(sys::UniqueFd fd, bool tls) {
    const std::string host = sys::tcp_peer_host(fd.get());
    // Before the handshake of TLS, which costs more than anything else that strangers can ask for.
    const uid_t uid = uid_of("host:" + host);
    if (auto counted = connect_rate_.count(uid, config_.connects_per_second, sys::monotonic_ns());
        !counted.ok()) {
        refuse(std::move(fd), tls, counted.error());
        return;
    }
    // Over TLS that can be said once it is spoken: at HELLO.
    if (auto room = room_for_one(); !room.ok() && !tls) {
        refuse(std::move(fd), tls, room.error());
        return;
    }
    Amounts cost = kStrangerCost;
    cost.ring_bytes += tls ? sys::TlsStream::kHandshakeMemoryBytes : 0;
    auto charge = bus_.charge(uid, cost, "remote connection");
    if (!charge.ok()) {
        refuse(std::move(fd), tls, charge.error());
        return;
    }
    std::unique_ptr<sys::TlsStream> stream;
    if (tls) {
        auto accepted = sys::TlsStream::accept(config_.tls);
        if (!accepted.ok()) {
            refuse(std::move(fd), tls, accepted.error());
            return;
        }
        stream = std::move(accepted).value();
    }
    std::string name = sys::tcp_name(fd.get());
    auto made = std::make_unique<RemoteSession>(*this, loop_, std::move(fd), std::move(name),
                                                std::move(stream));
    RemoteSession& session = *made;
    sessions_.emplace(&session, std::move(made));
    strangers_.push_back(&session);
    session.start(host, std::move(charge).value());
    if (strangers_.size() > kStrangersMax) {
        who_gives_way().give_way();
    }
    watch();
}

/// The oldest of whoever has the most.
RemoteSession& RemoteHub::who_gives_way() const {
    std::unordered_map<std::string_view, std::size_t> counts;
    std::size_t most = 0;
    for (const RemoteSession* stranger : strangers_) {
        most = std::max(most, ++counts[stranger->identity()]);
    }
    return **std::find_if(strangers_.begin(), strangers_.end(), [&](const RemoteSession* stranger) {
        return counts[stranger->identity()] == most;
    });
}

void RemoteHub::replace(const protocol::Replaces& earlier) {
    // Not to the end: it may be gone at once.
    (void)std::any_of(sessions_.begin(), sessions_.end(),
                      [&](const auto& entry) { return entry.first->end_if_replaced(earlier); });
}

sys::Result<void> RemoteHub::room_for_one() const {
    if (greeted_ >= config_.clients) {
        return sys::fail(EDQUOT, fmt::format("{} remote clients are there; raise {}", greeted_,
                                             key::kTcpClients));
    }
    return {};
}

/// It is told, as far as an empty socket takes it, and nothing is kept of it. Over TLS there is an
/// alert for it, which says no more than that.
void RemoteHub::refuse(sys::UniqueFd fd, bool tls, const sys::Error& error) {
    protocol::ErrorFrame frame;
    frame.code = static_cast<protocol::u32>(error.code);
    frame.text =
        fmt::format("connection refused: {}", error.what).substr(0, protocol::kErrorTextBytesMax);
    std::vector<std::byte> bytes;
    protocol::encode(bytes, frame, 0);
    if (tls) {
        constexpr std::array<unsigned char, 7> kInternalError = {21, 3, 3, 0, 2, 2, 80};
        const auto alert = std::as_bytes(std::span(kInternalError));
        bytes.assign(alert.begin(), alert.end());
    }
    (void)!::send(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (bus_.may_log()) {
        log_warning("{}: {}", sys::tcp_name(fd.get()), frame.text);
    }
}

/// The kernel tells of a host that is dead while nothing is on its way there. Of one that does not
/// acknowledge what is, it would tell only together with one whose client does not read.
void RemoteHub::watch() {
    if (!sessions_.empty() && !watch_.running()) {
        watch_.start(std::clamp(static_cast<std::int64_t>(config_.dead_peer_timeout_ns) / kLooks,
                                kLookMinNs, kLookMaxNs));
    }
}

void RemoteHub::look_who_is_dead() {
    std::vector<RemoteSession*> all;
    for (const auto& [session, owner] : sessions_) {
        all.push_back(session);
    }
    for (RemoteSession* session : all) {
        session->look_whether_dead();
    }
    watch();
}

void RemoteHub::accept_failed(Socket& socket, int error) {
    if (!std::exchange(socket.failing, true)) {
        log_error("cannot accept connections on {}: {}; trying again until it works",
                  socket.address(), std::strerror(error));
    }
    socket.pause.start(kPauseNs);
}

void RemoteHub::stop() {
    if (std::exchange(stopped_, true)) {
        return;
    }
    scope_.close(nullptr);
    while (!strangers_.empty()) {
        strangers_.front()->abandon();
    }
    for (const auto& socket : sockets_) {
        (void)::shutdown(socket->fd.get(), SHUT_RDWR);
    }
}

void RemoteHub::close() {
    stop();
    std::vector<RemoteSession*> all;
    for (const auto& [session, owner] : sessions_) {
        all.push_back(session);
    }
    for (RemoteSession* session : all) {
        session->abandon();
    }
}

void RemoteHub::greeted(RemoteSession& session) {
    no_stranger(session);
    greeted_++;
}

void RemoteHub::gone(RemoteSession& session) {
    greeted_ -= session.was_greeted() ? 1 : 0;
    sessions_.erase(&session);
}

uid_t RemoteHub::uid_of(const std::string& identity) {
    std::uint32_t hash = 2166136261;  // FNV-1a: the same in every daemon
    for (const char c : identity) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 16777619;
    }
    constexpr std::uint32_t kMost = 0x7ffffffd;  // -1 and -2 are nobody's
    return kRemoteUidFirst + hash % kMost;
}

}  // namespace ipcbus::daemon
