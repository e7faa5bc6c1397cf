// SPDX-License-Identifier: Apache-2.0
// Goal: a uid makes as many connections a second as it may, that many at once, and no more in any
// second after; no uid's rate is another's business; who has not come for a second is forgotten.
#include "connect_rate.hpp"

#include <doctest/doctest.h>

#include <string>

using ipcbus::daemon::ConnectRate;

namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;
constexpr std::int64_t kBegin = 7 * kSecondNs;

/// How many of `asked` at that moment are let in.
unsigned let_in(ConnectRate& rate, uid_t uid, std::uint64_t per_second, std::int64_t now_ns,
                unsigned asked) {
    unsigned count = 0;
    for (unsigned i = 0; i < asked; i++) {
        count += rate.count(uid, per_second, now_ns).ok() ? 1 : 0;
    }
    return count;
}

}  // namespace

TEST_CASE("connect rate: a second's worth at once, then as time goes by") {
    ConnectRate rate("the.key");
    CHECK(let_in(rate, 1, 100, kBegin, 1000) == 100);
    CHECK(let_in(rate, 2, 100, kBegin, 1000) == 100);
    CHECK(let_in(rate, 1, 100, kBegin + kSecondNs / 200, 10) == 0);
    CHECK(let_in(rate, 1, 100, kBegin + kSecondNs / 100, 10) == 1);
    CHECK(let_in(rate, 1, 100, kBegin + kSecondNs / 2, 1000) == 49);
    // Never more than a second's worth, however long it was away.
    CHECK(let_in(rate, 1, 100, kBegin + 100 * kSecondNs, 1000) == 100);
}

TEST_CASE("connect rate: the smallest and the largest") {
    ConnectRate rate("the.key");
    CHECK(let_in(rate, 1, 1, kBegin, 10) == 1);
    CHECK(let_in(rate, 1, 1, kBegin + kSecondNs - 1, 10) == 0);
    CHECK(let_in(rate, 1, 1, kBegin + kSecondNs, 10) == 1);
    CHECK(let_in(rate, 2, 1'000'000, kBegin, 1'500'000) == 1'000'000);
}

TEST_CASE("connect rate: what was refused is not counted; a change of the limit holds at once") {
    ConnectRate rate("the.key");
    CHECK(let_in(rate, 1, 10, kBegin, 1000) == 10);
    CHECK(let_in(rate, 1, 10, kBegin + kSecondNs / 10, 1000) == 1);
    CHECK(let_in(rate, 1, 1000, kBegin + kSecondNs * 2 / 10, 1000) == 100);
}

TEST_CASE("connect rate: the error names limit and key") {
    ConnectRate rate("the.key");
    CHECK(rate.count(1, 1, kBegin).ok());
    const auto refused = rate.count(1, 1, kBegin);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == EDQUOT);
    CHECK(refused.error().what == "more than 1 connections a second; raise the.key");
}

TEST_CASE("connect rate: it keeps in mind who came within the last two seconds, at most") {
    ConnectRate rate("the.key");
    for (uid_t uid = 0; uid < 1000; uid++) {
        CHECK(rate.count(uid, 10, kBegin + uid).ok());
    }
    CHECK(rate.size() == 1000);
    CHECK(rate.count(5000, 10, kBegin + 2 * kSecondNs).ok());
    CHECK(rate.size() == 1);
}
