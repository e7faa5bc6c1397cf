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
#include <cstring>

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
constexpr std::int64_t kLookMinNs = 250'000'000;
constexpr std::int64_t kLookMaxNs = 10'000'000'000;

}  // namespace

struct RemoteHub::Socket {
    Socket(RemoteHub& hub, sys::UniqueFd listening)
        : fd(std::move(listening)),
          accept(
              hub.scope_,
              [&hub, this](sys::UniqueFd socket) {
                  failing = false;
                  hub.accepted(std::move(socket));
              },
              [&hub, this](int error) { hub.accept_failed(*this, error); }),
          pause(hub.scope_, [this] { accept.start(fd.get()); }) {}

    sys::UniqueFd fd;
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
    for (const sys::TcpEndpoint& endpoint : config.tcp.listen) {
        for (sys::UniqueFd& fd : IPCBUS_TRY(listen_soon(endpoint))) {
            hub->sockets_.push_back(std::make_unique<Socket>(*hub, std::move(fd)));
        }
    }
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
      watch_(scope_, [this] { look_who_is_dead(); }) {}

RemoteHub::~RemoteHub() = default;

void RemoteHub::set_config(const Config& config) {
    config_ = config.tcp;
    memory_.set_limit(config_.mappings);
}

std::vector<std::string> RemoteHub::addresses() const {
    std::vector<std::string> all;
    for (const auto& socket : sockets_) {
        all.push_back("tcp:" + sys::tcp_name(socket->fd.get(), true));
    }
    return all;
}

void RemoteHub::accepted(sys::UniqueFd fd) {
    if (auto room = room_for_one(); !room.ok()) {
        refuse(std::move(fd), room.error());
        return;
    }
    const std::string host = sys::tcp_peer_host(fd.get());
    auto charge = bus_.charge(uid_of(host), kStrangerCost, "remote connection");
    if (!charge.ok()) {
        refuse(std::move(fd), charge.error());
        return;
    }
    std::string name = sys::tcp_name(fd.get());
    auto made = std::make_unique<RemoteSession>(*this, loop_, std::move(fd), std::move(name));
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

/// It is told, as far as an empty socket takes it, and nothing is kept of it.
void RemoteHub::refuse(sys::UniqueFd fd, const sys::Error& error) {
    protocol::ErrorFrame frame;
    frame.code = static_cast<protocol::u32>(error.code);
    frame.text =
        fmt::format("connection refused: {}", error.what).substr(0, protocol::kErrorTextBytesMax);
    std::vector<std::byte> bytes;
    protocol::encode(bytes, frame, 0);
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
        log_error("cannot accept connections on tcp:{}: {}; trying again until it works",
                  sys::tcp_name(socket.fd.get(), true), std::strerror(error));
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
