// SPDX-License-Identifier: Apache-2.0
// Goal: what is told of a ring and of a cursor is exact for honest writers and readers, also while
// the writer laps whoever looks; and nothing is told of what cannot be true. Method: one thread
// over a ring, lies written into its words; and one writer thread beside one that looks.
#include "protocol/ring_figures.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

#include <thread>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;

namespace {

constexpr u64 kCapacity = 4096;

RingFigures look(const TestRing& ring) {
    return look_at_ring(ring.header(), ring.data(), ring.capacity(), ring.record_max(),
                        {ring.origin(), ring.first_sequence()});
}

Behind behind(const TestRing& ring, u64 cursor) {
    return look_behind(&ring.header(), ring.data(), ring.capacity(), look(ring), ring.origin(),
                       cursor);
}

/// Not at position 0, where `newest` says for one record that there is none.
Origin origin_beside_0() {
    Origin origin = Origin::capacity;
    SUBCASE("from the capacity") { origin = Origin::capacity; }
    SUBCASE("over 2^32") { origin = Origin::below_2_32; }
    return origin;
}

}  // namespace

TEST_SUITE_BEGIN("ring_figures");

TEST_CASE("messages and bytes are exact, for many laps") {
    const TestRing ring(kCapacity, origin_position(origin_beside_0(), kCapacity), 77);
    RingWriter writer = ring.writer();
    RingFigures figures = look(ring);
    CHECK(figures.believable);
    CHECK(figures.position == ring.origin());
    CHECK(figures.sequence == 77);
    for (u64 i = 0; i < 1000; i++) {
        publish_over(writer, i * 7 % 900);
        figures = look(ring);
        REQUIRE(figures.believable);
        REQUIRE(figures.position == writer.position());
        REQUIRE(figures.sequence == 77 + i + 1);
    }
    writer.close();
    CHECK(look(ring).sequence == 1077);
}

TEST_CASE("lag is exact, until the writer has overtaken the cursor") {
    const TestRing ring(kCapacity, origin_position(origin_beside_0(), kCapacity), 5);
    RingWriter writer = ring.writer();
    CHECK(behind(ring, ring.origin()).believable);
    CHECK(behind(ring, ring.origin()).bytes == 0);
    CHECK(behind(ring, ring.origin()).counted);
    publish_over(writer, 100);
    const u64 cursor = writer.position();
    for (u64 i = 1; i <= 20; i++) {
        publish_over(writer, 20);
        const Behind now = behind(ring, cursor);
        REQUIRE(now.believable);
        REQUIRE(now.counted);
        REQUIRE_FALSE(now.overtaken);
        REQUIRE(now.bytes == i * record_bytes(0, 20));
        REQUIRE(now.messages == i);
    }
    while (distance(ring.header().announced.load() - kCapacity, cursor) <= 0) {
        publish_over(writer, 20);
    }
    const Behind now = behind(ring, cursor);
    CHECK(now.believable);
    CHECK(now.overtaken);
    CHECK_FALSE(now.counted);
    CHECK(now.messages == 0);
    CHECK(now.bytes == writer.position() - cursor);
    // Of a ring that is no longer mapped only bytes are known.
    const Behind after =
        look_behind(nullptr, nullptr, kCapacity, look(ring), ring.origin(), cursor);
    CHECK(after.believable);
    CHECK(after.bytes == now.bytes);
    CHECK_FALSE(after.counted);
}

TEST_CASE("cursors that cannot be are told of as nothing") {
    const TestRing ring(kCapacity);
    RingWriter writer = ring.writer();
    for (int i = 0; i < 10; i++) {
        publish_over(writer, 48);
    }
    const u64 end = writer.position();
    for (const u64 cursor : {end + 16, end + kCapacity, ~u64{0}, u64{16}, ring.origin() - 16,
                             end - 8, end + (u64{1} << 63), u64{1}}) {
        CAPTURE(cursor);
        const Behind lie = behind(ring, cursor);
        CHECK_FALSE(lie.believable);
        CHECK_FALSE(lie.counted);
        CHECK(lie.bytes == 0);
        CHECK(lie.messages == 0);
    }
    // Between two records: how many messages that would be is not made up.
    const Behind inside = behind(ring, end - 32);
    CHECK(inside.believable);
    CHECK(inside.bytes == 32);
    CHECK_FALSE(inside.counted);
    CHECK(inside.messages == 0);
}

TEST_CASE("a ring that lies is not believed") {
    const TestRing ring(kCapacity, kCapacity, 5);
    RingWriter writer = ring.writer();
    for (int i = 0; i < 10; i++) {
        publish_over(writer, 48);
    }
    RingHeader& header = ring.header();
    const u64 newest = header.newest.load();
    const u64 announced = header.announced.load();
    REQUIRE(look(ring).believable);

    SUBCASE("newest is no boundary") { header.newest.store(newest + 8); }
    SUBCASE("newest was not announced") { header.newest.store(announced + 16); }
    SUBCASE("newest is far ahead") { header.newest.store(newest + (u64{1} << 62)); }
    SUBCASE("newest is far behind: overtaken for ever") { header.newest.store(16); }
    SUBCASE("announced is far ahead: the same") { header.announced.store(announced + kCapacity); }
    SUBCASE("announced is behind") { header.announced.store(newest - 16); }
    SUBCASE("the record is not there") { ring.record_at(newest).word.store(0); }
    SUBCASE("the record is too long") {
        ring.record_at(newest).word.store(record_word(0xffffffff, 0xffff, 0));
    }
    SUBCASE("more messages than fit") {
        ring.record_at(writer.position()).sequence.store(5 + 10 * 4 + 1);
    }
    SUBCASE("the sequence runs backwards") { ring.record_at(writer.position()).sequence.store(4); }
    CHECK_FALSE(look(ring).believable);
    CHECK(look(ring).position == 0);
}

TEST_CASE("any noise at all is looked at within the mapping, in bounded time") {
    const TestRing ring(kCapacity);
    std::mt19937_64 random(race_seed());
    for (int i = 0; i < 20000; i++) {
        ring.header().newest.store(random() & (random() % 2 != 0 ? ~u64{15} : 0x3fff));
        ring.header().announced.store(random() % 3 == 0 ? random() : random() & 0x7fff);
        for (u64 at = 0; at < kCapacity; at += 512) {
            ring.record_at(at).word.store(random());
            ring.record_at(at).sequence.store(random());
        }
        const Behind lag = behind(ring, random() & 0x7fff);
        CHECK(lag.bytes <= u64{1} << 63);
        CHECK(lag.messages <= lag.bytes / 16);
    }
}

TEST_CASE("beside a writer that laps whoever looks, figures only grow") {
    const TestRing ring(kCapacity);
    std::atomic<bool> over{false};
    std::thread other([&] {
        RingWriter writer = ring.writer();
        while (!over.load()) {
            publish_over(writer, writer.sequence() * 13 % 500);
        }
    });
    RingFigures last{ring.origin(), ring.first_sequence(), true};
    u64 believed = 0;
    const sys::Deadline end = sys::Deadline::after(static_cast<i64>(race_seconds(0.3) * 1e9));
    while (!end.passed() || believed == 0) {
        const RingFigures now = look(ring);
        if (!now.believable) {
            continue;  // overtaken each time
        }
        believed++;
        const u64 messages = now.sequence - last.sequence;
        const u64 bytes = now.position - last.position;
        // Each record has its own length, so a torn pair would show.
        if (static_cast<i64>(messages) < 0 || static_cast<i64>(bytes) < 0 ||
            bytes < 16 * messages || bytes > record_bytes(0, 500) * messages) {
            over.store(true);
            other.join();
            FAIL("torn: ", messages, " messages in ", bytes, " bytes");
        }
        last = now;
    }
    over.store(true);
    other.join();
}

TEST_SUITE_END();
