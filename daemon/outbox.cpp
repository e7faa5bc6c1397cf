// SPDX-License-Identifier: Apache-2.0
// The account of descriptors on the way. See outbox.hpp.
#include "outbox.hpp"

namespace ipcbus::daemon {

void Outbox::account(const Told& told) {
    IPCBUS_ASSERT(told.fds >= 1 && told.fds <= protocol::kFdsPerFrameMax &&
                  told.fds <= protocol::kFdsUnacknowledgedMax - fds_);
    told_.push_back(told);
    fds_ += told.fds;
    on_the_way_ += told.fds;
    queued_fds_ += told.fds;
    budget_.sent(uid_, told.fds);
}

bool Outbox::received(std::uint32_t fds, bool begun) {
    const unsigned unsent = queued_fds_ + (begun ? 0 : sending_fds_);
    if (fds_ < unsent || fds > fds_ - unsent) {
        return false;
    }
    fds_ -= fds;
    first_received_ += fds;
    while (!told_.empty() && first_received_ >= told_.front().fds) {
        first_received_ -= told_.front().fds;
        told_.pop_front();
    }
    return true;
}

void Outbox::all_read() {
    budget_.came_back(uid_, on_the_way());
    on_the_way_ = queued_fds_ + sending_fds_;
}

void Outbox::drop_unsent() {
    chunks_.clear();
    bytes_ = 0;
    budget_.came_back(uid_, queued_fds_);
    on_the_way_ -= queued_fds_;
    queued_fds_ = 0;
}

Outbox::Chunk Outbox::take() {
    IPCBUS_ASSERT(!chunks_.empty() && sending_ == 0);
    Chunk chunk = std::move(chunks_.front());
    chunks_.pop_front();
    sending_ = chunk.bytes.size();
    sending_fds_ = static_cast<unsigned>(chunk.fds.size());
    queued_fds_ -= sending_fds_;
    bytes_ -= sending_;
    return chunk;
}

}  // namespace ipcbus::daemon
