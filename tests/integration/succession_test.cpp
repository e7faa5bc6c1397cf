// SPDX-License-Identifier: Apache-2.0
// Goal: a publication that goes on in another ring loses nothing silently: what a subscriber missed
// between the two is told, at once, also if nothing more ever comes, and if the next ring is gone
// before anybody has looked at it.
// Method: a publisher that speaks the protocol by itself and says what its lineage and first
// sequence are; a subscriber of the library.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"
#include "shared_block.hpp"

#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;
using protocol::u8;

namespace {

/// Rings of one publication, one after the other or at the same time.
class Publication {
public:
    explicit Publication(const DaemonFixture& daemon)
        : client_(RawClient::on_bus(daemon.socket_path(), "publisher")) {}

    u64 open_ring(u64 first_sequence) {
        protocol::Advertise request;
        request.topic = "succession/topic";
        request.ring_bytes = 65536;
        request.lineage.fill(7);
        request.first_sequence = first_sequence;
        const auto granted = client_.answer<protocol::Advertised>(client_.send(request));
        client_.mapped(granted.publication);
        return granted.publication;
    }
    void end_ring(u64 publication) { client_.unadvertise(publication); }
    /// The daemon takes the readers of that ring away.
    void take_readers_away(u64 publication) {
        for (const Incoming& incoming : client_.drain()) {
            if (incoming.header.type != protocol::FrameType::members) {
                continue;
            }
            const auto members = decoded<protocol::Members>(incoming);
            client_.taken(members);
            for (const protocol::Member& member : members.attach) {
                const u8 complaint = static_cast<u8>(protocol::Complaint::bad_cursor);
                client_.send_with(
                    protocol::Complain{publication, member.attachment, complaint}, 0);
            }
        }
        (void)client_.drain();
    }

private:
    RawClient client_;
};

/// A publisher of many topics, of which only others are named, that is gone without a word.
int speak_of_others(const std::string& address, int messages, Milestone& joined) {
    const Bus bus = connect(address, "victim");
    const Publisher publisher = advertise(bus, "many/#");
    must_be(ipcbus_wait_subscribers(publisher.get(), 2, kLongNs) == 0, "wait_subscribers");
    must_be(joined.wait(1), "the readers");
    for (int i = 0; i < messages; i++) {
        publish_to(publisher, "many/others", "x");
    }
    ::_exit(0);
}

/// Until that thread of this process waits for a futex; at once where that cannot be seen.
void wait_until_asleep(pid_t thread) {
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    const std::string path = "/proc/self/task/" + std::to_string(thread) + "/syscall";
    const std::string asleep = std::to_string(SYS_futex) + " ";
    for (std::string line; !line.starts_with(asleep) && !deadline.passed();) {
        std::ifstream file(path);
        if (!(file >> line)) {
            return;
        }
        line += ' ';
    }
}

}  // namespace

TEST_CASE("who sleeps in the ring before is told what was lost, though nothing comes in the next") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "succession/+", IPCBUS_RELIABLE, -1);
    Publication publication(daemon);
    const u64 ring = publication.open_ring(1);
    (void)publication.open_ring(4);  // held back until the first is drained
    wait_for_publications(subscriber, 1);
    const pid_t self = ::gettid();
    std::thread ender([&] {
        wait_until_asleep(self);
        publication.end_ring(ring);
    });
    const Received got = receive(subscriber, kLongNs);
    ender.join();
    CHECK(got.result == -ESTALE);
    CHECK(got.message.lost == 3);
    CHECK(got.topic == "succession/topic");
    CHECK(receive(subscriber, 0).result == -EAGAIN);
    CHECK(ipcbus_lost(subscriber.get()) == 3);
}

TEST_CASE("a loss is told although the ring that shows it is gone before it was looked at") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "succession/+");
    Publication publication(daemon);
    const u64 first = publication.open_ring(1);
    wait_for_publications(subscriber, 1);
    publication.end_ring(first);
    wait_for_publications(subscriber, 0);
    for (const u64 sequence : {4, 6}) {
        const u64 next = publication.open_ring(sequence);
        publication.take_readers_away(next);
        const Received got = receive(subscriber, kLongNs);
        CHECK(got.result == -ESTALE);
        CHECK(got.message.lost == (sequence == 4 ? 3 : 2));
        CHECK(got.topic == "succession/topic");
        wait_for_publications(subscriber, 0);
    }
    CHECK(ipcbus_lost(subscriber.get()) == 5);
}

TEST_CASE("a ring is let go although all that its publisher left there is for others") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "many/mine", IPCBUS_RELIABLE, -1);
    const Subscriber other = subscribe(bus, "many/others");
    // As many as one look skips, and as two do; and some.
    for (const int messages : {64, 128, 192, 100}) {
        INFO(messages);
        const SharedBlock<Milestone> joined;
        ChildProcess child = ChildProcess::fork(
            [&] { return speak_of_others(daemon.address(), messages, *joined); });
        wait_for_publications(subscriber, 1);
        joined->raise();
        for (int i = 0; i < messages; i++) {
            REQUIRE(received_text(other) == "x");
        }
        REQUIRE(child.wait() == 0);
        wait_for_publications(other, 0);
        (void)subscribe(bus, "barrier");  // answered behind what tells of the end
        CHECK(receive(subscriber, 100 * kMillisecondNs).result == -ETIMEDOUT);
        CHECK(ipcbus_publication_count(subscriber.get()) == 0);
    }
}
