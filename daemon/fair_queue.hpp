// SPDX-License-Identifier: Apache-2.0
// FairQueue: connections that have frames to be worked off, in turn: one of each uid, and of each
// uid its connections in the order they came. So who floods the daemon, through however many
// connections, makes others wait for one piece of his work at a time, and himself for all of it.
// Owned by the bus, the daemon's one thread.
#pragma once

#include <sys/types.h>

#include <deque>
#include <map>

namespace ipcbus::daemon {

class Session;

class FairQueue {
public:
    /// It must not be there already.
    void add(uid_t uid, Session& session) { waiting_[uid].push_back(&session); }
    /// The next one, or null.
    [[nodiscard]] Session* take();
    /// If it is there.
    void remove(uid_t uid, const Session& session);
    [[nodiscard]] bool empty() const { return waiting_.empty(); }

private:
    std::map<uid_t, std::deque<Session*>> waiting_;  ///< none of them empty
    uid_t last_ = 0;
};

}  // namespace ipcbus::daemon
