// SPDX-License-Identifier: Apache-2.0
// Goal: a reader gets every record once and in order, or is told exactly how many it lost, at once,
// also if nothing more is ever published. Method: one thread that plays writer and reader in turns,
// small rings, also where positions pass 2^32 and 2^64.
#include "protocol/ring_reader.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

#include <array>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Look = RingReader::Look;
using Resync = RingReader::Resync;

namespace {

constexpr u64 kCapacity = 4096;

/// Publishes one record of `bytes` zero bytes.
void publish_zeros(RingWriter& writer, u64 bytes) {
    const u64 record = record_bytes(0, bytes);
    REQUIRE((writer.has_room(record) || writer.raise(record, writer.position())));
    std::memset(writer.payload(0), 0, bytes);
    writer.commit(0, static_cast<u32>(bytes));
}

/// The first boundaries in each sixteenth of the ring, as layout.hpp has them.
class Marks {
public:
    void published(u64 position) {
        if (const u64 part = position / (kCapacity / 16); part != last_part_) {
            last_part_ = part;
            marks_[part % kMarks] = position;
        }
    }
    /// Where a lapped reader goes; 0: nowhere.
    [[nodiscard]] u64 oldest(u64 gone) const {
        u64 oldest = 0;
        for (const u64 mark : marks_) {
            if (mark != 0 && distance(mark, gone) >= 0 &&
                (oldest == 0 || distance(oldest, mark) > 0)) {
                oldest = mark;
            }
        }
        return oldest;
    }

private:
    std::array<u64, kMarks> marks_{};
    u64 last_part_ = ~u64{0};
};

}  // namespace

TEST_SUITE_BEGIN("ring_reader");

TEST_CASE("an empty ring is empty") {
    const TestRing ring(kCapacity, each_origin());
    RingReader reader = ring.reader();
    Record record;
    u64 lost = 77;
    CHECK(reader.look(record) == Look::empty);
    CHECK_FALSE(reader.news());
    CHECK(reader.intact(reader.position()));
    CHECK(reader.go_to_newest(lost) == Resync::again);
    CHECK(reader.resync(lost) == Resync::again);
    CHECK(lost == 77);
    CHECK(reader.position() == ring.origin());
    CHECK(reader.expected() == 1);
}

TEST_CASE("what is received and what is lost add up to what was published") {
    std::mt19937 random(race_seed());
    const Origin origin = each_origin();
    for (int round = 0; round < 20; round++) {
        const TestRing ring(kCapacity, origin_position(origin, kCapacity) + random() % 256 * 16,
                            1000);
        RingWriter writer = ring.writer();
        RingReader reader = ring.reader();
        Marks marks;
        Record record;
        std::vector<std::byte> payload;
        u64 received = 0;
        u64 lost = 0;
        u64 laps = 0;
        for (int burst = 0; burst < 200; burst++) {
            for (u64 count = random() % 60; count != 0; count--) {
                marks.published(writer.position());
                publish_over(writer, random() % (random() % 8 == 0 ? 1200 : 80));
            }
            // So many looks, then it rests again.
            for (u64 looks = random() % 70; looks != 0; looks--) {
                const u64 expected = reader.expected();
                const Look look = receive(reader, record, payload);
                if (look == Look::record) {
                    received++;
                    REQUIRE(record.sequence == expected);
                    REQUIRE(is_filled(payload.data(), record.sequence, payload.size()));
                } else if (look == Look::lapped) {
                    CHECK(reader.news());
                    const u64 gone = writer.announced() - kCapacity;
                    REQUIRE(distance(reader.position(), gone) < 0);
                    u64 missed = 0;
                    REQUIRE(reader.resync(missed) == Resync::done);
                    REQUIRE(reader.position() == marks.oldest(gone));
                    REQUIRE(reader.expected() == expected + missed);
                    REQUIRE(reader.look(record) == Look::record);
                    REQUIRE(missed != 0);
                    lost += missed;
                    laps++;
                } else {
                    REQUIRE(look == Look::empty);
                    REQUIRE(reader.position() == writer.position());
                    REQUIRE(reader.expected() == writer.sequence());
                    REQUIRE_FALSE(reader.news());
                }
                REQUIRE(received + lost == reader.expected() - 1000);
            }
        }
        CHECK(received > 100);
        CHECK(laps > 5);
    }
}

TEST_CASE("lapped in the middle of a payload of zeros, and nothing is published afterwards") {
    const Origin origin = each_origin();
    for (u64 small = 0; small < 8; small++) {
        const TestRing ring(kCapacity, origin);
        RingWriter writer = ring.writer();
        RingReader reader = ring.reader();
        for (u64 i = 0; i < small; i++) {
            publish_zeros(writer, 0);
            Record record;
            REQUIRE(reader.look(record) == Look::record);
            reader.advance(record);
        }
        // Up to just below the reader's place one lap on, then a record of zeros over it.
        while (distance(reader.position() + kCapacity, writer.position()) > 64) {
            publish_zeros(writer, 0);
        }
        publish_zeros(writer, 1000);
        REQUIRE(ring.record_at(reader.position()).word.load() == 0);
        Record record;
        CHECK(reader.look(record) == Look::lapped);
        CHECK(reader.news());
        u64 lost = 0;
        CHECK(reader.resync(lost) == Resync::done);
        CHECK(lost > 0);
        CHECK(lost == reader.expected() - small - 1);
        u64 rest = 0;
        while (reader.look(record) == Look::record) {
            reader.advance(record);
            rest++;
        }
        CHECK(small + lost + rest == writer.sequence() - 1);
        CHECK(reader.look(record) == Look::empty);
    }
}

TEST_CASE("one byte more announced, and the oldest byte is gone") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    const RingReader reader = ring.reader();
    publish_over(writer, 0);
    Record record;
    REQUIRE(reader.look(record) == Look::record);
    ring.header().announced.store(ring.origin() + kCapacity);
    CHECK(reader.intact(reader.position()));
    CHECK(reader.look(record) == Look::record);
    ring.header().announced.store(ring.origin() + kCapacity + 1);
    CHECK_FALSE(reader.intact(reader.position()));
    CHECK(reader.intact(reader.position() + 16));
    CHECK(reader.news());
}

TEST_CASE("a batch whose first record was overtaken is thrown away") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    RingReader reader = ring.reader();
    for (int i = 0; i < 20; i++) {
        publish_over(writer, 100);
    }
    Record first;
    REQUIRE(reader.look(first) == Look::record);
    Record last = first;
    u64 taken = 1;
    for (Record next; reader.look_behind(last, next) == Look::record; last = next) {
        CHECK(next.position == last.next);
        CHECK(next.sequence == last.sequence + 1);
        CHECK(is_filled(next.payload, next.sequence, 100));
        taken++;
    }
    CHECK(taken == 20);
    CHECK(reader.intact(first.position));
    CHECK(reader.position() == first.position);
    RingReader whole = reader;
    whole.advance(last);
    CHECK(whole.expected() == 21);
    Record record;
    CHECK(whole.look(record) == Look::empty);

    // The first overtaken, the last not.
    while (reader.intact(first.position)) {
        publish_over(writer, 0);
    }
    CHECK(reader.intact(last.position));
    std::vector<std::byte> payload;
    CHECK(receive(reader, record, payload) == Look::lapped);
    u64 lost = 0;
    CHECK(reader.resync(lost) == Resync::done);
    CHECK(lost >= 1);
    CHECK(lost < 20);
    CHECK(reader.look(record) == Look::record);
    CHECK(record.sequence == lost + 1);
    CHECK(is_filled(record.payload, record.sequence, 100));
}

TEST_CASE("go_to_newest passes over all but the newest") {
    std::mt19937 random(race_seed());
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    RingReader reader = ring.reader();
    u64 seen = 0;
    u64 passed_in_all = 0;
    for (int i = 0; i < 3000; i++) {
        const u64 count = random() % 100;
        u64 newest = 0;
        for (u64 n = 0; n < count; n++) {
            newest = writer.position();
            publish_over(writer, random() % 100);
        }
        u64 passed = 0;
        const Resync told = reader.go_to_newest(passed);
        Record record;
        if (count == 0) {
            CHECK(told == Resync::again);
            CHECK(reader.look(record) == Look::empty);
            continue;
        }
        CHECK(told == (count == 1 ? Resync::again : Resync::done));
        CHECK(passed == count - 1);
        CHECK(reader.position() == newest);
        passed_in_all += passed;
        REQUIRE(reader.look(record) == Look::record);
        CHECK(record.sequence == writer.sequence() - 1);
        CHECK(is_filled(record.payload, record.sequence, record.payload_bytes));
        reader.advance(record);
        seen++;
    }
    CHECK(seen + passed_in_all == writer.sequence() - 1);
}

TEST_CASE("a closed ring that never had a record") {
    const TestRing ring(kCapacity, each_origin());
    ring.writer().close();
    const RingReader reader = ring.reader();
    Record record;
    CHECK(reader.look(record) == Look::closed);
    CHECK(reader.look(record) == Look::closed);
    CHECK(reader.news());
}

TEST_CASE("a closed ring is read to its end, also by one that was lapped") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    RingReader reader = ring.reader();
    RingReader slow = ring.reader();
    Record record;
    for (int i = 0; i < 100; i++) {
        publish_over(writer, 200);
        REQUIRE(reader.look(record) == Look::record);
        reader.advance(record);
    }
    writer.close();
    CHECK(reader.look(record) == Look::closed);
    std::vector<std::byte> payload;
    CHECK(receive(slow, record, payload) == Look::lapped);
    u64 lost = 0;
    CHECK(slow.resync(lost) == Resync::done);
    u64 rest = 0;
    while (slow.look(record) == Look::record) {
        slow.advance(record);
        rest++;
    }
    CHECK(slow.look(record) == Look::closed);
    CHECK(lost + rest == 100);
}

TEST_CASE("everything works over a read-only mapping at another address") {
    const TestRing ring(kCapacity, each_origin());
    const sys::RingMapping mapping = ring.map_again();
    const ReadableRing readable{reinterpret_cast<const RingHeader*>(mapping.header()),
                                mapping.data(), kCapacity, ring.record_max()};
    RingReader reader(readable, ring.origin(), 1);
    RingWriter writer = ring.writer();
    Record record;
    std::vector<std::byte> payload;
    u64 lost = 0;
    u64 received = 0;
    for (int i = 0; i < 2000; i++) {
        publish_over(writer, static_cast<u64>(i % 900));
        if (i % 50 < 20) {
            Look look = receive(reader, record, payload);
            if (look == Look::lapped) {
                u64 missed = 0;
                REQUIRE(reader.resync(missed) == Resync::done);
                lost += missed;
                look = receive(reader, record, payload);
            }
            REQUIRE(look == Look::record);
            CHECK(is_filled(payload.data(), record.sequence, payload.size()));
            received++;
        }
        CHECK(reader.expected() == 1 + received + lost);
    }
    u64 passed = 0;
    CHECK(reader.go_to_newest(passed) == Resync::done);
}
