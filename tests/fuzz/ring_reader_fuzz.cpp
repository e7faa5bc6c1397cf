// SPDX-License-Identifier: Apache-2.0
// RingReader, and the daemon's settle_start, over a ring that changes between any two of their
// loads. Two kinds of run, as the first byte says:
//   an honest writer, stopped and continued at every step: every record that is accepted is whole
//   and the right one, every loss is counted exactly, nothing is called corrupt;
//   a hostile one, which writes any word at any time: the reader stays within the mapping (guarded
//   on both sides), ends, goes forward only, and, where nothing changed during a call, answers as
//   the rules of ring_reader.hpp, told here a second time, say.
// Input: kind and origin, then operations of the reader, each with changes of the memory.
#include "hostile_ring.hpp"

#include "protocol/join.hpp"

#include <array>
#include <vector>

using namespace ipcbus;
using namespace ipcbus::fuzz;
using Look = RingReader::Look;
using Resync = RingReader::Resync;

namespace {

/// The rules of a look, once more, over memory that stands still.
Look look_naively(const ReadableRing& ring, u64 position, u64 expected) {
    u64 word = 0;
    u64 sequence = 0;
    std::memcpy(&word, ring.data + position % kCapacity, 8);
    std::memcpy(&sequence, ring.data + position % kCapacity + 8, 8);
    const u64 oldest = ring.header->announced.load() - kCapacity;
    if (word == 0 || sequence != expected || word >> 48 != 0x8000) {
        if (static_cast<i64>(oldest - position) > 0) {
            return Look::lapped;
        }
        return word == 0                                           ? Look::empty
               : sequence == expected && word == u64{0xc000} << 48 ? Look::closed
                                                                   : Look::corrupt;
    }
    const u64 topic = (word >> 32 & 0xffff) + 15;
    const u64 payload = (word & 0xffffffff) + 15;
    const u64 bytes = 16 + topic / 16 * 16 + payload / 16 * 16;
    if (bytes > ring.record_bytes_max) {
        return static_cast<i64>(oldest - position) > 0 ? Look::lapped : Look::corrupt;
    }
    return Look::record;
}

void check_inside(const ReadableRing& ring, const Record& record) {
    const std::byte* end = ring.data + 2 * kCapacity;
    FUZZ_CHECK(record.topic >= ring.data && record.topic + record.topic_bytes <= record.payload);
    FUZZ_CHECK(record.payload + record.payload_bytes <= end);
    FUZZ_CHECK(record.next - record.position <= ring.record_bytes_max);
    FUZZ_CHECK(record.next != record.position && record.next % kRecordAlignment == 0);
}

class Run {
public:
    explicit Run(Input& input) : input_(input) {
        const std::uint8_t how = input.byte();
        const u64 origins[] = {kCapacity, (u64{1} << 32) - kCapacity / 2 + 16,
                               u64{0} - kCapacity / 2 + 16, u64{0} - 16};
        const u64 origin = origins[how >> 1 & 3];
        const u64 first = (how & 8) != 0 ? u64{1} : u64{0} - 3;
        const u64 record_max = (how & 16) != 0 ? record_bytes_max(kCapacity) : 256;
        Memory& memory = Memory::instance();
        memory.clear();
        RingWriter::format(memory.writable(), origin, first, 7, record_max);
        test::come_to(memory.writable(), origin, first);
        HostileMemory::instance().set_ranges({memory.range()});
        other = Other{};
        other.honest = (how & 1) != 0;
        other.writer = RingWriter(memory.writable(), origin, first, record_max);
        other.first_sequence = first;
        first_ = Start{origin, first};
        reader_ = RingReader(memory.readable(record_max), origin, first);
        other.reader = &reader_;
    }

    template <class Call>
    auto call(Call&& what) {
        return hostile_.during(kLoadsMax, what);
    }

    void step() {
        const std::uint8_t op = input_.byte();
        for (unsigned i = 0; i < op >> 6; i++) {
            hostile_.add(take_change(input_));
        }
        switch (op & 15) {
        case 7:
        case 8:
            resync();
            break;
        case 9:
            newest();
            break;
        case 10:
            look_for_news();
            break;
        case 11:
        case 12:
            settle(op >> 4 & 3);
            break;
        default:
            receive(1 + (op >> 4 & 3));
            break;
        }
    }

private:
    /// A batch, as the library takes one: looked at and copied, then checked against its first.
    void receive(unsigned count_max) {
        Record records[4];
        std::vector<std::byte> copies[4];
        unsigned count = 0;
        for (Look look = Look::record; count < count_max && look == Look::record;) {
            Record& record = records[count];
            const u64 position = count == 0 ? reader_.position() : records[count - 1].next;
            const u64 expected = count == 0 ? reader_.expected() : records[count - 1].sequence + 1;
            look = call([&] {
                return count == 0 ? reader_.look(record)
                                  : reader_.look_behind(records[count - 1], record);
            });
            if (!hostile_.disturbed()) {
                FUZZ_CHECK(look == look_naively(reader_.ring(), position, expected));
            }
            FUZZ_CHECK(!other.honest || count > 0 || look != Look::corrupt);
            if (look == Look::record) {
                check_inside(reader_.ring(), record);
                FUZZ_CHECK(record.position == position && record.sequence == expected);
                copies[count].resize(record.topic_bytes + record.payload_bytes);
                (void)call([&] { return copy(record, copies[count].data()); });
                count++;
            }
        }
        if (count == 0 || !call([&] { return reader_.intact(records[0].position); })) {
            return;
        }
        RingReader::Stride stride;
        u64 next = reader_.position();
        for (unsigned i = 0; i < count; i++) {
            check_content(records[i], copies[i]);
            next += stride.predicted(records[i].next - records[i].position);
            FUZZ_CHECK(next == records[i].next);
        }
        if (count == 1) {
            reader_.advance(records[0]);
        } else {
            reader_.advance_to(next, count);
        }
        FUZZ_CHECK(reader_.position() == next);
        FUZZ_CHECK(reader_.expected() == records[count - 1].sequence + 1);
    }

    void look_for_news() {
        const bool news = call([&] { return reader_.news(); });
        FUZZ_CHECK(hostile_.disturbed() || news || !reader_.word_there());
    }

    static bool copy(const Record& record, std::byte* to) {
        if (record.topic_bytes > 0) {
            copy_untrusted(to, record.topic, record.topic_bytes);
        }
        if (record.payload_bytes > 0) {
            copy_untrusted(to + record.topic_bytes, record.payload, record.payload_bytes);
        }
        return true;
    }

    void check_content(const Record& record, const std::vector<std::byte>& copy) const {
        if (!other.honest) {
            return;
        }
        const u64 number = record.sequence - other.first_sequence;
        FUZZ_CHECK(number < other.written.size());
        const Other::Written& written = other.written[number];
        FUZZ_CHECK(record.position == written.position);
        FUZZ_CHECK(record.payload_bytes == written.payload_bytes);
        FUZZ_CHECK(record.topic_bytes == written.topic_bytes);
        for (u64 i = 0; i < copy.size(); i++) {
            const u64 index = i < record.topic_bytes ? i : i - record.topic_bytes;
            FUZZ_CHECK(copy[i] == pattern(record.sequence, index));
        }
    }

    /// Where a reader has come to is a boundary, if the writer is honest.
    void check_boundary(u64 position, u64 sequence) const {
        const u64 number = sequence - other.first_sequence;
        FUZZ_CHECK(number <= other.written.size());
        FUZZ_CHECK(position == (number == other.written.size() ? other.writer.position()
                                                               : other.written[number].position));
    }

    void moved(Resync result, u64 position, u64 expected, u64 lost) const {
        FUZZ_CHECK(!other.honest || result != Resync::corrupt);
        if (result != Resync::done) {
            FUZZ_CHECK(reader_.position() == position && reader_.expected() == expected);
            return;
        }
        FUZZ_CHECK(distance(reader_.position(), position) > 0);
        FUZZ_CHECK(reader_.expected() - expected == lost);
        FUZZ_CHECK(lost <= (reader_.position() - position) / 16);
        if (other.honest) {
            check_boundary(reader_.position(), reader_.expected());
        }
    }

    void resync() {
        const u64 position = reader_.position();
        const u64 expected = reader_.expected();
        u64 lost = 0;
        const Resync result = call([&] { return reader_.resync(lost); });
        moved(result, position, expected, lost);
        if (!hostile_.disturbed() && other.honest && !reader_.intact(position)) {
            FUZZ_CHECK(result == Resync::done);  // the writer stands still, and there is a mark
        }
    }

    void newest() {
        const u64 position = reader_.position();
        const u64 expected = reader_.expected();
        u64 passed = 0;
        const Resync result = call([&] { return reader_.go_to_newest(passed); });
        moved(result, position, expected, passed);
    }

    /// The daemon's part of a join; a reader that begins where it says.
    void settle(unsigned how) {
        const u64 history = std::array{u64{0}, u64{1}, u64{40}, ~u64{0}}[how];
        const Memory& memory = Memory::instance();
        const ReadableRing ring = reader_.ring();
        // Between [J1] and its look at attention a writer does not go beyond what is announced.
        other.may_raise = false;
        Start start;
        const bool good = call([&] {
            return settle_start(*ring.header, memory.last_copy(), kCapacity, ring.record_bytes_max,
                                first_, history, start);
        });
        other.may_raise = true;
        FUZZ_CHECK(good || !other.honest);
        if (!good) {
            return;
        }
        FUZZ_CHECK(start.position % kRecordAlignment == 0);
        if (other.honest && history == 0) {
            check_boundary(start.position, start.sequence);
        }
        reader_ = RingReader(ring, start.position, start.sequence);
        if (history != 0) {
            u64 lost = 0;
            Resync result = Resync::on_the_way;
            for (u64 steps = 0; result == Resync::on_the_way; steps++) {
                FUZZ_CHECK(steps <= kCapacity / 16 || !other.honest);
                result = steps <= kCapacity
                             ? call([&] { return reader_.pass_to_expected(1 + how, lost); })
                             : Resync::again;
            }
            FUZZ_CHECK(result != Resync::done || lost <= kCapacity / 16);
            if (result == Resync::done && other.honest) {
                check_boundary(reader_.position(), reader_.expected());
            }
        }
    }

    Input& input_;
    HostileMemory& hostile_ = HostileMemory::instance();
    Start first_;
    RingReader reader_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    Run run(input);
    while (!input.empty()) {
        run.step();
    }
    return 0;
}
