// SPDX-License-Identifier: Apache-2.0
// For the fuzzers of what lies outside of rings: cursor slots, doorbells and the words of a ring's
// header, each in an allocation of its own so that AddressSanitizer guards its ends, and the lies
// that others may write there. To be included by one file of a program. One thread.
#pragma once

#include "load_hook.hpp"

#include "protocol/layout.hpp"

#include <memory>

namespace ipcbus::fuzz {

using namespace ipcbus::protocol;

inline constexpr u32 kSlots = 6;
inline constexpr u32 kWaiters = 3;
inline constexpr u64 kCapacity = kRingBytesMin;
/// A few for each attachment, one for each word of a bitmap.
inline constexpr unsigned kLoadsMax = 300;

/// As a reader maps it.
struct RingPages {
    RingHeader header;
    alignas(kPageBytes) RecordHeader data[kCapacity / kRecordAlignment];
};

struct Pages {
    std::unique_ptr<CursorSlot[]> slots = std::make_unique<CursorSlot[]>(kSlots);
    std::unique_ptr<std::atomic<u32>[]> asleep = std::make_unique<std::atomic<u32>[]>(kWaiters);
    std::unique_ptr<DoorbellWaiter[]> waiters = std::make_unique<DoorbellWaiter[]>(kWaiters);
    std::unique_ptr<DoorbellPublication> publication = std::make_unique<DoorbellPublication>();
    std::unique_ptr<RingPages> ring = std::make_unique<RingPages>();

    template <class T>
    static HostileMemory::Range range(const T* begin, std::size_t count) {
        return {reinterpret_cast<const std::byte*>(begin), sizeof(T) * count};
    }
    [[nodiscard]] HostileMemory::Ranges ranges() const {
        return {range(slots.get(), kSlots), range(asleep.get(), kWaiters),
                range(waiters.get(), kWaiters), range(publication.get(), 1), range(ring.get(), 1)};
    }
};
inline Pages* pages = nullptr;
inline u64 position = 0;  ///< the writer's
/// Not where the pages are the reader's own: there, nobody else can write its cursor page.
inline bool cursor_page_changes = true;

/// A position that may be believed, or not; a `parked` word; bits; noise.
inline u64 lie(const HostileMemory::Change& change) {
    switch (change.kind % 8) {
    case 0:
        return 0;
    case 1:
        return position - u64{change.value % 300u} * 16;
    case 2:
        return position + u64{change.value % 300u} * 16;
    case 3:
        return parked_word(change.value % 8, change.value / 8 % (kWaiters + 2));
    case 4:
        return parked_word(change.value, change.what);
    case 5:
        return u64{1} << (change.value % 64);
    case 6:
        return ~u64{0};
    default:
        return u64{change.value} << (change.what % 49);
    }
}

inline void hostile_store(const HostileMemory::Change& change) {
    const u64 value = lie(change);
    const u32 which = change.what / 16;
    DoorbellWaiter& waiter = pages->waiters[which % kWaiters];
    switch (cursor_page_changes ? change.what % 16 : 7 + change.what % 9) {
    case 0:
    case 1:
    case 2:
        pages->slots[which % kSlots].cursor.store(value);
        break;
    case 3:
    case 4:
    case 5:
        pages->slots[which % kSlots].parked.store(value);
        break;
    case 6:
        pages->asleep[which % kWaiters].store(static_cast<u32>(value));
        break;
    case 7:
        pages->publication->sleepers.store(static_cast<u32>(value));
        break;
    case 8:
        waiter.bell.store(static_cast<u32>(value));
        break;
    case 9:
        waiter.summary.store(value);
        break;
    case 10:
    case 11:
        waiter.activity[change.value % kActivityWords].store(value);
        break;
    case 12:
        pages->ring->header.announced.store(kCapacity + value);
        break;
    case 13:
        pages->ring->header.wanted.store(value);
        break;
    default:
        pages->ring->data[change.value % 64].word.store(value);
        break;
    }
}

template <class Call>
auto during(Call&& call) {
    return HostileMemory::instance().during(kLoadsMax, call);
}
inline bool disturbed() { return HostileMemory::instance().disturbed(); }

/// Runs an input over fresh pages: operations of `Side`, each with changes of the memory.
template <class Side>
void run_over_pages(Input& input) {
    Pages fresh;
    pages = &fresh;
    position = input.flag() ? kCapacity : u64{0} - 4096;
    HostileMemory::instance().set_ranges(fresh.ranges());
    {
        Side side;
        while (!input.empty()) {
            for (std::size_t i = input.below(4); i > 0; i--) {
                HostileMemory::Change change;
                change.delay = static_cast<std::uint8_t>(input.below(24));
                change.kind = input.byte();
                change.what = input.byte();
                change.value = input.u16();
                change.make = hostile_store;
                HostileMemory::instance().add(change);
            }
            side.step(input);
        }
    }
    // What was not due before belongs to no call any more.
    (void)during([] { return true; });
    pages = nullptr;
}

}  // namespace ipcbus::fuzz
