// SPDX-License-Identifier: Apache-2.0
// Goal: messages read where they lie: a reliable loan holds the publisher, a lossy one is told at
// release when it was overwritten, and then counts as lost, exactly.
// Method: a private ipcbusd, small rings, one process.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"

#include <doctest/doctest.h>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

constexpr std::uint64_t kRing = 65536;

std::string_view view(const ipcbus_message& message) {
    return {static_cast<const char*>(message.data), message.size};
}

}  // namespace

TEST_CASE("borrow and release: one at a time, in order") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const std::uint32_t mode = IPCBUS_RELIABLE;
    const Subscriber subscriber = subscribe(bus, "loans", mode);
    const Publisher publisher = advertise(bus, "loans", kRing);
    for (int i = 1; i <= 5000; i++) {
        publish(publisher, std::to_string(i));
        ipcbus_message message;
        REQUIRE(ipcbus_borrow(subscriber.get(), kLongNs, &message) == 0);
        REQUIRE(view(message) == std::to_string(i));
        REQUIRE(std::string_view(message.topic) == "loans");
        REQUIRE(message.sequence == static_cast<std::uint64_t>(i));
        CHECK_FALSE(reinterpret_cast<std::uintptr_t>(message.data) % 16);
        REQUIRE(ipcbus_release(subscriber.get()) == 0);
    }
    ipcbus_message message;
    CHECK(ipcbus_borrow(subscriber.get(), 0, &message) == -EAGAIN);
    CHECK(ipcbus_borrow(subscriber.get(), 0, nullptr) == -EINVAL);
    CHECK(ipcbus_borrow_many(subscriber.get(), 0, &message, 0) == -EINVAL);
    CHECK(ipcbus_release(subscriber.get()) == -ENOENT);
}

TEST_CASE("with a loan open nothing else is received") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "loans");
    const Publisher publisher = advertise(bus, "loans", kRing);
    publish(publisher, "one");
    publish(publisher, "two");
    ipcbus_message message;
    REQUIRE(ipcbus_borrow(subscriber.get(), kLongNs, &message) == 0);
    ipcbus_message other;
    char buffer[8];
    CHECK(ipcbus_borrow(subscriber.get(), kLongNs, &other) == -EBUSY);
    CHECK(ipcbus_borrow_many(subscriber.get(), kLongNs, &other, 1) == -EBUSY);
    CHECK(ipcbus_receive(subscriber.get(), buffer, 8, kLongNs, &other) == -EBUSY);
    CHECK(view(message) == "one");
    CHECK(ipcbus_release(subscriber.get()) == 0);
    CHECK(received_text(subscriber) == "two");
    // An open loan ends with its subscription.
    publish(publisher, "three");
    REQUIRE(ipcbus_borrow(subscriber.get(), kLongNs, &message) == 0);
}

TEST_CASE("a reliable loan holds the publisher back, and its bytes stay") {
    const DaemonFixture daemon;
    const Bus writers = connect(daemon.address());
    const Bus readers = connect(daemon.address());
    const Subscriber subscriber = subscribe(readers, "held");
    const Publisher publisher = advertise(writers, "held", kRing);
    (void)ipcbus_set_max_block(publisher.get(), 0);
    const std::string first(1000, 'f');
    const std::string other(1000, 'o');
    publish(publisher, first);
    ipcbus_message message;
    REQUIRE(ipcbus_borrow(subscriber.get(), kLongNs, &message) == 0);
    std::uint64_t published = 1;
    while (ipcbus_publish(publisher.get(), other.data(), other.size()) == 0) {
        published++;
    }
    CHECK(published >= kRing / 1024 - 1);
    CHECK(view(message) == first);
    CHECK(ipcbus_release(subscriber.get()) == 0);
    for (std::uint64_t i = 2; i <= published; i++) {
        const Received got = receive(subscriber);
        REQUIRE(got.payload == other);
        REQUIRE(got.message.sequence == i);
    }
    CHECK(receive(subscriber, 0).result == -EAGAIN);
    CHECK(ipcbus_publish(publisher.get(), "x", 1) == 0);
}

TEST_CASE("borrow_many lends what is there, up to a part of the ring, and no more than asked for") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "many/#");
    std::string topic = "many/topic";
    Publisher publisher;
    SUBCASE("of one topic") { publisher = advertise(bus, topic, kRing); }
    SUBCASE("of a filter") { publisher = advertise(bus, "many/+", kRing); }
    std::uint64_t published = 0;
    std::uint64_t seen = 0;
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 200; i++) {
            publish_to(publisher, topic, std::to_string(++published));
        }
        bool first = true;
        while (seen < published) {
            ipcbus_message messages[64];
            const std::size_t ask = first ? 3 : 64;
            const std::int64_t count =
                ipcbus_borrow_many(subscriber.get(), kLongNs, messages, ask);
            REQUIRE(count >= 1);
            REQUIRE(count <= static_cast<std::int64_t>(ask));
            CHECK((!first || count == 3));
            first = false;
            for (std::int64_t i = 0; i < count; i++) {
                REQUIRE(messages[i].sequence == ++seen);
                REQUIRE(view(messages[i]) == std::to_string(seen));
                REQUIRE(std::string(messages[i].topic, messages[i].topic_size) == topic);
            }
            REQUIRE(ipcbus_release(subscriber.get()) == 0);
        }
    }
    ipcbus_message message;
    CHECK(ipcbus_borrow_many(subscriber.get(), 0, &message, 1) == -EAGAIN);
    CHECK(ipcbus_lost(subscriber.get()) == 0);
}

TEST_CASE("a lossy loan that was overwritten: told at release, counted as lost") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "lossy", IPCBUS_LOSSY);
    const Publisher publisher = advertise(bus, "lossy", kRing);
    std::uint64_t published = 0;
    const auto publish_next = [&] { publish(publisher, std::to_string(++published)); };
    for (int i = 0; i < 5; i++) {
        publish_next();
    }
    // Not overwritten: as any loan.
    ipcbus_message messages[2];
    REQUIRE(ipcbus_borrow(subscriber.get(), kLongNs, messages) == 0);
    CHECK(view(messages[0]) == "1");
    publish_next();
    CHECK(ipcbus_release(subscriber.get()) == 0);

    std::uint64_t received = 1;
    std::uint64_t lost = 0;
    std::int64_t lent = 1;
    SUBCASE("one") { REQUIRE(ipcbus_borrow(subscriber.get(), kLongNs, messages) == 0); }
    SUBCASE("several") {
        lent = ipcbus_borrow_many(subscriber.get(), kLongNs, messages, 2);
        CHECK(lent == 2);
    }
    CHECK(messages[0].sequence == 2);
    for (int i = 0; i < 4000; i++) {
        publish_next();
    }
    CHECK(ipcbus_release(subscriber.get()) == -ESTALE);
    CHECK(ipcbus_release(subscriber.get()) == -ENOENT);
    while (received + lost < published) {
        const Received got = receive(subscriber);
        if (got.result == -ESTALE) {
            CHECK(lost == 0);
            lost += got.message.lost;
            continue;
        }
        REQUIRE(got.result == 0);
        received++;
        REQUIRE(got.message.sequence == received + lost);
        REQUIRE(got.payload == std::to_string(received + lost));
    }
    CHECK(lost > 2000);
    CHECK(ipcbus_lost(subscriber.get()) == lost);
    CHECK(receive(subscriber, 0).result == -EAGAIN);
}
