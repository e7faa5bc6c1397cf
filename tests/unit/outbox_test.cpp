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
    REQUIRE(outbox.unacknowledged().size() == 2);
    CHECK(outbox.received(1));
    CHECK(outbox.unacknowledged().size() == 2);  // the peer's second one is on the way
    CHECK(outbox.received(1));
    REQUIRE(outbox.unacknowledged().size() == 1);
    CHECK(outbox.unacknowledged().front().id == 10);
    CHECK(!outbox.received(2));
    CHECK(outbox.received(1));
    CHECK(!outbox.received(1));
    CHECK(outbox.credit() == protocol::kFdsUnacknowledgedMax);
}

TEST_CASE("the budget: a uid has a quarter of what may be on the way; what comes back is for all") {
    FdBudget budget(400);
    Outbox deaf(budget, 1);
    Outbox other_of_uid(budget, 1);
    Outbox of_other_uid(budget, 2);
    for (daemon::Id i = 0; i < 64; i++) {
        add_attached(deaf, i);
    }
    CHECK(deaf.credit() == 0);
    CHECK(other_of_uid.credit() == 36);
    CHECK(of_other_uid.credit() == 64);
    for (daemon::Id i = 0; i < 36; i++) {
        add_attached(other_of_uid, i);
    }
    CHECK(other_of_uid.credit() == 0);
    CHECK(of_other_uid.credit() == 64);
    CHECK(!budget.take_relief());
    CHECK(deaf.received(10));
    CHECK(budget.take_relief());
    CHECK(!budget.take_relief());
    CHECK(other_of_uid.credit() == 10);
    deaf.forget_unacknowledged();
    CHECK(other_of_uid.credit() == 28);
    CHECK(deaf.unacknowledged().empty());
}

TEST_CASE("the budget of the bus: three quarters, whoever it is") {
    FdBudget budget(256);
    Outbox a(budget, 1);
    Outbox b(budget, 2);
    Outbox c(budget, 3);
    Outbox d(budget, 4);
    for (Outbox* outbox : {&a, &b, &c}) {
        for (daemon::Id i = 0; i < 64; i++) {
            add_attached(*outbox, i);
        }
    }
    CHECK(d.credit() == 0);
    CHECK(b.received(5));
    CHECK(budget.take_relief());
    CHECK(d.credit() == 5);
}
