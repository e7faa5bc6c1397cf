// SPDX-License-Identifier: Apache-2.0
// Owners of mapped memory: Mapping (a stretch of a file), RingMapping (a ring's header and its
// data twice, back to back) and WipeOnFork (how a forked child is noticed). Each owns exactly one
// reserved range of addresses and unmaps it; move-only, owned by one object, read by any thread.
// What is mapped here is written by other processes: nothing in it is trusted by this file, which
// looks at the file's size once, before it maps. That the size stays is what F_SEAL_SHRINK and
// F_SEAL_GROW are for: check them first (memfd.hpp, expect_seals), else a truncation is a SIGBUS.
#pragma once

#include "sys/result.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace ipcbus::sys {

/// A writable mapping is not inherited by a forked child (MADV_DONTFORK): a ring has one writer.
enum class Access { read_only, read_write };

class Mapping {
public:
    Mapping() = default;
    Mapping(void* start, std::size_t bytes) : start_(start), bytes_(bytes) {}
    Mapping(Mapping&& other) noexcept
        : start_(std::exchange(other.start_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() { reset(); }

    [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(start_); }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }
    [[nodiscard]] bool valid() const { return start_ != nullptr; }
    explicit operator bool() const { return valid(); }
    void reset();
    /// What is mapped stays, and belongs to the caller.
    [[nodiscard]] std::byte* release() {
        bytes_ = 0;
        return static_cast<std::byte*>(std::exchange(start_, nullptr));
    }

private:
    void* start_ = nullptr;
    std::size_t bytes_ = 0;
};

/// Maps `bytes` from `offset`, which must be a multiple of the page size and inside the file.
[[nodiscard]] Result<Mapping> map_shared(int fd, std::uint64_t offset, std::size_t bytes,
                                         Access access);

/// [header | data | data again]: the byte at data()[capacity() + i] is the byte at data()[i], so
/// that a record that wraps around is contiguous all the same.
class RingMapping {
public:
    RingMapping() = default;

    RingMapping(RingMapping&& other) noexcept
        : start_(std::exchange(other.start_, nullptr)),
          header_bytes_(std::exchange(other.header_bytes_, 0)),
          capacity_log2_(other.capacity_log2_) {}
    RingMapping& operator=(RingMapping&& other) noexcept;
    RingMapping(const RingMapping&) = delete;
    RingMapping& operator=(const RingMapping&) = delete;
    ~RingMapping() { reset(); }

    [[nodiscard]] std::byte* header() const { return start_; }
    [[nodiscard]] std::byte* data() const { return start_ + header_bytes_; }
    [[nodiscard]] std::size_t header_bytes() const { return header_bytes_; }
    [[nodiscard]] std::uint64_t capacity() const {
        return valid() ? std::uint64_t{1} << capacity_log2_ : 0;
    }
    [[nodiscard]] bool valid() const { return start_ != nullptr; }
    explicit operator bool() const { return valid(); }
    void reset();

private:
    friend Result<RingMapping> map_ring(int fd, std::size_t header_bytes, std::uint64_t capacity,
                                        Access access);
    RingMapping(Mapping&& range, std::size_t header_bytes, std::uint64_t capacity);

    // A process may have 10,000 of them: 16 bytes.
    std::byte* start_ = nullptr;
    std::uint32_t header_bytes_ = 0;
    std::uint8_t capacity_log2_ = 0;
};

/// The file must be exactly header_bytes + capacity long, both whole pages, and capacity a power
/// of two. Takes two of the process's mappings (vm.max_map_count is 65,530 by default).
[[nodiscard]] Result<RingMapping> map_ring(int fd, std::size_t header_bytes, std::uint64_t capacity,
                                           Access access);

/// A private page that holds 1 here and reads as 0 in every child forked since. In such a child
/// the writable mappings are gone: asking here first turns a crash into an error.
class WipeOnFork {
public:
    WipeOnFork() = default;

    [[nodiscard]] static Result<WipeOnFork> create();

    /// One load. Only of an object that create() made.
    [[nodiscard]] bool in_child() const {
        // relaxed: the kernel writes it, at fork, before the child runs
        return reinterpret_cast<const std::atomic<std::uint32_t>*>(page_.data())
                   ->load(std::memory_order_relaxed) == 0;
    }

private:
    explicit WipeOnFork(Mapping page) : page_(std::move(page)) {}

    Mapping page_;
};

}  // namespace ipcbus::sys
