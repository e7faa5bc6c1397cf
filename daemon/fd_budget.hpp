// SPDX-License-Identifier: Apache-2.0
// FdBudget: descriptors that were sent and that nobody has said he received. The kernel allows a
// user RLIMIT_NOFILE of them on the way, all sockets together, and then refuses every send with
// descriptors, to whomever. So what is on the way is bounded for the bus and for each uid: many
// connections that do not read starve the connections of their own uid, nobody else's. Nor do they
// starve those of their own uid that do read: the last third of its part is for connections that
// have nothing on the way, a frame each. A publisher may be waiting for just that frame.
// Pure data; owned by the bus, which outlives its users; the daemon's one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <unordered_map>

namespace ipcbus::daemon {

class FdBudget {
public:
    /// `descriptors_max`: the soft RLIMIT_NOFILE.
    explicit FdBudget(std::uint64_t descriptors_max);

    /// How many more may go now to a connection of that uid. `idle`: nothing is on the way to it.
    /// Remembers that somebody was refused.
    [[nodiscard]] unsigned left(uid_t uid, bool idle);
    void sent(uid_t uid, unsigned count);
    /// Received, or the connection is gone.
    void came_back(uid_t uid, unsigned count);
    /// True once after left() was 0 and some came back: those that wait may try again.
    [[nodiscard]] bool take_relief();

private:
    unsigned total_max_;
    unsigned uid_max_;
    unsigned uid_busy_max_;  ///< for connections to which some are on the way
    unsigned total_ = 0;
    std::unordered_map<uid_t, unsigned> uids_;
    bool somebody_waits_ = false;
    bool relief_ = false;
};

}  // namespace ipcbus::daemon
