// SPDX-License-Identifier: Apache-2.0
// Goal: RESUME in the middle of something: a ring that is being made, a publication whose readers
// are being attached, an ATTACHED that nobody acknowledged. What was promised is kept, once, and
// nothing that somebody may hold is given away. Method: a private ipcbusd, raw frames.
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

namespace {

/// Takes the kernel some milliseconds to reserve.
constexpr u64 kLargeRing = u64{64} << 20;
const std::string kLargeRings = "[publications]\nring_bytes_max = \"64MiB\"\n";

protocol::Resume resume_of(const RawClient& old) {
    return {.client = old.welcome.client, .token = old.welcome.token};
}

}  // namespace

TEST_CASE("RESUME while a ring is made: ADVERTISED comes when it is there, and MAPPED counts") {
    DaemonFixture daemon(kLargeRings);
    RawClient old = RawClient::on_bus(daemon.socket_path(), "old");
    RawClient next(daemon.socket_path());
    old.expect_nothing();
    const u64 asked = old.send(protocol::Advertise{.topic = "a", .ring_bytes = kLargeRing});
    old.expect_nothing();  // it has been looked at
    next.send_with(resume_of(old), asked + 1);
    CHECK(next.answer<protocol::Welcome>(asked + 1).resumed == 1);
    const auto advertised = next.answer<protocol::Advertised>(asked);
    struct stat status{};
    REQUIRE(::fstat(next.fds.at(0).get(), &status) == 0);
    REQUIRE(static_cast<u64>(status.st_blocks) * 512 >= kLargeRing);
    next.mapped(advertised.publication);
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    CHECK(reader.subscribe("a").attachments == 1);
    (void)reader.expect<protocol::Peer>();
    CHECK(reader.expect<protocol::Attached>().publication == advertised.publication);
}

TEST_CASE("RESUME, and ADVERTISE said again before it was answered: one publication") {
    DaemonFixture daemon(kLargeRings + "[limits.per_uid]\npublications = 1\n");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    protocol::Advertise frame{.topic = "a", .lineage = {1, 2, 3}};
    SUBCASE("while its ring is made") { frame.ring_bytes = kLargeRing; }
    SUBCASE("while its first readers are attached") {
        frame.ring_bytes = 65536;
        for (int i = 0; i < 3000; i++) {
            reader.send(protocol::Subscribe{.filter = "a"});
        }
        (void)reader.drain();
    }
    RawClient old = RawClient::on_bus(daemon.socket_path(), "old");
    RawClient next(daemon.socket_path());
    old.expect_nothing();
    daemon.process().signal(SIGSTOP);
    const u64 asked = old.send(frame);
    next.send_with(resume_of(old), asked + 1);
    next.send_with(frame, asked + 2);
    daemon.process().signal(SIGCONT);
    const auto advertised = next.answer<protocol::Advertised>(asked + 2);
    CHECK(next.expect<protocol::Welcome>().resumed == 1);
    for (const Incoming& incoming : next.drain()) {
        // What was asked first may have been answered after RESUME, before it was said again.
        if (incoming.header.type == protocol::FrameType::advertised) {
            CHECK(incoming.header.request == asked);
            CHECK(decoded<protocol::Advertised>(incoming).publication == advertised.publication);
        }
    }
    next.unadvertise(advertised.publication);
    (void)next.advertise("b");  // the limit is 1
}

TEST_CASE("RESUME and a hang-up at once: the ring that was shown before stays charged") {
    DaemonFixture daemon("[limits.per_uid]\nring_bytes = \"1MiB\"\n");
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    sys::UniqueFd read_end(ends[0]);
    sys::UniqueFd write_end(ends[1]);
    ChildProcess publisher = ChildProcess::fork([&] {
        read_end.reset();
        RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
        writer.mapped(writer.advertise("a", 1 << 19).publication);
        writer.expect_nothing();
        write_end.reset();
        for (;;) {
            ::pause();
        }
        return 0;
    });
    write_end.reset();
    pollfd entry{read_end.get(), POLLIN, 0};
    REQUIRE(::poll(&entry, 1, kTimeoutMs) == 1);
    RawClient holder = RawClient::on_bus(daemon.socket_path(), "holder");
    RawClient watcher = RawClient::on_bus(daemon.socket_path(), "watcher");
    holder.expect_nothing();
    holder.acknowledges = false;
    holder.subscribe("a");
    (void)holder.expect<protocol::Peer>();
    (void)holder.expect<protocol::Attached>();
    watcher.subscribe("a");
    (void)watcher.expect<protocol::Peer>();
    const auto attached = watcher.expect<protocol::Attached>();

    daemon.process().signal(SIGSTOP);
    {
        RawClient gone(daemon.socket_path());
        gone.send(resume_of(holder));
    }
    daemon.process().signal(SIGCONT);
    holder.expect_hang_up();
    publisher.signal(SIGKILL);
    (void)publisher.wait();
    CHECK(watcher.expect<protocol::Ended>().attachment == attached.attachment);
    watcher.send_with(protocol::Detached{attached.attachment}, 0);
    (void)watcher.expect<protocol::PeerGone>();
    // Nobody on the bus has it any more, but `holder.fds` has, in this process.
    watcher.send(protocol::Advertise{.topic = "b", .ring_bytes = 1 << 19});
    watcher.expect_error(EDQUOT, {"limits.per_uid.ring_bytes"});
}

TEST_CASE("RESUME: a ring that cannot be shown again stays charged until its reader has let go") {
    DaemonFixture daemon("[publications]\nstall_timeout = \"100ms\"\nrings_ready = 0\n"
                         "[limits.per_uid]\nring_bytes = \"1MiB\"\n");
    constexpr u64 kHalf = u64{1} << 19;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    RawClient watcher = RawClient::on_bus(daemon.socket_path(), "watcher");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    const auto advertised = writer.advertise("a", kHalf);
    writer.mapped(advertised.publication);
    reader.expect_nothing();
    reader.acknowledges = false;
    reader.subscribe("a");
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    std::optional<RawClient> next;
    const auto resume = [&] {
        next.emplace(daemon.socket_path());
        next->acknowledges = false;
        (void)next->answer<protocol::Welcome>(next->send(resume_of(reader)));
    };
    SUBCASE("it had ended before") {
        writer.unadvertise(advertised.publication);
        CHECK(reader.expect<protocol::Ended>().attachment == attached.attachment);
        resume();
    }
    SUBCASE("it ends while descriptors of others are on the way to it") {
        // So many that read what it publishes that their pages, told first, are all it may be sent.
        std::vector<RawClient> many;
        for (int i = 0; i < 32; i++) {
            many.push_back(RawClient::on_bus(daemon.socket_path(), "many"));
            many.back().subscribe("b");
        }
        reader.mapped(reader.advertise("b", 4096).publication);
        (void)reader.drain();
        resume();
        (void)next->drain();
        writer.unadvertise(advertised.publication);
    }
    // It has the ring, in `reader.fds`.
    for (bool ended = false; !ended;) {
        const std::optional<Incoming> incoming = next->next();
        REQUIRE(incoming.has_value());
        CHECK(incoming->header.type != protocol::FrameType::attached);
        ended = incoming->header.type == protocol::FrameType::ended;
        if (ended) {
            const auto frame = decoded<protocol::Ended>(*incoming);
            CHECK(frame.attachment == attached.attachment);
            CHECK(frame.reason == static_cast<protocol::u8>(protocol::EndReason::publisher_gone));
        }
    }
    const u64 refused = watcher.send(protocol::Advertise{.topic = "c", .ring_bytes = kHalf});
    watcher.expect_error(EDQUOT, {"limits.per_uid.ring_bytes"});
    CHECK(watcher.request == refused);
    next->send_with(protocol::Detached{attached.attachment}, 0);
    next->expect_nothing();
    (void)watcher.advertise("c", kHalf);
}
