// SPDX-License-Identifier: Apache-2.0
// A reader's way through a ring: what is not on its hot path. The protocol is in ring_reader.hpp.
#include "protocol/ring_reader.hpp"

#include <algorithm>

namespace ipcbus::protocol {

namespace {

constexpr u64 kGapWord = record_word(sizeof(u64), 0, kRecordGap);

}  // namespace

RingReader::Look RingReader::odd_word(u64 position, u64 word, bool sequence_fits) const {
    if (!intact(position)) {
        return Look::lapped;
    }
    if (word == kGapWord && sequence_fits && relayed()) {
        return Look::lapped;
    }
    constexpr u16 kEnd = kRecordPresent | kRecordClosed;
    const bool end = word_flags(word) == kEnd && word_payload_bytes(word) == 0 &&
                     word_topic_bytes(word) == 0;
    return end && sequence_fits ? Look::closed : Look::corrupt;
}

/// Goes behind the gap at position(), if there is one.
bool RingReader::pass_gap(u64& ret_lost) {
    // [R1] acquire: what it says. Pairs with [W8].
    if (header_at(position_).word.load(std::memory_order_acquire) != kGapWord) {
        return false;
    }
    // relaxed: ordered by the word; checked by intact() if that is another's.
    const u64 sequence = header_at(position_).sequence.load(std::memory_order_relaxed);
    const u64 next =
        reinterpret_cast<const std::atomic<u64>*>(at(position_) + kRecordHeaderBytes)
            ->load(std::memory_order_relaxed);
    if (!intact(position_) || sequence != expected_ || distance(next, expected_) <= 0) {
        return false;
    }
    ret_lost = next - expected_;
    position_ += kGapBytes;
    expected_ = next;
    return true;
}

/// 0: there is none.
u64 RingReader::oldest_mark() const {
    // [R7] acquire: the marks are loaded after it.
    const u64 announced = header()->announced.load(std::memory_order_acquire);
    const u64 gone = announced - capacity_;
    u64 oldest = 0;
    for (const auto& word : header()->marks) {
        // [R7] acquire: the record that it names is there. Pairs with [W9].
        const u64 mark_untrusted = word.load(std::memory_order_acquire);
        const bool within = mark_untrusted % kRecordAlignment == 0 && mark_untrusted != 0 &&
                            distance(mark_untrusted, gone) >= 0 &&
                            distance(announced, mark_untrusted) > 0;
        if (within && (oldest == 0 || distance(oldest, mark_untrusted) > 0)) {
            oldest = mark_untrusted;
        }
    }
    return oldest;
}

RingReader::Resync RingReader::resync(u64& ret_lost) {
    if (relayed() && pass_gap(ret_lost)) {
        return Resync::done;
    }
    const u64 oldest = oldest_mark();
    return oldest == 0 ? Resync::again : go_to(oldest, ret_lost);
}

RingReader::Resync RingReader::pass_to_expected(u64 records_max, u64& ret_lost) {
    const u64 begin = position_;
    if (!intact(begin)) {
        return resync(ret_lost);
    }
    // [R9] acquire: what stands there was there before the mark.
    u64 sequence = header_at(begin).sequence.load(std::memory_order_acquire);
    if (!intact(begin)) {
        return Resync::again;
    }
    if (expected_ - sequence > capacity_ / kRecordHeaderBytes) {
        return Resync::corrupt;  // a ring does not hold so many; or what is wanted stands before it
    }
    u64 position = begin;
    Record record;
    while (sequence != expected_ && records_max != 0 &&
           look_at(position, sequence, record) == Look::record) {
        position = record.next;
        sequence++;
        records_max--;
    }
    if (!intact(begin)) {
        return Resync::again;
    }
    if (sequence != expected_ && records_max != 0) {
        return Resync::corrupt;  // all of it was there when this reader was told to begin
    }
    position_ = position;
    if (sequence != expected_) {
        return Resync::on_the_way;
    }
    ret_lost = 0;
    return Resync::done;
}

RingReader::Resync RingReader::go_to_newest(u64& ret_passed) {
    // [R8] acquire: the record that it names is there. Pairs with [W10].
    const u64 newest_untrusted = header()->newest.load(std::memory_order_acquire);
    if (newest_untrusted % kRecordAlignment != 0) {
        return Resync::corrupt;
    }
    // 0, none yet, is behind the ring (join.cpp).
    const u64 announced = header()->announced.load(std::memory_order_acquire);
    if (distance(newest_untrusted, announced - capacity_) < 0 ||
        distance(announced, newest_untrusted) <= 0) {
        return Resync::again;
    }
    return go_to(newest_untrusted, ret_passed);
}

u64 RingReader::records_to_newest() const {
    // acquire: as [R8]. Its sequence may be torn, and position() overtaken: bounded by what fits.
    const u64 newest_untrusted = header()->newest.load(std::memory_order_acquire);
    const i64 bytes = distance(newest_untrusted, position_);
    if (newest_untrusted % kRecordAlignment != 0 || bytes < 0) {
        return 0;
    }
    const u64 fit = std::min<u64>(static_cast<u64>(bytes), capacity_) / kRecordHeaderBytes;
    const u64 records = header_at(newest_untrusted).sequence.load(std::memory_order_relaxed) -
                        header_at(position_).sequence.load(std::memory_order_relaxed);
    return std::min(fit, records) + 1;
}

/// `position` is within the ring, perhaps a boundary. Forward only.
RingReader::Resync RingReader::go_to(u64 position, u64& ret_skipped) {
    if (distance(position, position_) <= 0) {
        return Resync::again;
    }
    const u64 sequence = header_at(position).sequence.load(std::memory_order_acquire);
    if (!intact(position)) {
        return Resync::again;
    }
    // Every record takes at least 16 bytes: a sequence that is further on than that is a lie, and
    // so is one that goes back. But where there are gaps.
    const i64 skipped = distance(sequence, expected_);
    if (skipped < 0 ||
        (skipped > distance(position, position_) / i64{kRecordHeaderBytes} && !relayed())) {
        return Resync::corrupt;
    }
    ret_skipped = static_cast<u64>(skipped);
    position_ = position;
    expected_ = sequence;
    return Resync::done;
}

}  // namespace ipcbus::protocol
