// SPDX-License-Identifier: Apache-2.0
// libsystemd behind a few functions. The only file that knows it, and the only #ifdef for it.
#include "notify.hpp"

#include "sys/clock.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <string>

#ifdef IPCBUS_HAVE_SYSTEMD
#include <sys/socket.h>
#include <syslog.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>
#endif

namespace ipcbus::daemon {

namespace {

#ifdef IPCBUS_HAVE_SYSTEMD

void send_state(const std::string& state) {
    // Without NOTIFY_SOCKET it does nothing; a service manager that is gone is not our trouble.
    (void)::sd_notify(0, state.c_str());
}

std::uint64_t watchdog_interval_ns() {
    std::uint64_t timeout_us = 0;
    if (::sd_watchdog_enabled(0, &timeout_us) <= 0) {
        return 0;
    }
    return timeout_us / 2 * 1000;
}

#else

void send_state(const std::string&) {}

std::uint64_t watchdog_interval_ns() { return 0; }

#endif

/// The value of one assignment: a line break would begin another one.
std::string one_line(std::string_view text) {
    std::string line(text);
    for (char& c : line) {
        if (static_cast<unsigned char>(c) < 0x20) {
            c = ' ';
        }
    }
    return line;
}

}  // namespace

void notify_ready(std::string_view status) {
    send_state(fmt::format("READY=1\nSTATUS={}", one_line(status)));
}

void notify_reloading() {
    send_state(fmt::format("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading",
                           sys::monotonic_ns() / 1000));
}

void notify_status(std::string_view status) {
    send_state(fmt::format("STATUS={}", one_line(status)));
}

void notify_stopping() { send_state("STOPPING=1\nSTATUS=stopping"); }

#ifdef IPCBUS_HAVE_SYSTEMD

sys::Result<std::vector<sys::UniqueFd>> take_inherited_sockets() {
    std::vector<sys::UniqueFd> sockets;
    const int count = ::sd_listen_fds(1);  // 1: unset the variables, they are for us alone
    if (count < 0) {
        return sys::fail(-count, fmt::format("LISTEN_FDS: {}", std::strerror(-count)));
    }
    for (int i = 0; i < count; ++i) {
        sockets.emplace_back(SD_LISTEN_FDS_START + i);
    }
    for (const sys::UniqueFd& socket : sockets) {
        if (::sd_is_socket_unix(socket.get(), SOCK_STREAM, 1, nullptr, 0) <= 0) {
            return sys::fail(EINVAL, fmt::format("the inherited descriptor {} is not a listening "
                                                 "Unix stream socket (ListenStream=/PATH)",
                                                 socket.get()));
        }
    }
    return sockets;
}

sys::Result<sys::UniqueFd> open_journal_stream() {
    const int fd = ::sd_journal_stream_fd("ipcbusd", LOG_INFO, 1);
    if (fd < 0) {
        return sys::fail(-fd, fmt::format("cannot log to the journal: {}", std::strerror(-fd)));
    }
    return sys::UniqueFd(fd);
}

#else

sys::Result<std::vector<sys::UniqueFd>> take_inherited_sockets() {
    return std::vector<sys::UniqueFd>();
}

sys::Result<sys::UniqueFd> open_journal_stream() {
    return sys::fail(ENOTSUP, "log.target \"journal\": this ipcbusd was built without libsystemd");
}

#endif

Watchdog::Watchdog(EventLoop& loop)
    : interval_ns_(watchdog_interval_ns()), scope_(loop), timer_(scope_, [this] { beat(); }) {}

void Watchdog::start() {
    if (interval_ns_ != 0) {
        beat();
    }
}

void Watchdog::stop() { scope_.close(nullptr); }

void Watchdog::beat() {
    send_state("WATCHDOG=1");
    timer_.start(static_cast<std::int64_t>(interval_ns_));
}

}  // namespace ipcbus::daemon
