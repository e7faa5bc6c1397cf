// SPDX-License-Identifier: Apache-2.0
// Counting, and the texts of refusals. See quota.hpp.
#include "quota.hpp"

#include <fmt/format.h>

namespace ipcbus::daemon {

/// One row a kind of thing, so that checking, counting and texts cannot forget one.
struct Quota::Kind {
    std::uint64_t Amounts::* count;
    const char* name;
    std::string_view total_key;
    std::string_view uid_key;
    bool is_bytes;
    bool is_descriptors;
};

namespace {

using Kind = Quota::Kind;

/// No process has it: what is charged to it is the bus's own.
constexpr uid_t kNobody = static_cast<uid_t>(-1);

constexpr Kind kKinds[] = {
    {&Amounts::clients, "clients", key::kClients, key::kUidClients, false, false},
    {&Amounts::publications, "publications", key::kPublications, key::kUidPublications, false,
     false},
    {&Amounts::subscriptions, "subscriptions", key::kSubscriptions, key::kUidSubscriptions, false,
     false},
    {&Amounts::descriptors, "descriptors", key::kDescriptors, key::kUidDescriptors, false, true},
    {&Amounts::ring_bytes, "bytes of rings", key::kRingBytes, key::kUidRingBytes, true, false},
};

std::string amount(const Kind& kind, std::uint64_t value) {
    return kind.is_bytes ? format_bytes(value) : std::to_string(value);
}

/// Never adds: what is in use may be above a limit that was lowered since.
bool fits(std::uint64_t used, std::uint64_t wanted, std::uint64_t limit) {
    return wanted == 0 || (used <= limit && wanted <= limit - used);
}

}  // namespace

Charge& Charge::operator=(Charge&& other) noexcept {
    if (this != &other) {
        reset();
        quota_ = std::exchange(other.quota_, nullptr);
        uid_ = other.uid_;
        amounts_ = other.amounts_;
    }
    return *this;
}

void Charge::reset() {
    if (quota_ != nullptr) {
        std::exchange(quota_, nullptr)->give_back(uid_, amounts_);
    }
}

void Charge::move_to(uid_t uid) {
    if (quota_ != nullptr && uid != uid_) {
        quota_->take(uid, amounts_);
        quota_->give_back(std::exchange(uid_, uid), amounts_);
    }
}

Quota::Quota(const LimitsConfig& limits) { set_limits(limits); }

Quota::~Quota() {
    IPCBUS_ASSERT(uids_.empty());  // else a charge would give back to what is gone
}

void Quota::set_limits(const LimitsConfig& limits) {
    total_limits_ = limits.total;
    uid_limits_ = limits.per_uid;
}

sys::Result<Charge> Quota::charge(uid_t uid, const Amounts& amounts, std::string_view what) {
    const Amounts used = used_by(uid);
    for (const Kind& kind : kKinds) {
        const std::uint64_t wanted = amounts.*kind.count;
        if (!fits(used.*kind.count, wanted, uid_limits_.*kind.count)) {
            return sys::fail(
                kind.is_descriptors ? EMFILE : EDQUOT,
                fmt::format("{}: refused: it needs {} {}, uid {} has {} of {} in use; raise {}",
                            what, amount(kind, wanted), kind.name, uid,
                            amount(kind, used.*kind.count), amount(kind, uid_limits_.*kind.count),
                            kind.uid_key));
        }
    }
    const Kind* kind = missing(amounts, Amounts{});
    // What is kept for whoever comes goes if that helps, and only as much of it as is needed.
    if (kind != nullptr && missing(amounts, used_by(kNobody)) == nullptr) {
        while (kind != nullptr && relief_ && relief_()) {
            kind = missing(amounts, Amounts{});
        }
    }
    if (kind != nullptr) {
        return sys::fail(
            kind->is_descriptors ? EMFILE : ENOSPC,
            fmt::format("{}: refused: it needs {} {}, the bus has {} of {} in use; raise {}", what,
                        amount(*kind, amounts.*kind->count), kind->name,
                        amount(*kind, total_.*kind->count),
                        amount(*kind, total_limits_.*kind->count), kind->total_key));
    }
    take(uid, amounts);
    return Charge(*this, uid, amounts);
}

Charge Quota::charge_bus(const Amounts& amounts) {
    if (missing(amounts, Amounts{}) != nullptr) {
        return {};
    }
    take(kNobody, amounts);
    return Charge(*this, kNobody, amounts);
}

const Kind* Quota::missing(const Amounts& amounts, const Amounts& without) const {
    for (const Kind& kind : kKinds) {
        if (!fits(total_.*kind.count - without.*kind.count, amounts.*kind.count,
                  total_limits_.*kind.count)) {
            return &kind;
        }
    }
    return nullptr;
}

void Quota::take(uid_t uid, const Amounts& amounts) {
    Amounts& of_uid = uids_[uid];
    for (const Kind& kind : kKinds) {
        of_uid.*kind.count += amounts.*kind.count;
        total_.*kind.count += amounts.*kind.count;
    }
}

Amounts Quota::used_by(uid_t uid) const {
    const auto found = uids_.find(uid);
    return found == uids_.end() ? Amounts{} : found->second;
}

void Quota::give_back(uid_t uid, const Amounts& amounts) {
    const auto found = uids_.find(uid);
    IPCBUS_ASSERT(found != uids_.end());
    bool nothing_left = true;
    for (const Kind& kind : kKinds) {
        IPCBUS_ASSERT(found->second.*kind.count >= amounts.*kind.count);
        found->second.*kind.count -= amounts.*kind.count;
        total_.*kind.count -= amounts.*kind.count;
        nothing_left = nothing_left && found->second.*kind.count == 0;
    }
    if (nothing_left) {
        uids_.erase(found);
    }
}

}  // namespace ipcbus::daemon
