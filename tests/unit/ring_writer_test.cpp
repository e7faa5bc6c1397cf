// SPDX-License-Identifier: Apache-2.0
// Goal: every size of record at every place of the ring is written whole and ends in a terminator;
// the writer never reaches the bytes of the slowest reader; announced, marks and newest say what
// layout.hpp says. Method: one thread, small rings, also where positions pass 2^32 and 2^64.
#include "protocol/ring_writer.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

#include <array>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Look = RingReader::Look;

namespace {

constexpr u64 kCapacity = 4096;

/// Publishes and reads filler until the writer stands at `offset` of the ring.
void go_to_offset(RingWriter& writer, RingReader& reader, u64 offset) {
    for (;;) {
        const u64 left = (offset - writer.position()) & (writer.capacity() - 1);
        if (left == 0) {
            return;
        }
        const u64 bytes = std::min(left, writer.record_bytes_limit());
        REQUIRE((writer.has_room(bytes) || writer.raise(bytes, writer.position())));
        writer.commit(0, static_cast<u32>(bytes - kRecordHeaderBytes));
        Record record;
        REQUIRE(reader.look(record) == Look::record);
        reader.advance(record);
    }
}

}  // namespace

TEST_SUITE_BEGIN("ring_writer");

TEST_CASE("every size at every place, there and back") {
    const Origin origin = each_origin();
    const TestRing ring(kCapacity, origin);
    RingWriter writer = ring.writer();
    RingReader reader = ring.reader();
    Record record;
    std::vector<std::byte> payload;
    unsigned wrong = 0;
    for (u64 offset = 0; offset < kCapacity; offset += kRecordAlignment) {
        for (u64 blocks = offset / 16 % 3; record_bytes(0, blocks * 16) <= ring.record_max();
             blocks += 3) {
            for (const u64 more : {u64{0}, u64{1}, u64{15}}) {
                const u64 bytes = blocks * 16 + more;
                if (record_bytes(0, bytes) > ring.record_max()) {
                    continue;
                }
                go_to_offset(writer, reader, offset);
                const u64 sequence = writer.sequence();
                publish_over(writer, bytes);
                const bool good = receive(reader, record, payload) == Look::record &&
                                  record.sequence == sequence && payload.size() == bytes &&
                                  record.topic_bytes == 0 &&
                                  is_filled(payload.data(), sequence, bytes) &&
                                  reader.position() == writer.position() &&
                                  reader.look(record) == Look::empty;
                wrong += good ? 0 : 1;
            }
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("topics of every length, beside payloads of every alignment") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    RingReader reader = ring.reader();
    unsigned wrong = 0;
    for (u64 topic = 0; topic <= kTopicBytesMax; topic++) {
        for (const u64 bytes : {u64{0}, u64{1}, u64{16}, u64{33}, payload_bytes_max(kCapacity)}) {
            const u64 sequence = writer.sequence();
            const u64 position = writer.position();
            REQUIRE(publish(writer, bytes, writer.position(), topic));
            Record record;
            const bool good = reader.look(record) == Look::record && record.topic_bytes == topic &&
                              record.payload_bytes == bytes && record.sequence == sequence &&
                              record.position == position &&
                              record.next == position + record_bytes(topic, bytes) &&
                              reinterpret_cast<std::uintptr_t>(record.payload) % 16 == 0 &&
                              is_filled(record.topic, sequence, topic) &&
                              is_filled(record.payload, sequence, bytes);
            wrong += good ? 0 : 1;
            reader.advance(record);
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("a full ring leaves room for the terminator, at every place and for every size") {
    const Origin origin = each_origin();
    const u64 base = origin_position(origin, kCapacity);
    std::vector<u64> records{16, 32, 48, 64, 80, 128, 240, 256, 272, 512, 1008, 1024};
    records.push_back(record_bytes_max(kCapacity));
    for (u64 place = 0; place < kCapacity; place += kRecordAlignment) {
        const TestRing ring(kCapacity, base + place);
        for (const u64 bytes : records) {
            RingWriter::format(ring.writable(), ring.origin(), 1, 7, ring.record_max());
            RingWriter writer = ring.writer();
            u64 written = 0;
            while (written < kCapacity &&
                   publish(writer, bytes - kRecordHeaderBytes, ring.origin())) {
                written++;
            }
            // As many as fit with a terminator behind them, and not one more.
            CHECK(written == (kCapacity - kRecordHeaderBytes) / bytes);
            CHECK(distance(ring.origin() + kCapacity, writer.position() + 16) >= 0);
            CHECK(distance(ring.origin() + kCapacity, writer.announced()) >= 0);
            // The reader that has consumed nothing finds all of them, and the end.
            RingReader reader = ring.reader();
            Record record;
            u64 read = 0;
            while (read < written && reader.look(record) == Look::record) {
                CHECK(record.payload_bytes == bytes - kRecordHeaderBytes);
                reader.advance(record);
                read++;
            }
            CHECK(read == written);
            CHECK(reader.look(record) == Look::empty);
            // One record read is room for one record more.
            CHECK(publish(writer, bytes - kRecordHeaderBytes, ring.origin() + bytes));
        }
    }
}

TEST_CASE("announced is raised by strides, never beyond the smallest cursor + capacity") {
    std::mt19937 random(race_seed());
    const Origin origin = each_origin();
    for (const u64 capacity : {u64{4096}, u64{16384}}) {
        const TestRing ring(capacity, origin);
        RingWriter writer = ring.writer();
        CHECK(writer.announced() == ring.origin() + 16);
        CHECK_FALSE(writer.has_room(16));
        u64 smallest = ring.origin();
        unsigned refused = 0;
        for (int i = 0; i < 20000; i++) {
            const u64 payload = random() % (random() % 8 == 0 ? ring.record_max() - 15 : 100);
            const u64 bytes = record_bytes(0, payload);
            const u64 needed = writer.position() + bytes + 16;
            const u64 before = writer.announced();
            const u64 limit = smallest + capacity;
            CHECK(writer.cursor_needed(bytes) == needed - capacity);
            if (!writer.has_room(bytes)) {
                CHECK(distance(needed, before) > 0);
                const bool raised = writer.raise(bytes, smallest);
                CHECK(raised == (distance(limit, needed) >= 0));
                if (raised) {
                    u64 expected = before + capacity / 16;
                    expected = distance(expected, needed) < 0 ? needed : expected;
                    expected = distance(expected, limit) > 0 ? limit : expected;
                    CHECK(writer.announced() == expected);
                    CHECK(writer.announced() - before <= raise_max(capacity, ring.record_max()));
                } else {
                    CHECK(writer.announced() == before);
                    refused++;
                    // The cursor that was asked for is just enough.
                    CHECK(distance(writer.cursor_needed(bytes), smallest) > 0);
                    smallest = writer.cursor_needed(bytes);
                    CHECK(writer.raise(bytes, smallest));
                }
                CHECK(ring.header().announced.load() == writer.announced());
            }
            CHECK(writer.has_room(bytes));
            writer.commit(0, static_cast<u32>(payload));
            if (random() % 40 == 0) {
                // The reader goes on, anywhere up to the writer.
                smallest += (random() % ((writer.position() - smallest) / 16 + 1)) * 16;
            }
        }
        CHECK(refused > 100);
    }
}

TEST_CASE("raise never lowers what has been announced") {
    const TestRing ring(kCapacity);
    RingWriter writer = ring.writer();
    REQUIRE(writer.raise(16, writer.position()));
    const u64 announced = writer.announced();
    REQUIRE(writer.has_room(16));
    CHECK(writer.raise(16, writer.position() - kCapacity));
    CHECK(writer.announced() == announced);
    CHECK_FALSE(writer.raise(1024, writer.position() - kCapacity));
    CHECK(writer.announced() == announced);
}

TEST_CASE("a claim: scribbled on, committed smaller or not at all") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    RingReader reader = ring.reader();
    Record record;
    std::vector<std::byte> payload;
    std::mt19937 random(race_seed());
    const u64 claimed_max = ring.record_max() - kRecordHeaderBytes;
    for (int i = 0; i < 3000; i++) {
        const u64 claimed = random() % (claimed_max + 1);
        const u64 bytes = record_bytes(0, claimed);
        REQUIRE((writer.has_room(bytes) || writer.raise(bytes, reader.position())));
        for (u64 at = 0; at < claimed; at++) {
            writer.payload(0)[at] = std::byte{0xff};
        }
        CHECK(reader.look(record) == Look::empty);
        CHECK_FALSE(reader.news());
        if (random() % 4 == 0) {
            continue;  // aborted: the header before it still is zero, and the next claim is here
        }
        const u64 used = random() % (claimed + 1);
        const u64 sequence = writer.sequence();
        fill(writer.payload(0), sequence, used);
        writer.commit(0, static_cast<u32>(used));
        CHECK(receive(reader, record, payload) == Look::record);
        CHECK(record.sequence == sequence);
        CHECK(payload.size() == used);
        CHECK(is_filled(payload.data(), sequence, used));
        CHECK(reader.look(record) == Look::empty);
    }
}

TEST_CASE("newest and the marks name records") {
    const Origin origin = each_origin();
    const TestRing ring(kCapacity, origin);
    RingWriter writer = ring.writer();
    CHECK(ring.header().newest.load() == (origin == Origin::capacity ? 0 : ring.origin() - 16));
    std::mt19937 random(race_seed());
    std::array<u64, kMarks> expected{};  // a sixteenth without a boundary keeps its old mark
    u64 last_part = ~u64{0};
    for (int i = 0; i < 5000; i++) {
        const u64 position = writer.position();
        const u64 part = position / (kCapacity / 16);
        if (part != last_part) {
            expected[part % kMarks] = position;
            last_part = part;
        }
        publish_over(writer, random() % (random() % 6 == 0 ? 1200 : 60));
        CHECK(ring.header().newest.load() == position);
        bool same = true;
        for (u64 mark = 0; mark < kMarks; mark++) {
            same = same && ring.header().marks[mark].load() == expected[mark];
        }
        CHECK(same);
    }
}

TEST_CASE("a ring that is full to the brim can be closed") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    u64 written = 0;
    while (written < kCapacity && publish(writer, 0, ring.origin())) {
        written++;
    }
    CHECK(written == kCapacity / 16 - 1);
    writer.close();
    RingReader reader = ring.reader();
    Record record;
    while (reader.look(record) == Look::record) {
        reader.advance(record);
        written--;
    }
    CHECK(written == 0);
    CHECK(reader.look(record) == Look::closed);
    CHECK(reader.news());
}
