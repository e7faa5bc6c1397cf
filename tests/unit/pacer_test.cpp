// SPDX-License-Identifier: Apache-2.0
// When messages are due. Goal: the rate asked for, on average, and no burst after a stall. Method:
// a clock of our own.
#include "pacer.hpp"

#include <doctest/doctest.h>

using ipcbus::tools::Pacer;

TEST_SUITE("pacer") {
    TEST_CASE("no interval: all is due at once") {
        Pacer pacer(0, 0);
        CHECK(pacer.due(0, 1000) == 1000);
        pacer.took(1000);
        CHECK(pacer.due(0, 7) == 7);
    }

    TEST_CASE("one at the start, then one an interval") {
        Pacer pacer(1000, 100'000);
        CHECK(pacer.due(5'000, 10) == 1);
        pacer.took(1);
        CHECK(pacer.due(5'999, 10) == 0);
        CHECK(pacer.next_ns() == 6'000);
        CHECK(pacer.due(6'000, 10) == 1);
        pacer.took(1);
        CHECK(pacer.due(9'500, 10) == 3);  // late: what was due meanwhile
        pacer.took(2);                     // but there was room for two
        CHECK(pacer.due(9'500, 10) == 1);
    }

    TEST_CASE("the rate holds over a long time, whatever the steps") {
        Pacer pacer(1e9 / 3, 100'000'000);
        std::size_t count = 0;
        for (std::int64_t now_ns = 0; now_ns < 100'000'000'000; now_ns += 7'654'321) {
            const std::size_t due = pacer.due(now_ns, 10);
            pacer.took(due);
            count += due;
        }
        CHECK(count == 300);
    }

    TEST_CASE("a long stall is forgotten, but for the catch-up time") {
        Pacer pacer(1000, 5000);
        CHECK(pacer.due(0, 100) == 1);
        pacer.took(1);
        CHECK(pacer.due(1'000'000, 100) == 6);
    }

    TEST_CASE("a delay counts from the message before it") {
        Pacer pacer(1000, 0);
        CHECK(pacer.due(0, 100) == 1);
        pacer.took(1);
        CHECK(pacer.due(50'500, 100) == 1);
        pacer.took(1);
        CHECK(pacer.due(51'400, 100) == 0);
        CHECK(pacer.next_ns() == 51'500);
    }
}
