// SPDX-License-Identifier: Apache-2.0
// Goal: the first rule that is about a client, what it wants and a topic decides; a filter is
// allowed only if each of its topics is, and a subscription is refused only if none of them is.
// Method: random rules, identities and filters over a small world of topics, each of which an
// evaluator of its own, written without the code under test, looks at one by one. Pure.
#include "access.hpp"
#include "naive_topics.hpp"

#include <doctest/doctest.h>

#include <array>
#include <random>
#include <string>
#include <vector>

using namespace ipcbus::daemon;
using ipcbus::test::names;
using ipcbus::test::split;

namespace {

/// One level deeper and one name more than any filter says: what no filter tells apart is there
/// once, at least.
std::vector<std::string> world() {
    const std::array<std::string, 3> kNames = {"a", "b", "z"};
    std::vector<std::string> topics(kNames.begin(), kNames.end());
    for (std::size_t begin = 0, depth = 1; depth < 4; depth++) {
        const std::size_t end = topics.size();
        for (std::size_t i = begin; i < end; i++) {
            for (const std::string& name : kNames) {
                topics.push_back(topics[i] + "/" + name);
            }
        }
        begin = end;
    }
    return topics;
}

bool naive_is_about(const AccessRule& rule, const Identity& who) {
    if (rule.remote.has_value() && rule.remote.value() != who.remote) {
        return false;
    }
    bool anybody = true;
    bool found = false;
    for (const uid_t uid : rule.uids) {
        anybody = false;
        found = found || (!who.remote && uid == who.uid);
    }
    for (const gid_t gid : rule.gids) {
        anybody = false;
        for (const gid_t one : who.gids) {
            found = found || (!who.remote && gid == one);
        }
    }
    for (const std::string& subject : rule.subjects) {
        anybody = false;
        found = found || (who.remote && subject == who.subject);
    }
    for (const std::string& token : rule.tokens) {
        anybody = false;
        found = found || (who.remote && token == who.token);
    }
    return anybody || found;
}

bool naive(const AccessRules& rules, const Identity& who, Right right, const std::string& topic) {
    for (const AccessRule& rule : rules.rules) {
        if (!naive_is_about(rule, who) || (rule.rights & static_cast<unsigned>(right)) == 0) {
            continue;
        }
        for (const std::string& filter : rule.filters) {
            if (names(split(filter), split(topic))) {
                return rule.allow;
            }
        }
    }
    return who.remote ? rules.remote_allowed : rules.local_allowed;
}

class Dice {
public:
    explicit Dice(unsigned seed) : engine_(seed) {}
    bool coin(unsigned one_in = 2) { return engine_() % one_in == 0; }
    template <class T, std::size_t n>
    const T& of(const std::array<T, n>& values) {
        return values[engine_() % n];
    }

private:
    std::mt19937 engine_;
};

const std::array<std::string, 16> kFilters = {"#",   "+",     "a",    "b",   "a/#",   "+/a",
                                              "a/+", "a/b",   "b/#",  "+/#", "+/a/#", "a/+/b",
                                              "b/a", "+/+",   "a/b/#", "+/+/a"};
const std::array<Right, 3> kRights = {Right::publish, Right::subscribe, Right::subscribe_reliably};

AccessRules random_rules(Dice& dice) {
    AccessRules rules;
    rules.local_allowed = dice.coin();
    rules.remote_allowed = dice.coin();
    while (!dice.coin(5)) {
        AccessRule rule;
        if (dice.coin(3)) {
            rule.remote = dice.coin();
        }
        if (dice.coin(3)) {
            rule.uids.push_back(dice.of(std::array<uid_t, 2>{1, 2}));
        }
        if (dice.coin(4)) {
            rule.gids.push_back(dice.of(std::array<gid_t, 3>{10, 20, 30}));
        }
        if (dice.coin(4)) {
            rule.subjects.push_back(dice.of(std::array<std::string, 2>{"CN=a", "CN=b"}));
        }
        if (dice.coin(4)) {
            rule.tokens.push_back(dice.of(std::array<std::string, 2>{"CN=a", "t"}));
        }
        for (const Right right : kRights) {
            rule.rights |= dice.coin() ? static_cast<std::uint8_t>(right) : 0;
        }
        rule.allow = dice.coin();
        do {
            rule.filters.push_back(dice.of(kFilters));
        } while (dice.coin(3));
        rules.rules.push_back(rule);
    }
    return rules;
}

const std::array<Identity, 7> kWho = {
    Identity{false, 1, {10}, "", ""},       Identity{false, 2, {20, 30}, "", ""},
    Identity{false, 3, {40}, "", ""},       Identity{true, 1, {1}, "CN=a", ""},
    Identity{true, 2, {10}, "", "CN=a"},    Identity{true, 0x80000001, {0}, "", "t"},
    Identity{true, 0x80000002, {0}, "", ""}};

}  // namespace

TEST_CASE("identities, filters and rights against one topic at a time") {
    const std::vector<std::string> topics = world();
    std::size_t allowed = 0;
    std::size_t partly = 0;
    std::size_t refused = 0;
    for (unsigned seed = 0; seed < 400; seed++) {
        Dice dice(seed);
        const auto rules = std::make_shared<const AccessRules>(random_rules(dice));
        for (const Identity& who : kWho) {
            const Access access(rules, who);
            for (const Right right : kRights) {
                for (const std::string& topic : topics) {
                    const bool may = naive(*rules, who, right, topic);
                    if (access.may(right, topic) != may || access.may_partly(right, topic) != may) {
                        FAIL("seed ", seed, ", ", right_name(right), " ", topic);
                    }
                }
                for (const std::string& filter : kFilters) {
                    bool all = true;
                    bool any = false;
                    for (const std::string& topic : topics) {
                        if (names(split(filter), split(topic))) {
                            const bool may = naive(*rules, who, right, topic);
                            all = all && may;
                            any = any || may;
                        }
                    }
                    INFO("seed ", seed, ", ", right_name(right), " ", filter);
                    if (access.may(right, filter)) {
                        REQUIRE(all);
                        allowed++;
                    }
                    if (!access.may_partly(right, filter)) {
                        REQUIRE_FALSE(any);
                        refused++;
                    }
                    partly += any && !all ? 1 : 0;
                }
            }
        }
    }
    CHECK(allowed > 10000);  // else it says nothing
    CHECK(partly > 10000);
    CHECK(refused > 10000);
}

TEST_CASE("who is denied learns which rule says so, and where it stands") {
    AccessRules rules;
    rules.remote_allowed = false;
    AccessRule rule;
    rule.name = "no writing";
    rule.line = 12;
    rule.rights = static_cast<std::uint8_t>(Right::publish);
    rule.filters = {"locked/#"};
    AccessRule free;
    free.rights = 7;
    free.allow = true;
    free.filters = {"free"};
    rules.rules = {free, rule};
    const auto shared = std::make_shared<const AccessRules>(rules);
    const Access local(shared, kWho[0]);
    CHECK(local.may(Right::publish, "open"));
    CHECK_FALSE(local.may(Right::publish, "#"));
    CHECK(local.may_partly(Right::publish, "#"));
    CHECK(local.why_not(Right::publish, "locked/a", true) ==
          "rule 2 ('no writing') in line 12 of the configuration denies this client publish");
    const Access remote(shared, kWho[6]);
    CHECK(remote.may(Right::subscribe, "free"));
    CHECK(remote.why_not(Right::subscribe, "open", true) ==
          "no rule allows this client to subscribe it (access.remote is \"deny\")");
    CHECK(Access().may(Right::subscribe_reliably, "#"));
    CHECK(rule.text() == "no writing: deny publish filter locked/#");
}
