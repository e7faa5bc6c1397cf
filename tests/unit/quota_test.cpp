// SPDX-License-Identifier: Apache-2.0
// Goal: nothing is charged beyond a limit, everything comes back, and a refusal says what, how much
// and which key. Method: by hand, over invented limits.
#include "quota.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <vector>

using ipcbus::daemon::Amounts;
using ipcbus::daemon::Charge;
using ipcbus::daemon::LimitsConfig;
using ipcbus::daemon::Quota;

namespace {

LimitsConfig limits() {
    LimitsConfig limits;
    limits.total = Amounts{.clients = 3,
                           .publications = 10,
                           .subscriptions = 10,
                           .descriptors = 20,
                           .ring_bytes = 1 << 20};
    limits.per_uid = Amounts{.clients = 2,
                             .publications = 10,
                             .subscriptions = 1,
                             .descriptors = 12,
                             .ring_bytes = 1 << 19};
    return limits;
}

bool has(const std::string& text, const std::string& part) {
    INFO(text);
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("what is charged comes back with the charge") {
    Quota quota(limits());
    {
        auto charge = quota.charge(7, Amounts{.publications = 1, .ring_bytes = 4096}, "x");
        REQUIRE(charge.ok());
        CHECK(quota.used_by(7).ring_bytes == 4096);
        CHECK(quota.total().publications == 1);
        Charge moved = std::move(charge).value();
        CHECK(quota.total().ring_bytes == 4096);
        Charge other;
        CHECK(!other);
        other = std::move(moved);
        CHECK(other);
        CHECK(quota.total().ring_bytes == 4096);
        other = Charge{};
        CHECK(quota.total().ring_bytes == 0);
    }
    CHECK(quota.used_by(7).publications == 0);
}

TEST_CASE("a uid's limit: EDQUOT, with what, how much, limit and key; the other uid is free") {
    Quota quota(limits());
    auto first = quota.charge(1000, Amounts{.ring_bytes = 1 << 18}, "publication 'a'");
    REQUIRE(first.ok());
    auto second = quota.charge(1000, Amounts{.ring_bytes = 1 << 19}, "publication 'plant/7'");
    REQUIRE(!second.ok());
    CHECK(second.error().code == EDQUOT);
    CHECK(has(second.error().what, "publication 'plant/7'"));
    CHECK(has(second.error().what, "uid 1000"));
    CHECK(has(second.error().what, ipcbus::daemon::format_bytes(1 << 18)));
    CHECK(has(second.error().what, ipcbus::daemon::format_bytes(1 << 19)));
    CHECK(has(second.error().what, "limits.per_uid.ring_bytes"));
    CHECK(quota.used_by(1000).ring_bytes == 1 << 18);
    CHECK(quota.charge(1001, Amounts{.ring_bytes = 1 << 19}, "x").ok());
}

TEST_CASE("the bus's limit: ENOSPC and its own key; descriptors: EMFILE") {
    Quota quota(limits());
    auto a = quota.charge(1, Amounts{.clients = 2}, "client");
    auto b = quota.charge(2, Amounts{.clients = 1}, "client");
    REQUIRE(a.ok());
    REQUIRE(b.ok());
    auto c = quota.charge(3, Amounts{.clients = 1}, "client");
    REQUIRE(!c.ok());
    CHECK(c.error().code == ENOSPC);
    CHECK(has(c.error().what, "limits.clients"));
    auto fds = quota.charge(4, Amounts{.descriptors = 13}, "client");
    REQUIRE(!fds.ok());
    CHECK(fds.error().code == EMFILE);
    CHECK(has(fds.error().what, "limits.per_uid.descriptors"));
}

TEST_CASE("all or nothing: a refused kind leaves the others uncharged") {
    Quota quota(limits());
    auto refused = quota.charge(5, Amounts{.publications = 1, .subscriptions = 2}, "x");
    CHECK(!refused.ok());
    CHECK(quota.total().publications == 0);
    CHECK(quota.used_by(5).publications == 0);
}

TEST_CASE("a limit lowered below what is in use refuses what comes, and takes nothing away") {
    Quota quota(limits());
    auto held = quota.charge(6, Amounts{.clients = 2}, "client");
    REQUIRE(held.ok());
    LimitsConfig lower = limits();
    lower.per_uid.clients = 1;
    quota.set_limits(lower);
    CHECK(quota.used_by(6).clients == 2);
    CHECK(!quota.charge(6, Amounts{.clients = 1}, "client").ok());
    // What needs none of what ran out still goes.
    CHECK(quota.charge(6, Amounts{.publications = 1}, "publication").ok());
}

TEST_CASE("what is kept for whoever comes goes as far as needed, and only if that helps") {
    LimitsConfig config = limits();
    config.per_uid = config.total;
    Quota quota(config);
    std::vector<Charge> kept;
    for (int i = 0; i < 4; i++) {
        kept.push_back(quota.charge_bus(Amounts{.descriptors = 1, .ring_bytes = 1 << 17}));
    }
    quota.set_relief([&kept] {
        const bool something = !kept.empty();
        if (something) {
            kept.pop_back();
        }
        return something;
    });
    const auto held = quota.charge(1, Amounts{.ring_bytes = 1 << 19}, "x");
    CHECK(held.ok());
    CHECK(kept.size() == 4);
    CHECK(!quota.charge(2, Amounts{.ring_bytes = (1 << 19) + 1}, "x").ok());
    CHECK(!quota.charge(2, Amounts{.clients = 4, .ring_bytes = 1}, "x").ok());
    CHECK(kept.size() == 4);
    const auto more = quota.charge(2, Amounts{.ring_bytes = 1 << 18}, "x");
    CHECK(more.ok());
    CHECK(kept.size() == 2);
    CHECK(!quota.charge(2, Amounts{.descriptors = 21}, "x").ok());
    CHECK(quota.charge(2, Amounts{.descriptors = 20}, "x").ok());
    CHECK(kept.size() == 0);
}

TEST_CASE("huge wishes do not overflow") {
    Quota quota(limits());
    auto held = quota.charge(6, Amounts{.ring_bytes = 4096}, "x");
    REQUIRE(held.ok());
    CHECK(!quota.charge(6, Amounts{.ring_bytes = ~std::uint64_t{0}}, "x").ok());
}
