// SPDX-License-Identifier: Apache-2.0
// Ledger: what a process has of the system at this moment: descriptors, mappings, memory of its
// own, memory of memfds, operations under way in its io_uring; and the CPU time that it has used.
// Read from /proc, so the process need not take part. No state: any test, any thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace ipcbus::test {

struct Ledger {
    std::size_t descriptors = 0;
    std::size_t mappings = 0;
    std::uint64_t own_bytes = 0;    ///< resident and anonymous: its heap and stacks
    std::uint64_t memfd_bytes = 0;  ///< blocks of all memfds it has open, each once
    std::size_t operations = 0;     ///< polls armed in its io_uring: receives, accepts, deaths

    [[nodiscard]] static Ledger of(pid_t pid);
    /// For failures: all of it in a line.
    [[nodiscard]] std::string text() const;
};

/// CPU time of a process so far, all threads, user and system.
[[nodiscard]] std::int64_t cpu_ns(pid_t pid);
/// The same of this one.
[[nodiscard]] std::int64_t own_cpu_ns();

}  // namespace ipcbus::test
