// SPDX-License-Identifier: Apache-2.0
// Mappings: bounds against the file's real size, the mirror of a ring, unmapping, and what a
// forked child has of them. Children end with _exit, and their status is the finding.
#include "sys/mapping.hpp"
#include "sys/memfd.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace {

using namespace ipcbus::sys;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHeader = kPage;
constexpr std::uint64_t kCapacity = 4 * kPage;

UniqueFd new_memfd(std::uint64_t bytes) {
    Result<UniqueFd> fd = create_memfd("ipcbus-test", bytes);
    REQUIRE(fd.ok());
    return std::move(fd).value();
}

/// Whether that page is mapped here at all: no signal, no access.
bool is_mapped(const void* start) {
    unsigned char resident = 0;
    return ::mincore(const_cast<void*>(start), kPage, &resident) == 0;
}

template <class Body>
int exit_status_of_child(Body body) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        ::_exit(body());
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_SUITE_BEGIN("mapping");

TEST_CASE("two mappings of one file show each other's bytes") {
    const UniqueFd fd = new_memfd(2 * kPage);
    Result<Mapping> writer = map_shared(fd.get(), kPage, kPage, Access::read_write);
    Result<Mapping> reader = map_shared(fd.get(), 0, 2 * kPage, Access::read_only);
    REQUIRE(writer.ok());
    REQUIRE(reader.ok());
    CHECK(writer.value().bytes() == kPage);
    writer.value().data()[5] = std::byte{9};
    CHECK(reader.value().data()[kPage + 5] == std::byte{9});
}

TEST_CASE("map_shared stays inside the file") {
    const UniqueFd fd = new_memfd(2 * kPage);
    const auto code = [&](std::uint64_t offset, std::size_t bytes) {
        const Result<Mapping> mapping = map_shared(fd.get(), offset, bytes, Access::read_only);
        return mapping.ok() ? 0 : mapping.error().code;
    };
    CHECK(code(0, 2 * kPage) == 0);
    CHECK(code(0, 0) == EINVAL);
    CHECK(code(0, 2 * kPage + 1) == EINVAL);
    CHECK(code(kPage, kPage + 1) == EINVAL);
    CHECK(code(2 * kPage, 1) == EINVAL);
    CHECK(code(1, kPage) == EINVAL);
    CHECK(code(~std::uint64_t{0} - kPage + 1, kPage) == EINVAL);
    CHECK(code(kPage, SIZE_MAX) == EINVAL);
    CHECK(map_shared(-1, 0, kPage, Access::read_only).error().code == EBADF);
}

TEST_CASE("a mapping is unmapped once, wherever it was moved") {
    const UniqueFd fd = new_memfd(kPage);
    Result<Mapping> result = map_shared(fd.get(), 0, kPage, Access::read_only);
    REQUIRE(result.ok());
    const std::byte* const start = result.value().data();
    {
        Mapping first = std::move(result).value();
        Mapping second(std::move(first));
        CHECK_FALSE(first.valid());  // NOLINT: what moving leaves behind is specified
        CHECK(second.data() == start);
        first = std::move(second);
        CHECK(first.data() == start);
        CHECK(is_mapped(start));
    }
    CHECK_FALSE(is_mapped(start));
}

TEST_CASE("a ring's mirror: data[capacity + i] is data[i]") {
    const UniqueFd fd = new_memfd(kHeader + kCapacity);
    Result<RingMapping> result = map_ring(fd.get(), kHeader, kCapacity, Access::read_write);
    REQUIRE(result.ok());
    RingMapping& ring = result.value();
    CHECK(ring.header_bytes() == kHeader);
    CHECK(ring.capacity() == kCapacity);
    CHECK(ring.data() == ring.header() + kHeader);
    for (std::uint64_t i = 0; i < kCapacity; i += 509) {
        const auto value = static_cast<std::byte>(i / 509 + 1);
        ring.data()[kCapacity + i] = value;
        REQUIRE(ring.data()[i] == value);
        ring.data()[i] = ~value;
        REQUIRE(ring.data()[kCapacity + i] == ~value);
    }
    // The last byte of each, and that the header is no part of it.
    ring.data()[2 * kCapacity - 1] = std::byte{77};
    CHECK(ring.data()[kCapacity - 1] == std::byte{77});
    ring.data()[kCapacity] = std::byte{78};
    CHECK(ring.header()[0] == std::byte{0});
    CHECK(ring.header()[kHeader - 1] == std::byte{0});
}

TEST_CASE("a reader's ring sees the writer's bytes in both halves and cannot write") {
    const UniqueFd fd = new_memfd(kHeader + kCapacity);
    Result<RingMapping> writer = map_ring(fd.get(), kHeader, kCapacity, Access::read_write);
    REQUIRE(writer.ok());
    const Result<UniqueFd> read_fd = reopen_read_only(fd.get());
    REQUIRE(read_fd.ok());
    const Result<RingMapping> reader =
        map_ring(read_fd.value().get(), kHeader, kCapacity, Access::read_only);
    REQUIRE(reader.ok());
    writer.value().header()[3] = std::byte{1};
    writer.value().data()[kCapacity - 1] = std::byte{2};
    writer.value().data()[kCapacity] = std::byte{3};
    CHECK(reader.value().header()[3] == std::byte{1});
    CHECK(reader.value().data()[2 * kCapacity - 1] == std::byte{2});
    CHECK(reader.value().data()[0] == std::byte{3});
    CHECK(::mprotect(reader.value().header(), kHeader, PROT_READ | PROT_WRITE) == -1);
    CHECK(::mprotect(reader.value().data() + kCapacity, kCapacity, PROT_READ | PROT_WRITE) == -1);
}

TEST_CASE("map_ring refuses whatever is not exactly a ring") {
    const UniqueFd fd = new_memfd(kHeader + kCapacity);
    const auto code = [&](std::size_t header, std::uint64_t capacity) {
        const Result<RingMapping> ring = map_ring(fd.get(), header, capacity, Access::read_only);
        return ring.ok() ? 0 : ring.error().code;
    };
    CHECK(code(kHeader, kCapacity) == 0);
    CHECK(code(kHeader, 2 * kCapacity) == EPROTO);  // smaller than it claims: a SIGBUS later
    CHECK(code(kHeader, kCapacity / 2) == EPROTO);
    CHECK(code(2 * kHeader, kCapacity) == EPROTO);
    CHECK(code(0, kCapacity) == EINVAL);
    CHECK(code(kHeader + 1, kCapacity) == EINVAL);
    CHECK(code(kHeader, 3 * kPage) == EINVAL);
    CHECK(code(kHeader, 0) == EINVAL);
    CHECK(code(kHeader, 2048) == EINVAL);
    CHECK(code(kHeader, std::uint64_t{1} << 63) == EINVAL);
    CHECK(code(SIZE_MAX - kPage + 1, kCapacity) == EINVAL);

    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    const UniqueFd in(ends[0]);
    const UniqueFd out(ends[1]);
    CHECK(map_ring(in.get(), kHeader, kCapacity, Access::read_only).error().code == EINVAL);
}

TEST_CASE("a ring leaves no address behind, mapped or refused") {
    const UniqueFd fd = new_memfd(kHeader + kCapacity);
    const std::byte* start = nullptr;
    {
        Result<RingMapping> ring = map_ring(fd.get(), kHeader, kCapacity, Access::read_only);
        REQUIRE(ring.ok());
        start = ring.value().header();
        CHECK(is_mapped(start + kHeader + 2 * kCapacity - kPage));
    }
    CHECK_FALSE(is_mapped(start));
    CHECK_FALSE(is_mapped(start + kHeader));
    CHECK_FALSE(is_mapped(start + kHeader + 2 * kCapacity - kPage));

    // Sealed against new writers: the first mmap into the reserved range fails, which must go.
    REQUIRE(add_seals(fd.get(), F_SEAL_FUTURE_WRITE).ok());
    CHECK(map_ring(fd.get(), kHeader, kCapacity, Access::read_write).error().code == EPERM);
}

TEST_CASE("a forked child has no writable mapping, and the read-only ones") {
    const UniqueFd fd = new_memfd(kHeader + kCapacity);
    Result<RingMapping> writer = map_ring(fd.get(), kHeader, kCapacity, Access::read_write);
    Result<RingMapping> reader = map_ring(fd.get(), kHeader, kCapacity, Access::read_only);
    Result<Mapping> page = map_shared(fd.get(), 0, kPage, Access::read_write);
    REQUIRE(writer.ok());
    REQUIRE(reader.ok());
    REQUIRE(page.ok());
    const int found = exit_status_of_child([&] {
        return (is_mapped(writer.value().header()) ? 1 : 0) +
               (is_mapped(writer.value().data() + kCapacity) ? 2 : 0) +
               (is_mapped(page.value().data()) ? 4 : 0) +
               (is_mapped(reader.value().data() + kCapacity) ? 0 : 8);
    });
    CHECK(found == 0);
    CHECK(is_mapped(writer.value().header()));
}

TEST_CASE("WipeOnFork tells a child, and its children, and not the parent") {
    const Result<WipeOnFork> result = WipeOnFork::create();
    REQUIRE(result.ok());
    const WipeOnFork& fork_word = result.value();
    CHECK_FALSE(fork_word.in_child());
    CHECK(exit_status_of_child([&] { return fork_word.in_child() ? 0 : 1; }) == 0);
    CHECK(exit_status_of_child([&] {
              return exit_status_of_child([&] { return fork_word.in_child() ? 0 : 1; });
          }) == 0);
    CHECK_FALSE(fork_word.in_child());
}

TEST_SUITE_END();

}  // namespace
