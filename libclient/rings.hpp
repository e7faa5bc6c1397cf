// SPDX-License-Identifier: Apache-2.0
// Rings: the rings that the attachments of one link read. A Ring is mapped once, however many
// subscriptions of this client read it, and holds what is the same for all of them. Part of a Link,
// which it keeps alive while there is a ring. Any thread: one lock for all rings of the process,
// which nothing is waited for under.
#pragma once

#include "lineage.hpp"
#include "peer_pages.hpp"
#include "sys/mapping.hpp"

#include <memory>
#include <string_view>
#include <vector>

namespace ipcbus::client {

class Link;
class Rings;

/// What a ring is known by.
struct RingKey {
    Lineage lineage;
    u64 publication = 0;
    auto operator<=>(const RingKey&) const = default;
};

/// The length of its topic and the topic stand behind it. Constant but for the count of its
/// attachments, which is under the lock and a word of its own: the rest is read without it.
class Ring final : public protocol::WriterWords {
public:
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    [[nodiscard]] RingKey key() const { return {lineage_, publication_}; }
    [[nodiscard]] u64 publication_number() const { return publication_; }
    [[nodiscard]] const Lineage& lineage() const { return lineage_; }
    [[nodiscard]] Link& link() const { return link_; }
    [[nodiscard]] std::string_view topic() const {
        return {topic_text(), *reinterpret_cast<const u8*>(this + 1)};
    }
    /// The same, with a zero behind it.
    [[nodiscard]] const char* topic_text() const {
        return reinterpret_cast<const char*>(this + 1) + 1;
    }
    [[nodiscard]] protocol::ReadableRing readable(u32 record_bytes_max) const;

private:
    friend class Rings;
    Ring(Link& link, const protocol::Attached& told, sys::RingMapping&& mapped,
         sys::Ref<PeerPages>&& pages);
    ~Ring() = default;
    static Ring* make(Link& link, const protocol::Attached& told, sys::RingMapping&& mapped,
                      sys::Ref<PeerPages>&& pages);
    static void destroy(const Ring& ring);

    Link& link_;
    sys::Ref<PeerPages> pages_;  ///< its writer's
    sys::RingMapping mapped_;
    u64 publication_;
    Lineage lineage_;
    mutable u32 attachments_ = 0;
};
static_assert(sizeof(Ring) == 80 && protocol::kTopicBytesMax < 256);

/// One attachment's count of a ring: given back when nobody has taken it over.
struct RingGiver {
    void operator()(const Ring* ring) const;
};
using CountedRing = std::unique_ptr<const Ring, RingGiver>;

class Rings {
public:
    Rings() = default;
    ~Rings();
    Rings(const Rings&) = delete;
    Rings& operator=(const Rings&) = delete;

    /// The ring that `told` is about, for one more attachment: mapped from `fd`, unless it is
    /// already. `pages`: its writer's.
    [[nodiscard]] sys::Result<CountedRing> take(const std::shared_ptr<Link>& link,
                                                const protocol::Attached& told, int fd,
                                                sys::Ref<PeerPages>&& pages);
    /// One attachment less: unmapped after the last. Perhaps the end of the link, too.
    static void give(const Ring& ring);
    /// Whether another attachment of this link reads it, too, or another ring of its lineage.
    [[nodiscard]] static bool is_one_of_several(const Ring& ring);

private:
    std::vector<Ring*> rings_;    ///< sorted by their keys; those of a relay may have the same
    std::shared_ptr<Link> link_;  ///< while there are any
};

}  // namespace ipcbus::client
