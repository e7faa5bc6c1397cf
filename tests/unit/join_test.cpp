// SPDX-License-Identifier: Apache-2.0
// Goal: a reader that joins begins at the end of the newest record, always with the margin that
// protects it; a ring that lies is refused, and nothing in it is believed. Method: one thread.
#include "protocol/join.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Resync = RingReader::Resync;

namespace {

constexpr u64 kCapacity = 4096;

bool settle(const TestRing& ring, Start& ret_start, u64 history = 0) {
    return settle_start(ring.header(), ring.data(), ring.capacity(), ring.record_max(),
                        {ring.origin(), ring.first_sequence()}, history, ret_start);
}

u64 lowest(const TestRing& ring) {
    return ring.header().announced.load() - ring.capacity() +
           raise_max(ring.capacity(), ring.record_max());
}

/// Where the oldest history begins: the first mark at or above the margin.
u64 oldest(const TestRing& ring, const Start& now) {
    u64 found = now.position;
    for (const auto& mark : ring.header().marks) {
        const u64 position = mark.load();
        if (position != 0 && distance(position, lowest(ring)) >= 0 &&
            distance(found, position) > 0) {
            found = position;
        }
    }
    return found;
}

constexpr u64 kAll = ~u64{0};

/// [R9], a few records at a time.
Resync pass(RingReader& reader, u64& ret_lost) {
    Resync result = Resync::on_the_way;
    for (u64 steps = 0; result == Resync::on_the_way; steps++) {
        REQUIRE(steps <= kCapacity / 16);
        result = reader.pass_to_expected(1 + steps % 7, ret_lost);
    }
    return result;
}

}  // namespace

TEST_SUITE_BEGIN("join");

TEST_CASE("a ring without a record is joined at its first") {
    const TestRing ring(kCapacity, origin_position(each_origin(), kCapacity), 77);
    Start start;
    REQUIRE(settle(ring, start));
    CHECK(start.position == ring.origin());
    CHECK(start.sequence == 77);
}

TEST_CASE("the start is the end of the newest record, and never near what may be overwritten") {
    std::mt19937 random(race_seed());
    const Origin origin = each_origin();
    for (const u64 record_max : {u64{16}, u64{272}, record_bytes_max(kCapacity)}) {
        const TestRing ring(kCapacity, origin_position(origin, kCapacity), 1, record_max);
        RingWriter writer = ring.writer();
        u64 cursor = ring.origin();
        unsigned wrong = 0;
        for (int i = 0; i < 20000; i++) {
            const u64 payload = random() % (record_max - 15);
            if (!publish(writer, payload, cursor)) {
                // A reliable reader makes just enough room, or all there is.
                cursor = random() % 2 == 0 ? writer.position()
                                           : writer.cursor_needed(record_bytes(0, payload));
                continue;
            }
            Start start;
            const bool good = settle(ring, start) && start.position == writer.position() &&
                              start.sequence == writer.sequence() &&
                              distance(start.position, lowest(ring)) >= 0;
            wrong += good ? 0 : 1;
        }
        CHECK(wrong == 0);
    }
}

TEST_CASE("a ring may be joined however far its positions have come") {
    // Claims that are committed unwritten move a position by a quarter of the ring in no time.
    for (const u64 origin : {u64{1} << 62, (u64{1} << 63) + 8192, u64{0} - 8192}) {
        const TestRing ring(kCapacity, origin, 1'000'001);
        RingWriter writer = ring.writer();
        for (int i = 0; i < 120; i++) {
            publish_over(writer, 48);
            Start start;
            REQUIRE(settle_start(ring.header(), ring.data(), kCapacity, ring.record_max(),
                                 {kCapacity, 1}, 0, start));
            CHECK(start.position == writer.position());
        }
    }
}

TEST_CASE("a start that has just been settled survives what the writer may do unseen") {
    // The writer raises once, as far as it can, and writes all of it, before it knows the reader.
    std::mt19937 random(race_seed());
    const Origin origin = each_origin();
    for (int round = 0; round < 2000; round++) {
        const TestRing ring(kCapacity, origin_position(origin, kCapacity) + random() % 256 * 16);
        RingWriter writer = ring.writer();
        for (u64 count = random() % 30; count != 0; count--) {
            publish_over(writer, random() % (random() % 3 == 0 ? 1250 : 100));
        }
        Start start;
        REQUIRE(settle(ring, start));
        const RingReader reader(ring.readable(), start.position, start.sequence);
        unsigned raises = 0;
        while (raises < 2) {
            const u64 payload = random() % (random() % 2 == 0 ? 1280 : 60);
            const u64 bytes = record_bytes(0, payload);
            if (!writer.has_room(bytes)) {
                if (raises++ == 1) {
                    break;
                }
                REQUIRE(writer.raise(bytes, writer.position()));
            }
            writer.commit(0, static_cast<u32>(payload));
        }
        CHECK(reader.intact(start.position));
    }
}

TEST_CASE("a newest record at position 0, where the positions wrap, is not taken for none") {
    const TestRing ring(kCapacity, u64{0} - 512, 5);
    RingWriter writer = ring.writer();
    for (int i = 0; i < 40; i++) {
        publish_over(writer, 16);
        Start start;
        REQUIRE(settle(ring, start));
        CHECK(start.position == writer.position());
        CHECK(start.sequence == writer.sequence());
        RingReader latest = ring.reader();
        u64 passed = 0;
        CHECK(latest.go_to_newest(passed) == (i == 0 ? Resync::again : Resync::done));
        CHECK(latest.position() == writer.position() - 32);
    }
    // Nothing but a record in the ring makes it one: not what the payload of one has there.
    const TestRing lying(kCapacity, u64{0} - 512, 5);
    lying.header().newest.store(0);
    lying.header().announced.store(16);
    lying.record_at(0).word.store(0);
    Start start;
    CHECK_FALSE(settle(lying, start));
}

TEST_CASE("a ring without a record is joined at its first, whatever its first is just writing") {
    // The payload begins behind the header at the capacity, and is of any bytes.
    const TestRing ring(kCapacity, kCapacity, 5);
    RingWriter writer = ring.writer();
    REQUIRE(writer.raise(record_bytes_max(kCapacity), writer.position()));
    for (const u64 word : {record_word(100, 0, 0), ~u64{0}, u64{1}}) {
        for (u64 place = 16; place < 1024; place += 16) {
            ring.record_at(kCapacity + place).word.store(word);
            ring.record_at(kCapacity + place).sequence.store(6);
        }
        Start start;
        REQUIRE(settle(ring, start));
        CHECK(start.position == kCapacity);
        CHECK(start.sequence == 5);
        u64 passed = 0;
        RingReader reader = ring.reader();
        CHECK(reader.go_to_newest(passed) == Resync::again);
        CHECK(reader.position() == kCapacity);
    }
}

TEST_CASE("rings that cannot be true are refused") {
    const TestRing ring(kCapacity, origin_position(each_origin(), kCapacity), 5);
    RingWriter writer = ring.writer();
    for (int i = 0; i < 200; i++) {
        publish_over(writer, 100);
    }
    Start start{1, 2};
    REQUIRE(settle(ring, start));
    start = {1, 2};
    RingHeader& header = ring.header();
    const u64 newest = header.newest.load();
    const u64 announced = header.announced.load();

    for (const u64 lie : {newest + 8, newest + 1, announced + 16, announced + (u64{1} << 40),
                          announced - kCapacity - 16, newest + (u64{1} << 63), u64{8}}) {
        CAPTURE(lie - newest);
        header.newest.store(lie);
        CHECK_FALSE(settle(ring, start));
    }
    header.newest.store(0);  // "no record yet", though the first place is long gone
    CHECK_FALSE(settle(ring, start));
    header.newest.store(newest);

    for (const u64 lie : {newest + kCapacity + 16, newest + (u64{1} << 50), newest - 16, u64{0},
                          newest + (u64{1} << 63)}) {
        CAPTURE(lie - newest);
        header.announced.store(lie);
        CHECK_FALSE(settle(ring, start));
    }
    header.announced.store(announced);

    RecordHeader& record = ring.record_at(newest);
    const u64 word = record.word.load();
    for (const u64 lie : {u64{0}, u64{100}, record_word(1297, 0, 0), record_word(~u32{0}, 0, 0),
                          record_word(1280, 1, 0), record_word(0, 0xffff, 0)}) {
        record.word.store(lie);
        CHECK_FALSE(settle(ring, start));
    }
    record.word.store(word);

    RecordHeader& end = ring.record_at(writer.position());
    const u64 sequence = end.sequence.load();
    const u64 most = 5 + (writer.position() - ring.origin()) / 16;
    for (const u64 lie : {u64{4}, u64{0}, ~u64{0}, most + 1, u64{1} << 63}) {
        end.sequence.store(lie);
        CHECK_FALSE(settle(ring, start));
    }
    CHECK(start.position == 1);
    CHECK(start.sequence == 2);
    end.sequence.store(most);
    CHECK(settle(ring, start));
    end.sequence.store(sequence);
    CHECK(settle(ring, start));
}

TEST_CASE("noise: whatever is answered keeps the margin and stays in the ring") {
    std::mt19937_64 random(race_seed());
    const TestRing ring(kCapacity, origin_position(each_origin(), kCapacity), 5);
    RingHeader& header = ring.header();
    unsigned taken = 0;
    for (int i = 0; i < 200000; i++) {
        const u64 place = ring.origin() + random() % 1000 * 16;
        header.announced.store(random() % 16 == 0 ? random() : place + random() % 5000);
        header.newest.store(random() % 16 == 0 ? random() : place);
        RecordHeader& record = ring.record_at(place);
        record.word.store(random() % 4 == 0
                              ? random()
                              : record_word(static_cast<u32>(random() % 1400), 0, 0));
        record.sequence.store(random() % 20);
        ring.record_at(ring.origin() + random() % 256 * 16).sequence.store(random() % 20);
        Start start;
        if (settle(ring, start)) {
            taken++;
            CHECK(start.position % 16 == 0);
            CHECK(distance(start.position, lowest(ring)) >= 0);
            const bool near = distance(start.position, header.announced.load()) <=
                              static_cast<i64>(ring.record_max());
            CHECK((near || start.position == ring.origin()));
            CHECK(distance(start.sequence, 5) >= 0);
        }
    }
    CHECK(taken > 1000);
}

TEST_CASE("history begins at a mark before what is wanted, and not near what may be overwritten") {
    std::mt19937 random(race_seed());
    const Origin origin = each_origin();
    for (const u64 record_max : {u64{16}, u64{272}, record_bytes_max(kCapacity)}) {
        const TestRing ring(kCapacity, origin_position(origin, kCapacity), 1, record_max);
        RingWriter writer = ring.writer();
        u64 wrong = 0;
        u64 reached = 0;
        for (int i = 0; i < 20000; i++) {
            publish_over(writer, random() % (record_max - 15));
            const u64 history = random() % 4 == 0 ? kAll : random() % 100 + 1;
            Start start;
            Start now;
            if (!settle(ring, now) || !settle(ring, start, history)) {
                wrong++;
                continue;
            }
            const u64 all = now.sequence - ring.first_sequence();
            const u64 wanted = now.sequence - std::min(history, all);
            // What is wanted, or as near to it as the ring goes back.
            RingReader reader(ring.readable(), start.position, start.sequence);
            u64 lost = 0;
            const bool good = distance(start.position, lowest(ring)) >= 0 &&
                              distance(now.position, start.position) >= 0 &&
                              distance(start.sequence, wanted) >= 0 &&
                              pass(reader, lost) == Resync::done &&
                              lost == 0 && reader.expected() == start.sequence;
            Record record;
            u64 read = 0;
            while (good && reader.look(record) == RingReader::Look::record &&
                   reader.intact(record.position)) {
                reader.advance(record);
                read++;
            }
            reached = std::max(reached, now.position - start.position);
            wrong += good && reader.position() == writer.position() &&
                             read == now.sequence - start.sequence &&
                             (start.sequence == wanted || start.position == oldest(ring, now))
                         ? 0
                         : 1;
        }
        CHECK(wrong == 0);
        CHECK(reached >= kCapacity / 2);
    }
}

TEST_CASE("marks that lie give no history that is not there, and no start beyond the margin") {
    std::mt19937_64 random(race_seed());
    const TestRing ring(kCapacity, origin_position(each_origin(), kCapacity), 5);
    RingWriter writer = ring.writer();
    for (int i = 0; i < 200; i++) {
        publish_over(writer, 100);
    }
    for (int i = 0; i < 100000; i++) {
        auto& mark = ring.header().marks[random() % kMarks];
        mark.store(random() % 4 == 0 ? random() : writer.position() - random() % 5000);
        ring.record_at(writer.position() - random() % 256 * 16).sequence.store(random() % 300);
        Start start;
        if (settle(ring, start, random() % 3 == 0 ? kAll : random() % 200)) {
            REQUIRE(start.position % 16 == 0);
            REQUIRE(distance(start.position, lowest(ring)) >= 0);
            REQUIRE(distance(writer.position(), start.position) >= 0);
            RingReader reader(ring.readable(), start.position, start.sequence);
            u64 lost = 0;
            if (pass(reader, lost) == Resync::done) {
                REQUIRE(lost <= kCapacity / 16);
                REQUIRE(distance(reader.position(), start.position) >= 0);
            }
        }
    }
}

TEST_CASE("a reader with history that is overtaken before its first look misses what is gone") {
    std::mt19937 random(race_seed());
    const Origin origin = each_origin();
    u64 behind = 0;
    for (int round = 0; round < 2000; round++) {
        const TestRing ring(kCapacity, origin_position(origin, kCapacity));
        RingWriter writer = ring.writer();
        const auto publish_some = [&](u64 count) {
            for (u64 n = 0; n < count; n++) {
                publish_over(writer, random() % 100);
            }
        };
        publish_some(random() % 300);
        Start start;
        REQUIRE(settle(ring, start, random() % 4 == 0 ? kAll : random() % 60 + 1));
        RingReader reader(ring.readable(), start.position, start.sequence);
        u64 lost = 0;
        if (random() % 2 == 0) {  // overtaken on the way, too
            (void)reader.pass_to_expected(random() % 5, lost);
        }
        publish_some(random() % 3 == 0 ? random() % 5000 : random() % 100);
        const bool overtaken = !reader.intact(reader.position());
        const u64 wanted = reader.expected();
        lost = 0;
        REQUIRE(pass(reader, lost) == Resync::done);
        CHECK(reader.expected() == wanted + lost);
        CHECK(overtaken == (lost != 0));
        behind += lost > kCapacity / 16 ? 1 : 0;
        // All that is left, to the end.
        Record record;
        u64 read = 0;
        while (reader.look(record) == RingReader::Look::record) {
            REQUIRE(is_filled(record.payload, record.sequence, record.payload_bytes));
            reader.advance(record);
            read++;
        }
        CHECK(reader.position() == writer.position());
        CHECK(read + lost == writer.sequence() - wanted);
    }
    CHECK(behind > 100);
}
