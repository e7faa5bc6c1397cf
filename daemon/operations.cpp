// SPDX-License-Identifier: Apache-2.0
// The kinds of Operation: how each is asked for, and what its completions mean. A multishot request
// that the kernel ended for reasons of its own (full completion queue, no receive buffer left) is
// placed again at once; it reaches the kernel at the end of the turn, when every callback has run
// and every buffer is back, so this cannot spin. The daemon's one thread.
#include "operations.hpp"

#include "uring.hpp"

#include "sys/clock.hpp"

#include <poll.h>

#include <cerrno>
#include <cstring>

namespace ipcbus::daemon {

// --- AcceptOperation ----------------------------------------------------------------------------

AcceptOperation::AcceptOperation(OperationScope& scope,
                                 std::function<void(sys::UniqueFd)> on_accepted,
                                 std::function<void(int)> on_error)
    : Operation(scope), on_accepted_(std::move(on_accepted)), on_error_(std::move(on_error)) {}

void AcceptOperation::start(int listening_socket) {
    socket_ = listening_socket;
    submit();
}

void AcceptOperation::prepare(io_uring_sqe& sqe) {
    io_uring_prep_multishot_accept(&sqe, socket_, nullptr, nullptr, SOCK_CLOEXEC);
}

void AcceptOperation::complete(int result, unsigned, bool more) {
    if (result >= 0) {
        on_accepted_(sys::UniqueFd(result));
    }
    if (more) {
        return;
    }
    const bool again = result >= 0 || result == -ECONNABORTED || result == -EINTR;
    if (again && !cancel_requested()) {
        submit();
    } else {
        on_error_(again ? ECANCELED : -result);
    }
}

void AcceptOperation::discard(int result, unsigned) {
    sys::UniqueFd unwanted(result >= 0 ? result : -1);
}

// --- RecvOperation ------------------------------------------------------------------------------

RecvOperation::RecvOperation(OperationScope& scope,
                             std::function<void(std::span<const std::byte>)> on_bytes,
                             std::function<void(int)> on_end)
    : Operation(scope), on_bytes_(std::move(on_bytes)), on_end_(std::move(on_end)) {}

void RecvOperation::start(int socket, RecvBuffers into) {
    socket_ = socket;
    into_ = into;
    submit();
}

void RecvOperation::prepare(io_uring_sqe& sqe) {
    io_uring_prep_recv_multishot(&sqe, socket_, nullptr, 0, 0);
    sqe.flags |= IOSQE_BUFFER_SELECT;
    sqe.buf_group = static_cast<std::uint16_t>(into_);
}

void RecvOperation::complete(int result, unsigned flags, bool more) {
    if (result > 0) {
        on_bytes_(loop().recv_buffer(into_, flags, result));
    }
    loop().return_recv_buffer(into_, flags);
    if (more) {
        return;
    }
    const bool again = result > 0 || result == -ENOBUFS || result == -EINTR;
    if (again && !cancel_requested()) {
        submit();
    } else {
        on_end_(again ? ECANCELED : -result);
    }
}

void RecvOperation::discard(int, unsigned flags) { loop().return_recv_buffer(into_, flags); }

// --- SendOperation ------------------------------------------------------------------------------

SendOperation::SendOperation(OperationScope& scope, std::function<void(int)> on_done)
    : Operation(scope), on_done_(std::move(on_done)) {}

void SendOperation::start(int socket, std::vector<std::byte> bytes, std::vector<SharedFd> fds) {
    IPCBUS_ASSERT(!submitted());
    IPCBUS_ASSERT(!bytes.empty());
    IPCBUS_ASSERT(fds.size() <= kFdsMax);
    socket_ = socket;
    bytes_ = std::move(bytes);
    fds_ = std::move(fds);
    bytes_sent_ = 0;
    submit();
}

void SendOperation::prepare(io_uring_sqe& sqe) {
    part_ = iovec{bytes_.data() + bytes_sent_, bytes_.size() - bytes_sent_};
    message_ = msghdr{};
    message_.msg_iov = &part_;
    message_.msg_iovlen = 1;
    if (bytes_sent_ == 0 && !fds_.empty()) {
        // Built anew each time: a short write has taken the descriptors with its first byte.
        message_.msg_control = control_.data();
        message_.msg_controllen = CMSG_SPACE(fds_.size() * sizeof(int));
        cmsghdr* const header = CMSG_FIRSTHDR(&message_);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fds_.size() * sizeof(int));
        for (std::size_t i = 0; i < fds_.size(); ++i) {
            const int fd = fds_[i]->get();
            std::memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof fd);
        }
    }
    io_uring_prep_sendmsg(&sqe, socket_, &message_, MSG_NOSIGNAL);
}

void SendOperation::complete(int result, unsigned, bool) {
    int error = result < 0 ? -result : 0;
    if (result > 0) {
        bytes_sent_ += static_cast<std::size_t>(result);
    }
    const bool unfinished = bytes_sent_ < bytes_.size() && (error == 0 || error == EINTR);
    if (unfinished && !cancel_requested()) {
        submit();
        return;
    }
    if (unfinished) {
        error = ECANCELED;
    }
    bytes_.clear();
    fds_.clear();
    on_done_(error);
}

// --- PollOperation ------------------------------------------------------------------------------

PollOperation::PollOperation(OperationScope& scope, std::function<void(int)> on_ready)
    : Operation(scope), on_ready_(std::move(on_ready)) {}

void PollOperation::start(int fd, unsigned events) {
    fd_ = fd;
    events_ = events;
    submit();
}

void PollOperation::prepare(io_uring_sqe& sqe) { io_uring_prep_poll_add(&sqe, fd_, events_); }

void PollOperation::complete(int result, unsigned, bool) { on_ready_(result < 0 ? -result : 0); }

// --- FutexOperation -----------------------------------------------------------------------------

FutexOperation::FutexOperation(OperationScope& scope, std::function<void()> on_woken)
    : Operation(scope), on_woken_(std::move(on_woken)) {}

void FutexOperation::start(const std::atomic<std::uint32_t>& word, std::uint32_t value) {
    word_ = &word;
    value_ = value;
    submit();
}

void FutexOperation::prepare(io_uring_sqe& sqe) {
    constexpr int kFutex2SizeU32 = 2;  // and shared between processes
    io_uring_prep_rw(kFutexWait, &sqe, kFutex2SizeU32, word_, 0, value_);
    sqe.addr3 = ~std::uint32_t{0};
}

void FutexOperation::complete(int, unsigned, bool) { on_woken_(); }

// --- Timer --------------------------------------------------------------------------------------

Timer::Timer(OperationScope& scope, std::function<void()> on_expired)
    : Operation(scope), on_expired_(std::move(on_expired)) {}

void Timer::start(std::int64_t timeout_ns) {
    if (scope().closing()) {
        return;
    }
    running_ = true;
    deadline_ns_ = sys::monotonic_ns() + timeout_ns;
    if (submitted()) {
        cancel();  // its completion submits it again, with the new deadline
    } else {
        submit();
    }
}

void Timer::stop() {
    running_ = false;
    if (submitted()) {
        cancel();
    }
}

void Timer::prepare(io_uring_sqe& sqe) {
    constexpr std::int64_t kSecond_ns = 1'000'000'000;
    timespec_.tv_sec = deadline_ns_ / kSecond_ns;
    timespec_.tv_nsec = deadline_ns_ % kSecond_ns;
    // Absolute, CLOCK_MONOTONIC: how long it waits in the backlog does not matter.
    io_uring_prep_timeout(&sqe, &timespec_, 0, IORING_TIMEOUT_ABS);
}

void Timer::complete(int result, unsigned, bool) {
    if (!running_) {
        return;
    }
    if (result != -ETIME && result != -ECANCELED) {
        // The kernel has no memory for a timer. Nothing would wake us, so look again soon.
        (void)::poll(nullptr, 0, 1);
    }
    if (sys::monotonic_ns() < deadline_ns_) {  // started anew meanwhile
        submit();
        return;
    }
    running_ = false;
    on_expired_();
}

// --- FallocateOperation -------------------------------------------------------------------------

FallocateOperation::FallocateOperation(OperationScope& scope, std::function<void(int)> on_done)
    : Operation(scope), on_done_(std::move(on_done)) {}

void FallocateOperation::start(SharedFd fd, std::uint64_t offset, std::uint64_t bytes) {
    IPCBUS_ASSERT(!submitted());
    fd_ = std::move(fd);
    offset_ = offset;
    bytes_ = bytes;
    submit();
}

void FallocateOperation::prepare(io_uring_sqe& sqe) {
    io_uring_prep_fallocate(&sqe, fd_->get(), 0, static_cast<off_t>(offset_),
                            static_cast<off_t>(bytes_));
    sqe.flags |= IOSQE_ASYNC;
}

void FallocateOperation::complete(int result, unsigned, bool) {
    if (result == -EINTR && !cancel_requested()) {
        submit();
        return;
    }
    fd_.reset();
    on_done_(result < 0 ? -result : 0);
}

}  // namespace ipcbus::daemon
