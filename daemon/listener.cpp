// SPDX-License-Identifier: Apache-2.0
// Accepting, and who it is. Out of descriptors, an accept fails at once and every time, whether or
// not somebody is waiting: so accepting pauses, longer each time up to a second, and is taken up
// again; connections wait in the kernel's queue meanwhile. The daemon's one thread.
#include "listener.hpp"

#include "log.hpp"

#include "sys/address.hpp"
#include "sys/clock.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

// Newer than the headers of the oldest systems we build on.
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace ipcbus::daemon {

namespace {

constexpr int kBacklog = 4096;  // the kernel cuts it to net.core.somaxconn
constexpr std::int64_t kPauseMin_ns = 100'000'000;
constexpr std::int64_t kPauseMax_ns = 1'000'000'000;
constexpr std::int64_t kSaidAgain_ns = 10'000'000'000;

/// The process that connected; invalid if it is gone or in a place that we cannot see.
sys::Result<sys::UniqueFd> open_peer_pidfd(int socket, pid_t pid) {
    int fd = -1;
    socklen_t bytes = sizeof fd;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &bytes) == 0) {
        return sys::UniqueFd(fd);
    }
    if (errno == EMFILE || errno == ENFILE) {
        return sys::fail_errno("SO_PEERPIDFD");
    }
    if (pid <= 0) {
        return sys::UniqueFd();  // of another pid namespace
    }
    // Before Linux 6.5. Should the peer have died since, and its number have been given away
    // already, we watch a stranger: then its death is noticed by the hang-up alone, as without.
    fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
        return sys::fail_errno("pidfd_open");
    }
    return sys::UniqueFd(fd);
}

/// The directory of the socket, as a service manager would have made it; only the last part.
void make_directory_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    if (slash != std::string::npos && slash > 0) {
        (void)::mkdir(path.substr(0, slash).c_str(), 0755);  // bind says what is wrong, if anything
    }
}

/// The path that a listening Unix socket is bound to; empty for an abstract one.
std::string bound_path(int socket) {
    sockaddr_un address{};
    socklen_t bytes = sizeof address;
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &bytes) != 0 ||
        bytes <= offsetof(sockaddr_un, sun_path) || address.sun_path[0] == '\0') {
        return {};
    }
    const std::size_t room = bytes - offsetof(sockaddr_un, sun_path);
    return std::string(address.sun_path, ::strnlen(address.sun_path, room));
}

}  // namespace

namespace {

/// As they were when it connected.
sys::Result<std::vector<gid_t>> peer_groups(int socket) {
    std::vector<gid_t> groups(32);
    for (;;) {
        auto bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
        const int result =
            ::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes);
        if (result != 0 && errno != ERANGE) {
            return sys::fail_errno("SO_PEERGROUPS");
        }
        groups.resize(bytes / sizeof(gid_t));  // also if they were more
        if (result == 0) {
            return groups;
        }
    }
}

}  // namespace

sys::Result<PeerIdentity> identify_peer(int socket) {
    ucred credentials{};
    socklen_t bytes = sizeof credentials;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) {
        return sys::fail_errno("SO_PEERCRED");
    }
    PeerIdentity peer;
    peer.uid = credentials.uid;
    peer.gid = credentials.gid;
    peer.groups = IPCBUS_TRY(peer_groups(socket));
    peer.pid = credentials.pid;
    peer.pidfd = IPCBUS_TRY(open_peer_pidfd(socket, credentials.pid));
    return peer;
}

struct Listener::Socket {
    Socket(Listener& listener, sys::UniqueFd listening, std::string bound, bool made)
        : fd(std::move(listening)),
          path(std::move(bound)),
          made_here(made),
          accept(
              listener.scope_,
              [&listener, this](sys::UniqueFd socket) {
                  working_again();
                  listener.accepted(std::move(socket));
              },
              [&listener, this](int error) { listener.accept_failed(*this, error); }),
          pause(listener.scope_, [this] { accept.start(fd.get()); }) {}

    void working_again() {
        pause_ns = 0;
        if (failing.ends()) {
            log_info("accepting connections on {} again", path);
        }
    }

    sys::UniqueFd fd;
    std::string path;
    bool made_here;
    /// Of the socket file that we made: another daemon may have replaced it since.
    struct stat identity{};
    std::int64_t pause_ns = 0;
    Trouble failing;
    AcceptOperation accept;
    Timer pause;
};

bool Listener::Trouble::begins() {
    const std::int64_t now_ns = sys::coarse_ns();
    if (said_ || (said_ns_ && now_ns - *said_ns_ < kSaidAgain_ns)) {
        return false;
    }
    said_ = true;
    said_ns_ = now_ns;
    return true;
}

Listener::Listener(EventLoop& loop, OnConnection on_connection)
    : on_connection_(std::move(on_connection)), scope_(loop) {}

sys::Result<std::unique_ptr<Listener>> Listener::create(EventLoop& loop, ListenOptions options,
                                                        OnConnection on_connection) {
    std::unique_ptr<Listener> listener(new Listener(loop, std::move(on_connection)));
    for (sys::UniqueFd& inherited : options.inherited) {
        std::string path = bound_path(inherited.get());
        listener->add(std::move(inherited), std::move(path), false);
    }
    if (options.inherited.empty()) {
        for (const std::string& text : options.addresses) {
            const sys::Address address = IPCBUS_TRY(sys::parse_address(text));
            make_directory_of(address.path);
            sys::UniqueFd fd = IPCBUS_TRY(sys::listen_unix(address.path, options.mode, kBacklog));
            listener->add(std::move(fd), address.path, true);
        }
    }
    if (listener->sockets_.empty()) {
        return sys::fail(EINVAL, "there is no socket to listen on: set listen.sockets");
    }
    for (const auto& socket : listener->sockets_) {
        socket->accept.start(socket->fd.get());
    }
    return listener;
}

Listener::~Listener() { stop(); }

void Listener::add(sys::UniqueFd fd, std::string path, bool made_here) {
    sockets_.push_back(std::make_unique<Socket>(*this, std::move(fd), std::move(path), made_here));
    Socket& socket = *sockets_.back();
    if (made_here) {
        (void)::lstat(socket.path.c_str(), &socket.identity);
    }
}

void Listener::accepted(sys::UniqueFd fd) {
    auto peer = identify_peer(fd.get());
    if (!peer) {
        // Without a pidfd its death could go unnoticed: better refused now.
        if (refusing_.begins()) {
            log_error("connections are refused, their process cannot be watched: {}",
                      peer.error().what);
        }
    } else {
        (void)refusing_.ends();
    }
    on_connection_(std::move(fd), std::move(peer));
}

void Listener::accept_failed(Socket& socket, int error) {
    if (socket.failing.begins()) {
        log_error("cannot accept connections on {}: {}{}; trying again until it works", socket.path,
                  std::strerror(error), error == EMFILE ? " (raise LimitNOFILE=, ulimit -n)" : "");
    }
    socket.pause_ns = std::clamp(socket.pause_ns * 2, kPauseMin_ns, kPauseMax_ns);
    socket.pause.start(socket.pause_ns);
}

void Listener::stop() {
    if (std::exchange(stopped_, true)) {
        return;
    }
    scope_.close(nullptr);
    for (const auto& socket : sockets_) {
        if (!socket->made_here) {
            continue;
        }
        struct stat now{};
        if (::lstat(socket->path.c_str(), &now) == 0 && now.st_dev == socket->identity.st_dev &&
            now.st_ino == socket->identity.st_ino) {
            (void)::unlink(socket->path.c_str());
        }
    }
    for (const auto& socket : sockets_) {
        // Who waits in the queue must learn at once; the descriptor itself is still the kernel's.
        // An inherited one stays as it is: the service manager listens on.
        if (socket->made_here) {
            (void)::shutdown(socket->fd.get(), SHUT_RDWR);
        }
    }
}

std::vector<std::string> Listener::addresses() const {
    std::vector<std::string> all;
    for (const auto& socket : sockets_) {
        all.push_back("unix:" + socket->path);
    }
    return all;
}

}  // namespace ipcbus::daemon
