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
    int result = small_.provide(uring, RecvBuffers::small, options.recv_buffer_count,
                                options.recv_buffer_bytes);
    if (result == 0) {
        result = bulk_.provide(uring, RecvBuffers::bulk, options.bulk_buffer_count,
                               options.bulk_buffer_bytes);
    }
    if (result == -EINVAL) {
        return sys::fail(EINVAL, std::string(kTooOld) + " (no provided buffer rings)");
    }
    return result < 0 ? refusal(-result) : sys::Result<void>();
}

int BufferGroup::provide(io_uring& uring, RecvBuffers number, unsigned count, unsigned bytes) {
    IPCBUS_ASSERT(std::has_single_bit(count));
    IPCBUS_ASSERT(count <= 32768);
    count_ = count;
    bytes_ = bytes;
    constexpr std::size_t kPage = 4096;
    const std::size_t ring_bytes = (count * sizeof(io_uring_buf) + kPage - 1) / kPage * kPage;
    mapped_bytes_ = ring_bytes + std::size_t{count} * bytes;
    void* const mapped =
        ::mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        return -errno;
    }
    ring_ = static_cast<io_uring_buf_ring*>(mapped);
    memory_ = static_cast<std::byte*>(mapped) + ring_bytes;
    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<std::uintptr_t>(mapped);
    registration.ring_entries = count;
    registration.bgid = static_cast<std::uint16_t>(number);
    if (const int result = io_uring_register_buf_ring(&uring, &registration, 0); result < 0) {
        return result;
    }
    io_uring_buf_ring_init(ring_);
    for (unsigned id = 0; id < count; ++id) {
        give_back(id);
    }
    return 0;
}

BufferGroup::~BufferGroup() {
    if (ring_ != nullptr) {
        (void)::munmap(ring_, mapped_bytes_);
    }
}

std::span<const std::byte> BufferGroup::get(unsigned id, int bytes) const {
    IPCBUS_ASSERT(id < count_);
    IPCBUS_ASSERT(bytes >= 0 && static_cast<unsigned>(bytes) <= bytes_);
    return {memory_ + std::size_t{id} * bytes_, static_cast<std::size_t>(bytes)};
}

void BufferGroup::give_back(unsigned id) {
    IPCBUS_ASSERT(id < count_);
    io_uring_buf_ring_add(ring_, memory_ + std::size_t{id} * bytes_, bytes_,
                          static_cast<unsigned short>(id), io_uring_buf_ring_mask(count_), 0);
    io_uring_buf_ring_advance(ring_, 1);
}

}  // namespace ipcbus::daemon
