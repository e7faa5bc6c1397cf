// SPDX-License-Identifier: Apache-2.0
// FutexThread: a small thread that waits for a word of shared memory to be rung, or for a time to
// pass, and then signals an eventfd and, if it is to, the process. For where io_uring cannot do it:
// refused, or older than Linux 6.7; and for signals. Used by one thread at a time; all of its own
// thread's signals are blocked, so that it runs nobody's handlers.
//
// It is told to let go by a word of its own, which it waits for, too (futex_waitv): whoever may map
// the other word could swallow a wake-up there, or requeue who sleeps there elsewhere, and
// call_off() must not wait for as long as that sleep may last. Where one can wait for one word
// only, that one is rung, and slept on in slices of at most 100 ms.
#pragma once

#include "sys/result.hpp"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

namespace ipcbus::sys {

class FutexThread {
public:
    /// `eventfd` is borrowed. ENOMEM: the system has no room for a thread.
    [[nodiscard]] static Result<std::unique_ptr<FutexThread>> create(int eventfd);
    /// Waits for the thread's end, which is at once.
    ~FutexThread();
    FutexThread(const FutexThread&) = delete;
    FutexThread& operator=(const FutexThread&) = delete;

    /// The thread lets go of what was armed before: once this returns it looks at its word no more,
    /// and signals for it no more; what has not come to pass by then, it does not signal for at
    /// all. May add to that word. To be called before arm(), and before the look that precedes it.
    void call_off();
    /// Signals when `word` is not `expected`, or is woken, or `timeout_ns` have passed. `word`
    /// nullptr: only the time. Nothing may be armed.
    void arm(std::atomic<std::uint32_t>* word, std::uint32_t expected, std::int64_t timeout_ns);
    /// From the next arm() on `number`, if it is not 0, is queued to the process with `value`, too.
    void notify(int number, void* value) { signal_ = {number, value}; }
    /// Whether what was armed last has signalled.
    [[nodiscard]] bool signalled() const {
        // acquire: pairs with run(); the eventfd is written right after it.
        return ended_.load(std::memory_order_acquire) == number_;
    }
    /// When the time is over for which it was armed.
    [[nodiscard]] std::int64_t ends_ns() const { return ends_ns_; }

private:
    struct Request {
        std::uint64_t number = 0;
        std::atomic<std::uint32_t>* word = nullptr;  ///< nullptr: only the time
        std::uint32_t expected = 0;
        std::uint32_t own = 0;  ///< what is expected of own_
        std::int64_t ends_ns = 0;
        int signal = 0;
        void* signal_value = nullptr;
    };
    struct Signal {
        int number = 0;
        void* value = nullptr;
    };

    explicit FutexThread(int eventfd) : eventfd_(eventfd) {}
    static void* enter(void* self);
    void run();
    void wait(const Request& request);
    [[nodiscard]] bool called_off();
    void queue_signal(const Request& request);
    bool next(Request& ret_request);
    [[nodiscard]] bool is_idle() const { return waited_ == request_.number; }

    const int eventfd_;
    pthread_t thread_{};
    std::mutex mutex_;
    std::condition_variable changed_;
    Request request_;           ///< under the lock
    std::uint64_t waited_ = 0;  ///< number of the last request that is over; under the lock
    bool over_ = false;         ///< under the lock
    bool called_off_ = false;   ///< what is requested is not wanted any more; under the lock
    bool one_only_ = false;     ///< it cannot wait for two words; under the lock
    /// Waited for beside the other word, or alone when there is only the time: call_off() adds.
    std::atomic<std::uint32_t> own_{0};
    std::atomic<std::uint64_t> ended_{0};
    std::uint64_t number_ = 0;  ///< of the last request, as its user knows it
    Signal signal_;             ///< its user's
    std::int64_t ends_ns_ = 0;  ///< its user's, too
};

}  // namespace ipcbus::sys
