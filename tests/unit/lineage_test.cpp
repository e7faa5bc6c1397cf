// SPDX-License-Identifier: Apache-2.0
// Goal: what is remembered of publications whose ring was let go of is exact, bounded, and given up
// in the order that hurts least. Method: one thread, no rings.
#include "lineage.hpp"

#include <doctest/doctest.h>

using namespace ipcbus;
using namespace ipcbus::client;

namespace {

Lineage lineage(u32 number) {
    Lineage made;
    made.uid = 1000;
    // The bytes that differ come last and count down: older ones are not smaller ones.
    made.id[15] = static_cast<protocol::u8>(~number);
    made.id[14] = static_cast<protocol::u8>(~number >> 8);
    return made;
}

}  // namespace

TEST_SUITE_BEGIN("lineage");

TEST_CASE("a sequence is remembered by uid and lineage, and never goes back") {
    Expectations expectations;
    CHECK(expectations.find(lineage(1)) == nullptr);
    expectations.remember(lineage(1), 10, true, 1);
    expectations.remember(lineage(2), 20, false, 1);
    expectations.remember(lineage(1), 7, true, 1);
    REQUIRE(expectations.find(lineage(1)) != nullptr);
    CHECK(*expectations.find(lineage(1)) == 10);
    expectations.remember(lineage(1), 11, true, 1);
    CHECK(*expectations.find(lineage(1)) == 11);
    Lineage of_another_uid = lineage(1);
    of_another_uid.uid++;
    CHECK(expectations.find(of_another_uid) == nullptr);
    expectations.forget(lineage(1));
    expectations.forget(lineage(3));
    CHECK(expectations.find(lineage(1)) == nullptr);
    CHECK(*expectations.find(lineage(2)) == 20);
    // Just below and above the wrap.
    expectations.remember(lineage(4), ~u64{0}, false, 1);
    expectations.remember(lineage(4), 3, false, 1);
    CHECK(*expectations.find(lineage(4)) == 3);
}

TEST_CASE("the oldest that ended in good order are forgotten first, others last") {
    Expectations expectations;
    constexpr u32 kMost = Expectations::kLeast;
    expectations.remember(lineage(0), 100, false, 1);
    for (u32 i = 1; i <= 3 * kMost; i++) {
        expectations.remember(lineage(i), i, true, 1);
    }
    CHECK(expectations.size() == kMost);
    REQUIRE(expectations.find(lineage(0)) != nullptr);
    CHECK(*expectations.find(lineage(0)) == 100);
    CHECK(expectations.find(lineage(2 * kMost + 1)) == nullptr);
    CHECK(expectations.find(lineage(2 * kMost + 2)) != nullptr);
    for (u32 i = 0; i < kMost - 1; i++) {
        expectations.remember(lineage(10'000 + i), i, false, 1);
    }
    CHECK(expectations.find(lineage(0)) != nullptr);
    CHECK(expectations.find(lineage(3 * kMost)) == nullptr);
    expectations.remember(lineage(20'000), 1, false, 1);
    CHECK(expectations.find(lineage(0)) == nullptr);
    CHECK(expectations.size() == kMost);
}

TEST_CASE("as many are remembered as were attached at once") {
    Expectations expectations;
    constexpr u32 kMany = 4 * Expectations::kLeast;
    expectations.remember(lineage(0), 1, true, kMany);
    for (u32 i = 1; i < kMany; i++) {
        expectations.remember(lineage(i), i, true, kMany - i);
    }
    CHECK(expectations.size() == kMany);
    CHECK(expectations.find(lineage(0)) != nullptr);
    expectations.remember(lineage(kMany), 1, true, 0);
    CHECK(expectations.size() == kMany);
    CHECK(expectations.find(lineage(0)) == nullptr);
}
