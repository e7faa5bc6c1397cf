// SPDX-License-Identifier: Apache-2.0
// TCP sockets to other hosts: to listen on, to connect, and how they are to behave (no delay, how a
// dead peer is noticed). Used by the daemon and by the library's bridge; free functions, any
// thread. Names of hosts are looked up with getaddrinfo, which may wait as long as the resolver
// does: the bridge calls look_up on a thread of its own.
#pragma once

#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <netdb.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ipcbus::sys {

struct TcpEndpoint {
    std::string host;  ///< a name or a number, IPv6 without brackets
    std::uint16_t port = 0;
    /// "HOST:PORT", IPv6 in brackets.
    [[nodiscard]] std::string text() const;
    bool operator==(const TcpEndpoint&) const = default;
};

/// "HOST:PORT", "[::1]:PORT", or "PORT": then the host is empty. EINVAL says what is wrong. Port 0
/// only where `any_port` allows it (to listen on: the kernel chooses).
[[nodiscard]] Result<TcpEndpoint> parse_endpoint(const std::string& text, bool any_port = false);

/// Whether it is a number that reaches this host alone: 127.0.0.0/8, ::1. A name is not.
[[nodiscard]] bool is_loopback(const std::string& host);

/// Listening sockets of that endpoint, close-on-exec: an empty host is loopback, of both families
/// as far as this host has them; a name may have several. All of them, or an error.
[[nodiscard]] Result<std::vector<UniqueFd>> listen_tcp(const TcpEndpoint& endpoint, int backlog);

struct FreeAddresses {
    void operator()(addrinfo* addresses) const { ::freeaddrinfo(addresses); }
};
using TcpAddresses = std::unique_ptr<addrinfo, FreeAddresses>;
/// The addresses of that endpoint: waits as long as the resolver does. EAGAIN, EHOSTUNREACH: not
/// now, or never.
[[nodiscard]] Result<TcpAddresses> look_up(const TcpEndpoint& endpoint);

/// Connects to the first of these addresses that answers, trying each for its share of the time.
/// ECONNREFUSED if nobody listens there; ECANCELED as soon as `kick` is readable (-1: none).
/// Close-on-exec, non-blocking.
[[nodiscard]] Result<UniqueFd> connect_tcp(const TcpEndpoint& endpoint,
                                           const TcpAddresses& addresses, std::int64_t timeout_ns,
                                           int kick = -1);

/// No delay; and a peer that does not answer when it is asked, after `dead_ns` of silence in all,
/// is dead: the connection ends with ETIMEDOUT. It is asked only while nothing is on its way there.
[[nodiscard]] Result<void> set_tcp_options(int socket, std::int64_t dead_ns);

/// Whether the other host has not acknowledged what was sent to it, nor that it is asked for room,
/// for `dead_ns`. One whose program does not read acknowledges that it has no room, and lives
/// (TCP_USER_TIMEOUT would end it, since Linux 5.11). Without room it is asked ever more rarely, at
/// last every two minutes: then this takes as much longer.
[[nodiscard]] bool peer_is_dead(int socket, std::int64_t dead_ns);

/// The other end (or, with `own`, this one), "HOST:PORT" in numbers; "?" if it is not known.
[[nodiscard]] std::string tcp_name(int socket, bool own = false);
/// The host of the other end alone; of an IPv6 host that is another, the network (/64): it has all
/// of its addresses.
[[nodiscard]] std::string tcp_peer_host(int socket);

}  // namespace ipcbus::sys
