// SPDX-License-Identifier: Apache-2.0
// Goal: a stream of frames is cut the same wherever it was torn, and no length or flag that a peer
// sends makes the buffer grow or the reader stumble. Pure.
#include "protocol/frame_reader.hpp"

#include <doctest/doctest.h>

#include <random>

using namespace ipcbus::protocol;
using Status = FrameReader::Status;
using Bytes = std::vector<std::byte>;

namespace {

struct Cut {
    u32 bytes;
    FrameType type;
    u64 request;
    Bytes fields;
    bool operator==(const Cut&) const = default;
};

/// Takes all whole frames out.
Status drain(FrameReader& reader, std::vector<Cut>& ret_cuts) {
    FrameHeader header;
    std::span<const std::byte> fields;
    for (;;) {
        const Status status = reader.next(header, fields);
        if (status != Status::frame) {
            return status;
        }
        ret_cuts.push_back(
            {header.bytes, header.type, header.request, {fields.begin(), fields.end()}});
    }
}

Bytes some_frames() {
    Bytes stream;
    Hello hello;
    hello.name = "frame reader";
    encode(stream, hello, 1);
    encode(stream, Done{}, 0x1122334455667788);
    Members members;
    members.attach.resize(3);
    members.detach = {1, 2};
    encode(stream, members, 0);
    encode(stream, Mapped{9}, 3);
    return stream;
}

Bytes raw(u32 bytes, u16 type, u16 flags, u64 request, std::size_t fields) {
    Bytes out;
    FieldWriter writer(out);
    writer(bytes, type, flags, request);
    out.resize(out.size() + fields, std::byte{0xcc});
    return out;
}

}  // namespace

TEST_SUITE_BEGIN("frame_reader");

TEST_CASE("every cut in two") {
    const Bytes stream = some_frames();
    FrameReader whole;
    whole.add(stream);
    std::vector<Cut> expected;
    REQUIRE(drain(whole, expected) == Status::need_more);
    REQUIRE(expected.size() == 4);
    CHECK(expected[0].type == FrameType::hello);
    CHECK(expected[1] == Cut{16, FrameType::done, 0x1122334455667788, {}});
    CHECK(expected[2].type == FrameType::members);
    CHECK(expected[3].bytes == 24);
    CHECK(whole.consumed() == stream.size());

    for (std::size_t cut = 0; cut <= stream.size(); cut++) {
        FrameReader reader;
        std::vector<Cut> cuts;
        reader.add(std::span(stream).first(cut));
        CHECK(drain(reader, cuts) == Status::need_more);
        u64 consumed = 0;
        for (const Cut& frame : cuts) {
            consumed += frame.bytes;
        }
        CHECK(reader.consumed() == consumed);
        CHECK(consumed <= cut);
        reader.add(std::span(stream).subspan(cut));
        CHECK(drain(reader, cuts) == Status::need_more);
        CHECK(cuts == expected);
        CHECK(reader.consumed() == stream.size());
    }
}

TEST_CASE("byte by byte, and in random pieces") {
    const Bytes stream = some_frames();
    std::vector<Cut> expected;
    FrameReader whole;
    whole.add(stream);
    (void)drain(whole, expected);

    FrameReader dripped;
    std::vector<Cut> cuts;
    for (const std::byte byte : stream) {
        dripped.add({&byte, 1});
        CHECK(drain(dripped, cuts) == Status::need_more);
    }
    CHECK(cuts == expected);

    std::mt19937 random(1);
    FrameReader reader;
    for (int round = 0; round < 50; round++) {
        cuts.clear();
        for (std::size_t at = 0; at < stream.size();) {
            const std::size_t part = std::min<std::size_t>(1 + random() % 40, stream.size() - at);
            reader.add(std::span(stream).subspan(at, part));
            (void)drain(reader, cuts);
            at += part;
        }
        CHECK(cuts == expected);
    }
    CHECK(reader.consumed() == 50 * stream.size());
    reader.add(std::span(stream).first(20));
    reader.reset();
    CHECK(reader.consumed() == 0);
    cuts.clear();
    reader.add(stream);
    CHECK(drain(reader, cuts) == Status::need_more);
    CHECK(cuts == expected);
}

TEST_CASE("lengths that are lies are refused as soon as they are there") {
    FrameHeader header;
    std::span<const std::byte> fields;
    for (const u32 length : {0u, 1u, 15u, 16385u, 65536u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
        CAPTURE(length);
        const Bytes start = raw(length, 1, 0, 1, 0);
        FrameReader reader;
        reader.add(std::span(start).first(3));
        CHECK(reader.next(header, fields) == Status::need_more);
        reader.add(std::span(start).subspan(3, 1));
        CHECK(reader.next(header, fields) == Status::malformed);
        CHECK(std::string(reader.why()) != "");
        // It stays refused, and nothing counts as consumed.
        reader.add(std::span(start).subspan(4));
        CHECK(reader.next(header, fields) == Status::malformed);
        CHECK(reader.consumed() == 0);
    }
    FrameReader reader;
    reader.add(raw(16384, 1, 0, 1, 16384 - 16));
    CHECK(reader.next(header, fields) == Status::frame);
    CHECK(fields.size() == 16384 - 16);
    reader.add(raw(16, 1, 0, 1, 0));
    CHECK(reader.next(header, fields) == Status::frame);
    CHECK(fields.empty());
}

TEST_CASE("flags are reserved, each of them") {
    FrameHeader header;
    std::span<const std::byte> fields;
    for (int bit = 0; bit < 16; bit++) {
        FrameReader reader;
        const Bytes good = raw(16, 3, 0, 1, 0);
        reader.add(good);
        reader.add({});
        CHECK(reader.next(header, fields) == Status::frame);
        reader.add(raw(20, 3, static_cast<u16>(1u << bit), 1, 4));
        CHECK(reader.next(header, fields) == Status::malformed);
        CHECK(std::string(reader.why()) != "");
        CHECK(reader.consumed() == 16);
    }
}

TEST_CASE("an unknown type is a frame: its reader decides") {
    FrameHeader header;
    std::span<const std::byte> fields;
    FrameReader reader;
    reader.add(raw(18, 0xfffe, 0, 5, 2));
    CHECK(reader.next(header, fields) == Status::frame);
    CHECK(static_cast<u16>(header.type) == 0xfffe);
    CHECK(std::string(frame_name(header.type)) == "unknown frame");
    CHECK(fields.size() == 2);
}

TEST_CASE("what is lent is cut where it lies, and what is kept of it is a copy") {
    const Bytes stream = some_frames();
    std::vector<Cut> whole;
    FrameReader at_once;
    at_once.add(stream);
    REQUIRE(drain(at_once, whole) == Status::need_more);
    for (std::size_t one = 0; one <= stream.size(); one++) {
        for (std::size_t two = one; two <= stream.size(); two += 1 + two % 3) {
            FrameReader reader;
            std::vector<Cut> cuts;
            const std::size_t ends[] = {one, two, stream.size()};
            std::size_t begin = 0;
            for (const std::size_t end : ends) {
                Bytes piece(stream.begin() + static_cast<std::ptrdiff_t>(begin),
                            stream.begin() + static_cast<std::ptrdiff_t>(end));
                reader.lend(piece);
                CHECK(drain(reader, cuts) == Status::need_more);
                reader.keep();
                std::fill(piece.begin(), piece.end(), std::byte{0xff});
                begin = end;
            }
            REQUIRE(cuts == whole);
            REQUIRE(reader.consumed() == stream.size());
        }
    }
}

TEST_CASE("of what is lent, what nobody asked for is there when it is asked for") {
    const Bytes stream = some_frames();
    Bytes lent = stream;
    FrameReader reader;
    reader.lend(lent);
    FrameHeader header;
    std::span<const std::byte> fields;
    REQUIRE(reader.next(header, fields) == Status::frame);
    reader.keep();
    std::fill(lent.begin(), lent.end(), std::byte{0xff});
    std::vector<Cut> cuts;
    CHECK(drain(reader, cuts) == Status::need_more);
    CHECK(cuts.size() == 3);
    // What cannot be cut is all there to be looked at, however it came.
    const std::string text = "GET / HTTP/1.1\r\n";
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    for (std::size_t cut = 0; cut < sizeof(u32); cut++) {
        FrameReader lied_to;
        lied_to.lend(bytes.first(cut));
        CHECK(lied_to.next(header, fields) == Status::need_more);
        lied_to.lend(bytes.subspan(cut));
        CHECK(lied_to.next(header, fields) == Status::malformed);
        CHECK(std::equal(bytes.begin(), bytes.end(), lied_to.unread().begin(),
                         lied_to.unread().end()));
    }
}
