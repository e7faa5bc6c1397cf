// SPDX-License-Identifier: Apache-2.0
// Mapping the rings that a link's attachments read. See rings.hpp.
#include "rings.hpp"

#include "link.hpp"
#include "sys/memfd.hpp"
#include "sys/room.hpp"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>

namespace ipcbus::client {

using sys::fail;
using sys::Result;

namespace {

/// A child of fork may still close what it has inherited: it must not find the lock taken.
std::mutex& rings_mutex() {
    static std::mutex* const mutex = [] {
        auto* made = new std::mutex;  // never freed: handlers of a fork cannot be taken back
        (void)::pthread_atfork([] { rings_mutex().lock(); }, [] { rings_mutex().unlock(); },
                               [] { rings_mutex().unlock(); });
        return made;
    }();
    return *mutex;
}

/// A ring as it must be: of a size that nobody can change any more, and written by nobody new.
Result<sys::RingMapping> map_sealed(int fd, u64 ring_bytes) {
    if (const Result<void> sealed = sys::expect_seals(fd, sys::kSealsRing); !sealed.ok()) {
        return fail(EPROTO, "its ring is not sealed as it was: " + sealed.error().what);
    }
    sys::RingMapping mapped = IPCBUS_TRY(
        sys::map_ring(fd, protocol::kRingDataOffset, ring_bytes, sys::Access::read_only));
    if (reinterpret_cast<const protocol::RingHeader*>(mapped.header())->incompatible_flags != 0) {
        return fail(EPROTONOSUPPORT, "its ring is of a newer version");
    }
    return mapped;
}

bool is_before(const Ring* ring, const RingKey& key) { return ring->key() < key; }

}  // namespace

// --------------------------------------------------------------------------------------- Ring

Ring::Ring(Link& link, const protocol::Attached& told, sys::RingMapping&& mapped,
           sys::Ref<PeerPages>&& pages)
    : WriterWords{pages->publication(told.index), &pages->waiters().doorbell[told.waiter].bell},
      link_(link),
      pages_(std::move(pages)),
      mapped_(std::move(mapped)),
      publication_(told.publication),
      lineage_{told.uid, told.lineage} {}

Ring* Ring::make(Link& link, const protocol::Attached& told, sys::RingMapping&& mapped,
                 sys::Ref<PeerPages>&& pages) {
    void* const memory = ::operator new(sizeof(Ring) + 1 + told.topic.size() + 1);
    Ring* const ring = new (memory) Ring(link, told, std::move(mapped), std::move(pages));
    auto* const behind = reinterpret_cast<char*>(ring + 1);
    behind[0] = static_cast<char>(told.topic.size());
    std::memcpy(behind + 1, told.topic.c_str(), told.topic.size() + 1);
    return ring;
}

void Ring::destroy(const Ring& ring) {
    ring.~Ring();
    ::operator delete(const_cast<Ring*>(&ring));
}

protocol::ReadableRing Ring::readable(u32 record_bytes_max) const {
    return {reinterpret_cast<const protocol::RingHeader*>(mapped_.header()), mapped_.data(),
            mapped_.capacity(), record_bytes_max};
}

// -------------------------------------------------------------------------------------- Rings

Rings::~Rings() { IPCBUS_ASSERT(rings_.empty()); }

Result<CountedRing> Rings::take(const std::shared_ptr<Link>& link, const protocol::Attached& told,
                                int fd, sys::Ref<PeerPages>&& pages) {
    if (told.ring_bytes == 0) {  // of a bridge: a ring has more
        return fail(ENOMEM, "there is no memory for its ring (the rings of a bus on another host "
                            "take at most a quarter of this host's memory)");
    }
    if (!pages || !pages->has_doorbell() || told.index >= pages->geometry().publications_max ||
        told.waiter >= pages->geometry().waiters_max) {
        return fail(ENOMEM, "its publisher's pages cannot be mapped");
    }
    if (told.ring_bytes > protocol::kRingBytesMax ||
        (told.record_bytes_max & ~protocol::kRelayed) >
            protocol::record_bytes_max(told.ring_bytes)) {
        return fail(EPROTO, "what the daemon tells of its ring cannot be true");
    }
    const std::lock_guard guard(rings_mutex());
    const RingKey key{{told.uid, told.lineage}, told.publication};
    const auto place = std::lower_bound(rings_.begin(), rings_.end(), key, is_before);
    // A relay makes a ring for each attachment, whose cursor alone holds it back: not shared.
    const bool relayed = (told.record_bytes_max & protocol::kRelayed) != 0;
    if (!relayed && place != rings_.end() && (*place)->key() == key) {
        if ((*place)->mapped_.capacity() != told.ring_bytes) {
            return fail(EPROTO, "its ring cannot have two sizes");
        }
        (*place)->attachments_++;
        return CountedRing(*place);
    }
    sys::RingMapping mapped = IPCBUS_TRY(map_sealed(fd, told.ring_bytes));
    const auto index = place - rings_.begin();
    sys::make_room(rings_);
    Ring* const ring = Ring::make(*link, told, std::move(mapped), std::move(pages));
    rings_.insert(rings_.begin() + index, ring);
    ring->attachments_ = 1;
    link_ = link;
    return CountedRing(ring);
}

void RingGiver::operator()(const Ring* ring) const { Rings::give(*ring); }

void Rings::give(const Ring& ring) {
    std::shared_ptr<Link> last;  // goes after the lock
    {
        const std::lock_guard guard(rings_mutex());
        if (--ring.attachments_ != 0) {
            return;
        }
        Rings& rings = ring.link().rings();
        rings.rings_.erase(std::find(
            std::lower_bound(rings.rings_.begin(), rings.rings_.end(), ring.key(), is_before),
            rings.rings_.end(), &ring));
        sys::give_back_room(rings.rings_);
        if (rings.rings_.empty()) {
            last = std::move(rings.link_);
        }
    }
    Ring::destroy(ring);
}

bool Rings::is_one_of_several(const Ring& ring) {
    const std::lock_guard guard(rings_mutex());
    const std::vector<Ring*>& rings = ring.link().rings().rings_;
    const auto place = std::lower_bound(rings.begin(), rings.end(), ring.key(), is_before);
    const auto is_kin = [&](auto other) { return (*other)->lineage() == ring.lineage(); };
    return ring.attachments_ > 1 || (place != rings.begin() && is_kin(place - 1)) ||
           (place + 1 != rings.end() && is_kin(place + 1));
}

}  // namespace ipcbus::client
