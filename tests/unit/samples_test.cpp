// SPDX-License-Identifier: Apache-2.0
// Medians and ratios of few numbers, and how long a slice becomes. Goal: they are what a person
// would have computed, and empty input is no trap. Method: small tables.
#include "bench/samples.hpp"
#include "bench/slices.hpp"

#include <doctest/doctest.h>

using namespace ipcbus::measure;
using ipcbus::bench::Slice;
using ipcbus::bench::SliceLength;

TEST_SUITE("samples") {
    TEST_CASE("median and percentiles") {
        CHECK(median({}) == 0);
        CHECK(median({7}) == 7);
        CHECK(median({9, 1, 5}) == 5);
        CHECK(median({4, 1, 3, 2}) == doctest::Approx(2.5));
        CHECK(percentile({5, 1, 3}, 0) == 1);
        CHECK(percentile({5, 1, 3}, 100) == 5);
        CHECK(percentile({5, 1, 3}, 25) == doctest::Approx(2));
        CHECK(percentile({5, 1, 3}, 1000) == 5);
    }

    TEST_CASE("spread: half the quartiles' distance, as a share") {
        CHECK(spread({}) == 0);
        CHECK(spread({3}) == 0);
        CHECK(spread({10, 10, 10}) == 0);
        CHECK(spread({8, 9, 10, 11, 12}) == doctest::Approx(0.1));
        CHECK(spread({0, 0, 0}) == 0);
    }

    TEST_CASE("ratios") {
        const std::vector<double> a = {2, 6, 5, 9};
        const std::vector<double> b = {1, 2, 0};
        CHECK(ratios(a, b) == std::vector<double>{2, 3});
        CHECK(ratios(a, {}).empty());
        CHECK(ratio_of_medians({4, 6}, {2}) == doctest::Approx(2.5));
        CHECK(ratio_of_medians({}, {2}) == 0);
        CHECK(ratio_of_medians({1}, {}) == 0);
    }

    TEST_CASE("a slice is classed by both of its ends") {
        Slice slice;
        slice.before_ns = 50;
        slice.after_ns = 60;
        CHECK(slice.distance() == Distance::near);
        slice.after_ns = 240;
        CHECK(slice.distance() == Distance::mixed);
    }

    TEST_CASE("slices become as long as they should be, whatever disturbs one") {
        constexpr std::int64_t kMs = 1'000'000;
        SliceLength length(5 * kMs, 64);
        CHECK(length.next() == 64);
        for (int i = 0; i < 20; ++i) {
            length.took(length.next(), static_cast<std::int64_t>(length.next() * 100));
        }
        CHECK(length.next() == 50'000);  // of 100 ns each
        length.took(length.next(), 1000 * kMs);
        CHECK(length.next() == 25'000);
        length.took(length.next(), 0);
        CHECK(length.next() == 100'000);
        for (int i = 0; i < 100; ++i) {
            length.took(length.next(), 3'600'000 * kMs);
        }
        CHECK(length.next() == 1);
    }
}
