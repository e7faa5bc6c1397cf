// SPDX-License-Identifier: Apache-2.0
// See fd_budget.hpp.
#include "fd_budget.hpp"

#include "protocol/limits.hpp"
#include "sys/assert.hpp"

#include <algorithm>

namespace ipcbus::daemon {

namespace {

unsigned part(std::uint64_t descriptors_max, unsigned eighths) {
    const std::uint64_t count = std::min<std::uint64_t>(descriptors_max, 1u << 20) / 8 * eighths;
    return static_cast<unsigned>(std::max<std::uint64_t>(count, protocol::kFdsUnacknowledgedMax));
}

}  // namespace

// The last eighth stays free: others of our uid (a user's own bus) have descriptors on the way,
// too. One uid may have most of the rest: where all clients are of one, many of them idle, that is
// normal.
FdBudget::FdBudget(std::uint64_t descriptors_max)
    : total_max_(part(descriptors_max, 7)),
      uid_max_(part(descriptors_max, 6)),
      uid_busy_max_(part(descriptors_max, 4)) {}

unsigned FdBudget::left(uid_t uid, bool idle) {
    const auto found = uids_.find(uid);
    const unsigned of_uid = found == uids_.end() ? 0 : found->second;
    const unsigned uid_max = idle ? uid_max_ : uid_busy_max_;
    const unsigned count = std::min(of_uid < uid_max ? uid_max - of_uid : 0,
                                    total_ < total_max_ ? total_max_ - total_ : 0);
    somebody_waits_ = somebody_waits_ || count < protocol::kFdsPerFrameMax;
    return count;
}

void FdBudget::sent(uid_t uid, unsigned count) {
    uids_[uid] += count;
    total_ += count;
}

void FdBudget::came_back(uid_t uid, unsigned count) {
    if (count == 0) {
        return;
    }
    const auto found = uids_.find(uid);
    IPCBUS_ASSERT(found != uids_.end() && found->second >= count && total_ >= count);
    total_ -= count;
    found->second -= count;
    if (found->second == 0) {
        uids_.erase(found);
    }
    relief_ = relief_ || somebody_waits_;
}

bool FdBudget::take_relief() {
    if (!relief_) {
        return false;
    }
    relief_ = false;
    somebody_waits_ = false;
    return true;
}

}  // namespace ipcbus::daemon
