// SPDX-License-Identifier: Apache-2.0
// What the lock-free core runs on, without a daemon: a mirrored ring over one memfd, and the pages
// of a client (cursor page, doorbell page, mailbox) in plain memory. ThreadSanitizer sees nothing
// across two mappings of one memory, so the threads of a race test share these.
// Owned by one test; what lies inside follows the rules of layout.hpp.
#pragma once

#include "protocol/ring_publisher.hpp"
#include "protocol/ring_reader.hpp"
#include "protocol/waiter.hpp"
#include "ring_origin.hpp"
#include "sys/mapping.hpp"
#include "sys/memfd.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

namespace ipcbus::test {

using protocol::i64;
using protocol::u16;
using protocol::u32;
using protocol::u64;
using protocol::u8;

/// Where a test finds a ring: born at its capacity, or come to where it crosses the edge of
/// 32 bits, or of 64, within the next lap.
enum class Origin { capacity, below_2_32, below_2_64 };
constexpr u64 origin_position(Origin origin, u64 capacity) {
    switch (origin) {
        case Origin::capacity: return capacity;
        case Origin::below_2_32: return (u64{1} << 32) - capacity / 2 + 16;
        case Origin::below_2_64: return u64{0} - capacity / 2 + 16;
    }
    return capacity;
}

inline constexpr Origin kOrigins[] = {Origin::capacity, Origin::below_2_32, Origin::below_2_64};

/// Runs the test case once with each. For test cases without other SUBCASEs: doctest does not try
/// every combination of two groups of them.
inline Origin each_origin() {
    Origin origin = Origin::capacity;
    SUBCASE("from the capacity") { origin = Origin::capacity; }
    SUBCASE("over 2^32") { origin = Origin::below_2_32; }
    SUBCASE("over 2^64") { origin = Origin::below_2_64; }
    return origin;
}

/// The mirrored memory of one ring, formatted.
class TestRing {
public:
    explicit TestRing(u64 capacity, u64 origin = 0, u64 first_sequence = 1, u64 record_max = 0)
        : capacity_(capacity),
          origin_(origin == 0 ? capacity : origin),
          first_sequence_(first_sequence),
          record_max_(record_max == 0 ? protocol::record_bytes_max(capacity) : record_max) {
        fd_ = taken(sys::create_memfd("test-ring", protocol::kRingDataOffset + capacity));
        memory_ = taken(sys::map_ring(fd_.get(), protocol::kRingDataOffset, capacity,
                                      sys::Access::read_write));
        protocol::RingWriter::format(writable(), origin_, first_sequence_, 7, record_max_);
        come_to(writable(), origin_, first_sequence_);
    }
    TestRing(u64 capacity, Origin origin) : TestRing(capacity, origin_position(origin, capacity)) {}

    [[nodiscard]] protocol::RingHeader& header() const {
        return *reinterpret_cast<protocol::RingHeader*>(memory_.header());
    }
    [[nodiscard]] std::byte* data() const { return memory_.data(); }
    [[nodiscard]] u64 capacity() const { return capacity_; }
    [[nodiscard]] u64 origin() const { return origin_; }
    [[nodiscard]] u64 first_sequence() const { return first_sequence_; }
    [[nodiscard]] u64 record_max() const { return record_max_; }
    [[nodiscard]] protocol::WritableRing writable() const {
        return {&header(), memory_.data(), capacity_};
    }
    [[nodiscard]] protocol::ReadableRing readable() const {
        return {&header(), memory_.data(), capacity_, record_max_};
    }
    [[nodiscard]] protocol::RingWriter writer() const {
        return {writable(), origin_, first_sequence_, record_max_};
    }
    [[nodiscard]] protocol::RingReader reader() const {
        return {readable(), origin_, first_sequence_};
    }
    [[nodiscard]] protocol::RecordHeader& record_at(u64 position) const {
        return *reinterpret_cast<protocol::RecordHeader*>(memory_.data() +
                                                          (position & (capacity_ - 1)));
    }
    /// A second mapping of the same memory, as a reader in another process has it.
    [[nodiscard]] sys::RingMapping map_again() const {
        return taken(sys::map_ring(fd_.get(), protocol::kRingDataOffset, capacity_,
                                   sys::Access::read_only));
    }

private:
    template <class T>
    static T taken(sys::Result<T>&& result) {
        if (!result.ok()) {
            std::fprintf(stderr, "test ring: %s\n", result.error().what.c_str());
            std::abort();
        }
        return std::move(result).value();
    }

    u64 capacity_;
    u64 origin_;
    u64 first_sequence_;
    u64 record_max_;
    sys::UniqueFd fd_;
    sys::RingMapping memory_;
};

/// The pages of one client, zeroed: the daemon's part of the work.
class TestClient {
public:
    explicit TestClient(protocol::Geometry geometry = {4, 4, 64})
        : geometry_(geometry),
          cursor_(zeroed(protocol::cursor_bytes(geometry))),
          doorbell_(zeroed(protocol::doorbell_bytes(geometry))),
          mailbox_(zeroed(protocol::mailbox_bytes(geometry))),
          waiters_{&asleep(0), &waiter(0), geometry.waiters_max} {
        for (u32 index = 0; index < geometry.publications_max; index++) {
            writer_words_.push_back({&publication(index), &waiter(0).bell});
        }
    }
    TestClient(const TestClient&) = delete;
    TestClient& operator=(const TestClient&) = delete;

    [[nodiscard]] const protocol::Geometry& geometry() const { return geometry_; }
    [[nodiscard]] std::atomic<u32>& asleep(u32 waiter) const {
        return at<std::atomic<u32>>(cursor_, protocol::asleep_offset(geometry_, waiter));
    }
    [[nodiscard]] protocol::CursorSlot& slot(u32 number) const {
        return at<protocol::CursorSlot>(cursor_, protocol::slot_offset(number));
    }
    [[nodiscard]] protocol::DoorbellWaiter& waiter(u32 number) const {
        return at<protocol::DoorbellWaiter>(doorbell_, protocol::waiter_offset(number));
    }
    [[nodiscard]] protocol::DoorbellPublication& publication(u32 index) const {
        return at<protocol::DoorbellPublication>(doorbell_,
                                                 protocol::sleepers_offset(geometry_, index));
    }
    [[nodiscard]] protocol::MailboxPublication& mailbox(u32 index) const {
        return at<protocol::MailboxPublication>(mailbox_, protocol::attention_offset(index));
    }

    [[nodiscard]] protocol::Waiter::Words waiter_words(u32 number) const {
        return {&waiter(number), &asleep(number), number};
    }
    [[nodiscard]] protocol::RingPublisher::Words publisher_words(u32 waiter_number,
                                                                 u32 index) const {
        return {&mailbox(index), &publication(index), &waiter(waiter_number).bell,
                &asleep(waiter_number)};
    }
    /// The words of an attachment in `slot_number` of this client, to publication `index` of
    /// `writer`, whose waiter 0 is the one to ring.
    [[nodiscard]] protocol::Attachment::Words attachment_words(u32 slot_number,
                                                               const TestClient& writer,
                                                               u32 index) const {
        return {&slot(slot_number), &writer.writer_words_[index],
                slot_number % protocol::kActivityBits};
    }
    /// The same attachment as its writer knows it.
    [[nodiscard]] protocol::ReaderEntry entry(u64 attachment, u32 slot_number, u64 start,
                                              bool reliable = true) const {
        return {attachment, &slot(slot_number), &waiters_, slot_number % protocol::kActivityBits,
                start, reliable};
    }

private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    using Pages = std::unique_ptr<void, Free>;

    static Pages zeroed(u64 bytes) {
        void* memory = std::aligned_alloc(protocol::kPageBytes, bytes);
        if (memory == nullptr) {
            std::abort();
        }
        std::memset(memory, 0, bytes);
        return Pages(memory);
    }
    template <class T>
    static T& at(const Pages& pages, u64 offset) {
        return *reinterpret_cast<T*>(static_cast<std::byte*>(pages.get()) + offset);
    }

    protocol::Geometry geometry_;
    Pages cursor_;
    Pages doorbell_;
    Pages mailbox_;
    protocol::PeerWaiters waiters_;
    std::vector<protocol::WriterWords> writer_words_;  ///< of each publication, waiter 0
};

/// A daemon that has nothing to say, and remembers what it is told.
struct QuietControl : protocol::Control {
    virtual ~QuietControl() = default;
    Heard take_in(u64) override {
        taken_in++;
        return Heard::hung_up;
    }
    Heard look() override {
        looks++;
        return Heard::nothing;
    }
    void complain(const protocol::ReaderTable::Fault& fault) override { faults.push_back(fault); }
    bool is_own(u64 attachment) override { return attachment == own; }

    std::vector<protocol::ReaderTable::Fault> faults;
    u64 own = 0;
    unsigned taken_in = 0;
    std::atomic<unsigned> looks{0};
};

/// Nothing but the rings ends a sleep.
struct Nowhere : protocol::Elsewhere {
    virtual ~Nowhere() = default;
    bool look() override { return false; }
};

/// Byte `index` of the payload of record `sequence`: told by neither alone, never zero.
constexpr std::byte pattern(u64 sequence, u64 index) {
    return static_cast<std::byte>(1 + (sequence * 31 + index * 7 + (index >> 8)) % 255);
}

/// Writes a payload as a publisher would; through copy_untrusted, since ThreadSanitizer would
/// report a lapped reader, which looks where another record is being written, as a race.
inline void fill(std::byte* to, u64 sequence, u64 bytes) {
    std::byte block[64];
    for (u64 done = 0; done < bytes;) {
        const u64 part = std::min<u64>(sizeof block, bytes - done);
        for (u64 i = 0; i < part; i++) {
            block[i] = pattern(sequence, done + i);
        }
        protocol::copy_untrusted(to + done, block, part);
        done += part;
    }
}

/// Whether a payload, copied out before, is the one of that record.
inline bool is_filled(const std::byte* from, u64 sequence, u64 bytes) {
    for (u64 i = 0; i < bytes; i++) {
        if (from[i] != pattern(sequence, i)) {
            return false;
        }
    }
    return true;
}

/// Publishes one record of `bytes` payload if the room is there or can be raised to `smallest`.
inline bool publish(protocol::RingWriter& writer, u64 bytes, u64 smallest, u64 topic_bytes = 0) {
    const u64 record = protocol::record_bytes(topic_bytes, bytes);
    if (!writer.has_room(record) && !writer.raise(record, smallest)) {
        return false;
    }
    fill(writer.topic(), writer.sequence(), topic_bytes);
    fill(writer.payload(topic_bytes), writer.sequence(), bytes);
    writer.commit(static_cast<u16>(topic_bytes), static_cast<u32>(bytes));
    return true;
}
/// The same, with nobody who would hold the writer back.
inline void publish_over(protocol::RingWriter& writer, u64 bytes) {
    if (!publish(writer, bytes, writer.position())) {
        std::abort();
    }
}

/// One receive, as the library does it: look, copy, check, go on. A record's payload is then in
/// `ret_payload`, and is one that the reader may believe.
inline protocol::RingReader::Look receive(protocol::RingReader& reader,
                                          protocol::Record& ret_record,
                                          std::vector<std::byte>& ret_payload) {
    using Look = protocol::RingReader::Look;
    const Look look = reader.look(ret_record);
    if (look != Look::record) {
        return look;
    }
    ret_payload.resize(ret_record.payload_bytes);
    if (!ret_payload.empty()) {
        protocol::copy_untrusted(ret_payload.data(), ret_record.payload, ret_payload.size());
    }
    if (!reader.intact(ret_record.position)) {
        return Look::lapped;
    }
    reader.advance(ret_record);
    return Look::record;
}

/// How long a race test runs: `seconds`, or IPCBUS_TEST_SECONDS for a thorough one.
inline double race_seconds(double seconds) {
    const char* wanted = std::getenv("IPCBUS_TEST_SECONDS");
    return wanted != nullptr ? std::atof(wanted) : seconds;
}
inline bool thorough() { return std::getenv("IPCBUS_TEST_SECONDS") != nullptr; }
/// The seed of a random test: fixed, or IPCBUS_TEST_SEED. Tests name it when they fail.
inline u32 race_seed() {
    const char* wanted = std::getenv("IPCBUS_TEST_SEED");
    return wanted != nullptr ? static_cast<u32>(std::strtoul(wanted, nullptr, 10)) : 20240229;
}

}  // namespace ipcbus::test
