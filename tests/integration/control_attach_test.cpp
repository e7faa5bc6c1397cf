// SPDX-License-Identifier: Apache-2.0
// Goal: publishers and subscribers find each other in either order, membership is numbered state
// that a silent client cannot make grow, and readers get rings that they cannot write.
// Method: a private ipcbusd, raw frames; what must not come is checked by asking something else.
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "protocol/ring_writer.hpp"
#include "sys/memfd.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <set>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::EndReason;
using protocol::FrameType;
using protocol::ReaderMode;
using protocol::u32;
using protocol::u64;
using protocol::u8;

namespace {

/// A publisher's ring, mapped from the descriptor of ADVERTISED.
sys::RingMapping map_ring(const sys::UniqueFd& fd, u64 ring_bytes, sys::Access access) {
    auto mapped = sys::map_ring(fd.get(), protocol::kRingDataOffset, ring_bytes, access);
    REQUIRE(mapped.ok());
    return std::move(mapped).value();
}

protocol::RingWriter writer_of(const sys::RingMapping& ring,
                               const protocol::Advertised& advertised) {
    protocol::WritableRing memory;
    memory.header = reinterpret_cast<protocol::RingHeader*>(ring.header());
    memory.data = ring.data();
    memory.capacity = ring.capacity();
    return protocol::RingWriter(memory, advertised.start, advertised.first_sequence,
                                advertised.record_bytes_max);
}

void publish(protocol::RingWriter& writer, const std::string& text) {
    const u64 bytes = protocol::record_bytes(0, text.size());
    REQUIRE((writer.has_room(bytes) || writer.raise(bytes, writer.position())));
    std::memcpy(writer.payload(0), text.data(), text.size());
    writer.commit(0, static_cast<u32>(text.size()));
}

std::string record_at(const sys::RingMapping& ring, u64 position) {
    const std::byte* record = ring.data() + (position & (ring.capacity() - 1));
    const auto* header = reinterpret_cast<const protocol::RecordHeader*>(record);
    const u64 word = header->word.load(std::memory_order_acquire);
    return {reinterpret_cast<const char*>(record + protocol::kRecordHeaderBytes),
            protocol::word_payload_bytes(word)};
}

}  // namespace

TEST_CASE("subscribe, then advertise: the writer learns of the reader with ADVERTISED") {
    DaemonFixture daemon;
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    const auto subscribed = reader.subscribe("a/#");
    CHECK(subscribed.attachments == 0);

    protocol::Advertise request;
    request.topic = "a/b";
    request.ring_bytes = 65536;
    request.waiter = 3;
    request.lineage = {9, 9};
    request.first_sequence = 1000;
    writer.send(request);
    const auto advertised = writer.expect<protocol::Advertised>();
    CHECK(advertised.ring_bytes == 65536);
    CHECK(advertised.record_bytes_max == protocol::record_bytes_max(65536));
    CHECK(advertised.start == 65536);
    CHECK(advertised.first_sequence == 1000);
    const sys::RingMapping ring = map_ring(writer.fds.at(0), 65536, sys::Access::read_write);
    const auto peer = writer.expect<protocol::Peer>();
    CHECK(peer.client == reader.welcome.client);
    CHECK(peer.geometry == reader.welcome.geometry);
    CHECK(peer.pages == (protocol::kPeerCursor | protocol::kPeerDoorbell));
    const auto members = writer.expect<protocol::Members>();
    CHECK(members.publication == advertised.publication);
    CHECK(members.number == 1);
    CHECK(writer.attention(advertised.index) == 1);
    REQUIRE(members.attach.size() == 1);
    CHECK(members.attach[0].peer == reader.welcome.client);
    CHECK(members.attach[0].start == advertised.start);
    CHECK(members.attach[0].reliable == 1);
    reader.expect_nothing();  // not before the writer has mapped it

    writer.mapped(advertised.publication);
    const auto page = reader.expect<protocol::Peer>();
    CHECK(page.client == writer.welcome.client);
    CHECK(page.pages == protocol::kPeerDoorbell);
    const auto attached = reader.expect<protocol::Attached>();
    CHECK(attached.subscription == subscribed.subscription);
    CHECK(attached.attachment == members.attach[0].attachment);
    CHECK(attached.publication == advertised.publication);
    CHECK(attached.peer == writer.welcome.client);
    CHECK(attached.index == advertised.index);
    CHECK(attached.waiter == 3);
    CHECK(attached.slot == members.attach[0].slot);
    CHECK(attached.start == advertised.start);
    CHECK(attached.start_sequence == 1000);
    CHECK(attached.lineage == request.lineage);
    CHECK(attached.uid == ::getuid());
    CHECK(attached.topic == "a/b");
    const sys::RingMapping seen = map_ring(reader.fds.at(0), 65536, sys::Access::read_only);
    protocol::RingWriter out = writer_of(ring, advertised);
    publish(out, "hello");
    CHECK(record_at(seen, attached.start) == "hello");
    writer.taken(members);
    writer.expect_nothing();
}

TEST_CASE("advertise, then subscribe: the reader begins with what comes from now on") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    const auto advertised = writer.advertise("a/b", 4096);
    const sys::RingMapping ring = map_ring(writer.fds.at(0), 4096, sys::Access::read_write);
    writer.mapped(advertised.publication);
    protocol::RingWriter out = writer_of(ring, advertised);
    for (int i = 0; i < 100; i++) {
        publish(out, "old");
    }
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    CHECK(reader.subscribe("+/b", ReaderMode::latest).attachments == 1);
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    CHECK(attached.start == out.position());
    CHECK(attached.start_sequence == 100);
    CHECK(attached.mode == static_cast<u8>(ReaderMode::latest));
    (void)writer.expect<protocol::Peer>();
    const auto members = writer.expect<protocol::Members>();
    REQUIRE(members.attach.size() == 1);
    CHECK(members.attach[0].start == out.position());
    CHECK(members.attach[0].reliable == 0);
}

TEST_CASE("a client may be its own peer") {
    DaemonFixture daemon;
    RawClient self = RawClient::on_bus(daemon.socket_path());
    const auto subscribed = self.subscribe("a");
    const auto advertised = self.advertise("a");
    self.mapped(advertised.publication);
    CHECK(self.expect<protocol::Peer>().pages == 3);
    const auto members = self.expect<protocol::Members>();
    (void)self.expect<protocol::Attached>();
    self.taken(members);
    self.unsubscribe(subscribed);
    const auto left = self.expect<protocol::Members>();
    CHECK(left.detach == std::vector<u64>{members.attach.at(0).attachment});
    self.taken(left);
    CHECK(self.expect<protocol::PeerGone>().client == self.welcome.client);
}

TEST_CASE("what readers get, they cannot write; what writers get of readers, neither") {
    DaemonFixture daemon;
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    reader.subscribe("a");
    const auto advertised = writer.advertise("a", 4096);
    const sys::RingMapping ring = map_ring(writer.fds.at(0), 4096, sys::Access::read_write);
    const sys::UniqueFd writable = std::move(writer.fds.at(0));
    (void)writer.expect<protocol::Peer>();
    const sys::UniqueFd cursor = std::move(writer.fds.at(0));
    const sys::UniqueFd doorbell = std::move(writer.fds.at(1));
    writer.mapped(advertised.publication);
    (void)reader.expect<protocol::Peer>();
    (void)reader.expect<protocol::Attached>();
    const sys::UniqueFd seen = std::move(reader.fds.at(0));

    for (const sys::UniqueFd* fd : {&seen, &cursor}) {
        CHECK((::fcntl(fd->get(), F_GETFL) & O_ACCMODE) == O_RDONLY);
        CHECK(sys::expect_seals(fd->get(), sys::kSealsRing).ok());
        CHECK(::mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, fd->get(), 0) == MAP_FAILED);
        void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd->get(), 0);
        REQUIRE(page != MAP_FAILED);
        CHECK(::mprotect(page, 4096, PROT_READ | PROT_WRITE) != 0);
        CHECK(::munmap(page, 4096) == 0);
    }
    // Nor can the writer make a second writable mapping, or take memory away.
    CHECK(::mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, writable.get(), 0) == MAP_FAILED);
    CHECK(::fallocate(writable.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) != 0);
    CHECK(::ftruncate(writable.get(), 0) != 0);
    // A doorbell can be rung, but not sealed against others.
    CHECK(sys::map_shared(doorbell.get(), 0, 4096, sys::Access::read_write).ok());
    CHECK(!sys::add_seals(doorbell.get(), F_SEAL_FUTURE_WRITE).ok());
}

TEST_CASE("membership is state: one frame at a time, and what cancels leaves only its number") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    const auto advertised = writer.advertise("a");
    writer.mapped(advertised.publication);
    RawClient first = RawClient::on_bus(daemon.socket_path(), "first");
    RawClient second = RawClient::on_bus(daemon.socket_path(), "second");
    const auto kept = first.subscribe("a");
    (void)writer.expect<protocol::Peer>();
    const auto one = writer.expect<protocol::Members>();
    CHECK(one.number == 1);

    // Not taken in yet: whatever comes and goes makes no frame.
    for (int i = 0; i < 50; i++) {
        const auto passing = second.subscribe("#");
        second.unsubscribe(passing);
    }
    writer.expect_nothing();
    CHECK(writer.attention(advertised.index) == 101);
    writer.taken(one);
    const auto two = writer.expect<protocol::Members>();
    CHECK(two.number == 101);
    CHECK(two.attach.empty());
    CHECK(two.detach.empty());
    writer.expect_nothing();

    first.unsubscribe(kept);
    writer.expect_nothing();
    writer.taken(two);
    const auto three = writer.expect<protocol::Members>();
    CHECK(three.number == 102);
    CHECK(three.detach == std::vector<u64>{one.attach.at(0).attachment});
    writer.taken(three);
    CHECK(writer.expect<protocol::PeerGone>().client == first.welcome.client);
    writer.expect_nothing();
}

TEST_CASE("TAKEN of a number that was never sent ends the session") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path());
    const auto advertised = writer.advertise("a");
    writer.send_with(protocol::Taken{advertised.publication, 1}, 0);
    writer.expect_error(EPROTO);
    writer.expect_hang_up();
}

TEST_CASE("a slot is not used again before its writer has taken the detach in") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    const auto advertised = writer.advertise("a");
    writer.mapped(advertised.publication);
    const auto slot_of = [&](const protocol::Subscribed& subscribed) {
        for (const Incoming& incoming : reader.drain()) {
            if (incoming.header.type == FrameType::attached) {
                const auto attached = decoded<protocol::Attached>(incoming);
                CHECK(attached.subscription == subscribed.subscription);
                return attached.slot;
            }
        }
        FAIL("no ATTACHED");
        return 0u;
    };
    const auto first = reader.subscribe("a");
    const u32 slot = slot_of(first);
    (void)writer.expect<protocol::Peer>();
    writer.taken(writer.expect<protocol::Members>());
    reader.unsubscribe(first);
    const auto detach = writer.expect<protocol::Members>();
    REQUIRE(detach.detach.size() == 1);
    const auto second = reader.subscribe("a");
    CHECK(slot_of(second) != slot);
    writer.taken(detach);
    CHECK(writer.expect<protocol::Members>().attach.size() == 1);
    CHECK(slot_of(reader.subscribe("a")) == slot);
}

TEST_CASE("never more than 64 descriptors are on the way; the rest comes with RECEIVED") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    for (int i = 0; i < 100; i++) {
        writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
    }
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    reader.expect_nothing();
    reader.acknowledges = false;
    CHECK(reader.subscribe("a/+").attachments == 100);
    std::set<u64> seen;
    std::size_t fds = 0;
    const auto take_in = [&](std::vector<Incoming> frames) {
        for (const Incoming& incoming : frames) {
            fds += incoming.fds.size();
            if (incoming.header.type == FrameType::attached) {
                CHECK(seen.insert(decoded<protocol::Attached>(incoming).attachment).second);
            }
        }
    };
    take_in(reader.drain());
    CHECK(fds == protocol::kFdsUnacknowledgedMax);
    take_in(reader.drain());
    CHECK(fds == protocol::kFdsUnacknowledgedMax);
    reader.send_with(protocol::Received{64}, 0);
    take_in(reader.drain());
    take_in(reader.drain());
    CHECK(seen.size() == 100);
    CHECK(fds == 101);  // the writer's doorbell once
}

TEST_CASE("a thousand readers reach their writer in frames that fit") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    for (int i = 0; i < 1000; i++) {
        reader.subscribe("a");
    }
    const auto advertised = writer.advertise("a");
    (void)writer.expect<protocol::Peer>();
    std::set<u64> slots;
    for (u64 number = 0; number != 1000;) {
        const auto members = writer.expect<protocol::Members>();
        CHECK(members.attach.size() <= protocol::kMembersPerFrameMax);
        for (const protocol::Member& member : members.attach) {
            CHECK(slots.insert(member.slot).second);
        }
        CHECK((members.number == 0 || members.number == 1000));
        number = members.number;
    }
    CHECK(slots.size() == 1000);
    CHECK(writer.attention(advertised.index) == 1000);
    writer.expect_nothing();
}

TEST_CASE(
    "a filter that matches very much: SUBSCRIBED first, then all of it, then the next answer") {
    constexpr u32 kMany = 1000;
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    std::vector<u64> publications;
    for (u32 i = 0; i < kMany; i++) {
        publications.push_back(writer.advertise("many/" + std::to_string(i)).publication);
        writer.mapped(publications.back());
    }
    RawClient other = RawClient::on_bus(daemon.socket_path(), "other");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    reader.expect_nothing();
    const u64 many = reader.send(protocol::Subscribe{"many/#", 0});
    const u64 next = reader.send(protocol::Unsubscribe{987654321});
    // Comes and goes while the reader is being attached, or before, or after: it must end
    // somewhere.
    writer.unadvertise(publications[kMany - 1]);
    (void)other.subscribe("nothing/else");
    const auto subscribed = reader.expect<protocol::Subscribed>();
    CHECK(reader.request == many);
    CHECK((subscribed.attachments == kMany || subscribed.attachments == kMany - 1));
    std::set<u64> attached;
    bool answered = false;
    while (!answered || attached.size() < subscribed.attachments) {
        const std::optional<Incoming> incoming = reader.next();
        REQUIRE(incoming.has_value());
        if (incoming->header.type == FrameType::attached) {
            const auto told = decoded<protocol::Attached>(*incoming);
            CHECK(told.subscription == subscribed.subscription);
            CHECK(attached.insert(told.publication).second);
        } else if (incoming->header.type == FrameType::error) {
            CHECK(incoming->header.request == next);
            answered = true;
        }
    }
    CHECK(attached.size() == subscribed.attachments);
}

TEST_CASE("CAUGHT_UP comes behind all ATTACHED that wait for nobody else, again after RESUME") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    std::vector<u64> publications;
    for (int i = 0; i < 100; i++) {  // more than may be on the way at once
        publications.push_back(writer.advertise("a/" + std::to_string(i), 4096).publication);
        if (i != 50) {
            writer.mapped(publications.back());
        }
    }
    writer.expect_nothing();
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    const u64 asked = reader.send(protocol::SubscribeFrom{"a/+", 0, 5});
    const auto subscribed = reader.answer<protocol::Subscribed>(asked);
    CHECK(subscribed.attachments == 100);
    const auto expect_all = [&](RawClient& client, std::size_t count) {
        std::set<u64> attached;
        for (;;) {
            const std::optional<Incoming> incoming = client.next();
            REQUIRE(incoming.has_value());
            if (incoming->header.type == protocol::FrameType::attached) {
                attached.insert(decoded<protocol::Attached>(*incoming).publication);
            } else if (incoming->header.type != protocol::FrameType::peer) {
                CHECK(decoded<protocol::CaughtUp>(*incoming).subscription ==
                      subscribed.subscription);
                CHECK(attached.size() == count);
                CHECK(attached.count(publications[50]) == 0);
                return;
            }
        }
    };
    std::optional<RawClient> next;
    SUBCASE("the first time") { expect_all(reader, 99); }
    SUBCASE("the connection breaks before anything is acknowledged") {
        next.emplace(daemon.socket_path());
        (void)next->answer<protocol::Welcome>(next->send(
            protocol::Resume{.client = reader.welcome.client, .token = reader.welcome.token}));
        expect_all(*next, 99);
    }
    RawClient& now = next ? *next : reader;
    now.expect_nothing();
    // What comes later is no part of it, nor is a subscription to what is to come.
    writer.mapped(publications[50]);
    CHECK(now.expect<protocol::Attached>().publication == publications[50]);
    now.expect_nothing();
    now.subscribe("a/1");
    CHECK(now.expect<protocol::Attached>().publication == publications[1]);
    now.expect_nothing();
    // Where nothing matches, it comes at once.
    const u64 empty = now.send(protocol::SubscribeFrom{"none", 0, 5});
    const auto none = now.answer<protocol::Subscribed>(empty);
    CHECK(now.expect<protocol::CaughtUp>().subscription == none.subscription);
    now.expect_nothing();
}
