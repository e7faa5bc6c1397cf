// SPDX-License-Identifier: Apache-2.0
// Alarm: a descriptor, for any event loop, that becomes readable when a word of shared memory has
// been rung, or when a time has passed. It is an eventfd all its life; who writes it is a private
// io_uring of the thread that arms it (futex_ring.hpp) or, where that cannot be, a small thread
// (futex_thread.hpp), which then stays: also later, when the program has forbidden itself io_uring
// meanwhile, or a call of it has failed only once, or when threads take turns to use it: each would
// need a ring of its own. Readable whenever it is not armed. Used by one thread at a time.
// arm, disarm: checked by tests/model/wake.pml (-DLOOP).
#pragma once

#include "sys/fork_closed_fd.hpp"
#include "sys/futex_ring.hpp"
#include "sys/futex_thread.hpp"

#include <memory>

namespace ipcbus::sys {

class Alarm {
public:
    /// Errors: no descriptor or no memory is left; neither io_uring nor a thread can be had.
    [[nodiscard]] static Result<std::unique_ptr<Alarm>> create();
    ~Alarm();
    Alarm(const Alarm&) = delete;
    Alarm& operator=(const Alarm&) = delete;

    /// Not to be read or written by anybody else.
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] bool armed() const { return armed_; }

    /// Before the value that is to be expected is read: lets go of what was armed, which makes it
    /// readable no more. May add to its word.
    void call_off();
    /// Not readable from here on, until `word` is not `expected`, or is woken, or `timeout_ns` have
    /// passed. `word` nullptr: only the time. An Error: it is not armed.
    [[nodiscard]] Result<void> arm(std::atomic<std::uint32_t>* word, std::uint32_t expected,
                                   std::int64_t timeout_ns);
    /// Each time that the descriptor becomes readable by what it is armed for, `number` is queued
    /// to this process with `value`, too; 0: no more. Not while it is armed.
    [[nodiscard]] Result<void> notify(int number, void* value);
    /// Readable from here on. Whether it was before, by what it was armed for.
    bool disarm();
    /// When the time of what was armed last is over: at the latest when it was asked for, counted
    /// from the return of arm(), but perhaps earlier. Who is woken before was woken by the word.
    [[nodiscard]] std::int64_t ends_ns() const {
        return thread_ != nullptr ? thread_->ends_ns() : ring_->ends_ns();
    }

private:
    Alarm() = default;
    Result<void> take_ring();
    Result<void> take_thread();
    [[nodiscard]] bool signalled();
    void make_readable();
    void make_unreadable();

    ForkClosedFd fd_;
    FutexRing::Taken ring_;
    std::unique_ptr<FutexThread> thread_;
    bool armed_ = false;
    bool has_moved_ = false;  ///< to another thread, once: what happens to most
};

}  // namespace ipcbus::sys
