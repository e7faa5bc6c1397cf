// SPDX-License-Identifier: Apache-2.0
// Goal: clients that ask all the time, for what is costly, and clients that give the daemon
// something to write about all the time: others are served in between, and no disk is filled.
// Method: a private ipcbusd; raw connections; bystanders.
// Bounds: while 50 connections ask without end, the daemon spends at most 20 ms of CPU for each of
// them between a request of another connection of that uid and its answer; another uid waits for
// 200 ms of CPU at the most, however many they are. Clients make it write 20 lines a second into
// its log, whatever they do.
#include "bus_client.hpp"
#include "bystanders.hpp"
#include "daemon_fixture.hpp"
#include "ledger.hpp"
#include "raw_client.hpp"

#include "sys/address.hpp"
#include "sys/clock.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

namespace {

std::int64_t used_ns(DaemonFixture& daemon) { return cpu_ns(daemon.process().pid()); }

/// Asks on 50 connections in turn, reads what there is to read, and takes no descriptor.
int flood(const std::string& socket_path, Milestone& requests) {
    std::vector<sys::UniqueFd> sockets;
    std::vector<std::byte> first;
    protocol::encode(first, protocol::Hello{}, 1);
    protocol::encode(first, protocol::Mapped{0}, 0);
    std::vector<std::byte> costly;
    protocol::encode(costly, protocol::Subscribe{.filter = "a/#"}, 2);
    protocol::encode(costly, protocol::Advertise{.topic = "b", .ring_bytes = 65536}, 3);
    protocol::encode(costly, protocol::Unsubscribe{~u64{0}}, 4);
    for (std::size_t next = 0;; next++) {
        if (next < 50) {
            auto socket = sys::connect_unix(socket_path, kLongNs);
            if (!socket.ok()) {
                return 2;
            }
            (void)::send(socket.value().get(), first.data(), first.size(), MSG_NOSIGNAL);
            sockets.push_back(std::move(socket).value());
        }
        const int socket = sockets[next % sockets.size()].get();
        std::byte answers[65536];
        (void)::recv(socket, answers, sizeof(answers), MSG_DONTWAIT);
        (void)::send(socket, costly.data(), costly.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        requests.raise();
    }
}

/// Of all that it is told of now; whether there was one.
bool complain_of_readers(RawClient& liar, u64 publication) {
    bool complained = false;
    const auto complaint = static_cast<protocol::u8>(protocol::Complaint::bad_cursor);
    for (const Incoming& incoming : liar.drain()) {
        if (incoming.header.type == protocol::FrameType::members) {
            const auto members = decoded<protocol::Members>(incoming);
            liar.taken(members);
            for (const protocol::Member& member : members.attach) {
                liar.send_with(protocol::Complain{publication, member.attachment, complaint}, 0);
                complained = true;
            }
        }
    }
    return complained;
}

}  // namespace

TEST_CASE("many who ask all the time: others are answered in between") {
    DaemonFixture daemon;
    REQUIRE(::chmod(daemon.directory().path().c_str(), 0711) == 0);
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    for (int i = 0; i < 200; i++) {
        writer.mapped(writer.advertise("a/" + std::to_string(i), 4096).publication);
    }
    writer.expect_nothing();
    Bystanders bystanders(daemon.address());
    bool other_uid = false;
    SUBCASE("of the same uid") {}
    SUBCASE("of another uid") { other_uid = true; }
    if (other_uid && !may_be_user(12345)) {
        MESSAGE("skipped: this process cannot become another user");
        return;
    }
    const SharedBlock<Milestone> requests;
    ChildProcess flooding = ChildProcess::fork([&] {
        return other_uid && ::setuid(12345) != 0 ? 1 : flood(daemon.socket_path(), *requests);
    });
    REQUIRE(requests->wait(200));
    RawClient honest = RawClient::on_bus(daemon.socket_path(), "honest");
    std::int64_t most_ns = 0;
    for (int i = 0; i < 30; i++) {
        const std::int64_t begin_ns = used_ns(daemon);
        honest.expect_nothing();
        most_ns = std::max(most_ns, used_ns(daemon) - begin_ns);
    }
    CHECK(flooding.running());
    bystanders.expect_trips();
    if (!kSanitized) {
        CHECK(most_ns < (other_uid ? 200 : 1000) * kMillisecondNs * patience());
    }
    flooding.signal(SIGKILL);
    (void)flooding.wait();
    honest.expect_nothing();
    MESSAGE(requests->value(), " requests; the daemon spent ", most_ns / 1000,
            " us of CPU between a question and its answer at the most; the longest trip ",
            bystanders.longest_trip_ns() / 1000, " us");
}

TEST_CASE("clients can make the daemon write 20 lines a second, whatever they do") {
    DaemonFixture daemon("[limits]\nunread_reply_bytes = \"64KiB\"\n");
    RawClient watcher = RawClient::on_bus(daemon.socket_path(), "watcher");
    watcher.expect_nothing();
    const std::size_t before = daemon.process().output().size();
    const std::int64_t begin_ns = sys::monotonic_ns();
    constexpr int kDeeds = 1000;
    SUBCASE("malformed frames") {
        for (int i = 0; i < kDeeds; i++) {
            RawClient client(daemon.socket_path());
            client.send(protocol::Stopping{});
            client.expect_error(EPROTO);
        }
    }
    SUBCASE("resumed again and again") {
        RawClient first = RawClient::on_bus(daemon.socket_path(), "restless");
        const protocol::Resume resume{.client = first.welcome.client, .token = first.welcome.token};
        std::vector<RawClient> last;
        for (int i = 0; i < kDeeds; i++) {
            RawClient next(daemon.socket_path());
            next.send(resume);
            CHECK(next.expect<protocol::Welcome>().resumed == 1);
            last.push_back(std::move(next));
        }
    }
    SUBCASE("rings that lie") {
        RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
        RawClient liar = RawClient::on_bus(daemon.socket_path(), "liar");
        for (int i = 0; i < kDeeds; i++) {
            const auto advertised = liar.advertise("a", 4096);
            auto ring = sys::map_shared(liar.fds.at(0).get(), 0, 4096, sys::Access::read_write);
            REQUIRE(ring.ok());
            reinterpret_cast<protocol::RingHeader*>(ring.value().data())->newest = ~u64{0};
            liar.mapped(advertised.publication);
            reader.unsubscribe(reader.subscribe("a"));
            liar.unadvertise(advertised.publication);
            (void)liar.drain();
        }
    }
    SUBCASE("rings that are sealed, of a publisher that has ended them") {
        RawClient liar = RawClient::on_bus(daemon.socket_path(), "liar");
        for (int i = 0; i < kDeeds; i++) {
            const auto advertised = liar.advertise("a", 4096);
            REQUIRE(::fcntl(liar.fds.at(0).get(), F_ADD_SEALS, F_SEAL_SEAL) == 0);
            std::vector<std::byte> bytes;
            protocol::encode(bytes, protocol::Mapped{advertised.publication}, 0);
            protocol::encode(bytes, protocol::Unadvertise{advertised.publication}, 9);
            liar.send_bytes(bytes);
            while (liar.next().has_value()) {}
            liar = RawClient::on_bus(daemon.socket_path(), "liar");
        }
    }
    SUBCASE("complaints") {
        RawClient liar = RawClient::on_bus(daemon.socket_path(), "liar");
        RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
        const auto advertised = liar.advertise("a", 4096);
        liar.mapped(advertised.publication);
        for (int i = 0; i < kDeeds; i++) {
            const auto subscribed = reader.subscribe("a", protocol::ReaderMode::reliable);
            const sys::Deadline deadline = sys::Deadline::after(kLongNs);
            while (!complain_of_readers(liar, advertised.publication)) {
                REQUIRE(!deadline.passed());
            }
            reader.unsubscribe(subscribed);
            for (const Incoming& incoming : reader.drain()) {
                if (incoming.header.type == protocol::FrameType::ended) {
                    const auto ended = decoded<protocol::Ended>(incoming);
                    reader.send_with(protocol::Detached{ended.attachment}, 0);
                }
            }
        }
    }
    watcher.expect_nothing();
    const std::string& log = daemon.process().output();
    const auto lines =
        std::count(log.begin() + static_cast<std::ptrdiff_t>(before), log.end(), '\n');
    const auto seconds = (sys::monotonic_ns() - begin_ns) / kSecondNs;
    INFO(log.substr(before, 300));
    CHECK(lines > 0);
    CHECK(lines <= 21 * (seconds + 2));
    MESSAGE(lines, " lines in ", seconds, " s");
}
