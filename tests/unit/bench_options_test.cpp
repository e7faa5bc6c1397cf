// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-bench. Goal: defaults and options end up where they are used, and what
// makes no sense, alone, together or in its mode, is refused by name. Method: tables of words.
#include "bench_options.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace ipcbus::tools;
using Mode = BenchOptions::Mode;

namespace {

ipcbus::sys::Result<BenchOptions> parse(std::vector<std::string> words) {
    std::vector<char*> pointers;
    for (std::string& word : words) {
        pointers.push_back(word.data());
    }
    return parse_bench_options(pointers);
}

BenchOptions parsed(std::vector<std::string> words) {
    auto options = parse(std::move(words));
    REQUIRE(options.ok());
    return std::move(options).value();
}

std::string error_of(std::vector<std::string> words) {
    const auto options = parse(std::move(words));
    return options.ok() ? "no error" : options.error().what;
}

}  // namespace

TEST_SUITE("bench_options") {
    TEST_CASE("defaults") {
        const BenchOptions options = parsed({"throughput"});
        CHECK(options.mode == Mode::throughput);
        CHECK(options.size == 64);
        CHECK(options.delivery == IPCBUS_RELIABLE);
        CHECK(options.write_batch == 1);
        CHECK(options.read_batch == 1);
        CHECK(options.readers == 1);
        CHECK(options.spin_ns() == 0);
        CHECK(options.duration_ns == 3'000'000'000);
        CHECK(!options.borrows());
    }

    TEST_CASE("all modes have names") {
        for (const Mode mode :
             {Mode::latency, Mode::request, Mode::throughput, Mode::fanout, Mode::connect,
              Mode::control}) {
            CHECK(parsed({std::string(mode_name(mode))}).mode == mode);
        }
    }

    TEST_CASE("messages") {
        const BenchOptions options =
            parsed({"--size", "1MiB", "--in-place", "latency", "--wait=spin", "--untouched"});
        CHECK(options.size == 1 << 20);
        CHECK(options.write_in_place);
        CHECK(options.read_in_place);
        CHECK(options.untouched);
        CHECK(options.spin_ns() == INT64_MAX);
        CHECK(parsed({"latency", "--wait", "sleep"}).spin_ns() == -1);
        CHECK(parsed({"fanout", "--mode", "latest"}).delivery == IPCBUS_LATEST);
        CHECK(parsed({"latency", "--size", "0"}).size == 0);
    }

    TEST_CASE("batches") {
        BenchOptions options = parsed({"throughput", "--batch", "16"});
        CHECK(options.write_batch == 16);
        CHECK(options.read_batch == 16);
        CHECK(options.borrows());
        options = parsed({"throughput", "--read-batch", "64", "--batch", "16"});
        CHECK(options.write_batch == 16);
        CHECK(options.read_batch == 64);
        options = parsed({"throughput", "--read-batch", "64", "--in-place"});
        CHECK(options.write_batch == 1);
        CHECK(options.read_batch == 64);
    }

    TEST_CASE("rings are powers of two") {
        CHECK(parsed({"latency"}).ring_bytes == 0);
        CHECK(parsed({"latency", "--ring", "64KiB"}).ring_bytes == 65536);
        CHECK(parsed({"connect", "--ring", "65537"}).ring_bytes == 131072);
    }

    TEST_CASE("control") {
        const BenchOptions options =
            parsed({"control", "--clients", "2000", "--publications", "10000", "--subscriptions",
                    "1000", "--matches", "10", "--processes", "8"});
        CHECK(options.clients == 2000);
        CHECK(options.publications == 10000);
        CHECK(options.subscriptions == 1000);
        CHECK(options.matches == 10);
        CHECK(options.processes == 8);
    }

    TEST_CASE("what is not understood") {
        CHECK(error_of({}).starts_with("no mode was given"));
        CHECK(error_of({"speed"}).starts_with("mode 'speed': not one of latency, "));
        CHECK(error_of({"latency", "connect"}).find("'connect'") != std::string::npos);
        CHECK(error_of({"latency", "--readers", "2"}) == "--readers says nothing to latency");
        CHECK(error_of({"--duration", "1", "control"}) == "--duration says nothing to control");
        for (const auto& words : std::vector<std::vector<std::string>>{{"--size", "-1"},
                                                                       {"--size", "1GiB"},
                                                                       {"--size", "64Kb"},
                                                                       {"--wait", "hard"},
                                                                       {"--mode", "best"},
                                                                       {"--readers", "0"},
                                                                       {"--readers", "65"},
                                                                       {"--batch", "0"},
                                                                       {"--batch", "1025"},
                                                                       {"--duration", "0"},
                                                                       {"--duration", "2h"},
                                                                       {"--slice", "1us"},
                                                                       {"--repeat", "0"},
                                                                       {"--pin", "x"},
                                                                       {"--ring", "2GiB"},
                                                                       {"--repeat"}}) {
            CAPTURE(words.front());
            std::vector<std::string> all = {"fanout"};
            all.insert(all.end(), words.begin(), words.end());
            CHECK(error_of(all).starts_with(words.front()));
        }
    }

    TEST_CASE("what does not go together") {
        for (const auto& words : std::vector<std::vector<std::string>>{
                 {"throughput", "--batch", "2", "--in-place"},
                 {"throughput", "--untouched"},
                 {"throughput", "--batch", "1024", "--size", "1MiB"},
                 {"latency", "--private", "--address", "unix:/x"},
                 {"latency", "--daemon", "/bin/true"},
                 {"latency", "--topic", "a/#"},
                 {"latency", "--topic", std::string(240, 'x')},
                 {"control", "--publications", "3", "--matches", "4"}}) {
            CAPTURE(words.back());
            CHECK(!parse(words).ok());
        }
    }
}
