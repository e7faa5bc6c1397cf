// SPDX-License-Identifier: Apache-2.0
// What a result depends on beside the bus: processor, kernel, clock; and what the daemon uses,
// where its process is known. Reads /proc; any process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace ipcbus::bench {

struct Machine {
    std::string processor;  // its name; empty: unknown
    std::string kernel;
    unsigned cpus = 0;  // that this process may use
    bool is_virtual = false;
};

[[nodiscard]] Machine this_machine();

/// The process that listens at `address` (empty: where libipcbus looks). 0: unknown, or another
/// than ipcbusd, as with socket activation, where it is the service manager that listens.
[[nodiscard]] pid_t daemon_at(const std::string& address);

struct Usage {
    bool is_known = false;
    std::int64_t cpu_ns = 0;      // of all its threads, since it began
    std::uint64_t rss_bytes = 0;  // of its own memory, beside what it shares
    std::uint64_t shared_bytes = 0;
};

[[nodiscard]] Usage usage_of(pid_t pid);

}  // namespace ipcbus::bench
