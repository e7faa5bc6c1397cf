// SPDX-License-Identifier: Apache-2.0
// Goal: a subscription begins with as much of what was published before as it asks for, and goes on
// from there to what comes: nothing between history and live is lost or comes twice.
// Method: a private ipcbusd; rings that have gone round many times, publishers that publish all the
// while in another process, readers of every mode that join them.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include <doctest/doctest.h>

#include <cerrno>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

Subscriber subscribe_from(const Bus& bus, const std::string& filter, std::uint64_t history,
                          std::uint32_t mode = IPCBUS_RELIABLE) {
    ipcbus_subscriber_options options = IPCBUS_INIT(options);
    options.history = history;
    options.mode = mode;
    ipcbus_subscriber* made = nullptr;
    (void)must(ipcbus_subscribe(bus.get(), filter.c_str(), &options, &made), "subscribe");
    return Subscriber(made);
}

void publish_numbers(const Publisher& publisher, int from, int to) {
    for (int i = from; i < to; i++) {
        publish(publisher, std::to_string(i));
    }
}

/// Receives what is there without waiting.
std::vector<std::string> drain(const Subscriber& subscriber) {
    std::vector<std::string> all;
    for (Received one = receive(subscriber, 0); one.ok(); one = receive(subscriber, 0)) {
        all.push_back(one.payload);
    }
    return all;
}

}  // namespace

TEST_CASE("the last so many, all there are, or none") {
    const DaemonFixture daemon;
    const Bus writers = connect(daemon.local_address());
    const Bus bus = connect(daemon.address());
    const Publisher publisher = advertise(writers, "t");
    CHECK(drain(subscribe_from(bus, "t", IPCBUS_OLDEST)).empty());
    publish_numbers(publisher, 0, 10);
    CHECK(drain(subscribe_from(bus, "t", 0)).empty());
    CHECK(drain(subscribe_from(bus, "t", 1)) == std::vector<std::string>{"9"});
    CHECK(drain(subscribe_from(bus, "t", 3)) == std::vector<std::string>{"7", "8", "9"});
    for (const std::uint64_t all : {std::uint64_t{10}, std::uint64_t{11}, std::uint64_t{1} << 63,
                                    std::uint64_t{IPCBUS_OLDEST}}) {
        const auto received = drain(subscribe_from(bus, "t", all));
        CHECK(received.size() == 10);
        CHECK(received.front() == "0");
    }
    // A ring that has gone round: exactly as many, as long as half a ring holds them.
    publish_numbers(publisher, 10, 20'000);
    for (const std::uint64_t count : {1U, 2U, 63U, 64U, 65U, 500U, 900U}) {
        const auto received = drain(subscribe_from(bus, "t", count));
        REQUIRE(received.size() == count);
        CHECK(received.front() == std::to_string(20'000 - count));
        CHECK(received.back() == "19999");
    }
    // Three quarters of it at the most, and hardly less.
    const auto received = drain(subscribe_from(bus, "t", IPCBUS_OLDEST));
    CHECK(received.size() >= 65536 / 32 / 2);
    CHECK(received.size() <= 65536 / 32 * 3 / 4);
    CHECK(received.back() == "19999");
    CHECK(received.front() == std::to_string(20'000 - received.size()));
    // Nothing of it counts as lost.
    const Subscriber lossy = subscribe_from(bus, "t", 5, IPCBUS_LOSSY);
    CHECK(drain(lossy).size() == 5);
    CHECK(ipcbus_lost(lossy.get()) == 0);
    const Subscriber latest = subscribe_from(bus, "t", 5, IPCBUS_LATEST);
    CHECK(drain(latest) == std::vector<std::string>{"19999"});
    CHECK(ipcbus_lost(latest.get()) == 0);
}

TEST_CASE("of each publication; under a filter, whatever the topics are") {
    const DaemonFixture daemon;
    const Bus writers = connect(daemon.local_address());
    const Bus bus = connect(daemon.address());
    const Publisher one = advertise(writers, "a/1");
    const Publisher two = advertise(writers, "a/2");
    const Publisher many = advertise(writers, "b/+");
    publish_numbers(one, 0, 5);
    publish_numbers(two, 10, 15);
    for (int i = 0; i < 6; i++) {
        publish_to(many, i % 2 == 0 ? "b/even" : "b/odd", std::to_string(i));
    }
    const auto both = drain(subscribe_from(bus, "a/+", 2));
    CHECK(both.size() == 4);
    CHECK(std::count(both.begin(), both.end(), "4") == 1);
    CHECK(std::count(both.begin(), both.end(), "13") == 1);
    CHECK(drain(subscribe_from(bus, "b/odd", 3)) == std::vector<std::string>{"3", "5"});
    // However much of other topics lies between: what is there is found without waiting.
    for (int i = 0; i < 1000; i++) {
        publish_to(many, "b/even", "");
    }
    publish_to(many, "b/odd", "7");
    CHECK(drain(subscribe_from(bus, "b/odd", 1)) == std::vector<std::string>{"7"});
    CHECK(drain(subscribe_from(bus, "b/odd", 1001)) == std::vector<std::string>{"7"});
    CHECK(drain(subscribe_from(bus, "b/odd", IPCBUS_OLDEST)) ==
          std::vector<std::string>{"1", "3", "5", "7"});
    // A publication that comes later begins with its first.
    const Subscriber later = subscribe_from(bus, "c", 1);
    const Publisher c = advertise(writers, "c");
    publish_numbers(c, 0, 3);
    for (int i = 0; i < 3; i++) {
        CHECK(received_text(later) == std::to_string(i));
    }
}

TEST_CASE("nothing between history and live is lost or comes twice") {
    const DaemonFixture daemon;
    struct Scene {
        Milestone ready;
        std::atomic<bool> over{false};
    };
    const SharedBlock<Scene> scene;
    ChildProcess writer = ChildProcess::fork([&] {
        const Bus own = connect(daemon.local_address());
        const Publisher publisher = advertise(own, "stream");
        std::string payload;
        for (std::uint64_t i = 1; !scene->over; i++) {
            payload.assign(i % 7 == 0 ? 3000 : i % 90, 'x');
            publish(publisher, payload);
            if (i == 1000) {
                scene->ready.raise();
            }
        }
        return 0;
    });
    REQUIRE(scene->ready.wait(1));
    const Bus bus = connect(daemon.address());
    std::uint64_t with_history = 0;
    for (int round = 0; round < 300; round++) {
        const std::uint64_t history = round % 3 == 0 ? IPCBUS_OLDEST : round % 50 + 1;
        const Subscriber subscriber = subscribe_from(bus, "stream", history);
        std::uint64_t expected = 0;
        char buffer[4096];
        for (int i = 0; i < 200; i++) {
            ipcbus_message message{};
            const int result =
                ipcbus_receive(subscriber.get(), buffer, sizeof(buffer), kLongNs, &message);
            REQUIRE(result == 0);
            REQUIRE((expected == 0 || message.sequence == expected));
            REQUIRE(message.size == (message.sequence % 7 == 0 ? 3000 : message.sequence % 90));
            expected = message.sequence + 1;
        }
        with_history += ipcbus_lost(subscriber.get()) == 0 ? 1 : 0;
    }
    CHECK(with_history == 300);
    scene->over = true;
    CHECK(writer.wait() == 0);
}

TEST_CASE("whoever is overtaken before the first look is told how much is gone, and goes on") {
    const DaemonFixture daemon("[publications]\nstall_timeout = \"100ms\"\n");
    const Bus writers = connect(daemon.local_address());
    const Bus bus = connect(daemon.address());
    constexpr int kMany = 65536 / 16 * 10;
    std::string first;
    const auto check = [&](const Subscriber& subscriber, const Publisher& publisher,
                           std::uint64_t expected, bool latest) {
        INFO(first);
        wait_for_publications(subscriber, 1);
        publish_numbers(publisher, 0, kMany);
        std::uint64_t missed = 0;
        std::uint64_t read = 0;
        for (Received one = receive(subscriber, 0); one.result != -EAGAIN;
             one = receive(subscriber, 0)) {
            if (one.result == -ESTALE) {
                missed += one.message.lost;
                continue;
            }
            REQUIRE(one.ok());
            read++;
            missed += latest ? one.message.lost : 0;
        }
        CHECK(read != 0);
        CHECK(missed != 0);
        CHECK(read + missed == expected);
        CHECK(ipcbus_lost(subscriber.get()) == missed);
    };
    for (const std::uint32_t mode : {IPCBUS_RELIABLE, IPCBUS_LOSSY, IPCBUS_LATEST}) {
        for (const std::uint64_t history : {std::uint64_t{1}, std::uint64_t{IPCBUS_OLDEST}}) {
            const bool latest = mode == IPCBUS_LATEST;
            // Of a publisher that was there; of one that comes later.
            first = "there before";
            const std::string topic =
                "over/" + std::to_string(mode) + (history == 1 ? "/one" : "/all");
            {
                const Publisher publisher = advertise(writers, topic);
                publish_numbers(publisher, 0, 100);
                const Subscriber subscriber = subscribe_from(bus, topic, history, mode);
                check(subscriber, publisher, kMany + (history == 1 || latest ? 1 : 100), latest);
            }
            first = "later";
            const Subscriber subscriber = subscribe_from(bus, topic + "/later", history, mode);
            const Publisher publisher = advertise(writers, topic + "/later");
            check(subscriber, publisher, kMany, latest);
        }
    }
}

TEST_CASE("what was published is there when it has been subscribed, however new the ring is") {
    const DaemonFixture daemon;
    const Bus writers = connect(daemon.local_address());
    const Bus bus = connect(daemon.address());
    for (int i = 0; i < 20; i++) {
        const std::string topic = "large/" + std::to_string(i);
        // The kernel needs a while to make it, in which it is published to already.
        const Publisher publisher = advertise(writers, topic, 32 << 20);
        publish(publisher, "x");
        CHECK(drain(subscribe_from(bus, topic, 1)) == std::vector<std::string>{"x"});
    }
    {  // More than the ring of who reads over TCP has otherwise.
        const Publisher publisher = advertise(writers, "most", 8 << 20);
        const std::string text(1000, 'x');
        for (int i = 0; i < 5000; i++) {
            publish(publisher, text);
        }
        CHECK(drain(subscribe_from(bus, "most", IPCBUS_OLDEST)).size() == 5000);
    }
    // Of many at once.
    std::vector<Publisher> publishers;
    for (int i = 0; i < 500; i++) {
        publishers.push_back(advertise(writers, "many/" + std::to_string(i)));
        publish(publishers.back(), std::to_string(i));
    }
    CHECK(drain(subscribe_from(bus, "many/#", IPCBUS_OLDEST)).size() == 500);
}
