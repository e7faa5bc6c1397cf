// SPDX-License-Identifier: Apache-2.0
// The account of descriptors on the way. See outbox.hpp.
#include "outbox.hpp"

namespace ipcbus::daemon {

void Outbox::account(const Told& told) {
    IPCBUS_ASSERT(told.fds >= 1 && told.fds <= protocol::kFdsPerFrameMax &&
                  told.fds <= protocol::kFdsUnacknowledgedMax - fds_);
    told_.push_back(told);
    fds_ += told.fds;
    budget_.sent(uid_, told.fds);
}

bool Outbox::received(std::uint32_t fds) {
    if (fds > fds_) {
        return false;
    }
    fds_ -= fds;
    budget_.came_back(uid_, fds);
    first_received_ += fds;
    while (!told_.empty() && first_received_ >= told_.front().fds) {
        first_received_ -= told_.front().fds;
        told_.pop_front();
    }
    return true;
}

void Outbox::forget_unacknowledged() {
    budget_.came_back(uid_, std::exchange(fds_, 0));
    told_.clear();
    first_received_ = 0;
}

Outbox::Chunk Outbox::take() {
    IPCBUS_ASSERT(!chunks_.empty() && sending_ == 0);
    Chunk chunk = std::move(chunks_.front());
    chunks_.pop_front();
    sending_ = chunk.bytes.size();
    bytes_ -= sending_;
    return chunk;
}

}  // namespace ipcbus::daemon
