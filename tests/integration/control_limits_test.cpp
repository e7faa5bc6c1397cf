// SPDX-License-Identifier: Apache-2.0
// Goal: limits refuse with a text that names the key to raise; who does not read is cut off or
// waits, and nobody else notices. Method: a private ipcbusd with small limits, raw frames.
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "sys/clock.hpp"

#include <sys/socket.h>

#include <cerrno>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

TEST_CASE("deaf connections cannot use up what may be on the way: the others get theirs") {
    // A quarter of it, 80, is for one uid, and all here are of one: the second deaf one gets what
    // the first has left.
    DaemonFixture daemon("", 320);
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    for (int i = 0; i < 70; i++) {
        writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
    }
    RawClient first = RawClient::on_bus(daemon.socket_path(), "first");
    RawClient second = RawClient::on_bus(daemon.socket_path(), "second");
    first.expect_nothing();
    second.expect_nothing();
    for (RawClient* deaf : {&first, &second}) {
        deaf->acknowledges = false;
        deaf->subscribe("a/#");
    }
    const auto fds_of = [](RawClient& client) {
        std::size_t fds = 0;
        for (const Incoming& incoming : client.drain()) {
            fds += incoming.fds.size();
        }
        return fds;
    };
    CHECK(fds_of(first) == 64);
    // Less what the writer, told of both, has not acknowledged yet: four at most.
    const std::size_t got = fds_of(second);
    CHECK(got >= 80 - 64 - 4);
    CHECK(got <= 80 - 64);
    CHECK(writer.drain().size() > 0);
    first.close();
    writer.expect_nothing();
    std::size_t more = 0;
    const sys::Deadline deadline = sys::Deadline::after(20'000'000'000);
    while (got + more < 64 && !deadline.passed()) {
        more += fds_of(second);
    }
    CHECK(got + more == 64);
}

TEST_CASE("requests that cannot be granted say why, and which key to raise") {
    DaemonFixture daemon(R"(
        [publications]
        ring_bytes_max = "1MiB"
        [limits]
        attachments_per_client = 16
        waiters_per_client = 4
        [limits.per_uid]
        publications = 40
        subscriptions = 8
        ring_bytes = "2MiB"
    )");
    RawClient client = RawClient::on_bus(daemon.socket_path());
    client.send(protocol::Advertise{.topic = "a//b"});
    client.expect_error(EINVAL, {"a//b"});
    client.send(protocol::Subscribe{.filter = "a/#/b"});
    client.expect_error(EINVAL, {"a/#/b"});
    client.send(protocol::Subscribe{.filter = "a", .mode = 9});
    client.expect_error(EINVAL);
    client.send(protocol::Advertise{.topic = "$bus/stats"});
    client.expect_error(EACCES, {"$bus/stats"});
    client.send(protocol::Advertise{.topic = "a", .waiter = 4});
    client.expect_error(EINVAL, {"limits.waiters_per_client"});
    client.send(protocol::Advertise{.topic = "a", .ring_bytes = 4096, .record_bytes_max = 1312});
    client.expect_error(EMSGSIZE, {"1312", std::to_string(protocol::record_bytes_max(4096))});
    client.send(protocol::Advertise{.topic = "plant/7", .ring_bytes = 4 << 20});
    client.expect_error(EDQUOT, {"plant/7", "publications.ring_bytes_max"});
    client.send(protocol::Advertise{.topic = "a", .ring_bytes = ~u64{0}});
    client.expect_error(EDQUOT);

    // A record that the usual ring does not take gets a larger one, within the maximum.
    client.send(protocol::Advertise{.topic = "a", .record_bytes_max = 100 << 20});
    client.expect_error(EDQUOT, {"publications.ring_bytes_max"});
    const auto large = client.advertise("big", 1 << 20);
    client.send(protocol::Advertise{.topic = "plant/8", .ring_bytes = 1 << 20});
    client.expect_error(EDQUOT, {"plant/8", "limits.per_uid.ring_bytes", "2MiB"});
    client.unadvertise(large.publication);
    for (int i = 0; i < 40; i++) {
        client.mapped(client.advertise("a/" + std::to_string(i), 4096).publication);
    }
    client.send(protocol::Advertise{.topic = "a/40", .ring_bytes = 4096});
    client.expect_error(EDQUOT, {"a/40", "limits.per_uid.publications", "40 of 40"});
    client.send(protocol::Subscribe{.filter = "a/+"});
    client.expect_error(EDQUOT, {"a/+", "40", "limits.attachments_per_client"});
    for (int i = 0; i < 8; i++) {
        CHECK(client.subscribe("none").attachments == 0);
    }
    client.send(protocol::Subscribe{.filter = "one too many"});
    client.expect_error(EDQUOT, {"one too many", "limits.per_uid.subscriptions"});
    client.expect_nothing();
}

TEST_CASE("a client that asks and does not read is cut off, and nobody else notices") {
    DaemonFixture daemon("[limits]\nunread_reply_bytes = \"64KiB\"\n");
    RawClient innocent = RawClient::on_bus(daemon.socket_path());
    RawClient deaf = RawClient::on_bus(daemon.socket_path());
    std::vector<std::byte> bytes;
    for (u64 i = 0; i < 1000; i++) {
        protocol::encode(bytes, protocol::Unsubscribe{i}, 100 + i);
    }
    for (;;) {
        const ssize_t sent = ::send(deaf.socket(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0) {
            CHECK((errno == EPIPE || errno == ECONNRESET));
            break;
        }
    }
    innocent.expect_nothing();
    CHECK(daemon.process().wait_for_output("limits.unread_reply_bytes") != std::string::npos);
}

TEST_CASE("attachments beyond a first page of slots are paid for") {
    DaemonFixture daemon("[limits.per_uid]\nring_bytes = \"1200KiB\"\n");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    for (int i = 0; i < 100; i++) {
        writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
    }
    // 800 KiB are in use, and 128 attachments cost 32 KiB.
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    int granted = 0;
    for (int i = 0; i < 20; i++) {
        const u64 asked = reader.send(protocol::Subscribe{.filter = "a/#"});
        for (;;) {
            const auto incoming = reader.next();
            REQUIRE(incoming.has_value());
            if (incoming->header.request == asked) {
                granted += incoming->header.type == protocol::FrameType::subscribed ? 1 : 0;
                if (incoming->header.type == protocol::FrameType::error) {
                    const auto error = decoded<protocol::ErrorFrame>(*incoming);
                    CHECK(error.code == EDQUOT);
                    CHECK(error.text.find("limits.per_uid.ring_bytes") != std::string::npos);
                }
                break;
            }
        }
    }
    // 400 KiB: 12 times 128, and the first 128 for nothing.
    CHECK(granted == 16);
    // What it cost comes back with the client.
    reader.close();
    RawClient other = RawClient::on_bus(daemon.socket_path(), "other");
    const sys::Deadline deadline = sys::Deadline::after(20'000'000'000);
    bool good = false;
    while (!good && !deadline.passed()) {
        other.send(protocol::Advertise{.topic = "b", .ring_bytes = 1 << 18});
        const auto answer = other.next();
        REQUIRE(answer.has_value());
        good = answer->header.type == protocol::FrameType::advertised;
    }
    CHECK(good);
}
