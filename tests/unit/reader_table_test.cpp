// SPDX-License-Identifier: Apache-2.0
// Goal: whose cursors hold a writer back, whom a round rings and how often, who is accused of what:
// also when the words in the readers' pages are lies. Method: one thread, the words set by hand.
#include "protocol/reader_table.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;

namespace {

constexpr u64 kStart = 4096;

/// One client with reliable attachments 1 and 2 in slots 5 and 70, waiter 0 and 2.
struct Scene {
    Scene() {
        table.add(reader.entry(1, 5, kStart));
        table.add(reader.entry(2, 70, kStart));
        (void)table.wake(publication);  // the round that two joins make due
    }
    void park(u32 slot, u64 episode, u32 waiter) const {
        reader.slot(slot).parked.store(parked_word(episode, waiter));
        publication.sleepers.store(1);
    }
    [[nodiscard]] u32 bell(u32 waiter) const { return reader.waiter(waiter).bell.load(); }

    TestClient reader{Geometry{4, 4, 128}};
    TestClient writer;
    DoorbellPublication& publication = writer.publication(0);
    ReaderTable table;
};

}  // namespace

TEST_SUITE_BEGIN("reader_table");

TEST_CASE("members are added once and removed by their id") {
    const TestClient reader;
    ReaderTable table;
    CHECK(table.size() == 0);
    CHECK_FALSE(table.round_due());
    table.add(reader.entry(7, 0, kStart));
    CHECK(table.round_due());
    table.add(reader.entry(7, 1, kStart));
    CHECK(table.size() == 1);
    CHECK(table.contains(7));
    table.add(reader.entry(8, 0, kStart));
    table.remove(9);
    CHECK(table.size() == 2);
    table.remove(7);
    CHECK(table.size() == 1);
    CHECK_FALSE(table.contains(7));
    CHECK(table.contains(8));
}

TEST_CASE("the smallest cursor is that of the slowest reliable reader") {
    Scene scene;
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart);
    scene.reader.slot(5).cursor.store(kStart + 160);
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart);  // the other has not begun
    scene.reader.slot(70).cursor.store(kStart + 320);
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 160);
    scene.table.add(scene.reader.entry(3, 9, kStart, false));  // lossy: nobody waits for it
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 160);
    CHECK(scene.table.smallest_cursor(kStart + 320) == kStart + 160);
    scene.table.remove(1);
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 320);
    // A slot that is zeroed again (its reader is going): what was believed last.
    scene.reader.slot(70).cursor.store(0);
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 320);
    scene.table.remove(2);
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 1000);
    CHECK(scene.table.faults().empty());
}

TEST_CASE("cursors are compared across the wrap of positions") {
    const TestClient reader;
    ReaderTable table;
    const u64 before = u64{0} - 32;
    table.add(reader.entry(1, 0, before));
    table.add(reader.entry(2, 1, before));
    reader.slot(0).cursor.store(64);
    reader.slot(1).cursor.store(u64{0} - 16);
    CHECK(table.smallest_cursor(128) == u64{0} - 16);
    reader.slot(1).cursor.store(16);
    CHECK(table.smallest_cursor(128) == 16);
    CHECK(table.faults().empty());
    unsigned below = 0;
    table.holders(32, [&](u64 attachment) { below += attachment == 2 ? 1 : 100; });
    CHECK(below == 1);
}

TEST_CASE("a cursor that cannot be: accused once, and counted no more") {
    for (const u64 lie : {kStart - 16, kStart + 1016, kStart + (u64{1} << 63), u64{1}, ~u64{0}}) {
        CAPTURE(lie);
        Scene scene;
        scene.reader.slot(70).cursor.store(kStart + 320);
        scene.reader.slot(5).cursor.store(lie);
        CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 320);
        REQUIRE(scene.table.faults().size() == 1);
        CHECK(scene.table.faults()[0].attachment == 1);
        CHECK(scene.table.faults()[0].complaint == Complaint::bad_cursor);
        // It is a lossy reader from now on, whatever it says.
        scene.reader.slot(5).cursor.store(kStart);
        CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 320);
        CHECK(scene.table.faults().size() == 1);
        scene.park(5, 1, 0);
        scene.reader.asleep(0).store(1);
        CHECK(scene.table.wake(scene.publication));
        CHECK(scene.bell(0) == 1);  // and is rung like any other
    }
}

TEST_CASE("going back, after it had been believed, is a lie, too") {
    Scene scene;
    scene.reader.slot(5).cursor.store(kStart + 320);
    scene.reader.slot(70).cursor.store(kStart + 640);
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 320);
    scene.reader.slot(5).cursor.store(kStart + 304);
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart + 640);
    CHECK(scene.table.faults().size() == 1);
}

TEST_CASE("moves are counted") {
    Scene scene;
    (void)scene.table.smallest_cursor(kStart + 1000);
    const u64 moves = scene.table.moves();
    (void)scene.table.smallest_cursor(kStart + 1000);
    CHECK(scene.table.moves() == moves);
    scene.reader.slot(5).cursor.store(kStart + 160);
    (void)scene.table.smallest_cursor(kStart + 1000);
    CHECK(scene.table.moves() == moves + 1);
}

constexpr u32 kSlices = 16;
constexpr u64 kPosition = kStart + 1000;

/// One more slice for a writer at kPosition. True if somebody was demoted.
bool slice(Scene& scene, u64 needed, u64 own = 0) {
    const std::size_t before = scene.table.faults().size();
    (void)scene.table.smallest_cursor(kPosition);
    scene.table.stall(needed, kPosition, kSlices,
                      [own](u64 attachment) { return attachment == own; });
    return scene.table.faults().size() != before;
}

TEST_CASE("who stands still for all slices is demoted, once") {
    Scene scene;
    const u64 needed = kStart + 100;
    scene.table.add(scene.reader.entry(3, 9, kStart));
    scene.reader.slot(70).cursor.store(kPosition);  // has read everything
    for (u32 i = 0; i < kSlices - 1; i++) {
        // Attachment 3 moves on the eighth, to a place where it still is in the way.
        if (i == 8) {
            scene.reader.slot(9).cursor.store(kStart + 16);
        }
        CHECK_FALSE(slice(scene, needed));
    }
    CHECK(slice(scene, needed));
    REQUIRE(scene.table.faults().size() == 1);
    CHECK(scene.table.faults()[0].attachment == 1);
    CHECK(scene.table.faults()[0].complaint == Complaint::stalled);
    CHECK(scene.table.smallest_cursor(kPosition) == kStart + 16);
    u32 more = 0;
    while (!slice(scene, needed)) {
        more++;
        REQUIRE(more < 100);
    }
    // Its slices began anew when it moved.
    CHECK(more == 8);
    REQUIRE(scene.table.faults().size() == 2);
    CHECK(scene.table.faults()[1].attachment == 3);
    for (u32 i = 0; i < 3 * kSlices; i++) {
        CHECK_FALSE(slice(scene, needed));
    }
    CHECK(scene.table.faults().size() == 2);
    CHECK(scene.table.smallest_cursor(kPosition) == kPosition);
}

TEST_CASE("of a client that stands still nothing is left to hold the writer in turn") {
    Scene scene;  // attachment 1, at slot 5: in the way; all others further on
    TestClient another;
    scene.table.remove(2);
    scene.table.add(scene.reader.entry(2, 70, kStart + 160));
    scene.table.add(scene.reader.entry(3, 9, kStart + 320));
    scene.table.add(scene.reader.entry(4, 10, kStart + 320));
    scene.table.add(another.entry(5, 0, kStart + 160));
    const u64 needed = kStart + 100;
    for (u32 i = 0; i < kSlices - 1; i++) {
        if (i == 4) {  // attachment 3 moves: it is slow and has not stopped
            scene.reader.slot(9).cursor.store(kStart + 336);
        }
        CHECK_FALSE(slice(scene, needed, 4));
    }
    CHECK(slice(scene, needed, 4));
    // Not 4, which the writer's own thread reads; nor 5, which another client does: it may be held
    // up by the same one.
    REQUIRE(scene.table.faults().size() == 2);
    CHECK(scene.table.faults()[0].attachment == 1);
    CHECK(scene.table.faults()[1].attachment == 2);
    CHECK(scene.table.smallest_cursor(kPosition) == kStart + 160);
}

TEST_CASE("slices begin when each move is to be seen, and are forgotten with a move") {
    Scene scene;
    scene.table.remove(2);
    const u64 needed = kStart + 100;
    for (u32 i = 0; i < kSlices - 1; i++) {
        CHECK_FALSE(slice(scene, needed));
    }
    CHECK_FALSE(scene.table.all_move(kPosition));
    scene.table.begin_slices();
    CHECK(scene.table.all_move(kPosition));
    for (u32 i = 0; i < kSlices - 1; i++) {
        CHECK_FALSE(slice(scene, needed));
    }
    scene.reader.slot(5).cursor.store(kStart + 16);
    (void)scene.table.smallest_cursor(kPosition);
    CHECK(scene.table.all_move(kPosition));
    for (u32 i = 0; i < kSlices - 1; i++) {
        CHECK_FALSE(slice(scene, needed));
    }
    CHECK(slice(scene, needed));
}

TEST_CASE("who has read everything does not stand still") {
    Scene scene;
    scene.reader.slot(70).cursor.store(kPosition);
    for (u32 i = 0; i < 100; i++) {
        (void)slice(scene, kPosition);
    }
    REQUIRE(scene.table.faults().size() == 1);
    CHECK(scene.table.faults()[0].attachment == 1);
}

TEST_CASE("one that drips is never demoted") {
    Scene scene;
    scene.table.remove(2);
    u64 cursor = kStart;
    for (u32 i = 0; i < 500; i++) {
        if (i % 15 == 0) {
            scene.reader.slot(5).cursor.store(cursor += 16);
        }
        CHECK_FALSE(slice(scene, kStart + 900));
    }
}

TEST_CASE("addressed records: a reader holds from the first to it on, until it has read the last") {
    Scene scene;
    scene.table.set_addressed();
    const u64 end = kStart + 1000;
    CHECK(scene.table.smallest_cursor(end) == end);  // nothing is to anybody yet
    scene.table.address(2, kStart + 160, kStart + 320);
    scene.table.address(1, kStart + 320, kStart + 480);
    scene.table.address(2, kStart + 480, kStart + 640);
    scene.table.address(3, kStart + 640, kStart + 800);  // who is that?
    CHECK(scene.table.smallest_cursor(end) == kStart + 160);
    scene.reader.slot(70).cursor.store(kStart + 320);
    CHECK(scene.table.smallest_cursor(end) == kStart + 320);  // both hold there
    scene.reader.slot(5).cursor.store(kStart + 480);
    CHECK(scene.table.smallest_cursor(end) == kStart + 320);
    scene.reader.slot(70).cursor.store(kStart + 640);
    CHECK(scene.table.smallest_cursor(end) == end);
    // Who has been overtaken counts from what is to it now.
    const u64 far = kStart + 100'000;
    scene.table.address(0, far, far + 160);
    CHECK(scene.table.smallest_cursor(far + 500) == far);
    scene.reader.slot(70).cursor.store(far + 160);
    CHECK(scene.table.smallest_cursor(far + 500) == far);
    scene.reader.slot(5).cursor.store(far + 170);
    CHECK(scene.table.smallest_cursor(far + 500) == far + 500);
    CHECK(scene.table.faults().empty());
    // One that joins owes nothing that was said before, whatever its start.
    scene.table.add(scene.reader.entry(4, 9, kStart));
    CHECK(scene.table.smallest_cursor(far + 500) == far + 500);
}

TEST_CASE("addressed records: what the writer waits for is the first that may be out of the way") {
    Scene scene;
    scene.table.set_addressed();
    const u64 needed = kStart + 1000;
    scene.table.address(1, kStart, kStart + 160);
    scene.table.address(2, kStart + 160, kStart + 320);
    CHECK(scene.table.wanted(needed) == kStart + 160);
    CHECK(scene.table.wanted(kStart + 100) == kStart + 100);
    scene.reader.slot(5).cursor.store(kStart + 160);
    (void)scene.table.smallest_cursor(needed);
    CHECK(scene.table.wanted(needed) == kStart + 320);
    std::vector<u64> holders;
    scene.table.holders(needed, [&](u64 attachment) { holders.push_back(attachment); });
    CHECK(holders == std::vector<u64>{2});
    scene.table.address(1, needed, needed + 160);  // that far it holds nobody
    CHECK(scene.table.wanted(needed) == kStart + 320);
    // Plain records: as ever.
    const Scene plain;
    CHECK(plain.table.wanted(needed) == needed);
}

TEST_CASE("addressed records: only who has something to read stands still; what it loses is told") {
    Scene scene;
    scene.table.set_addressed();
    const u64 end = kStart + 1000;
    scene.table.address(2, kStart, kStart + 160);
    const auto is_own = [](u64) { return false; };
    scene.table.begin_slices();
    for (int i = 0; i < 3; i++) {
        (void)scene.table.smallest_cursor(end);
        scene.table.stall(end, end, 3, is_own);
    }
    REQUIRE(scene.table.faults().size() == 1);
    CHECK(scene.table.faults()[0].attachment == 2);
    CHECK(scene.table.smallest_cursor(end) == end);
    struct Told {
        u64 attachment, from, to;
        bool operator==(const Told&) const = default;
    };
    std::vector<Told> told;
    const auto overtaken = [&](u64 floor, u64 kept) {
        scene.table.look_before(floor, end);
        scene.table.overtaken(floor, kept, [&](u64 attachment, u64 from, u64 to) {
            told.push_back({attachment, from, to});
        });
    };
    overtaken(kStart, kStart);
    CHECK(told.empty());
    overtaken(kStart + 16, kStart + 256);
    CHECK(told == std::vector<Told>{{2, kStart, kStart + 256}});
    overtaken(kStart + 100, kStart + 256);
    CHECK(told.size() == 1);
    // What it has read meanwhile, unseen, is not lost; nor is what a reliable one has not read.
    scene.table.address(0, kStart + 256, kStart + 480);
    scene.reader.slot(70).cursor.store(kStart + 480);
    overtaken(kStart + 400, kStart + 512);
    CHECK(told.size() == 1);
    // Of what is to it only what begins before the first part that is whole. The rest, later.
    scene.table.address(2, kStart + 512, kStart + 600);
    scene.table.address(2, kStart + 768, kStart + 900);
    overtaken(kStart + 600, kStart + 768);
    REQUIRE(told.size() == 2);
    CHECK(told[1] == Told{2, kStart + 512, kStart + 768});
    overtaken(kStart + 768, kStart + 768);
    CHECK(told.size() == 2);
    // A cursor that has passed over what is gone says nothing once that is known.
    scene.table.look_before(kStart + 784, end);
    scene.reader.slot(70).cursor.store(kStart + 990);
    scene.table.overtaken(kStart + 784, kStart + 1024, [&](u64 attachment, u64 from, u64 to) {
        told.push_back({attachment, from, to});
    });
    REQUIRE(told.size() == 3);
    CHECK(told[2] == Told{2, kStart + 768, kStart + 1024});
}

TEST_CASE("addressed records: who creeps below its hold stands still") {
    Scene scene;
    scene.table.set_addressed();
    scene.table.remove(1);
    const u64 part = kPosition - 256;
    scene.table.address(2, part, kPosition);
    scene.table.begin_slices();
    u64 cursor = kStart;
    const u64 moves = scene.table.moves();
    u32 slices = 0;
    for (bool demoted = false; !demoted; slices++) {
        REQUIRE(slices < kSlices);
        scene.reader.slot(70).cursor.store(cursor += 16);
        if (slices % 2 != 0) {
            scene.table.address(2, kPosition, kPosition);  // looked at there, too
        }
        demoted = slice(scene, kPosition);
    }
    CHECK(slices == kSlices);
    CHECK(scene.table.moves() == moves);
    REQUIRE(scene.table.faults().size() == 1);
    CHECK(scene.table.faults()[0].complaint == Complaint::stalled);
    // From the hold on each move is one, also that which comes there.
    Scene other;
    other.table.set_addressed();
    other.table.remove(1);
    other.table.address(2, part, kPosition);
    other.table.begin_slices();
    for (u32 i = 0; i < 3 * kSlices; i++) {
        if (i % (kSlices - 1) == 0) {
            other.reader.slot(70).cursor.store(part + u64{i} / (kSlices - 1) * 16);
        }
        CHECK_FALSE(slice(other, kPosition));
    }
}

TEST_CASE("a hold begins before the record, and the smallest cursor known is none any more") {
    Scene scene;
    scene.table.set_addressed();
    const u64 end = kStart + 1000;
    CHECK(scene.table.smallest_cursor(end) == end);
    const u64 before = scene.table.changes();
    scene.table.address(1, kStart + 768, end);
    CHECK(scene.table.changes() != before);
    CHECK(scene.table.smallest_cursor(end) == kStart + 768);
    // It owes already: the hold stays where it is.
    const u64 begun = scene.table.changes();
    scene.table.address(1, kStart + 1024, end + 100);
    CHECK(scene.table.changes() == begun);
    CHECK(scene.table.smallest_cursor(end + 100) == kStart + 768);
    // It has read all that is to it, which nobody has looked at yet: a new hold.
    scene.reader.slot(5).cursor.store(end + 100);
    scene.table.address(1, kStart + 1280, end + 400);
    CHECK(scene.table.changes() != begun);
    CHECK(scene.table.smallest_cursor(end + 400) == kStart + 1280);
    // A cursor beyond the writer is not believed, but held against it.
    scene.reader.slot(5).cursor.store(end + 4096);
    scene.table.address(1, kStart + 1536, end + 500);
    (void)scene.table.smallest_cursor(end + 500);
    REQUIRE(scene.table.faults().size() == 1);
    CHECK(scene.table.faults()[0].complaint == Complaint::bad_cursor);
}

TEST_CASE("a round: nobody sleeps, nobody is rung") {
    Scene scene;
    CHECK_FALSE(scene.table.wake(scene.publication));
    scene.park(5, 2, 0);  // an even episode: polled
    CHECK(scene.table.wake(scene.publication));
    CHECK(scene.publication.sleepers.load() == 0);
    CHECK(scene.reader.waiter(0).summary.load() == 0);
    CHECK(scene.bell(0) == 0);
}

TEST_CASE("a round: bit, summary, and the bell of who is asleep; once an episode") {
    Scene scene;
    scene.park(70, 1, 2);
    CHECK(scene.table.wake(scene.publication));
    // Parked, but awake: it will find the bit before it sleeps.
    CHECK(scene.reader.waiter(2).activity[1].load() == u64{1} << 6);
    CHECK(scene.reader.waiter(2).summary.load() == 2);
    CHECK(scene.bell(2) == 0);
    CHECK(scene.publication.sleepers.load() == 0);

    // The same episode again, also asleep, also with its bits taken: not again.
    scene.reader.waiter(2).summary.store(0);
    scene.reader.waiter(2).activity[1].store(0);
    scene.reader.asleep(2).store(1);
    scene.publication.sleepers.store(1);
    CHECK(scene.table.wake(scene.publication));
    CHECK(scene.reader.waiter(2).summary.load() == 0);
    CHECK(scene.bell(2) == 0);

    // A new one.
    scene.park(70, 3, 2);
    CHECK(scene.table.wake(scene.publication));
    CHECK(scene.reader.waiter(2).summary.load() == 2);
    CHECK(scene.bell(2) == 1);
    // Another waiter in the same episode is another word, too.
    scene.park(70, 3, 1);
    scene.reader.asleep(1).store(7);
    CHECK(scene.table.wake(scene.publication));
    CHECK(scene.bell(1) == 1);
    CHECK(scene.bell(0) == 0);
}

TEST_CASE("a round looks at everybody, also at who set no sleepers") {
    Scene scene;
    scene.reader.slot(5).parked.store(parked_word(1, 0));
    scene.park(70, 1, 0);
    scene.reader.asleep(0).store(1);
    CHECK(scene.table.wake(scene.publication));
    CHECK(scene.reader.waiter(0).summary.load() == 3);
    CHECK(scene.bell(0) == 2);
}

TEST_CASE("a waiter that does not exist is nobody's memory") {
    Scene scene;
    for (const u32 number : {4u, 5u, 0xffffu}) {
        scene.park(5, 1 + 2 * u64{number}, number);
        CHECK(scene.table.wake(scene.publication));
    }
    for (u32 number = 0; number < 4; number++) {
        CHECK(scene.reader.waiter(number).summary.load() == 0);
        CHECK(scene.bell(number) == 0);
    }
}

TEST_CASE("a new attachment in a slot used before is not mistaken for the old one") {
    Scene scene;
    scene.park(5, 1, 0);
    scene.reader.asleep(0).store(1);
    CHECK(scene.table.wake(scene.publication));
    CHECK(scene.bell(0) == 1);
    scene.table.remove(1);
    scene.reader.slot(5).parked.store(0);
    scene.reader.slot(5).cursor.store(0);
    scene.table.add(scene.reader.entry(3, 5, kStart + 160));
    CHECK(scene.table.round_due());
    CHECK(scene.table.smallest_cursor(kStart + 1000) == kStart);
    // Parked before the writer knew it, with an episode of the same number.
    scene.reader.slot(5).parked.store(parked_word(1, 0));
    CHECK(scene.table.wake(scene.publication));
    CHECK(scene.bell(0) == 2);
    CHECK_FALSE(scene.table.round_due());
}
