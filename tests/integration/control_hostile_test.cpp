// SPDX-License-Identifier: Apache-2.0
// Goal: a publisher or reader that lies, dies or takes nothing harms itself, and memory is paid for
// as long as anybody may hold it.
// Method: a private ipcbusd, raw frames, processes that are killed.
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "protocol/ring_writer.hpp"
#include "sys/clock.hpp"
#include "sys/memfd.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::Complaint;
using protocol::EndReason;
using protocol::ReaderMode;
using protocol::u32;
using protocol::u64;
using protocol::u8;

namespace {

u8 value(EndReason reason) { return static_cast<u8>(reason); }
u8 value(Complaint complaint) { return static_cast<u8>(complaint); }

/// A pipe whose read end becomes readable when the last holder of the write end is gone.
struct Leash {
    Leash() {
        int ends[2];
        REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
        read_end.reset(ends[0]);
        write_end.reset(ends[1]);
    }
    sys::UniqueFd read_end;
    sys::UniqueFd write_end;
};

}  // namespace

TEST_CASE("a publisher that dies after MAPPED has published: readers still get its ring") {
    DaemonFixture daemon;
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    reader.subscribe("a");
    u64 publication = 0;
    {
        RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
        const auto advertised = writer.advertise("a", 4096);
        publication = advertised.publication;
        auto ring = sys::map_ring(writer.fds.at(0).get(), protocol::kRingDataOffset, 4096,
                                  sys::Access::read_write);
        REQUIRE(ring.ok());
        protocol::WritableRing memory{
            reinterpret_cast<protocol::RingHeader*>(ring.value().header()), ring.value().data(),
            4096};
        protocol::RingWriter out(memory, advertised.start, 0, advertised.record_bytes_max);
        REQUIRE(out.raise(64, out.position()));
        std::memcpy(out.payload(0), "last words", 10);
        out.commit(0, 10);
        writer.mapped(publication);
    }
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    CHECK(attached.publication == publication);
    auto seen = sys::map_ring(reader.fds.at(0).get(), protocol::kRingDataOffset, 4096,
                              sys::Access::read_only);
    REQUIRE(seen.ok());
    CHECK(std::memcmp(seen.value().data() + protocol::kRecordHeaderBytes, "last words", 10) == 0);
    const auto ended = reader.expect<protocol::Ended>();
    CHECK(ended.attachment == attached.attachment);
    CHECK(ended.reason == value(EndReason::publisher_gone));
    reader.send_with(protocol::Detached{attached.attachment}, 0);
    CHECK(reader.expect<protocol::PeerGone>().client == attached.peer);
    // Who comes later finds nothing.
    CHECK(reader.subscribe("a").attachments == 0);
}

TEST_CASE("a publisher that dies before MAPPED leaves nothing, and UNADVERTISE ends for readers") {
    DaemonFixture daemon;
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    reader.subscribe("a");
    {
        RawClient dying = RawClient::on_bus(daemon.socket_path(), "dying");
        (void)dying.advertise("a");
    }
    const auto advertised = writer.advertise("a");
    writer.mapped(advertised.publication);
    (void)writer.expect<protocol::Peer>();
    (void)writer.expect<protocol::Members>();
    const auto page = reader.expect<protocol::Peer>();
    CHECK(page.client == writer.welcome.client);
    const auto attached = reader.expect<protocol::Attached>();
    writer.unadvertise(advertised.publication);
    CHECK(writer.expect<protocol::PeerGone>().client == reader.welcome.client);
    CHECK(reader.expect<protocol::Ended>().attachment == attached.attachment);
    writer.send(protocol::Unadvertise{advertised.publication});
    writer.expect_error(ENOENT);
}

TEST_CASE("kill -9 of a client whose forked child keeps the socket open is noticed all the same") {
    DaemonFixture daemon;
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    reader.subscribe("a");
    Leash leash;  // the forked child lives as long as we hold this
    ChildProcess victim = ChildProcess::fork([&] {
        leash.write_end.reset();
        RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
        writer.mapped(writer.advertise("a").publication);
        if (::fork() == 0) {
            char byte;
            (void)!::read(leash.read_end.get(), &byte, 1);
            ::_exit(0);
        }
        for (;;) {
            ::pause();
        }
        return 0;
    });
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    reader.expect_nothing();
    victim.signal(SIGKILL);
    CHECK(victim.wait().value_or(-1) == 128 + SIGKILL);
    const auto ended = reader.expect<protocol::Ended>();
    CHECK(ended.attachment == attached.attachment);
    CHECK(ended.reason == value(EndReason::publisher_gone));
}

TEST_CASE("a ring with a seal of its publisher's is shown to nobody") {
    DaemonFixture daemon;
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    RawClient hostile = RawClient::on_bus(daemon.socket_path(), "hostile");
    reader.subscribe("a");
    const auto advertised = hostile.advertise("a", 65536);
    const sys::UniqueFd ring = std::move(hostile.fds.at(0));
    (void)hostile.drain();
    REQUIRE(sys::add_seals(ring.get(), F_SEAL_SEAL).ok());
    hostile.mapped(advertised.publication);
    hostile.expect_error(EPERM, {"'a'"});
    hostile.expect_hang_up();
    reader.expect_nothing();
    // The slot and the subscription go on.
    RawClient good = RawClient::on_bus(daemon.socket_path(), "good");
    good.mapped(good.advertise("a").publication);
    (void)reader.expect<protocol::Peer>();
    CHECK(reader.expect<protocol::Attached>().peer == good.welcome.client);
}

namespace {

/// Two frames in one piece: the second is refused, unless the daemon took a breath in between, in
/// which it sent its answer to the first.
void expect_refusal_or_answer(RawClient& client) {
    const std::optional<Incoming> first = client.next();
    REQUIRE(first.has_value());
    if (first->header.type == protocol::FrameType::advertised) {
        return;
    }
    CHECK(decoded<protocol::ErrorFrame>(*first).code == EPROTO);
    client.expect_hang_up();
}

}  // namespace

TEST_CASE(
    "MAPPED and UNADVERTISE of a publication whose ADVERTISED is still due: there is none yet") {
    DaemonFixture daemon;
    RawClient hostile = RawClient::on_bus(daemon.socket_path(), "hostile");
    std::vector<std::byte> bytes;
    const protocol::Advertise advertise{.topic = "a", .ring_bytes = 4096, .lineage = {1, 2, 3}};
    SUBCASE("by a guessed id, in one piece with ADVERTISE") {
        protocol::encode(bytes, advertise, 50);
        protocol::encode(bytes, protocol::Mapped{hostile.welcome.client + 1}, 0);
        hostile.send_bytes(bytes);
        expect_refusal_or_answer(hostile);
    }
    SUBCASE("said again, so that the id is known") {
        const auto known = hostile.answer<protocol::Advertised>(hostile.send(advertise));
        protocol::encode(bytes, advertise, 50);
        protocol::encode(bytes, protocol::Mapped{known.publication}, 0);
        hostile.send_bytes(bytes);
        expect_refusal_or_answer(hostile);
    }
    SUBCASE("kept waiting by descriptors that are not acknowledged") {
        hostile.expect_nothing();
        hostile.acknowledges = false;
        for (int i = 0; i < 64; i++) {
            (void)hostile.advertise("b/" + std::to_string(i), 4096);
        }
        (void)hostile.send(advertise);
        const u64 guessed = hostile.welcome.client + 65;
        hostile.send(protocol::Unadvertise{guessed});
        hostile.expect_error(ENOENT);
        hostile.mapped(guessed);
        hostile.expect_error(EPROTO);
        hostile.expect_hang_up();
    }
    RawClient::on_bus(daemon.socket_path()).expect_nothing();
}

TEST_CASE("a cursor page with a seal of its client's ends the session") {
    DaemonFixture daemon;
    RawClient hostile(daemon.socket_path());
    hostile.hello();
    REQUIRE(sys::add_seals(hostile.own_fds.at(0).get(), F_SEAL_SEAL).ok());
    hostile.mapped(0);
    hostile.expect_error(EPERM);
    hostile.expect_hang_up();
}

TEST_CASE("holes that the publisher punched are filled before readers see the ring") {
    DaemonFixture daemon;
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    RawClient hostile = RawClient::on_bus(daemon.socket_path(), "hostile");
    u64 bytes = 0;
    SUBCASE("a small ring") { bytes = 65536; }
    SUBCASE("a large one, which a kernel worker reserves") { bytes = u64{4} << 20; }
    reader.subscribe("a");
    const auto advertised = hostile.advertise("a", bytes);
    const int ring = hostile.fds.at(0).get();
    const auto whole = static_cast<off_t>(protocol::kRingDataOffset + bytes);
    struct stat status{};
    REQUIRE(::fstat(ring, &status) == 0);
    CHECK(status.st_blocks * 512 == whole);
    REQUIRE(::fallocate(ring, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, whole) == 0);
    hostile.mapped(advertised.publication);
    (void)reader.expect<protocol::Peer>();
    (void)reader.expect<protocol::Attached>();
    REQUIRE(::fstat(reader.fds.at(0).get(), &status) == 0);
    CHECK(status.st_blocks * 512 == whole);
}

TEST_CASE("a ring that says what cannot be true: nobody is attached, nobody is harmed") {
    DaemonFixture daemon;
    RawClient hostile = RawClient::on_bus(daemon.socket_path(), "hostile");
    const auto advertised = hostile.advertise("a", 4096);
    auto ring = sys::map_ring(hostile.fds.at(0).get(), protocol::kRingDataOffset, 4096,
                              sys::Access::read_write);
    REQUIRE(ring.ok());
    auto* header = reinterpret_cast<protocol::RingHeader*>(ring.value().header());
    header->newest.store(~u64{0}, std::memory_order_release);
    hostile.mapped(advertised.publication);
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    CHECK(reader.subscribe("#").attachments == 0);
    reader.expect_nothing();
    const auto members = hostile.expect<protocol::Members>();
    CHECK(members.number == 1);
    CHECK(members.attach.empty());
}

TEST_CASE("complaints: a bad cursor costs that attachment, a stall the claim to be waited for") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    const auto advertised = writer.advertise("a");
    const auto other = writer.advertise("b");
    writer.mapped(advertised.publication);
    writer.mapped(other.publication);
    reader.subscribe("a");
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    CHECK(attached.mode == static_cast<u8>(ReaderMode::reliable));
    (void)writer.expect<protocol::Peer>();
    writer.taken(writer.expect<protocol::Members>());
    const auto complain = [&](u64 publication, u64 attachment, Complaint complaint) {
        writer.send_with(protocol::Complain{publication, attachment, value(complaint)}, 0);
        writer.expect_nothing();
    };
    // About what is none of its readers: ignored.
    complain(advertised.publication, 4711, Complaint::bad_cursor);
    complain(other.publication, attached.attachment, Complaint::bad_cursor);
    reader.expect_nothing();
    SUBCASE("stalled") {
        complain(advertised.publication, attached.attachment, Complaint::stalled);
        reader.expect_nothing();
        reader.subscribe("a");
        CHECK(reader.expect<protocol::Attached>().mode == static_cast<u8>(ReaderMode::lossy));
        CHECK(writer.expect<protocol::Members>().attach.at(0).reliable == 0);
        // Of the other publication it may still be reliable.
        reader.subscribe("b");
        CHECK(reader.expect<protocol::Attached>().mode == static_cast<u8>(ReaderMode::reliable));
    }
    SUBCASE("bad cursor") {
        writer.send_with(protocol::Complain{advertised.publication, attached.attachment,
                                            value(Complaint::bad_cursor)},
                         0);
        const auto members = writer.expect<protocol::Members>();
        CHECK(members.detach == std::vector<u64>{attached.attachment});
        const auto ended = reader.expect<protocol::Ended>();
        CHECK(ended.reason == value(EndReason::detached));
        reader.send_with(protocol::Detached{attached.attachment}, 0);
        CHECK(reader.expect<protocol::PeerGone>().client == writer.welcome.client);
        writer.taken(members);
        CHECK(writer.expect<protocol::PeerGone>().client == reader.welcome.client);
    }
}

TEST_CASE("frames ring who sleeps; who only says so gets no memory for it") {
    DaemonFixture daemon;
    RawClient client = RawClient::on_bus(daemon.socket_path());
    client.expect_nothing();
    const u32 waiters = client.welcome.geometry.waiters_max;
    const auto asleep = [&](u32 waiter) {
        const u64 offset = protocol::asleep_offset(client.welcome.geometry, waiter);
        return reinterpret_cast<std::atomic<u32>*>(client.cursor.data() + offset);
    };
    const auto bell = [&](u32 waiter) {
        return reinterpret_cast<protocol::DoorbellWaiter*>(client.doorbell.data() +
                                                           protocol::waiter_offset(waiter))
            ->bell.load(std::memory_order_acquire);
    };
    const auto* frames =
        &reinterpret_cast<const protocol::MailboxHeader*>(client.mailbox.data())->frames;
    const auto doorbell_blocks = [&] {
        struct stat status{};
        REQUIRE(::fstat(client.own_fds.at(1).get(), &status) == 0);
        return status.st_blocks;
    };
    auto* used = &reinterpret_cast<protocol::CursorHeader*>(client.cursor.data())->waiters_used;
    CHECK(bell(3) == 0);  // as a sleeper: reads its bell, then says that it sleeps
    asleep(3)->store(7);
    used->store(5);
    const u64 before = frames->load();
    // The bell is rung after the send has completed, which is after we may have read it: the
    // second answer is sent after the first bell.
    client.expect_nothing();
    client.expect_nothing();
    CHECK(frames->load() > before);
    CHECK(bell(3) >= 1);
    CHECK(bell(2) == 0);

    // More sleepers than are rung in one turn: the last one gets his turn, too.
    for (u32 waiter = 0; waiter < 300; waiter++) {
        CHECK(bell(waiter) == (waiter == 3 ? bell(3) : 0));
        asleep(waiter)->store(1);
    }
    used->store(300);
    client.expect_nothing();
    const sys::Deadline deadline = sys::Deadline::after(20'000'000'000);
    while (bell(299) == 0 && !deadline.passed()) {
        // no frame, whose announcement would begin another round
    }
    for (u32 waiter = 0; waiter < 300; waiter++) {
        CHECK(bell(waiter) >= 1);
    }

    const auto blocks = doorbell_blocks();
    for (u32 waiter = 0; waiter < waiters; waiter++) {
        asleep(waiter)->store(1);
    }
    used->store(~u32{0});
    for (int i = 0; i < 10; i++) {
        client.expect_nothing();
    }
    CHECK(doorbell_blocks() == blocks);
}

TEST_CASE("a ring that a living process may still map stays charged until that process is dead") {
    DaemonFixture daemon("[limits.per_uid]\nring_bytes = \"1MiB\"\n");
    Leash leash;
    ChildProcess holder = ChildProcess::fork([&] {
        leash.read_end.reset();
        RawClient writer = RawClient::on_bus(daemon.socket_path(), "holder");
        writer.mapped(writer.advertise("a", 1 << 19).publication);
        writer.expect_nothing();
        writer.close();  // without UNADVERTISE; the ring's descriptor and mappings are still here
        leash.write_end.reset();
        for (;;) {
            ::pause();
        }
        return 0;
    });
    leash.write_end.reset();
    pollfd entry{leash.read_end.get(), POLLIN, 0};
    REQUIRE(::poll(&entry, 1, kTimeoutMs) == 1);
    RawClient client = RawClient::on_bus(daemon.socket_path());
    const auto attempt = [&] {
        client.send(protocol::Advertise{.topic = "b", .ring_bytes = 1 << 19});
        const auto answer = client.next();
        REQUIRE(answer.has_value());
        return answer->header.type;
    };
    CHECK(attempt() == protocol::FrameType::error);
    holder.signal(SIGKILL);
    (void)holder.wait();
    const sys::Deadline deadline = sys::Deadline::after(20'000'000'000);
    while (attempt() == protocol::FrameType::error && !deadline.passed()) {}
    CHECK(!deadline.passed());
}

TEST_CASE("a reader that takes nothing cannot keep the ring of a dead publisher here") {
    DaemonFixture daemon("[publications]\nstall_timeout = \"100ms\"\n");
    RawClient deaf = RawClient::on_bus(daemon.socket_path(), "deaf");
    deaf.expect_nothing();
    deaf.acknowledges = false;
    {
        RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
        for (int i = 0; i < 100; i++) {
            writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
        }
        deaf.subscribe("a/#");
        (void)writer.drain();
    }
    CHECK(daemon.process().wait_for_output("took nothing for 100ms") != std::string::npos);
    std::size_t attached = 0;
    for (const Incoming& incoming : deaf.drain()) {
        attached += incoming.header.type == protocol::FrameType::attached ? 1 : 0;
    }
    CHECK(attached == 63);  // and the writer's doorbell
    deaf.send_with(protocol::Received{64}, 0);
    for (const Incoming& incoming : deaf.drain()) {
        CHECK(incoming.header.type != protocol::FrameType::attached);
    }
}
