// SPDX-License-Identifier: Apache-2.0
// Bytes with file descriptors over a Unix stream socket (SCM_RIGHTS). Descriptors travel from the
// daemon to clients only: a client receives with this, the daemon with plain recv, so that what a
// client passes to it vanishes. What arrives is hostile until decoded; here only its size and
// count are bounded. Borrows the socket; one thread at a time for each direction.
#pragma once

#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace ipcbus::sys {

/// Reads what there is, at most `into.size()` bytes; 0: the peer has closed. Descriptors that came
/// along are appended to `fds`, close-on-exec. The kernel never merges two sets of descriptors into
/// one receive, and a set arrives with the first byte it was sent with.
/// Errors: EAGAIN when `dont_wait` (or a non-blocking socket) and nothing is there; EINTR when a
/// signal ended the wait, for the caller to decide; EMFILE when descriptors were lost, which can
/// only be answered by closing the connection.
[[nodiscard]] Result<std::size_t> receive_with_fds(int socket, std::span<std::byte> into,
                                                   std::vector<UniqueFd>& fds, bool dont_wait);

/// Sends what fits, `fds` with its first byte; says how many bytes went. If that is fewer than
/// given, the rest goes without them. `bytes` must not be empty. Never raises SIGPIPE.
[[nodiscard]] Result<std::size_t> send_with_fds(int socket, std::span<const std::byte> bytes,
                                                std::span<const int> fds);

}  // namespace ipcbus::sys
