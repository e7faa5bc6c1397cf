// SPDX-License-Identifier: Apache-2.0
// One side's full fence brought about by the other: membarrier(2). A thread that does something
// often, and would need a full fence each time because of what others do seldom, leaves it out;
// whoever does the seldom thing has the kernel execute one on every processor that runs a thread of
// a registered process. Costs the caller 0.3 to 11 us (an interrupt to each such processor).
// Any thread.
// What it is used for is checked by tests/model/wake.pml (-DUNFENCED).
#pragma once

namespace ipcbus::sys {

/// This process may be fenced by others from here on (once; repeated calls cost a load). False: the
/// kernel or a sandbox refuses it, and the process must keep its own fences.
[[nodiscard]] bool register_for_barriers();

/// When this returns true, every thread of every registered process has executed a full memory
/// fence since the call began (one that was not running did so when it was switched). False: the
/// kernel or a sandbox refuses it.
[[nodiscard]] bool barrier_everywhere();

/// Keeps the compiler from moving memory accesses across; the processor is fenced by
/// barrier_everywhere() of somebody else.
inline void barrier_by_others() { __asm__ __volatile__("" ::: "memory"); }

}  // namespace ipcbus::sys
