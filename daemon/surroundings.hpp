// SPDX-License-Identifier: Apache-2.0
// What the host, the service manager and the control group allow this process: the defaults of the
// configuration depend on it. Passed as a value so that tests can invent one. Plain values.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace ipcbus::daemon {

struct Surroundings {
    /// Physical memory of the host.
    std::uint64_t ram_bytes = 0;
    /// The smallest memory.max from our control group upwards; 0: not limited.
    std::uint64_t memory_max_bytes = 0;
    /// The hard RLIMIT_NOFILE, bounded.
    std::uint64_t descriptors_max = 0;
    uid_t uid = 0;
    /// $XDG_RUNTIME_DIR, or empty.
    std::string runtime_dir;
};

[[nodiscard]] Surroundings look_around();

/// Raises the soft RLIMIT_NOFILE to the hard one. Descriptors in flight are counted against it too.
void raise_descriptor_limit();

}  // namespace ipcbus::daemon
