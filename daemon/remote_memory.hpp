// SPDX-License-Identifier: Apache-2.0
// Memory of others that the daemon maps on behalf of its remote clients: the rings they read, the
// pages of those whose rings these are, and of those who read theirs. Each once, however many
// remote clients need it, and counted: a process may have vm.max_map_count mappings (65,530), of
// which the bus itself needs one a ring and three a client. So tcp.mappings keeps what is mapped
// here well below the rest; without it one remote `#` could make mmap fail for everybody.
// Owned by the RemoteHub, the daemon's one thread. Outlives all that it has given out.
//
// What a hostile client can make us spend here: a write to a hole of a doorbell page allocates
// memory at the daemon's expense. So a bell is only rung where there is a page (there()), and two
// pages are charged with each ring: its writer's bell and `sleepers`, which are written blindly.
#pragma once

#include "bus.hpp"
#include "protocol/reader_table.hpp"
#include "sys/mapping.hpp"

#include <memory>
#include <string_view>
#include <unordered_map>

namespace ipcbus::daemon {

class RemoteMemory final : private protocol::DoorbellGuard {
public:
    /// So many mappings, until it is destroyed.
    class Share {
    public:
        Share() = default;
        Share(Share&& other) noexcept
            : memory_(std::exchange(other.memory_, nullptr)),
              uid_(other.uid_),
              count_(other.count_) {}
        Share& operator=(Share&& other) noexcept {
            std::swap(memory_, other.memory_);
            std::swap(uid_, other.uid_);
            std::swap(count_, other.count_);
            return *this;
        }
        Share(const Share&) = delete;
        Share& operator=(const Share&) = delete;
        ~Share() {
            if (memory_ != nullptr) {
                memory_->give_back(uid_, count_);
            }
        }

    private:
        friend class RemoteMemory;
        Share(RemoteMemory& memory, uid_t uid, std::uint64_t count)
            : memory_(&memory), uid_(uid), count_(count) {}
        RemoteMemory* memory_ = nullptr;
        uid_t uid_ = 0;
        std::uint64_t count_ = 0;
    };

    /// A ring that remote clients read.
    struct Ring {
        sys::RingMapping mapped;
        Share share;
        Charge charge;
    };
    using SharedRing = std::shared_ptr<const Ring>;

    /// A client whose rings they read, or who reads theirs.
    struct Peer : protocol::PeerWaiters {
        [[nodiscard]] bool has_cursor() const { return cursor_page.valid(); }
        [[nodiscard]] bool has_doorbell() const { return doorbell_page.valid(); }
        // Bounds come from the bus.
        [[nodiscard]] const protocol::CursorSlot* slot(protocol::u32 number) const;
        [[nodiscard]] protocol::DoorbellPublication* publication(protocol::u32 index) const;

        protocol::Geometry geometry;
        sys::Mapping cursor_page;
        sys::Mapping doorbell_page;
        sys::UniqueFd doorbell_fd;
        Share share;
        Charge charge;
    };
    using SharedPeer = std::shared_ptr<Peer>;

    RemoteMemory(Bus& bus, std::uint64_t mappings_max) : bus_(bus), mappings_max_(mappings_max) {}
    /// Holds for what comes.
    void set_limit(std::uint64_t mappings_max) { mappings_max_ = mappings_max; }

    /// ENOSPC: beyond the share of tcp.mappings that one uid has, or all. `what` begins the text.
    [[nodiscard]] sys::Result<Share> take(uid_t uid, std::uint64_t count, std::string_view what);
    /// That publication's ring; what `fd` is of. What is shared counts as whose it was first.
    [[nodiscard]] sys::Result<SharedRing> ring(uid_t uid, Id publication, int fd,
                                               std::uint64_t ring_bytes);
    /// That client's pages; maps those that `cursor` and `doorbell` are of and that are not mapped.
    /// With `cursor` it is a reader, for whom a part of tcp.mappings is kept: he has not asked for
    /// a remote publisher.
    [[nodiscard]] sys::Result<SharedPeer> peer(uid_t uid, Id client,
                                               const protocol::Geometry& geometry, int cursor,
                                               sys::UniqueFd doorbell);
    /// For tables of readers whose waiters are Peers.
    [[nodiscard]] protocol::DoorbellGuard& guard() { return *this; }
    [[nodiscard]] std::uint64_t mappings() const { return mappings_; }

private:
    [[nodiscard]] bool there(const protocol::PeerWaiters& peer, protocol::u32 waiter) override;
    void give_back(uid_t uid, std::uint64_t count);
    [[nodiscard]] sys::Result<Charge> charge(const Amounts& amounts, std::string_view what);

    Bus& bus_;
    std::uint64_t mappings_max_;
    std::uint64_t mappings_ = 0;
    std::unordered_map<uid_t, std::uint64_t> by_uid_;  ///< but for those of readers
    std::unordered_map<Id, std::weak_ptr<const Ring>> rings_;
    std::unordered_map<Id, std::weak_ptr<Peer>> peers_;
};

}  // namespace ipcbus::daemon
