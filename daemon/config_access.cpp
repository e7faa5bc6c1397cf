// SPDX-License-Identifier: Apache-2.0
// [[rule]]: see config_access.hpp. What a rule is about has to be said in full: a mistake in one,
// taken for nothing, would let somebody in, or keep somebody out.
#include "config_access.hpp"

#include "protocol/topic.hpp"
#include "sys/result.hpp"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <limits>

namespace ipcbus::daemon {

namespace {

constexpr std::size_t kNameBytesMax = 64;
constexpr std::size_t kEntryBytesMax = std::size_t{1} << 20;
/// -1 is nobody's number: it stands for "unchanged".
constexpr std::int64_t kIdMost = std::numeric_limits<std::uint32_t>::max() - 1;

/// The number of a user or a group, by `look_up`, one of the reentrant functions of the C library.
template <class Entry, class LookUp, class Number>
sys::Result<std::uint32_t> number_of(const std::string& name, LookUp look_up, Number number) {
    std::vector<char> buffer(1024);
    for (;;) {
        Entry entry{};
        Entry* found = nullptr;
        const int error = look_up(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
        if (error == ERANGE && buffer.size() < kEntryBytesMax) {
            buffer.resize(buffer.size() * 4);
        } else if (found != nullptr) {
            return number(entry);
        } else if (error == 0 || error == ENOENT || error == ESRCH) {
            return sys::fail(ENOENT, "there is none of that name");
        } else if (error != EINTR) {
            return sys::fail(error, fmt::format("cannot be looked up: {}", std::strerror(error)));
        }
    }
}

sys::Result<std::uint32_t> user_number(const std::string& name) {
    return number_of<passwd>(name, ::getpwnam_r, [](const passwd& entry) { return entry.pw_uid; });
}

sys::Result<std::uint32_t> group_number(const std::string& name) {
    return number_of<group>(name, ::getgrnam_r, [](const group& entry) { return entry.gr_gid; });
}

class RuleReader {
public:
    explicit RuleReader(const Complain& complain) : complain_(complain) {}
    void read(const toml::table& table, AccessRule& rule);

private:
    void key(std::string_view name, const toml::node& node, AccessRule& rule);
    void from(const toml::node& node, AccessRule& rule);
    void rights(const toml::node& node, bool allow, AccessRule& rule);
    void filters(const toml::node& node, AccessRule& rule);
    void numbers(const toml::node& node, std::string_view name, std::vector<std::uint32_t>& found);
    void named(const toml::node& node, std::string_view name, std::vector<std::uint32_t>& found);
    void texts(const toml::node& node, std::string_view name, std::vector<std::string>& found);
    /// A value by itself is a list of one. An empty list would be about nobody, or everybody.
    template <class Each>
    void each(const toml::node& node, std::string_view name, Each&& take);

    const Complain& complain_;
    bool decides_ = false;  ///< allow or deny was there
};

template <class Each>
void RuleReader::each(const toml::node& node, std::string_view name, Each&& take) {
    const toml::array* const array = node.as_array();
    if (array == nullptr) {
        take(node);
    } else if (array->empty()) {
        complain_(node, fmt::format("rule.{} is an empty list", name));
    } else {
        for (const toml::node& element : *array) {
            take(element);
        }
    }
}

void RuleReader::numbers(const toml::node& node, std::string_view name,
                         std::vector<std::uint32_t>& found) {
    each(node, name, [&](const toml::node& element) {
        const auto value = element.value_exact<std::int64_t>();
        if (!value || *value < 0 || *value > kIdMost) {
            complain_(element, fmt::format("rule.{} must be a number, or a list of numbers, from "
                                           "0 to {}",
                                           name, kIdMost));
        } else {
            found.push_back(static_cast<std::uint32_t>(*value));
        }
    });
}

void RuleReader::texts(const toml::node& node, std::string_view name,
                       std::vector<std::string>& found) {
    each(node, name, [&](const toml::node& element) {
        const auto value = element.value_exact<std::string>();
        if (!value || value->empty() || value->find('\0') != value->npos) {
            complain_(element,
                      fmt::format("rule.{} must be a string, or a list of strings", name));
        } else {
            found.push_back(*value);
        }
    });
}

void RuleReader::named(const toml::node& node, std::string_view name,
                       std::vector<std::uint32_t>& found) {
    std::vector<std::string> names;
    texts(node, name, names);
    for (const std::string& one : names) {
        const auto number = name == "user" ? user_number(one) : group_number(one);
        if (number.ok()) {
            found.push_back(number.value());
        } else {
            complain_(node, fmt::format("rule.{} \"{}\": {}", name, one, number.error().what));
        }
    }
}

void RuleReader::from(const toml::node& node, AccessRule& rule) {
    const auto value = node.value_exact<std::string>();
    if (value && (*value == "local" || *value == "remote")) {
        rule.remote = *value == "remote";
    } else {
        complain_(node, "rule.from must be \"local\" or \"remote\"");
    }
}

void RuleReader::rights(const toml::node& node, bool allow, AccessRule& rule) {
    if (decides_) {
        complain_(node, "a rule either allows or denies: it has both keys");
        return;
    }
    decides_ = true;
    rule.allow = allow;
    const char* const name = allow ? "allow" : "deny";
    each(node, name, [&](const toml::node& element) {
        const auto value = element.value_exact<std::string>();
        for (const Right right :
             {Right::publish, Right::subscribe, Right::subscribe_reliably}) {
            if (value && *value == right_name(right)) {
                rule.rights |= static_cast<std::uint8_t>(right);
                return;
            }
        }
        complain_(element, fmt::format("rule.{} must be of \"publish\", \"subscribe\" and "
                                       "\"subscribe-reliably\"",
                                       name));
    });
}

void RuleReader::filters(const toml::node& node, AccessRule& rule) {
    std::vector<std::string> found;
    texts(node, "filter", found);
    for (std::string& filter : found) {
        if (const char* fault = protocol::filter_fault(filter); *fault != '\0') {
            complain_(node, fmt::format("rule.filter \"{}\": {}", filter, fault));
        } else {
            rule.filters.push_back(std::move(filter));
        }
    }
}

void RuleReader::key(std::string_view name, const toml::node& node, AccessRule& rule) {
    if (name == "name") {
        const auto value = node.value_exact<std::string>();
        if (value && !value->empty() && value->size() <= kNameBytesMax &&
            std::none_of(value->begin(), value->end(),
                         [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 127; })) {
            rule.name = *value;
        } else {
            complain_(node, fmt::format("rule.name must be a string of 1 to {} bytes, without "
                                        "control characters",
                                        kNameBytesMax));
        }
    } else if (name == "from") {
        from(node, rule);
    } else if (name == "uid") {
        numbers(node, name, rule.uids);
    } else if (name == "gid") {
        numbers(node, name, rule.gids);
    } else if (name == "user") {
        named(node, name, rule.uids);
    } else if (name == "group") {
        named(node, name, rule.gids);
    } else if (name == "subject") {
        texts(node, name, rule.subjects);
    } else if (name == "token") {
        texts(node, name, rule.tokens);
    } else if (name == "allow" || name == "deny") {
        rights(node, name == "allow", rule);
    } else if (name == "filter") {
        filters(node, rule);
    } else {
        complain_(node, fmt::format("unknown key rule.{}: a rule has name, from, uid, user, gid, "
                                    "group, subject, token, allow or deny, and filter",
                                    name));
    }
}

void RuleReader::read(const toml::table& table, AccessRule& rule) {
    rule.line = table.source().begin.line;
    for (auto&& [name, node] : table) {
        key(name.str(), node, rule);
    }
    if (!decides_) {
        complain_(table, "[[rule]] needs allow or deny: [\"publish\", \"subscribe\", "
                         "\"subscribe-reliably\"]");
    }
    if (!table.contains("filter")) {
        complain_(table, "[[rule]] needs a filter; \"#\" is every topic");
    }
    const bool local = !rule.uids.empty() || !rule.gids.empty();
    const bool remote = !rule.subjects.empty() || !rule.tokens.empty();
    if (rule.remote && (*rule.remote ? local && !remote : remote && !local)) {
        complain_(table, *rule.remote ? "a remote client has no uid or gid of this host: the rule "
                                        "is about nobody"
                                      : "a local client has no subject or token: the rule is "
                                        "about nobody");
    }
}

}  // namespace

void read_access_rules(const toml::node& node, AccessRules& ret_rules, const Complain& complain) {
    const toml::array* const array = node.as_array();
    if (array == nullptr || !array->is_homogeneous(toml::node_type::table)) {
        complain(node, "rule must be a list of tables: [[rule]]");
        return;
    }
    for (const toml::node& element : *array) {
        AccessRule rule;
        RuleReader(complain).read(*element.as_table(), rule);
        ret_rules.rules.push_back(std::move(rule));
    }
}

}  // namespace ipcbus::daemon
