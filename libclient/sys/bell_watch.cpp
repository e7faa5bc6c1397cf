// SPDX-License-Identifier: Apache-2.0
// The thread that watches a bell. See bell_watch.hpp.
#include "sys/bell_watch.hpp"

#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <system_error>

namespace ipcbus::sys {

Result<std::unique_ptr<BellWatch>> BellWatch::create(const std::atomic<std::uint32_t>& bell) {
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) {
        return fail_errno("eventfd");
    }
    std::unique_ptr<BellWatch> made(new BellWatch(bell, std::move(fd)));
    BellWatch& watch = *made;
    const std::uint32_t seen = bell.load(std::memory_order_acquire);
    // The program's signals are not for this thread.
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    (void)::pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = 0;
    try {
        watch.thread_ = std::thread([&watch, seen] { watch.watch(seen); });
    } catch (const std::system_error& error) {
        code = error.code().value();
    }
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (code != 0) {
        return fail(code, std::string("a thread cannot be started: ") + std::strerror(code));
    }
    return made;
}

BellWatch::~BellWatch() {
    if (thread_.joinable()) {
        own_.store(kOver, std::memory_order_release);
        futex_wake_all(own_);
        thread_.join();
    }
}

void BellWatch::clear() {
    std::uint64_t count = 0;
    (void)!::read(fd_.get(), &count, sizeof count);
    std::uint32_t written = kWritten;
    // release, and acquire: whatever the thread did before it wrote.
    if (own_.compare_exchange_strong(written, kWatching, std::memory_order_acq_rel)) {
        futex_wake_all(own_);
    }
}

void BellWatch::wait(std::uint32_t seen) {
    constexpr std::int64_t kLookNs = 100'000'000;
    // acquire: what the owner did before it wrote that.
    if (!futex_wait_either({&bell_, seen}, {&own_, kWatching}, monotonic_ns() + 3'600'000'000'000) &&
        own_.load(std::memory_order_acquire) == kWatching) {
        (void)futex_wait(bell_, seen, kLookNs);
    }
}

void BellWatch::watch(std::uint32_t seen) {
    for (;;) {
        wait(seen);
        std::uint32_t own = own_.load(std::memory_order_acquire);
        // acquire: as [S1]; what was rung for is looked at by the owner, after clear().
        const std::uint32_t now = bell_.load(std::memory_order_acquire);
        if (own == kWatching && now != seen) {
            seen = now;
            // Before the write: a clear() that takes this one's eventfd finds it.
            if (own_.compare_exchange_strong(own, kWritten, std::memory_order_acq_rel)) {
                const std::uint64_t one = 1;
                (void)!::write(fd_.get(), &one, sizeof one);
                own = kWritten;
            }
        }
        while (own == kWritten) {
            (void)futex_wait(own_, kWritten, -1);
            own = own_.load(std::memory_order_acquire);
        }
        if (own == kOver) {
            return;
        }
    }
}

}  // namespace ipcbus::sys
