// SPDX-License-Identifier: Apache-2.0
// Topics, filters and the daemon's registry against a naive reading of the same rules: names are
// lists of levels, "have a topic in common" and "covers" are tried with topics (every level one of
// either filter, or another one), and the registry is a list that is gone through.
// Input: lines; each is a name. With a first byte of 1, each byte stands for a piece of a name.
#include "fuzz.hpp"
#include "naive_topics.hpp"

#include "protocol/topic.hpp"
#include "registry.hpp"

#include <algorithm>
#include <string>
#include <vector>

using namespace ipcbus::protocol;
using ipcbus::daemon::FilterTrie;
using ipcbus::daemon::Id;
using ipcbus::fuzz::Input;
using ipcbus::test::names;
using ipcbus::test::split;

namespace {

using Name = ipcbus::test::Levels;

constexpr std::size_t kNamesMax = 8;
constexpr std::size_t kTriedLevelsMax = 4;  // 3 choices a level: at most 363 topics a pair

bool valid_naively(const std::string& text, bool wildcards) {
    const Name levels = split(text);
    if (text.size() > 255 || levels.size() > 32) {
        return false;
    }
    for (std::size_t i = 0; i < levels.size(); i++) {
        const std::string& level = levels[i];
        if (level.empty()) {
            return false;
        }
        const bool wild = level == "+" || (level == "#" && i + 1 == levels.size());
        for (const char c : level) {
            const int code = static_cast<unsigned char>(c);
            if (code < 32 || code == 127 || ((c == '+' || c == '#') && !(wildcards && wild))) {
                return false;
            }
        }
    }
    return true;
}

/// What can be said of two filters once every topic has been tried that could tell them apart.
struct Verdict {
    bool intersect = false;
    bool a_covers = true;
    bool b_covers = true;
};

/// Tries `topic` and every longer one: at each level what either filter says, or something else.
void try_topics(const Name& a, const Name& b, Name& topic, Verdict& ret_verdict) {
    if (!topic.empty()) {
        const bool in_a = names(a, topic);
        const bool in_b = names(b, topic);
        ret_verdict.intersect = ret_verdict.intersect || (in_a && in_b);
        ret_verdict.a_covers = ret_verdict.a_covers && (in_a || !in_b);
        ret_verdict.b_covers = ret_verdict.b_covers && (in_b || !in_a);
    }
    const std::size_t i = topic.size();
    if (i > std::max(a.size(), b.size())) {
        return;
    }
    Name choices{"\x7f"};  // no name has it
    for (const Name* name : {&a, &b}) {
        if (i < name->size() &&
            std::find(choices.begin(), choices.end(), (*name)[i]) == choices.end() &&
            (*name)[i] != "+" && (*name)[i] != "#") {
            choices.push_back((*name)[i]);
        }
    }
    for (const std::string& choice : choices) {
        topic.push_back(choice);
        try_topics(a, b, topic, ret_verdict);
        topic.pop_back();
    }
}

void compare(const std::string& a, const std::string& b) {
    const Name as = split(a);
    const Name bs = split(b);
    if (valid_topic(b)) {
        FUZZ_CHECK(topic_matches(a, b) == names(as, bs));
        FUZZ_CHECK(filter_covers(a, b) == names(as, bs));
        FUZZ_CHECK(filters_intersect(a, b) == names(as, bs));
    }
    FUZZ_CHECK(filters_intersect(a, b) == filters_intersect(b, a));
    FUZZ_CHECK(filter_covers(a, a));
    FUZZ_CHECK(!filter_covers(a, b) || filters_intersect(a, b));
    if (as.size() <= kTriedLevelsMax && bs.size() <= kTriedLevelsMax) {
        Verdict verdict;
        Name topic;
        try_topics(as, bs, topic, verdict);
        FUZZ_CHECK(filters_intersect(a, b) == verdict.intersect);
        FUZZ_CHECK(filter_covers(a, b) == verdict.a_covers);
        FUZZ_CHECK(filter_covers(b, a) == verdict.b_covers);
    }
}

void check_grammar(const std::string& text) {
    FUZZ_CHECK(valid_filter(text) == valid_naively(text, true));
    FUZZ_CHECK(valid_topic(text) == valid_naively(text, false));
    FUZZ_CHECK((*filter_fault(text) == '\0') == valid_filter(text));
    FUZZ_CHECK((*topic_fault(text) == '\0') == valid_topic(text));
    FUZZ_CHECK(valid_topic(text) == (valid_filter(text) && !has_wildcards(text)));
    FUZZ_CHECK(is_bus_topic(text) == text.starts_with("$"));
}

/// The trie, and the list that it must agree with.
class Registered {
public:
    void add(const std::string& filter, Id id) {
        trie_.add(filter, id);
        list_.emplace_back(filter, id);
    }
    void remove(std::size_t place) {
        trie_.remove(list_[place].first, list_[place].second);
        list_.erase(list_.begin() + static_cast<std::ptrdiff_t>(place));
        FUZZ_CHECK(trie_.empty() == list_.empty());
    }
    [[nodiscard]] std::size_t size() const { return list_.size(); }
    void check(const std::string& filter) const {
        std::vector<Id> expected;
        for (const auto& [name, id] : list_) {
            if (filters_intersect(name, filter)) {
                expected.push_back(id);
            }
        }
        std::sort(expected.begin(), expected.end());
        FUZZ_CHECK(trie_.intersecting(filter) == expected);
    }

private:
    FilterTrie trie_;
    std::vector<std::pair<std::string, Id>> list_;
};

std::vector<std::string> lines(Input& input) {
    static constexpr const char* kPieces[] = {"a",  "b",  "/",   "+",  "#", "/+", "/#", "\n",
                                              "$a", "/a", "a/b", "\n", "$", "/b", "+/", "\n"};
    std::string text;
    if (input.byte() == 1) {
        while (!input.empty()) {
            text += kPieces[input.below(std::size(kPieces))];
        }
    } else {
        text = input.rest();
    }
    std::vector<std::string> found(1);
    for (const char c : text) {
        if (c == '\n') {
            if (found.size() == kNamesMax) {
                break;
            }
            found.emplace_back();
        } else {
            found.back() += c;
        }
    }
    return found;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    std::vector<std::string> filters;
    for (const std::string& line : lines(input)) {
        check_grammar(line);
        if (valid_filter(line)) {
            filters.push_back(line);
        }
    }
    Registered registered;
    Id id = 1;
    for (const std::string& filter : filters) {
        compare(filters.front(), filter);
        registered.add(filter, id++);
        registered.check(filter);
    }
    for (const std::string& filter : filters) {
        registered.check(filter);
    }
    while (registered.size() > 0) {
        registered.remove((size + registered.size()) % registered.size());
        registered.check(filters.front());
    }
    return 0;
}
