// SPDX-License-Identifier: Apache-2.0
// Goal: limits refuse with a text that names the key to raise; who does not read is cut off or
// waits, and nobody else notices. Method: a private ipcbusd with small limits, raw frames.
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "sys/clock.hpp"
#include "sys/fd_passing.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::FrameType;
using protocol::u64;

TEST_CASE("deaf connections have a bound together; when one goes, another gets what was its") {
    // Half of 320 are for the connections of one uid to which some are on the way already, and all
    // here are of one: the third deaf one gets what the others have left, the fourth a frame.
    DaemonFixture daemon("", 320);
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    for (int i = 0; i < 70; i++) {
        writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
    }
    const auto fds_of = [](RawClient& client) {
        std::size_t fds = 0;
        for (const Incoming& incoming : client.drain()) {
            fds += incoming.fds.size();
        }
        return fds;
    };
    // They answer nothing; what they have read, the daemon has no reason to believe read.
    std::vector<RawClient> deaf;
    for (int i = 0; i < 4; i++) {
        deaf.push_back(RawClient::on_bus(daemon.socket_path(), "deaf"));
        deaf.back().expect_nothing();
        deaf.back().acknowledges = false;
        deaf.back().subscribe("a/#");
        (void)writer.drain();
    }
    for (int i = 0; i < 2; i++) {
        CHECK(fds_of(deaf[static_cast<std::size_t>(i)]) == 64);
    }
    const std::size_t got = fds_of(deaf[2]);
    CHECK(got >= 160 - 2 * 64 - 8);
    CHECK(got <= 160 - 2 * 64);
    const std::size_t turn = fds_of(deaf[3]);
    CHECK(turn >= 1);
    CHECK(turn <= 4);
    deaf[3].close();
    deaf[0].close();
    std::size_t more = 0;
    const sys::Deadline deadline = sys::Deadline::after(20'000'000'000);
    while (got + more < 64 && !deadline.passed()) {
        more += fds_of(deaf[2]);
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

TEST_CASE("a user who connects too often is refused, with the key to raise; who is there stays") {
    DaemonFixture daemon("[limits.per_uid]\nconnects_per_second = 3\n");
    RawClient first = RawClient::on_bus(daemon.socket_path(), "first");
    for (int i = 0; i < 2; i++) {
        (void)RawClient::on_bus(daemon.socket_path(), "another");
    }
    RawClient refused(daemon.socket_path());
    refused.expect_error(EDQUOT, {"raise limits.per_uid.connects_per_second"});
    (void)first.advertise("still/here");
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
    // 800 KiB are in use, and 128 attachments cost 48 KiB.
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
    // 400 KiB: 8 times 128, and the first 128 for nothing.
    CHECK(granted == 11);
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

TEST_CASE("a slot that comes free goes to what had to wait for one") {
    DaemonFixture daemon("[limits]\nattachments_per_client = 2\n");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    CHECK(reader.subscribe("a/#").attachments == 0);
    const auto first = writer.advertise("a/0", 4096);
    writer.mapped(first.publication);
    for (const char* topic : {"a/1", "a/2"}) {
        writer.mapped(writer.advertise(topic, 4096).publication);
    }
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    CHECK(attached.topic == "a/0");
    CHECK(reader.expect<protocol::Attached>().topic == "a/1");
    reader.expect_nothing();
    writer.unadvertise(first.publication);
    CHECK(reader.expect<protocol::Ended>().attachment == attached.attachment);
    reader.send_with(protocol::Detached{attached.attachment}, 0);
    const auto late = reader.expect<protocol::Attached>();
    CHECK(late.topic == "a/2");
    CHECK(late.slot == attached.slot);
    reader.expect_nothing();
}

TEST_CASE("what waits for a slot gets its turn, and what had its turn is not attached again") {
    DaemonFixture daemon("[limits]\nattachments_per_client = 3\n");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    CHECK(reader.subscribe("a/#").attachments == 0);
    for (const char* topic : {"a/0", "a/1", "a/2", "a/3", "a/4"}) {
        writer.mapped(writer.advertise(topic, 4096).publication);
    }
    std::vector<protocol::Attached> all;
    const auto settle = [&] {
        for (bool again = true; again;) {
            again = false;
            for (const Incoming& incoming : reader.drain()) {
                if (incoming.header.type == FrameType::attached) {
                    all.push_back(decoded<protocol::Attached>(incoming));
                    again = true;
                }
            }
            for (const Incoming& incoming : writer.drain()) {
                if (incoming.header.type == FrameType::members) {
                    writer.taken(decoded<protocol::Members>(incoming));
                    again = true;
                }
            }
        }
    };
    settle();
    REQUIRE(all.size() == 3);
    for (std::size_t i = 0; i < 5; i++) {
        REQUIRE(all.size() > i);
        reader.send_with(protocol::Detached{all[i].attachment}, 0);
        settle();
    }
    REQUIRE(all.size() == 5);
    for (std::size_t i = 0; i < 5; i++) {
        CHECK(all[i].topic == "a/" + std::to_string(i));
    }
    // Nothing is left that waits: what is new is attached at once.
    writer.mapped(writer.advertise("a/5", 4096).publication);
    settle();
    REQUIRE(all.size() == 6);
    CHECK(all[5].topic == "a/5");
}

TEST_CASE("what a client asks next comes before what it waits for") {
    DaemonFixture daemon("[limits]\nattachments_per_client = 1\n");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient first = RawClient::on_bus(daemon.socket_path(), "first");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    first.subscribe("a/0");
    const auto held = writer.advertise("a/0", 4096);
    writer.mapped(held.publication);
    (void)writer.expect<protocol::Peer>();
    (void)writer.expect<protocol::Members>();  // not taken: the next reader is not told of
    const auto subscribed = reader.subscribe("a/#");
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    const auto lacked = writer.advertise("a/1", 4096);
    CHECK(writer.attention(held.index) == 2);
    std::vector<std::byte> bytes;
    // Its slot is free at once.
    protocol::encode(bytes, protocol::Detached{attached.attachment}, 0);
    protocol::encode(bytes, protocol::Unsubscribe{subscribed.subscription}, 1000);
    reader.send_bytes(bytes);
    (void)reader.answer<protocol::Done>(1000);
    CHECK(writer.attention(held.index) == 3);
    CHECK(writer.attention(lacked.index) == 0);  // nobody was attached there in between
}

TEST_CASE("what had to wait for a quota is attached when there is room") {
    DaemonFixture daemon(
        "[publications]\nrings_ready = 0\n[limits.per_uid]\nring_bytes = \"1104KiB\"\n");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    reader.subscribe("a/#");
    const auto large = writer.advertise("b", 65536);
    for (int i = 0; i < 129; i++) {
        writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
    }
    // Room for 128 attachments is free, for the next ones there is too little.
    for (int i = 0; i < 128; i++) {
        std::optional<Incoming> incoming;
        do {
            incoming = reader.next();
            REQUIRE(incoming.has_value());
        } while (incoming->header.type != FrameType::attached);
    }
    reader.expect_nothing();
    writer.unadvertise(large.publication);
    CHECK(reader.expect<protocol::Attached>().topic == "a/128");
}

TEST_CASE("RECEIVED that is a lie puts no more descriptors on the way than the truth does") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    for (int i = 0; i < 300; i++) {
        writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
    }
    RawClient liar = RawClient::on_bus(daemon.socket_path(), "liar");
    liar.expect_nothing();
    liar.acknowledges = false;
    liar.send(protocol::Subscribe{.filter = "#"});
    (void)writer.drain();
    (void)writer.drain();  // what could be sent has been sent
    for (int i = 0; i < 64; i++) {
        liar.send_with(protocol::Received{1}, 0);
        (void)writer.drain();
    }
    std::size_t fds = 0;
    for (;;) {
        std::byte buffer[4096];
        std::vector<sys::UniqueFd> came;
        const auto got = sys::receive_with_fds(liar.socket(), buffer, came, true);
        fds += came.size();
        if (!got.ok()) {
            INFO(got.error().what);
            CHECK(got.error().code == EAGAIN);
        }
        if (!got.ok() || got.value() == 0) {
            break;
        }
    }
    CHECK(fds >= 60);
    CHECK(fds <= protocol::kFdsUnacknowledgedMax);
}

TEST_CASE("publications that have ended cost their publisher nothing, whatever readers do") {
    DaemonFixture daemon("[limits.per_uid]\npublications = 2\n");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    reader.subscribe("a");
    for (int i = 0; i < 20; i++) {
        const auto advertised = writer.advertise("a", 4096);
        CHECK(advertised.index < 2);
        writer.mapped(advertised.publication);
        writer.unadvertise(advertised.publication);
    }
    std::size_t ended = 0;
    for (const Incoming& incoming : reader.drain()) {
        ended += incoming.header.type == protocol::FrameType::ended ? 1 : 0;
    }
    CHECK(ended == 20);  // and the reader has let go of none
}

TEST_CASE("who keeps a ring that has ended pays for it, another uid than its publisher's") {
    if (!may_be_user(12345)) {
        MESSAGE("skipped: this process cannot become another user");
        return;
    }
    DaemonFixture daemon(
        "[publications]\nstall_timeout = \"100ms\"\n"
        "[limits.per_uid]\nring_bytes = \"1MiB\"\n");
    REQUIRE(::chmod(daemon.directory().path().c_str(), 0711) == 0);
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    ChildProcess hoarder = ChildProcess::fork([&] {
        if (::setuid(12345) != 0) {
            return 1;
        }
        RawClient reader = RawClient::on_bus(daemon.socket_path(), "hoarder");
        reader.subscribe("a");
        (void)reader.expect<protocol::Peer>();
        (void)reader.expect<protocol::Attached>();
        for (;;) {
            ::pause();
        }
        return 0;
    });
    // The reader is there when the writer is told of it.
    const auto advertised = writer.advertise("a", 1 << 19);
    writer.mapped(advertised.publication);
    (void)writer.expect<protocol::Peer>();
    (void)writer.expect<protocol::Members>();
    writer.unadvertise(advertised.publication);
    const sys::Deadline deadline = sys::Deadline::after(20'000'000'000);
    bool good = false;
    while (!good && !deadline.passed() && hoarder.running()) {
        const u64 asked = writer.send(protocol::Advertise{.topic = "b", .ring_bytes = 1 << 19});
        for (auto incoming = writer.next(); incoming.has_value(); incoming = writer.next()) {
            if (incoming->header.request == asked) {
                good = incoming->header.type == protocol::FrameType::advertised;
                break;
            }
        }
    }
    CHECK(good);
}

TEST_CASE("a flood of costly requests is worked off between what others ask") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    for (int i = 0; i < 1000; i++) {
        writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
    }
    RawClient innocent = RawClient::on_bus(daemon.socket_path(), "innocent");
    RawClient flood = RawClient::on_bus(daemon.socket_path(), "flood");
    innocent.expect_nothing();
    flood.expect_nothing();
    // Each matches a thousand publications: milliseconds. All of them: most of a second.
    std::vector<std::byte> bytes;
    constexpr u64 kRequests = 200;
    for (u64 i = 0; i < kRequests; i++) {
        protocol::encode(bytes, protocol::Subscribe{.filter = "a/#"}, 1000 + i);
    }
    flood.send_bytes(bytes);
    innocent.expect_nothing();
    std::size_t answers = 0;
    for (const Incoming& incoming : flood.so_far()) {
        answers += incoming.header.request >= 1000 ? 1 : 0;
    }
    CHECK(answers < kRequests / 2);
    innocent.expect_nothing();
}
