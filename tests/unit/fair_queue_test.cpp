// SPDX-License-Identifier: Apache-2.0
// Goal: one of each uid in turn, however many others a uid has there; nothing is lost or doubled.
// Method: by hand; the queue never looks into a session, so their addresses are invented.
#include "fair_queue.hpp"

#include <doctest/doctest.h>

#include <array>

using ipcbus::daemon::FairQueue;
using ipcbus::daemon::Session;

namespace {

std::array<char, 64> ground;
Session& session(std::size_t number) { return *reinterpret_cast<Session*>(&ground.at(number)); }

}  // namespace

TEST_CASE("uids take turns, and within one, connections in their order") {
    FairQueue queue;
    CHECK(queue.empty());
    CHECK(queue.take() == nullptr);
    for (std::size_t i = 0; i < 10; i++) {
        queue.add(1000, session(i));
    }
    queue.add(7, session(20));
    queue.add(7, session(21));
    queue.add(3000, session(30));
    CHECK(queue.take() == &session(20));
    CHECK(queue.take() == &session(0));
    CHECK(queue.take() == &session(30));
    CHECK(queue.take() == &session(21));
    queue.add(7, session(20));  // it has more to do: at the end of its own line
    CHECK(queue.take() == &session(1));
    CHECK(queue.take() == &session(20));
    CHECK(queue.take() == &session(2));
    CHECK(queue.take() == &session(3));
    CHECK(!queue.empty());
}

TEST_CASE("a connection that goes is not taken") {
    FairQueue queue;
    queue.add(1, session(1));
    queue.add(1, session(2));
    queue.add(2, session(3));
    queue.remove(1, session(1));
    queue.remove(1, session(9));
    queue.remove(5, session(9));
    queue.remove(2, session(3));
    CHECK(queue.take() == &session(2));
    CHECK(queue.empty());
}

TEST_CASE("who waits behind all that wait knows when they have had their turn") {
    FairQueue queue;
    CHECK(queue.passed(queue.added()));
    queue.add(1, session(1));
    queue.add(1, session(2));
    queue.add(2, session(3));
    const std::uint64_t behind = queue.added();
    queue.add(1, session(4));
    CHECK(!queue.passed(behind));
    CHECK(queue.take() == &session(1));
    queue.add(1, session(1));  // it has more to do: that is later
    CHECK(queue.take() == &session(3));
    CHECK(!queue.passed(behind));
    CHECK(queue.take() == &session(2));
    CHECK(queue.passed(behind));
    queue.add(3, session(5));
    CHECK(queue.passed(behind));
    CHECK(!queue.passed(queue.added()));
    for (const std::size_t gone : {1U, 4U}) {
        queue.remove(1, session(gone));
    }
    queue.remove(3, session(5));
    CHECK(queue.passed(queue.added()));
}
