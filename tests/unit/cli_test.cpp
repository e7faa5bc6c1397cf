// SPDX-License-Identifier: Apache-2.0
// The command line of the tools. Goal: every spelling of an option means the same, numbers are
// exact, and what is not understood is refused by name. Method: tables of words.
#include "cli.hpp"

#include <doctest/doctest.h>

#include <array>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

using namespace ipcbus::tools;
using ipcbus::sys::Result;

namespace {

enum { kVerbose = 1, kNewline, kCount, kFramed };

constexpr std::array kSpecs = {
    OptionSpec{kVerbose, 'v', "verbose", false},
    OptionSpec{kNewline, 'N', "no-newline", false},
    OptionSpec{kCount, 'C', "count", true},
    OptionSpec{kFramed, '\0', "framed", false},
};

Result<Arguments> parse(std::vector<std::string> words) {
    static std::vector<std::string> kept;  // Arguments has views into it
    kept = std::move(words);
    std::vector<char*> pointers;
    for (std::string& word : kept) {
        pointers.push_back(word.data());
    }
    return parse_arguments(pointers, kSpecs);
}

std::string error_of(std::vector<std::string> words) {
    const auto parsed = parse(std::move(words));
    return parsed.ok() ? "no error" : parsed.error().what;
}

}  // namespace

TEST_SUITE("cli") {
    TEST_CASE("all spellings of an option with a value") {
        for (const auto& words : {std::vector<std::string>{"-C", "5"}, {"-C5"}, {"--count", "5"},
                                  {"--count=5"}, {"-vC5"}, {"-vNC", "5"}}) {
            CAPTURE(words.front());
            const auto parsed = parse(words);
            REQUIRE(parsed.ok());
            CHECK(parsed.value().options.back().id == kCount);
            CHECK(parsed.value().options.back().value == "5");
            CHECK(parsed.value().positionals.empty());
        }
        CHECK(parse({"--count="}).value().options.at(0).value.empty());
        CHECK(parse({"--count=a=b"}).value().options.at(0).value == "a=b");
        CHECK(parse({"-C", "-v"}).value().options.at(0).value == "-v");
        CHECK(parse({"-C=5"}).value().options.at(0).value == "=5");
    }

    TEST_CASE("options and operands in any order; -- and -") {
        const auto parsed = parse({"a", "-v", "b", "-", "--framed", "--", "-v", "--", "c"});
        REQUIRE(parsed.ok());
        REQUIRE(parsed.value().options.size() == 2);
        CHECK(parsed.value().options[0].id == kVerbose);
        CHECK(parsed.value().options[1].id == kFramed);
        CHECK(parsed.value().options[1].shown == "--framed");
        CHECK(parsed.value().positionals ==
              std::vector<std::string_view>{"a", "b", "-", "-v", "--", "c"});
        CHECK(parse({}).value().positionals.empty());
        CHECK(parse({""}).value().positionals.size() == 1);
        CHECK(parse({"--"}).value().positionals.empty());
    }

    TEST_CASE("what is not understood is named") {
        CHECK(error_of({"--retain"}) == "unknown option '--retain'");
        CHECK(error_of({"--retain=5"}) == "unknown option '--retain'");
        CHECK(error_of({"-z"}) == "unknown option '-z'");
        CHECK(error_of({"-vz"}) == "unknown option '-z'");
        CHECK(error_of({"--verb"}) == "unknown option '--verb'");  // no abbreviations
        CHECK(error_of({"--verbose=1"}) == "--verbose takes no value");
        CHECK(error_of({"-C"}) == "-C needs a value");
        CHECK(error_of({"--count"}) == "--count needs a value");
        CHECK(error_of({"-v", "--", "--nonsense"}) == "no error");
    }

    TEST_CASE("durations") {
        const auto ns = [](std::string_view text) { return parse_duration_ns(text).value(); };
        CHECK(ns("0") == 0);
        CHECK(ns("2s") == 2'000'000'000);
        CHECK(ns("1.5") == 1'500'000'000);
        CHECK(ns("500ms") == 500'000'000);
        CHECK(ns("0.1") == 100'000'000);
        CHECK(ns("0.000000001") == 1);
        CHECK(ns("250us") == 250'000);
        CHECK(ns("7ns") == 7);
        CHECK(ns("2m") == 120'000'000'000);
        CHECK(ns("1min") == 60'000'000'000);
        CHECK(ns("1.5h") == 5'400'000'000'000);
        CHECK(ns("9223372036") == 9'223'372'036'000'000'000);
        for (const auto bad : {"", "s", ".5", "1.", "-1", "+1", " 1", "1 s", "1x", "1e3", "0x10",
                               "inf", "9223372037", "99999999999999999999", "1.2.3",
                               "0.1234567890123456789"}) {
            CAPTURE(bad);
            CHECK_FALSE(parse_duration_ns(bad).ok());
        }
    }

    TEST_CASE("durations shown are the durations read") {
        for (const auto text : {"0s", "7ns", "250us", "1.5ms", "500ms", "1s", "1.5s", "90s",
                                "0.000000001s"}) {
            CAPTURE(text);
            const std::int64_t ns = parse_duration_ns(text).value();
            CHECK(parse_duration_ns(show_duration(ns)).value() == ns);
        }
        CHECK(show_duration(0) == "0s");
        CHECK(show_duration(1'500'000'000) == "1.5s");
        CHECK(show_duration(500'000'000) == "500ms");
        CHECK(show_duration(1'001'000'000) == "1.001s");
    }

    TEST_CASE("sizes") {
        const auto bytes = [](std::string_view text) { return parse_size(text).value(); };
        CHECK(bytes("65536") == 65536);
        CHECK(bytes("64KiB") == 65536);
        CHECK(bytes("64K") == 65536);
        CHECK(bytes("64kB") == 64000);
        CHECK(bytes("1.5MiB") == 1572864);
        CHECK(bytes("1M") == 1048576);
        CHECK(bytes("1GiB") == 1073741824);
        CHECK(bytes("2GB") == 2000000000);
        CHECK(bytes("10B") == 10);
        for (const auto bad : {"", "K", "-1", "1TB", "64 KiB", "64kib", "1e6"}) {
            CAPTURE(bad);
            CHECK_FALSE(parse_size(bad).ok());
        }
        CHECK_FALSE(parse_size("99999999999GiB").ok());
    }

    TEST_CASE("counts and rates") {
        CHECK(parse_count("1", 1).value() == 1);
        CHECK(parse_count("0", 0).value() == 0);
        CHECK(parse_count("18446744073709551615", 1).value() ==
              std::numeric_limits<std::uint64_t>::max());
        for (const auto bad : {"", "0", "-1", "+1", "1.5", "x", "1x", "18446744073709551616"}) {
            CAPTURE(bad);
            CHECK_FALSE(parse_count(bad, 1).ok());
        }
        CHECK(parse_rate("0.5").value() == 0.5);
        CHECK(parse_rate("1e3").value() == 1000);
        for (const auto bad : {"", "0", "-1", "nan", "inf", "1x", "1e10"}) {
            CAPTURE(bad);
            CHECK_FALSE(parse_rate(bad).ok());
        }
    }

    TEST_CASE("a bad value is reported with its option") {
        const auto parsed = parse({"--count=many"});
        REQUIRE(parsed.ok());
        const auto count = count_option(parsed.value().options.at(0));
        REQUIRE_FALSE(count.ok());
        CHECK(count.error().what == "--count 'many': not a number of 1 or more");
        const auto duration = duration_option({kCount, "-W", "soon"});
        CHECK(duration.error().what.starts_with("-W 'soon': not a duration"));
    }

    TEST_CASE("what is quoted stays short") {
        CHECK(quoted("x") == "'x'");
        CHECK(plural(0, "message") == "0 messages");
        CHECK(plural(1, "message") == "1 message");
        CHECK(quoted(std::string(500, 'a')).size() < 100);
    }
}
