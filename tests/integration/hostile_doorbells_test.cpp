// SPDX-License-Identifier: Apache-2.0
// Goal: doorbell pages, which every peer may write, are filled with zeros, ones and noise, rung
// without end, and taken away under their owners' hands: those are woken all the same, and sleep
// all the same when there is nothing.
// Method: a raw client, peer of two bystanders, who sleep for each message, and of two who wait for
// what never comes, one of them in an event loop. Bounds: the bystanders get every message; who is
// rung all the time for nothing uses less than a twentieth of a CPU.
#include "bus_client.hpp"
#include "bystanders.hpp"
#include "daemon_fixture.hpp"
#include "ledger.hpp"
#include "raw_client.hpp"

#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <fcntl.h>
#include <poll.h>

#include <ctime>
#include <random>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u32;
using protocol::u64;

namespace {

constexpr timespec kPause{0, 100'000};

struct Scene {
    Milestone ready;
    std::atomic<u32> over{0};
    std::atomic<u64> waits{0};
    std::atomic<std::int64_t> permille{0};  ///< of a CPU, in the worst of the waits
};

/// Doorbell pages of all peers.
class Ringer {
public:
    explicit Ringer(const std::string& socket_path)
        : client_(RawClient::on_bus(socket_path, "ringer")) {
        client_.mapped(client_.advertise("hostile/nothing", 4096).publication);
        client_.subscribe("bystander/#", protocol::ReaderMode::lossy);
    }
    void find(std::size_t count) {
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        while (pages_.size() < count) {
            REQUIRE(!deadline.passed());
            for (Incoming& incoming : client_.drain()) {
                if (incoming.header.type == protocol::FrameType::members) {
                    client_.taken(decoded<protocol::Members>(incoming));
                } else if (incoming.header.type == protocol::FrameType::peer) {
                    add(incoming);
                }
            }
        }
    }
    /// What one client uses of a page, all words: waiters, and who sleeps at its publications.
    template <class Value>
    void fill(Value&& value) {
        for (const Page& page : pages_) {
            for (u32 waiter = 0; waiter < 4; waiter++) {
                fill(page, protocol::waiter_offset(waiter), sizeof(protocol::DoorbellWaiter),
                     value);
            }
            fill(page, protocol::sleepers_offset(page.geometry, 0), 4096, value);
        }
    }
    /// `moved`: what the bell is then said to have moved by.
    void wake(u32 moved = 1) {
        for (const Page& page : pages_) {
            for (u32 waiter = 0; waiter < 4; waiter++) {
                auto* words = reinterpret_cast<protocol::DoorbellWaiter*>(page.memory.data());
                words[waiter].bell.fetch_add(moved);
                sys::futex_wake_all(words[waiter].bell);
            }
        }
    }
    /// Takes the memory away under their hands; what is touched again is zero.
    void punch() {
        for (const Page& page : pages_) {
            REQUIRE(::fallocate(page.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                static_cast<off_t>(page.memory.bytes())) == 0);
        }
    }

private:
    struct Page {
        sys::UniqueFd fd;
        sys::Mapping memory;
        protocol::Geometry geometry;
    };

    void add(Incoming& incoming) {
        const auto peer = decoded<protocol::Peer>(incoming);
        if ((peer.pages & protocol::kPeerDoorbell) == 0) {
            return;
        }
        sys::UniqueFd fd = std::move(incoming.fds.back());
        auto memory = sys::map_shared(fd.get(), 0, protocol::doorbell_bytes(peer.geometry),
                                      sys::Access::read_write);
        REQUIRE(memory.ok());
        pages_.push_back({std::move(fd), std::move(memory).value(), peer.geometry});
    }
    template <class Value>
    static void fill(const Page& page, u64 offset, u64 bytes, Value&& value) {
        auto* words = reinterpret_cast<std::atomic<u64>*>(page.memory.data() + offset);
        for (u64 i = 0; i < bytes / 8; i++) {
            words[i].store(value(), std::memory_order_relaxed);
        }
    }

    RawClient client_;
    std::vector<Page> pages_;
};

/// Waits for `ns` in an event loop.
void poll_for(const Subscriber& in, int fd, std::int64_t ns) {
    const sys::Deadline deadline = sys::Deadline::after(ns);
    while (!deadline.passed()) {
        pollfd waited{fd, POLLIN, 0};
        (void)::poll(&waited, 1, static_cast<int>(deadline.remaining_ns() / kMillisecondNs) + 1);
        must_be(receive(in, 0).result == -EAGAIN, "something came");
    }
}

/// Waits for what never comes: in the library, or in an event loop.
int idle(const std::string& address, Scene& scene, bool in_event_loop) {
    const Bus bus = connect(address, "idle");
    const Subscriber in = subscribe(bus, "hostile/#");
    const int fd = in_event_loop ? static_cast<int>(must(ipcbus_fd(in.get()), "fd")) : -1;
    scene.ready.raise();
    while (scene.over == 0) {
        const std::int64_t begin_ns = sys::monotonic_ns();
        const std::int64_t used_ns = own_cpu_ns();
        if (in_event_loop) {
            poll_for(in, fd, 200 * kMillisecondNs);
        } else {
            must_be(receive(in, 200 * kMillisecondNs).result == -ETIMEDOUT, "something came");
        }
        // Of the waits, the worst.
        const std::int64_t waited_ns = sys::monotonic_ns() - begin_ns;
        const std::int64_t permille = (own_cpu_ns() - used_ns) * 1000 / waited_ns;
        scene.permille = std::max<std::int64_t>(scene.permille, permille);
        scene.waits++;
    }
    return 0;
}

}  // namespace

TEST_CASE("doorbell pages of others, written over all the time: they are woken all the same") {
    DaemonFixture daemon;
    Bystanders bystanders(daemon.address(), "hostile/#");
    const SharedBlock<Scene> scene;
    const SharedBlock<Scene> loop_scene;
    ChildProcess sleeper =
        ChildProcess::fork([&] { return idle(daemon.address(), *scene, false); });
    ChildProcess poller =
        ChildProcess::fork([&] { return idle(daemon.address(), *loop_scene, true); });
    REQUIRE(scene->ready.wait(1));
    REQUIRE(loop_scene->ready.wait(1));
    Ringer ringer(daemon.socket_path());
    ringer.find(4);
    std::mt19937_64 random(1);
    const auto attack = [&](const std::string& what, auto&& deed) {
        INFO(what);
        const u64 trips = bystanders.trips() + 20;
        const u64 enough = scene->waits + 2;  // one of them from its beginning to its end
        const u64 enough_polls = loop_scene->waits + 2;
        scene->permille = 0;
        loop_scene->permille = 0;
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        while (bystanders.trips() < trips || scene->waits < enough ||
               loop_scene->waits < enough_polls) {
            REQUIRE(!deadline.passed());
            deed();
            REQUIRE(sleeper.running());
            REQUIRE(poller.running());
        }
        if (!kSanitized) {
            CHECK(scene->permille < 50 * patience());
            CHECK(loop_scene->permille < 50 * patience());
        }
        MESSAGE(what, ": the one that is rung for nothing uses ", scene->permille.load(),
                " permille of a CPU, in an event loop ", loop_scene->permille.load(),
                "; the longest trip ", bystanders.longest_trip_ns() / 1000,
                " us");
    };
    attack("nothing", [] { (void)::nanosleep(&kPause, nullptr); });
    attack("zeros", [&] { ringer.fill([] { return u64{0}; }); });
    attack("ones", [&] { ringer.fill([] { return ~u64{0}; }); });
    attack("ones, and wakes", [&] {
        ringer.fill([] { return ~u64{0}; });
        ringer.wake();
    });
    attack("noise, and wakes", [&] {
        ringer.fill([&] { return random(); });
        ringer.wake();
    });
    attack("rings", [&] { ringer.wake(); });
    attack("wakes that change nothing", [&] { ringer.wake(0); });
    attack("rings that are taken back", [&] {
        ringer.wake(1);
        ringer.wake(~u32{0});
    });
    attack("holes", [&] {
        ringer.punch();
        (void)::nanosleep(&kPause, nullptr);  // the kernel must map the pages again, for everybody
    });
    scene->over = 1;
    loop_scene->over = 1;
    CHECK(sleeper.wait() == 0);
    CHECK(poller.wait() == 0);
    bystanders.expect_trips();
}
