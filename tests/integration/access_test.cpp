// SPDX-License-Identifier: Apache-2.0
// Goal: what the rules deny is refused, with the rule's name, and nothing else is; a subscription
// gets what it may have; a reload takes rights away in truth: who has lost one reads nothing newer,
// and everybody else loses nothing. Method: a private ipcbusd; clients that differ by a
// supplementary group, or by their tokens over TCP; a raw client that keeps the ring it was given.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "protocol/layout.hpp"

#include <doctest/doctest.h>

#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

constexpr gid_t kGuests = 54321;
constexpr std::uint64_t kRing = 65536;
const std::string kGuestsDeny = "gid = 54321\ndeny = ";

bool has(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

std::string rule(const std::string& text) { return "[[rule]]\n" + text + "\n"; }

/// Who connects meanwhile is a guest.
class AsGuest {
public:
    AsGuest() {
        before_.resize(static_cast<std::size_t>(::getgroups(0, nullptr)));
        REQUIRE(::getgroups(static_cast<int>(before_.size()), before_.data()) >= 0);
        REQUIRE(::setgroups(1, &kGuests) == 0);
    }
    ~AsGuest() { (void)::setgroups(before_.size(), before_.data()); }
    AsGuest(const AsGuest&) = delete;
    AsGuest& operator=(const AsGuest&) = delete;
    static bool possible() {
        if (::geteuid() != 0) {
            MESSAGE("skipped: to be of another group takes root");
            return false;
        }
        return true;
    }

private:
    std::vector<gid_t> before_;
};

sys::RingMapping must_map(const std::vector<sys::UniqueFd>& fds, protocol::u64 ring_bytes) {
    REQUIRE(fds.size() == 1);
    auto mapped = sys::map_ring(fds.front().get(), protocol::kRingDataOffset, ring_bytes,
                                sys::Access::read_only);
    REQUIRE(mapped.ok());
    return std::move(mapped).value();
}

int try_to_advertise(const Bus& bus, const std::string& topic) {
    ipcbus_publisher* publisher = nullptr;
    const int result = ipcbus_advertise(bus.get(), topic.c_str(), nullptr, &publisher);
    ipcbus_unadvertise(publisher);
    return result;
}

int try_to_subscribe(const Bus& bus, const std::string& filter, int mode = IPCBUS_RELIABLE) {
    ipcbus_subscriber_options options = IPCBUS_INIT(options);
    options.mode = static_cast<decltype(options.mode)>(mode);
    ipcbus_subscriber* subscriber = nullptr;
    const int result = ipcbus_subscribe(bus.get(), filter.c_str(), &options, &subscriber);
    ipcbus_unsubscribe(subscriber);
    return result;
}

}  // namespace

TEST_CASE("what a rule denies is refused, with its name, and nothing else is") {
    if (!AsGuest::possible()) {
        return;
    }
    const DaemonFixture daemon(
        rule("name = 'no guests'\n" + kGuestsDeny + "'publish'\nfilter = ['locked/#', 'x']") +
        rule(kGuestsDeny + "'subscribe'\nfilter = 'secret/#'"));
    const Bus other = connect(daemon.local_address());
    const AsGuest scope;
    const Bus guest = connect(daemon.local_address());
    CHECK(try_to_advertise(other, "locked/a") == 0);
    CHECK(try_to_advertise(guest, "locked/a") == -EACCES);
    CHECK(has(ipcbus_last_error(), "rule 1 ('no guests') in line 1"));
    CHECK(has(ipcbus_last_error(), "denies this client publish"));
    CHECK(try_to_advertise(guest, "x") == -EACCES);
    CHECK(try_to_advertise(guest, "#") == -EACCES);  // for a part of it is
    CHECK(try_to_advertise(guest, "open/#") == 0);
    CHECK(try_to_subscribe(guest, "locked/a") == 0);
    CHECK(try_to_subscribe(guest, "secret/+") == -EACCES);
    CHECK(has(ipcbus_last_error(), "rule 2"));
    CHECK(try_to_subscribe(other, "secret/+") == 0);
    ipcbus_requester* requester = nullptr;
    CHECK(ipcbus_requester_create(guest.get(), "x", nullptr, &requester) == -EACCES);
    ipcbus_responder* responder = nullptr;
    CHECK(ipcbus_serve(guest.get(), "secret/a", nullptr, &responder) == -EACCES);
    CHECK(ipcbus_serve(guest.get(), "x", nullptr, &responder) == 0);
    ipcbus_responder_free(responder);
}

TEST_CASE("a subscription gets what it may have, a publication under a filter only as a whole") {
    if (!AsGuest::possible()) {
        return;
    }
    const DaemonFixture daemon(rule(kGuestsDeny + "'subscribe'\nfilter = 'secret/#'"));
    const Bus bus = connect(daemon.local_address());
    const Publisher secret = advertise(bus, "secret/plan");
    const Publisher open = advertise(bus, "open/house");
    const Publisher both = advertise(bus, "+/any");
    const AsGuest scope;
    const Bus guest = connect(daemon.local_address());
    const Subscriber everything = subscribe(guest, "#");
    wait_for_publications(everything, 1);
    const Publisher later = advertise(bus, "secret/later");
    publish(secret, "no");
    publish(later, "no");
    publish_to(both, "open/any", "no");
    publish(open, "yes");
    CHECK(receive(everything).payload == "yes");
    CHECK(receive(everything, 0).result == -EAGAIN);
    CHECK(ipcbus_publication_count(everything.get()) == 1);
    CHECK(ipcbus_subscriber_count(secret.get()) == 0);
    CHECK(ipcbus_subscriber_count(both.get()) == 0);
}

TEST_CASE("who may not hold a publisher back may read what is there") {
    if (!AsGuest::possible()) {
        return;
    }
    const DaemonFixture daemon(rule(kGuestsDeny + "'subscribe-reliably'\nfilter = 'fast/#'"));
    const Bus bus = connect(daemon.local_address());
    const Publisher fast = advertise(bus, "fast/a");
    const AsGuest scope;
    const Bus guest = connect(daemon.local_address());
    CHECK(try_to_subscribe(guest, "fast/a") == -EACCES);
    CHECK(has(ipcbus_last_error(), "lossy"));
    CHECK(try_to_subscribe(guest, "fast/a", IPCBUS_LOSSY) == 0);
    const Subscriber everything = subscribe(guest, "#");
    wait_for_publications(everything, 1);
    const std::string block(4096, 'x');
    for (int i = 0; i < 1000; i++) {
        publish(fast, block);  // more than its ring: whoever held it back would be waited for
    }
    CHECK(receive(everything).result == -ESTALE);
}

TEST_CASE("rules about tokens; what holds for those whom no rule is about") {
    const TempDir directory;
    const std::string tokens = directory.file("tokens");
    write_file(tokens, "alice 0123456789abcdef\nbob fedcba9876543210\n");
    REQUIRE(::chmod(tokens.c_str(), 0600) == 0);
    const DaemonFixture daemon("[tcp]\ntoken_file = \"" + tokens +
                               "\"\n[access]\nremote = 'deny'\n" +
                               rule("token = 'alice'\nallow = ['publish', 'subscribe', "
                                    "'subscribe-reliably']\nfilter = 'alice/#'"));
    const auto as = [&](const std::string& token) {
        write_file(directory.file("own"), token + "\n");
        REQUIRE(::chmod(directory.file("own").c_str(), 0600) == 0);
        ::setenv("IPCBUS_TOKEN_FILE", directory.file("own").c_str(), 1);
        Bus bus = connect(daemon.tcp_address());
        ::unsetenv("IPCBUS_TOKEN_FILE");
        return bus;
    };
    const Bus local = connect(daemon.local_address());
    const Bus alice = as("0123456789abcdef");
    const Bus bob = as("fedcba9876543210");
    CHECK(try_to_advertise(local, "any/thing") == 0);
    CHECK(try_to_advertise(alice, "alice/x") == 0);
    CHECK(try_to_advertise(alice, "any/thing") == -EACCES);
    CHECK(has(ipcbus_last_error(), "access.remote is \"deny\""));
    CHECK(try_to_advertise(bob, "alice/x") == -EACCES);
    CHECK(try_to_subscribe(alice, "#") == 0);
    CHECK(try_to_subscribe(bob, "#") == -EACCES);
    const Publisher there = advertise(local, "alice/mail");
    const Publisher elsewhere = advertise(local, "bob/mail");
    const Subscriber mail = subscribe(alice, "#");
    publish(elsewhere, "no");
    publish(there, "yes");
    CHECK(receive(mail).payload == "yes");
    CHECK(ipcbus_subscriber_count(elsewhere.get()) == 0);
}

TEST_CASE("a right that a reload takes away is gone; everybody else loses nothing") {
    if (!AsGuest::possible()) {
        return;
    }
    DaemonFixture daemon;
    const Bus bus = connect(daemon.local_address());
    const Publisher plant = advertise(bus, "plant/temp");
    const Publisher garden = advertise(bus, "garden/temp");
    const Bus friends = connect(daemon.local_address());
    const Subscriber reader = subscribe(friends, "#");
    std::optional<RawClient> spy;
    std::optional<Bus> guest;
    {
        const AsGuest scope;
        spy = RawClient::on_bus(daemon.socket_path(), "spy");
        guest = connect(daemon.local_address());
    }
    const Subscriber honest = subscribe(*guest, "#");
    const auto subscribed = spy->subscribe("plant/#");
    (void)spy->expect<protocol::Peer>();
    const auto attached = spy->expect<protocol::Attached>();
    REQUIRE(attached.subscription == subscribed.subscription);
    const auto ring = must_map(spy->fds, attached.ring_bytes);
    const auto& header = *reinterpret_cast<const protocol::RingHeader*>(ring.header());
    int sent = 0;
    const auto send = [&](int count) {
        for (int i = 0; i < count; i++) {
            publish(plant, "p" + std::to_string(sent));
            publish(garden, "g" + std::to_string(sent++));
        }
    };
    send(100);
    const protocol::u64 before = header.newest.load();
    CHECK(before != 0);
    daemon.write_config(rule("name = 'no guests'\n" + kGuestsDeny +
                             "'subscribe'\nfilter = 'plant/#'"));
    CHECK(has(daemon.reload(), "no guests: gid 54321 deny subscribe filter plant/#"));
    const auto ended = spy->expect<protocol::Ended>();
    CHECK(ended.attachment == attached.attachment);
    CHECK(ended.reason == static_cast<protocol::u8>(protocol::EndReason::detached));
    send(1);  // takes in that it is gone; this one it may still see
    const protocol::u64 last = header.newest.load();
    send(500);
    CHECK(header.newest.load() == last);
    spy->expect_nothing();
    // The friend has everything, in order; the guest what is not the plant's.
    int plants = 0;
    int gardens = 0;
    for (int i = 0; i < 2 * sent; i++) {
        const Received got = receive(reader);
        REQUIRE(got.result == 0);
        int& next = got.payload[0] == 'p' ? plants : gardens;
        REQUIRE(got.payload.substr(1) == std::to_string(next++));
    }
    CHECK(receive(reader, 0).result == -EAGAIN);
    int of_guest = 0;
    for (Received got; (got = receive(honest, 0)).result == 0;) {
        if (got.payload[0] == 'g') {
            REQUIRE(got.payload.substr(1) == std::to_string(of_guest++));
        } else {
            CHECK(std::stoi(got.payload.substr(1)) <= 100);
        }
    }
    CHECK(of_guest == sent);
}

TEST_CASE("who waits for a reader that loses its right goes on in another ring") {
    if (!AsGuest::possible()) {
        return;
    }
    DaemonFixture daemon;
    const Bus bus = connect(daemon.local_address());
    const Publisher plant = advertise(bus, "plant/temp", kRing, -1);
    const Bus friends = connect(daemon.local_address());
    const Subscriber reader = subscribe(friends, "#");
    std::optional<RawClient> spy;
    {
        const AsGuest scope;
        spy = RawClient::on_bus(daemon.socket_path(), "spy");
    }
    (void)spy->subscribe("plant/#");
    (void)spy->expect<protocol::Peer>();
    const auto attached = spy->expect<protocol::Attached>();
    const auto ring = must_map(spy->fds, attached.ring_bytes);
    const auto& header = *reinterpret_cast<const protocol::RingHeader*>(ring.header());
    // It reads nothing, and holds the ring: more than that is waited for.
    std::atomic<int> sent{0};
    constexpr int kMessages = 2 * static_cast<int>(kRing / 1024);
    std::thread publisher([&] {
        const std::string text(1000, 'x');
        for (int i = 0; i < kMessages; i++) {
            must(ipcbus_publish(plant.get(), text.data(), text.size()), "publish");
            sent++;
        }
    });
    while (header.wanted.load() == 0) {
        std::this_thread::yield();
    }
    const protocol::u64 before = header.newest.load();
    daemon.write_config(rule(kGuestsDeny + "'subscribe'\nfilter = 'plant/#'"));
    (void)daemon.reload();
    for (int i = 0; i < kMessages; i++) {
        REQUIRE(receive(reader).result == 0);
    }
    publisher.join();
    CHECK(sent == kMessages);
    CHECK(header.newest.load() == before);
    CHECK(receive(reader, 0).result == -EAGAIN);
}

TEST_CASE("a publisher that a reload denies is told why, and heard no more") {
    if (!AsGuest::possible()) {
        return;
    }
    DaemonFixture daemon;
    const Bus bus = connect(daemon.local_address());
    const Subscriber reader = subscribe(bus, "#");
    std::optional<Bus> guest;
    {
        const AsGuest scope;
        guest = connect(daemon.local_address());
    }
    const Publisher denied = advertise(*guest, "plant/temp");
    const Publisher allowed = advertise(*guest, "garden/temp");
    publish(denied, "before");
    CHECK(receive(reader).payload == "before");
    daemon.write_config(rule("name = 'read only'\n" + kGuestsDeny +
                             "'publish'\nfilter = 'plant/#'"));
    (void)daemon.reload();
    int result = 0;
    for (int i = 0; i < 2 && result == 0; i++) {  // the first may be the one that hears of it
        result = ipcbus_publish(denied.get(), "after", 5);
    }
    CHECK(result == -EACCES);
    CHECK(has(ipcbus_last_error(), "rule 1 ('read only')"));
    CHECK(ipcbus_publish(denied.get(), "after", 5) == -EACCES);
    publish(allowed, "still");
    Received got = receive(reader);
    if (got.payload == "after") {  // what was published before that was known: once
        got = receive(reader);
    }
    CHECK(got.payload == "still");
    CHECK(receive(reader, 0).result == -EAGAIN);
    CHECK(try_to_advertise(*guest, "plant/temp") == -EACCES);
}
