// SPDX-License-Identifier: Apache-2.0
// What the daemon told in one look: entries as they came (protocol/wire_look.hpp), by kind and in
// the order of their ids, each with the moment it is of. Plain values, of ipcbus-stat's one thread.
#pragma once

#include "protocol/wire_look.hpp"

#include <algorithm>
#include <vector>

namespace ipcbus::stats {

using protocol::i64;
using protocol::u64;

template <class Entry>
struct Timed {
    Entry entry;
    u64 time_ns = 0;  ///< of the daemon's clock
};

struct State {
    protocol::Id128 bus{};
    u64 own_client = 0;  ///< who asked
    i64 since_1970_ns = 0;
    bool all = true;  ///< else it is what belongs to the uid of who asked
    std::vector<Timed<protocol::ClientEntry>> clients;
    std::vector<Timed<protocol::PublicationEntry>> publications;
    std::vector<Timed<protocol::SubscriptionEntry>> subscriptions;
    std::vector<Timed<protocol::AttachmentEntry>> attachments;
};

inline u64 id_of(const protocol::ClientEntry& entry) { return entry.client; }
inline u64 id_of(const protocol::PublicationEntry& entry) { return entry.publication; }
inline u64 id_of(const protocol::SubscriptionEntry& entry) { return entry.subscription; }
inline u64 id_of(const protocol::AttachmentEntry& entry) { return entry.attachment; }

/// Null: there is none with that id.
template <class Entry>
[[nodiscard]] const Timed<Entry>* find(const std::vector<Timed<Entry>>& sorted, u64 id) {
    const auto place = std::lower_bound(
        sorted.begin(), sorted.end(), id,
        [](const Timed<Entry>& one, u64 wanted) { return id_of(one.entry) < wanted; });
    return place != sorted.end() && id_of(place->entry) == id ? &*place : nullptr;
}

}  // namespace ipcbus::stats
