// SPDX-License-Identifier: Apache-2.0
// Who may publish and read what: rules in their order, of which the first that is about a client,
// what it wants to do and a topic decides; and what holds where none is. Pure data: the bus asks
// when a publication or a subscription is made, and for each pair of them. Made by the
// configuration, which never changes one that has been given out; any thread.
//
// A FILTER stands for all its topics. To publish under one, and to read a publication under one,
// takes the right to each of them: a rule that allows a part of it decides nothing, one that
// forbids a part of it forbids it. So nobody gets what a topic by itself would be refused; who has
// the whole in two halves only is refused, too. A subscription is made if some of it may be read,
// and is attached to nothing else.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::daemon {

enum class Right : std::uint8_t { publish = 1, subscribe = 2, subscribe_reliably = 4 };
/// "publish", "subscribe", "subscribe-reliably".
[[nodiscard]] std::string_view right_name(Right right);

/// Who a client is. Of a local one, what the kernel says; of a remote one, what it has proved.
struct Identity {
    bool remote = false;
    uid_t uid = 0;
    std::vector<gid_t> gids;  ///< the first is its group, others are supplementary
    std::string subject;      ///< of its certificate
    std::string token;        ///< the name of that
};

/// One [[rule]].
struct AccessRule {
    std::string name;
    std::uint32_t line = 0;      ///< where the configuration has it
    std::optional<bool> remote;  ///< about remote clients only, or local ones
    // About whom: of one of these; all of them are empty: about everybody.
    std::vector<uid_t> uids;
    std::vector<gid_t> gids;
    std::vector<std::string> subjects;
    std::vector<std::string> tokens;
    std::uint8_t rights = 0;  ///< of Right, those that it is about
    bool allow = false;
    std::vector<std::string> filters;

    [[nodiscard]] bool is_about(const Identity& identity) const;
    [[nodiscard]] bool is_about(Right right) const {
        return (rights & static_cast<std::uint8_t>(right)) != 0;
    }
    /// As the configuration has it, but for its line.
    [[nodiscard]] std::string text() const;
    bool operator==(const AccessRule&) const = default;
};

/// [access] and all [[rule]].
struct AccessRules {
    bool local_allowed = true;  ///< where no rule decides
    bool remote_allowed = true;
    std::vector<AccessRule> rules;
};

/// What one client may do.
class Access {
public:
    /// Everything.
    Access() = default;
    Access(std::shared_ptr<const AccessRules> rules, const Identity& identity);

    /// Whether it has that right to all that `filter` names.
    [[nodiscard]] bool may(Right right, std::string_view filter) const {
        return decide(right, filter, true).allowed;
    }
    /// Whether it may have it to a part.
    [[nodiscard]] bool may_partly(Right right, std::string_view filter) const {
        return decide(right, filter, false).allowed;
    }
    /// Why it has not, for the client itself: which rule says so, and where it stands.
    [[nodiscard]] std::string why_not(Right right, std::string_view filter, bool whole) const;

private:
    struct Decision {
        bool allowed = true;
        std::size_t rule = 0;  ///< its number from 1 on; 0: none
    };
    [[nodiscard]] Decision decide(Right right, std::string_view filter, bool whole) const;

    std::shared_ptr<const AccessRules> rules_;  ///< null: everything is allowed
    bool remote_ = false;
    std::vector<std::size_t> mine_;  ///< rules that are about it
};

}  // namespace ipcbus::daemon
