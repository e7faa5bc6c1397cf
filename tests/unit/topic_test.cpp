// SPDX-License-Identifier: Apache-2.0
// Goal: the grammar of topics and filters, and who matches whom. Method: tables for the grammar;
// for matching every pair of short filters, judged by every short topic with a naive matcher.
#include "protocol/topic.hpp"

#include "protocol/limits.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

using namespace ipcbus::protocol;

namespace {

using Levels = std::vector<std::string>;

Levels split(const std::string& name) {
    Levels levels(1);
    for (const char c : name) {
        if (c == '/') {
            levels.emplace_back();
        } else {
            levels.back() += c;
        }
    }
    return levels;
}

/// As the rules are told to people, with no thought for speed.
bool naive_match(const Levels& filter, const Levels& topic, std::size_t from = 0) {
    if (from == filter.size()) {
        return from == topic.size();
    }
    const bool hidden = from == 0 && topic[0][0] == '$';
    if (filter[from] == "#") {
        return !hidden;
    }
    if (from == topic.size()) {
        return false;
    }
    if (filter[from] == "+" ? hidden : filter[from] != topic[from]) {
        return false;
    }
    return naive_match(filter, topic, from + 1);
}

/// Every name of up to `levels_max` levels out of `words`.
std::vector<std::string> names(const std::vector<std::string>& words, std::size_t levels_max) {
    std::vector<std::string> all;
    std::vector<std::string> last{""};
    for (std::size_t level = 0; level < levels_max; level++) {
        std::vector<std::string> next;
        for (const std::string& before : last) {
            for (const std::string& word : words) {
                next.push_back(before.empty() ? word : before + "/" + word);
            }
        }
        all.insert(all.end(), next.begin(), next.end());
        last = std::move(next);
    }
    return all;
}

std::string repeated(const std::string& level, std::size_t count) {
    std::string name = level;
    for (std::size_t i = 1; i < count; i++) {
        name += "/" + level;
    }
    return name;
}

}  // namespace

TEST_SUITE_BEGIN("topic");

TEST_CASE("what is a topic") {
    for (const char* good : {"a", "plant/7/temp", "$bus/log", "a b", "-",
                             "\xc3\xa4/\xf0\x9f\x94\x94", "a$b", "x/$y", "."}) {
        CAPTURE(good);
        CHECK(valid_topic(good));
        CHECK(valid_filter(good));
        CHECK(*topic_fault(good) == '\0');
        CHECK_FALSE(has_wildcards(good));
    }
    for (const char* bad : {"", "/", "/a", "a/", "a//b", "a\n", "\x01", "a/\x7f", "\x1f"}) {
        CAPTURE(bad);
        CHECK_FALSE(valid_topic(bad));
        CHECK_FALSE(valid_filter(bad));
        CHECK(*topic_fault(bad) != '\0');
        CHECK(*filter_fault(bad) != '\0');
    }
    CHECK_FALSE(valid_topic(std::string_view("a\0b", 3)));
    for (const char* filter : {"+", "#", "a/+", "a/#", "+/a", "+/+/#", "$bus/#"}) {
        CAPTURE(filter);
        CHECK_FALSE(valid_topic(filter));
        CHECK(valid_filter(filter));
        CHECK(has_wildcards(filter));
    }
    for (const char* bad : {"#/a", "a#", "a/b#", "a+", "+a", "a/++", "##", "a/#/b", "#/#", "+/"}) {
        CAPTURE(bad);
        CHECK_FALSE(valid_filter(bad));
        CHECK_FALSE(valid_topic(bad));
    }
    CHECK(is_bus_topic("$bus/x"));
    CHECK(is_bus_topic("$"));
    CHECK_FALSE(is_bus_topic("x/$bus"));
    CHECK_FALSE(is_bus_topic(""));
}

TEST_CASE("255 bytes and 32 levels, no more") {
    CHECK(valid_topic(std::string(255, 'x')));
    CHECK_FALSE(valid_topic(std::string(256, 'x')));
    CHECK_FALSE(valid_topic(std::string(70000, 'x')));
    CHECK(valid_topic(repeated("x", 32)));
    CHECK_FALSE(valid_topic(repeated("x", 33)));
    CHECK(valid_filter(repeated("+", 32)));
    CHECK_FALSE(valid_filter(repeated("+", 33)));
    CHECK(valid_filter(repeated("x", 31) + "/#"));
    CHECK_FALSE(valid_filter(repeated("x", 32) + "/#"));
}

TEST_CASE("matching, by example") {
    CHECK(topic_matches("plant/7/temp", "plant/7/temp"));
    CHECK_FALSE(topic_matches("plant/7/temp", "plant/7"));
    CHECK_FALSE(topic_matches("plant/7", "plant/7/temp"));
    CHECK(topic_matches("plant/+/temp", "plant/7/temp"));
    CHECK_FALSE(topic_matches("plant/+/temp", "plant/7/8/temp"));
    CHECK(topic_matches("plant/#", "plant"));
    CHECK(topic_matches("plant/#", "plant/7/temp"));
    CHECK_FALSE(topic_matches("plant/#", "plants"));
    CHECK(topic_matches("#", "a"));
    CHECK(topic_matches("#", "a/b/c"));
    CHECK_FALSE(topic_matches("#", "$bus/x"));
    CHECK_FALSE(topic_matches("+/x", "$bus/x"));
    CHECK(topic_matches("$bus/#", "$bus/x"));
    CHECK(topic_matches("$bus/+", "$bus/x"));
    CHECK(topic_matches("a/+", "a/$b"));
    CHECK(topic_matches("a/#", "a/$b/c"));
    CHECK(filters_intersect("plant/+/temp", "plant/7/#"));
    CHECK_FALSE(filters_intersect("plant/+/temp", "plant/7/speed"));
    CHECK_FALSE(filters_intersect("#", "$bus/#"));
    CHECK(filter_covers("plant/#", "plant/+/temp"));
    CHECK_FALSE(filter_covers("plant/+/temp", "plant/#"));
    CHECK_FALSE(filter_covers("#", "$bus/#"));
}

TEST_CASE("every filter of three levels against every other") {
    const std::vector<std::string> all_topics = names({"a", "b", "other", "$s"}, 4);
    std::vector<Levels> topics;
    for (const std::string& topic : all_topics) {
        REQUIRE(valid_topic(topic));
        topics.push_back(split(topic));
    }
    std::vector<std::string> filters;
    for (const std::string& name : names({"a", "b", "$s", "+", "#"}, 3)) {
        if (valid_filter(name)) {
            filters.push_back(name);
        }
    }
    REQUIRE(filters.size() > 100);

    // Which topics each filter names, by the naive matcher.
    std::vector<std::vector<bool>> named(filters.size(), std::vector<bool>(topics.size()));
    int wrong = 0;
    for (std::size_t f = 0; f < filters.size(); f++) {
        const Levels levels = split(filters[f]);
        for (std::size_t t = 0; t < topics.size(); t++) {
            named[f][t] = naive_match(levels, topics[t]);
            if (topic_matches(filters[f], all_topics[t]) != named[f][t] && wrong++ < 10) {
                FAIL_CHECK("match ", filters[f], " ", all_topics[t]);
            }
        }
    }
    for (std::size_t a = 0; a < filters.size(); a++) {
        for (std::size_t b = 0; b < filters.size(); b++) {
            bool common = false;
            bool covered = true;
            for (std::size_t t = 0; t < topics.size(); t++) {
                common = common || (named[a][t] && named[b][t]);
                covered = covered && (named[a][t] || !named[b][t]);
            }
            if (filters_intersect(filters[a], filters[b]) != common && wrong++ < 10) {
                FAIL_CHECK("intersect ", filters[a], " ", filters[b]);
            }
            if (filter_covers(filters[a], filters[b]) != covered && wrong++ < 10) {
                FAIL_CHECK("covers ", filters[a], " ", filters[b]);
            }
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("long random names match as the naive matcher says") {
    std::mt19937 random(20240229);
    const std::vector<std::string> words{"a", "b", "abc", "$s", "+", "#", "", "\xc3\xa4", "$"};
    const auto name = [&](bool wildcards) {
        std::string made;
        do {
            made.clear();
            const std::size_t count = 1 + random() % 9;
            for (std::size_t i = 0; i < count; i++) {
                made += (i == 0 ? "" : "/") + words[random() % words.size()];
            }
        } while (wildcards ? !valid_filter(made) : !valid_topic(made));
        return made;
    };
    int matches = 0;
    for (int i = 0; i < 20000; i++) {
        const std::string filter = name(true);
        std::string topic = name(false);
        if (i % 2 == 0) {
            // Unrelated names hardly ever match: make the topic out of the filter.
            Levels levels = split(filter);
            topic.clear();
            for (std::string& level : levels) {
                if (level == "+" || level == "#") {
                    level = words[random() % 4];
                }
                topic += (topic.empty() ? "" : "/") + level;
            }
        }
        const bool expected = naive_match(split(filter), split(topic));
        matches += expected ? 1 : 0;
        if (topic_matches(filter, topic) != expected) {
            FAIL_CHECK(filter, " ", topic);
        }
        // A filter has everything in common with itself, and covers itself; symmetric, too.
        const std::string other = name(true);
        CHECK(filters_intersect(filter, filter));
        CHECK(filter_covers(filter, filter));
        CHECK(filters_intersect(filter, other) == filters_intersect(other, filter));
        if (filter_covers(filter, other)) {
            CHECK(filters_intersect(filter, other));
        }
    }
    CHECK(matches > 1000);
}
