// SPDX-License-Identifier: Apache-2.0
// EventLoop's private half: the io_uring itself, how it is opened on kernels from 6.1 on, and the
// buffers that multishot receives are served from. Included by the .cpp files of the loop
// only, so that liburing stays out of the rest of the daemon. The daemon's one thread.
#pragma once

#include "event_loop.hpp"

#include <liburing.h>

namespace ipcbus::daemon {

/// IORING_OP_FUTEX_WAIT, newer than the headers we build with.
inline constexpr int kFutexWait = 51;

/// A group of provided buffers. What is never received into takes no memory.
class BufferGroup {
public:
    BufferGroup() = default;
    ~BufferGroup();
    BufferGroup(const BufferGroup&) = delete;
    BufferGroup& operator=(const BufferGroup&) = delete;

    /// 0, or a negative errno. `count`: a power of two.
    [[nodiscard]] int provide(io_uring& uring, RecvBuffers number, unsigned count, unsigned bytes);
    [[nodiscard]] std::span<const std::byte> get(unsigned id, int bytes) const;
    void give_back(unsigned id);

private:
    unsigned count_ = 0;
    unsigned bytes_ = 0;
    /// Page-aligned, shared with the kernel: ids of free buffers; the buffers behind it.
    io_uring_buf_ring* ring_ = nullptr;
    std::size_t mapped_bytes_ = 0;
    std::byte* memory_ = nullptr;
};

struct EventLoop::Ring {
    Ring() = default;
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    [[nodiscard]] sys::Result<void> open(const EventLoopOptions& options);
    [[nodiscard]] BufferGroup& buffers(RecvBuffers which) {
        return which == RecvBuffers::small ? small_ : bulk_;
    }

    io_uring uring{};
    bool futex_wait = false;  ///< it knows kFutexWait

private:
    sys::Result<void> open_queues(const EventLoopOptions& options);
    sys::Result<void> probe_operations();
    sys::Result<void> provide_buffers(const EventLoopOptions& options);

    bool opened_ = false;
    BufferGroup small_;
    BufferGroup bulk_;
};

}  // namespace ipcbus::daemon
