// SPDX-License-Identifier: Apache-2.0
// See connect_rate.hpp.
#include "connect_rate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace ipcbus::daemon {

namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;

}  // namespace

sys::Result<void> ConnectRate::count(uid_t uid, std::uint64_t per_second, std::int64_t now_ns) {
    forget_the_refilled(now_ns);
    Spent& spent = spent_[uid];
    const std::int64_t debt_ns = std::max<std::int64_t>(spent.debt_ns - (now_ns - spent.at_ns), 0);
    const std::int64_t each_ns =
        std::max<std::int64_t>(kSecondNs / static_cast<std::int64_t>(per_second), 1);
    spent.at_ns = now_ns;
    spent.debt_ns = debt_ns;
    if (debt_ns + each_ns > kSecondNs) {
        return sys::fail(
            EDQUOT, fmt::format("more than {} connections a second; raise {}", per_second, key_));
    }
    spent.debt_ns += each_ns;
    return {};
}

/// Nobody owes more than a second: once a second, whoever has not come within one is forgotten.
void ConnectRate::forget_the_refilled(std::int64_t now_ns) {
    if (now_ns - forgot_at_ns_ >= kSecondNs) {
        std::erase_if(spent_,
                      [&](const auto& entry) { return now_ns - entry.second.at_ns >= kSecondNs; });
        forgot_at_ns_ = now_ns;
    }
}

}  // namespace ipcbus::daemon
