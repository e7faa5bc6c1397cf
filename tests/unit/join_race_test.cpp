// SPDX-License-Identifier: Apache-2.0
// Goal: whoever joins a running publication begins at the right record, loses none from there on
// and is never left asleep; whoever leaves holds nobody back; a slot may be used again. Method: a
// publisher that hardly pauses, threads that come and go, the daemon's part played by the test
// (test_publication.hpp). For ThreadSanitizer, too.
#include "protocol/join.hpp"

#include "test_publication.hpp"

#include <doctest/doctest.h>

#include <thread>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Status = RingPublisher::Status;

namespace {

/// What one thread that comes and goes has found.
struct Comings {
    u64 joins = 0;
    u64 received = 0;
    u64 late = 0;    ///< begun behind a record whose publish had not begun
    u64 early = 0;   ///< begun at a record that was finished before the join
    u64 losses = 0;  ///< reliable, and yet told of a loss
    u64 wrong = 0;
    u64 missed = 0;
};

void come_and_go(TestPublication& publication, TestReader& reader, u32 seed,
                 const sys::Deadline& deadline, Comings& ret_comings) {
    std::mt19937 random(seed);
    std::array<u64, 4> left{};  // by slot: when the writer has let go of whoever had it before
    u64 id = u64{seed} << 32;
    while (!deadline.passed()) {
        const u32 slot = random() % left.size();
        if (publication.taken() < left[slot]) {
            (void)::sched_yield();
            continue;
        }
        const bool reliable = random() % 4 != 0;
        const u64 finished = publication.finished();
        TestReader::Attached& attached = reader.attach(publication, ++id, slot, reliable);
        const u64 begun = publication.begun();
        ret_comings.joins++;
        ret_comings.early += attached.start.sequence <= finished ? 1 : 0;
        ret_comings.late += attached.start.sequence > begun + 1 ? 1 : 0;

        // A few records, or a few hundred, or none at all.
        const u64 wanted = random() % 3 == 0 ? random() % 300 : random() % 4;
        while (attached.received < wanted && !attached.closed) {
            if (!reader.look_around()) {
                (void)reader.sleep();
            }
        }
        ret_comings.received += attached.received;
        ret_comings.losses += reliable ? attached.lost : 0;
        if (attached.closed) {
            break;
        }
        left[slot] = reader.detach(attached);
    }
    ret_comings.wrong = reader.wrong();
    ret_comings.missed = reader.missed();
}

void check(const Comings& comings) {
    CHECK(comings.joins > 10);
    CHECK(comings.early == 0);
    CHECK(comings.late == 0);
    CHECK(comings.losses == 0);
    CHECK(comings.wrong == 0);
    CHECK(comings.missed == 0);
    if (thorough()) {
        MESSAGE(comings.joins, " joins, ", comings.received, " records");
    }
}

}  // namespace

TEST_SUITE_BEGIN("join_race");

TEST_CASE("joining and leaving while records are published") {
    const u32 seed = race_seed();
    CAPTURE(seed);
    for (const u64 capacity : {u64{4096}, u64{32768}}) {
        CAPTURE(capacity);
        TestReader first(0);  // their pages outlive whoever may still ring them
        TestReader second(1);
        TestPublication publication(capacity, origin_position(Origin::below_2_32, capacity));
        const sys::Deadline deadline =
            sys::Deadline::after(static_cast<i64>(race_seconds(0.7) * 1e9));
        std::array<Comings, 2> comings;
        std::atomic<u32> present{2};
        std::vector<std::thread> threads;
        for (u32 i = 0; i < 2; i++) {
            threads.emplace_back([&, i] {
                const OnCpu here(1);
                come_and_go(publication, i == 0 ? first : second, seed + i, deadline, comings[i]);
                present--;
            });
        }
        const OnCpu here(0);
        std::mt19937 random(seed + 100);
        u64 refused = 0;
        while (present.load() != 0) {
            const u64 most = random() % 20 == 0 ? capacity / 4 : 100;
            refused += publication.publish(random() % most) == Status::ok ? 0 : 1;
            if (random() % 8 == 0) {
                (void)::sched_yield();
            }
        }
        for (std::thread& thread : threads) {
            thread.join();
        }
        CHECK(refused == 0);
        CHECK(publication.faults.empty());
        check(comings[0]);
        check(comings[1]);
    }
}

TEST_CASE("joining just before the only record, again and again") {
    const u32 seed = race_seed();
    CAPTURE(seed);
    TestReader reader;
    TestPublication publication(4096);
    std::atomic<u64> round{0};
    std::atomic<u64> read{0};
    std::atomic<bool> stop{false};
    u64 left = 0;
    u64 missing = 0;
    // The reader joins while one record is being published: it gets that one, or the next.
    std::thread thread([&] {
        const OnCpu here(1);
        u64 id = 0;
        for (u64 mine = 1; !stop.load(); mine++) {
            wait_for([&] { return round.load() == mine || stop.load(); });
            wait_for([&] { return publication.taken() >= left || stop.load(); });
            if (stop.load()) {
                break;
            }
            TestReader::Attached& attached = reader.attach(publication, ++id, 0);
            const u64 until = attached.start.sequence;
            while (attached.received == 0) {
                if (!reader.look_around()) {
                    (void)reader.sleep();
                }
            }
            missing += attached.attachment.reader().expected() > until ? 0 : 1;
            left = reader.detach(attached);
            read.store(mine);
        }
    });
    const sys::Deadline deadline = sys::Deadline::after(static_cast<i64>(race_seconds(0.5) * 1e9));
    std::mt19937 random(seed);
    const OnCpu here(0);
    u64 rounds = 0;
    while (!deadline.passed()) {
        round.store(++rounds);
        for (u64 turns = random() % 100; turns != 0; turns--) {
            cpu_relax();
        }
        // Only until it has been read: each later record would heal what the first had broken.
        for (u64 count = 0; read.load() != rounds; count++) {
            (void)publication.publish(8);
            const i64 give_up_ns = sys::monotonic_ns() + (count == 0 ? 200'000 : 20'000'000);
            wait_for([&] { return read.load() == rounds || sys::monotonic_ns() > give_up_ns; });
        }
    }
    stop.store(true);
    thread.join();
    CHECK(rounds > 10);
    CHECK(missing == 0);
    CHECK(reader.wrong() == 0);
    CHECK(reader.missed() == 0);
    if (thorough()) {
        MESSAGE(rounds, " rounds");
    }
}

TEST_CASE("a reader that goes while the writer waits for it") {
    const u32 seed = race_seed();
    CAPTURE(seed);
    TestReader reader;
    TestPublication publication(4096);
    std::atomic<bool> stop{false};
    std::thread thread([&] {
        std::mt19937 random(seed);
        u64 id = 0;
        u64 left = 0;
        while (!stop.load()) {
            wait_for([&] { return publication.taken() >= left || stop.load(); });
            if (stop.load()) {
                break;
            }
            TestReader::Attached& attached = reader.attach(publication, ++id, 0);
            // It never reads. The writer fills the ring and sleeps, sooner or later.
            const u64 blocked = publication.begun();
            wait_for([&] { return publication.begun() > blocked + 100 || random() % 1000 == 0; });
            left = reader.detach(attached);
        }
    });
    const sys::Deadline deadline = sys::Deadline::after(static_cast<i64>(race_seconds(0.4) * 1e9));
    u64 refused = 0;
    i64 longest_ns = 0;
    u64 published = 0;
    while (!deadline.passed()) {
        const i64 before_ns = sys::monotonic_ns();
        refused += publication.publish(32) == Status::ok ? 0 : 1;
        longest_ns = std::max(longest_ns, sys::monotonic_ns() - before_ns);
        published++;
    }
    stop.store(true);
    thread.join();
    CHECK(refused == 0);
    CHECK(publication.faults.empty());
    CHECK(published > 1000);
    CHECK(longest_ns < 5'000'000'000);
}
