// SPDX-License-Identifier: Apache-2.0
// Memory that can be handed to other processes: memfds, the seals on them, and the read-only
// descriptor that readers get. The daemon creates and seals; every process that maps one checks.
// Free functions over borrowed descriptors: any thread.
//
// How read-only is made to hold (a ring; a cursor page is the same):
//   1. create_memfd, add_seals(kSealsAtBirth): the size is settled, no mapper can meet a SIGBUS.
//   2. The writer gets the O_RDWR descriptor, maps it, and says so.
//   3. add_seals(F_SEAL_FUTURE_WRITE): that one mapping goes on; from now on there is no other
//      writable mapping, no write(), no hole punching, through whatever descriptor.
//   4. reserve: the writer may have punched holes before 3, and a hole is memory that a reader
//      would be charged for, or die of. Allocating is still allowed after 3, punching is not.
//   5. expect_seals(kSealsRing): "exactly these", because a writer that had added F_SEAL_SEAL
//      first would have made 3 fail.
//   6. Readers get reopen_read_only's descriptor, made now and not before: a read-only mapping of
//      an O_RDWR descriptor that is older than the seal could be mprotected to writable after it.
#pragma once

#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <cstdint>
#include <fcntl.h>

namespace ipcbus::sys {

inline constexpr int kSealsAtBirth = F_SEAL_SHRINK | F_SEAL_GROW;

/// A ring or cursor page that readers may have. No F_SEAL_SEAL: a ring that is retained after its
/// publisher has died is frozen with F_SEAL_WRITE later.
inline constexpr int kSealsRing = kSealsAtBirth | F_SEAL_FUTURE_WRITE;

/// A page that several processes write (doorbell, mailbox). Without F_SEAL_SEAL any of them could
/// add F_SEAL_FUTURE_WRITE, and nobody who came later could ever ring that doorbell.
inline constexpr int kSealsShared = kSealsAtBirth | F_SEAL_SEAL;

/// A new memfd of `bytes` zero bytes, not inherited by exec, not executable, mode 0600: another
/// uid that is given a read-only descriptor cannot open it for writing through /proc.
/// `name` is what /proc/PID/maps shows; it need not be unique.
[[nodiscard]] Result<UniqueFd> create_memfd(const char* name, std::uint64_t bytes);

/// Allocates the pages of that range now, so that running out of memory is an error here and not
/// a signal later, in whoever touches them first.
[[nodiscard]] Result<void> reserve(int fd, std::uint64_t offset, std::uint64_t bytes);

[[nodiscard]] Result<void> add_seals(int fd, int seals);
[[nodiscard]] Result<int> get_seals(int fd);

/// An EPERM unless the seals are exactly `expected`. F_SEAL_EXEC is not looked at: MFD_NOEXEC_SEAL
/// adds it where the kernel (6.3) has it, and it keeps the memory from becoming executable only.
/// So "SHRINK, GROW, FUTURE_WRITE" reads back as four seals on newer kernels, three on older ones.
[[nodiscard]] Result<void> expect_seals(int fd, int expected);

/// A second, O_RDONLY descriptor of the same file.
[[nodiscard]] Result<UniqueFd> reopen_read_only(int fd);

}  // namespace ipcbus::sys
