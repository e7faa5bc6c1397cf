// SPDX-License-Identifier: Apache-2.0
// Goal: a receive that runs out of memory says so, and nothing is half done: the next one goes on
// where it was, and what was lost between two rings is told once, exactly. One that meets its end
// in the midst of the daemon's frames costs the connection, which is made again. A handle that
// cannot be made leaves nothing behind, here or in the daemon.
// Method: this program's operator new fails from the n-th allocation of a call on, or at it alone,
// for every n that there is. The publisher speaks the protocol by itself.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <cstdlib>
#include <new>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

namespace {

/// Of this thread: allocations that succeed before one fails; negative: all do.
thread_local int allocations_left = -1;
thread_local bool only_one_fails = false;

void* allocated(std::size_t bytes) {
    if (allocations_left == 0) {
        allocations_left = only_one_fails ? -1 : 0;
        throw std::bad_alloc();
    }
    if (allocations_left > 0) {
        allocations_left--;
    }
    void* const block = std::malloc(bytes);
    if (block == nullptr) {
        std::abort();
    }
    return block;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocated(bytes); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }

namespace {

u64 open_ring(RawClient& client, u64 lineage, u64 first_sequence) {
    protocol::Advertise request;
    request.topic = "exhaustion/topic/that/is/too/long/for/a/string/to/hold/without/memory";
    request.ring_bytes = 65536;
    std::memcpy(request.lineage.data(), &lineage, sizeof lineage);
    request.first_sequence = first_sequence;
    const auto granted = client.answer<protocol::Advertised>(client.send(request));
    client.mapped(granted.publication);
    return granted.publication;
}

struct Tally {
    int refusals = 0;
    u64 lost = 0;
};

/// One receive; `left` as allocations_left.
void receive_once(const Subscriber& subscriber, int left, Tally& tally) {
    ipcbus_message message{};
    allocations_left = left;
    const int result = ipcbus_receive(subscriber.get(), nullptr, 0, 0, &message);
    allocations_left = -1;
    if (result == -ESTALE) {
        CHECK(std::string(message.topic, message.topic_size).starts_with("exhaustion/topic/"));
        tally.lost += message.lost;
        return;
    }
    tally.refusals += result == -ENOMEM ? 1 : 0;
    CHECK((result == -ENOMEM || result == -EAGAIN));
}

}  // namespace

TEST_CASE("a receive without memory takes up the next ring, and its loss, when there is some") {
    SUBCASE("one allocation fails") { only_one_fails = true; }
    SUBCASE("all of them fail") { only_one_fails = false; }
    // Whether the frames have been read before, or are read by that very receive.
    bool read_before = true;
    SUBCASE("frames read before") {}
    SUBCASE("frames to be read") { read_before = false; }
    const DaemonFixture daemon;
    RawClient client = RawClient::on_bus(daemon.socket_path(), "publisher");
    int in_vain = 0;
    int refusals = 0;
    for (int n = 0; in_vain < 5 && n < 200; n++) {
        INFO("allocation ", n);
        const Bus bus = connect(daemon.address());
        const Subscriber subscriber = subscribe(bus, "exhaustion/#", IPCBUS_RELIABLE, -1);
        const u64 lineage = static_cast<u64>(n) + 1;
        const u64 first = open_ring(client, lineage, 1);
        wait_for_publications(subscriber, 1);
        const u64 second = open_ring(client, lineage, 4);
        client.unadvertise(first);
        if (read_before) {
            (void)subscribe(bus, "barrier");
        }
        Tally tally;
        for (int i = 0; i < 3; i++) {
            receive_once(subscriber, n, tally);
        }
        refusals += tally.refusals;
        in_vain = tally.refusals == 0 ? in_vain + 1 : 0;
        if (read_before) {
            const sys::Deadline deadline = sys::Deadline::after(kLongNs);
            while (tally.lost == 0 && !deadline.passed()) {
                receive_once(subscriber, -1, tally);
            }
            receive_once(subscriber, -1, tally);
            CHECK(tally.lost == 3);
            CHECK(ipcbus_publication_count(subscriber.get()) == 1);
        } else {
            // The connection may have been given up, and made again: it works.
            const sys::Deadline deadline = sys::Deadline::after(kLongNs);
            while (ipcbus_state(bus.get()) != IPCBUS_CONNECTED && !deadline.passed()) {}
            const Publisher other = advertise(bus, "exhaustion/other");
            Received got;
            while (got.payload != "x" && !deadline.passed()) {
                publish(other, "x");  // what comes before it has subscribed anew is not for it
                got = receive(subscriber, 20 * kMillisecondNs);
                tally.lost += got.result == -ESTALE ? got.message.lost : 0;
            }
            CHECK(got.payload == "x");
            CHECK((tally.lost == 0 || tally.lost == 3));
        }
        CHECK(ipcbus_lost(subscriber.get()) == tally.lost);
        client.unadvertise(second);
        (void)client.drain();
    }
    CHECK(refusals > 0);
}

namespace {

/// Of each kind a client may have so many, of waiters all together.
constexpr int kHandles = 6;
const char* const kFewHandles =
    "[limits]\nwaiters_per_client = 6\n"
    "[limits.per_uid]\npublications = 6\nsubscriptions = 6\n";

template <class Handle, class Make>
void make_without_memory(Make&& make) {
    const DaemonFixture daemon(kFewHandles);
    const Bus bus = connect(daemon.address());
    int in_vain = 0;
    int refusals = 0;
    for (int n = 0; in_vain < 5 && n < 200; n++) {
        INFO("allocation ", n);
        const auto made_with = [&](int left) {
            typename Handle::pointer handle = nullptr;
            allocations_left = left;
            const int result = make(bus.get(), &handle);
            allocations_left = -1;
            CHECK((result == 0) == (handle != nullptr));
            return std::pair<int, Handle>(result, Handle(handle));
        };
        const int result = made_with(n).first;
        // The connection may have been given up, and is made again.
        CHECK((result == 0 || result == -ENOMEM || result == -ESHUTDOWN));
        refusals += result != 0 ? 1 : 0;
        in_vain = result == 0 ? in_vain + 1 : 0;
        std::vector<Handle> all;
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        while (all.size() < kHandles && !deadline.passed()) {
            auto made = made_with(-1);
            if (made.first == 0) {
                all.push_back(std::move(made.second));
            } else if (made.first != -ESHUTDOWN && ipcbus_reconnects(bus.get()) == 0) {
                FAIL("something is kept: ", std::string(ipcbus_last_error()));
            } else {
                (void)ipcbus_state(bus.get());  // the last connection may not have ended yet
            }
        }
        REQUIRE(all.size() == kHandles);
    }
    CHECK(refusals > 0);
    CHECK(in_vain == 5);
}

}  // namespace

TEST_CASE("a handle that cannot be made for want of memory leaves nothing behind") {
    SUBCASE("one allocation fails") { only_one_fails = true; }
    SUBCASE("all of them fail") { only_one_fails = false; }
    const char* const name = "exhaustion/topic/that/is/too/long/for/a/string/to/hold";
    SUBCASE("publisher") {
        ipcbus_publisher_options options = IPCBUS_INIT(options);
        options.ring_bytes = 65536;
        make_without_memory<Publisher>([&](ipcbus_bus* bus, ipcbus_publisher** ret_publisher) {
            return ipcbus_advertise(bus, name, &options, ret_publisher);
        });
    }
    SUBCASE("subscriber") {
        make_without_memory<Subscriber>([&](ipcbus_bus* bus, ipcbus_subscriber** ret_subscriber) {
            return ipcbus_subscribe(bus, name, nullptr, ret_subscriber);
        });
    }
    SUBCASE("set") {
        make_without_memory<Set>(
            [](ipcbus_bus* bus, ipcbus_set** ret_set) { return ipcbus_set_create(bus, ret_set); });
    }
}

TEST_CASE("a subscriber that cannot come into a set for want of memory stays where it was") {
    SUBCASE("one allocation fails") { only_one_fails = true; }
    SUBCASE("all of them fail") { only_one_fails = false; }
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Publisher publisher = advertise(bus, "exhaustion/set");
    const Subscriber subscriber = subscribe(bus, "exhaustion/set");
    wait_for_publications(subscriber, 1);
    int refusals = 0;
    int in_vain = 0;
    for (int n = 0; in_vain < 3 && n < 50; n++) {
        INFO("allocation ", n);
        ipcbus_set* made = nullptr;
        REQUIRE(ipcbus_set_create(bus.get(), &made) == 0);
        const Set set(made);
        allocations_left = n;
        const int result = ipcbus_set_add(made, subscriber.get());
        allocations_left = -1;
        publish(publisher, "x");
        if (result == 0) {
            in_vain++;
            ipcbus_subscriber* ready = nullptr;
            CHECK(ipcbus_set_wait(made, kLongNs, &ready) == 0);
            CHECK(ready == subscriber.get());
            CHECK(ipcbus_set_remove(made, subscriber.get()) == 0);
        } else {
            refusals++;
            CHECK(result == -ENOMEM);
            CHECK(ipcbus_set_remove(made, subscriber.get()) == -ENOENT);
        }
        // It sleeps in a waiter that is told of this message, or it would hang.
        CHECK(received_text(subscriber) == "x");
        CHECK(receive(subscriber, kMillisecondNs).result == -ETIMEDOUT);
    }
    CHECK(refusals > 0);
    CHECK(in_vain == 3);
}
