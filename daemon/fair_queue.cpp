// SPDX-License-Identifier: Apache-2.0
// See fair_queue.hpp.
#include "fair_queue.hpp"

#include <algorithm>

namespace ipcbus::daemon {

Session* FairQueue::take() {
    if (waiting_.empty()) {
        return nullptr;
    }
    auto next = waiting_.upper_bound(last_);
    if (next == waiting_.end()) {
        next = waiting_.begin();
    }
    last_ = next->first;
    Session* session = next->second.front().session;
    next->second.pop_front();
    if (next->second.empty()) {
        waiting_.erase(next);
    }
    return session;
}

void FairQueue::remove(uid_t uid, const Session& session) {
    const auto found = waiting_.find(uid);
    if (found == waiting_.end()) {
        return;
    }
    std::erase_if(found->second, [&](const Waiting& one) { return one.session == &session; });
    if (found->second.empty()) {
        waiting_.erase(found);
    }
}

bool FairQueue::passed(std::uint64_t number) const {
    return std::all_of(waiting_.begin(), waiting_.end(), [&](const auto& of_uid) {
        return of_uid.second.front().number > number;
    });
}

}  // namespace ipcbus::daemon
