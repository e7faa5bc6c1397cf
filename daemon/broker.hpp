// SPDX-License-Identifier: Apache-2.0
// The daemon as a process: the loop, the signals, the listening sockets, the bus between them; its
// start, reload and end. Owned by main(), the daemon's one thread.
//
// The end: the first SIGTERM or SIGINT closes the listening sockets and tells the clients; they
// drain what they read and go, in limits.drain_timeout; then, or at a second signal, it is over.
#pragma once

#include "bus.hpp"
#include "config.hpp"
#include "listener.hpp"
#include "notify.hpp"
#include "options.hpp"
#include "remote_hub.hpp"
#include "signals.hpp"

#include <memory>

namespace ipcbus::daemon {

class Broker {
public:
    /// Ready to run: the sockets listen.
    [[nodiscard]] static sys::Result<std::unique_ptr<Broker>> create(Options options,
                                                                     Config config);
    ~Broker();

    /// Until a signal ends it. The exit code: 0. (If the loop fails, the process ends here,
    /// with 1.)
    [[nodiscard]] int run();

private:
    Broker(Options options, Config config, std::unique_ptr<EventLoop> loop);
    [[nodiscard]] sys::Result<void> start();
    void connected(sys::UniqueFd socket, sys::Result<PeerIdentity> peer);
    void reload_config();
    void stop(int signal);
    void finish();
    [[noreturn]] void give_up(const sys::Error& error);

    Options options_;
    Config config_;
    std::unique_ptr<EventLoop> loop_;
    std::unique_ptr<Signals> signals_;
    std::unique_ptr<Bus> bus_;
    std::unique_ptr<RemoteHub> remotes_;
    std::unique_ptr<Listener> listener_;
    Watchdog watchdog_;
    OperationScope scope_;
    Timer drain_;
    bool stopping_ = false;
    bool finished_ = false;
};

}  // namespace ipcbus::daemon
