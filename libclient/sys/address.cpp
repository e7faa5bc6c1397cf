// SPDX-License-Identifier: Apache-2.0
// Addresses, and Unix sockets at them. See address.hpp.
#include "sys/address.hpp"

#include "sys/clock.hpp"
#include "sys/tcp.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IPCBUS_SYSTEM_SOCKET  // Meson's option socket-path
#define IPCBUS_SYSTEM_SOCKET "/run/ipcbus/bus.sock"
#endif

namespace ipcbus::sys {

namespace {

constexpr int kDyingDaemonMs = 1000;
constexpr int kDyingDaemonLooks = 100;
constexpr std::string_view kUnixPrefix = "unix:";
constexpr std::string_view kTcpPrefix = "tcp:";
constexpr std::string_view kTlsPrefix = "tls:";
constexpr const char* kSystemSocket = IPCBUS_SYSTEM_SOCKET;

// How often connect_unix looks again. The first look comes soon, because a daemon that has just
// been started needs a few milliseconds; the last bound keeps an idle wait cheap.
constexpr std::int64_t kRetryFirstNs = 1'000'000;
constexpr std::int64_t kRetryLastNs = 50'000'000;

// How long listen_unix waits for another one that is in the same directory.
constexpr int kLockAttempts = 50;
constexpr std::int64_t kLockRetryNs = 10'000'000;

Result<sockaddr_un> socket_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos) {
        return fail(EINVAL, "a socket's path must be absolute: \"" + path + "\"");
    }
    if (path.size() >= sizeof(address.sun_path)) {
        return fail(ENAMETOOLONG, "a socket's path has at most " +
                                      std::to_string(sizeof(address.sun_path) - 1) + " bytes: \"" +
                                      path + "\"");
    }
    path.copy(address.sun_path, path.size());
    return address;
}

Error fail_at(const std::string& path, int code) {
    return fail(code, path + ": " + std::strerror(code));
}

/// False when a signal handler ran.
bool sleep_ns(std::int64_t duration_ns) {
    const timespec duration{static_cast<time_t>(duration_ns / 1'000'000'000),
                            static_cast<long>(duration_ns % 1'000'000'000)};
    return ::nanosleep(&duration, nullptr) == 0;
}

/// 0 = no limit, as SO_SNDTIMEO has it.
bool set_send_timeout(int socket, std::int64_t timeout_ns) {
    timeval timeout{};
    timeout.tv_sec = static_cast<time_t>(timeout_ns / 1'000'000'000);
    timeout.tv_usec = static_cast<suseconds_t>(timeout_ns % 1'000'000'000 / 1000);
    return ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) == 0;
}

bool may_come_up(int code) { return code == ENOENT || code == ECONNREFUSED || code == EAGAIN; }

/// For a caller there are two cases: no daemon is there, or it is and does not come to accepting.
Error give_up(const Error& last) {
    if (last.code == EAGAIN) {
        return fail(ETIMEDOUT, last.what + " (a daemon is there and accepts no connection)");
    }
    return fail(ECONNREFUSED, last.what + " (no daemon is running there)");
}

/// One attempt, that waits for room in the listener's queue until `deadline` at most.
Result<UniqueFd> connect_once(const sockaddr_un& address, Deadline deadline,
                              const std::string& path) {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) {
        return fail_errno("socket");
    }
    // at least a microsecond, because 0 would be for ever
    const std::int64_t wait_ns =
        deadline.never() ? 0 : std::max<std::int64_t>(deadline.remaining_ns(), 1000);
    if (!set_send_timeout(socket.get(), wait_ns)) {
        return fail_errno("setsockopt(SO_SNDTIMEO)");
    }
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
        0) {
        return fail_at(path, errno);
    }
    if (!set_send_timeout(socket.get(), 0)) {
        return fail_errno("setsockopt(SO_SNDTIMEO)");
    }
    return socket;
}

/// Keeps two daemons that start at once from taking each other's fresh socket, bound and not yet
/// listening, for a stale one. A lock on the directory leaves no lock file behind. Whoever may
/// open the directory could hold it, so it is waited for half a second and then done without:
/// a stranger must not be able to keep a daemon from starting.
UniqueFd lock_directory(const std::string& path) {
    const std::string directory = path.substr(0, std::max<std::size_t>(path.rfind('/'), 1));
    UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (int i = 0; fd && i < kLockAttempts; ++i) {
        if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
            break;
        }
        (void)sleep_ns(kLockRetryNs);
    }
    return fd;
}

/// Whether a daemon stands behind a connection. One that was just killed still accepts until the
/// kernel has torn it down, then hangs up; one that lives waits for us to speak, or says no.
bool lives(int socket) {
    pollfd wait{socket, POLLIN, 0};
    char byte = 0;
    return ::poll(&wait, 1, kDyingDaemonMs) <= 0 || ::recv(socket, &byte, 1, MSG_DONTWAIT) > 0;
}

Result<void> remove_stale_socket(const sockaddr_un& address, const std::string& path) {
    struct stat status{};
    if (::lstat(path.c_str(), &status) != 0) {
        // gone in the meantime is as good as removed
        return errno == ENOENT ? Result<void>() : Result<void>(fail_at(path, errno));
    }
    if (!S_ISSOCK(status.st_mode)) {
        return fail(EADDRINUSE, path +
                                    " is there already and is not a socket: remove it, or "
                                    "choose another path");
    }
    for (int looks = 0;; looks++) {
        const Result<UniqueFd> answer = connect_once(address, Deadline::after(0), path);
        if (!answer.ok() && answer.error().code == ECONNREFUSED) {
            break;
        }
        if (!answer.ok() || looks == kDyingDaemonLooks || lives(answer.value().get())) {
            return fail(EADDRINUSE, path + " is in use: another daemon answers there");
        }
    }
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
        return fail_at(path, errno);
    }
    return {};
}

Result<Address> parse_tcp(std::string_view text) {
    TcpEndpoint endpoint = IPCBUS_TRY(parse_endpoint(std::string(text.substr(kTcpPrefix.size()))));
    Address address;
    address.kind = Address::Kind::tcp;
    address.host = endpoint.host.empty() ? "localhost" : std::move(endpoint.host);
    address.port = endpoint.port;
    address.tls = text.starts_with(kTlsPrefix);
    return address;
}

/// The file gets the permissions that the socket has had since before: changing them by name could
/// be led astray by whoever may rename things in that directory. The umask would take some away; it
/// belongs to the whole process, which has one thread when it makes its listeners.
int bind_as_is(int socket, const sockaddr_un& address) {
    const mode_t before = ::umask(0);
    const int code =
        ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0
                                                                                          : errno;
    (void)::umask(before);
    return code;
}

}  // namespace

std::string Address::text() const {
    if (kind == Kind::unix_socket) {
        return std::string(kUnixPrefix) + path;
    }
    return std::string(tls ? kTlsPrefix : kTcpPrefix) + TcpEndpoint{host, port}.text();
}

Result<Address> parse_address(std::string_view text) {
    if (text.starts_with(kTcpPrefix) || text.starts_with(kTlsPrefix)) {
        return parse_tcp(text);
    }
    Address address;
    if (text.starts_with(kUnixPrefix)) {
        address.path = text.substr(kUnixPrefix.size());
    } else if (text.starts_with('/')) {
        address.path = text;
    } else {
        return fail(EINVAL, "not an address: \"" + std::string(text) +
                                "\" (unix:/ABSOLUTE/PATH, or the path alone, or tcp:HOST:PORT, or "
                                "tls:HOST:PORT)");
    }
    (void)IPCBUS_TRY(socket_address(address.path));
    return address;
}

std::string default_address() {
    const char* given = ::secure_getenv("IPCBUS_ADDRESS");
    if (given != nullptr && *given != '\0') {
        return given;
    }
    const char* runtime = ::secure_getenv("XDG_RUNTIME_DIR");
    if (runtime != nullptr && *runtime == '/') {
        const std::string path = std::string(runtime) + "/ipcbus/bus.sock";
        if (::access(path.c_str(), F_OK) == 0) {
            return std::string(kUnixPrefix) + path;
        }
    }
    return std::string(kUnixPrefix) + kSystemSocket;
}

Result<UniqueFd> connect_unix(const std::string& path, std::int64_t timeout_ns) {
    const sockaddr_un address = IPCBUS_TRY(socket_address(path));
    const Deadline deadline = Deadline::after(timeout_ns);
    std::int64_t pause_ns = kRetryFirstNs;
    while (true) {
        Result<UniqueFd> socket = connect_once(address, deadline, path);
        if (socket.ok() || !may_come_up(socket.error().code)) {
            return socket;
        }
        if (deadline.passed()) {
            return give_up(socket.error());
        }
        if (!sleep_ns(std::min(pause_ns, deadline.remaining_ns()))) {
            return fail_at(path, EINTR);
        }
        pause_ns = std::min(pause_ns * 2, kRetryLastNs);
    }
}

Result<UniqueFd> listen_unix(const std::string& path, unsigned mode, int backlog) {
    const sockaddr_un address = IPCBUS_TRY(socket_address(path));
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) {
        return fail_errno("socket");
    }
    const UniqueFd lock = lock_directory(path);
    if (::fchmod(socket.get(), mode) != 0) {
        return fail_errno("fchmod");
    }
    if (const int code = bind_as_is(socket.get(), address); code == EADDRINUSE) {
        IPCBUS_TRY(remove_stale_socket(address, path));
        if (const int again = bind_as_is(socket.get(), address); again != 0) {
            return fail_at(path, again);
        }
    } else if (code != 0) {
        return fail_at(path, code);
    }
    if (::listen(socket.get(), backlog) != 0) {
        const int code = errno;
        (void)::unlink(path.c_str());
        return fail_at(path, code);
    }
    return socket;
}

}  // namespace ipcbus::sys
