// SPDX-License-Identifier: Apache-2.0
// Descriptors over a socket: they arrive close-on-exec with the byte they were sent with, are
// closed when they cannot be used, and their loss is noticed.
#include "sys/fd_passing.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <vector>

namespace {

using namespace ipcbus::sys;

struct SocketPair {
    UniqueFd left;
    UniqueFd right;
    SocketPair() {
        std::array<int, 2> ends{};
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
        left.reset(ends[0]);
        right.reset(ends[1]);
    }
};

std::span<const std::byte> bytes_of(const char* text) {
    return std::as_bytes(std::span(text, std::strlen(text)));
}

bool same_file(int a, int b) {
    struct stat first {};
    struct stat second {};
    return ::fstat(a, &first) == 0 && ::fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

int open_descriptors() {
    DIR* directory = ::opendir("/proc/self/fd");
    REQUIRE(directory != nullptr);
    int count = 0;
    while (::readdir(directory) != nullptr) {
        ++count;
    }
    (void)::closedir(directory);
    return count;
}

TEST_SUITE_BEGIN("fd_passing");

TEST_CASE("bytes without descriptors") {
    const SocketPair pair;
    const Result<std::size_t> sent = send_with_fds(pair.left.get(), bytes_of("hello"), {});
    REQUIRE(sent.ok());
    CHECK(sent.value() == 5);
    std::array<std::byte, 16> into{};
    std::vector<UniqueFd> fds;
    const Result<std::size_t> got = receive_with_fds(pair.right.get(), into, fds, true);
    REQUIRE(got.ok());
    CHECK(got.value() == 5);
    CHECK(std::memcmp(into.data(), "hello", 5) == 0);
    CHECK(fds.empty());
}

TEST_CASE("descriptors arrive in order, owned, close-on-exec, after those already there") {
    const SocketPair pair;
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const UniqueFd zero(::open("/dev/zero", O_RDONLY));
    const std::array<int, 2> given{null.get(), zero.get()};
    REQUIRE(send_with_fds(pair.left.get(), bytes_of("ab"), given).ok());

    std::vector<UniqueFd> fds;
    fds.emplace_back(::dup(pair.left.get()));
    std::array<std::byte, 1> into{};
    REQUIRE(receive_with_fds(pair.right.get(), into, fds, true).ok());
    REQUIRE(fds.size() == 3);  // all with the first byte
    CHECK(same_file(fds[1].get(), null.get()));
    CHECK(same_file(fds[2].get(), zero.get()));
    CHECK((::fcntl(fds[2].get(), F_GETFD) & FD_CLOEXEC) != 0);
    REQUIRE(receive_with_fds(pair.right.get(), into, fds, true).ok());
    CHECK(into[0] == std::byte{'b'});
    CHECK(fds.size() == 3);
}

TEST_CASE("two sets of descriptors come in two receives") {
    const SocketPair pair;
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const std::array<int, 1> given{null.get()};
    REQUIRE(send_with_fds(pair.left.get(), bytes_of("one"), given).ok());
    REQUIRE(send_with_fds(pair.left.get(), bytes_of("two"), given).ok());
    std::array<std::byte, 64> into{};
    std::vector<UniqueFd> fds;
    const Result<std::size_t> first = receive_with_fds(pair.right.get(), into, fds, true);
    REQUIRE(first.ok());
    CHECK(first.value() == 3);
    CHECK(fds.size() == 1);
    const Result<std::size_t> second = receive_with_fds(pair.right.get(), into, fds, true);
    REQUIRE(second.ok());
    CHECK(second.value() == 3);
    CHECK(fds.size() == 2);
}

TEST_CASE("as many as the kernel lets through at once") {
    const SocketPair pair;
    const std::vector<int> given(253, pair.left.get());
    REQUIRE(send_with_fds(pair.left.get(), bytes_of("x"), given).ok());
    std::array<std::byte, 4> into{};
    std::vector<UniqueFd> fds;
    REQUIRE(receive_with_fds(pair.right.get(), into, fds, true).ok());
    CHECK(fds.size() == 253);
}

TEST_CASE("nothing there, and nobody there") {
    SocketPair pair;
    std::array<std::byte, 4> into{};
    std::vector<UniqueFd> fds;
    CHECK(receive_with_fds(pair.right.get(), into, fds, true).error().code == EAGAIN);
    pair.left.reset();
    const Result<std::size_t> got = receive_with_fds(pair.right.get(), into, fds, false);
    REQUIRE(got.ok());
    CHECK(got.value() == 0);
    CHECK(send_with_fds(pair.right.get(), bytes_of("x"), {}).error().code == EPIPE);  // no SIGPIPE
}

TEST_CASE("descriptors that cannot be installed are an error, and none of them stays open") {
    const SocketPair pair;
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const std::vector<int> given(8, null.get());
    REQUIRE(send_with_fds(pair.left.get(), bytes_of("x"), given).ok());
    const int before = open_descriptors();

    rlimit limit{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
    rlimit tight = limit;
    const UniqueFd next(::dup(null.get()));
    tight.rlim_cur = static_cast<rlim_t>(next.get()) + 4;  // room for three
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &tight) == 0);
    std::array<std::byte, 4> into{};
    std::vector<UniqueFd> fds;
    const Result<std::size_t> got = receive_with_fds(pair.right.get(), into, fds, true);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);

    REQUIRE_FALSE(got.ok());
    CHECK(got.error().code == EMFILE);
    CHECK(fds.empty());
    CHECK(open_descriptors() == before + 1);  // `next`
}

TEST_SUITE_END();

}  // namespace
