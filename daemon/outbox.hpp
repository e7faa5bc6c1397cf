// SPDX-License-Identifier: Apache-2.0
// Outbox: what is to be sent on one connection, cut into chunks so that descriptors leave with the
// first byte of the frame that names them, and the account of descriptors that the client has not
// yet said it received. Owned by a session, the daemon's one thread.
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
    ~Outbox() { forget_unacknowledged(); }
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
        return std::min(protocol::kFdsUnacknowledgedMax - fds_, budget_.left(uid_));
    }
    /// The client has received that many more. False: more than were sent.
    [[nodiscard]] bool received(std::uint32_t fds);
    [[nodiscard]] const std::deque<Told>& unacknowledged() const { return told_; }
    /// The connection is gone: the kernel has taken back what was on the way.
    void forget_unacknowledged();

    [[nodiscard]] bool empty() const { return chunks_.empty(); }
    /// Not yet handed to the socket, the chunk that is being sent included.
    [[nodiscard]] std::size_t bytes() const { return bytes_ + sending_; }
    /// The next chunk to send; not empty(). sent() when that is done.
    [[nodiscard]] Chunk take();
    void sent() { sending_ = 0; }

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
    std::size_t bytes_ = 0;
    std::size_t sending_ = 0;
};

}  // namespace ipcbus::daemon
