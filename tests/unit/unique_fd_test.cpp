// SPDX-License-Identifier: Apache-2.0
// UniqueFd closes what it owns, once, and nothing that it gave away.
#include "sys/unique_fd.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <utility>

namespace {

using ipcbus::sys::UniqueFd;

int open_one() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }
bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST_SUITE_BEGIN("unique_fd");

TEST_CASE("closes at the end of its scope") {
    const int fd = open_one();
    REQUIRE(fd >= 0);
    {
        const UniqueFd owner(fd);
        CHECK(owner.valid());
        CHECK(owner.get() == fd);
        CHECK(is_open(fd));
    }
    CHECK_FALSE(is_open(fd));
}

TEST_CASE("an empty one owns nothing") {
    const UniqueFd owner;
    CHECK_FALSE(owner.valid());
    CHECK_FALSE(static_cast<bool>(owner));
    CHECK(owner.get() == -1);
}

TEST_CASE("moving hands the descriptor on") {
    UniqueFd first(open_one());
    const int fd = first.get();
    UniqueFd second(std::move(first));
    CHECK_FALSE(first.valid());  // NOLINT: what moving leaves behind is specified
    CHECK(second.get() == fd);
    CHECK(is_open(fd));

    UniqueFd third(open_one());
    const int replaced = third.get();
    third = std::move(second);
    CHECK(third.get() == fd);
    CHECK_FALSE(is_open(replaced));

    UniqueFd& alias = third;
    third = std::move(alias);
    CHECK(third.get() == fd);
    CHECK(is_open(fd));
}

TEST_CASE("release gives it away open, reset closes it") {
    UniqueFd owner(open_one());
    const int fd = owner.release();
    CHECK_FALSE(owner.valid());
    CHECK(is_open(fd));
    owner.reset(fd);
    CHECK(owner.get() == fd);
    owner.reset();
    CHECK_FALSE(is_open(fd));
}

TEST_SUITE_END();

}  // namespace
