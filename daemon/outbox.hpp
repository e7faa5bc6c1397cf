// SPDX-License-Identifier: Apache-2.0
// Outbox: what is to be sent on one connection, cut into chunks so that descriptors leave with the
// first byte of the frame that names them, and two accounts of descriptors: those that the client
// has not yet said it received, and those that may still be on the way. The first is the
// protocol's, and a client can lie there; the second believes the kernel alone, which says when the
// client has read everything. Owned by a session, the daemon's one thread.
#pragma once

#include "event_loop.hpp"
#include "fd_budget.hpp"
#include "protocol/wire.hpp"
#include "registry.hpp"

#include <algorithm>
#include <deque>

namespace ipcbus::daemon {

class Outbox {
public:
    /// The budget is charged for connections of `uid`; it outlives this.
    Outbox(FdBudget& budget, uid_t uid) : budget_(budget), uid_(uid) {}
    ~Outbox() { budget_.came_back(uid_, on_the_way_); }
    Outbox(const Outbox&) = delete;
    Outbox& operator=(const Outbox&) = delete;

    struct Chunk {
        std::vector<std::byte> bytes;
        std::vector<SharedFd> fds;  ///< go with the first byte
    };

    /// What a frame with descriptors told, in case it has to be told again (RESUME).
    struct Told {
        enum class What : std::uint8_t { welcome, advertised, peer, attached };
        What what{};
        std::uint8_t pages = 0;  ///< peer: which
        std::uint8_t fds = 0;
        Id id = 0;  ///< of the publication, the peer or the attachment
    };

    template <class Frame>
    void add(const Frame& frame, std::uint64_t request) {
        if (chunks_.empty() || chunks_.back().bytes.size() >= kChunkBytes) {
            chunks_.emplace_back();
        }
        append(frame, request);
    }
    /// The caller has looked at credit().
    template <class Frame>
    void add(const Frame& frame, std::uint64_t request, std::vector<SharedFd> fds, Told told) {
        for (const SharedFd& fd : fds) {
            IPCBUS_ASSERT(fd != nullptr);
        }
        chunks_.emplace_back();
        told.fds = static_cast<std::uint8_t>(fds.size());
        chunks_.back().fds = std::move(fds);
        account(told);
        append(frame, request);
    }

    /// Descriptors that may still be sent before the client acknowledges some.
    [[nodiscard]] unsigned credit() const {
        return std::min({protocol::kFdsUnacknowledgedMax - fds_,
                         protocol::kFdsUnacknowledgedMax -
                             std::min(protocol::kFdsUnacknowledgedMax, on_the_way_),
                         budget_.left(uid_, on_the_way_ == 0)});
    }
    /// The client has received that many more. False: more than were sent. `begun`: the first byte
    /// of the chunk that is being sent has gone.
    [[nodiscard]] bool received(std::uint32_t fds, bool begun);
    [[nodiscard]] const std::deque<Told>& unacknowledged() const { return told_; }
    /// Descriptors that were handed to the kernel and may not have been read yet.
    [[nodiscard]] unsigned on_the_way() const { return on_the_way_ - queued_fds_ - sending_fds_; }
    /// More may be on the way than the client admits.
    [[nodiscard]] bool doubted() const { return on_the_way_ > fds_; }
    /// The kernel says that the client has read all that was sent.
    void all_read();

    [[nodiscard]] bool empty() const { return chunks_.empty(); }
    /// Not yet handed to the socket, the chunk that is being sent included.
    [[nodiscard]] std::size_t bytes() const { return bytes_ + sending_; }
    /// The next chunk to send; not empty(). sent() when that is done.
    [[nodiscard]] Chunk take();
    void sent() {
        sending_ = 0;
        sending_fds_ = 0;
    }
    /// What is left will not be sent.
    void drop_unsent();

private:
    static constexpr std::size_t kChunkBytes = 32 * 1024;

    template <class Frame>
    void append(const Frame& frame, std::uint64_t request) {
        std::vector<std::byte>& out = chunks_.back().bytes;
        const std::size_t before = out.size();
        protocol::encode(out, frame, request);
        bytes_ += out.size() - before;
    }
    void account(const Told& told);

    FdBudget& budget_;
    uid_t uid_;
    std::deque<Chunk> chunks_;
    std::deque<Told> told_;  ///< sent, oldest first; the client acknowledges in this order
    unsigned fds_ = 0;       ///< of all in told_, less what was acknowledged of the first
    unsigned first_received_ = 0;
    unsigned on_the_way_ = 0;   ///< charged to the budget: from add() until the kernel says so
    unsigned queued_fds_ = 0;   ///< of those, not handed to the kernel: in chunks_
    unsigned sending_fds_ = 0;  ///< of those, in the chunk that is being sent
    std::size_t bytes_ = 0;
    std::size_t sending_ = 0;
};

}  // namespace ipcbus::daemon
