// SPDX-License-Identifier: Apache-2.0
// ConnectRate: how many connections a second each uid may make, counted when one is accepted. A
// token bucket for each uid that has connected within the last second or two: it holds one second's
// worth, so that so many may come at once. One is owned by the bus (local users, and identities of
// remote clients), one by the remote hub (hosts, by the uids that stand for them: before the
// handshake of TLS); the daemon's one thread.
#pragma once

#include "sys/result.hpp"

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>

namespace ipcbus::daemon {

class ConnectRate {
public:
    /// `key`: the name of the limit, for who is refused; it outlives this.
    explicit ConnectRate(std::string_view key) : key_(key) {}

    /// Counts a connection at `now_ns`, which never goes back. EDQUOT: that would be more than
    /// `per_second` (>= 1), and it is not counted.
    [[nodiscard]] sys::Result<void> count(uid_t uid, std::uint64_t per_second, std::int64_t now_ns);
    /// Uids that are kept in mind.
    [[nodiscard]] std::size_t size() const { return spent_.size(); }

private:
    /// What it has spent of its bucket, in nanoseconds of refilling, at that time.
    struct Spent {
        std::int64_t debt_ns = 0;
        std::int64_t at_ns = 0;
    };
    void forget_the_refilled(std::int64_t now_ns);

    std::string_view key_;
    std::unordered_map<uid_t, Spent> spent_;
    std::int64_t forgot_at_ns_ = 0;
};

}  // namespace ipcbus::daemon
