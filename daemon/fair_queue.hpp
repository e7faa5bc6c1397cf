// SPDX-License-Identifier: Apache-2.0
// FairQueue: connections that have frames to be worked off, in turn: one of each uid, and of each
// uid its connections in the order they came. So who floods the daemon, through however many
// connections, makes others wait for one piece of his work at a time, and himself for all of it.
// Owned by the bus, the daemon's one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <map>

namespace ipcbus::daemon {

class Session;

class FairQueue {
public:
    /// It must not be there already.
    void add(uid_t uid, Session& session) { waiting_[uid].push_back({&session, ++added_}); }
    /// The next one, or null.
    [[nodiscard]] Session* take();
    /// If it is there.
    void remove(uid_t uid, const Session& session);
    [[nodiscard]] bool empty() const { return waiting_.empty(); }

    /// Numbers what is added. What has waited since then is behind all that waits now, until
    /// passed() says of that number that none of those is left.
    [[nodiscard]] std::uint64_t added() const { return added_; }
    [[nodiscard]] bool passed(std::uint64_t number) const;

private:
    struct Waiting {
        Session* session;
        std::uint64_t number;
    };
    std::map<uid_t, std::deque<Waiting>> waiting_;  ///< none of them empty
    std::uint64_t added_ = 0;
    uid_t last_ = 0;
};

}  // namespace ipcbus::daemon
