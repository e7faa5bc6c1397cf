// SPDX-License-Identifier: Apache-2.0
// Opening the io_uring: the best set-up flags this kernel knows, the operations we need, the
// receive buffers; and what to tell the administrator when it is refused. The daemon's one thread.
#include "uring.hpp"

#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstring>
#include <string>

namespace ipcbus::daemon {

namespace {

constexpr unsigned kBaseFlags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL;

/// Best first. DEFER_TASKRUN (6.1) runs completions only when we ask, in our thread; COOP_TASKRUN
/// at least spares the interrupts.
constexpr std::array<unsigned, 3> kFlagChoices = {
    kBaseFlags | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    kBaseFlags | IORING_SETUP_COOP_TASKRUN,
    kBaseFlags,
};

/// A memfd's pages are zeroed under a lock of that file: more workers than this gain nothing.
constexpr unsigned kBoundedWorkersMax = 4;

constexpr const char* kTooOld = "this kernel's io_uring is too old: Linux 6.1 or later is needed";

struct NeededOperation {
    int code;
    const char* name;
};
constexpr std::array<NeededOperation, 8> kNeeded = {{
    {IORING_OP_ACCEPT, "ACCEPT"},
    {IORING_OP_RECV, "RECV"},
    {IORING_OP_SENDMSG, "SENDMSG"},
    {IORING_OP_POLL_ADD, "POLL_ADD"},
    {IORING_OP_TIMEOUT, "TIMEOUT"},
    {IORING_OP_ASYNC_CANCEL, "ASYNC_CANCEL"},
    {IORING_OP_FALLOCATE, "FALLOCATE"},
    {IORING_OP_CLOSE, "CLOSE"},
}};

sys::Error refusal(int code) {
    const std::string why =
        std::string("io_uring is not available (") + std::strerror(code) + "): ";
    switch (code) {
    case EPERM:
    case EACCES:
        return sys::fail(code, why +
                                   "set sysctl kernel.io_uring_disabled=0, or let the container's "
                                   "seccomp profile allow io_uring_setup, io_uring_enter and "
                                   "io_uring_register");
    case ENOSYS:
        return sys::fail(code, why +
                                   "the kernel is built without it, or the container's seccomp "
                                   "profile hides io_uring_setup, io_uring_enter and "
                                   "io_uring_register");
    case ENOMEM:
        return sys::fail(code, why + "raise the limit of locked memory (LimitMEMLOCK=, ulimit -l)");
    case EMFILE:
    case ENFILE:
        return sys::fail(code, why + "raise the limit of open files (LimitNOFILE=, ulimit -n)");
    case EINVAL:
        return sys::fail(code, kTooOld);
    default:
        return sys::fail(code, why + "io_uring_setup failed");
    }
}

}  // namespace

EventLoop::Ring::~Ring() {
    if (opened_) {
        io_uring_queue_exit(&uring);
    }
    if (buffer_ring_ != nullptr) {
        (void)::munmap(buffer_ring_, buffer_ring_bytes_);
    }
}

sys::Result<void> EventLoop::Ring::open(const EventLoopOptions& options) {
    IPCBUS_TRY(open_queues(options));
    IPCBUS_TRY(probe_operations());
    return provide_buffers(options);
}

sys::Result<void> EventLoop::Ring::open_queues(const EventLoopOptions& options) {
    int result = -EINVAL;
    for (const unsigned flags : kFlagChoices) {
        io_uring_params params{};
        params.flags = flags;
        params.cq_entries = options.completion_entries;
        result = io_uring_queue_init_params(options.submission_entries, &uring, &params);
        if (result == 0) {
            opened_ = true;
            if ((params.features & IORING_FEAT_NODROP) == 0) {
                return sys::fail(ENOTSUP, kTooOld);
            }
            break;
        }
        if (result != -EINVAL) {
            break;
        }
    }
    if (result < 0) {
        return refusal(-result);
    }
    // Only a bound on threads; without it everything works as well.
    std::array<unsigned, 2> workers = {kBoundedWorkersMax, 0};
    (void)io_uring_register_iowq_max_workers(&uring, workers.data());
    return {};
}

sys::Result<void> EventLoop::Ring::probe_operations() {
    io_uring_probe* const probe = io_uring_get_probe_ring(&uring);
    if (probe == nullptr) {
        return sys::fail(EPERM,
                         "io_uring_register is refused: let the container's seccomp profile "
                         "allow io_uring_setup, io_uring_enter and io_uring_register");
    }
    std::string missing;
    for (const NeededOperation& needed : kNeeded) {
        if (io_uring_opcode_supported(probe, needed.code) == 0) {
            missing += std::string(missing.empty() ? "" : ", ") + needed.name;
        }
    }
    futex_wait = io_uring_opcode_supported(probe, kFutexWait) != 0;
    io_uring_free_probe(probe);
    if (!missing.empty()) {
        return sys::fail(EOPNOTSUPP, std::string(kTooOld) + " (no " + missing + ")");
    }
    return {};
}

sys::Result<void> EventLoop::Ring::provide_buffers(const EventLoopOptions& options) {
    IPCBUS_ASSERT(std::has_single_bit(options.recv_buffer_count));
    IPCBUS_ASSERT(options.recv_buffer_count <= 32768);
    buffer_count_ = options.recv_buffer_count;
    buffer_bytes_ = options.recv_buffer_bytes;
    buffers_.resize(std::size_t{buffer_count_} * buffer_bytes_);
    buffer_ring_bytes_ = buffer_count_ * sizeof(io_uring_buf);

    void* const memory = ::mmap(nullptr, buffer_ring_bytes_, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return sys::fail_errno("mmap");
    }
    buffer_ring_ = static_cast<io_uring_buf_ring*>(memory);
    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<std::uintptr_t>(memory);
    registration.ring_entries = buffer_count_;
    registration.bgid = kRecvBufferGroup;
    const int result = io_uring_register_buf_ring(&uring, &registration, 0);
    if (result == -EINVAL) {
        return sys::fail(EINVAL, std::string(kTooOld) + " (no provided buffer rings)");
    }
    if (result < 0) {
        return refusal(-result);
    }
    io_uring_buf_ring_init(buffer_ring_);
    for (unsigned id = 0; id < buffer_count_; ++id) {
        return_recv_buffer(id);
    }
    return {};
}

std::span<const std::byte> EventLoop::Ring::recv_buffer(unsigned id, int bytes) const {
    IPCBUS_ASSERT(id < buffer_count_);
    IPCBUS_ASSERT(bytes >= 0 && static_cast<unsigned>(bytes) <= buffer_bytes_);
    return std::span(buffers_).subspan(std::size_t{id} * buffer_bytes_,
                                       static_cast<std::size_t>(bytes));
}

void EventLoop::Ring::return_recv_buffer(unsigned id) {
    IPCBUS_ASSERT(id < buffer_count_);
    io_uring_buf_ring_add(buffer_ring_, buffers_.data() + std::size_t{id} * buffer_bytes_,
                          buffer_bytes_, static_cast<unsigned short>(id),
                          io_uring_buf_ring_mask(buffer_count_), 0);
    io_uring_buf_ring_advance(buffer_ring_, 1);
}

}  // namespace ipcbus::daemon
