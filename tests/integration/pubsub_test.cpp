// SPDX-License-Identifier: Apache-2.0
// Goal: what is published arrives: every size, whole, in order, once, at everybody who asked for it
// and at nobody else; in any order of arrival; also when the publisher dies right after.
// Method: a private ipcbusd, the library in this process and in forked ones.
#include "bus_client.hpp"
#include "checked_message.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include "protocol/layout.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <unistd.h>

#include <map>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

/// Text whose bytes differ, of any size.
std::string pattern(std::size_t bytes) {
    std::string text(bytes, '\0');
    for (std::size_t i = 0; i < bytes; i++) {
        text[i] = static_cast<char>(mixed(bytes + i / 8) >> (i % 8 * 8));
    }
    return text;
}

/// A message is `bytes` long: publish, receive, compare; without copying more than once.
void there_and_back(const Publisher& publisher, const Subscriber& subscriber, std::size_t bytes,
                    std::uint64_t sequence) {
    const std::string sent = pattern(bytes);
    publish(publisher, sent);
    const Received got = receive(subscriber);
    const bool same = got.result == 0 && got.payload == sent &&
                      got.message.sequence == sequence && got.message.lost == 0;
    REQUIRE_MESSAGE(same, "a message of ", bytes, " bytes");
}

/// As in crowds below: who sends how many, and who has to get them.
constexpr std::uint64_t kCrowdMessages = 20'000;
constexpr unsigned kCrowd = 3;

int crowd_publisher(const std::string& address, unsigned number, Milestone& ready) {
    const Bus bus = connect(address);
    const Publisher publisher = advertise(bus, "crowd/" + std::to_string(number));
    ready.raise();
    (void)must(ipcbus_wait_subscribers(publisher.get(), kCrowd, kLongNs), "wait_subscribers");
    std::vector<char> message(3000);
    for (std::uint64_t i = 1; i <= kCrowdMessages; i++) {
        const std::size_t bytes = sizeof(CheckedHeader) + mixed(i * number) % 2900;
        fill_checked(message.data(), bytes, number, i);
        (void)must(ipcbus_publish(publisher.get(), message.data(), bytes), "publish");
    }
    return 0;
}

int crowd_subscriber(const std::string& address, std::uint32_t mode, Milestone& ready) {
    const Bus bus = connect(address);
    const Subscriber subscriber = subscribe(bus, "crowd/#", mode);
    ready.raise();
    std::map<std::uint64_t, std::uint64_t> last;
    std::uint64_t accounted = 0;
    std::vector<char> buffer(4096);
    while (accounted < kCrowd * kCrowdMessages) {
        ipcbus_message message;
        const int result =
            ipcbus_receive(subscriber.get(), buffer.data(), buffer.size(), kLongNs, &message);
        if (result == -ESTALE && mode != IPCBUS_RELIABLE) {
            accounted += message.lost;
            continue;
        }
        (void)must(result, "receive");
        const auto header = read_checked(message.data, message.size);
        must_be(header.has_value(), "a torn message");
        must_be(header->number == message.sequence, "a message of another number");
        must_be(header->number > last[header->sender], "out of order, or twice");
        if (mode == IPCBUS_RELIABLE) {
            must_be(header->number == last[header->sender] + 1, "a hole");
        }
        last[header->sender] = header->number;
        accounted++;
    }
    must_be(receive(subscriber, 0).result == -EAGAIN, "more than was sent");
    return 0;
}

}  // namespace

TEST_CASE("every size from 0 to the largest arrives as it was sent") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "sizes");
    const Publisher publisher = advertise(bus, "sizes", 65536);
    const std::size_t largest = ipcbus_message_bytes_max(publisher.get());
    CHECK(ipcbus_ring_bytes(publisher.get()) == 65536);
    CHECK(largest == protocol::payload_bytes_max(65536));
    std::uint64_t sequence = 0;
    for (std::size_t bytes = 0; bytes <= largest; bytes += bytes < 600 ? 1 : 7) {
        there_and_back(publisher, subscriber, bytes, ++sequence);
    }
    for (std::size_t bytes = largest - 40; bytes <= largest; bytes++) {
        there_and_back(publisher, subscriber, bytes, ++sequence);
    }
    const std::string larger(largest + 1, 'x');
    CHECK(ipcbus_publish(publisher.get(), larger.data(), larger.size()) == -EMSGSIZE);
    CHECK(ipcbus_publish(publisher.get(), larger.data(), ~std::size_t{0}) == -EMSGSIZE);
    CHECK(ipcbus_publish(publisher.get(), larger.data(), std::size_t{1} << 32) == -EMSGSIZE);
    there_and_back(publisher, subscriber, 1, ++sequence);
    CHECK(receive(subscriber, 0).result == -EAGAIN);
    CHECK(ipcbus_lost(subscriber.get()) == 0);
}

TEST_CASE("a ring is as large as was asked for, and so are its messages") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "large/#");
    SUBCASE("16 MiB ring") {
        const Publisher publisher = advertise(bus, "large/ring", 16 << 20);
        const std::size_t largest = ipcbus_message_bytes_max(publisher.get());
        CHECK(largest == protocol::payload_bytes_max(16 << 20));
        for (std::uint64_t i = 1; i <= 9; i++) {
            there_and_back(publisher, subscriber, largest - i % 3, i);
        }
    }
    SUBCASE("as configured") {
        const Publisher publisher = advertise(bus, "large/default", 0);
        CHECK(ipcbus_ring_bytes(publisher.get()) == 1 << 20);
        there_and_back(publisher, subscriber, ipcbus_message_bytes_max(publisher.get()), 1);
    }
    SUBCASE("by the largest message") {
        ipcbus_publisher_options options = IPCBUS_INIT(options);
        options.message_bytes_max = 3'000'000;
        ipcbus_publisher* made = nullptr;
        (void)must(ipcbus_advertise(bus.get(), "large/message", &options, &made), "advertise");
        const Publisher publisher(made);
        CHECK(ipcbus_message_bytes_max(publisher.get()) >= 3'000'000);
        CHECK(ipcbus_ring_bytes(publisher.get()) == 16 << 20);
        there_and_back(publisher, subscriber, 3'000'000, 1);
    }
}

TEST_CASE("several processes: everybody gets everything, in the order of each sender") {
    const DaemonFixture daemon;
    const SharedBlock<Milestone> ready;
    std::vector<ChildProcess> children;
    // The first of each kind come before any of the other kind.
    for (unsigned i = 1; i <= kCrowd; i++) {
        const std::uint32_t mode = i == 3 ? IPCBUS_LOSSY : IPCBUS_RELIABLE;
        children.push_back(ChildProcess::fork(
            [&] { return crowd_subscriber(daemon.address(), mode, *ready); }));
        REQUIRE(ready->wait(2 * i - 1));
        children.push_back(
            ChildProcess::fork([&] { return crowd_publisher(daemon.address(), i, *ready); }));
        REQUIRE(ready->wait(2 * i));
    }
    for (ChildProcess& child : children) {
        CHECK(child.wait(3 * kTimeoutMs) == 0);
    }
}

TEST_CASE("a lossy subscription never holds the publisher, and counts what it lost") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "fast", IPCBUS_LOSSY);
    const Publisher publisher = advertise(bus, "fast", 65536);
    constexpr std::uint64_t kMessages = 10'000;
    for (std::uint64_t i = 1; i <= kMessages; i++) {
        publish(publisher, "message " + std::to_string(i));
    }
    std::uint64_t accounted = 0;
    std::uint64_t lost = 0;
    while (accounted < kMessages) {
        const Received got = receive(subscriber);
        if (got.result == -ESTALE) {
            lost += got.message.lost;
            accounted += got.message.lost;
            CHECK(got.topic == "fast");
        } else {
            REQUIRE(got.result == 0);
            accounted++;
            REQUIRE(got.payload == "message " + std::to_string(accounted));
            REQUIRE(got.message.sequence == accounted);
        }
    }
    CHECK(accounted == kMessages);
    CHECK(lost > kMessages / 2);
    CHECK(lost < kMessages - 500);  // a ring of 64 KiB holds 1,000 and more of these
    CHECK(ipcbus_lost(subscriber.get()) == lost);
    CHECK(receive(subscriber, 0).result == -EAGAIN);
}

TEST_CASE("a subscription to the latest gets the newest message, each once") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "state", IPCBUS_LATEST);
    const Publisher publisher = advertise(bus, "state", 65536);
    publish(publisher, "1");
    CHECK(received_text(subscriber) == "1");
    for (int i = 2; i <= 20'000; i++) {
        publish(publisher, std::to_string(i));
    }
    const Received got = receive(subscriber);
    CHECK(got.result == 0);
    CHECK(got.payload == "20000");
    CHECK(got.message.sequence == 20'000);
    CHECK(got.message.lost == 20'000 - 2);
    CHECK(ipcbus_lost(subscriber.get()) == 20'000 - 2);
    CHECK(receive(subscriber, 0).result == -EAGAIN);
    publish(publisher, "20001");
    CHECK(received_text(subscriber) == "20001");
    CHECK(ipcbus_lost(subscriber.get()) == 20'000 - 2);
}

TEST_CASE("subscribe and advertise in any order; what was published before is not received") {
    const DaemonFixture daemon;
    const Bus writers = connect(daemon.address());
    const Bus readers = connect(daemon.address());
    const Subscriber early = subscribe(readers, "a/b");
    const Publisher publisher = advertise(writers, "a/b");
    CHECK(ipcbus_subscriber_count(publisher.get()) == 1);
    publish(publisher, "one");
    const Subscriber second = subscribe(readers, "a/b");
    CHECK(ipcbus_subscriber_count(publisher.get()) == 2);
    publish(publisher, "two");
    const Subscriber own = subscribe(writers, "a/+");
    publish(publisher, "three");
    CHECK(received_text(early) == "one");
    for (const Subscriber* subscriber : {&early, &second}) {
        CHECK(received_text(*subscriber) == "two");
    }
    for (const Subscriber* subscriber : {&early, &second, &own}) {
        CHECK(received_text(*subscriber) == "three");
        CHECK(receive(*subscriber, 0).result == -EAGAIN);
        CHECK(ipcbus_publication_count(subscriber->get()) == 1);
    }
    const Publisher another = advertise(readers, "a/b");
    CHECK(ipcbus_subscriber_count(another.get()) == 3);
    publish(another, "from another");
    for (const Subscriber* subscriber : {&early, &second, &own}) {
        const Received got = receive(*subscriber);
        CHECK(got.payload == "from another");
        CHECK(got.message.sequence == 1);
        CHECK(ipcbus_publication_count(subscriber->get()) == 2);
    }
}

TEST_CASE("a publication that has ended is read to its end") {
    const DaemonFixture daemon;
    const Bus readers = connect(daemon.address());
    const Subscriber subscriber = subscribe(readers, "ends");
    Bus writers = connect(daemon.address());
    Publisher publisher = advertise(writers, "ends");
    for (int i = 0; i < 100; i++) {
        publish(publisher, std::to_string(i));
    }
    SUBCASE("by unadvertise") { publisher.reset(); }
    SUBCASE("by close of the client") {
        (void)publisher.release();  // closed with its client
        writers.reset();
    }
    for (int i = 0; i < 100; i++) {
        REQUIRE(received_text(subscriber) == std::to_string(i));
    }
    // Its end is no message; the next publication of the topic is another.
    const Bus again = connect(daemon.address());
    const Publisher next = advertise(again, "ends");
    publish(next, "next");
    CHECK(received_text(subscriber) == "next");
    CHECK(ipcbus_publication_count(subscriber.get()) == 1);
    CHECK(ipcbus_lost(subscriber.get()) == 0);
}

TEST_CASE("who dies right after a publish has been heard by everybody who was subscribed") {
    const DaemonFixture daemon;
    const Bus one = connect(daemon.address());
    const Bus two = connect(daemon.address());
    const Subscriber subscribers[] = {subscribe(one, "last/words"), subscribe(two, "#"),
                                      subscribe(two, "last/+", IPCBUS_LOSSY)};
    for (int i = 0; i < 60; i++) {
        const int messages = i % 3 == 0 ? 200 : 1;
        const ChildProcess child = ChildProcess::fork([&]() -> int {
            const Bus bus = connect(daemon.address());
            const Publisher publisher = advertise(bus, "last/words");
            for (int m = 0; m < messages; m++) {
                publish(publisher, std::to_string(i) + "." + std::to_string(m));
            }
            if (i % 2 == 0) {
                (void)::raise(SIGKILL);
            }
            ::_exit(0);  // without closing anything
        });
        for (const Subscriber& subscriber : subscribers) {
            for (int m = 0; m < messages; m++) {
                REQUIRE(received_text(subscriber) == std::to_string(i) + "." + std::to_string(m));
            }
        }
    }
}
