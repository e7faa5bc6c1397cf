// SPDX-License-Identifier: Apache-2.0
// Goal: a set tells which of its subscribers has something to receive, each in turn; sleeps when
// none has, and wakes for any of them; is not disturbed by what is for none of them.
// Method: a private ipcbusd; one thread, and a publisher in another process.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <map>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

Set make_set(const Bus& bus) {
    ipcbus_set* made = nullptr;
    (void)must(ipcbus_set_create(bus.get(), &made), "set_create");
    return Set(made);
}

}  // namespace

TEST_CASE("a set tells which of its subscribers has something, each in turn") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Bus writers = connect(daemon.address());
    std::vector<Subscriber> subscribers;
    std::vector<Publisher> publishers;
    Set set = make_set(bus);
    ipcbus_subscriber* ready = nullptr;
    CHECK(ipcbus_set_wait(set.get(), 0, &ready) == -ENOENT);
    for (int i = 0; i < 5; i++) {
        subscribers.push_back(subscribe(bus, "set/" + std::to_string(i),
                                        i == 4 ? IPCBUS_LOSSY : IPCBUS_RELIABLE));
        publishers.push_back(advertise(writers, "set/" + std::to_string(i)));
        REQUIRE(ipcbus_set_add(set.get(), subscribers.back().get()) == 0);
    }
    CHECK(ipcbus_set_add(set.get(), subscribers[0].get()) == -EBUSY);
    CHECK(ipcbus_set_wait(set.get(), 0, &ready) == -EAGAIN);
    CHECK(ipcbus_set_wait(set.get(), 20 * kMillisecondNs, &ready) == -ETIMEDOUT);
    CHECK(ready == nullptr);
    for (int i = 0; i < 5; i++) {
        publish(publishers[static_cast<std::size_t>(i)], "x");
        REQUIRE(ipcbus_set_wait(set.get(), kLongNs, &ready) == 0);
        CHECK(ready == subscribers[static_cast<std::size_t>(i)].get());
        char byte = 0;
        CHECK(ipcbus_receive(ready, &byte, 1, 0, nullptr) == 0);
    }
    // Nobody starves: all have much to read, and each gets its turn.
    for (int i = 0; i < 100; i++) {
        for (const Publisher& publisher : publishers) {
            publish(publisher, "y");
        }
    }
    std::map<ipcbus_subscriber*, int> turns;
    for (int i = 0; i < 100; i++) {
        REQUIRE(ipcbus_set_wait(set.get(), kLongNs, &ready) == 0);
        turns[ready]++;
        char byte = 0;
        REQUIRE(ipcbus_receive(ready, &byte, 1, 0, nullptr) == 0);
    }
    for (const Subscriber& subscriber : subscribers) {
        CHECK(turns[subscriber.get()] == 20);
        while (receive(subscriber, 0).ok()) {
        }
    }
    // A loss is something to report.
    for (int i = 0; i < 5000; i++) {
        publish(publishers[4], "z");
    }
    REQUIRE(ipcbus_set_wait(set.get(), kLongNs, &ready) == 0);
    CHECK(ready == subscribers[4].get());
    CHECK(receive(subscribers[4], 0).result == -ESTALE);
    // Out of the set it lives on by itself; the set goes on without it, and they without the set.
    CHECK(ipcbus_set_remove(set.get(), subscribers[4].get()) == 0);
    CHECK(ipcbus_set_remove(set.get(), subscribers[4].get()) == -ENOENT);
    CHECK(ipcbus_set_wait(set.get(), 0, &ready) == -EAGAIN);
    CHECK(receive(subscribers[4]).ok());
    subscribers[3].reset();
    publish(publishers[2], "2");
    REQUIRE(ipcbus_set_wait(set.get(), kLongNs, &ready) == 0);
    CHECK(ready == subscribers[2].get());
    CHECK(received_text(subscribers[2]) == "2");
    set.reset();
    publish(publishers[1], "1");
    CHECK(received_text(subscribers[1]) == "1");
}

TEST_CASE("a set that sleeps is woken by any of its members, also by a new publication") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Set set = make_set(bus);
    std::vector<Subscriber> subscribers;
    for (int i = 0; i < 3; i++) {
        subscribers.push_back(subscribe(bus, "wake/" + std::to_string(i), IPCBUS_RELIABLE, -1));
        REQUIRE(ipcbus_set_add(set.get(), subscribers.back().get()) == 0);
    }
    constexpr int kRounds = 300;
    const SharedBlock<Milestone> received;
    ChildProcess child = ChildProcess::fork([&] {
        const Bus own = connect(daemon.address());
        Publisher publishers[3];
        for (int i = 0; i < kRounds; i++) {
            Publisher& publisher = publishers[i % 3];
            if (i % 50 < 3) {
                publisher = advertise(own, "wake/" + std::to_string(i % 3));
            }
            publish(publisher, std::to_string(i));
            must_be(received->wait(static_cast<std::uint32_t>(i) + 1), "no answer");
        }
        return 0;
    });
    for (int i = 0; i < kRounds; i++) {
        ipcbus_subscriber* ready = nullptr;
        REQUIRE(ipcbus_set_wait(set.get(), kLongNs, &ready) == 0);
        REQUIRE(ready == subscribers[static_cast<std::size_t>(i % 3)].get());
        REQUIRE(received_text(subscribers[static_cast<std::size_t>(i % 3)]) == std::to_string(i));
        received->raise();
    }
    CHECK(child.wait() == 0);
}

TEST_CASE("a set is not woken by what is not for it") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Bus writers = connect(daemon.address());
    const Set set = make_set(bus);
    const Subscriber one = subscribe(bus, "for/one");
    const Subscriber two = subscribe(bus, "for/two");
    REQUIRE(ipcbus_set_add(set.get(), one.get()) == 0);
    REQUIRE(ipcbus_set_add(set.get(), two.get()) == 0);
    Publisher publisher = advertise(writers, "for/+");
    ipcbus_subscriber* ready = nullptr;
    for (int i = 0; i < 10; i++) {
        publish_to(publisher, "for/three", "x");
        CHECK(ipcbus_set_wait(set.get(), i == 0 ? kMillisecondNs : 0, &ready) < 0);
        publish_to(publisher, "for/two", "2");
        REQUIRE(ipcbus_set_wait(set.get(), kLongNs, &ready) == 0);
        CHECK(ready == two.get());
        CHECK(received_text(two) == "2");
    }
    publisher.reset();
    CHECK(ipcbus_set_wait(set.get(), 20 * kMillisecondNs, &ready) == -ETIMEDOUT);
}
