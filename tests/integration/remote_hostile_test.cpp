// SPDX-License-Identifier: Apache-2.0
// Goal: with remote clients there, nobody of this host pays for them: hostile publishers and
// readers cost a remote client at most what is theirs, and cost the daemon no time and no room;
// remote clients that connect and say nothing, read nothing, or subscribe to everything take
// nothing that others need.
// Method: raw local clients with rings and pages of their own; raw TCP; the daemon's own figures in
// /proc (CPU time, mappings, sleeps).
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"
#include "remote_client.hpp"

#include "protocol/attachment.hpp"
#include "protocol/ring_writer.hpp"
#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

std::string local_address(const DaemonFixture& daemon) { return "unix:" + daemon.socket_path(); }

/// What that process has had of a processor so far.
std::int64_t cpu_ns(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/schedstat");
    std::int64_t ns = 0;
    REQUIRE(static_cast<bool>(file >> ns));
    return ns;
}

std::uint64_t sleeps(pid_t pid) {
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("voluntary_ctxt_switches:", 0) == 0) {
            return std::strtoull(line.c_str() + line.find(':') + 1, nullptr, 10);
        }
    }
    FAIL("no count of sleeps");
    return 0;
}

/// A ring that the test writes as it likes.
struct RawRing {
    RawRing(RawClient& client, const std::string& topic, u64 capacity = 65536)
        : told(client.advertise(topic, capacity)) {
        auto mapped = sys::map_ring(client.fds.at(0).get(), protocol::kRingDataOffset, capacity,
                                    sys::Access::read_write);
        REQUIRE(mapped.ok());
        memory = std::move(mapped).value();
        writer = protocol::RingWriter(
            {reinterpret_cast<protocol::RingHeader*>(memory.header()), memory.data(), capacity},
            told.start, told.first_sequence, told.record_bytes_max);
        REQUIRE(writer.raise(4096, writer.position()));
        client.mapped(told.publication);
    }
    protocol::Advertised told;
    sys::RingMapping memory;
    protocol::RingWriter writer;
};

/// The doorbell page of the one reader that `client`'s publication has: as its writer gets it.
sys::Mapping doorbell_of_reader(RawClient& client, protocol::Geometry& ret_geometry) {
    for (;;) {
        std::optional<Incoming> incoming = client.next();
        REQUIRE(incoming);
        if (incoming->header.type != protocol::FrameType::peer) {
            continue;
        }
        const auto peer = decoded<protocol::Peer>(*incoming);
        REQUIRE((peer.pages & protocol::kPeerDoorbell) != 0);
        ret_geometry = peer.geometry;
        auto mapped =
            sys::map_shared(incoming->fds.back().get(), 0, protocol::doorbell_bytes(peer.geometry),
                            sys::Access::read_write);
        REQUIRE(mapped.ok());
        return std::move(mapped).value();
    }
}

}  // namespace

TEST_CASE("a record that cannot be costs its reader that publication, and no connection") {
    const DaemonFixture daemon;
    const Bus here = connect(local_address(daemon));
    const Bus there = connect(daemon.tcp_address());
    const Subscriber far = subscribe(there, "mixed/+");
    const Publisher own = advertise(there, "mine");
    const Publisher good = advertise(here, "mixed/good");
    RawClient liar = RawClient::on_bus(daemon.socket_path());
    RawRing ring(liar, "mixed/liar");
    wait_for_publications(far, 2);
    publish(good, "before");
    CHECK(received_text(far) == "before");
    ring.writer.commit(300, 8);  // a topic longer than any
    wait_for_publications(far, 1);
    publish(good, "after");
    CHECK(received_text(far) == "after");
    publish(own, "still there");
    CHECK(ipcbus_reconnects(there.get()) == 0);
}

TEST_CASE("who writes to the summary word without a pause keeps nobody awake") {
    DaemonFixture daemon;
    const Bus there = connect(daemon.tcp_address());
    const Subscriber far = subscribe(there, "rung/#");
    RawClient ringer = RawClient::on_bus(daemon.socket_path());
    RawRing ring(ringer, "rung/ring");
    protocol::Geometry geometry;
    const sys::Mapping doorbell = doorbell_of_reader(ringer, geometry);
    auto* const words =
        reinterpret_cast<protocol::DoorbellWaiter*>(doorbell.data() + protocol::waiter_offset(0));
    std::atomic<bool> over{false};
    std::thread ringing([&] {
        for (unsigned stores = 0; !over.load(); stores++) {
            words->summary.store(~u64{0});
            if (stores % 4096 == 0) {
                protocol::ring_bell(words->bell);
            }
        }
    });
    const pid_t pid = daemon.process().pid();
    const std::int64_t before_ns = cpu_ns(pid);
    const std::int64_t began_ns = sys::monotonic_ns();
    (void)::poll(nullptr, 0, 1000);
    const std::int64_t used_ns = cpu_ns(pid) - before_ns;
    const std::int64_t passed_ns = sys::monotonic_ns() - began_ns;
    CHECK(used_ns < passed_ns / (kSanitized ? 8 : 50));  // without naps it would be 40 ms
    // And what others publish comes all the same.
    const Bus here = connect(local_address(daemon));
    const Publisher good = advertise(here, "rung/good");
    wait_for_publications(far, 2);
    publish(good, "heard");
    CHECK(received_text(far) == "heard");
    over.store(true);
    ringing.join();
}

TEST_CASE("publications that say nothing wake nobody, however many there are") {
    DaemonFixture daemon;
    const Bus there = connect(daemon.tcp_address());
    const Subscriber far = subscribe(there, "#");
    const Bus here = connect(local_address(daemon));
    std::vector<Publisher> silent;
    for (int i = 0; i < 24; i++) {
        silent.push_back(advertise(here, "silent/" + std::to_string(i)));
        wait_for_publications(far, static_cast<std::uint32_t>(i) + 1);  // each by itself
    }
    const pid_t pid = daemon.process().pid();
    std::uint64_t fewest = ~std::uint64_t{0};
    for (int look = 0; look < 10 && fewest >= 20; look++) {  // what was begun before ends meanwhile
        const std::uint64_t before = sleeps(pid);
        (void)::poll(nullptr, 0, 500);
        fewest = std::min(fewest, sleeps(pid) - before);
    }
    CHECK(fewest < 20);  // a look every 4 ms would be 125
}

TEST_CASE("what remote clients read is mapped once, and only so much of it") {
    DaemonFixture daemon("[tcp]\nmappings = 128\n");
    const Bus here = connect(local_address(daemon));
    std::vector<Publisher> publishers;
    for (int i = 0; i < 20; i++) {
        publishers.push_back(advertise(here, "mapped/" + std::to_string(i)));
    }
    const Bus first = connect(daemon.tcp_address());
    const Subscriber one = subscribe(first, "mapped/#");
    wait_for_publications(one, 20);
    const std::size_t before = daemon.process().mapping_count();
    const Bus second = connect(daemon.tcp_address());
    const Subscriber two = subscribe(second, "mapped/#");
    wait_for_publications(two, 20);
    // (ThreadSanitizer has mappings of its own, as it goes.)
    CHECK(daemon.process().mapping_count() < before + (kThreadSanitizer ? 30 : 20));
    // Beyond the limit the daemon says so, and what is there goes on; the room comes back.
    for (int i = 20; i < 40; i++) {
        publishers.push_back(advertise(here, "mapped/" + std::to_string(i)));
    }
    CHECK(daemon.process().wait_for_output("raise tcp.mappings") != std::string::npos);
    publish(publishers[3], "to both");
    CHECK(received_text(one) == "to both");
    CHECK(received_text(two) == "to both");
    const Subscriber near = subscribe(here, "mapped/#");
    wait_for_publications(near, 40);
    publishers.clear();
    wait_for_publications(one, 0);
    wait_for_publications(two, 0);
    for (int i = 0; i < 20; i++) {
        publishers.push_back(advertise(here, "again/mapped/" + std::to_string(i)));
    }
    const Subscriber again = subscribe(first, "again/#");
    wait_for_publications(again, 20);
    // A publication that finds no room is refused by name.
    std::vector<Publisher> own;
    ipcbus_publisher* refused = nullptr;
    int result = 0;
    while (result == 0 && own.size() < 100) {
        const std::string topic = "own/" + std::to_string(own.size());
        result = ipcbus_advertise(first.get(), topic.c_str(), nullptr, &refused);
        if (result == 0) {
            own.emplace_back(refused);
        }
    }
    CHECK(result == -ENOSPC);
    CHECK(std::string(ipcbus_last_error()).find("raise tcp.mappings") != std::string::npos);
}

TEST_CASE("who connects and says nothing takes no place, and goes first") {
    DaemonFixture daemon("[tcp]\nclients = 2\n");
    std::vector<sys::UniqueFd> silent;
    for (int i = 0; i < 200; i++) {
        silent.push_back(connect_raw(daemon.tcp_address()));
    }
    CHECK(hung_up(silent[0]));
    const Bus first = connect(daemon.tcp_address());
    const Bus second = connect(daemon.tcp_address());
    CHECK_FALSE(hung_up(silent.back(), 0));
    CHECK(daemon.process().output().find("too many others wait") != std::string::npos);
}

TEST_CASE("their host is charged from the first moment") {
    DaemonFixture daemon("[limits.per_uid]\nclients = 3\n");
    std::vector<sys::UniqueFd> silent;
    for (int i = 0; i < 3; i++) {
        silent.push_back(connect_raw(daemon.tcp_address()));
        RemoteClient::say(silent.back(), "x");
    }
    const sys::UniqueFd one_more = connect_raw(daemon.tcp_address());
    CHECK(RemoteClient::heard(one_more).find("limits.per_uid.clients") != std::string::npos);
    CHECK(connect(local_address(daemon)) != nullptr);  // another's limits
    silent.clear();
    for (const std::int64_t end_ns = sys::monotonic_ns() + kLongNs;;) {
        ipcbus_connect_options options = IPCBUS_INIT(options);
        const std::string address = daemon.tcp_address();
        options.address = address.c_str();
        ipcbus_bus* bus = nullptr;
        if (ipcbus_connect(&options, &bus) == 0) {
            ipcbus_close(bus);
            break;
        }
        REQUIRE(sys::monotonic_ns() < end_ns);
    }
}

TEST_CASE("a host that connects too often is refused, with the key to raise; others are not") {
    const DaemonFixture daemon("[tcp]\nconnects_per_second = 3\n");
    std::vector<sys::UniqueFd> let_in;
    for (int i = 0; i < 3; i++) {
        let_in.push_back(connect_raw(daemon.tcp_address()));
    }
    const sys::UniqueFd one_more = connect_raw(daemon.tcp_address());
    CHECK(RemoteClient::heard(one_more).find("raise tcp.connects_per_second") != std::string::npos);
    const sys::UniqueFd other = connect_raw(daemon.tcp_address(), 0, "127.0.0.2");
    for (const sys::UniqueFd* greeted :
         {static_cast<const sys::UniqueFd*>(&let_in.back()), &other}) {
        std::vector<std::byte> hello;
        protocol::encode(hello, protocol::Hello{}, 1);
        RemoteClient::say(*greeted, {reinterpret_cast<const char*>(hello.data()), hello.size()});
        char header[protocol::kFrameHeaderBytes];
        REQUIRE(::recv(greeted->get(), header, sizeof header, MSG_WAITALL) == sizeof header);
        CHECK(header[4] == static_cast<char>(protocol::FrameType::welcome));
    }
    CHECK(connect(local_address(daemon)) != nullptr);
}

TEST_CASE("a client that does not read lives, however long its host says that it has no room") {
    const DaemonFixture daemon("[tcp]\ndead_peer_timeout = \"1s\"\n");
    RemoteClient reader(daemon.tcp_address(), 4096);
    const auto subscribed = reader.ask(protocol::Subscribe{"flood", 1});
    REQUIRE(subscribed.header.type == protocol::FrameType::subscribed);
    const Bus here = connect(local_address(daemon));
    const Publisher publisher = advertise(here, "flood", 16 << 20);
    const auto attached = reader.expect<protocol::Attached>();
    reader.send(protocol::Credit{attached.attachment, u64{1} << 40}, 0);
    const std::string text(100'000, 'x');
    for (int i = 0; i < 200; i++) {
        publish(publisher, text);
    }
    (void)::poll(nullptr, 0, 4000);  // four times as long as a dead one would be given
    publish(publisher, "end");
    u64 bytes = 0;
    while (bytes < 10'000'000) {
        const Incoming frame = reader.next();
        REQUIRE(frame.header.type == protocol::FrameType::data);
        bytes += frame.fields.size();
    }
}

TEST_CASE("an unknown subscription is nobody's to end") {
    const DaemonFixture daemon;
    RemoteClient client(daemon.tcp_address());
    const auto refused = client.ask(protocol::Unsubscribe{1});
    CHECK(decoded<protocol::ErrorFrame>(refused).code == ENOENT);
    const auto subscribed = client.ask(protocol::Subscribe{"a", 0});
    const auto id = decoded<protocol::Subscribed>(subscribed).subscription;
    // Guessed before SUBSCRIBED has come: ids are given one after the other.
    std::vector<std::byte> both;
    protocol::encode(both, protocol::Subscribe{"b", 0}, 100);
    protocol::encode(both, protocol::Unsubscribe{id + 1}, 101);
    RemoteClient::say(client.socket(), {reinterpret_cast<const char*>(both.data()), both.size()});
    Incoming answer = client.next();
    while (answer.header.request != 101) {
        answer = client.next();
    }
    CHECK(answer.header.type == protocol::FrameType::error);
    CHECK(client.ask(protocol::Unsubscribe{id}).header.type == protocol::FrameType::done);
    CHECK(client.ask(protocol::Unsubscribe{id}).header.type == protocol::FrameType::error);
}

TEST_CASE("an ASK that is said again and again is not remembered without end") {
    const DaemonFixture daemon;
    RemoteClient client(daemon.tcp_address());
    protocol::u64 request = 1000;
    bool refused = false;
    for (protocol::u8 round = 1; round < 20 && !refused; round++) {
        protocol::Ask ask;
        ask.publication.topic = "again";
        ask.publication.lineage.fill(round);
        ask.publication.first_sequence = 1;
        std::vector<std::byte> flood;
        for (int i = 0; i < 400; i++) {
            protocol::encode(flood, ask, ++request);
        }
        RemoteClient::say(client.socket(),
                          {reinterpret_cast<const char*>(flood.data()), flood.size()});
        protocol::u64 publication = 0;
        for (Incoming answer; answer.header.request != request && !refused;) {
            answer = client.next();
            if (answer.header.type == protocol::FrameType::advertised) {
                publication = decoded<protocol::Advertised>(answer).publication;
            } else if (answer.header.type == protocol::FrameType::error) {
                const auto error = decoded<protocol::ErrorFrame>(answer);
                refused = error.text.find("said again") != std::string::npos;
            }
        }
        if (!refused) {
            client.send(protocol::Unadvertise{publication}, ++request);
        }
    }
    CHECK(refused);
}

TEST_CASE("CAUGHT_UP comes behind what was published, for which there must be credit") {
    const DaemonFixture daemon;
    const Bus here = connect(local_address(daemon));
    const Publisher publisher = advertise(here, "a/1");
    const Publisher other = advertise(here, "a/2");
    for (int i = 0; i < 5000; i++) {  // the mark stands before what is wanted
        publish(publisher, std::to_string(i));
    }
    publish(other, "other");
    RemoteClient reader(daemon.tcp_address());
    const Incoming answer = reader.ask(protocol::SubscribeFrom{"a/+", 0, 3});
    CHECK(decoded<protocol::Subscribed>(answer).attachments == 2);
    auto one = reader.expect<protocol::Attached>();
    auto two = reader.expect<protocol::Attached>();
    if (one.topic != "a/1") {
        std::swap(one, two);
    }
    CHECK(one.start_sequence == 4998);
    CHECK(two.start_sequence == 1);
    // Neither one that is let go of nor one that may send is all.
    reader.send(protocol::Detached{two.attachment}, 0);
    CHECK(reader.ask(protocol::Unsubscribe{1}).header.type == protocol::FrameType::error);
    reader.send(protocol::Credit{one.attachment, u64{1} << 20}, 0);
    const Incoming messages = reader.next();
    REQUIRE(messages.header.type == protocol::FrameType::data);
    protocol::DataHead head;
    std::span<const std::byte> bytes;
    REQUIRE(protocol::decode_data(messages.fields, head, bytes));
    CHECK(head.stream == one.attachment);
    REQUIRE(bytes.size() == 3 * 32);
    u64 sequence = 0;
    std::memcpy(&sequence, bytes.data() + 8, sizeof sequence);
    CHECK(sequence == 4998);
    CHECK(std::memcmp(bytes.data() + 2 * 32 + 16, "4999", 4) == 0);
    const Incoming last = reader.next();
    REQUIRE(last.header.type == protocol::FrameType::caught_up);
    CHECK(decoded<protocol::CaughtUp>(last).subscription ==
          decoded<protocol::Subscribed>(answer).subscription);
    // Where there is nothing, at once.
    CHECK(reader.ask(protocol::SubscribeFrom{"none", 0, 3}).header.type ==
          protocol::FrameType::subscribed);
    CHECK(reader.next().header.type == protocol::FrameType::caught_up);
}

TEST_CASE("who takes all the mappings that one may have takes none from others") {
    const DaemonFixture daemon("[tcp]\nmappings = 64\n");
    RemoteClient greedy(daemon.tcp_address());
    Incoming answer;
    int count = 0;
    do {
        answer = greedy.ask(protocol::Advertise{
            "greedy/" + std::to_string(count++), 0, 0, 0, {static_cast<protocol::u8>(count)}, 1});
    } while (answer.header.type == protocol::FrameType::advertised);
    const auto error = decoded<protocol::ErrorFrame>(answer);
    CHECK(error.code == ENOSPC);
    CHECK(error.text.find("half of all; raise tcp.mappings") != std::string::npos);
    CHECK(count < 16);
    // Another host's client is greeted and publishes, and as many read it as read them all.
    RemoteClient other(daemon.tcp_address(), 0, "127.0.0.2");
    CHECK(other.ask(protocol::Advertise{"other", 0, 0, 0, {99}, 1}).header.type ==
          protocol::FrameType::advertised);
    std::vector<Bus> buses;
    std::vector<Subscriber> readers;
    for (int i = 0; i < 8; i++) {
        buses.push_back(connect(local_address(daemon)));
        readers.push_back(subscribe(buses.back(), "#"));
    }
    while (other.expect<protocol::Readers>().count != 8) {}
    while (greedy.expect<protocol::Readers>().count != 8) {}
}

TEST_CASE("whoever connects too often without a word is in nobody else's way") {
    const DaemonFixture daemon("[tcp]\nhandshake_timeout = \"10min\"\n");
    const sys::UniqueFd slow = connect_raw(daemon.tcp_address(), 0, "127.0.0.2");
    std::vector<sys::UniqueFd> crowd;
    for (int i = 0; i < 300; i++) {
        crowd.push_back(connect_raw(daemon.tcp_address()));
    }
    CHECK(hung_up(crowd.front()));
    std::vector<std::byte> hello;
    protocol::encode(hello, protocol::Hello{}, 1);
    RemoteClient::say(slow, {reinterpret_cast<const char*>(hello.data()), hello.size()});
    char header[protocol::kFrameHeaderBytes];
    REQUIRE(::recv(slow.get(), header, sizeof header, MSG_WAITALL) == sizeof header);
    CHECK(header[4] == static_cast<char>(protocol::FrameType::welcome));
}

TEST_CASE("a stop ends who has not been greeted at once, whoever else is waited for") {
    DaemonFixture daemon(
        "[tcp]\nhandshake_timeout = \"10min\"\n[limits]\ndrain_timeout = \"1min\"\n");
    const Bus here = connect(local_address(daemon));
    const Publisher publisher = advertise(here, "unread");
    RawClient slow = RawClient::on_bus(daemon.socket_path());
    (void)slow.subscribe("unread");
    while (slow.next()->header.type != protocol::FrameType::attached) {}
    publish(publisher, "unread");  // keeps the daemon until it is read
    const sys::UniqueFd silent = connect_raw(daemon.tcp_address());
    RemoteClient::say(silent, "x");
    daemon.process().signal(SIGTERM);
    CHECK(hung_up(silent));
    CHECK(daemon.process().running());
    slow.close();
    CHECK(daemon.stop() == 0);
}

TEST_CASE("a stop waits for what has been taken and finds no room yet") {
    DaemonFixture daemon("[limits]\ndrain_timeout = \"1min\"\n");
    const Bus here = connect(local_address(daemon));
    const Subscriber near = subscribe(here, "taken");
    RemoteClient client(daemon.tcp_address());
    const auto told = decoded<protocol::Advertised>(
        client.ask(protocol::Advertise{"taken", 65536, 0, 0, {1}, 1}));
    while (client.expect<protocol::Readers>().count != 1) {}
    constexpr u64 kMessages = 200;  // three times what the ring holds
    std::vector<std::byte> out;
    for (u64 i = 1; i <= kMessages; i++) {
        constexpr protocol::u32 kPayload = 1008;
        protocol::encode_data_head(out, {told.publication, 0}, 16 + kPayload);
        const u64 header[2] = {protocol::record_word(kPayload, 0, 0), i};
        const auto* const bytes = reinterpret_cast<const std::byte*>(header);
        out.insert(out.end(), bytes, bytes + sizeof header);
        out.resize(out.size() + kPayload);
    }
    RemoteClient::say(client.socket(), {reinterpret_cast<const char*>(out.data()), out.size()});
    CHECK(client.ask(protocol::Subscribe{"b", 0}).header.type == protocol::FrameType::subscribed);
    daemon.process().signal(SIGTERM);
    REQUIRE(daemon.process().wait_for_output("stopping") != std::string::npos);
    for (u64 i = 1; i <= kMessages; i++) {
        const Received got = receive(near);
        REQUIRE(got.ok());
        REQUIRE(got.message.sequence == i);
    }
    CHECK(daemon.process().wait() == 0);
}
