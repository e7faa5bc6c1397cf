// SPDX-License-Identifier: Apache-2.0
// Goal: no wake-up is lost, on either side, whatever the timing: a reader that sleeps is rung for
// each record that it could not see, a writer that blocks is rung for the room it waits for. And
// what arrives is exact. Method: real threads on small rings, readers that never spin. Sleeps are
// bounded, so a lost wake-up is counted where it happens (test_publication.hpp), not waited for.
// IPCBUS_TEST_SECONDS and IPCBUS_TEST_SEED make them longer and other. For ThreadSanitizer, too.
#include "protocol/waiter.hpp"

#include "test_publication.hpp"

#include <doctest/doctest.h>

#include <thread>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Status = RingPublisher::Status;

// How much a race test did, when somebody asks for a thorough one.
#define TELL(...)                   \
    if (test::thorough()) {         \
        MESSAGE(__VA_ARGS__);       \
    }                               \
    static_cast<void>(0)

namespace {

sys::Deadline until(double seconds) {
    return sys::Deadline::after(static_cast<i64>(race_seconds(seconds) * 1e9));
}

/// A thread per reader; each reads until all its rings are closed.
class RacingReaders {
public:
    explicit RacingReaders(u32 count) {
        for (u32 i = 0; i < count; i++) {
            readers_.push_back(std::make_unique<TestReader>(i));
        }
    }
    [[nodiscard]] std::size_t size() const { return readers_.size(); }
    TestReader& operator[](std::size_t i) { return *readers_[i]; }
    /// All on one CPU, which is not the publisher's if that says OnCpu(0).
    void start(u32 looks_max = 0) {
        for (const auto& reader : readers_) {
            threads_.emplace_back([&reader, looks_max] {
                const OnCpu here(1);
                reader->run(looks_max);
            });
        }
    }
    void finish() {
        for (std::thread& thread : threads_) {
            thread.join();
        }
        threads_.clear();
    }
    u64 sleeps() {
        u64 all = 0;
        for (const auto& reader : readers_) {
            all += reader->waiter().sleeps();
        }
        return all;
    }

private:
    std::vector<std::unique_ptr<TestReader>> readers_;
    std::vector<std::thread> threads_;
};

void delay(u64 turns) {
    for (; turns != 0; turns--) {
        cpu_relax();
    }
}

/// The same in steps of less than a nanosecond: what a missing fence breaks, it breaks within the
/// time that a store takes to reach the other CPU.
void short_delay(u64 turns) {
    for (; turns != 0; turns--) {
        __asm__ __volatile__("" ::: "memory");
    }
}

}  // namespace

TEST_SUITE_BEGIN("wake_race");

TEST_CASE("a blocking publisher and sleeping readers: all, once, in order, nobody overslept") {
    struct Setting {
        u64 capacity;
        u32 readers;
        u64 payload_max;
        Origin origin;
    };
    const u32 seed = race_seed();
    CAPTURE(seed);
    for (const Setting& setting : {Setting{4096, 1, 64, Origin::capacity},
                                   Setting{4096, 4, 1000, Origin::below_2_32},
                                   Setting{16384, 2, 200, Origin::below_2_64},
                                   Setting{65536, 3, 300, Origin::below_2_32}}) {
        CAPTURE(setting.capacity);
        std::mt19937 random(seed);
        TestPublication publication(setting.capacity,
                                    origin_position(setting.origin, setting.capacity));
        RacingReaders readers(setting.readers);
        for (u32 i = 0; i < setting.readers; i++) {
            readers[i].attach(publication, i + 1, i);
        }
        readers.start();
        const OnCpu here(0);
        const sys::Deadline deadline = until(0.4);
        u64 published = 0;
        u64 refused = 0;
        while (published < 200'000 && (published % 64 != 0 || !deadline.passed())) {
            // Now and then many records share one fence; now and then there is a pause.
            u64 batch = random() % 16 == 0 ? random() % 20 : 1;
            for (; batch != 0; batch--, published++) {
                const Status status =
                    publication.prepare(random() % setting.payload_max, kPatienceNs);
                refused += status == Status::ok ? 0 : 1;
            }
            publication.finish();
            if (random() % 256 == 0) {
                delay(random() % 2000);
            }
        }
        publication.publisher().close();
        readers.finish();
        for (std::size_t i = 0; i < readers.size(); i++) {
            CHECK(readers[i].attached()[0]->received == published);
            CHECK(readers[i].attached()[0]->lost == 0);
            CHECK(readers[i].wrong() == 0);
            CHECK(readers[i].missed() == 0);
        }
        CHECK(publication.lost_rings() == 0);
        CHECK(publication.faults.empty());
        CHECK(refused == 0);
        TELL(published, " records, ", readers.sleeps(), " sleeps, blocked ",
                publication.blocked_looks());
    }
}

TEST_CASE("one record, then silence until it has been read: the writer says nothing twice") {
    const u32 seed = race_seed();
    CAPTURE(seed);
    for (const u32 count : {1u, 2u}) {
        std::mt19937 random(seed);
        TestPublication publication(4096);
        RacingReaders readers(count);
        std::vector<const TestReader::Attached*> attached;
        for (u32 i = 0; i < count; i++) {
            attached.push_back(&readers[i].attach(publication, i + 1, i));
        }
        // They go to sleep just about when the next record comes, or a little before or after.
        readers.start(40);
        const OnCpu here(0);
        const sys::Deadline deadline = until(0.6);
        u64 published = 0;
        u64 late = 0;
        while (!deadline.passed()) {
            const u64 turns = random() % (random() % 16 == 0 ? 20000 : 1500);
            published += publication.publish(random() % 40) == Status::ok ? 1 : 0;
            for (const TestReader::Attached* reader : attached) {
                late += wait_for([&] { return reader->last.load() == published; }) ? 0 : 1;
            }
            short_delay(turns);
        }
        publication.publisher().close();
        readers.finish();
        CHECK(late == 0);
        for (std::size_t i = 0; i < readers.size(); i++) {
            CHECK(readers[i].attached()[0]->received == published);
            CHECK(readers[i].wrong() == 0);
            CHECK(readers[i].missed() == 0);
        }
        TELL(published, " records, ", readers.sleeps(), " sleeps");
    }
}

TEST_CASE("lossy readers: received and lost add up, and nobody oversleeps") {
    const u32 seed = race_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    TestPublication publication(8192, origin_position(Origin::below_2_32, 8192));
    RacingReaders readers(3);
    for (u32 i = 0; i < 3; i++) {
        readers[i].attach(publication, i + 1, i, i == 2);
    }
    std::vector<std::thread> threads;
    for (u32 i = 0; i < 3; i++) {
        threads.emplace_back([&, i] {
            std::mt19937 own(seed + i);
            while (readers[i].open() != 0) {
                if (!readers[i].look_around()) {
                    (void)readers[i].sleep();
                }
                if (i < 2) {
                    delay(own() % 200);  // slow enough to be lapped
                }
            }
        });
    }
    const sys::Deadline deadline = until(0.7);
    u64 published = 0;
    for (u32 turn = 0; turn % 64 != 0 || !deadline.passed(); turn++) {
        const u64 large = random() % 16 == 0 ? 2000 : 60;
        published += publication.publish(random() % large) == Status::ok ? 1 : 0;
        if (random() % 500 == 0) {
            std::this_thread::yield();
        }
    }
    publication.publisher().close();
    for (std::thread& thread : threads) {
        thread.join();
    }
    for (std::size_t i = 0; i < 3; i++) {
        const TestReader::Attached& attached = *readers[i].attached()[0];
        CHECK(attached.received + attached.lost == published);
        CHECK(readers[i].wrong() == 0);
        CHECK(readers[i].missed() == 0);
        TELL("received ", attached.received, " lost ", attached.lost);
    }
    CHECK(readers[2].attached()[0]->lost == 0);
    CHECK(publication.lost_rings() == 0);
}

TEST_CASE("several rings, one waiter: parked one by one while awake, and all for sleep") {
    const u32 seed = race_seed();
    CAPTURE(seed);
    constexpr u32 kRings = 6;
    std::vector<std::unique_ptr<TestPublication>> publications;
    for (u32 i = 0; i < kRings; i++) {
        publications.push_back(std::make_unique<TestPublication>(4096));
    }
    RacingReaders readers(2);
    for (u32 reader = 0; reader < 2; reader++) {
        for (u32 i = 0; i < kRings; i++) {
            readers[reader].attach(*publications[i], reader + 1, i);
        }
    }
    const sys::Deadline deadline = until(1.0);
    std::atomic<u64> parked_awake{0};
    std::vector<std::thread> threads;
    for (u32 reader = 0; reader < 2; reader++) {
        threads.emplace_back([&, reader] {
            std::mt19937 own(seed + 10 + reader);
            while (readers[reader].open() != 0) {
                if (!readers[reader].look_around()) {
                    (void)readers[reader].sleep();
                } else if (Attachment* attachment = readers[reader].source().turn();
                           attachment != nullptr && own() % 2 == 0) {
                    readers[reader].waiter().park(*attachment);
                    parked_awake++;
                }
            }
        });
    }
    // Two publishing threads, each with half of the rings.
    std::vector<u64> published(kRings);
    const auto publish_half = [&](u32 half) {
        std::mt19937 random(seed + half);
        for (u32 turn = 0; turn % 16 != 0 || !deadline.passed(); turn++) {
            const u32 ring = half * (kRings / 2) + random() % (kRings / 2);
            for (u64 burst = 1 + random() % 4; burst != 0; burst--) {
                if (publications[ring]->publish(random() % 100) == Status::ok) {
                    published[ring]++;
                }
            }
            delay(random() % 300);
        }
        for (u32 i = 0; i < kRings / 2; i++) {
            publications[half * (kRings / 2) + i]->publisher().close();
        }
    };
    std::thread second(publish_half, 1);
    publish_half(0);
    second.join();
    for (std::thread& thread : threads) {
        thread.join();
    }
    u64 all = 0;
    for (u32 i = 0; i < kRings; i++) {
        for (u32 reader = 0; reader < 2; reader++) {
            CHECK(readers[reader].attached()[i]->received == published[i]);
        }
        CHECK(publications[i]->lost_rings() == 0);
        all += published[i];
    }
    CHECK(readers[0].missed() == 0);
    CHECK(readers[1].missed() == 0);
    CHECK(readers[0].wrong() + readers[1].wrong() == 0);
    CHECK(parked_awake.load() > 0);
    TELL(all, " records, ", readers.sleeps(), " sleeps, ", parked_awake.load(),
            " parked while awake");
}

TEST_CASE("a doorbell under attack: the reader naps, and gets everything all the same") {
    const u32 seed = race_seed();
    CAPTURE(seed);
    TestPublication publication(4096);
    RacingReaders readers(1);
    readers[0].attach(publication, 1, 0);
    std::atomic<bool> stop{false};
    std::thread attacker([&] {
        std::mt19937_64 random(seed);
        DoorbellWaiter& waiter = readers[0].pages().waiter(0);
        while (!stop.load(std::memory_order_relaxed)) {
            for (auto& word : waiter.activity) {
                word.store(~u64{0}, std::memory_order_relaxed);
            }
            waiter.summary.store(random() % 4 == 0 ? 0 : ~u64{0}, std::memory_order_relaxed);
            publication.pages().publication(0).sleepers.store(static_cast<u32>(random() % 2),
                                                              std::memory_order_relaxed);
            ring_bell(waiter.bell);
            ring_bell(publication.pages().waiter(0).bell);
            delay(20);
        }
    });
    readers.start();
    const sys::Deadline deadline = until(0.5);
    std::mt19937 random(seed);
    u64 published = 0;
    while (!deadline.passed()) {
        published += publication.publish(random() % 100) == Status::ok ? 1 : 0;
    }
    publication.publisher().close();
    readers.finish();
    stop.store(true);
    attacker.join();
    CHECK(readers[0].attached()[0]->received == published);
    CHECK(readers[0].attached()[0]->lost == 0);
    CHECK(readers[0].wrong() == 0);
    CHECK(published > 100);
}
