// SPDX-License-Identifier: Apache-2.0
// SIGTERM, SIGINT and SIGHUP as events of the loop: blocked in the process, read from a signalfd.
// SIGPIPE is ignored. Owned by the broker, the daemon's one thread. Create it before any other
// thread is started, so that none takes a signal.
#pragma once

#include "event_loop.hpp"
#include "operations.hpp"

#include <functional>
#include <memory>

namespace ipcbus::daemon {

class Signals {
public:
    /// `on_stop` comes for each SIGTERM and SIGINT (a second one may mean: at once), `on_reload`
    /// for SIGHUP.
    [[nodiscard]] static sys::Result<std::unique_ptr<Signals>>
    create(EventLoop& loop, std::function<void(int signal)> on_stop,
           std::function<void()> on_reload);

    /// Stops watching, so that the loop can become idle. Signals stay blocked.
    void stop();

private:
    Signals(EventLoop& loop, sys::UniqueFd fd, std::function<void(int)> on_stop,
            std::function<void()> on_reload);
    void read_all();

    sys::UniqueFd fd_;
    std::function<void(int)> on_stop_;
    std::function<void()> on_reload_;
    OperationScope scope_;
    PollOperation poll_;
    Timer again_;
};

}  // namespace ipcbus::daemon
