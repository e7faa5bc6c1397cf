// SPDX-License-Identifier: Apache-2.0
// See progress.hpp: whose thread does what.
#include "progress.hpp"

#include "cli.hpp"
#include "sys/clock.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <pthread.h>
#include <string>
#include <system_error>

namespace ipcbus::tools {

namespace {

constexpr std::chrono::seconds kEvery{1};

/// "1234567/s", with a digit behind the point where it is small.
std::string show_rate(std::uint64_t messages, std::int64_t time_ns) {
    const double rate = static_cast<double>(messages) * 1e9 / static_cast<double>(time_ns);
    char text[40];
    (void)std::snprintf(text, sizeof text, rate < 100 ? "%.1f/s" : "%.0f/s", rate);
    return text;
}

}  // namespace

bool Progress::start() {
    started_ns_ = sys::monotonic_ns();
    sigset_t all;
    sigset_t before;
    (void)::sigfillset(&all);
    (void)::pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    try {
        thread_ = std::thread(&Progress::run, this);
    } catch (const std::system_error& failed) {
        error = failed.code().value();
    }
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    errno = error;
    return error == 0;
}

void Progress::stop() {
    if (!thread_.joinable()) {
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    stopping_changed_.notify_one();
    thread_.join();
    const std::uint64_t messages = messages_.load(std::memory_order_relaxed);  // our own
    const std::int64_t time_ns = std::max<std::int64_t>(sys::monotonic_ns() - started_ns_, 1);
    constexpr std::int64_t kMillisecondNs = 1'000'000;
    report(tool_, plural(messages, "message") + " in " +
                      show_duration(time_ns - time_ns % kMillisecondNs) + ", " +
                      show_rate(messages, time_ns));
}

void Progress::run() {
    std::uint64_t messages_before = 0;
    std::int64_t before_ns = started_ns_;
    std::unique_lock lock(mutex_);
    while (!stopping_changed_.wait_for(lock, kEvery, [this] { return stopping_; })) {
        const std::uint64_t messages = messages_.load(std::memory_order_relaxed);  // to show
        const std::int64_t now_ns = sys::monotonic_ns();
        report(tool_, plural(messages, "message") + ", " +
                          show_rate(messages - messages_before, now_ns - before_ns));
        messages_before = messages;
        before_ns = now_ns;
    }
}

}  // namespace ipcbus::tools
