// SPDX-License-Identifier: Apache-2.0
// Goal: the shared-memory layout is what it was: every offset, size and constant as a number, and
// the bytes of a ring after a few publishes. A change here is a change of kLayoutVersion, and of
// ipcbus-protocol(7). Method: numbers written out, and a dump made independently of the code.
#include "protocol/layout.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <string>
#include <string_view>

using namespace ipcbus;
using namespace ipcbus::protocol;
using test::TestClient;
using test::TestRing;

namespace {

/// 16 bytes a line that are not all zero, lines that repeat as "*".
std::string dump(const std::byte* memory, std::size_t bytes) {
    std::string text;
    std::string before;
    for (std::size_t offset = 0; offset < bytes; offset += 16) {
        std::string line;
        bool zero = true;
        for (std::size_t i = offset; i < offset + 16; i++) {
            std::array<char, 4> digits{};
            std::snprintf(digits.data(), digits.size(), " %02x", static_cast<unsigned>(memory[i]));
            line += digits.data();
            zero = zero && memory[i] == std::byte{0};
        }
        if (zero) {
            before.clear();
            continue;
        }
        std::array<char, 8> begin{};
        std::snprintf(begin.data(), begin.size(), "%04x", static_cast<unsigned>(offset));
        if (line != before) {
            text += begin.data() + line + "\n";
        } else if (!text.ends_with("*\n")) {
            text += "*\n";
        }
        before = line;
    }
    return text;
}

void publish(RingWriter& writer, std::string_view topic, std::string_view payload) {
    const u64 bytes = record_bytes(topic.size(), payload.size());
    REQUIRE((writer.has_room(bytes) || writer.raise(bytes, writer.position())));
    std::memcpy(writer.topic(), topic.data(), topic.size());
    std::memcpy(writer.payload(topic.size()), payload.data(), payload.size());
    writer.commit(static_cast<u16>(topic.size()), static_cast<u32>(payload.size()));
}

constexpr const char* kGoldenRing =
    "0000 69 70 63 62 72 69 6e 67 00 00 00 00 00 00 00 00\n"
    "0010 40 01 00 00 02 00 00 00 00 10 00 00 00 00 00 00\n"
    "0020 00 10 00 00 00 00 00 00 08 07 06 05 04 03 02 01\n"
    "0030 10 00 00 00 00 04 00 00 00 00 00 00 00 00 00 00\n"
    "0040 10 12 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n"  // announced, wanted
    "0080 a0 11 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n"  // newest
    "00c0 00 10 00 00 00 00 00 00 a0 11 00 00 00 00 00 00\n"  // marks 0 and 1
    "1000 05 00 00 00 00 00 00 80 05 00 00 00 00 00 00 00\n"
    "1010 68 65 6c 6c 6f 00 00 00 00 00 00 00 00 00 00 00\n"
    "1020 14 00 00 00 0c 00 00 80 06 00 00 00 00 00 00 00\n"
    "1030 70 6c 61 6e 74 2f 37 2f 74 65 6d 70 00 00 00 00\n"
    "1040 32 31 2e 35 20 64 65 67 72 65 65 73 20 6f 75 74\n"
    "1050 73 69 64 65 00 00 00 00 00 00 00 00 00 00 00 00\n"
    "1060 2c 01 00 00 00 00 00 80 07 00 00 00 00 00 00 00\n"
    "1070 ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee\n"
    "*\n"
    "1190 ee ee ee ee ee ee ee ee ee ee ee ee 00 00 00 00\n"
    "11a0 00 00 00 00 00 00 00 80 08 00 00 00 00 00 00 00\n";
constexpr const char* kGoldenTerminator = "11b0 00 00 00 00 00 00 00 00 09 00 00 00 00 00 00 00\n";
constexpr const char* kGoldenEnd = "11b0 00 00 00 00 00 00 00 c0 09 00 00 00 00 00 00 00\n";

}  // namespace

TEST_SUITE_BEGIN("layout");

TEST_CASE("constants") {
    CHECK(kLayoutVersion == 2);
    CHECK(kCacheLine == 64);
    CHECK(kPageBytes == 4096);
    CHECK(kRingMagic == 0x676e697262637069);
    CHECK(kRingDataOffset == 4096);
    CHECK(kRingBytesMin == 4096);
    CHECK(kRingBytesMax == 1073741824);
    CHECK(kRecordAlignment == 16);
    CHECK(kRecordHeaderBytes == 16);
    CHECK(kRecordPresent == 0x8000);
    CHECK(kRecordClosed == 0x4000);
    CHECK(kRecordGap == 0x2000);
    CHECK(kGapBytes == 32);
    CHECK(kRelayed == 1);
    CHECK(kRecordFlagsKnown == 0xe000);
    CHECK(kPayloadPart == 4);
    CHECK(kCursorPart == 8);
    CHECK(kStridePart == 16);
    CHECK(kMarks == 16);
    CHECK(kTopicBytesMax == 255);
    CHECK(kTopicLevelsMax == 32);
    CHECK(kActivityWords == 64);
    CHECK(kActivityBits == 4096);
    CHECK(kParkedWaiterBits == 16);
    CHECK(kWaitersMax == 65535);
    CHECK(kPublicationsMax == 1048576);
    CHECK(kAttachmentsMax == 1048576);
}

TEST_CASE("offsets and sizes") {
    CHECK(sizeof(RingHeader) == 320);
    CHECK(offsetof(RingHeader, magic) == 0);
    CHECK(offsetof(RingHeader, incompatible_flags) == 8);
    CHECK(offsetof(RingHeader, compatible_flags) == 12);
    CHECK(offsetof(RingHeader, header_bytes) == 16);
    CHECK(offsetof(RingHeader, layout_version) == 20);
    CHECK(offsetof(RingHeader, ring_bytes) == 24);
    CHECK(offsetof(RingHeader, data_offset) == 32);
    CHECK(offsetof(RingHeader, publication) == 40);
    CHECK(offsetof(RingHeader, record_alignment) == 48);
    CHECK(offsetof(RingHeader, record_bytes_max) == 52);
    CHECK(offsetof(RingHeader, reserved0) == 56);
    CHECK(offsetof(RingHeader, announced) == 64);
    CHECK(offsetof(RingHeader, wanted) == 72);
    CHECK(offsetof(RingHeader, unfenced) == 80);
    CHECK(offsetof(RingHeader, hurry) == 84);
    CHECK(offsetof(RingHeader, newest) == 128);
    CHECK(offsetof(RingHeader, marks) == 192);

    CHECK(sizeof(RecordHeader) == 16);
    CHECK(offsetof(RecordHeader, word) == 0);
    CHECK(offsetof(RecordHeader, sequence) == 8);

    CHECK(sizeof(CursorHeader) == 64);
    CHECK(offsetof(CursorHeader, waiters_used) == 0);
    CHECK(sizeof(CursorSlot) == 32);
    CHECK(offsetof(CursorSlot, cursor) == 0);
    CHECK(offsetof(CursorSlot, parked) == 8);
    CHECK(offsetof(CursorSlot, lost) == 16);
    CHECK(offsetof(CursorSlot, received) == 24);

    CHECK(sizeof(DoorbellWaiter) == 576);
    CHECK(offsetof(DoorbellWaiter, bell) == 0);
    CHECK(offsetof(DoorbellWaiter, summary) == 8);
    CHECK(offsetof(DoorbellWaiter, activity) == 64);
    CHECK(sizeof(DoorbellPublication) == 64);
    CHECK(offsetof(DoorbellPublication, sleepers) == 0);

    CHECK(sizeof(MailboxHeader) == 64);
    CHECK(offsetof(MailboxHeader, frames) == 0);
    CHECK(sizeof(MailboxPublication) == 16);
    CHECK(offsetof(MailboxPublication, attention) == 0);
    CHECK(offsetof(MailboxPublication, readers) == 8);
}

TEST_CASE("where things lie in a client's pages") {
    const Geometry small{4, 4, 64};
    CHECK(slot_offset(0) == 64);
    CHECK(slot_offset(63) == 64 + 63 * 32);
    CHECK(asleep_offset(small, 0) == 64 + 64 * 32);
    CHECK(asleep_offset(small, 3) == 64 + 64 * 32 + 12);
    CHECK(cursor_bytes(small) == 4096);
    CHECK(waiter_offset(1) == 576);
    CHECK(sleepers_offset(small, 0) == 4096);
    CHECK(sleepers_offset(small, 3) == 4096 + 192);
    CHECK(doorbell_bytes(small) == 8192);
    CHECK(attention_offset(0) == 64);
    CHECK(attention_offset(3) == 112);
    CHECK(mailbox_bytes(small) == 4096);

    // 999 slots end in the middle of a line, 8 waiters' doorbells in a second page.
    const Geometry odd{17, 65, 999};
    CHECK(asleep_offset(odd, 0) == 32064);
    CHECK(cursor_bytes(odd) == 32768);
    CHECK(sleepers_offset(odd, 0) == 12288);
    CHECK(doorbell_bytes(odd) == 20480);
    CHECK(mailbox_bytes(odd) == 4096);

    const Geometry largest{kWaitersMax, kPublicationsMax, kAttachmentsMax};
    CHECK(largest.valid());
    CHECK(cursor_bytes(largest) == 33820672);
    CHECK(doorbell_bytes(largest) == 104857600);
    CHECK(mailbox_bytes(largest) == 16781312);
}

TEST_CASE("a geometry is valid within its bounds only") {
    CHECK(Geometry{1, 1, 1}.valid());
    CHECK_FALSE(Geometry{}.valid());
    CHECK_FALSE(Geometry{0, 1, 1}.valid());
    CHECK_FALSE(Geometry{1, 0, 1}.valid());
    CHECK_FALSE(Geometry{1, 1, 0}.valid());
    CHECK_FALSE(Geometry{65536, 1, 1}.valid());
    CHECK_FALSE(Geometry{1, (1u << 20) + 1, 1}.valid());
    CHECK_FALSE(Geometry{1, 1, (1u << 20) + 1}.valid());
}

TEST_CASE("the words of records and of parking") {
    CHECK(record_word(0, 0, 0) == 0x8000000000000000);
    CHECK(record_word(0xfffffffe, 0xabcd, 0) == 0x8000abcdfffffffe);
    CHECK(record_word(1, 2, kRecordClosed) == 0xc000000200000001);
    CHECK(word_payload_bytes(0x8000abcdfffffffe) == 0xfffffffe);
    CHECK(word_topic_bytes(0x8000abcdfffffffe) == 0xabcd);
    CHECK(word_flags(0xc000abcdfffffffe) == 0xc000);

    CHECK(parked_word(1, 2) == 0x10002);
    CHECK(parked_word(0x123456789abc, 0xffff) == 0x123456789abcffff);
    CHECK(is_parked(0x10002));
    CHECK_FALSE(is_parked(0x20001));
    CHECK_FALSE(is_parked(0));
    CHECK(parked_waiter(0x123456789abcfffe) == 0xfffe);
}

TEST_CASE("the sizes of records") {
    CHECK(record_bytes(0, 0) == 16);
    CHECK(record_bytes(0, 1) == 32);
    CHECK(record_bytes(0, 16) == 32);
    CHECK(record_bytes(1, 17) == 64);
    CHECK(record_bytes(255, 0xffffffff) == 16 + 256 + 0x100000000);
    CHECK(payload_bytes_max(4096) == 1024);
    CHECK(record_bytes_max(4096) == 16 + 256 + 1024);
    CHECK(record_bytes_max(kRingBytesMax) == 272 + 268435456);
    CHECK(raise_max(65536, 512) == 4096);
    CHECK(raise_max(65536, 4096) == 4112);
    CHECK(raise_max(65536, 16384) == 16400);
    CHECK(distance(5, 3) == 2);
    CHECK(distance(3, 5) == -2);
    CHECK(distance(16, u64{0} - 16) == 32);
}

TEST_CASE("a ring after a few publishes, byte by byte") {
    const TestRing ring(4096, 4096, 5, 1024);
    const auto* start = reinterpret_cast<const std::byte*>(&ring.header());
    RingWriter::format(ring.writable(), 4096, 5, 0x0102030405060708, 1024);
    RingWriter writer = ring.writer();
    publish(writer, "", "hello");
    publish(writer, "plant/7/temp", "21.5 degrees outside");
    publish(writer, "", std::string(300, '\xee'));
    publish(writer, "", "");
    CHECK(dump(start, 8192) == std::string(kGoldenRing) + kGoldenTerminator);
    writer.close();
    CHECK(dump(start, 8192) == std::string(kGoldenRing) + kGoldenEnd);
}

TEST_CASE("an empty ring, byte by byte") {
    const TestRing ring(4096, 4096, 1, 512);
    const auto* start = reinterpret_cast<const std::byte*>(&ring.header());
    CHECK(dump(start, 8192) ==
          "0000 69 70 63 62 72 69 6e 67 00 00 00 00 00 00 00 00\n"
          "0010 40 01 00 00 02 00 00 00 00 10 00 00 00 00 00 00\n"
          "0020 00 10 00 00 00 00 00 00 07 00 00 00 00 00 00 00\n"
          "0030 10 00 00 00 00 02 00 00 00 00 00 00 00 00 00 00\n"
          "0040 10 10 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n"
          "1000 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00\n");
}

TEST_CASE("the pages of a client that parks and sleeps, byte by byte") {
    const TestClient client;
    const TestRing ring(4096);
    Attachment attachment(ring.readable(), ring.origin(), 1, client.attachment_words(2, client, 1));
    attachment.set_parked(3);
    attachment.set_sleepers();
    attachment.count_received(5);
    attachment.count_lost(6);
    client.slot(2).cursor.store(0x1122, std::memory_order_relaxed);
    client.asleep(3).store(7, std::memory_order_relaxed);
    CHECK(dump(reinterpret_cast<const std::byte*>(&client.slot(0)) - 64, 4096) ==
          "0080 22 11 00 00 00 00 00 00 03 00 01 00 00 00 00 00\n"
          "0090 06 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00\n"
          "0840 00 00 00 00 00 00 00 00 00 00 00 00 07 00 00 00\n");
    CHECK(dump(reinterpret_cast<const std::byte*>(&client.waiter(0)), 8192) ==
          "1040 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n");
    attachment.unpark();
    CHECK(client.slot(2).parked.load() == parked_word(2, 0));
    attachment.clear_slot();
    CHECK(dump(reinterpret_cast<const std::byte*>(&client.slot(0)), 2048).empty());
}
