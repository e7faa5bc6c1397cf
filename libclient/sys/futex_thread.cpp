// SPDX-License-Identifier: Apache-2.0
// The thread, and how it is told. See futex_thread.hpp.
#include "sys/futex_thread.hpp"

#include "sys/assert.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace ipcbus::sys {

namespace {

/// More than it needs; a program's thread-local variables lie there, too.
constexpr std::size_t kStackBytes = 256 * 1024;

}  // namespace

Result<std::unique_ptr<FutexThread>> FutexThread::create(int eventfd) {
    std::unique_ptr<FutexThread> made(new FutexThread(eventfd));
    pthread_attr_t attributes;
    (void)::pthread_attr_init(&attributes);
    (void)::pthread_attr_setstacksize(&attributes, kStackBytes);
    sigset_t all;
    sigset_t before;
    (void)::sigfillset(&all);
    (void)::pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = ::pthread_create(&made->thread_, &attributes, enter, made.get());
    if (error == EINVAL) {  // thread-local variables larger than that stack
        error = ::pthread_create(&made->thread_, nullptr, enter, made.get());
    }
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    (void)::pthread_attr_destroy(&attributes);
    if (error != 0) {
        made->over_ = true;
        return fail(error == EAGAIN ? ENOMEM : error,
                    std::string("pthread_create: ") + std::strerror(error));
    }
    return made;
}

FutexThread::~FutexThread() {
    {
        const std::lock_guard guard(mutex_);
        if (over_) {
            return;  // there is no thread
        }
    }
    // First: a thread that has only just begun is to take its request, and say that it is done.
    call_off();
    {
        const std::lock_guard guard(mutex_);
        over_ = true;
        changed_.notify_all();
    }
    (void)::pthread_join(thread_, nullptr);
}

void FutexThread::call_off() {
    std::unique_lock guard(mutex_);
    if (is_idle()) {
        return;
    }
    called_off_ = true;
    // Wherever it is before its wait, it finds another value there; in it, it is woken.
    const auto ring = [](std::atomic<std::uint32_t>& word) {
        word.fetch_add(1, std::memory_order_release);  // release: as any ring
        futex_wake_all(word);
    };
    ring(own_);
    if (one_only_ && request_.word != nullptr) {
        ring(*request_.word);
    }
    changed_.wait(guard, [this] { return is_idle(); });
}

void FutexThread::arm(std::atomic<std::uint32_t>* word, std::uint32_t expected,
                      std::int64_t timeout_ns) {
    const std::lock_guard guard(mutex_);
    IPCBUS_ASSERT(is_idle());
    ends_ns_ = monotonic_ns() + timeout_ns;
    called_off_ = false;
    // relaxed: only call_off() adds to it.
    request_ = {++number_, word, expected, own_.load(std::memory_order_relaxed), ends_ns_,
                signal_.number, signal_.value};
    changed_.notify_all();
}

void* FutexThread::enter(void* self) {
    static_cast<FutexThread*>(self)->run();
    return nullptr;
}

bool FutexThread::next(Request& ret_request) {
    std::unique_lock guard(mutex_);
    waited_ = ret_request.number;
    changed_.notify_all();
    changed_.wait(guard, [this] { return over_ || !is_idle(); });
    ret_request = request_;
    return !over_;
}

/// A process may have so many queued signals and no more: this one is not lost for it, it waits.
void FutexThread::queue_signal(const Request& request) {
    constexpr std::int64_t kPauseNs = 10'000'000;
    sigval value{};
    value.sival_ptr = request.signal_value;
    while (!called_off() && ::sigqueue(::getpid(), request.signal, value) != 0 &&
           errno == EAGAIN) {
        (void)futex_wait(own_, request.own, kPauseNs);
    }
}

bool FutexThread::called_off() {
    const std::lock_guard guard(mutex_);
    return called_off_;
}

/// Until something has come to pass of what was requested, or it is called off.
void FutexThread::wait(const Request& request) {
    constexpr std::int64_t kSliceNs = 100'000'000;
    // Again when interrupted: a debugger's doing, no signal comes here.
    std::optional<FutexWait> ended = FutexWait::interrupted;
    while (request.word != nullptr && ended == FutexWait::interrupted) {
        ended = futex_wait_either({request.word, request.expected}, {&own_, request.own},
                                  request.ends_ns);
    }
    if (request.word != nullptr && ended.has_value()) {
        return;
    }
    {
        const std::lock_guard guard(mutex_);
        one_only_ = one_only_ || request.word != nullptr;
    }
    const std::atomic<std::uint32_t>& word = request.word != nullptr ? *request.word : own_;
    const std::uint32_t expected = request.word != nullptr ? request.expected : request.own;
    do {
        const std::int64_t left_ns = request.ends_ns - monotonic_ns();
        if (left_ns <= 0 || called_off()) {  // called off: perhaps before it was known how
            return;
        }
        ended = futex_wait(word, expected, std::min(left_ns, kSliceNs));
    } while (ended == FutexWait::timed_out || ended == FutexWait::interrupted);
}

void FutexThread::run() {
    Request request;
    while (next(request)) {
        wait(request);
        if (called_off()) {
            continue;  // whoever called it off looks at the rings after that: no news for a signal
        }
        // Before the eventfd is written: who makes that unreadable and then finds nothing here has
        // not taken this signal away. release: pairs with signalled().
        ended_.store(request.number, std::memory_order_release);
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto written = ::write(eventfd_, &one, sizeof one);
        if (request.signal != 0) {
            queue_signal(request);
        }
    }
}

}  // namespace ipcbus::sys
