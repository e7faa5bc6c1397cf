// SPDX-License-Identifier: Apache-2.0
// Goal: spinning finds what pays, and never costs much for long. Method: waits that are made up.
#include "protocol/spin_budget.hpp"

#include <doctest/doctest.h>

using namespace ipcbus::protocol;

TEST_CASE("spinning: longer while it pays, short when it does not, ever more rarely in vain") {
    SpinBudget budget(0);
    for (int i = 0; i < 10; i++) {
        budget.spun();
    }
    CHECK(budget.ns() == 50'000);
    for (int i = 0; i < 10; i++) {
        budget.slept(1'000'000);
    }
    CHECK(budget.ns() == 1'000);
    // Whoever publishes needs this very CPU: each wait is short, and no spin ever helps.
    i64 spun_ns = 0;
    for (int i = 0; i < 10'000; i++) {
        spun_ns += budget.ns();
        budget.slept(5'000);
    }
    CHECK(spun_ns < 10'000 * 3'000);
    budget.spun();  // one that helps, and it is tried as before
    for (int i = 0; i < 10; i++) {
        budget.spun();
    }
    CHECK(budget.ns() == 50'000);
    CHECK(SpinBudget(-1).ns() == 0);
    CHECK(SpinBudget(7'000).ns() == 7'000);
}
