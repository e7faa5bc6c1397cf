// SPDX-License-Identifier: Apache-2.0
// FutexRing: a private io_uring that signals an eventfd when a word of shared memory has been rung,
// or when a time has passed. Linux 6.7 or later (IORING_OP_FUTEX_WAIT), where io_uring is allowed.
// Armed by the thread that made it alone: another one is told so, and takes its own.
//
// By raw system calls: it is one small file, and liburing would become a dependency of every
// program that links libipcbus. DEFER_TASKRUN is what makes it fit for a library: completions are
// not run by interrupting the thread that submitted (whose epoll_wait would end with EINTR for no
// reason that it can see), but when that thread enters the ring again; the eventfd is signalled at
// once all the same.
//
// NEVER CLOSED while its thread lives: the kernel's clean-up of a ring interrupts, in the same way,
// the thread that made it, whoever closes it. A ring that is given back, by any thread, is kept for
// the next that its own thread wants. So that threads through which many handles go do not each
// keep as many as they ever had at once, none is made while kFreeMax are free in this process: no
// more are open than were ever in use at once, and these.
//
// A ring that was given back leaves its futex wait queued on the bell of before, until it is armed
// again: right only because whoever rings wakes all (FUTEX_WAKE of one might wake that alone).
#pragma once

#include "sys/fork_closed_fd.hpp"
#include "sys/mapping.hpp"

#include <linux/io_uring.h>
#include <linux/time_types.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace ipcbus::sys {

class FutexRing {
public:
    /// To its thread, from any.
    struct GiveBack {
        std::shared_ptr<FutexRing> ring;
        void operator()(FutexRing* given);
    };
    using Taken = std::unique_ptr<FutexRing, GiveBack>;
    static constexpr int kFreeMax = 16;

    /// One of this thread's. Signals go to `eventfd`, which is borrowed; those for what whoever had
    /// it before has armed may, too, until it is armed. Errors: io_uring is refused, or its kernel
    /// knows no futexes; too many are free in other threads.
    [[nodiscard]] static Result<Taken> take(int eventfd);
    ~FutexRing();
    FutexRing(const FutexRing&) = delete;
    FutexRing& operator=(const FutexRing&) = delete;

    /// Signals when `word` is not `expected`, or is woken, or `timeout_ns` have passed; what was
    /// armed before counts no more, though a signal of it may still come until this returns. `word`
    /// nullptr: only the time. An Error: as if it had not been called, or what is armed may signal,
    /// but need not. EEXIST: this is another thread than the one it was made by.
    [[nodiscard]] Result<void> arm(const std::atomic<std::uint32_t>* word, std::uint32_t expected,
                                   std::int64_t timeout_ns);
    /// Whether what was armed last has signalled. No system call. May say so for what was armed
    /// before it.
    [[nodiscard]] bool signalled();
    /// When the time is over for which it was armed: a timer that ends earlier is left as it is.
    [[nodiscard]] std::int64_t ends_ns() const { return now_.timer_ns; }

private:
    struct State {
        std::uint64_t number = 0;   ///< of what was armed last
        bool wait_pending = false;  ///< its futex wait has not completed
        std::uint64_t timer = 0;    ///< number of the timer that is pending; 0: none
        std::int64_t timer_ns = 0;  ///< when it ends
        bool signalled = false;
    };

    FutexRing() = default;
    static Result<std::shared_ptr<FutexRing>> make();
    Result<void> signal_to(int eventfd);
    Result<void> map(const io_uring_params& parameters);
    Result<void> expect_futexes();
    io_uring_sqe& next_entry();
    void add_timeout(std::int64_t timeout_ns);
    void take_completions();

    // What is inherited is unmapped by the kernel in a child (VM_DONTCOPY is set below).
    ForkClosedFd fd_;
    Mapping rings_;
    Mapping entries_;
    std::uint32_t* sq_tail_ = nullptr;
    const std::uint32_t* sq_head_ = nullptr;
    std::uint32_t* sq_flags_ = nullptr;
    std::uint32_t* sq_array_ = nullptr;
    std::uint32_t sq_mask_ = 0;
    std::uint32_t* cq_head_ = nullptr;
    const std::uint32_t* cq_tail_ = nullptr;
    const io_uring_cqe* completions_ = nullptr;
    std::uint32_t cq_mask_ = 0;

    std::uint32_t submitted_ = 0;  ///< entries filled since the last call
    State now_;
    __kernel_timespec timeout_{};
    /// Set by its thread, cleared by whoever gives it back.
    std::atomic<bool> taken_{true};
};

}  // namespace ipcbus::sys
