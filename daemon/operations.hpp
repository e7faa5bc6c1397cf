// SPDX-License-Identifier: Apache-2.0
// The kinds of Operation: what the daemon asks of its io_uring. Each is a member of its owner,
// constructed once with its scope and callbacks, and started when wanted; a callback may start it
// again. Errors are positive errno values, 0 is none. Descriptors passed as plain `int` are
// borrowed and must stay open until the operation is not submitted; whether a socket is in blocking
// mode makes no difference. Daemon's one thread only.
#pragma once

#include "event_loop.hpp"

#include <linux/time_types.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace ipcbus::daemon {

/// Multishot accept, CLOEXEC. It rearms itself as long as connections come; after an error it is
/// stopped, and the owner decides when to start() it again (never at once: EMFILE would spin).
class AcceptOperation final : public Operation {
public:
    AcceptOperation(OperationScope& scope, std::function<void(sys::UniqueFd)> on_accepted,
                    std::function<void(int error)> on_error);
    ~AcceptOperation() override { abandon(); }
    void start(int listening_socket);

private:
    void prepare(io_uring_sqe& sqe) override;
    void complete(int result, unsigned flags, bool more) override;
    void discard(int result, unsigned flags) override;

    std::function<void(sys::UniqueFd)> on_accepted_;
    std::function<void(int)> on_error_;
    int socket_ = -1;
};

/// Multishot receive into the loop's buffers: plain RECV, so descriptors that a client passes
/// vanish. `on_bytes`: valid during the call only, copy them. `on_end`: 0 the peer has hung up,
/// else the error; nothing comes after it. Bytes that arrived before a hang-up come before on_end.
class RecvOperation final : public Operation {
public:
    RecvOperation(OperationScope& scope, std::function<void(std::span<const std::byte>)> on_bytes,
                  std::function<void(int error)> on_end);
    ~RecvOperation() override { abandon(); }
    void start(int socket, RecvBuffers into = RecvBuffers::small);

private:
    void prepare(io_uring_sqe& sqe) override;
    void complete(int result, unsigned flags, bool more) override;
    void discard(int result, unsigned flags) override;

    std::function<void(std::span<const std::byte>)> on_bytes_;
    std::function<void(int)> on_end_;
    int socket_ = -1;
    RecvBuffers into_ = RecvBuffers::small;
};

/// Sends all of `bytes`, descriptors with the first of them; waits (in the kernel) while the peer
/// does not read. Owns bytes and descriptors until done. One at a time.
class SendOperation final : public Operation {
public:
    static constexpr std::size_t kFdsMax = 16;

    /// `on_done`: 0 everything was handed to the socket, else the error. bytes_sent() tells how
    /// far it came; the descriptors went if it is not 0.
    SendOperation(OperationScope& scope, std::function<void(int error)> on_done);
    ~SendOperation() override { abandon(); }
    void start(int socket, std::vector<std::byte> bytes, std::vector<SharedFd> fds = {});
    [[nodiscard]] std::size_t bytes_sent() const { return bytes_sent_; }
    /// What the last one was sent from, empty: for the next one.
    [[nodiscard]] std::vector<std::byte> take_buffer() { return std::exchange(bytes_, {}); }

private:
    void prepare(io_uring_sqe& sqe) override;
    void complete(int result, unsigned flags, bool more) override;

    std::function<void(int)> on_done_;
    int socket_ = -1;
    std::vector<std::byte> bytes_;
    std::vector<SharedFd> fds_;
    std::size_t bytes_sent_ = 0;
    msghdr message_{};
    iovec part_{};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kFdsMax * sizeof(int))> control_{};
};

/// Waits once until `fd` is ready: signalfd, pidfd (readable: the process has died).
class PollOperation final : public Operation {
public:
    PollOperation(OperationScope& scope, std::function<void(int error)> on_ready);
    ~PollOperation() override { abandon(); }
    void start(int fd, unsigned events);

private:
    void prepare(io_uring_sqe& sqe) override;
    void complete(int result, unsigned flags, bool more) override;

    std::function<void(int)> on_ready_;
    int fd_ = -1;
    unsigned events_ = 0;
};

/// Waits once until a futex word is another than the value given: needs
/// EventLoop::can_wait_for_futex(). Nothing keeps anybody from waking it for no reason.
class FutexOperation final : public Operation {
public:
    FutexOperation(OperationScope& scope, std::function<void()> on_woken);
    ~FutexOperation() override { abandon(); }
    void start(const std::atomic<std::uint32_t>& word, std::uint32_t value);

private:
    void prepare(io_uring_sqe& sqe) override;
    void complete(int result, unsigned flags, bool more) override;

    std::function<void()> on_woken_;
    const std::atomic<std::uint32_t>* word_ = nullptr;
    std::uint32_t value_ = 0;
};

/// A relative timer, one expiry a start. start() while it runs sets it anew; stop() is final: the
/// callback does not come, even if the time had passed already.
class Timer final : public Operation {
public:
    Timer(OperationScope& scope, std::function<void()> on_expired);
    ~Timer() override { abandon(); }
    void start(std::int64_t timeout_ns);
    void stop();
    /// True from start() until the expiry or stop().
    [[nodiscard]] bool running() const { return running_; }

private:
    void prepare(io_uring_sqe& sqe) override;
    void complete(int result, unsigned flags, bool more) override;

    std::function<void()> on_expired_;
    std::int64_t deadline_ns_ = 0;
    __kernel_timespec timespec_{};
    bool running_ = false;
};

/// Reserves memory of a file on a kernel worker (256 MiB take 66 ms). Cannot be cancelled once it
/// runs. `on_done`: 0, or ENOSPC, ENOMEM ...
class FallocateOperation final : public Operation {
public:
    FallocateOperation(OperationScope& scope, std::function<void(int error)> on_done);
    ~FallocateOperation() override { abandon(); }
    void start(SharedFd fd, std::uint64_t offset, std::uint64_t bytes);

private:
    void prepare(io_uring_sqe& sqe) override;
    void complete(int result, unsigned flags, bool more) override;

    std::function<void(int)> on_done_;
    SharedFd fd_;
    std::uint64_t offset_ = 0;
    std::uint64_t bytes_ = 0;
};

}  // namespace ipcbus::daemon
