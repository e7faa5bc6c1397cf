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

/// The one group of provided buffers.
inline constexpr unsigned short kRecvBufferGroup = 0;

struct EventLoop::Ring {
    Ring() = default;
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    [[nodiscard]] sys::Result<void> open(const EventLoopOptions& options);
    [[nodiscard]] std::span<const std::byte> recv_buffer(unsigned id, int bytes) const;
    void return_recv_buffer(unsigned id);

    io_uring uring{};
    bool futex_wait = false;  ///< it knows kFutexWait

private:
    sys::Result<void> open_queues(const EventLoopOptions& options);
    sys::Result<void> probe_operations();
    sys::Result<void> provide_buffers(const EventLoopOptions& options);

    bool opened_ = false;
    unsigned buffer_count_ = 0;
    unsigned buffer_bytes_ = 0;
    /// Page-aligned, shared with the kernel: ids of free buffers.
    io_uring_buf_ring* buffer_ring_ = nullptr;
    std::size_t buffer_ring_bytes_ = 0;
    std::vector<std::byte> buffers_;
};

}  // namespace ipcbus::daemon
