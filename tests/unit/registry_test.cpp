// SPDX-License-Identifier: Apache-2.0
// Goal: the tries say exactly what a matcher without tries says, and forget what was removed.
// Method: a few cases by hand, then random names of a small alphabet against the naive way, from a
// fixed seed.
#include "registry.hpp"

#include "protocol/topic.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>

using ipcbus::daemon::FilterTrie;
using ipcbus::daemon::Id;
using ipcbus::daemon::Registry;

namespace {

using Ids = std::vector<Id>;

std::string random_name(std::mt19937_64& random, bool wildcards) {
    static constexpr const char* kLevels[] = {"a", "b", "c", "aa", "$bus", "+", "+"};
    std::string name;
    const unsigned levels = 1 + static_cast<unsigned>(random() % 4);
    for (unsigned i = 0; i < levels; i++) {
        name += i == 0 ? "" : "/";
        name += kLevels[random() % (wildcards ? std::size(kLevels) : std::size(kLevels) - 2)];
    }
    if (wildcards && random() % 3 == 0) {
        name = random() % 8 == 0 ? "#" : name + "/#";
    }
    return name;
}

Ids naive(const std::multimap<std::string, Id>& all, const std::string& filter) {
    Ids ids;
    for (const auto& [name, id] : all) {
        if (ipcbus::protocol::filters_intersect(name, filter)) {
            ids.push_back(id);
        }
    }
    std::sort(ids.begin(), ids.end());
    return ids;
}

}  // namespace

TEST_CASE("a trie answers as MQTT does") {
    FilterTrie trie;
    trie.add("plant/7/temp", 1);
    trie.add("plant/+/temp", 2);
    trie.add("plant/#", 3);
    trie.add("#", 4);
    trie.add("plant", 5);
    trie.add("$bus/stats", 6);
    CHECK(trie.intersecting("plant/7/temp") == Ids{1, 2, 3, 4});
    CHECK(trie.intersecting("plant/8/temp") == Ids{2, 3, 4});
    CHECK(trie.intersecting("plant") == Ids{3, 4, 5});
    CHECK(trie.intersecting("#") == Ids{1, 2, 3, 4, 5});
    CHECK(trie.intersecting("+") == Ids{3, 4, 5});
    CHECK(trie.intersecting("plant/7/#") == Ids{1, 2, 3, 4});
    CHECK(trie.intersecting("$bus/#") == Ids{6});
    CHECK(trie.intersecting("$bus/stats") == Ids{6});
    CHECK(trie.intersecting("+/stats") == Ids{3, 4});
    CHECK(trie.intersecting("other") == Ids{4});
}

TEST_CASE("several ids under one name, and an empty trie again") {
    FilterTrie trie;
    trie.add("a/b", 3);
    trie.add("a/b", 1);
    trie.add("a/b", 2);
    trie.add("a", 4);
    CHECK(trie.intersecting("a/b") == Ids{1, 2, 3});
    trie.remove("a/b", 2);
    CHECK(trie.intersecting("a/+") == Ids{1, 3});
    trie.remove("a/b", 1);
    trie.remove("a/b", 3);
    CHECK(trie.intersecting("#") == Ids{4});
    trie.remove("a", 4);
    CHECK(trie.empty());
}

TEST_CASE("random names: the trie and the naive way agree") {
    std::mt19937_64 random(20240607);
    FilterTrie trie;
    std::multimap<std::string, Id> all;
    Id next = 1;
    for (int step = 0; step < 4000; step++) {
        const std::uint64_t action = random() % 4;
        if (action == 0 && !all.empty()) {
            auto victim = all.begin();
            std::advance(victim, static_cast<std::ptrdiff_t>(random() % all.size()));
            trie.remove(victim->first, victim->second);
            all.erase(victim);
        } else if (action == 1 && all.size() < 200) {
            const std::string name = random_name(random, random() % 2 == 0);
            trie.add(name, next);
            all.emplace(name, next);
            next++;
        } else {
            const std::string query = random_name(random, random() % 2 == 0);
            INFO("query ", query);
            CHECK(trie.intersecting(query) == naive(all, query));
        }
    }
    for (const auto& [name, id] : all) {
        trie.remove(name, id);
    }
    CHECK(trie.empty());
}

TEST_CASE("the deepest and longest names") {
    std::string deep = "a";
    for (int i = 1; i < 32; i++) {
        deep += "/a";
    }
    const std::string longest(255, 'x');
    FilterTrie trie;
    trie.add(deep, 1);
    trie.add(longest, 2);
    CHECK(trie.intersecting("#") == Ids{1, 2});
    CHECK(trie.intersecting(deep) == Ids{1});
    CHECK(trie.intersecting(deep.substr(2)).empty());
    trie.remove(deep, 1);
    trie.remove(longest, 2);
    CHECK(trie.empty());
}

TEST_CASE("ids of all kinds come from one counter, and both sides are asked for the other") {
    Registry registry;
    const Id publication = registry.next_id();
    const Id subscription = registry.next_id();
    CHECK(publication != 0);
    CHECK(subscription > publication);
    registry.add_publication("a/b", publication);
    registry.add_subscription("a/#", subscription);
    CHECK(registry.subscriptions_matching("a/b") == Ids{subscription});
    CHECK(registry.publications_matching("a/#") == Ids{publication});
    registry.remove_publication("a/b", publication);
    CHECK(registry.publications_matching("#").empty());
    registry.remove_subscription("a/#", subscription);
    CHECK(registry.subscriptions_matching("a/b").empty());
}
