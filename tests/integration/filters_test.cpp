// SPDX-License-Identifier: Apache-2.0
// Goal: a filter gets what it matches and nothing else, whether the publication is of one topic or
// of a filter; and a publication of a filter publishes what it matches and nothing else.
// Method: a private ipcbusd; tables of filters and topics.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <memory>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

constexpr std::array<const char*, 8> kTopics = {
    "plant", "plant/1", "plant/1/temp", "plant/2/temp", "plant/2/temp/max", "plants", "a/x/b", "x"};

struct Case {
    const char* filter;
    const char* matches;  ///< a character a topic of kTopics: 1 or 0
};
constexpr Case kCases[] = {
    {"plant", "10000000"},        {"plant/1", "01000000"},      {"plant/+", "01000000"},
    {"plant/#", "11111000"},      {"plant/+/temp", "00110000"}, {"plant/2/#", "00011000"},
    {"+", "10000101"},            {"#", "11111111"},            {"+/+/temp", "00110000"},
    {"plant/+/#", "01111000"},    {"a/+/b", "00000010"},        {"a/x/b", "00000010"},
    {"plant/1/temp", "00100000"}, {"nobody/says/this", "00000000"},
};

}  // namespace

TEST_CASE("subscriptions match publications of one topic each") {
    const DaemonFixture daemon;
    const Bus writers = connect(daemon.address());
    const Bus readers = connect(daemon.address());
    std::vector<Publisher> publishers;
    std::vector<Subscriber> subscribers;
    const auto advertise_all = [&] {
        for (const char* topic : kTopics) {
            publishers.push_back(advertise(writers, topic));
        }
    };
    const auto subscribe_all = [&] {
        for (const Case& one : kCases) {
            subscribers.push_back(subscribe(readers, one.filter));
        }
    };
    SUBCASE("publications first") {
        advertise_all();
        subscribe_all();
    }
    SUBCASE("subscriptions first") {
        subscribe_all();
        advertise_all();
    }
    for (std::size_t t = 0; t < kTopics.size(); t++) {
        std::uint32_t expected = 0;
        for (const Case& one : kCases) {
            expected += one.matches[t] == '1' ? 1 : 0;
        }
        INFO("topic ", kTopics[t]);
        CHECK(ipcbus_subscriber_count(publishers[t].get()) == expected);
        publish(publishers[t], kTopics[t]);
    }
    for (std::size_t f = 0; f < std::size(kCases); f++) {
        INFO("filter ", kCases[f].filter);
        std::string got(kTopics.size(), '0');
        const std::string expected = kCases[f].matches;
        for (std::size_t left = static_cast<std::size_t>(
                 std::count(expected.begin(), expected.end(), '1'));
             left != 0; left--) {
            const Received message = receive(subscribers[f]);
            REQUIRE(message.result == 0);
            CHECK(message.topic == message.payload);
            for (std::size_t t = 0; t < kTopics.size(); t++) {
                got[t] = message.payload == kTopics[t] ? '1' : got[t];
            }
        }
        CHECK(got == expected);
        CHECK(receive(subscribers[f], 0).result == -EAGAIN);
    }
}

TEST_CASE("a publication of a filter: each message names its topic") {
    const DaemonFixture daemon;
    const Bus writers = connect(daemon.address());
    const Bus readers = connect(daemon.address());
    std::vector<Subscriber> subscribers;
    for (const Case& one : kCases) {
        subscribers.push_back(subscribe(readers, one.filter));
    }
    const Publisher publisher = advertise(writers, "#");
    CHECK(ipcbus_subscriber_count(publisher.get()) == std::size(kCases));
    for (int round = 0; round < 3; round++) {
        for (const char* topic : kTopics) {
            publish_to(publisher, topic, topic);
        }
    }
    for (std::size_t f = 0; f < std::size(kCases); f++) {
        INFO("filter ", kCases[f].filter);
        // Of one publication, so in order: what is missing or too much shows.
        for (int round = 0; round < 3; round++) {
            for (std::size_t t = 0; t < kTopics.size(); t++) {
                if (kCases[f].matches[t] == '0') {
                    continue;
                }
                const Received message = receive(subscribers[f]);
                REQUIRE(message.result == 0);
                CHECK(message.payload == kTopics[t]);
                CHECK(message.topic == kTopics[t]);
                CHECK(message.message.sequence ==
                      static_cast<std::uint64_t>(round) * kTopics.size() + t + 1);
                CHECK(message.message.lost == 0);
            }
        }
        CHECK(receive(subscribers[f], 0).result == -EAGAIN);
        CHECK(ipcbus_lost(subscribers[f].get()) == 0);
    }
}

TEST_CASE("a publication of a filter refuses what is not under it") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "#");
    const Publisher publisher = advertise(bus, "plant/+/temp");
    for (const char* wrong : {"plant/1", "plant/1/temp/x", "plant/+/temp", "plant/#", "", "/",
                              "x", "$bus/x", "plant/$x/tem"}) {
        INFO("topic '", wrong, "'");
        CHECK(ipcbus_publish_to(publisher.get(), wrong, "x", 1) == -EINVAL);
        void* room = nullptr;
        CHECK(ipcbus_claim_to(publisher.get(), wrong, 1, &room) == -EINVAL);
    }
    CHECK(ipcbus_publish(publisher.get(), "x", 1) == -EINVAL);
    CHECK(ipcbus_publish_to(publisher.get(), nullptr, "x", 1) == -EINVAL);
    publish_to(publisher, "plant/7/temp", "21");
    const Received got = receive(subscriber);
    CHECK(got.payload == "21");
    CHECK(got.topic == "plant/7/temp");
    CHECK(got.message.sequence == 1);
}

TEST_CASE("the largest message of a filter publication has room for the longest topic") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "#");
    const Publisher publisher = advertise(bus, "#", 65536);
    const std::size_t largest = ipcbus_message_bytes_max(publisher.get());
    CHECK(largest == 65536 / 4);
    const std::string longest_topic(255, 't');
    for (const std::string& topic : {std::string("t"), longest_topic}) {
        const std::string text(largest, 'x');
        publish_to(publisher, topic, text);
        const Received got = receive(subscriber);
        CHECK(got.topic == topic);
        CHECK(got.payload == text);
    }
    const std::string larger(largest + 1, 'x');
    CHECK(ipcbus_publish_to(publisher.get(), longest_topic.c_str(), larger.data(),
                            larger.size()) == -EMSGSIZE);
    const std::string too_long(256, 't');
    CHECK(ipcbus_publish_to(publisher.get(), too_long.c_str(), "x", 1) == -EINVAL);
}

namespace {

/// Fills the ring of `publisher` with what nobody wants, until a subscriber that is slow holds it
/// back: how many there was room for.
int fill(const Publisher& publisher) {
    int count = 0;
    while (ipcbus_publish_to(publisher.get(), "x/other", "unwanted", 8) == 0) {
        count++;
    }
    return count;
}

}  // namespace

TEST_CASE("what is not wanted is passed over by and by: other rings and the time have their turn") {
    const DaemonFixture daemon;
    const Bus writers = connect(daemon.address());
    const Bus readers = connect(daemon.address());
    const Subscriber mine = subscribe(readers, "x/mine");
    const Publisher publisher = advertise(writers, "x/+", 1 << 20);
    REQUIRE(ipcbus_set_max_block(publisher.get(), 0) == 0);
    publish_to(publisher, "x/mine", "attached");
    REQUIRE(receive(mine).payload == "attached");
    const int all = fill(publisher);
    REQUIRE(all > 10'000);
    SUBCASE("a set: one round of each member, and the other one's message is found") {
        const Subscriber other = subscribe(readers, "other");
        const Publisher others = advertise(writers, "other");
        publish(others, "attached");
        REQUIRE(receive(other).payload == "attached");
        publish(others, "first");
        ipcbus_set* made = nullptr;
        REQUIRE(ipcbus_set_create(readers.get(), &made) == 0);
        const std::unique_ptr<ipcbus_set, void (*)(ipcbus_set*)> set(made, ipcbus_set_free);
        REQUIRE(ipcbus_set_add(made, other.get()) == 0);
        REQUIRE(ipcbus_set_add(made, mine.get()) == 0);  // looked at first
        ipcbus_subscriber* found = nullptr;
        REQUIRE(ipcbus_set_wait(made, 0, &found) == 0);
        CHECK(found == other.get());
        CHECK(receive(other, 0).payload == "first");
        CHECK(fill(publisher) < all / 2);
        // With a timeout of 0 as far as there is something.
        CHECK(ipcbus_set_wait(made, 0, &found) == -EAGAIN);
        CHECK(fill(publisher) > all / 2);
    }
    SUBCASE("a time that is over") {
        CHECK(receive(mine, 1).result == -ETIMEDOUT);
        CHECK(fill(publisher) < all / 2);
    }
    SUBCASE("to its end, and to what stands there") {
        CHECK(receive(mine, 0).result == -EAGAIN);
        CHECK(fill(publisher) > all / 2);
        CHECK(receive(mine, 0).result == -EAGAIN);
        for (int i = 0; i < all / 2; i++) {
            REQUIRE(ipcbus_publish_to(publisher.get(), "x/other", "unwanted", 8) == 0);
        }
        publish_to(publisher, "x/mine", "wanted");
        CHECK(receive(mine, 0).payload == "wanted");
    }
    SUBCASE("borrowed, and with all the time there is") {
        ipcbus_message message;
        CHECK(ipcbus_borrow(mine.get(), 1, &message) == -ETIMEDOUT);
        CHECK(ipcbus_borrow(mine.get(), 0, &message) == -EAGAIN);
        REQUIRE(fill(publisher) > all / 2);
        CHECK(ipcbus_borrow(mine.get(), 0, &message) == -EAGAIN);
        for (int i = 0; i < all / 2; i++) {
            REQUIRE(ipcbus_publish_to(publisher.get(), "x/other", "unwanted", 8) == 0);
        }
        publish_to(publisher, "x/mine", "wanted");
        REQUIRE(ipcbus_borrow(mine.get(), kLongNs, &message) == 0);
        CHECK(message.size == 6);
        CHECK(ipcbus_release(mine.get()) == 0);
    }
}

TEST_CASE("names that are no topics or filters, and those that belong to the bus") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const std::string longest(255, 'a');
    const std::string too_long(256, 'a');
    std::string deepest = "1";
    for (int i = 1; i < 32; i++) {
        deepest += "/1";
    }
    for (const std::string& good :
         {longest, deepest, std::string("a b"), std::string("\xc3\xa9")}) {
        INFO("topic ", good);
        const Subscriber subscriber = subscribe(bus, good);
        const Publisher publisher = advertise(bus, good);
        publish(publisher, "x");
        CHECK(receive(subscriber).topic == good);
    }
    for (const std::string& bad :
         {std::string(), too_long, deepest + "/1", std::string("a/#/b"), std::string("a#"),
          std::string("a+/b"), std::string("a/b#"), std::string("a//b"), std::string("/a"),
          std::string("a/"), std::string("a\nb")}) {
        INFO("topic ", bad);
        ipcbus_publisher* publisher = nullptr;
        CHECK(ipcbus_advertise(bus.get(), bad.c_str(), nullptr, &publisher) == -EINVAL);
        CHECK(publisher == nullptr);
        ipcbus_subscriber* subscriber = nullptr;
        CHECK(ipcbus_subscribe(bus.get(), bad.c_str(), nullptr, &subscriber) == -EINVAL);
        CHECK(subscriber == nullptr);
    }
    ipcbus_publisher* publisher = nullptr;
    CHECK(ipcbus_advertise(bus.get(), "$bus/x", nullptr, &publisher) == -EACCES);
    CHECK(publisher == nullptr);
    const Subscriber of_the_bus = subscribe(bus, "$bus/#");
    CHECK(receive(of_the_bus, 0).result == -EAGAIN);
}
