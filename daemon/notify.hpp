// SPDX-License-Identifier: Apache-2.0
// Talks to the service manager: readiness, reload, status, watchdog, and the sockets it passed.
// Built without libsystemd (IPCBUS_HAVE_SYSTEMD undefined), or run without a service manager,
// everything here does nothing. The daemon's one thread.
#pragma once

#include "event_loop.hpp"
#include "operations.hpp"

#include <memory>
#include <string_view>
#include <vector>

namespace ipcbus::daemon {

/// READY=1, with a STATUS= line: once the sockets listen, and at the end of every reload, also of
/// one that failed (the status says so).
void notify_ready(std::string_view status);
/// RELOADING=1 with MONOTONIC_USEC=.
void notify_reloading();
void notify_status(std::string_view status);
void notify_stopping();

/// The listening Unix stream sockets that the service manager passed (LISTEN_FDS), CLOEXEC, each
/// once. Anything else that it passed is an error that names it.
[[nodiscard]] sys::Result<std::vector<sys::UniqueFd>> take_inherited_sockets();

/// A stream into the journal, for the log: lines with a "<6>" in front.
[[nodiscard]] sys::Result<sys::UniqueFd> open_journal_stream();

/// WATCHDOG=1 at half of WATCHDOG_USEC; without that variable it never wakes the loop.
class Watchdog {
public:
    explicit Watchdog(EventLoop& loop);
    void start();
    /// So that the loop can become idle.
    void stop();

private:
    void beat();

    std::uint64_t interval_ns_ = 0;
    OperationScope scope_;
    Timer timer_;
};

}  // namespace ipcbus::daemon
