// SPDX-License-Identifier: Apache-2.0
// Goal: descriptors leave with the first byte of their frame, and their account is right.
// Method: by hand.
#include "outbox.hpp"

#include <doctest/doctest.h>

using namespace ipcbus;
using daemon::FdBudget;
using daemon::Outbox;
using daemon::SharedFd;

namespace {

SharedFd some_fd() { return daemon::share(sys::UniqueFd()); }

void add_attached(Outbox& outbox, daemon::Id id) {
    outbox.add(protocol::Attached{}, 0, {some_fd()},
               {.what = Outbox::Told::What::attached, .id = id});
}

}  // namespace

TEST_CASE("frames share a chunk until one comes with descriptors: it begins its own") {
    FdBudget budget(1024);
    Outbox outbox(budget, 1);
    CHECK(outbox.empty());
    outbox.add(protocol::Done{}, 1);
    outbox.add(protocol::Done{}, 2);
    add_attached(outbox, 3);
    outbox.add(protocol::Done{}, 4);
    const std::size_t all = outbox.bytes();
    const auto first = outbox.take();
    CHECK(first.bytes.size() == 2 * protocol::kFrameHeaderBytes);
    CHECK(first.fds.empty());
    CHECK(outbox.bytes() == all);  // until it is sent
    outbox.sent();
    CHECK(outbox.bytes() == all - first.bytes.size());
    const auto second = outbox.take();
    CHECK(second.fds.size() == 1);
    CHECK(second.bytes.size() == all - first.bytes.size());
    outbox.sent();
    CHECK(outbox.empty());
    CHECK(outbox.bytes() == 0);
}

TEST_CASE("chunks are bounded") {
    FdBudget budget(1024);
    Outbox outbox(budget, 1);
    for (int i = 0; i < 10000; i++) {
        outbox.add(protocol::Done{}, 1);
    }
    std::size_t chunks = 0;
    while (!outbox.empty()) {
        CHECK(outbox.take().bytes.size() <= 64 * 1024);
        outbox.sent();
        chunks++;
    }
    CHECK(chunks >= 3);
}

TEST_CASE("credit: taken by what is sent, given back in that order, never more than was sent") {
    FdBudget budget(1024);
    Outbox outbox(budget, 1);
    CHECK(outbox.credit() == protocol::kFdsUnacknowledgedMax);
    outbox.add(protocol::Peer{}, 0, {some_fd(), some_fd()},
               {.what = Outbox::Told::What::peer, .pages = 3, .id = 9});
    add_attached(outbox, 10);
    CHECK(outbox.credit() == protocol::kFdsUnacknowledgedMax - 3);
    CHECK(!outbox.received(1, true));  // nothing has been sent
    (void)outbox.take();
    CHECK(!outbox.received(1, false));  // not even its first byte
    CHECK(outbox.received(1, true));
    CHECK(!outbox.received(2, true));  // the attached one is in no chunk that was sent
    outbox.sent();
    REQUIRE(outbox.unacknowledged().size() == 2);  // the peer's second one is on the way
    CHECK(outbox.received(1, true));
    REQUIRE(outbox.unacknowledged().size() == 1);
    CHECK(outbox.unacknowledged().front().id == 10);
    (void)outbox.take();
    outbox.sent();
    CHECK(outbox.received(1, true));
    CHECK(!outbox.received(1, true));
    CHECK(outbox.unacknowledged().empty());
}

TEST_CASE("what a client says it received counts only once the kernel says so, too") {
    FdBudget budget(1024);
    Outbox outbox(budget, 1);
    for (daemon::Id i = 0; i < 64; i++) {
        add_attached(outbox, i);
        (void)outbox.take();
        outbox.sent();
    }
    CHECK(outbox.on_the_way() == 64);
    CHECK(!outbox.doubted());
    CHECK(outbox.received(64, true));
    CHECK(outbox.credit() == 0);
    CHECK(outbox.doubted());
    add_attached(outbox, 65);  // as an answer to a request would
    outbox.all_read();
    CHECK(outbox.on_the_way() == 0);
    CHECK(outbox.credit() == protocol::kFdsUnacknowledgedMax - 1);  // that one is not sent yet
    CHECK(budget.left(1, true) == 768 - 1);
    outbox.drop_unsent();
    CHECK(budget.left(1, true) == 768);
}

TEST_CASE(
    "the budget: a uid has three quarters of what may be on the way; what comes back is for all") {
    FdBudget budget(400);
    CHECK(budget.left(1, true) == 300);
    budget.sent(1, 298);
    CHECK(budget.left(1, true) == 2);
    CHECK(budget.left(2, true) == 350 - 298);
    CHECK(!budget.take_relief());
    budget.came_back(1, 10);
    CHECK(budget.take_relief());
    CHECK(!budget.take_relief());
    CHECK(budget.left(1, true) == 12);
    budget.came_back(1, 10);  // nobody had to wait since
    CHECK(!budget.take_relief());
}

TEST_CASE("the budget of the bus: seven eighths, whoever it is") {
    FdBudget budget(256);
    budget.sent(5, 32);
    budget.sent(1, 64);
    budget.sent(2, 64);
    budget.sent(3, 60);
    CHECK(budget.left(4, true) == 4);
    budget.sent(4, 4);
    CHECK(budget.left(4, true) == 0);
    budget.came_back(2, 5);
    CHECK(budget.take_relief());
    CHECK(budget.left(4, true) == 5);
}

TEST_CASE("the budget of a uid: its last third is for connections that have nothing on the way") {
    FdBudget budget(1024);
    Outbox deaf(budget, 1);
    budget.sent(1, 512 - 1);
    CHECK(deaf.credit() == protocol::kFdsUnacknowledgedMax);
    add_attached(deaf, 1);
    CHECK(deaf.credit() == 0);  // it has its turn, and does not read
    Outbox reads(budget, 1);
    CHECK(reads.credit() == protocol::kFdsUnacknowledgedMax);
    budget.sent(1, 256 - 1);
    CHECK(reads.credit() == 1);
    budget.came_back(1, 512 + 256 - 2);
    CHECK(deaf.credit() == protocol::kFdsUnacknowledgedMax - 1);
}
