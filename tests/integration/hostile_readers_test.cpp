// SPDX-License-Identifier: Apache-2.0
// Goal: a reader that lies about how far it has read, or about whom to wake, costs a publisher
// stall_timeout at the most, once, and other readers no message.
// Method: a raw reader with the slots and pages of a real one, beside an honest publisher and an
// honest reliable reader, both at full speed.
// Bounds: every message reaches the honest reader; a hostile attachment that stands still holds one
// publish for stall_timeout, all that follow of its uid none; one that moves by a record within
// each stall_timeout holds every publish for less than that, as long as it does; a publish takes
// less than 100 us of CPU.
#include "bus_client.hpp"
#include "checked_message.hpp"
#include "daemon_fixture.hpp"
#include "ledger.hpp"
#include "raw_client.hpp"
#include "shared_block.hpp"

#include "sys/clock.hpp"

#include <ctime>
#include <random>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u32;
using protocol::u64;

namespace {

constexpr std::int64_t kStallNs = 1500 * kMillisecondNs;  // as in the config
constexpr u64 kRing = 65536;
constexpr std::size_t kMessage = 1000;
constexpr int kCrowd = 100;

struct Scene {
    Milestone ready;
    std::atomic<u32> over{0};
    std::atomic<u32> all_published{0};  ///< after over: none follows
    std::atomic<u64> published{0};
    std::atomic<u64> received{0};
    std::atomic<u64> held{0};  ///< publishes that took most of stall_timeout
    std::atomic<std::int64_t> longest_ns{0};
};

int publisher(const std::string& address, Scene& scene) {
    const Bus bus = connect(address, "publisher");
    const Publisher out = advertise(bus, "victim", kRing);
    (void)must(ipcbus_wait_subscribers(out.get(), 2, kLongNs), "wait_subscribers");
    scene.ready.raise();
    char message[kMessage];
    for (u64 number = 1; scene.over == 0; number++) {
        fill_checked(message, sizeof(message), 1, number);
        const std::int64_t begin_ns = sys::monotonic_ns();
        (void)must(ipcbus_publish(out.get(), message, sizeof(message)), "publish");
        const std::int64_t took_ns = sys::monotonic_ns() - begin_ns;
        scene.held += took_ns > kStallNs * 3 / 4 ? 1 : 0;
        scene.longest_ns = std::max<std::int64_t>(scene.longest_ns, took_ns);
        scene.published = number;
    }
    scene.all_published = 1;
    (void)scene.ready.wait(2);  // until all have been read
    return 0;
}

int honest(const std::string& address, Scene& scene) {
    const Bus bus = connect(address, "honest");
    const Subscriber in = subscribe(bus, "victim");
    for (u64 expected = 1;; expected++) {
        const Received got = receive(in, 100 * kMillisecondNs);
        if (got.result == -ETIMEDOUT && scene.all_published != 0 &&
            scene.received == scene.published) {
            scene.ready.raise();
            return 0;
        }
        if (got.result == -ETIMEDOUT) {
            expected--;
            continue;
        }
        must_be(got.ok(), "receive: " + std::to_string(got.result));
        const auto header = read_checked(got.payload.data(), got.payload.size());
        must_be(header.has_value() && header->number == expected, "a message is missing");
        scene.received = expected;
    }
}

enum class Behaviour {
    follows,    ///< for comparison
    backwards,  ///< goes back
    ahead,      ///< is ahead of the writer
    far,        ///< is half the number space away
    noise,
    unaligned,
    begins_again,  ///< zero: "not begun"
    frozen,
    parks,  ///< with another episode and waiter each time, always asleep
    drips,  ///< one record within each stall_timeout
    again,  ///< stands still, and subscribes again and again
    crowd,  ///< many attachments that all stand still
};
constexpr Behaviour kBehaviours[] = {
    Behaviour::follows, Behaviour::backwards, Behaviour::ahead,        Behaviour::far,
    Behaviour::noise,   Behaviour::unaligned, Behaviour::begins_again, Behaviour::frozen,
    Behaviour::parks,   Behaviour::drips,     Behaviour::again,        Behaviour::crowd};
std::string name(Behaviour behaviour) {
    constexpr const char* kNames[] = {"follows", "backwards", "ahead",        "far",
                                      "noise",   "unaligned", "begins again", "frozen",
                                      "parks",   "drips",     "again",        "crowd"};
    return kNames[static_cast<int>(behaviour)];
}

class HostileReader {
public:
    explicit HostileReader(const std::string& socket_path)
        : client_(RawClient::on_bus(socket_path, "hostile")) {}

    void join() {
        subscribed_ = client_.subscribe("victim");
        take();
    }
    /// What has been told since.
    void take() {
        for (const Incoming& incoming : client_.drain()) {
            if (incoming.header.type == protocol::FrameType::attached) {
                const auto attached = decoded<protocol::Attached>(incoming);
                auto ring = sys::map_ring(incoming.fds.at(0).get(), protocol::kRingDataOffset,
                                          attached.ring_bytes, sys::Access::read_only);
                REQUIRE(ring.ok());
                ring_ = std::move(ring).value();
                slot_ = attached.slot;
                index_ = attached.index;
                cursor_ = attached.start;
                attached_ = true;
            } else if (incoming.header.type == protocol::FrameType::peer && !doorbell_) {
                const auto peer = decoded<protocol::Peer>(incoming);
                const bool both = (peer.pages & protocol::kPeerCursor) != 0;
                auto doorbell = sys::map_shared(incoming.fds.at(both ? 1 : 0).get(), 0,
                                                protocol::doorbell_bytes(peer.geometry),
                                                sys::Access::read_write);
                REQUIRE(doorbell.ok());
                doorbell_ = std::move(doorbell).value();
                geometry_ = peer.geometry;
            } else if (incoming.header.type == protocol::FrameType::ended) {
                detached_ = true;
            }
        }
    }
    void leave() { client_.unsubscribe(subscribed_); }
    [[nodiscard]] bool attached() const { return attached_; }
    [[nodiscard]] bool detached() const { return detached_; }

    /// One more of its deeds.
    void act(Behaviour behaviour) {
        const auto* header = reinterpret_cast<const protocol::RingHeader*>(ring_.header());
        const u64 newest = header->newest;
        switch (behaviour) {
        case Behaviour::follows:
            store(newest);
            return;
        case Behaviour::backwards:
            store(std::exchange(flip_, !flip_) ? newest : newest - 2 * kRing);
            return;
        case Behaviour::ahead:
            store(newest + (u64{1} << 20));
            return;
        case Behaviour::far:
            store(newest ^ u64{1} << 63);
            return;
        case Behaviour::noise:
            store(random_());
            return;
        case Behaviour::unaligned:
            // Not below where it began: that is out of range.
            if (protocol::distance(newest - 7, cursor_) > 0) {
                store(newest - 7);
            }
            return;
        case Behaviour::begins_again:
            store(std::exchange(flip_, !flip_) ? newest : 0);
            return;
        case Behaviour::parks:
            park(newest);
            return;
        case Behaviour::drips:
            drip(newest);
            return;
        case Behaviour::again:
            leave();
            join();
            return;
        case Behaviour::frozen:
        case Behaviour::crowd:
            return;
        }
    }

private:
    void store(u64 cursor) {
        slot().cursor.store(cursor, std::memory_order_release);
        slot().received = slot().lost = cursor;
    }
    protocol::CursorSlot& slot() {
        return *reinterpret_cast<protocol::CursorSlot*>(client_.cursor.data() +
                                                        protocol::slot_offset(slot_));
    }
    void park(u64 newest) {
        store(newest);
        const auto waiter = static_cast<u32>(random_() % 3 == 0 ? random_() : random_() % 4);
        slot().parked = protocol::parked_word(episode_ += 2, waiter);
        for (u32 i = 0; i < 4; i++) {
            reinterpret_cast<std::atomic<u32>*>(
                client_.cursor.data() + protocol::asleep_offset(client_.welcome.geometry, i))
                ->store(1);
        }
        reinterpret_cast<protocol::DoorbellPublication*>(
            doorbell_.data() + protocol::sleepers_offset(geometry_, index_))
            ->sleepers.store(1);
    }
    /// By one record, when a third of stall_timeout is over: the rest is for a busy machine.
    void drip(u64 newest) {
        const std::int64_t now_ns = sys::monotonic_ns();
        if (newest != 0 && now_ns - dripped_ns_ > kStallNs / 3 &&
            protocol::distance(newest, cursor_) > 0) {
            dripped_ns_ = now_ns;
            cursor_ += protocol::record_bytes(0, kMessage);
            store(cursor_);
        }
    }

    RawClient client_;
    protocol::Subscribed subscribed_;
    sys::RingMapping ring_;
    sys::Mapping doorbell_;
    protocol::Geometry geometry_;
    u32 slot_ = 0;
    u32 index_ = 0;
    u64 cursor_ = 0;
    bool attached_ = false;
    bool detached_ = false;
    bool flip_ = false;
    u64 episode_ = 1;
    std::int64_t dripped_ns_ = 0;
    std::mt19937_64 random_{1};
};

constexpr timespec kPause{0, 100'000};

/// Acts until the honest reader has received so many.
void act_until(HostileReader& hostile, Behaviour behaviour, const Scene& scene, u64 messages) {
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (scene.received < messages) {
        REQUIRE(!deadline.passed());
        hostile.act(behaviour);
        (void)::nanosleep(&kPause, nullptr);  // leaves the honest ones a CPU
    }
}

/// How many publishes such a reader may hold.
u64 held_max(Behaviour behaviour, u64 dripped) {
    switch (behaviour) {
    case Behaviour::follows:
    case Behaviour::backwards:
    case Behaviour::ahead:
    case Behaviour::far:
    case Behaviour::noise:
    case Behaviour::unaligned:
    case Behaviour::parks:
        return 0;
    case Behaviour::begins_again:
    case Behaviour::frozen:
    case Behaviour::again:
        return 1;
    case Behaviour::crowd:
        return 3;  // while they join, some are attached between a stall and its complaint
    case Behaviour::drips:
        return dripped + 1;
    }
    return 0;
}

/// Whether its cursor was out of range, which costs it the attachment.
bool out_of_range(Behaviour behaviour) {
    return behaviour == Behaviour::backwards || behaviour == Behaviour::ahead ||
           behaviour == Behaviour::far || behaviour == Behaviour::noise;
}

}  // namespace

TEST_CASE("whatever a reader says of its place, it holds its publisher once at the most") {
    for (const Behaviour behaviour : kBehaviours) {
        INFO(name(behaviour));
        DaemonFixture daemon("[publications]\nstall_timeout = \"1500ms\"\n");
        const SharedBlock<Scene> scene;
        ChildProcess out = ChildProcess::fork([&] { return publisher(daemon.address(), *scene); });
        ChildProcess in = ChildProcess::fork([&] { return honest(daemon.address(), *scene); });
        HostileReader hostile(daemon.socket_path());
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        hostile.join();
        while (!hostile.attached()) {
            REQUIRE(!deadline.passed());
            hostile.take();
        }
        for (int i = 0; behaviour == Behaviour::crowd && i < kCrowd; i++) {
            hostile.join();
        }
        REQUIRE(scene->ready.wait(1));
        u64 dripped = 0;
        if (behaviour == Behaviour::drips) {
            // A ring is filled without it, then there are five that it holds.
            dripped = kRing / protocol::record_bytes(0, kMessage) + 5;
            act_until(hostile, behaviour, *scene, dripped);
            CHECK(scene->longest_ns < 2 * kStallNs);
        } else {
            act_until(hostile, behaviour, *scene, scene->received + 2000);
        }
        const std::int64_t used_ns = cpu_ns(out.pid());
        const u64 published = scene->published;
        if (!kSanitized && behaviour != Behaviour::drips) {
            CHECK(used_ns / static_cast<std::int64_t>(published) < 100'000 * patience());
        }
        // It stops where it is, and is passed by.
        act_until(hostile, Behaviour::frozen, *scene, scene->received + 1000);
        const sys::Deadline detached = sys::Deadline::after(kLongNs);
        do {
            hostile.take();
        } while (!hostile.detached() && out_of_range(behaviour) && !detached.passed());
        CHECK(hostile.detached() == out_of_range(behaviour));
        scene->over = 1;
        CHECK(out.wait() == 0);
        CHECK(in.wait() == 0);
        CHECK(scene->received == scene->published);
        // What stands still at the end is held against it, too.
        const u64 stands = held_max(behaviour, dripped) == 0 ? 1 : 0;
        CHECK(scene->held <= held_max(behaviour, dripped) + stands);
        MESSAGE(name(behaviour), ": ", scene->held.load(), " publishes held, the longest ",
                scene->longest_ns / kMillisecondNs, " ms; ", used_ns / 1000, " us of CPU for ",
                published);
    }
}
