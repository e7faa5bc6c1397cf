// SPDX-License-Identifier: Apache-2.0
// memfd_create, fallocate, seals. See memfd.hpp.
#include "sys/memfd.hpp"

#include <limits>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>

namespace ipcbus::sys {

namespace {

// Debian 12's headers are older than the kernels ipcbus runs on: both came with Linux 6.3.
constexpr unsigned kMfdNoexecSeal = 0x0008;
constexpr int kSealExec = 0x0020;

bool fits_file_offset(std::uint64_t value) {
    return value <= static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
}

std::string seal_names(int seals) {
    static constexpr struct {
        int seal;
        const char* name;
    } kNames[] = {{F_SEAL_SEAL, "SEAL"},
                  {F_SEAL_SHRINK, "SHRINK"},
                  {F_SEAL_GROW, "GROW"},
                  {F_SEAL_WRITE, "WRITE"},
                  {F_SEAL_FUTURE_WRITE, "FUTURE_WRITE"}};
    std::string names;
    for (const auto& entry : kNames) {
        if ((seals & entry.seal) != 0) {
            names += names.empty() ? "" : "|";
            names += entry.name;
        }
    }
    return names.empty() ? "none" : names;
}

}  // namespace

Result<UniqueFd> create_memfd(const char* name, std::uint64_t bytes) {
    if (!fits_file_offset(bytes)) {
        return fail(EFBIG, "shared memory of " + std::to_string(bytes) + " bytes");
    }
    constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    UniqueFd fd(::memfd_create(name, kFlags | kMfdNoexecSeal));
    if (!fd && errno == EINVAL) {
        fd.reset(::memfd_create(name, kFlags));  // Linux before 6.3
    }
    if (!fd) {
        return fail_errno("memfd_create");
    }
    if (::fchmod(fd.get(), S_IRUSR | S_IWUSR) != 0) {
        return fail_errno("fchmod of a memfd");
    }
    if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
        return fail_errno("ftruncate of a memfd");
    }
    return fd;
}

Result<void> reserve(int fd, std::uint64_t offset, std::uint64_t bytes) {
    if (!fits_file_offset(offset) || !fits_file_offset(bytes)) {
        return fail(EFBIG, "reserving " + std::to_string(bytes) + " bytes of shared memory");
    }
    // fallocate gives up for any signal and frees what it had: try again, as nobody else will
    while (::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0) {
        if (errno != EINTR) {
            return fail_errno("fallocate");
        }
    }
    return {};
}

Result<void> add_seals(int fd, int seals) {
    if (::fcntl(fd, F_ADD_SEALS, seals) != 0) {
        return fail_errno("fcntl(F_ADD_SEALS)");
    }
    return {};
}

Result<int> get_seals(int fd) {
    const int seals = ::fcntl(fd, F_GET_SEALS);
    if (seals < 0) {
        return fail_errno("fcntl(F_GET_SEALS)");
    }
    return seals;
}

Result<void> expect_seals(int fd, int expected) {
    const int seals = IPCBUS_TRY(get_seals(fd));
    if ((seals & ~kSealExec) != (expected & ~kSealExec)) {
        return fail(EPERM, "shared memory with other seals than expected: " + seal_names(seals) +
                               " instead of " + seal_names(expected));
    }
    return {};
}

Result<UniqueFd> reopen_read_only(int fd) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    UniqueFd read_only(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!read_only) {
        return fail_errno("opening shared memory read-only through /proc/self/fd");
    }
    return read_only;
}

}  // namespace ipcbus::sys
