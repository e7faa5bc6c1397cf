// SPDX-License-Identifier: Apache-2.0
// Handlers and the ticking timer; see stop_signal.hpp. The variables below are shared between the
// one thread and its signal handlers, hence lock-free atomics, and at file scope, where a handler
// can reach them.
#include "stop_signal.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <initializer_list>
#include <unistd.h>

namespace ipcbus::tools {

using sys::fail_errno;
using sys::Result;

namespace {

constexpr long kTickNs = 10'000'000;

static_assert(std::atomic<int>::is_always_lock_free, "used in signal handlers");
std::atomic<int> first_signal{0};
std::atomic<bool> exit_at_once{true};
timer_t tick_timer;

void on_stop(int signal) {
    if (exit_at_once.load(std::memory_order_relaxed)) {
        ::_exit(128 + signal);
    }
    const int saved_errno = errno;
    int none = 0;
    (void)first_signal.compare_exchange_strong(none, signal, std::memory_order_relaxed);
    itimerspec every_tick{};
    every_tick.it_interval.tv_nsec = kTickNs;
    every_tick.it_value.tv_nsec = kTickNs;
    (void)::timer_settime(tick_timer, 0, &every_tick, nullptr);  // async-signal-safe in POSIX
    errno = saved_errno;
}

void on_tick(int) {}

}  // namespace

Result<void> install_stop_signals() {
    sigevent tick{};
    tick.sigev_notify = SIGEV_SIGNAL;
    tick.sigev_signo = SIGALRM;
    if (::timer_create(CLOCK_MONOTONIC, &tick, &tick_timer) != 0) {
        return fail_errno("timer_create");
    }
    struct sigaction action{};
    (void)::sigemptyset(&action.sa_mask);
    action.sa_handler = on_tick;  // no SA_RESTART anywhere: waits must end
    if (::sigaction(SIGALRM, &action, nullptr) != 0) {
        return fail_errno("sigaction");
    }
    sigset_t unblocked;
    (void)::sigemptyset(&unblocked);
    (void)::sigaddset(&unblocked, SIGALRM);
    (void)::sigprocmask(SIG_UNBLOCK, &unblocked, nullptr);

    action.sa_handler = on_stop;
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        struct sigaction inherited{};
        if (::sigaction(signal, nullptr, &inherited) == 0 && inherited.sa_handler == SIG_IGN) {
            continue;
        }
        if (::sigaction(signal, &action, nullptr) != 0) {
            return fail_errno("sigaction");
        }
    }
    return {};
}

void finish_messages_on_stop() { exit_at_once.store(false, std::memory_order_relaxed); }

void exit_at_once_on_stop() { exit_at_once.store(true, std::memory_order_relaxed); }

int stop_signal() { return first_signal.load(std::memory_order_relaxed); }

}  // namespace ipcbus::tools
