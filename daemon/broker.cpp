// SPDX-License-Identifier: Apache-2.0
// The daemon's start, reload and end. See broker.hpp.
#include "broker.hpp"

#include "log.hpp"
#include "reload.hpp"

#include <unistd.h>

#include <cstring>

namespace ipcbus::daemon {

sys::Result<std::unique_ptr<Broker>> Broker::create(Options options, Config config) {
    auto loop = IPCBUS_TRY(EventLoop::create());
    std::unique_ptr<Broker> broker(
        new Broker(std::move(options), std::move(config), std::move(loop)));
    IPCBUS_TRY(broker->start());
    return broker;
}

Broker::Broker(Options options, Config config, std::unique_ptr<EventLoop> loop)
    : options_(std::move(options)),
      config_(std::move(config)),
      loop_(std::move(loop)),
      watchdog_(*loop_),
      scope_(*loop_),
      drain_(scope_, [this] {
          log_warning("{} connections are left after {} of draining: ending them",
                      bus_->connection_count(), format_duration(config_.limits.drain_timeout_ns));
          finish();
      }) {}

Broker::~Broker() = default;

sys::Result<void> Broker::start() {
    signals_ = IPCBUS_TRY(
        Signals::create(*loop_, [this](int signal) { stop(signal); }, [this] { reload_config(); }));
    bus_ = IPCBUS_TRY(Bus::create(*loop_, config_));
    remotes_ = IPCBUS_TRY(RemoteHub::create(*loop_, *bus_, config_));
    ListenOptions listen;
    listen.addresses = config_.listen.sockets;
    listen.mode = static_cast<unsigned>(config_.listen.mode);
    listen.inherited = IPCBUS_TRY(take_inherited_sockets());
    listener_ = IPCBUS_TRY(
        Listener::create(*loop_, std::move(listen), [this](sys::UniqueFd socket, auto peer) {
            connected(std::move(socket), std::move(peer));
        }));
    watchdog_.start();
    return {};
}

void Broker::connected(sys::UniqueFd socket, sys::Result<PeerIdentity> peer) {
    if (peer.ok()) {
        bus_->connect(std::move(socket), std::move(peer).value());
    } else {
        bus_->refuse_connection(std::move(socket), peer.error());
    }
}

int Broker::run() {
    for (const std::string& address : remotes_->addresses()) {
        log_info("listening on {}", address);
    }
    for (const std::string& address : listener_->addresses()) {
        log_info("listening on {}", address);
    }
    notify_ready("serving");
    auto ran = loop_->run();
    if (ran.ok()) {
        // Everything was told to end; what the kernel still has of it comes back now.
        ran = loop_->run_until_idle();
    }
    if (!ran.ok()) {
        give_up(ran.error());
    }
    log_info("ended");
    return 0;
}

/// Nothing comes back from the kernel any more, and destructors would wait for it.
void Broker::give_up(const sys::Error& error) {
    log_error("{}: ending", error.what);
    listener_->stop();
    ::_exit(1);
}

void Broker::reload_config() {
    if (stopping_) {
        return;
    }
    notify_reloading();
    ReloadOutcome outcome = reload(options_, config_, look_around());
    // The log first: it is what can still fail. And also when the reload is refused: SIGHUP is how
    // a log file is rotated.
    if (auto opened = log_open(outcome.config ? outcome.config->log : config_.log); !opened.ok()) {
        if (outcome.config) {
            outcome.config.reset();
            outcome.changes.clear();
            (void)log_open(config_.log);
        }
        outcome.errors.push_back(opened.error().what);
    }
    for (const std::string& error : outcome.errors) {
        log_error("reload: {}", error);
    }
    if (outcome.config) {
        config_ = std::move(*outcome.config);
        bus_->set_config(config_);
        remotes_->set_config(config_);
        for (const Change& change : outcome.changes) {
            log_info("reload: {}", describe(change));
        }
    }
    log_info("SIGHUP: {}", outcome.summary());
    notify_ready(outcome.summary());
}

void Broker::stop(int signal) {
    if (finished_) {
        return;
    }
    if (stopping_) {
        log_info("{} again: ending at once", strsignal(signal));
        finish();
        return;
    }
    stopping_ = true;
    log_info("{}: stopping, {} connections", strsignal(signal), bus_->connection_count());
    notify_stopping();
    listener_->stop();
    remotes_->stop();
    drain_.start(static_cast<std::int64_t>(config_.limits.drain_timeout_ns));
    bus_->stop([this] { finish(); });
}

void Broker::finish() {
    if (finished_) {
        return;
    }
    finished_ = true;
    remotes_->close();
    bus_->close();
    signals_->stop();
    watchdog_.stop();
    scope_.close([] {});
    loop_->stop();
}

}  // namespace ipcbus::daemon
