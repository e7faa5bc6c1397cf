// SPDX-License-Identifier: Apache-2.0
// What a subscriber remembers of publications whose ring it has let go of: the sequence that comes
// next, so that what was missed on the way into the publication's next ring is told exactly. Owned
// by a subscriber, used by its thread.
#pragma once

#include "protocol/wire.hpp"

#include <algorithm>
#include <compare>
#include <cstddef>
#include <vector>

namespace ipcbus::client {

using protocol::u32;
using protocol::u64;

/// What tells that two rings are of one publication. The uid is the kernel's word: nobody can pass
/// for a publication of another uid by repeating its lineage.
struct Lineage {
    u32 uid = 0;
    protocol::Id128 id{};
    auto operator<=>(const Lineage&) const = default;
};

/// Nobody tells which publications go on: so it is bounded. The first to be forgotten are those
/// that closed their ring in good order: their next ring was there already, or they have ended.
/// Those whose publisher just was not there any more go last, for it may come back after hours.
/// A publication that was forgotten begins as a new one: what was missed of it is not told.
class Expectations {
public:
    /// So many are remembered however few were ever attached at once.
    static constexpr std::size_t kLeast = 256;

    /// The sequence that `lineage` goes on with, nullptr if it is not known. Valid until the next
    /// change.
    [[nodiscard]] const u64* find(const Lineage& lineage) const {
        const auto known = place(lineage);
        return known == entries_.end() ? nullptr : &known->next;
    }
    /// Its ring has been read up to `next`; never goes back. `attached` were attached at once.
    void remember(const Lineage& lineage, u64 next, bool closed, std::size_t attached);
    void forget(const Lineage& lineage) {
        if (const auto known = place(lineage); known != entries_.end()) {
            entries_.erase(known);
        }
    }
    [[nodiscard]] std::size_t size() const { return entries_.size(); }

private:
    struct Entry {
        Lineage lineage;
        bool closed;
        u64 next;
    };
    static_assert(sizeof(Entry) == 32);

    [[nodiscard]] std::vector<Entry>::const_iterator place(const Lineage& lineage) const {
        return std::find_if(entries_.begin(), entries_.end(),
                            [&](const Entry& entry) { return entry.lineage == lineage; });
    }

    std::vector<Entry> entries_;  ///< the oldest first
    std::size_t most_ = kLeast;
};

inline void Expectations::remember(const Lineage& lineage, u64 next, bool closed,
                                   std::size_t attached) {
    most_ = std::max(most_, attached);
    if (const auto known = place(lineage); known != entries_.end()) {
        Entry& entry = entries_[static_cast<std::size_t>(known - entries_.begin())];
        entry.closed = closed;
        if (protocol::distance(next, entry.next) > 0) {
            entry.next = next;
        }
        return;
    }
    if (entries_.size() >= most_) {
        const auto first_closed = std::find_if(entries_.begin(), entries_.end(),
                                               [](const Entry& entry) { return entry.closed; });
        entries_.erase(first_closed != entries_.end() ? first_closed : entries_.begin());
    }
    entries_.push_back({lineage, closed, next});
}

}  // namespace ipcbus::client
