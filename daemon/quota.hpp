// SPDX-License-Identifier: Apache-2.0
// How much of what each uid, and the bus as a whole, has in use, and the refusals beyond the limits
// of the configuration. A Charge is what one thing costs, given back when it is destroyed: it lives
// as long as anybody may still hold the thing, which can be longer than the thing's own object.
// Pure data, no I/O. Owned by the bus, the daemon's one thread.
#pragma once

#include "config.hpp"
#include "sys/result.hpp"

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace ipcbus::daemon {

/// The same five counts that the configuration limits.
using Amounts = CountedLimits;

class Quota;

class Charge {
public:
    Charge() = default;
    Charge(Charge&& other) noexcept
        : quota_(std::exchange(other.quota_, nullptr)),
          uid_(other.uid_),
          amounts_(other.amounts_) {}
    Charge& operator=(Charge&& other) noexcept;
    Charge(const Charge&) = delete;
    Charge& operator=(const Charge&) = delete;
    ~Charge() { reset(); }

    void reset();
    /// Somebody else pays from now on, whatever his limit says: he has what it is for.
    void move_to(uid_t uid);
    [[nodiscard]] uid_t uid() const { return uid_; }
    explicit operator bool() const { return quota_ != nullptr; }

private:
    friend class Quota;
    Charge(Quota& quota, uid_t uid, const Amounts& amounts)
        : quota_(&quota), uid_(uid), amounts_(amounts) {}

    Quota* quota_ = nullptr;  ///< outlives every charge
    uid_t uid_ = 0;
    Amounts amounts_;
};
/// One charge with several holders: of a ring that several processes map.
using SharedCharge = std::shared_ptr<Charge>;

class Quota {
public:
    struct Kind;

    explicit Quota(const LimitsConfig& limits);
    ~Quota();
    Quota(const Quota&) = delete;
    Quota& operator=(const Quota&) = delete;

    /// New limits hold for what comes; nobody loses what he has.
    void set_limits(const LimitsConfig& limits);

    /// All of it or nothing. `what` begins the text of a refusal: "publication 'plant/7/temp'".
    /// EDQUOT: the uid's limit; ENOSPC: the bus's; EMFILE: descriptors, of either.
    [[nodiscard]] sys::Result<Charge> charge(uid_t uid, const Amounts& amounts,
                                             std::string_view what);
    /// What the bus keeps for whoever comes: counted in the total, and nobody's. Empty: no room.
    [[nodiscard]] Charge charge_bus(const Amounts& amounts);
    /// Asked before a client is refused because of the total, again until there is room, and only
    /// if there can be: lets go of one such thing. False: there was nothing.
    void set_relief(std::function<bool()> relief) { relief_ = std::move(relief); }

    [[nodiscard]] const Amounts& total() const { return total_; }
    [[nodiscard]] Amounts used_by(uid_t uid) const;

private:
    friend class Charge;
    /// Of the bus, what is too little for that much more; null if nothing is. `without`: of what is
    /// in use, what need not be.
    [[nodiscard]] const Kind* missing(const Amounts& amounts, const Amounts& without) const;
    void take(uid_t uid, const Amounts& amounts);
    void give_back(uid_t uid, const Amounts& amounts);

    Amounts total_limits_;
    Amounts uid_limits_;
    Amounts total_;
    std::unordered_map<uid_t, Amounts> uids_;
    std::function<bool()> relief_;
};

}  // namespace ipcbus::daemon
