// SPDX-License-Identifier: Apache-2.0
// The histogram of ipcbus-bench. Goal: no value is lost, percentiles are right to 1.6 % and never
// above the largest, merging is adding. Method: against a sorted list of the same values.
#include "bench/histogram.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

using ipcbus::measure::Histogram;
using ipcbus::measure::show_ns;
using ipcbus::measure::show_number;

static_assert(std::is_trivially_copyable_v<Histogram>, "it lies in memory that processes share");

namespace {

/// The smallest value that at least `percent` of the sorted values do not exceed.
std::uint64_t exact(const std::vector<std::uint64_t>& sorted, double percent) {
    const double wanted = percent / 100 * static_cast<double>(sorted.size());
    auto rank = static_cast<std::size_t>(wanted);
    rank += static_cast<double>(rank) < wanted - 1e-6 ? 1 : 0;
    return sorted[std::max<std::size_t>(rank, 1) - 1];
}

}  // namespace

TEST_SUITE("histogram") {
    TEST_CASE("nothing") {
        const Histogram histogram;
        CHECK(histogram.count() == 0);
        CHECK(histogram.min() == 0);
        CHECK(histogram.max() == 0);
        CHECK(histogram.mean() == 0);
        CHECK(histogram.percentile(50) == 0);
        CHECK(histogram.picture() == "nothing was measured\n");
    }

    TEST_CASE("every value has its step, to 1.6 %") {
        std::vector<std::uint64_t> values;
        for (std::uint64_t value = 0; value < 5000; ++value) {
            values.push_back(value);
        }
        for (unsigned power = 12; power < 40; ++power) {
            const std::uint64_t value = std::uint64_t{1} << power;
            values.insert(values.end(), {value - 1, value, value + 1, value + value / 3});
        }
        for (const std::uint64_t value : values) {
            CAPTURE(value);
            Histogram histogram;
            histogram.record(value);
            histogram.record(Histogram::kValueMax - 1);  // so that max() does not help
            histogram.record(0);                         // nor min()
            const std::uint64_t found = histogram.percentile(50);
            CHECK(found >= value);
            CHECK(found - value <= value / 64);
        }
    }

    TEST_CASE("what is too large is counted, and the maximum is exact") {
        Histogram histogram;
        histogram.record_many(10, 3);
        histogram.record(Histogram::kValueMax * 5);
        CHECK(histogram.count() == 4);
        CHECK(histogram.percentile(75) == 10);
        CHECK(histogram.percentile(76) == Histogram::kValueMax * 5);
        CHECK(histogram.max() == Histogram::kValueMax * 5);
        histogram.record(UINT64_MAX);
        CHECK(histogram.percentile(100) == UINT64_MAX);
    }

    TEST_CASE("percentiles against a sorted list") {
        std::mt19937_64 random(7);
        std::lognormal_distribution<double> times(6, 1.5);
        Histogram histogram;
        std::vector<std::uint64_t> values;
        double sum = 0;
        for (int i = 0; i < 20'000; ++i) {
            values.push_back(static_cast<std::uint64_t>(times(random)));
            histogram.record(values.back());
            sum += static_cast<double>(values.back());
        }
        std::sort(values.begin(), values.end());
        CHECK(histogram.mean() == doctest::Approx(sum / 20'000));
        CHECK(histogram.min() == values.front());
        std::uint64_t before = 0;
        for (const double percent : {0.0, 1.0, 10.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0}) {
            CAPTURE(percent);
            const std::uint64_t right = exact(values, percent);
            const std::uint64_t found = histogram.percentile(percent);
            CHECK(found >= right);
            CHECK(found - right <= right / 64);
            CHECK(found >= before);
            before = found;
        }
        CHECK(histogram.percentile(100) == values.back());
        CHECK(histogram.percentile(200) == values.back());
        CHECK(histogram.percentile(-1) == values.front());
    }

    TEST_CASE("a percentage that is not a binary fraction asks for no value more") {
        Histogram histogram;
        histogram.record_many(1, 999);
        histogram.record(50);
        CHECK(histogram.percentile(99.9) == 1);
        CHECK(histogram.percentile(99.91) == 50);
    }

    TEST_CASE("merging is adding") {
        Histogram odd;
        Histogram even;
        Histogram all;
        for (std::uint64_t value = 1; value < 3000; value += 7) {
            (value % 2 == 0 ? even : odd).record_many(value, 2);
            all.record_many(value, 2);
        }
        even.record_many(5, 0);
        even.merge(odd);
        even.merge(Histogram());
        CHECK(even.count() == all.count());
        CHECK(even.min() == 1);
        CHECK(even.max() == all.max());
        CHECK(even.mean() == doctest::Approx(all.mean()));
        for (const double percent : {1.0, 25.0, 50.0, 99.0}) {
            CHECK(even.percentile(percent) == all.percentile(percent));
        }
        CHECK(even.count_up_to(2) == 2);
        even.clear();
        CHECK(even.empty());
    }

    TEST_CASE("the picture shows all values") {
        Histogram histogram;
        histogram.record_many(100, 700);
        histogram.record_many(2000, 299);
        histogram.record(3'000'000);
        const std::string picture = histogram.picture(10, 20);
        CHECK(std::count(picture.begin(), picture.end(), '\n') <= 10);
        CHECK(picture.find("|####################|  70.00 %") != std::string::npos);
        CHECK(picture.find("|.                   |   0.10 %  100.0000 %") != std::string::npos);
        CHECK(picture.find("3.00 ms") != std::string::npos);
    }

    TEST_CASE("numbers for people have three digits") {
        CHECK(show_ns(0) == "0 ns");
        CHECK(show_ns(85) == "85 ns");
        CHECK(show_ns(39.34) == "39.3 ns");
        CHECK(show_ns(999.4) == "999 ns");
        CHECK(show_ns(999.7) == "1.00 us");
        CHECK(show_ns(1250) == "1.25 us");
        CHECK(show_ns(99'960'000) == "100 ms");
        CHECK(show_ns(5e12) == "5000 s");
        CHECK(show_number(31'400'000) == "31.4 M");
        CHECK(show_number(850) == "850");
    }
}
