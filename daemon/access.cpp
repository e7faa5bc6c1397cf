// SPDX-License-Identifier: Apache-2.0
// Evaluating the rules. See access.hpp.
#include "access.hpp"

#include "protocol/topic.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace ipcbus::daemon {

namespace {

constexpr Right kRights[] = {Right::publish, Right::subscribe, Right::subscribe_reliably};

template <class T>
bool has(const std::vector<T>& values, const T& value) {
    return std::find(values.begin(), values.end(), value) != values.end();
}

template <class T>
void append(std::string& text, std::string_view key, const std::vector<T>& values) {
    if (values.empty()) {
        return;
    }
    text += fmt::format(" {} ", key);
    for (std::size_t i = 0; i < values.size(); i++) {
        text += fmt::format("{}{}", i == 0 ? "" : ",", values[i]);
    }
}

}  // namespace

std::string_view right_name(Right right) {
    switch (right) {
    case Right::publish:
        return "publish";
    case Right::subscribe:
        return "subscribe";
    case Right::subscribe_reliably:
        return "subscribe-reliably";
    }
    return "";
}

bool AccessRule::is_about(const Identity& identity) const {
    if (remote && *remote != identity.remote) {
        return false;
    }
    if (uids.empty() && gids.empty() && subjects.empty() && tokens.empty()) {
        return true;
    }
    if (identity.remote) {
        return (!identity.subject.empty() && has(subjects, identity.subject)) ||
               (!identity.token.empty() && has(tokens, identity.token));
    }
    return has(uids, identity.uid) ||
           std::any_of(identity.gids.begin(), identity.gids.end(),
                       [this](gid_t gid) { return has(gids, gid); });
}

std::string AccessRule::text() const {
    std::string text = name.empty() ? "" : name + ":";
    if (remote) {
        text += *remote ? " remote" : " local";
    }
    append(text, "uid", uids);
    append(text, "gid", gids);
    append(text, "subject", subjects);
    append(text, "token", tokens);
    text += allow ? " allow" : " deny";
    for (const Right right : kRights) {
        if (is_about(right)) {
            text += fmt::format(" {}", right_name(right));
        }
    }
    append(text, "filter", filters);
    return text.starts_with(' ') ? text.substr(1) : text;
}

Access::Access(std::shared_ptr<const AccessRules> rules, const Identity& identity)
    : rules_(std::move(rules)), remote_(identity.remote) {
    for (std::size_t i = 0; i < rules_->rules.size(); i++) {
        if (rules_->rules[i].is_about(identity)) {
            mine_.push_back(i);
        }
    }
}

/// `whole`: of all topics of `filter`; else whether there can be one of which it holds.
Access::Decision Access::decide(Right right, std::string_view filter, bool whole) const {
    if (!rules_) {
        return {};
    }
    for (const std::size_t number : mine_) {
        const AccessRule& rule = rules_->rules[number];
        if (!rule.is_about(right)) {
            continue;
        }
        // A part is enough for a refusal of the whole, and for a part that is allowed.
        const bool part_decides = rule.allow != whole;
        const bool decides =
            std::any_of(rule.filters.begin(), rule.filters.end(), [&](const std::string& of) {
                return part_decides ? protocol::filters_intersect(of, filter)
                                    : protocol::filter_covers(of, filter);
            });
        if (decides) {
            return {rule.allow, number + 1};
        }
    }
    return {remote_ ? rules_->remote_allowed : rules_->local_allowed, 0};
}

std::string Access::why_not(Right right, std::string_view filter, bool whole) const {
    const Decision decision = decide(right, filter, whole);
    if (decision.rule == 0) {
        return fmt::format("no rule allows this client to {} it (access.{} is \"deny\")",
                           right_name(right), remote_ ? "remote" : "local");
    }
    const AccessRule& rule = rules_->rules[decision.rule - 1];
    return fmt::format("rule {}{} in line {} of the configuration denies this client {}",
                       decision.rule, rule.name.empty() ? "" : fmt::format(" ('{}')", rule.name),
                       rule.line, right_name(right));
}

}  // namespace ipcbus::daemon
