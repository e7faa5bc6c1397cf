// SPDX-License-Identifier: Apache-2.0
// BellWatch: makes a futex word something that poll() understands: a thread sleeps on the word and
// writes an eventfd when it has changed. For who waits for sockets as well: the library's bridge,
// and the daemon where io_uring cannot wait for a futex (before Linux 6.7). Owned by the one thread
// that polls; the word outlives it.
//
//   owner: clear(), then load the bell [S1], then look at everything, then poll(fd)
// A change before that load is seen by the looks; one after it writes the eventfd.
//
// TRUST. Others may write the word at any time, and wake whoever sleeps on it: what ends the thread
// is a word of its own, which it waits for at the same time, so the owner is never held up. And the
// thread looks at nothing between its write and the owner's clear(): who rings without a pause
// wakes it no more often than the owner takes notice, who naps as it thinks fit.
#pragma once

#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

namespace ipcbus::sys {

class BellWatch {
public:
    [[nodiscard]] static Result<std::unique_ptr<BellWatch>>
    create(const std::atomic<std::uint32_t>& bell);
    /// Ends the thread, which is at once (100 ms where there is no futex_waitv).
    ~BellWatch();
    BellWatch(const BellWatch&) = delete;
    BellWatch& operator=(const BellWatch&) = delete;

    /// Readable when the word has changed since clear().
    [[nodiscard]] int fd() const { return fd_.get(); }
    void clear();

private:
    /// The thread's own word. 0 is what it waits with.
    enum : std::uint32_t { kWatching = 0, kWritten = 1, kOver = 2 };

    BellWatch(const std::atomic<std::uint32_t>& bell, UniqueFd fd)
        : bell_(bell), fd_(std::move(fd)) {}
    void wait(std::uint32_t seen);
    void watch(std::uint32_t seen);

    const std::atomic<std::uint32_t>& bell_;
    UniqueFd fd_;
    std::atomic<std::uint32_t> own_{kWatching};
    std::thread thread_;
};

}  // namespace ipcbus::sys
