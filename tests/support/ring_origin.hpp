// SPDX-License-Identifier: Apache-2.0
// Rings whose positions are about to pass an edge. A ring is born at position = capacity: further
// on it is only when records have brought it there, and so `newest` names one of them. Belongs to
// whoever makes a ring for a test.
#pragma once

#include "protocol/ring_writer.hpp"

namespace ipcbus::test {

/// A ring just formatted for `origin` becomes one that has come there: with the record before.
inline void come_to(const protocol::WritableRing& ring, protocol::u64 origin,
                    protocol::u64 first_sequence) {
    if (origin == ring.capacity) {
        return;
    }
    const protocol::u64 before = origin - protocol::kRecordHeaderBytes;
    auto& record = *reinterpret_cast<protocol::RecordHeader*>(
        ring.data + (before & (ring.capacity - 1)));
    record.word.store(protocol::record_word(0, 0, 0));
    record.sequence.store(first_sequence - 1);
    ring.header->newest.store(before);
}

}  // namespace ipcbus::test
