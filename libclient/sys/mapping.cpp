// SPDX-License-Identifier: Apache-2.0
// mmap, its bounds and its double form for rings. See mapping.hpp.
#include "sys/mapping.hpp"

#include <bit>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ipcbus::sys {

namespace {

/// More than any ring may have, little enough that header + 2 * capacity cannot overflow.
constexpr std::uint64_t kMappableBytesMax = std::uint64_t{1} << 40;
constexpr std::uint64_t kHeaderBytesMax = std::uint64_t{1} << 20;

std::uint64_t page_bytes() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

int protection(Access access) {
    return access == Access::read_write ? PROT_READ | PROT_WRITE : PROT_READ;
}

/// The child of a fork must not hold what it could write: it would be a second writer.
Result<void> keep_from_children(void* start, std::size_t bytes, Access access) {
    if (access == Access::read_write && ::madvise(start, bytes, MADV_DONTFORK) != 0) {
        return fail_errno("madvise(MADV_DONTFORK)");
    }
    return {};
}

Result<std::uint64_t> file_bytes(int fd) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) {
        return fail_errno("fstat");
    }
    if (!S_ISREG(status.st_mode) || status.st_size < 0) {
        return fail(EINVAL, "the descriptor to map is not a file of memory");
    }
    return static_cast<std::uint64_t>(status.st_size);
}

}  // namespace

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    if (this != &other) {
        reset();
        start_ = std::exchange(other.start_, nullptr);
        bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
}

void Mapping::reset() {
    if (start_ != nullptr) {
        (void)::munmap(start_, bytes_);
    }
    start_ = nullptr;
    bytes_ = 0;
}

RingMapping::RingMapping(Mapping&& range, std::size_t header_bytes, std::uint64_t capacity)
    : start_(range.release()),
      header_bytes_(static_cast<std::uint32_t>(header_bytes)),
      capacity_log2_(static_cast<std::uint8_t>(std::countr_zero(capacity))) {}

RingMapping& RingMapping::operator=(RingMapping&& other) noexcept {
    if (this != &other) {
        reset();
        start_ = std::exchange(other.start_, nullptr);
        header_bytes_ = std::exchange(other.header_bytes_, 0);
        capacity_log2_ = other.capacity_log2_;
    }
    return *this;
}

void RingMapping::reset() {
    if (start_ != nullptr) {
        (void)::munmap(start_, header_bytes_ + 2 * capacity());
    }
    start_ = nullptr;
    header_bytes_ = 0;
}

Result<Mapping> map_shared(int fd, std::uint64_t offset, std::size_t bytes, Access access) {
    const std::uint64_t size = IPCBUS_TRY(file_bytes(fd));
    if (bytes == 0 || offset % page_bytes() != 0 || offset > size || bytes > size - offset) {
        return fail(EINVAL, "cannot map " + std::to_string(bytes) + " bytes at " +
                                std::to_string(offset) + " of a file of " + std::to_string(size));
    }
    void* start =
        ::mmap(nullptr, bytes, protection(access), MAP_SHARED, fd, static_cast<off_t>(offset));
    if (start == MAP_FAILED) {
        return fail_errno("mmap");
    }
    Mapping mapping(start, bytes);
    IPCBUS_TRY(keep_from_children(start, bytes, access));
    return mapping;
}

Result<RingMapping> map_ring(int fd, std::size_t header_bytes, std::uint64_t capacity,
                             Access access) {
    const std::uint64_t page = page_bytes();
    if (header_bytes == 0 || header_bytes % page != 0 || header_bytes > kHeaderBytesMax ||
        capacity < page || capacity > kMappableBytesMax || !std::has_single_bit(capacity)) {
        return fail(EINVAL, "a ring of " + std::to_string(header_bytes) + " + " +
                                std::to_string(capacity) + " bytes cannot be mapped");
    }
    const std::uint64_t once = header_bytes + capacity;
    const std::uint64_t size = IPCBUS_TRY(file_bytes(fd));
    if (size != once) {
        return fail(EPROTO, "a ring's memory has " + std::to_string(size) + " bytes, not " +
                                std::to_string(once));
    }

    // Reserve the whole range first: then both mappings go where nothing else can be, and a
    // failure half-way leaves no foreign mapping overwritten and nothing to undo by hand.
    void* reserved = ::mmap(nullptr, once + capacity, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        return fail_errno("mmap of a ring's address range");
    }
    Mapping range(reserved, once + capacity);
    std::byte* const start = range.data();
    if (::mmap(start, once, protection(access), MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        return fail_errno("mmap of a ring");
    }
    if (::mmap(start + once, capacity, protection(access), MAP_SHARED | MAP_FIXED, fd,
               static_cast<off_t>(header_bytes)) == MAP_FAILED) {
        return fail_errno("mmap of a ring's mirror");
    }
    IPCBUS_TRY(keep_from_children(start, once + capacity, access));
    return RingMapping(std::move(range), header_bytes, capacity);
}

Result<WipeOnFork> WipeOnFork::create() {
    const std::size_t bytes = page_bytes();
    // Private and anonymous: the kernel wipes nothing else.
    void* start =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        return fail_errno("mmap of the page that tells a fork");
    }
    Mapping page(start, bytes);
    if (::madvise(start, bytes, MADV_WIPEONFORK) != 0) {
        return fail_errno("madvise(MADV_WIPEONFORK)");
    }
    // relaxed: nobody else knows the page yet
    reinterpret_cast<std::atomic<std::uint32_t>*>(start)->store(1, std::memory_order_relaxed);
    return WipeOnFork(std::move(page));
}

}  // namespace ipcbus::sys
