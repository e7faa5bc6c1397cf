// SPDX-License-Identifier: Apache-2.0
// Goal: what goes into one ring comes out of another, through DATA frames, with the same sequences,
// within the credit, whatever the sizes; what was lost in the first is lost by the same number in
// the second; and nothing that cannot be is taken. Both ends in one thread, no daemon.
#include "protocol/stream.hpp"

#include "protocol/frame_reader.hpp"
#include "protocol/waiter.hpp"
#include "sys/clock.hpp"
#include "test_ring.hpp"

#include <atomic>
#include <memory>
#include <new>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Sent = StreamSender::State;
using Took = StreamReceiver::State;

namespace {

constexpr u64 kStream = 7;

/// From the ring `from` to the ring `to`, and who reads there.
struct Pipe {
    explicit Pipe(u64 capacity, bool gaps = true, bool latest = false)
        : from(capacity),
          to(capacity),
          source(from.writer()),
          attachment(from.readable(), from.origin(), 1, reader.attachment_words(0, writer, 0)),
          sender(kStream, attachment, latest),
          ring(to.writer(), relay.publisher_words(0, 0), 1'000'000'000'000, control),
          receiver(ring, gaps),
          far(ReadableRing{&to.header(), to.data(), capacity, to.record_max() | kRelayed},
              to.origin(), 1) {
        ring.readers().add(app.entry(1, 0, to.origin()));
        (void)ring.finish();
    }

    /// One frame from sender to receiver; what the receiver says of it.
    Sent move(Took& ret_taken) {
        std::vector<std::byte> out;
        const Sent sent = sender.fill(out);
        if (out.empty()) {
            return sent;
        }
        FrameReader frames;
        frames.add(out);
        FrameHeader header;
        std::span<const std::byte> fields;
        REQUIRE(frames.next(header, fields) == FrameReader::Status::frame);
        REQUIRE(header.type == FrameType::data);
        DataHead head;
        std::span<const std::byte> bytes;
        REQUIRE(decode_data(fields, head, bytes));
        REQUIRE(head.stream == kStream);
        ret_taken = receiver.receive(head.offset, bytes);
        grant();
        return sent;
    }
    /// Both as they were in the beginning, at the same place of the rings.
    void restart() {
        attachment.~Attachment();
        new (&attachment)
            Attachment(from.readable(), from.origin(), 1, reader.attachment_words(0, writer, 0));
        sender.~StreamSender();
        new (&sender) StreamSender(kStream, attachment, false);
        ring.~RingPublisher();
        new (&ring)
            RingPublisher(to.writer(), relay.publisher_words(0, 0), 1'000'000'000'000, control);
        receiver.~StreamReceiver();
        new (&receiver) StreamReceiver(ring, true);
        grant();
    }
    void grant() {
        if (receiver.grants()) {
            sender.allow(receiver.grant());
        }
    }
    /// As the app does: reads one, and its cursor moves.
    RingReader::Look read(Record& ret_record, std::vector<std::byte>& ret_payload) {
        const RingReader::Look look = receive(far, ret_record, ret_payload);
        app.slot(0).cursor.store(far.position());
        return look;
    }

    TestRing from;
    TestRing to;
    TestClient writer;
    TestClient reader;
    TestClient relay;
    TestClient app;
    QuietControl control;
    RingWriter source;
    Attachment attachment;
    StreamSender sender;
    RingPublisher ring;
    StreamReceiver receiver;
    RingReader far;
};

}  // namespace

TEST_SUITE_BEGIN("stream");

TEST_CASE("every size, in order, whole, and no frame without credit") {
    Pipe pipe(65536);
    Took taken{};
    publish_over(pipe.source, 1);
    CHECK(pipe.move(taken) == Sent::no_credit);
    pipe.grant();
    CHECK(pipe.move(taken) == Sent::more);
    CHECK(taken == Took::digested);
    u64 published = 1;
    u64 read = 0;
    std::mt19937 random(race_seed());
    Record record;
    std::vector<std::byte> payload;
    while (read < 20'000) {
        if (random() % 2 == 0) {
            const u64 bytes = random() % 8 == 0 ? random() % 16384 : random() % 200;
            // Held back by the sender's cursor, as a publisher is.
            const u64 cursor = pipe.reader.slot(0).cursor.load();
            if (publish(pipe.source, bytes, cursor == 0 ? pipe.from.origin() : cursor)) {
                published++;
            }
        }
        if (random() % 2 == 0) {
            taken = Took::digested;
            const Sent sent = pipe.move(taken);
            REQUIRE((sent == Sent::more || sent == Sent::empty || sent == Sent::no_credit));
            REQUIRE((taken == Took::digested || taken == Took::full));
        }
        if (random() % 2 == 0) {
            const RingReader::Look look = pipe.read(record, payload);
            REQUIRE((look == RingReader::Look::record || look == RingReader::Look::empty));
            if (look == RingReader::Look::record) {
                read++;
                REQUIRE(record.sequence == read);
                REQUIRE(is_filled(payload.data(), read, payload.size()));
            }
            if (pipe.receiver.waiting()) {
                REQUIRE(pipe.receiver.digest() != Took::broken);
                pipe.grant();
            }
        }
    }
    CHECK(read <= published);
    CHECK(pipe.control.faults.empty());
}

TEST_CASE("a reader that does not read: the window is kept, and not a byte more") {
    Pipe pipe(65536);
    pipe.grant();
    Took taken{};
    u64 frames = 0;
    u64 in_vain = 0;
    while (in_vain < 3) {
        const u64 cursor = pipe.reader.slot(0).cursor.load();
        while (publish(pipe.source, 100, cursor == 0 ? pipe.from.origin() : cursor)) {}
        const Sent sent = pipe.move(taken);
        frames += sent == Sent::more ? 1 : 0;
        in_vain += sent == Sent::no_credit ? 1 : 0;
        REQUIRE(frames < 100);
    }
    CHECK(taken == Took::full);
    // What the far ring has, the window, and a ring of which the cursor has not moved on.
    CHECK(pipe.source.position() - pipe.from.origin() <= 2 * 65536 + kStreamWindowBytes);
    CHECK(pipe.source.position() - pipe.from.origin() >= kStreamWindowBytes);
    // Somebody is asked to ring, and when he has read, it goes on.
    CHECK(pipe.to.header().wanted.load() != 0);
    Record record;
    std::vector<std::byte> payload;
    for (u64 i = 1; i <= 1000; i++) {
        if (pipe.read(record, payload) == RingReader::Look::empty) {
            REQUIRE(pipe.receiver.digest() != Took::broken);
            pipe.grant();
            REQUIRE(pipe.read(record, payload) == RingReader::Look::record);
        }
        REQUIRE(record.sequence == i);
    }
}

TEST_CASE("lapped in the first ring: the same loss at the same place in the second") {
    Pipe pipe(65536);
    pipe.grant();
    Took taken{};
    for (int i = 0; i < 10; i++) {
        publish_over(pipe.source, 100);
    }
    CHECK(pipe.move(taken) == Sent::more);
    for (int i = 0; i < 2000; i++) {
        publish_over(pipe.source, 100);
    }
    CHECK(pipe.move(taken) == Sent::again);
    CHECK(pipe.move(taken) == Sent::more);
    Record record;
    std::vector<std::byte> payload;
    for (u64 i = 1; i <= 10; i++) {
        REQUIRE(pipe.read(record, payload) == RingReader::Look::record);
    }
    CHECK(pipe.read(record, payload) == RingReader::Look::lapped);
    u64 lost = 0;
    REQUIRE(pipe.far.resync(lost) == RingReader::Resync::done);
    REQUIRE(pipe.read(record, payload) == RingReader::Look::record);
    CHECK(record.sequence == 11 + lost);
    CHECK(lost > 1000);
    CHECK(is_filled(payload.data(), record.sequence, payload.size()));
}

TEST_CASE("a large record that is overtaken half way is abandoned, and what follows comes") {
    Pipe pipe(1 << 20);
    pipe.grant();
    Took taken{};
    publish_over(pipe.source, 200'000);
    CHECK(pipe.move(taken) == Sent::more);
    CHECK(pipe.move(taken) == Sent::more);
    for (int i = 0; i < 3000; i++) {
        publish_over(pipe.source, 1000);
    }
    CHECK(pipe.move(taken) == Sent::again);
    for (int i = 0; i < 40; i++) {
        REQUIRE(pipe.move(taken) == Sent::more);
        REQUIRE(taken == Took::digested);
    }
    Record record;
    std::vector<std::byte> payload;
    u64 lost = 0;
    CHECK(pipe.read(record, payload) == RingReader::Look::lapped);
    REQUIRE(pipe.far.resync(lost) == RingReader::Resync::done);
    REQUIRE(pipe.read(record, payload) == RingReader::Look::record);
    CHECK(record.sequence == 1 + lost);
    CHECK(is_filled(payload.data(), record.sequence, 1000));
}

TEST_CASE("the end of a ring comes through; nothing may follow it") {
    Pipe pipe(65536);
    pipe.grant();
    Took taken{};
    publish_over(pipe.source, 5);
    pipe.source.close();
    CHECK(pipe.move(taken) == Sent::more);
    CHECK(pipe.move(taken) == Sent::more);
    CHECK(taken == Took::closed);
    CHECK(pipe.sender.ended());
    CHECK(pipe.move(taken) == Sent::closed);
    Record record;
    std::vector<std::byte> payload;
    CHECK(pipe.read(record, payload) == RingReader::Look::record);
    CHECK(pipe.read(record, payload) == RingReader::Look::closed);
    const std::vector<std::byte> more(16);
    CHECK(pipe.receiver.receive(0, more) == Took::broken);
}

TEST_CASE("latest: each frame begins with the newest") {
    Pipe pipe(65536, true, true);
    pipe.grant();
    Took taken{};
    for (int i = 0; i < 5; i++) {
        publish_over(pipe.source, 10);
    }
    CHECK(pipe.move(taken) == Sent::more);
    u64 passed = 0;
    REQUIRE(pipe.far.go_to_newest(passed) == RingReader::Resync::done);
    CHECK(passed == 4);
    Record record;
    std::vector<std::byte> payload;
    REQUIRE(pipe.read(record, payload) == RingReader::Look::record);
    CHECK(record.sequence == 5);
}

TEST_CASE(
    "a hostile ring: a topic longer than any is told by the sender, behind what came before") {
    Pipe pipe(65536);
    pipe.grant();
    Took taken{};
    publish_over(pipe.source, 5);
    REQUIRE(pipe.source.raise(4096, pipe.source.position()));
    pipe.source.commit(300, 8);
    CHECK(pipe.move(taken) == Sent::more);
    CHECK(taken == Took::digested);
    taken = Took::broken;
    CHECK(pipe.move(taken) == Sent::corrupt);
    CHECK(taken == Took::broken);  // nothing was sent
}

TEST_CASE("a hostile ring: a word that changes between looks makes no frame that cannot be") {
    Pipe pipe(65536);
    pipe.grant();
    // At the place of the next record, which its writer has not finished.
    auto& header = *reinterpret_cast<RecordHeader*>(
        pipe.from.data() + (pipe.source.position() & (pipe.from.header().ring_bytes - 1)));
    std::atomic<bool> over{false};
    std::thread flipping([&] {
        while (!over.load()) {
            header.word.store(record_word(100, 0, 0));
            header.word.store(0);
        }
    });
    const sys::Deadline deadline = sys::Deadline::after(1'500'000'000);
    for (u64 looks = 0; looks % 256 != 0 || !deadline.passed(); looks++) {
        Took taken = Took::digested;
        const Sent state = pipe.move(taken);
        CHECK_MESSAGE(taken == Took::digested, pipe.receiver.why());
        if (taken != Took::digested) {
            break;
        }
        if (state == Sent::more) {
            pipe.restart();  // at the same place: what was sent there is none of the ring's records
        }
    }
    over.store(true);
    flipping.join();
}

TEST_CASE("what waits in small pieces waits as one, and comes out whole") {
    Pipe pipe(65536);
    pipe.grant();
    Took taken{};
    u64 published = 0;
    for (bool credit = true; credit; published++) {
        publish_over(pipe.source, published % 40);
        credit = pipe.move(taken) == Sent::more;
    }
    CHECK(taken == Took::full);
    Record record;
    std::vector<std::byte> payload;
    u64 read = 0;
    for (u64 looks = 0; looks < 2 * published && read + 2 < published; looks++) {
        if (pipe.read(record, payload) == RingReader::Look::record) {
            read++;
            REQUIRE(record.sequence == read);
            REQUIRE(is_filled(payload.data(), read, payload.size()));
        } else {
            REQUIRE(pipe.receiver.digest() != Took::broken);
        }
    }
    CHECK(read + 2 >= published);  // the last one had no credit, the one before for a part
    CHECK_FALSE(pipe.receiver.waiting());
}

TEST_CASE("what waits is checked when it comes, and can be abandoned so many times only") {
    const auto header = [](u64 word, u64 sequence) {
        std::vector<std::byte> out(16);
        for (std::size_t i = 0; i < 8; i++) {
            out[i] = static_cast<std::byte>(word >> (8 * i));
            out[8 + i] = static_cast<std::byte>(sequence >> (8 * i));
        }
        return out;
    };
    const auto fill = [&](Pipe& pipe) {  // until the ring is full and something waits
        u64 sequence = 1;
        while (!pipe.receiver.waiting()) {
            REQUIRE(pipe.receiver.receive(0, header(record_word(0, 0, 0), sequence++)) !=
                    Took::broken);
            if (pipe.receiver.grants()) {
                (void)pipe.receiver.grant();
            }
        }
        return sequence;
    };
    {
        Pipe pipe(65536);
        (void)pipe.receiver.grant();
        const u64 sequence = fill(pipe);
        CHECK(pipe.receiver.receive(0, header(0, sequence)) == Took::broken);
    }
    {
        Pipe pipe(65536);
        (void)pipe.receiver.grant();
        const u64 sequence = fill(pipe);
        CHECK(pipe.receiver.receive(16, header(record_word(0, 0, 0), sequence)) == Took::broken);
    }
    Pipe pipe(65536);
    (void)pipe.receiver.grant();
    const u64 sequence = fill(pipe);
    Took taken = Took::full;
    int abandoned = 0;
    while (taken == Took::full && abandoned < 1000) {
        taken = pipe.receiver.receive(0, header(record_word(1000, 0, 0), sequence));
        abandoned++;
    }
    CHECK(taken == Took::broken);
    CHECK(abandoned >= 32);
    CHECK(abandoned <= 128);
}

TEST_CASE("what cannot be is not taken") {
    const auto header = [](u64 word, u64 sequence, std::size_t bytes = 16) {
        std::vector<std::byte> out(bytes);
        for (std::size_t i = 0; i < 8; i++) {
            out[i] = static_cast<std::byte>(word >> (8 * i));
            out[8 + i] = static_cast<std::byte>(sequence >> (8 * i));
        }
        return out;
    };
    const auto is_taken = [](bool gaps, u32 offset, const std::vector<std::byte>& bytes) {
        Pipe pipe(65536, gaps);
        pipe.grant();
        return pipe.receiver.receive(offset, bytes);
    };
    CHECK(is_taken(false, 0, header(record_word(0, 0, 0), 1)) == Took::digested);
    CHECK(is_taken(false, 0, header(record_word(0, 0, 0), 2)) == Took::broken);
    CHECK(is_taken(true, 0, header(record_word(0, 0, 0), 2)) == Took::digested);
    CHECK(is_taken(true, 0, header(record_word(0, 0, 0), 0)) == Took::broken);
    CHECK(is_taken(true, 16, header(record_word(0, 0, 0), 1)) == Took::broken);
    CHECK(is_taken(true, 0, header(0, 1)) == Took::broken);
    CHECK(is_taken(true, 0, header(record_word(0, 0, kRecordGap), 1)) == Took::broken);
    CHECK(is_taken(true, 0, header(record_word(16, 0, kRecordClosed), 1)) == Took::broken);
    CHECK(is_taken(true, 0, header(record_word(0xffffffff, 0, 0), 1)) == Took::broken);
    CHECK(is_taken(true, 0, header(record_word(0, 256, 0), 1)) == Took::broken);
    CHECK(is_taken(true, 0, header(record_word(0, 0, 0), 1, 24)) == Took::broken);
    CHECK(is_taken(true, 0, {}) == Took::broken);
    // Without credit, and beyond it.
    Pipe pipe(65536);
    CHECK(pipe.receiver.receive(0, header(record_word(0, 0, 0), 1)) == Took::broken);
}
