// SPDX-License-Identifier: Apache-2.0
// FutexRing: a private io_uring that signals an eventfd when a word of shared memory has been rung,
// or when a time has passed. Linux 6.7 or later (IORING_OP_FUTEX_WAIT), where io_uring is allowed.
// Used by the thread that made it alone: another one is told so, and makes its own.
//
// By raw system calls: it is one file of 150 lines, and liburing would become a dependency of every
// program that links libipcbus. DEFER_TASKRUN is what makes it fit for a library: completions are
// not run by interrupting the thread that submitted (whose epoll_wait would end with EINTR for no
// reason that it can see), but when that thread enters the ring again; the eventfd is signalled at
// once all the same.
#pragma once

#include "sys/fork_closed_fd.hpp"
#include "sys/mapping.hpp"

#include <linux/io_uring.h>
#include <linux/time_types.h>

#include <array>
#include <memory>

namespace ipcbus::sys {

class FutexRing {
public:
    /// Signals go to `eventfd`, which is borrowed. Errors: io_uring is refused, or its kernel
    /// knows no futexes.
    [[nodiscard]] static Result<std::unique_ptr<FutexRing>> create(int eventfd);
    FutexRing(const FutexRing&) = delete;
    FutexRing& operator=(const FutexRing&) = delete;

    /// Signals when `word` is not `expected`, or is woken, or `timeout_ns` have passed; what was
    /// armed before counts no more, though a signal of it may still come until this returns. `word`
    /// nullptr: only the time. EEXIST: this is another thread than the one it was made by.
    [[nodiscard]] Result<void> arm(const std::atomic<std::uint32_t>* word, std::uint32_t expected,
                                   std::int64_t timeout_ns);
    /// Whether what was armed last has signalled. No system call. May say so for what was armed
    /// before it.
    [[nodiscard]] bool signalled();

private:
    explicit FutexRing(int fd);
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
    const std::uint32_t* sq_flags_ = nullptr;
    std::uint32_t* sq_array_ = nullptr;
    std::uint32_t sq_mask_ = 0;
    std::uint32_t* cq_head_ = nullptr;
    const std::uint32_t* cq_tail_ = nullptr;
    const io_uring_cqe* completions_ = nullptr;
    std::uint32_t cq_mask_ = 0;

    std::uint32_t submitted_ = 0;  ///< entries filled since the last call
    std::uint64_t number_ = 0;     ///< of what was armed last
    bool wait_pending_ = false;    ///< its futex wait has not completed
    std::uint64_t timer_ = 0;      ///< number of the timer that is pending; 0: none
    std::int64_t timer_ns_ = 0;    ///< when it ends
    __kernel_timespec timeout_{};
    bool signalled_ = false;
};

}  // namespace ipcbus::sys
