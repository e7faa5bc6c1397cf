// SPDX-License-Identifier: Apache-2.0
// Where a bus is: the text form of an address, the place to look when none is given, and Unix
// sockets to connect to or listen on. Used by clients, tools and the daemon; free functions over
// borrowed text, any thread. connect_unix is the only one that waits.
#pragma once

#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace ipcbus::sys {

struct Address {
    enum class Kind { unix_socket, tcp };
    Kind kind = Kind::unix_socket;
    std::string path;        // unix_socket: absolute
    std::string host;        // tcp
    std::uint16_t port = 0;  // tcp
    bool tls = false;        // tcp
    /// "unix:/path", "tls:host:port".
    [[nodiscard]] std::string text() const;
};

/// `unix:/absolute/path`, or the path alone; `tcp:HOST:PORT`, `tcp:[::1]:PORT`, `tcp:PORT`; and the
/// same with `tls:`.
[[nodiscard]] Result<Address> parse_address(std::string_view text);

/// IPCBUS_ADDRESS as it stands; else $XDG_RUNTIME_DIR/ipcbus/bus.sock if that is there; else
/// /run/ipcbus/bus.sock; the latter two as `unix:PATH`. The environment does not count in a
/// set-uid program.
[[nodiscard]] std::string default_address();

/// Connects, and goes on trying until the time is over (negative: for ever; 0: one attempt) while
/// the socket is not there yet, nobody listens on it, or the listener's queue is full: so a client
/// may be started together with its daemon. Then: ECONNREFUSED if nobody is there, ETIMEDOUT if the
/// queue stayed full. EINTR when a signal handler ran meanwhile. The descriptor is blocking and
/// close-on-exec.
[[nodiscard]] Result<UniqueFd> connect_unix(const std::string& path, std::int64_t timeout_ns);

/// A listening socket at `path` with exactly these permission bits. A socket that is there already
/// is removed only if nobody answers on it; anything else there stays, and is an EADDRINUSE.
[[nodiscard]] Result<UniqueFd> listen_unix(const std::string& path, unsigned mode, int backlog);

}  // namespace ipcbus::sys
