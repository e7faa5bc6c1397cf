// SPDX-License-Identifier: Apache-2.0
// What the seals promise, tried as an attacker would: after FUTURE_WRITE nobody gets a new way to
// write, a reader's descriptor cannot be turned into a writer's, no hole can be punched, and pages
// that are shared for writing cannot be spoiled by one of their holders.
#include "sys/memfd.hpp"
#include "sys/mapping.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

using namespace ipcbus::sys;

constexpr std::size_t kBytes = 8 * 4096;

UniqueFd new_memfd(int seals) {
    Result<UniqueFd> fd = create_memfd("ipcbus-test", kBytes);
    REQUIRE(fd.ok());
    REQUIRE(add_seals(fd.value().get(), seals).ok());
    return std::move(fd).value();
}

/// The errno of a new mapping, 0 if it was made.
int map_errno(int fd, int protection) {
    void* start = ::mmap(nullptr, kBytes, protection, MAP_SHARED, fd, 0);
    if (start == MAP_FAILED) {
        return errno;
    }
    (void)::munmap(start, kBytes);
    return 0;
}

int punch_errno(int fd) {
    constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return ::fallocate(fd, kPunch, 0, 4096) == 0 ? 0 : errno;
}

blkcnt_t blocks(int fd) {
    struct stat status {};
    REQUIRE(::fstat(fd, &status) == 0);
    return status.st_blocks;
}

TEST_SUITE_BEGIN("memfd");

TEST_CASE("a new memfd has its size, zeroes, and nothing that others could use") {
    const UniqueFd fd = new_memfd(0);
    struct stat status {};
    REQUIRE(::fstat(fd.get(), &status) == 0);
    CHECK(status.st_size == static_cast<off_t>(kBytes));
    CHECK((status.st_mode & 07777) == 0600);
    CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(expect_seals(fd.get(), 0).ok());
    std::array<char, 16> bytes{};
    bytes.fill('x');
    REQUIRE(::pread(fd.get(), bytes.data(), bytes.size(), 100) == 16);
    CHECK(bytes == std::array<char, 16>{});
    CHECK(create_memfd("ipcbus-test", ~std::uint64_t{0}).error().code == EFBIG);
}

TEST_CASE("reserving allocates, also when done again, and not beyond the size") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    CHECK(blocks(fd.get()) == 0);
    CHECK(reserve(fd.get(), 0, kBytes).ok());
    CHECK(blocks(fd.get()) == static_cast<blkcnt_t>(kBytes / 512));
    CHECK(reserve(fd.get(), 0, kBytes).ok());
    CHECK(reserve(fd.get(), 0, kBytes + 1).error().code == EPERM);  // F_SEAL_GROW
    CHECK(reserve(fd.get(), ~std::uint64_t{0}, 1).error().code == EFBIG);
}

TEST_CASE("the seals at birth settle the size") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    CHECK(::ftruncate(fd.get(), 4096) == -1);
    CHECK(errno == EPERM);
    CHECK(::ftruncate(fd.get(), kBytes + 4096) == -1);
    CHECK(errno == EPERM);
    CHECK(map_errno(fd.get(), PROT_READ | PROT_WRITE) == 0);
}

TEST_CASE("expect_seals wants exactly those") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    CHECK(expect_seals(fd.get(), kSealsAtBirth).ok());
    const Result<void> missing = expect_seals(fd.get(), kSealsRing);
    REQUIRE_FALSE(missing.ok());
    CHECK(missing.error().code == EPERM);
    CHECK(missing.error().what.find("SHRINK|GROW instead of SHRINK|GROW|FUTURE_WRITE") !=
          std::string::npos);
    REQUIRE(add_seals(fd.get(), F_SEAL_FUTURE_WRITE).ok());
    CHECK(expect_seals(fd.get(), kSealsRing).ok());
    CHECK_FALSE(expect_seals(fd.get(), kSealsAtBirth).ok());

    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    const UniqueFd in(ends[0]);
    const UniqueFd out(ends[1]);
    CHECK_FALSE(get_seals(in.get()).ok());  // no memory at all
}

TEST_CASE("after FUTURE_WRITE the first writer goes on and there is no other") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    Result<Mapping> writer = map_shared(fd.get(), 0, kBytes, Access::read_write);
    REQUIRE(writer.ok());
    REQUIRE(add_seals(fd.get(), F_SEAL_FUTURE_WRITE).ok());

    CHECK(map_errno(fd.get(), PROT_READ | PROT_WRITE) == EPERM);
    CHECK(map_shared(fd.get(), 0, kBytes, Access::read_write).error().code == EPERM);
    CHECK(::pwrite(fd.get(), "x", 1, 0) == -1);
    CHECK(errno == EPERM);

    writer.value().data()[7] = std::byte{42};
    char seen = 0;
    REQUIRE(::pread(fd.get(), &seen, 1, 7) == 1);
    CHECK(seen == 42);
}

TEST_CASE("after FUTURE_WRITE no hole can be punched, and an earlier one can be filled") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    REQUIRE(reserve(fd.get(), 0, kBytes).ok());
    REQUIRE(punch_errno(fd.get()) == 0);
    CHECK(blocks(fd.get()) < static_cast<blkcnt_t>(kBytes / 512));
    REQUIRE(add_seals(fd.get(), F_SEAL_FUTURE_WRITE).ok());
    CHECK(reserve(fd.get(), 0, kBytes).ok());
    CHECK(punch_errno(fd.get()) == EPERM);
    CHECK(blocks(fd.get()) == static_cast<blkcnt_t>(kBytes / 512));
    CHECK(expect_seals(fd.get(), kSealsRing).ok());
}

TEST_CASE("a reader's descriptor stays a reader's") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    REQUIRE(add_seals(fd.get(), F_SEAL_FUTURE_WRITE).ok());
    const Result<UniqueFd> reader = reopen_read_only(fd.get());
    REQUIRE(reader.ok());
    const int read_fd = reader.value().get();
    CHECK((::fcntl(read_fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
    CHECK((::fcntl(read_fd, F_GETFD) & FD_CLOEXEC) != 0);

    Result<Mapping> mapping = map_shared(read_fd, 0, kBytes, Access::read_only);
    REQUIRE(mapping.ok());
    CHECK(::mprotect(mapping.value().data(), kBytes, PROT_READ | PROT_WRITE) == -1);
    CHECK(errno == EACCES);
    CHECK(map_shared(read_fd, 0, kBytes, Access::read_write).error().code == EACCES);
    CHECK(::write(read_fd, "x", 1) == -1);
    CHECK(add_seals(read_fd, F_SEAL_WRITE).error().code == EPERM);
    CHECK(expect_seals(read_fd, kSealsRing).ok());

    // Opening it again for writing may succeed (for root, say): it is of no use after the seal.
    const std::string path = "/proc/self/fd/" + std::to_string(read_fd);
    const UniqueFd again(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (again) {
        CHECK(map_errno(again.get(), PROT_READ | PROT_WRITE) == EPERM);
        CHECK(::pwrite(again.get(), "x", 1, 0) == -1);
        CHECK(punch_errno(again.get()) == EPERM);
    }
}

TEST_CASE("why readers get the re-opened descriptor: an older mapping could be made writable") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    Result<Mapping> early = map_shared(fd.get(), 0, kBytes, Access::read_only);
    REQUIRE(early.ok());
    REQUIRE(add_seals(fd.get(), F_SEAL_FUTURE_WRITE).ok());
    CHECK(::mprotect(early.value().data(), kBytes, PROT_READ | PROT_WRITE) == 0);

    // ... which a mapping of an O_RDONLY descriptor cannot, also when it is as old
    const UniqueFd other = new_memfd(kSealsAtBirth);
    const Result<UniqueFd> reader = reopen_read_only(other.get());
    REQUIRE(reader.ok());
    Result<Mapping> safe = map_shared(reader.value().get(), 0, kBytes, Access::read_only);
    REQUIRE(safe.ok());
    REQUIRE(add_seals(other.get(), F_SEAL_FUTURE_WRITE).ok());
    CHECK(::mprotect(safe.value().data(), kBytes, PROT_READ | PROT_WRITE) == -1);
    CHECK(errno == EACCES);
}

TEST_CASE("pages shared for writing take no further seal") {
    const UniqueFd fd = new_memfd(kSealsShared);
    CHECK(expect_seals(fd.get(), kSealsShared).ok());
    for (const int seal : {F_SEAL_FUTURE_WRITE, F_SEAL_WRITE, F_SEAL_GROW}) {
        CHECK(add_seals(fd.get(), seal).error().code == EPERM);
    }
    CHECK(map_errno(fd.get(), PROT_READ | PROT_WRITE) == 0);  // the next ringer still can
}

TEST_CASE("a ring can be frozen once nobody maps it for writing") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    Result<Mapping> writer = map_shared(fd.get(), 0, kBytes, Access::read_write);
    REQUIRE(writer.ok());
    REQUIRE(add_seals(fd.get(), F_SEAL_FUTURE_WRITE).ok());
    CHECK(add_seals(fd.get(), F_SEAL_WRITE).error().code == EBUSY);
    writer.value().reset();
    CHECK(add_seals(fd.get(), F_SEAL_WRITE).ok());
}

TEST_CASE("a publisher that seals first is found out") {
    const UniqueFd fd = new_memfd(kSealsAtBirth);
    REQUIRE(add_seals(fd.get(), F_SEAL_SEAL).ok());
    CHECK(add_seals(fd.get(), F_SEAL_FUTURE_WRITE).error().code == EPERM);
    CHECK_FALSE(expect_seals(fd.get(), kSealsRing).ok());
}

TEST_SUITE_END();

}  // namespace
