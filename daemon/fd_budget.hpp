// SPDX-License-Identifier: Apache-2.0
// FdBudget: descriptors that were sent and that nobody has said he received. The kernel allows a
// user RLIMIT_NOFILE of them on the way, all sockets together, and then refuses every send with
// descriptors, to whomever. So what is on the way is bounded for the bus and for each uid: many
// connections that do not read starve the connections of their own uid, nobody else's.
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

    /// How many more may go to connections of that uid now. Remembers who was refused.
    [[nodiscard]] unsigned left(uid_t uid);
    void sent(uid_t uid, unsigned count);
    /// Received, or the connection is gone.
    void came_back(uid_t uid, unsigned count);
    /// True once after left() was 0 and some came back: those that wait may try again.
    [[nodiscard]] bool take_relief();

private:
    unsigned total_max_;
    unsigned uid_max_;
    unsigned total_ = 0;
    std::unordered_map<uid_t, unsigned> uids_;
    bool somebody_waits_ = false;
    bool relief_ = false;
};

}  // namespace ipcbus::daemon
