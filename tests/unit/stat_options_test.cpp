// SPDX-License-Identifier: Apache-2.0
// Goal: the command line of ipcbus-stat means what its page says, above all where --watch takes a
// word and where it does not. Method: tables of words.
#include "stat_options.hpp"

#include <doctest/doctest.h>

using namespace ipcbus;
using namespace ipcbus::tools;

namespace {

sys::Result<StatOptions> parse(std::vector<std::string> words) {
    std::vector<char*> pointers;
    for (std::string& word : words) {
        pointers.push_back(word.data());
    }
    return parse_stat_options(pointers);
}

std::string error_of(std::vector<std::string> words) {
    const auto parsed = parse(std::move(words));
    return parsed.ok() ? "no error" : parsed.error().what;
}

}  // namespace

TEST_SUITE_BEGIN("stat_options");

TEST_CASE("defaults: two looks, tables, everything") {
    const auto options = parse({});
    REQUIRE(options.ok());
    CHECK_FALSE(options.value().watch);
    CHECK_FALSE(options.value().once);
    CHECK(options.value().filters.empty());
    CHECK(options.value().form == StatOptions::Form::text);
    CHECK(options.value().style.sort == stats::Sort::topic);
}

TEST_CASE("--watch takes a duration, and nothing else") {
    using Words = std::vector<std::string>;
    for (const Words& words : {Words{"--watch", "100ms"}, Words{"--watch=100ms"},
                               Words{"a", "--watch", "100ms"}, Words{"--watch", "0.1", "a"}}) {
        const auto options = parse(words);
        REQUIRE(options.ok());
        CHECK(options.value().watch);
        CHECK(options.value().interval_ns == 100'000'000);
        CHECK(options.value().filters.size() ==
              words.size() - (words[0] == "--watch=100ms" ? 1 : 2));
    }
    for (const Words& words : {Words{"--watch", "plant/#"}, Words{"--watch", "7/temp"},
                               Words{"--watch", "--", "5"}, Words{"--watch", "-t", "5"}}) {
        const auto options = parse(words);
        REQUIRE(options.ok());
        CHECK(options.value().interval_ns == 1'000'000'000);
        CHECK(options.value().filters == Words{words.back()});
    }
    CHECK(parse({"--watch", "-C", "3"}).value().count_max == 3);
    CHECK(error_of({"--watch=x"}).starts_with("--watch 'x': not a duration"));
    CHECK(error_of({"--watch="}).starts_with("--watch '': not a duration"));
    CHECK(error_of({"--watch", "1ms"}) == "--watch '1ms': not from 10ms to 24h");
    CHECK(error_of({"--watch", "25h"}) == "--watch '25h': not from 10ms to 24h");
}

TEST_CASE("what does not go together is refused by name") {
    CHECK(error_of({"-C", "3"}) == "-C is for --watch");
    CHECK(error_of({"--watch", "-C", "0"}).starts_with("-C '0': not a number"));
    CHECK(error_of({"-1", "--watch"}) == "--once and --watch do not go together");
    CHECK(error_of({"-j", "--prometheus"}) == "-j and --prometheus do not go together");
    CHECK(error_of({"--prometheus", "--watch"}) == "--prometheus and --watch do not go together");
    CHECK(error_of({"-j", "-a"}) == "-j and -a do not go together");
    CHECK(error_of({"--sort", "size"}).starts_with("--sort 'size': not one of topic, rate"));
    CHECK(error_of({"a//b"}) == "'a//b' is no topic: a level is empty");
    CHECK(error_of({"--tpoic", "a"}) == "unknown option '--tpoic'");
    CHECK(parse({"--prometheus"}).value().once);
    CHECK(parse({"-a", "--sort", "lag", "-t", "x", "y"}).value().filters.size() == 2);
}

TEST_CASE("help fits a screen") {
    const std::string help = stat_help();
    CHECK(std::count(help.begin(), help.end(), '\n') <= 24);
    for (std::size_t begin = 0; begin < help.size();) {
        const std::size_t end = help.find('\n', begin);
        CHECK(end - begin <= 80);
        begin = end + 1;
    }
}

TEST_SUITE_END();
