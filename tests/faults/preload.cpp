// SPDX-License-Identifier: Apache-2.0
// Preloaded into the real ipcbusd by the tests of faults: each call of the C library and of
// libsystemd that the daemon makes, with a rule in front of it (fault_block.hpp). What is not to
// fail goes on to the function of that name. symbols_test.py checks that nothing the daemon calls
// is left out. io_uring is in preload_uring.cpp. In the daemon's process, all of its threads.
#include "preload.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace ipcbus::test {

namespace {

FaultBlock* the_block = nullptr;

/// Not through our own wrappers, nor anybody else's.
template <class Function>
Function* real(const char* name) {
    return next_function<Function>(name);
}

__attribute__((constructor)) void map_block() {
    const char* const path = std::getenv(kFaultsVariable);
    if (path == nullptr) {
        return;
    }
    const int fd = real<int(const char*, int, ...)>("open")(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        std::abort();
    }
    void* const start = real<void*(void*, std::size_t, int, int, int, off_t)>("mmap")(
        nullptr, sizeof(FaultBlock), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (start == MAP_FAILED) {
        std::abort();
    }
    (void)real<int(int)>("close")(fd);
    the_block = static_cast<FaultBlock*>(start);
}

pid_t peer_of(int socket) {
    static auto* const next = next_function<int(int, int, int, void*, socklen_t*)>("getsockopt");
    ucred credentials{};
    socklen_t bytes = sizeof credentials;
    return next(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) == 0 ? credentials.pid : 0;
}

}  // namespace

FaultBlock* fault_block() { return the_block; }

bool fails(Call call) {
    if (the_block == nullptr) {
        return false;
    }
    FaultRule& rule = (*the_block)[call];
    const std::uint64_t number = rule.calls.fetch_add(1) + 1;
    if (number >= rule.until.load() || number < rule.from.load()) {
        return false;
    }
    rule.failed.fetch_add(1);
    errno = rule.error.load();
    return true;
}

bool fails_on(Call call, int socket) {
    if (the_block == nullptr) {
        return false;
    }
    const int before = errno;
    const pid_t peer = peer_of(socket);
    errno = before;
    for (const auto& spared : the_block->spared_pids) {
        if (peer != 0 && spared.load() == peer) {
            return false;
        }
    }
    return fails(call);
}

void count_turn() {
    if (the_block != nullptr) {
        static auto* const next = next_function<long(long, ...)>("syscall");
        the_block->turns.fetch_add(1);
        (void)next(SYS_futex, &the_block->turns, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    }
}

// ------------------------------------------------------------- calls that fail with -1 and errno

#define IPCBUS_FAULT_CALL(result, call, symbol, parameters, arguments) \
    IPCBUS_FAULT_WRAP(result, symbol, parameters) {                    \
        IPCBUS_FAULT_NEXT(symbol, result parameters);                  \
        if (fails(Call::call)) {                                       \
            return static_cast<result>(-1);                            \
        }                                                              \
        return next arguments;                                         \
    }

using Size = std::size_t;
using Mode = mode_t;

IPCBUS_FAULT_CALL(int, bind, bind, (int s, const void* a, unsigned n), (s, a, n))
IPCBUS_FAULT_CALL(int, connect, connect, (int s, const void* a, unsigned n), (s, a, n))
IPCBUS_FAULT_CALL(int, eventfd, eventfd, (unsigned v, int f), (v, f))
IPCBUS_FAULT_CALL(int, fallocate, fallocate, (int f, int m, off_t o, off_t n), (f, m, o, n))
IPCBUS_FAULT_CALL(int, fallocate, fallocate64, (int f, int m, off_t o, off_t n), (f, m, o, n))
IPCBUS_FAULT_CALL(int, fchmod, fchmod, (int f, Mode m), (f, m))
IPCBUS_FAULT_CALL(int, flock, flock, (int f, int o), (f, o))
IPCBUS_FAULT_CALL(int, fstat, fstat, (int f, void* s), (f, s))
IPCBUS_FAULT_CALL(int, fstat, fstat64, (int f, void* s), (f, s))
IPCBUS_FAULT_CALL(int, ftruncate, ftruncate, (int f, off_t n), (f, n))
IPCBUS_FAULT_CALL(int, ftruncate, ftruncate64, (int f, off_t n), (f, n))
IPCBUS_FAULT_CALL(ssize_t, getrandom, getrandom, (void* p, Size n, unsigned f), (p, n, f))
IPCBUS_FAULT_CALL(int, getrlimit, getrlimit, (int r, void* l), (r, l))
IPCBUS_FAULT_CALL(int, getrlimit, getrlimit64, (int r, void* l), (r, l))
IPCBUS_FAULT_CALL(int, setrlimit, setrlimit, (int r, const void* l), (r, l))
IPCBUS_FAULT_CALL(int, setrlimit, setrlimit64, (int r, const void* l), (r, l))
IPCBUS_FAULT_CALL(int, getpeername, getpeername, (int s, void* a, unsigned* n), (s, a, n))
IPCBUS_FAULT_CALL(int, getsockname, getsockname, (int s, void* a, unsigned* n), (s, a, n))
IPCBUS_FAULT_CALL(int, listen, listen, (int s, int b), (s, b))
IPCBUS_FAULT_CALL(off_t, lseek, lseek, (int f, off_t o, int w), (f, o, w))
IPCBUS_FAULT_CALL(off_t, lseek, lseek64, (int f, off_t o, int w), (f, o, w))
IPCBUS_FAULT_CALL(int, lstat, lstat, (const char* p, void* s), (p, s))
IPCBUS_FAULT_CALL(int, lstat, lstat64, (const char* p, void* s), (p, s))
IPCBUS_FAULT_CALL(int, madvise, madvise, (void* p, Size n, int a), (p, n, a))
IPCBUS_FAULT_CALL(int, memfd_create, memfd_create, (const char* n, unsigned f), (n, f))
IPCBUS_FAULT_CALL(int, mkdir, mkdir, (const char* p, Mode m), (p, m))
IPCBUS_FAULT_CALL(int, nanosleep, nanosleep, (const void* t, void* r), (t, r))
IPCBUS_FAULT_CALL(int, open, open, (const char* p, int f, Mode m), (p, f, m))
IPCBUS_FAULT_CALL(int, open, open64, (const char* p, int f, Mode m), (p, f, m))
IPCBUS_FAULT_CALL(int, poll, poll, (void* p, unsigned long n, int t), (p, n, t))
IPCBUS_FAULT_CALL(ssize_t, read, read, (int f, void* p, Size n), (f, p, n))
IPCBUS_FAULT_CALL(ssize_t, recv, recv, (int s, void* p, Size n, int f), (s, p, n, f))
IPCBUS_FAULT_CALL(ssize_t, recvmsg, recvmsg, (int s, void* m, int f), (s, m, f))
IPCBUS_FAULT_CALL(ssize_t, send, send, (int s, const void* p, Size n, int f), (s, p, n, f))
IPCBUS_FAULT_CALL(int, setsockopt, setsockopt, (int s, int l, int o, const void* p, unsigned n),
                  (s, l, o, p, n))
IPCBUS_FAULT_CALL(int, signalfd, signalfd, (int f, const void* s, int g), (f, s, g))
IPCBUS_FAULT_CALL(int, sigprocmask, sigprocmask, (int h, const void* s, void* o), (h, s, o))
IPCBUS_FAULT_CALL(int, socket, socket, (int d, int t, int p), (d, t, p))
IPCBUS_FAULT_CALL(int, socketpair, socketpair, (int d, int t, int p, int* r), (d, t, p, r))
IPCBUS_FAULT_CALL(int, stat, stat, (const char* p, void* s), (p, s))
IPCBUS_FAULT_CALL(int, stat, stat64, (const char* p, void* s), (p, s))
IPCBUS_FAULT_CALL(int, unlink, unlink, (const char* p), (p))

// ------------------------------------------------------------------------------- those with more

/// With error 0 it writes all but the last byte.
#define IPCBUS_FAULT_WRITE(call, symbol, parameters, size, arguments) \
    IPCBUS_FAULT_WRAP(ssize_t, symbol, parameters) {                  \
        IPCBUS_FAULT_NEXT(symbol, ssize_t parameters);                \
        if (fails(Call::call)) {                                      \
            if (errno != 0) {                                         \
                return -1;                                            \
            }                                                         \
            size -= size > 0 ? 1 : 0;                                 \
        }                                                             \
        return next arguments;                                        \
    }

IPCBUS_FAULT_WRITE(pwrite, pwrite, (int f, const void* p, Size n, off_t o), n, (f, p, n, o))
IPCBUS_FAULT_WRITE(pwrite, pwrite64, (int f, const void* p, Size n, off_t o), n, (f, p, n, o))
IPCBUS_FAULT_WRITE(write, write, (int f, const void* p, Size n), n, (f, p, n))

/// Linux closes whatever it answers.
IPCBUS_FAULT_WRAP(int, close, (int fd)) {
    IPCBUS_FAULT_NEXT(close, int(int));
    const int result = next(fd);
    return fails(Call::close) ? -1 : result;
}

/// The same: if it stayed mapped, nobody could help it.
IPCBUS_FAULT_WRAP(int, munmap, (void* p, Size n)) {
    IPCBUS_FAULT_NEXT(munmap, int(void*, Size));
    const int result = next(p, n);
    return fails(Call::munmap) ? -1 : result;
}

IPCBUS_FAULT_WRAP(int, shutdown, (int socket, int how)) {
    IPCBUS_FAULT_NEXT(shutdown, int(int, int));
    return fails_on(Call::shutdown, socket) ? -1 : next(socket, how);
}

IPCBUS_FAULT_WRAP(int, ioctl, (int fd, unsigned long request, void* argument)) {
    IPCBUS_FAULT_NEXT(ioctl, int(int, unsigned long, ...));
    return fails_on(Call::ioctl, fd) ? -1 : next(fd, request, argument);
}

IPCBUS_FAULT_WRAP(int, getsockopt,
                  (int socket, int level, int option, void* value, socklen_t* bytes)) {
    IPCBUS_FAULT_NEXT(getsockopt, int(int, int, int, void*, socklen_t*));
    const Call call = option == SO_PEERPIDFD ? Call::getsockopt_pidfd : Call::getsockopt;
    return fails(call) ? -1 : next(socket, level, option, value, bytes);
}

Call fcntl_call(int command) {
    switch (command) {
    case F_ADD_SEALS:
        return Call::fcntl_add_seals;
    case F_GET_SEALS:
        return Call::fcntl_get_seals;
    case F_DUPFD_CLOEXEC:
        return Call::fcntl_dup;
    default:
        return Call::fcntl_other;
    }
}

IPCBUS_FAULT_WRAP(int, fcntl, (int fd, int command, long argument)) {
    IPCBUS_FAULT_NEXT(fcntl, int(int, int, ...));
    return fails(fcntl_call(command)) ? -1 : next(fd, command, argument);
}

IPCBUS_FAULT_WRAP(int, fcntl64, (int fd, int command, long argument)) {
    IPCBUS_FAULT_NEXT(fcntl64, int(int, int, ...));
    return fails(fcntl_call(command)) ? -1 : next(fd, command, argument);
}

IPCBUS_FAULT_WRAP(void*, mmap, (void* p, Size n, int protection, int flags, int fd, off_t o)) {
    IPCBUS_FAULT_NEXT(mmap, void*(void*, Size, int, int, int, off_t));
    return fails(Call::mmap) ? MAP_FAILED : next(p, n, protection, flags, fd, o);
}

IPCBUS_FAULT_WRAP(void*, mmap64, (void* p, Size n, int protection, int flags, int fd, off_t o)) {
    IPCBUS_FAULT_NEXT(mmap64, void*(void*, Size, int, int, int, off_t));
    return fails(Call::mmap) ? MAP_FAILED : next(p, n, protection, flags, fd, o);
}

IPCBUS_FAULT_WRAP(void*, signal, (int number, void* handler)) {
    IPCBUS_FAULT_NEXT(signal, void*(int, void*));
    return fails(Call::signal) ? reinterpret_cast<void*>(SIG_ERR) : next(number, handler);
}

IPCBUS_FAULT_WRAP(long, syscall, (long number, long a, long b, long c, long d, long e, long f)) {
    IPCBUS_FAULT_NEXT(syscall, long(long, ...));
    if (number == SYS_gettid) {  // spdlog's
        return next(number);
    }
    const Call call = number == SYS_pidfd_open ? Call::pidfd_open
                      : number == SYS_futex    ? Call::futex
                                               : Call::syscall_other;
    return fails(call) ? -1 : next(number, a, b, c, d, e, f);
}

// ---------------------------------------------------------------- those that answer with the error

#define IPCBUS_FAULT_ANSWER(call, parameters, arguments) \
    IPCBUS_FAULT_WRAP(int, call, parameters) {           \
        IPCBUS_FAULT_NEXT(call, int parameters);         \
        if (fails(Call::call)) {                         \
            return errno;                                \
        }                                                \
        return next arguments;                           \
    }

IPCBUS_FAULT_ANSWER(getaddrinfo, (const char* n, const char* s, const void* h, void* r),
                    (n, s, h, r))
IPCBUS_FAULT_ANSWER(getnameinfo,
                    (const void* a, unsigned n, char* h, unsigned m, char* s, unsigned k, int f),
                    (a, n, h, m, s, k, f))
IPCBUS_FAULT_ANSWER(getpwnam_r, (const char* n, void* e, char* b, unsigned long m, void* r),
                    (n, e, b, m, r))
IPCBUS_FAULT_ANSWER(getgrnam_r, (const char* n, void* e, char* b, unsigned long m, void* r),
                    (n, e, b, m, r))
IPCBUS_FAULT_ANSWER(pthread_create, (void* t, const void* a, void* (*f)(void*), void* p),
                    (t, a, f, p))

// --------------------------------------------------- libsystemd, which answers with minus an errno

#define IPCBUS_FAULT_SYSTEMD(call, symbol, parameters, arguments) \
    IPCBUS_FAULT_WRAP(int, symbol, parameters) {                  \
        IPCBUS_FAULT_NEXT(symbol, int parameters);                \
        if (fails(Call::call)) {                                  \
            return -errno;                                        \
        }                                                         \
        return next arguments;                                    \
    }

IPCBUS_FAULT_SYSTEMD(sd_is_socket_unix, sd_is_socket_unix,
                     (int f, int t, int l, const char* p, Size n), (f, t, l, p, n))
IPCBUS_FAULT_SYSTEMD(sd_journal_stream, sd_journal_stream_fd, (const char* i, int p, int l),
                     (i, p, l))
IPCBUS_FAULT_SYSTEMD(sd_listen_fds, sd_listen_fds, (int u), (u))
IPCBUS_FAULT_SYSTEMD(sd_notify, sd_notify, (int u, const char* s), (u, s))
IPCBUS_FAULT_SYSTEMD(sd_watchdog, sd_watchdog_enabled, (int u, unsigned long* t), (u, t))

}  // namespace ipcbus::test
