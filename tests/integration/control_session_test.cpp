// SPDX-License-Identifier: Apache-2.0
// Goal: connections begin and end as the protocol says; who is wrong or hostile loses his own
// connection and nobody else anything; the daemon keeps nothing of who has gone.
// Method: a private ipcbusd, raw frames.
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "sys/clock.hpp"
#include "sys/fd_passing.hpp"

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <functional>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u32;
using protocol::u64;
using protocol::u8;

namespace {

std::vector<std::byte> raw_frame(u32 bytes, unsigned type, unsigned flags, u64 request,
                                 std::size_t field_bytes) {
    std::vector<std::byte> out;
    protocol::FieldWriter writer(out);
    writer(bytes, static_cast<protocol::u16>(type), static_cast<protocol::u16>(flags), request);
    out.resize(out.size() + field_bytes);
    return out;
}

}  // namespace

TEST_CASE("HELLO is answered with what the client is and three descriptors") {
    DaemonFixture daemon;
    RawClient first = RawClient::on_bus(daemon.socket_path(), "first");
    RawClient second = RawClient::on_bus(daemon.socket_path(), "");
    CHECK(first.welcome.protocol_major == protocol::kProtocolMajor);
    CHECK(first.welcome.layout_version == protocol::kLayoutVersion);
    CHECK(first.welcome.client != 0);
    CHECK(second.welcome.client > first.welcome.client);
    CHECK(first.welcome.bus == second.welcome.bus);
    CHECK(first.welcome.token != second.welcome.token);
    CHECK(first.welcome.resumed == 0);
    CHECK(first.welcome.stall_timeout_ns > 0);
    first.expect_nothing();
    second.expect_nothing();
}

TEST_CASE("another version is refused, and both are named") {
    DaemonFixture daemon;
    protocol::Hello hello;
    SUBCASE("of the protocol") { hello.protocol_major = 77; }
    SUBCASE("of the memory layout") { hello.layout_version = 77; }
    RawClient client(daemon.socket_path());
    client.send(hello);
    client.expect_error(EPROTONOSUPPORT, {"77", std::to_string(protocol::kProtocolMajor)});
    client.expect_hang_up();
    RawClient::on_bus(daemon.socket_path()).expect_nothing();
}

TEST_CASE("a HELLO that comes byte by byte, and many frames in one piece") {
    DaemonFixture daemon;
    RawClient client(daemon.socket_path());
    std::vector<std::byte> bytes;
    protocol::encode(bytes, protocol::Hello{}, 5);
    for (const std::byte& one : bytes) {
        client.send_bytes({&one, 1});
    }
    CHECK(client.expect<protocol::Welcome>().client != 0);
    CHECK(client.request == 5);
    bytes.clear();
    protocol::encode(bytes, protocol::Mapped{0}, 0);
    for (u64 i = 0; i < 500; i++) {
        protocol::encode(bytes, protocol::Unsubscribe{i}, 100 + i);
    }
    client.send_bytes(bytes);
    for (u64 i = 0; i < 500; i++) {
        client.expect_error(ENOENT);
        CHECK(client.request == 100 + i);
    }
}

TEST_CASE("malformed or misplaced frames cost their sender the connection, nobody else anything") {
    DaemonFixture daemon;
    RawClient innocent = RawClient::on_bus(daemon.socket_path(), "innocent");
    RawClient culprit(daemon.socket_path());
    const auto after_hello = [&] {
        culprit.hello();
        culprit.mapped(0);
    };
    SUBCASE("a frame shorter than its header") { culprit.send_bytes(raw_frame(8, 1, 0, 1, 0)); }
    SUBCASE("a length that no frame may have") {
        culprit.send_bytes(raw_frame(1u << 30, 1, 0, 1, 0));
    }
    SUBCASE("reserved flags") { culprit.send_bytes(raw_frame(16, 1, 4, 1, 0)); }
    SUBCASE("an unknown type") {
        after_hello();
        culprit.send_bytes(raw_frame(16, 999, 0, 1, 0));
    }
    SUBCASE("too short for its fields") {
        after_hello();
        culprit.send_bytes(raw_frame(20, 6, 0, 1, 4));
    }
    SUBCASE("bytes left over") {
        after_hello();
        culprit.send_bytes(raw_frame(16 + 8 + 1, 7, 0, 1, 9));
    }
    SUBCASE("a string beyond its bound") {
        after_hello();
        std::vector<std::byte> bytes = raw_frame(16 + 2 + 300 + 1, 6, 0, 1, 303);
        bytes[16] = std::byte{300 & 0xff};
        bytes[17] = std::byte{300 >> 8};
        culprit.send_bytes(bytes);
    }
    SUBCASE("a request without a number") {
        after_hello();
        culprit.send_with(protocol::Unsubscribe{1}, 0);
    }
    SUBCASE("not HELLO first") { culprit.mapped(0); }
    SUBCASE("HELLO twice") {
        after_hello();
        culprit.send(protocol::Hello{});
    }
    SUBCASE("a frame that only the daemon sends") {
        after_hello();
        culprit.send(protocol::Stopping{});
    }
    SUBCASE("ADVERTISE before MAPPED") {
        culprit.hello();
        culprit.send(protocol::Advertise{.topic = "a"});
    }
    SUBCASE("MAPPED of what is not there") {
        after_hello();
        culprit.mapped(4711);
    }
    SUBCASE("more descriptors received than were sent") {
        after_hello();
        culprit.send(protocol::Received{1});
    }
    culprit.expect_error(EPROTO);
    culprit.expect_hang_up();
    innocent.expect_nothing();
    RawClient::on_bus(daemon.socket_path()).expect_nothing();
}

TEST_CASE("descriptors that are passed to the daemon vanish") {
    DaemonFixture daemon;
    RawClient client = RawClient::on_bus(daemon.socket_path());
    client.expect_nothing();
    const std::size_t before = daemon.process().descriptor_count();
    const std::vector<int> fds(50, 0);
    for (u64 i = 0; i < 20; i++) {
        std::vector<std::byte> bytes;
        protocol::encode(bytes, protocol::Unsubscribe{i}, 100 + i);
        REQUIRE(sys::send_with_fds(client.socket(), bytes, fds).ok());
        client.expect_error(ENOENT);
    }
    CHECK(daemon.process().descriptor_count() == before);
}

TEST_CASE("RESUME: a new connection takes the client over; with a wrong token it does not") {
    DaemonFixture daemon;
    RawClient old = RawClient::on_bus(daemon.socket_path(), "old");
    const auto advertised = old.advertise("a/b");
    protocol::Resume resume;
    resume.client = old.welcome.client;
    resume.token = old.welcome.token;
    resume.token[15] ^= 1;
    RawClient next(daemon.socket_path());
    next.send(resume);
    next.expect_error(ENOENT, {"HELLO"});
    SUBCASE("the session goes on with HELLO") {
        next.hello();
        next.mapped(0);
        next.expect_nothing();
        old.expect_nothing();
    }
    SUBCASE("with the right one, old publications are there") {
        resume.token = old.welcome.token;
        next.send(resume);
        const auto welcome = next.expect<protocol::Welcome>();
        CHECK(welcome.resumed == 1);
        CHECK(welcome.client == old.welcome.client);
        old.expect_hang_up();
        next.send(protocol::Unadvertise{advertised.publication});
        (void)next.expect<protocol::Done>();
    }
}

TEST_CASE("RESUME: what the old connection may have lost is told again, by the same ids") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    const auto resumed = [&](const RawClient& old) {
        RawClient next(daemon.socket_path());
        next.send(protocol::Resume{.client = old.welcome.client, .token = old.welcome.token});
        CHECK(next.expect<protocol::Welcome>().resumed == 1);
        return next;
    };
    const auto advertised = writer.advertise("a");
    writer.mapped(advertised.publication);
    writer.acknowledges = false;
    reader.expect_nothing();
    reader.acknowledges = false;
    reader.subscribe("a");
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    (void)writer.expect<protocol::Peer>();
    const auto members = writer.expect<protocol::Members>();

    RawClient next_reader = resumed(reader);
    CHECK(next_reader.expect<protocol::Peer>().client == writer.welcome.client);
    const auto again = next_reader.expect<protocol::Attached>();
    CHECK(again.attachment == attached.attachment);
    CHECK(again.start == attached.start);
    RawClient next_writer = resumed(writer);
    next_writer.taken(members);  // it had read that on the old connection
    CHECK(next_writer.expect<protocol::Peer>().client == reader.welcome.client);
    const auto members_again = next_writer.expect<protocol::Members>();
    CHECK(members_again.number == members.number);
    REQUIRE(members_again.attach.size() == 1);
    CHECK(members_again.attach[0].attachment == attached.attachment);
    next_writer.taken(members_again);
    next_writer.expect_nothing();
    // Nothing has ended for the other side.
    next_reader.expect_nothing();
    next_reader.send_with(protocol::Detached{attached.attachment}, 0);
    (void)next_reader.expect<protocol::PeerGone>();
    CHECK(next_writer.expect<protocol::Members>().detach == std::vector<u64>{attached.attachment});
}

TEST_CASE("a thousand connections leave nothing behind") {
    DaemonFixture daemon;
    RawClient watcher = RawClient::on_bus(daemon.socket_path(), "watcher");
    const auto one = [&](bool tidy) {
        RawClient client = RawClient::on_bus(daemon.socket_path());
        const auto subscribed = client.subscribe("#");
        const auto advertised = client.advertise("a/b", 4096);
        client.mapped(advertised.publication);
        (void)client.expect<protocol::Peer>();
        (void)client.expect<protocol::Members>();
        (void)client.expect<protocol::Attached>();
        if (tidy) {
            client.unadvertise(advertised.publication);
            client.unsubscribe(subscribed);
        }
    };
    watcher.expect_nothing();
    const std::size_t descriptors = daemon.process().descriptor_count();
    const std::size_t mappings = daemon.process().mapping_count();
    for (int i = 0; i < 1000; i++) {
        switch (i % 4) {
        case 0:
            RawClient(daemon.socket_path()).send(protocol::Hello{});
            break;
        case 1:
            RawClient::on_bus(daemon.socket_path()).expect_nothing();
            break;
        default:
            one(true);
            break;
        }
    }
    // Each look is a request of the watcher and its answer: no time is waited for.
    const auto settles = [&](std::size_t wanted, const std::function<std::size_t()>& measured) {
        const sys::Deadline deadline = sys::Deadline::after(20'000'000'000);
        while (measured() > wanted && !deadline.passed()) {
            watcher.expect_nothing();
        }
        return measured();
    };
    CHECK(settles(descriptors, [&] { return daemon.process().descriptor_count(); }) == descriptors);
    // An allocator may keep some; a leak would be thousands.
    const auto count = [&] { return daemon.process().mapping_count(); };
    CHECK(settles(mappings + 64, count) <= mappings + 64);
    // Without a word of farewell: this process may still map it all, and is remembered, once.
    for (int i = 0; i < 100; i++) {
        one(false);
    }
    CHECK(settles(descriptors + 1, [&] { return daemon.process().descriptor_count(); }) ==
          descriptors + 1);
}

TEST_CASE("SIGHUP: a good file takes effect, a bad one changes nothing") {
    DaemonFixture daemon("[limits]\nclients = 2\n[limits.per_uid]\nclients = 2\n");
    RawClient first = RawClient::on_bus(daemon.socket_path());
    RawClient second = RawClient::on_bus(daemon.socket_path());
    const auto third_is_refused = [&] {
        RawClient third(daemon.socket_path());
        third.expect_error(EDQUOT, {"limits.per_uid.clients", "2 of 2"});
        third.expect_hang_up();
    };
    third_is_refused();
    daemon.write_config("[limits]\nclients = 3\nno_such_key = 1\n");
    std::string log = daemon.reload();
    INFO(log);
    CHECK(log.find("no_such_key") != std::string::npos);
    CHECK(log.find("refused") != std::string::npos);
    third_is_refused();
    daemon.write_config("[limits]\nclients = 3\n[limits.per_uid]\nclients = 3\n");
    log = daemon.reload();
    CHECK(log.find("limits.clients: 2 -> 3") != std::string::npos);
    RawClient third = RawClient::on_bus(daemon.socket_path());
    third.expect_nothing();
    first.expect_nothing();
    second.expect_nothing();
}
