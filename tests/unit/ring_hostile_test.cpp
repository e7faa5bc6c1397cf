// SPDX-License-Identifier: Apache-2.0
// Goal: nothing that a publisher writes into its ring makes a reader leave the mapping, loop
// without end or crash; a lie that can be told from a lap is told. Method: lies one by one, then
// noise in every word, standing still and under the reader's eyes. Run it under AddressSanitizer,
// too.
#include "protocol/ring_reader.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

#include <thread>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Look = RingReader::Look;
using Resync = RingReader::Resync;

namespace {

constexpr u64 kCapacity = 4096;

/// Whether all of a record lies in the mapping.
bool inside(const ReadableRing& ring, const Record& record) {
    const std::byte* end = ring.data + 2 * ring.capacity;
    return record.topic >= ring.data && record.topic + record.topic_bytes <= record.payload &&
           record.payload >= ring.data && record.payload + record.payload_bytes <= end &&
           record.next - record.position <= ring.record_bytes_max && record.next % 16 == 0 &&
           record.next != record.position;
}

/// A value that is likely to get somewhere: small, near `position`, a plausible word, or noise.
u64 lie(std::mt19937_64& random, u64 position) {
    switch (random() % 8) {
        case 0: return 0;
        case 1: return random() % 64;
        case 2: return position + (random() % 512 - 256) * 16;
        case 3: return record_word(static_cast<u32>(random() % 1300), 0, 0);
        case 4: return record_word(static_cast<u32>(random()), static_cast<u16>(random()), 0);
        case 5: return u64{1} << (random() % 64);
        case 6: return position + kCapacity + random() % 5000;
        default: return random();
    }
}

/// Any operation of a reader, checked. False: it told something outside of the mapping.
bool poke(RingReader& reader, std::mt19937_64& random, u64& ret_sum) {
    Record record;
    Record next;
    u64 skipped = 0;
    const u64 before = reader.position();
    switch (random() % 6) {
        case 0: (void)reader.news(); break;
        case 1: (void)reader.resync(skipped); break;
        case 2: (void)reader.go_to_newest(skipped); break;
        default:
            if (reader.look(record) != Look::record) {
                break;
            }
            if (!inside(reader.ring(), record)) {
                return false;
            }
            // Read all of it: whatever is there, it must be readable.
            std::byte copy[16384];
            copy_untrusted(copy, record.topic, record.topic_bytes);
            copy_untrusted(copy, record.payload, record.payload_bytes);
            ret_sum += static_cast<u64>(copy[0]);
            if (reader.look_behind(record, next) == Look::record && !inside(reader.ring(), next)) {
                return false;
            }
            if (reader.intact(record.position)) {
                reader.advance(record);
            }
    }
    // Forward only, and no faster than a record in 16 bytes.
    const i64 moved = distance(reader.position(), before);
    return moved >= 0 && reader.position() % 16 == 0 &&
           skipped <= static_cast<u64>(moved) / kRecordHeaderBytes;
}

}  // namespace

TEST_SUITE_BEGIN("ring_hostile");

TEST_CASE("lies in a record's header are told from a lap") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    publish_over(writer, 20);
    publish_over(writer, 20);
    const RingReader reader = ring.reader();
    RecordHeader& header = ring.record_at(ring.origin());
    Record record;
    REQUIRE(reader.look(record) == Look::record);

    struct Lie {
        const char* what;
        u64 word;
        u64 sequence;
    };
    const u64 good = header.word.load();
    for (const Lie& lie : {
             Lie{"sequence ahead", good, 2},
             Lie{"sequence behind", good, 0},
             Lie{"sequence far away", good, u64{1} << 63},
             Lie{"not marked as present", 20, 1},
             Lie{"an unknown flag", record_word(20, 0, 1), 1},
             Lie{"every flag", record_word(20, 0, 0xffff), 1},
             Lie{"longer than declared", record_word(1281, 0, 0), 1},
             Lie{"as long as can be said", record_word(0xffffffff, 0xffff, 0), 1},
             Lie{"topic longer than the record", record_word(0, 0xffff, 0), 1},
             Lie{"closed, but with a length", record_word(16, 0, kRecordClosed), 1},
             Lie{"closed, but with a topic", record_word(0, 1, kRecordClosed), 1},
             Lie{"closed, of another sequence", record_word(0, 0, kRecordClosed), 9},
             Lie{"closed, not present", u64{kRecordClosed} << 48, 1},
         }) {
        CAPTURE(lie.what);
        header.word.store(lie.word);
        header.sequence.store(lie.sequence);
        CHECK(reader.look(record) == Look::corrupt);
        CHECK(reader.news());
        // The same bytes below announced - capacity are nothing but a lap.
        const u64 announced = ring.header().announced.exchange(ring.origin() + kCapacity + 16);
        CHECK(reader.look(record) == Look::lapped);
        ring.header().announced.store(announced);
    }
}

TEST_CASE("the largest record is taken, one that is larger is not") {
    const TestRing ring(kCapacity, kCapacity, 1, 512);
    const RingReader reader = ring.reader();
    RecordHeader& header = ring.record_at(ring.origin());
    Record record;
    header.word.store(record_word(496, 0, 0));
    CHECK(reader.look(record) == Look::record);
    header.word.store(record_word(497, 0, 0));
    CHECK(reader.look(record) == Look::corrupt);
    header.word.store(record_word(480, 16, 0));
    CHECK(reader.look(record) == Look::record);
    header.word.store(record_word(480, 17, 0));
    CHECK(reader.look(record) == Look::corrupt);
}

TEST_CASE("lies in newest") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    for (int i = 0; i < 100; i++) {
        publish_over(writer, 100);
    }
    RingReader reader(ring.readable(), writer.position(), writer.sequence());
    for (int i = 0; i < 10; i++) {
        publish_over(writer, 100);
    }
    const u64 position = reader.position();
    const u64 newest = ring.header().newest.load();
    std::atomic<u64>& word = ring.header().newest;
    u64 passed = 77;
    for (const u64 odd : {u64{1}, u64{8}, u64{15}}) {
        word.store(newest + odd);
        CHECK(reader.go_to_newest(passed) == Resync::corrupt);
    }
    for (const u64 out : {writer.announced(), writer.announced() + 16, newest + (u64{1} << 40),
                          writer.announced() - kCapacity - 16, newest - kCapacity, position,
                          position - 16, newest + (u64{1} << 63)}) {
        word.store(out);
        CHECK(reader.go_to_newest(passed) == Resync::again);
    }
    word.store(newest);
    RecordHeader& header = ring.record_at(newest);
    const u64 sequence = header.sequence.load();
    for (const u64 odd : {u64{0}, reader.expected() - 1, reader.expected() + kCapacity,
                          reader.expected() + (newest - position) / 16 + 1, ~u64{0}}) {
        header.sequence.store(odd);
        CHECK(reader.go_to_newest(passed) == Resync::corrupt);
    }
    CHECK(passed == 77);
    CHECK(reader.position() == position);
    header.sequence.store(sequence);
    CHECK(reader.go_to_newest(passed) == Resync::done);
    CHECK(passed == 9);
}

TEST_CASE("announced that runs away, with marks that name nothing: again, and the place is kept") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    publish_over(writer, 100);
    RingReader reader = ring.reader();
    Record record;
    std::vector<std::byte> payload;
    u64 lost = 77;
    for (const u64 far : {u64{2} * kCapacity, u64{1} << 40, u64{1} << 62}) {
        ring.header().announced.store(ring.origin() + far);
        CHECK(receive(reader, record, payload) == Look::lapped);
        CHECK(reader.news());
        CHECK(reader.resync(lost) == Resync::again);
        for (auto& mark : ring.header().marks) {
            mark.store(ring.origin() + far - 8);  // not a place for a record
        }
        CHECK(reader.resync(lost) == Resync::again);
        for (auto& mark : ring.header().marks) {
            mark.store(ring.origin() + far - kCapacity / 2);
        }
        ring.record_at(ring.origin() + far - kCapacity / 2).sequence.store(~u64{0} >> 1);
        CHECK(reader.resync(lost) == Resync::corrupt);
    }
    CHECK(lost == 77);
    CHECK(reader.position() == ring.origin());
}

TEST_CASE("noise in every word, standing still") {
    std::mt19937_64 random(race_seed());
    const Origin origin = each_origin();
    const TestRing ring(kCapacity, origin);
    const sys::RingMapping mapping = ring.map_again();  // read-only: a store would be a fault
    const ReadableRing readable{reinterpret_cast<const RingHeader*>(mapping.header()),
                                mapping.data(), kCapacity, ring.record_max()};
    u64 sum = 0;
    unsigned wrong = 0;
    for (int round = 0; round < 2000; round++) {
        RingReader reader(readable, ring.origin() + random() % 256 * 16, random() % 4);
        for (u64 at = 0; at < kCapacity; at += 8) {
            const auto* raw = reinterpret_cast<std::atomic<u64>*>(ring.data() + at);
            const_cast<std::atomic<u64>*>(raw)->store(
                random() % 2 == 0 ? reader.expected() : lie(random, reader.position()));
        }
        for (int step = 0; step < 40; step++) {
            ring.header().announced.store(reader.position() + random() % 6000);
            ring.header().newest.store(lie(random, reader.position()));
            for (auto& mark : ring.header().marks) {
                mark.store(lie(random, reader.position()));
            }
            auto& here = ring.record_at(reader.position());
            here.word.store(lie(random, reader.position()));
            here.sequence.store(random() % 4 == 0 ? random() : reader.expected());
            wrong += poke(reader, random, sum) ? 0 : 1;
        }
    }
    CHECK(wrong == 0);
    CHECK(sum != 0);
}

TEST_CASE("noise under the reader's eyes") {
    const u32 seed = race_seed();
    CAPTURE(seed);
    const TestRing ring(kCapacity);
    std::atomic<u64> around{ring.origin()};
    std::atomic<bool> stop{false};
    std::thread publisher([&] {
        std::mt19937_64 random(seed);
        while (!stop.load(std::memory_order_relaxed)) {
            const u64 position = around.load(std::memory_order_relaxed);
            auto& here = ring.record_at(position + random() % 3 * 16);
            here.word.store(lie(random, position), std::memory_order_relaxed);
            ring.header().announced.store(position + random() % 6000, std::memory_order_relaxed);
            ring.header().newest.store(lie(random, position), std::memory_order_relaxed);
            ring.header().marks[random() % kMarks].store(lie(random, position),
                                                         std::memory_order_relaxed);
            here.sequence.store(random() % 8, std::memory_order_relaxed);
        }
    });
    std::mt19937_64 random(seed + 1);
    RingReader reader = ring.reader();
    const sys::Deadline deadline = sys::Deadline::after(static_cast<i64>(race_seconds(0.3) * 1e9));
    u64 sum = 0;
    unsigned wrong = 0;
    while (!deadline.passed()) {
        for (int step = 0; step < 100; step++) {
            wrong += poke(reader, random, sum) ? 0 : 1;
            around.store(reader.position(), std::memory_order_relaxed);
        }
        if (reader.expected() > 8) {
            reader = RingReader(ring.readable(), reader.position(), random() % 8);
        }
    }
    stop.store(true);
    publisher.join();
    CHECK(wrong == 0);
}

TEST_CASE("a gap is believed where a relay writes, and nowhere else") {
    const TestRing ring(kCapacity, each_origin());
    RingWriter writer = ring.writer();
    publish_over(writer, 20);
    REQUIRE(writer.has_room(kGapBytes));
    writer.skip_to(1000);
    publish_over(writer, 20);
    ReadableRing readable = ring.readable();
    RingReader plain(readable, ring.origin(), 1);
    readable.record_bytes_max |= kRelayed;
    RingReader relayed(readable, ring.origin(), 1);
    Record record;
    std::vector<std::byte> payload;
    for (RingReader* reader : {&plain, &relayed}) {
        REQUIRE(receive(*reader, record, payload) == Look::record);
    }
    CHECK(plain.look(record) == Look::corrupt);
    CHECK(relayed.news());
    REQUIRE(relayed.look(record) == Look::lapped);
    u64 lost = 0;
    REQUIRE(relayed.resync(lost) == Resync::done);
    CHECK(lost == 998);
    REQUIRE(receive(relayed, record, payload) == Look::record);
    CHECK(record.sequence == 1000);
    CHECK(relayed.look(record) == Look::empty);
    // Over the gap to the newest: told by one number, or not believed.
    RingReader hurried(readable, ring.origin(), 1);
    REQUIRE(hurried.go_to_newest(lost) == Resync::done);
    CHECK(lost == 999);
    RingReader plain_hurried(ring.readable(), ring.origin(), 1);
    CHECK(plain_hurried.go_to_newest(lost) == Resync::corrupt);
    // One that goes back, or nowhere, is none.
    auto& next = *reinterpret_cast<std::atomic<u64>*>(
        &ring.record_at(ring.origin() + record_bytes(0, 20)) + 1);
    for (const u64 lie : {u64{2}, u64{1}, u64{0}, ~u64{0}}) {
        next.store(lie);
        RingReader reader(readable, ring.origin(), 1);
        REQUIRE(receive(reader, record, payload) == Look::record);
        CHECK(reader.look(record) == Look::lapped);
        CHECK(reader.resync(lost) != Resync::done);
    }
}
