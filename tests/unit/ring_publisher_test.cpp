// SPDX-License-Identifier: Apache-2.0
// Goal: a publish into a full ring waits as long as it should and no longer, demotes who stalls and
// nobody else, takes its membership in, and wakes whom it must. Method: mostly one thread; readers
// are words set by hand, or a second thread. Times are compared with wide margins.
#include "protocol/ring_publisher.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

#include <csignal>
#include <pthread.h>
#include <sched.h>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Status = RingPublisher::Status;

namespace {

constexpr u64 kCapacity = 4096;
constexpr i64 kMs = 1'000'000;
constexpr i64 kLong = 60'000 * kMs;

struct Scene {
    explicit Scene(i64 stall_timeout_ns = kLong, Origin origin = Origin::capacity)
        : ring(kCapacity, origin),
          publisher(ring.writer(), writer.publisher_words(1, 2), stall_timeout_ns, control) {}

    Status publish(u64 bytes = 48, i64 timeout_ns = 0) {
        const Status status = publisher.reserve(record_bytes(0, bytes), timeout_ns);
        if (status == Status::ok) {
            publisher.commit(0, static_cast<u32>(bytes));
            (void)publisher.finish();
        }
        return status;
    }
    u64 fill_up() {
        u64 count = 0;
        while (count < kCapacity && publish() == Status::ok) {
            count++;
        }
        return count;
    }
    void add(u64 attachment, u32 slot) {
        publisher.readers().add(reader.entry(attachment, slot, publisher.writer().position()));
        (void)publisher.finish();
    }

    TestRing ring;
    TestClient reader;
    TestClient writer;
    QuietControl control;
    RingPublisher publisher;
};

i64 elapsed_ns(i64 since_ns) { return sys::monotonic_ns() - since_ns; }

}  // namespace

TEST_SUITE_BEGIN("ring_publisher");

TEST_CASE("without reliable readers a ring is never full") {
    Scene scene(kLong, each_origin());
    scene.publisher.readers().add(scene.reader.entry(1, 0, scene.ring.origin(), false));
    for (int i = 0; i < 1000; i++) {
        REQUIRE(scene.publish(static_cast<u64>(i)) == Status::ok);
    }
    CHECK(scene.control.faults.empty());
}

TEST_CASE("full: at once, or after the time that was given") {
    Scene scene(kLong, each_origin());
    scene.add(1, 0);
    CHECK(scene.fill_up() == (kCapacity - 16) / 64);
    CHECK(scene.publish() == Status::full);

    const i64 before_ns = sys::monotonic_ns();
    CHECK(scene.publish(48, 30 * kMs) == Status::timed_out);
    CHECK(elapsed_ns(before_ns) >= 30 * kMs);
    CHECK(elapsed_ns(before_ns) < 10'000 * kMs);
    // Nothing is wanted any more, and nobody asleep.
    CHECK(scene.ring.header().wanted.load() == 0);
    CHECK(scene.writer.asleep(1).load() % 2 == 0);
    CHECK(scene.control.looks > 0);

    // Smaller ones may still fit, and room is room.
    CHECK(scene.publish(0) == Status::ok);
    scene.reader.slot(0).cursor.store(scene.ring.origin() + 64);
    CHECK(scene.publish(0) == Status::ok);
    CHECK(scene.control.faults.empty());
}

TEST_CASE("what was committed is known before anything is waited for") {
    Scene scene;
    scene.add(1, 0);
    const u64 record = record_bytes(0, 48);
    while (scene.publisher.writer().has_room(record) ||
           scene.publisher.writer().raise(record, scene.ring.origin())) {
        scene.publisher.commit(0, 48);  // many records, no finish()
    }
    scene.reader.slot(0).parked.store(parked_word(1, 0));
    scene.writer.publication(2).sleepers.store(1);
    scene.reader.asleep(0).store(1);
    CHECK(scene.publisher.reserve(record, 0) == Status::full);
    CHECK(scene.reader.waiter(0).bell.load() == 1);
}

TEST_CASE("while blocked: wanted and asleep are there, and room is taken at once") {
    Scene scene(kLong, each_origin());
    scene.add(1, 0);
    scene.fill_up();
    const u64 needed = scene.publisher.writer().cursor_needed(record_bytes(0, 48));
    std::thread thread([&] {
        while (scene.ring.header().wanted.load() == 0) {
            std::this_thread::yield();
        }
        CHECK(scene.ring.header().wanted.load() == needed);
        while (scene.writer.asleep(1).load() % 2 == 0) {
            std::this_thread::yield();
        }
        scene.reader.slot(0).cursor.store(needed);
        full_fence();
        ring_bell(scene.writer.waiter(1).bell);
    });
    CHECK(scene.publish(48, kLong / 3) == Status::ok);
    thread.join();
    CHECK(scene.ring.header().wanted.load() == 0);
    CHECK(scene.writer.asleep(1).load() % 2 == 0);
}

TEST_CASE("room that comes at once needs nobody to be woken") {
    cpu_set_t cpus;
    REQUIRE(::sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
    if (CPU_COUNT(&cpus) < 2) {
        MESSAGE("skipped: on one CPU every wait is a sleep");
        return;
    }
    Scene scene;
    scene.add(1, 0);
    scene.fill_up();
    std::atomic<u64> freed{0};
    std::atomic<bool> over{false};
    std::thread thread([&] {
        while (!over.load()) {
            cpu_relax();
            if (const u64 needed = freed.exchange(0); needed != 0) {
                scene.reader.slot(0).cursor.store(needed);
                full_fence();
                ring_bell(scene.writer.waiter(1).bell);
            }
        }
    });
    // An episode begins and ends with each sleep. While both threads share a CPU every wait is one.
    const auto sleeps = [&] { return scene.writer.asleep(1).load() / 2; };
    u32 rounds = 0;
    for (const i64 before_ns = sys::monotonic_ns();
         sleeps() == rounds && elapsed_ns(before_ns) < kLong / 3;) {
        freed = scene.publisher.writer().cursor_needed(record_bytes(0, 48));
        REQUIRE(scene.publish(48, kLong / 3) == Status::ok);
        rounds++;
    }
    over = true;
    thread.join();
    CHECK(sleeps() < rounds);
}

TEST_CASE("many honest readers that make way one by one are not taken for malice") {
    constexpr u32 kReaders = 60;
    Scene scene;
    for (u32 slot = 0; slot < kReaders; slot++) {
        scene.add(slot + 1, slot);
    }
    scene.fill_up();
    const u64 needed = scene.publisher.writer().cursor_needed(record_bytes(0, 48));
    std::thread thread([&] {
        // Each makes way and rings when the writer has looked and sleeps again.
        for (u32 slot = 0; slot < kReaders; slot++) {
            const unsigned looks = scene.control.looks.load();
            scene.reader.slot(slot).cursor.store(needed);
            full_fence();
            ring_bell(scene.writer.waiter(1).bell);
            while (slot + 1 != kReaders && scene.control.looks.load() == looks) {
                std::this_thread::yield();
            }
        }
    });
    const i64 before_ns = sys::monotonic_ns();
    CHECK(scene.publish(48, kLong / 3) == Status::ok);
    CHECK(elapsed_ns(before_ns) < 1000 * kMs);  // with naps it would be two and a half seconds
    thread.join();
}

TEST_CASE("a bell that rings without end costs naps, not a CPU") {
    Scene scene;
    scene.add(1, 0);
    scene.fill_up();
    std::atomic<bool> stop{false};
    std::thread thread([&] {
        while (!stop.load()) {
            ring_bell(scene.writer.waiter(1).bell);
            std::this_thread::yield();
        }
    });
    const unsigned before = scene.control.looks;
    const i64 before_ns = sys::monotonic_ns();
    CHECK(scene.publish(48, 200 * kMs) == Status::timed_out);
    CHECK(elapsed_ns(before_ns) < 2000 * kMs);
    stop.store(true);
    thread.join();
    CHECK(scene.control.looks - before < 60);
}

TEST_CASE("a reader that stalls is demoted after the stall timeout, once, and holds nobody again") {
    constexpr i64 kStall = 64 * kMs;
    Scene scene(kStall, each_origin());
    scene.add(1, 0);
    scene.add(2, 1);
    scene.fill_up();
    // The second one is fast.
    scene.reader.slot(1).cursor.store(scene.publisher.writer().position());
    const i64 before_ns = sys::monotonic_ns();
    CHECK(scene.publish(48, kLong / 3) == Status::ok);
    const i64 waited_ns = elapsed_ns(before_ns);
    CHECK(waited_ns >= kStall);
    CHECK(waited_ns < 50 * kStall);
    REQUIRE(scene.control.faults.size() == 1);
    CHECK(scene.control.faults[0].attachment == 1);
    CHECK(scene.control.faults[0].complaint == Complaint::stalled);
    for (int i = 0; i < 200; i++) {
        scene.reader.slot(1).cursor.store(scene.publisher.writer().position());
        REQUIRE(scene.publish() == Status::ok);
    }
    CHECK(scene.control.faults.size() == 1);
}

TEST_CASE("a reader that moves, however little, is not demoted") {
    constexpr i64 kStall = 32 * kMs;
    Scene scene(kStall);
    scene.add(1, 0);
    scene.fill_up();
    const u64 needed = scene.publisher.writer().cursor_needed(record_bytes(0, 1000));
    std::thread thread([&] {
        // 16 bytes every 8 ms, in the end enough.
        for (u64 cursor = needed - 12 * 16; cursor != needed;) {
            cursor += 16;
            scene.reader.slot(0).cursor.store(cursor);
            const std::atomic<u32> never{0};
            (void)sys::futex_wait(never, 0, 8 * kMs);
        }
    });
    CHECK(scene.publish(1000, kLong / 3) == Status::ok);
    thread.join();
    CHECK(scene.control.faults.empty());
}

TEST_CASE("a writer that has waited for a slice asks to see each move, until there is room") {
    constexpr i64 kStall = 32 * kMs;
    Scene scene(kStall);
    scene.add(1, 0);
    scene.fill_up();
    const std::atomic<u32>& hurry = scene.ring.header().hurry;
    CHECK(hurry.load() == 0);
    std::thread thread([&] {
        while (hurry.load() == 0) {
            std::this_thread::yield();
        }
        scene.reader.slot(0).cursor.store(scene.publisher.writer().position());
        ring_bell(scene.writer.waiter(1).bell);
    });
    CHECK(scene.publish(48, kLong / 3) == Status::ok);
    thread.join();
    CHECK(hurry.load() == 0);
    CHECK(scene.control.faults.empty());
}

TEST_CASE("a hurry outlasts a wait that was in vain, and as long as somebody stands still") {
    constexpr i64 kStall = 32 * kMs;  // slices of 2 ms
    Scene scene(kStall);
    scene.add(1, 0);
    scene.fill_up();
    const u64 filled = scene.publisher.writer().position();
    const std::atomic<u32>& hurry = scene.ring.header().hurry;
    // Many short waits, each in vain; the reader moves, but is in the way all the time.
    for (u64 i = 0; i < 60; i++) {
        CHECK(scene.publish(1000, kMs) == Status::timed_out);
        CHECK(hurry.load() == (i < 2 ? hurry.load() : 1));
        if (i % 8 == 7) {
            scene.reader.slot(0).cursor.store(scene.ring.origin() + i / 8 * 16);
        }
    }
    CHECK(scene.control.faults.empty());
    // Room for one, but it has not read all: it may stand still from now on.
    scene.reader.slot(0).cursor.store(filled - 1040);
    CHECK(scene.publish(1000) == Status::ok);
    CHECK(hurry.load() == 0);  // it has moved
    CHECK(scene.control.faults.empty());
}

TEST_CASE("who waits for microseconds only finds out about stalled readers, too") {
    Scene scene(32 * kMs);
    scene.add(1, 0);
    scene.fill_up();
    const i64 before_ns = sys::monotonic_ns();
    Status status = Status::full;
    while (status != Status::ok && elapsed_ns(before_ns) < kLong / 3) {
        status = scene.publish(48, 5'000);
    }
    CHECK(status == Status::ok);
}

TEST_CASE("who does not wait finds out about stalled readers, too") {
    constexpr i64 kStall = 32 * kMs;
    Scene scene(kStall);
    scene.add(1, 0);
    scene.fill_up();
    const i64 before_ns = sys::monotonic_ns();
    while (scene.publish() == Status::full) {
        REQUIRE(elapsed_ns(before_ns) < 10'000 * kMs);
        const std::atomic<u32> never{0};
        (void)sys::futex_wait(never, 0, kMs);
    }
    // The clock it uses is coarse: a few milliseconds.
    CHECK(elapsed_ns(before_ns) >= kStall / 2);
    REQUIRE(scene.control.faults.size() == 1);
    CHECK(scene.control.faults[0].complaint == Complaint::stalled);
}

TEST_CASE("a publish that would wait for its own thread says so") {
    Scene scene;
    scene.add(1, 0);
    scene.add(2, 1);
    scene.fill_up();
    scene.control.own = 2;
    CHECK(scene.publish(48, 0) == Status::full);
    CHECK(scene.publish(48, kLong / 3) == Status::own_reader);
    CHECK(scene.ring.header().wanted.load() == 0);
    // If only others are in the way, it is no matter.
    scene.reader.slot(1).cursor.store(scene.publisher.writer().position());
    CHECK(scene.publish(48, 5 * kMs) == Status::timed_out);
}

TEST_CASE("a cursor that lies is complained about, and does not hold the ring") {
    Scene scene;
    scene.add(1, 0);
    scene.fill_up();
    scene.reader.slot(0).cursor.store(scene.publisher.writer().position() + 16);
    CHECK(scene.publish(48, kLong / 3) == Status::ok);
    REQUIRE(scene.control.faults.size() == 1);
    CHECK(scene.control.faults[0].complaint == Complaint::bad_cursor);
}

TEST_CASE("a signal ends the wait") {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    struct sigaction before {};
    REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
    Scene scene;
    scene.add(1, 0);
    scene.fill_up();
    std::atomic<bool> stop{false};
    std::thread thread([&, self = ::pthread_self()] {
        while (!stop.load()) {
            (void)::pthread_kill(self, SIGUSR1);
            std::this_thread::yield();
        }
    });
    CHECK(scene.publish(48, kLong / 3) == Status::interrupted);
    stop.store(true);
    thread.join();
    CHECK(scene.ring.header().wanted.load() == 0);
    REQUIRE(::sigaction(SIGUSR1, &before, nullptr) == 0);
}

TEST_CASE("out of memory while it waits: it wants nothing any more, and sleeps no more") {
    struct Exhausted : QuietControl {
        Heard look() override {
            attention->store(1);  // somebody joins while the writer waits
            return QuietControl::look();
        }
        Heard take_in(u64) override {
            CHECK(header->wanted.load() != 0);
            throw std::bad_alloc();
        }
        std::atomic<u64>* attention = nullptr;
        const RingHeader* header = nullptr;
    };
    const TestRing ring(kCapacity);
    const TestClient reader;
    const TestClient writer;
    Exhausted exhausted;
    exhausted.attention = &writer.mailbox(2).attention;
    exhausted.header = &ring.header();
    RingPublisher publisher(ring.writer(), writer.publisher_words(1, 2), kLong, exhausted);
    publisher.readers().add(reader.entry(1, 0, ring.origin()));
    const u64 record = record_bytes(0, 48);
    while (publisher.reserve(record, 0) == Status::ok) {
        publisher.commit(0, 48);
    }
    CHECK_THROWS_AS((void)publisher.reserve(record, kLong / 3), std::bad_alloc);
    CHECK(exhausted.looks > 0);
    CHECK(ring.header().wanted.load() == 0);
    CHECK(writer.asleep(1).load() != 0);
    CHECK(writer.asleep(1).load() % 2 == 0);
}

TEST_CASE("attention is taken in by every publish, also when the daemon is gone") {
    Scene scene;
    CHECK(scene.publish() == Status::ok);
    CHECK(scene.control.taken_in == 0);
    scene.writer.mailbox(2).attention.store(3);
    CHECK(scene.publish() == Status::ok);
    // QuietControl says that the daemon has hung up: asked in the raise, or in the finish.
    CHECK(scene.control.taken_in > 0);
    CHECK(scene.publisher.taken() == 3);
    const unsigned asked = scene.control.taken_in;
    CHECK(scene.publish() == Status::ok);
    CHECK(scene.control.taken_in == asked);
}

TEST_CASE("a reader that is taken in is looked for before the publish returns") {
    struct Joining : QuietControl {
        Heard take_in(u64 number) override {
            publisher->readers().add(entry);
            publisher->set_taken(number);
            return Heard::something;
        }
        RingPublisher* publisher = nullptr;
        ReaderEntry entry;
    };
    const TestRing ring(kCapacity);
    const TestClient reader;
    const TestClient writer;
    Joining joining;
    RingPublisher publisher(ring.writer(), writer.publisher_words(1, 2), kLong, joining);
    joining.publisher = &publisher;
    joining.entry = reader.entry(9, 0, ring.origin());
    // It joined and fell asleep; the flag it set has been taken by a round that did not know it.
    reader.slot(0).parked.store(parked_word(1, 0));
    reader.asleep(0).store(1);
    writer.publication(2).sleepers.store(0);
    REQUIRE(publisher.reserve(16, 0) == Status::ok);
    publisher.commit(0, 0);
    writer.mailbox(2).attention.store(1);
    (void)publisher.finish();
    CHECK(reader.waiter(0).bell.load() == 1);
    CHECK_FALSE(publisher.readers().round_due());
    CHECK(publisher.taken() == 1);
}

TEST_CASE("closing wakes who sleeps") {
    Scene scene;
    scene.add(1, 0);
    scene.reader.slot(0).parked.store(parked_word(1, 3));
    scene.reader.asleep(3).store(5);
    scene.writer.publication(2).sleepers.store(1);
    scene.publisher.close();
    CHECK(scene.reader.waiter(3).bell.load() == 1);
    CHECK(scene.reader.waiter(3).summary.load() == 1);
    RingReader reader = scene.ring.reader();
    Record record;
    CHECK(reader.look(record) == RingReader::Look::closed);
}

TEST_CASE("a writer that nobody sleeps on leaves its fences out, until somebody does") {
    if (!sys::register_for_barriers() || !sys::barrier_everywhere()) {
        MESSAGE("membarrier is refused here");
        return;
    }
    Scene scene;
    const auto publish = [&](int count) {
        for (int i = 0; i < count; i++) {
            REQUIRE(scene.publish() == Status::ok);
            scene.reader.slot(0).cursor.store(scene.publisher.writer().position());
        }
    };
    scene.add(1, 0);
    const std::atomic<u32>& unfenced = scene.publisher.writer().header().unfenced;
    publish(1000);
    CHECK(unfenced.load() == 0);
    // Somebody sleeps: the count begins anew.
    scene.reader.slot(0).parked.store(parked_word(1, 0));
    scene.reader.asleep(0).store(1);
    scene.writer.publication(2).sleepers.store(1);
    publish(1000);
    CHECK(scene.reader.waiter(0).bell.load() == 1);
    CHECK(unfenced.load() == 0);
    publish(100);
    CHECK(unfenced.load() == 1);
    scene.reader.slot(0).parked.store(parked_word(3, 0));
    scene.writer.publication(2).sleepers.store(1);
    publish(1);
    CHECK(scene.reader.waiter(0).bell.load() == 2);
    CHECK(unfenced.load() == 0);
}
