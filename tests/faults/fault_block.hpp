// SPDX-License-Identifier: Apache-2.0
// The memory through which a test tells the library that is preloaded into ipcbusd (preload.cpp)
// what is to fail: a file that both map. For each call and each io_uring operation it has a count
// and a rule: from which occurrence on, how often, with which error. So one daemon lives through
// many faults, and knows of none of this. Rules are written by the test alone, counts by the daemon
// alone (its loop's thread, and those that wait for futexes where io_uring cannot); the test
// empties the counts while nothing is armed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ipcbus::test {

/// Names the file, in the daemon's environment.
inline constexpr const char* kFaultsVariable = "IPCBUS_TEST_FAULTS";

// What can be made to fail. One name may stand for several symbols (open, open64), and one symbol
// for several names (fcntl). op_*: an io_uring operation. get_sqe: the submission queue is full.
// probe_futex: io_uring waits for no futexes, as before Linux 6.7. getaddrinfo, getnameinfo
// (their errors are EAI_*), getpwnam_r, getgrnam_r and pthread_create answer with the error.
#define IPCBUS_FAULT_CALLS(X) \
    X(bind)                   \
    X(close)                  \
    X(connect)                \
    X(eventfd)                \
    X(fallocate)              \
    X(fchmod)                 \
    X(fcntl_add_seals)        \
    X(fcntl_dup)              \
    X(fcntl_get_seals)        \
    X(fcntl_other)            \
    X(flock)                  \
    X(fstat)                  \
    X(ftruncate)              \
    X(futex)                  \
    X(get_sqe)                \
    X(getaddrinfo)            \
    X(getgrnam_r)             \
    X(getpwnam_r)             \
    X(getnameinfo)            \
    X(getpeername)            \
    X(getrandom)              \
    X(getrlimit)              \
    X(getsockname)            \
    X(getsockopt)             \
    X(getsockopt_pidfd)       \
    X(io_uring_peek_batch)    \
    X(io_uring_probe)         \
    X(io_uring_queue_init)    \
    X(io_uring_register_buf)  \
    X(io_uring_register_work) \
    X(io_uring_submit)        \
    X(io_uring_submit_get)    \
    X(io_uring_submit_wait)   \
    X(ioctl)                  \
    X(listen)                 \
    X(lseek)                  \
    X(lstat)                  \
    X(madvise)                \
    X(memfd_create)           \
    X(mkdir)                  \
    X(mmap)                   \
    X(munmap)                 \
    X(nanosleep)              \
    X(op_accept)              \
    X(op_close)               \
    X(op_fallocate)           \
    X(op_futex)               \
    X(op_poll)                \
    X(op_recv)                \
    X(op_sendmsg)             \
    X(op_timeout)             \
    X(open)                   \
    X(pidfd_open)             \
    X(poll)                   \
    X(probe_futex)            \
    X(pthread_create)         \
    X(pwrite)                 \
    X(read)                   \
    X(recv)                   \
    X(recvmsg)                \
    X(sd_is_socket_unix)      \
    X(sd_journal_stream)      \
    X(sd_listen_fds)          \
    X(sd_notify)              \
    X(sd_watchdog)            \
    X(send)                   \
    X(setrlimit)              \
    X(setsockopt)             \
    X(shutdown)               \
    X(signal)                 \
    X(signalfd)               \
    X(sigprocmask)            \
    X(socket)                 \
    X(socketpair)             \
    X(stat)                   \
    X(syscall_other)          \
    X(unlink)                 \
    X(write)

enum class Call : std::uint32_t {
#define IPCBUS_FAULT_ENUM(name) name,
    IPCBUS_FAULT_CALLS(IPCBUS_FAULT_ENUM)
#undef IPCBUS_FAULT_ENUM
};

inline constexpr const char* kCallNames[] = {
#define IPCBUS_FAULT_NAME(name) #name,
    IPCBUS_FAULT_CALLS(IPCBUS_FAULT_NAME)
#undef IPCBUS_FAULT_NAME
};
inline constexpr std::size_t kCallCount = sizeof kCallNames / sizeof *kCallNames;

inline const char* call_name(Call call) { return kCallNames[static_cast<std::size_t>(call)]; }

struct FaultRule {
    std::atomic<std::uint64_t> calls;   ///< since the counts were emptied
    std::atomic<std::uint64_t> failed;  ///< of these, those that were made to fail
    std::atomic<std::uint64_t> from;    ///< the first that is to fail, 1 for the next one
    std::atomic<std::uint64_t> until;   ///< the first after it that is not; 0: none fails
    std::atomic<std::int32_t> error;    ///< an errno; 0: cut short (pwrite, write, op_sendmsg)
};

struct FaultBlock {
    FaultRule rules[kCallCount];
    /// Calls on a socket whose other end is one of these processes are neither counted nor failed.
    std::atomic<std::int32_t> spared_pids[2];
    /// Entries of the queues that the daemon gets, read when it starts; 0: what it asks for.
    std::atomic<std::uint32_t> submission_entries;
    std::atomic<std::uint32_t> completion_entries;
    /// Turns of its loop; a futex, raised before each wait.
    std::atomic<std::uint32_t> turns;
    /// Operations that it asked for and that no `op_*` stands for, a bit for each code.
    std::atomic<std::uint64_t> unknown_operations;
    /// Completions that the kernel had no room for and kept: how often that was so.
    std::atomic<std::uint64_t> overflows;

    FaultRule& operator[](Call call) { return rules[static_cast<std::size_t>(call)]; }
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace ipcbus::test
