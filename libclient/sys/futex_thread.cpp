// SPDX-License-Identifier: Apache-2.0
// The thread, and how it is told. See futex_thread.hpp.
#include "sys/futex_thread.hpp"

#include "sys/assert.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <signal.h>
#include <unistd.h>

#include <cstring>
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
    // Wherever it is before its wait, it finds another value there; in it, it is woken.
    std::atomic<std::uint32_t>& word = request_.word != nullptr ? *request_.word : own_;
    word.fetch_add(1, std::memory_order_release);  // release: as any ring
    futex_wake_all(word);
    called_off_ = true;
    changed_.wait(guard, [this] { return is_idle(); });
}

void FutexThread::arm(std::atomic<std::uint32_t>* word, std::uint32_t expected,
                      std::int64_t timeout_ns) {
    const std::lock_guard guard(mutex_);
    IPCBUS_ASSERT(is_idle());
    ends_ns_ = monotonic_ns() + timeout_ns;
    const bool timed = word == nullptr;
    called_off_ = false;
    request_ = {++number_, timed ? &own_ : word,
                timed ? own_.load(std::memory_order_relaxed) : expected, timeout_ns,
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
    while (::sigqueue(::getpid(), request.signal, value) != 0 && errno == EAGAIN) {
        {
            const std::lock_guard guard(mutex_);
            if (called_off_) {
                return;
            }
        }
        const std::atomic<std::uint32_t> never{0};
        (void)futex_wait(never, 0, kPauseNs);
    }
}

void FutexThread::run() {
    Request request;
    while (next(request)) {
        FutexWait ended = FutexWait::interrupted;
        while (ended == FutexWait::interrupted) {  // a debugger's doing: no signal comes here
            ended = futex_wait(*request.word, request.expected, request.timeout_ns);
        }
        // Before the eventfd is written: who makes that unreadable and then finds nothing here has
        // not taken this signal away. release: pairs with signalled().
        ended_.store(request.number, std::memory_order_release);
        const std::uint64_t one = 1;
        (void)::write(eventfd_, &one, sizeof one);
        if (request.signal != 0) {
            queue_signal(request);
        }
    }
}

}  // namespace ipcbus::sys
