// SPDX-License-Identifier: Apache-2.0
// The writer's view of its readers: cursors, stalls, rounds. The protocol is in reader_table.hpp.
#include "protocol/reader_table.hpp"

#include "sys/room.hpp"

#include <algorithm>
#include <utility>

namespace ipcbus::protocol {

void ReaderTable::add(const ReaderEntry& entry) {
    if (contains(entry.attachment)) {
        return;
    }
    sys::make_room(readers_);
    readers_.push_back(Reader{.attachment = entry.attachment,
                              .slot = entry.slot,
                              .waiters = entry.waiters,
                              .cursor = entry.start,
                              .bit = static_cast<u16>(entry.bit),
                              .reliable = entry.reliable,
                              .owed_from = entry.start,
                              .owed_to = entry.start});
    changes_++;
    round_due_ = true;
}

const PeerWaiters* ReaderTable::remove(u64 attachment) {
    changes_++;
    const auto found =
        std::find_if(readers_.begin(), readers_.end(), [attachment](const Reader& reader) {
            return reader.attachment == attachment;
        });
    if (found == readers_.end()) {
        return nullptr;
    }
    const PeerWaiters* const waiters = found->waiters;
    readers_.erase(found);
    sys::give_back_room(readers_);
    return waiters;
}

bool ReaderTable::contains(u64 attachment) const {
    return std::any_of(readers_.begin(), readers_.end(), [attachment](const Reader& reader) {
        return reader.attachment == attachment;
    });
}

bool ReaderTable::knows(const PeerWaiters& waiters) const {
    return std::any_of(readers_.begin(), readers_.end(),
                       [&waiters](const Reader& reader) { return reader.waiters == &waiters; });
}

void ReaderTable::address(u64 attachment, u64 part, u64 end) {
    for (Reader& reader : readers_) {
        if (attachment != 0 && reader.attachment != attachment) {
            continue;
        }
        if (owes(reader)) {
            look(reader, end);
        }
        if (!owes(reader)) {
            reader.owed_from = part;
            changes_++;
        }
        reader.owed_to = end;
        if (attachment != 0) {
            return;
        }
    }
}

void ReaderTable::look_before(u64 floor, u64 position) {
    for (Reader& reader : readers_) {
        if (!reader.reliable && is_behind(reader, floor)) {
            look(reader, position);
        }
    }
}

u64 ReaderTable::wanted(u64 needed) const {
    if (!addressed_) {
        return needed;
    }
    u64 first = needed;
    for (const Reader& reader : readers_) {
        if (in_the_way(reader, needed) && distance(reader.owed_to, first) < 0) {
            first = reader.owed_to;
        }
    }
    return first;
}

/// A cursor of one that does not count is looked at, too, but believed only where it is possible.
void ReaderTable::look(Reader& reader, u64 position) {
    // [W1] acquire: as in smallest_cursor().
    const u64 cursor_untrusted = reader.slot->cursor.load(std::memory_order_acquire);
    if (cursor_untrusted != 0 && distance(cursor_untrusted, reader.cursor) > 0 &&
        distance(cursor_untrusted, position) <= 0) {
        move(reader, cursor_untrusted);
    }
}

/// Below its hold it frees nothing, however often it moves: there it stands still.
void ReaderTable::move(Reader& reader, u64 cursor) {
    if (distance(cursor, hold(reader)) >= 0) {
        moves_++;
        reader.moved = true;
    }
    reader.cursor = cursor;
}

u64 ReaderTable::smallest_cursor(u64 position) {
    u64 smallest = position;
    for (Reader& reader : readers_) {
        if (!counts(reader)) {
            continue;
        }
        // [W1] acquire: the reads below the cursor are done. Pairs with [R6].
        const u64 cursor_untrusted = reader.slot->cursor.load(std::memory_order_acquire);
        const u64 cursor = cursor_untrusted == 0 ? reader.cursor : cursor_untrusted;
        if (distance(cursor, reader.cursor) < 0 || distance(cursor, position) > 0) {
            reader.reliable = false;
            faults_.push_back({reader.attachment, Complaint::bad_cursor});
            continue;
        }
        if (cursor != reader.cursor) {
            move(reader, cursor);
        }
        if (counts(reader) && distance(smallest, hold(reader)) > 0) {
            smallest = hold(reader);
        }
    }
    return smallest;
}

void ReaderTable::begin_slices() {
    for (Reader& reader : readers_) {
        reader.slices = 0;
        reader.moved = false;
    }
}

void ReaderTable::count_slice(u64 position) {
    for (Reader& reader : readers_) {
        const bool still = !std::exchange(reader.moved, false) && has_more(reader, position);
        reader.slices = still ? reader.slices + 1 : 0;
    }
}

bool ReaderTable::all_move(u64 position) {
    bool all = true;
    for (Reader& reader : readers_) {
        if (std::exchange(reader.moved, false) || !has_more(reader, position)) {
            reader.slices = 0;
        }
        all = all && reader.slices == 0;
    }
    return all;
}

void ReaderTable::round(DoorbellPublication& own) {
    round_due_ = false;
    // [P2] acquire, and before any `parked` is loaded. Pairs with [S4].
    own.sleepers.exchange(0, std::memory_order_acquire);
    for (Reader& reader : readers_) {
        // [P3] relaxed: ordered by the exchange.
        const u64 parked_untrusted = reader.slot->parked.load(std::memory_order_relaxed);
        if (is_parked(parked_untrusted) && parked_untrusted != reader.rung) {
            reader.rung = parked_untrusted;  // [P4] the value loaded, not one loaded again
            ring(reader);
        }
    }
}

void ReaderTable::ring(Reader& reader) {
    const u32 number = parked_waiter(reader.rung);
    if (number >= reader.waiters->waiters_max ||
        (guard_ != nullptr && !guard_->there(*reader.waiters, number))) {
        return;
    }
    DoorbellWaiter& waiter = reader.waiters->doorbell[number];
    const u32 bit = reader.bit;
    // [P5] release: the record. Pairs with [A2].
    waiter.activity[bit / 64].fetch_or(u64{1} << (bit % 64), std::memory_order_release);
    // [P6] release, after the bit. Pairs with [A1].
    waiter.summary.fetch_or(u64{1} << (bit / 64), std::memory_order_release);
    full_fence();  // [P7] pairs with [S5]
    // [P8] relaxed: ordered by the fence.
    if ((reader.waiters->asleep[number].load(std::memory_order_relaxed) & 1) != 0) {
        ring_bell(waiter.bell);
    }
}

}  // namespace ipcbus::protocol
