// SPDX-License-Identifier: Apache-2.0
// Goal: told to stop, the daemon tells its clients and changes nothing for them any more; it waits
// for those that have something to read, and for nobody else. Method: a private ipcbusd, raw
// frames.
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "protocol/ring_writer.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include <cerrno>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

namespace {

constexpr u64 kRing = 65536;

/// A writer and a reader, and one record that the reader has not read.
struct Unread {
    explicit Unread(const DaemonFixture& daemon)
        : writer(RawClient::on_bus(daemon.socket_path(), "writer")),
          reader(RawClient::on_bus(daemon.socket_path(), "reader")) {
        subscribed = reader.subscribe("a");
        const auto advertised = writer.advertise("a", kRing);
        index = advertised.index;
        auto mapped = sys::map_ring(writer.fds.at(0).get(), protocol::kRingDataOffset, kRing,
                                    sys::Access::read_write);
        REQUIRE(mapped.ok());
        ring = std::move(mapped).value();
        writer.mapped(advertised.publication);
        (void)writer.expect<protocol::Peer>();
        writer.taken(writer.expect<protocol::Members>());
        (void)reader.expect<protocol::Peer>();
        attached = reader.expect<protocol::Attached>();
        protocol::WritableRing memory;
        memory.header = reinterpret_cast<protocol::RingHeader*>(ring.header());
        memory.data = ring.data();
        memory.capacity = ring.capacity();
        protocol::RingWriter out(memory, advertised.start, advertised.first_sequence,
                                 advertised.record_bytes_max);
        const u64 bytes = protocol::record_bytes(0, 5);
        REQUIRE((out.has_room(bytes) || out.raise(bytes, out.position())));
        std::memcpy(out.payload(0), "hello", 5);
        out.commit(0, 5);
        end = out.position();
    }
    void read_all() {
        auto* slot = reinterpret_cast<protocol::CursorSlot*>(reader.cursor.data() +
                                                             protocol::slot_offset(attached.slot));
        slot->cursor.store(end, std::memory_order_release);
    }

    RawClient writer;
    RawClient reader;
    sys::RingMapping ring;
    protocol::Subscribed subscribed;
    protocol::u32 index = 0;  ///< of the publication
    protocol::Attached attached;
    u64 end = 0;
};

/// Whether the daemon says nothing and does not hang up for so long.
bool quiet_for(const RawClient& client, int timeout_ms) {
    pollfd entry{client.socket(), POLLIN, 0};
    return ::poll(&entry, 1, timeout_ms) == 0;
}

}  // namespace

TEST_CASE("SIGTERM: clients are told, the socket is removed, the exit code is 0") {
    DaemonFixture daemon;
    RawClient client = RawClient::on_bus(daemon.socket_path());
    RawClient silent(daemon.socket_path());
    client.expect_nothing();
    daemon.process().signal(SIGTERM);
    (void)client.expect<protocol::Stopping>();
    silent.expect_hang_up();
    struct stat status{};
    CHECK(::stat(daemon.socket_path().c_str(), &status) != 0);
    client.close();
    CHECK(daemon.process().wait().value_or(-1) == 0);
}

TEST_CASE("SIGTERM: clients go on without the bus, so nobody is told of anything any more") {
    // Nobody is hung up on as long as there is something to read.
    DaemonFixture daemon("[limits]\ndrain_timeout = \"10min\"\n");
    Unread pair(daemon);
    RawClient& writer = pair.writer;
    RawClient& reader = pair.reader;
    daemon.process().signal(SIGTERM);
    (void)reader.expect<protocol::Stopping>();
    (void)writer.expect<protocol::Stopping>();
    SUBCASE("the reader leaves first") {
        writer.send(protocol::Advertise{.topic = "b"});
        writer.expect_error(ESHUTDOWN);
        reader.close();
        writer.expect_hang_up();  // and no frame before
        CHECK(writer.attention(pair.index) == 1);
    }
    SUBCASE("the writer leaves first") {
        writer.close();
        reader.expect_nothing();
        reader.send(protocol::Subscribe{.filter = "b"});
        reader.expect_error(ESHUTDOWN);
        reader.unsubscribe(pair.subscribed);
        reader.expect_hang_up();
    }
    CHECK(daemon.process().wait().value_or(-1) == 0);
}

TEST_CASE("SIGTERM: clients that have nothing left to read are not waited for") {
    DaemonFixture daemon("[limits]\ndrain_timeout = \"10min\"\n");
    RawClient idle = RawClient::on_bus(daemon.socket_path(), "idle");
    Unread pair(daemon);
    pair.read_all();
    CHECK(daemon.stop().value_or(-1) == 0);
    (void)idle.expect<protocol::Stopping>();
    idle.expect_hang_up();
}

TEST_CASE("SIGTERM: one that has is waited for, and served, until it is through") {
    DaemonFixture daemon("[limits]\ndrain_timeout = \"10min\"\n");
    Unread pair(daemon);
    daemon.process().signal(SIGTERM);
    (void)pair.reader.expect<protocol::Stopping>();
    CHECK(quiet_for(pair.reader, 400));  // twice the grace that everybody has
    pair.reader.expect_nothing();
    pair.read_all();
    pair.reader.expect_hang_up();
    CHECK(daemon.process().wait().value_or(-1) == 0);
}

TEST_CASE("SIGTERM: also for what was published before its publication ended") {
    DaemonFixture daemon("[limits]\ndrain_timeout = \"10min\"\n");
    Unread pair(daemon);
    pair.writer.unadvertise(pair.attached.publication);
    CHECK(pair.reader.expect<protocol::Ended>().attachment == pair.attached.attachment);
    daemon.process().signal(SIGTERM);
    (void)pair.reader.expect<protocol::Stopping>();
    CHECK(quiet_for(pair.reader, 400));
    pair.read_all();
    pair.reader.expect_hang_up();
    CHECK(daemon.process().wait().value_or(-1) == 0);
}

TEST_CASE("SIGTERM: for drain_timeout at most") {
    DaemonFixture daemon("[limits]\ndrain_timeout = \"300ms\"\n");
    const Unread pair(daemon);
    CHECK(daemon.stop().value_or(-1) == 0);
    CHECK(daemon.process().output().find("left after 300ms of draining") != std::string::npos);
}
