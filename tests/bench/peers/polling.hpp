// SPDX-License-Identifier: Apache-2.0
// For the peers whose libraries have a thread or a server of their own: may a side spin at all, and
// waiting for a socket in either way. Used by the one thread of a side.
#pragma once

#include <poll.h>
#include <sched.h>

namespace ipcbus::bench {

/// Whether this process may use so many CPUs. A side that spins on a CPU which the library's thread
/// or the server needs makes both slower (milliseconds at p99), and is no way that anybody would
/// choose: such a peer spins only where each of its threads can have a CPU.
inline bool has_cpus(int count) {
    cpu_set_t set;
    return ::sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) >= count;
}

/// Waits until there is something to read, without sleeping if `spin`.
inline void await_input(int fd, bool spin) {
    pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
    while (::poll(&waiting, 1, spin ? 0 : -1) <= 0) {}
}

}  // namespace ipcbus::bench
