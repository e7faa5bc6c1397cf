// SPDX-License-Identifier: Apache-2.0
// Signals through a signalfd. The loop polls it and we read(2) ourselves, without blocking: an
// io_uring READ of a signalfd goes to a kernel worker on kernels before 6.10, and a worker does not
// see this thread's signals. The daemon's one thread.
#include "signals.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

namespace ipcbus::daemon {

namespace {

constexpr std::int64_t kAgainNs = 100'000'000;

}  // namespace

sys::Result<std::unique_ptr<Signals>> Signals::create(EventLoop& loop,
                                                      std::function<void(int)> on_stop,
                                                      std::function<void()> on_reload) {
    // A client that hangs up is EPIPE for us, not death. (Sends say MSG_NOSIGNAL too; this is for
    // a log that goes into a pipe.)
    if (::signal(SIGPIPE, SIG_IGN) == SIG_ERR) {
        return sys::fail_errno("signal(SIGPIPE)");
    }
    sigset_t watched;
    ::sigemptyset(&watched);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
        ::sigaddset(&watched, signal);
    }
    if (::sigprocmask(SIG_BLOCK, &watched, nullptr) != 0) {
        return sys::fail_errno("sigprocmask");
    }
    sys::UniqueFd fd(::signalfd(-1, &watched, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!fd) {
        return sys::fail_errno("signalfd");
    }
    return std::unique_ptr<Signals>(
        new Signals(loop, std::move(fd), std::move(on_stop), std::move(on_reload)));
}

Signals::Signals(EventLoop& loop, sys::UniqueFd fd, std::function<void(int)> on_stop,
                 std::function<void()> on_reload)
    : fd_(std::move(fd)),
      on_stop_(std::move(on_stop)),
      on_reload_(std::move(on_reload)),
      scope_(loop),
      poll_(scope_,
            [this](int error) {
                if (error != 0) {
                    again_.start(kAgainNs);  // out of memory: but never deaf
                    return;
                }
                read_all();
                poll_.start(fd_.get(), POLLIN);
            }),
      again_(scope_, [this] { poll_.start(fd_.get(), POLLIN); }) {
    poll_.start(fd_.get(), POLLIN);
}

void Signals::stop() { scope_.close(nullptr); }

void Signals::read_all() {
    signalfd_siginfo info;
    // Standard signals do not queue: at most one of each kind is pending. `closing`: a callback
    // may have stopped us.
    while (!scope_.closing() && ::read(fd_.get(), &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGHUP) {
            on_reload_();
        } else {
            on_stop_(static_cast<int>(info.ssi_signo));
        }
    }
}

}  // namespace ipcbus::daemon
