// SPDX-License-Identifier: Apache-2.0
// Where measured processes run. Goal: lists of CPUs are read as they are meant, classes have no
// gap, and a ping-pong gives a time, or an error when the other end gives up. Method: tables; two
// threads on one page.
#include "bench/placement.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <thread>

using namespace ipcbus::measure;

TEST_SUITE("placement") {
    TEST_CASE("lists of CPUs") {
        const std::vector<int> cpus = allowed_cpus();
        REQUIRE(!cpus.empty());
        const std::string first = std::to_string(cpus.front());
        CHECK(parse_cpus(first).value() == std::vector<int>{cpus.front()});
        CHECK(parse_cpus(first + "," + first).value().size() == 2);
        CHECK(parse_cpus(first + "-" + first).value() == std::vector<int>{cpus.front()});
        for (const char* wrong : {"", ",", "x", "-1", "0-", "1-0", "0,", "0x0", " 0", "99999",
                                  "0-99999", "99999999999999999999"}) {
            CAPTURE(wrong);
            CHECK(!parse_cpus(wrong).ok());
        }
        CHECK(!pin_to(-1).ok());
        CHECK(!pin_to(1 << 20).ok());
    }

    TEST_CASE("classes of distance") {
        CHECK(distance_of(25) == Distance::sibling);
        CHECK(distance_of(52) == Distance::near);
        CHECK(distance_of(245) == Distance::far);
        CHECK(distance_of(5'000) == Distance::one_cpu);
        CHECK(distance_of(0) == Distance::mixed);
        CHECK(distance_of(52, 60) == Distance::near);
        CHECK(distance_of(52, 245) == Distance::mixed);
        CHECK(distance_name(distance_of(5'000, 5'000)) == "one-cpu");
        CHECK(distance_name(distance_of(52, 5'000)) == "mixed");
        CHECK(distance_name(Distance::near) == "near");
    }

    TEST_CASE("a ping-pong between two threads") {
        const auto page = std::make_unique<PingPongPage>();
        constexpr std::uint32_t kSingle = 1000;
        bool answered = false;
        std::thread other([&] {
            PingPong ping(*page);
            answered = ping.answer().ok() && ping.answer().ok() && ping.answer(kSingle).ok();
        });
        PingPong ping(*page);
        for (int i = 0; i < 2; ++i) {
            const auto measured = ping.measure();
            REQUIRE(measured.ok());
            CHECK(measured.value() > 0);
        }
        Histogram histogram;
        CHECK(ping.record(kSingle, histogram).ok());
        other.join();
        CHECK(answered);
        CHECK(histogram.count() == kSingle);
    }

    TEST_CASE("who has given up ends it for the other") {
        const auto page = std::make_unique<PingPongPage>();
        page->given_up = 1;
        PingPong ping(*page);
        CHECK(ping.measure().error().code == ETIMEDOUT);
        CHECK(ping.answer().error().code == ETIMEDOUT);
    }
}
