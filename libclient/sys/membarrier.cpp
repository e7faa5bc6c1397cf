// SPDX-License-Identifier: Apache-2.0
// See membarrier.hpp. GLOBAL_EXPEDITED (Linux 4.16): the private form would reach this process
// alone.
#include "sys/membarrier.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ipcbus::sys {

bool register_for_barriers() {
    static const bool registered =
        ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
    return registered;
}

bool barrier_everywhere() {
    return ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}

}  // namespace ipcbus::sys
