// SPDX-License-Identifier: Apache-2.0
// The configuration: any text gives either a config or errors, each with file, line and column.
// What is accepted is within the limits that it was checked against, and, written down again value
// by value, is read as the same configuration. Rings for topics are then what the config says.
// Input: two bytes of surroundings, then the text.
#include "fuzz.hpp"

#include "config_keys.hpp"
#include "protocol/layout.hpp"
#include "protocol/topic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

using namespace ipcbus::daemon;
using ipcbus::fuzz::Input;

namespace {

constexpr std::string_view kName = "fuzz.toml";
constexpr std::uint64_t kMiB = 1024 * 1024;

bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 10 &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// "fuzz.toml:LINE:COLUMN: something", lines counted from 1 and within the text.
void check_error(std::string_view error, std::size_t lines) {
    FUZZ_CHECK(error.starts_with(kName) && error[kName.size()] == ':');
    error.remove_prefix(kName.size() + 1);
    const std::size_t colon = error.find(':');
    FUZZ_CHECK(colon != std::string_view::npos);
    const std::size_t end = error.find(": ", colon + 1);
    FUZZ_CHECK(end != std::string_view::npos && end + 2 < error.size());
    const std::string_view line = error.substr(0, colon);
    const std::string_view column = error.substr(colon + 1, end - colon - 1);
    FUZZ_CHECK(is_number(line) && line != "0" && is_number(column) && column != "0");
    FUZZ_CHECK(std::stoul(std::string(line)) <= lines);
}

std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
        const auto code = static_cast<unsigned char>(c);
        if (code < 0x20 || code == 0x7f || c == '"' || c == '\\') {
            out += fmt::format("\\u{:04x}", code);
        } else {
            out += c;
        }
    }
    return out + '"';
}

std::string written(Unit unit, std::uint64_t value) {
    return unit == Unit::count ? fmt::format("{}", value)
                               : fmt::format("\"{}\"", format_number(unit, value));
}

/// The whole configuration as a file, every key said.
std::string write_down(Config config) {
    std::string text;
    std::string_view table;
    for (const NumberKey& key : number_keys()) {
        const std::size_t dot = key.name.rfind('.');
        if (key.name.substr(0, dot) != table) {
            table = key.name.substr(0, dot);
            text += fmt::format("[{}]\n", table);
            if (table == "listen") {
                text += "sockets = [";
                for (const std::string& socket : config.listen.sockets) {
                    text += quoted(socket) + ",";
                }
                text += "]\n";
            }
        }
        text += fmt::format("{} = {}\n", key.name.substr(dot + 1),
                            written(key.unit, key.member(config)));
    }
    text += fmt::format("[log]\nlevel = \"{}\"\ntarget = {}\n", level_name(config.log.level),
                        quoted(config.log.target));
    for (const RingRule& rule : config.rings) {
        text += fmt::format("[[ring]]\nfilter = {}\nbytes = {}\nbytes_max = {}\n",
                            quoted(rule.filter), rule.bytes, rule.bytes_max);
        if (rule.record_bytes_max != 0) {
            text += fmt::format("record_bytes_max = {}\n", rule.record_bytes_max);
        }
    }
    return text;
}

void check_limits(Config config) {
    for (const NumberKey& key : number_keys()) {
        const std::uint64_t value = key.member(config);
        FUZZ_CHECK(value >= key.min && value <= key.max);
        FUZZ_CHECK(key.unit != Unit::ring_bytes || std::has_single_bit(value));
    }
    const CountedLimits& total = config.limits.total;
    const CountedLimits& mine = config.limits.per_uid;
    FUZZ_CHECK(mine.clients <= total.clients && mine.publications <= total.publications);
    FUZZ_CHECK(mine.subscriptions <= total.subscriptions && mine.ring_bytes <= total.ring_bytes);
    FUZZ_CHECK(mine.descriptors <= total.descriptors);
    FUZZ_CHECK(config.publications.ring_bytes <= config.publications.ring_bytes_max);
    FUZZ_CHECK(!config.listen.sockets.empty());
    for (const RingRule& rule : config.rings) {
        FUZZ_CHECK(ipcbus::protocol::valid_filter(rule.filter));
        FUZZ_CHECK(std::has_single_bit(rule.bytes) && std::has_single_bit(rule.bytes_max));
        FUZZ_CHECK(rule.bytes <= rule.bytes_max && rule.bytes_max <= kConfigRingBytesMax);
    }
}

void check_rings(const Config& config, std::uint64_t requested) {
    using namespace ipcbus::protocol;
    for (const char* topic : {"a", "plant/7/temp", "$bus/x", "#", "a/+"}) {
        const auto ring = config.ring_for(topic, requested);
        if (!ring.ok()) {
            FUZZ_CHECK(requested != 0 && ring.error().code == EDQUOT);
            FUZZ_CHECK(ring.error().what.find("raise ") != std::string::npos);
            continue;
        }
        const RingSizing& sizing = ring.value();
        FUZZ_CHECK(std::has_single_bit(sizing.bytes) && sizing.bytes >= kRingBytesMin);
        FUZZ_CHECK(sizing.bytes <= kRingBytesMax && sizing.bytes >= requested);
        FUZZ_CHECK(sizing.record_bytes_max <= record_bytes_max(sizing.bytes));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    const std::uint8_t host = input.byte();
    const std::uint8_t odd = input.byte();
    Surroundings surroundings;
    surroundings.ram_bytes = (host & 15u) * 512 * kMiB;
    surroundings.memory_max_bytes = (host >> 4) * 64 * kMiB;
    surroundings.descriptors_max = std::uint64_t{odd} << (odd & 15);
    surroundings.uid = odd & 1;
    surroundings.runtime_dir = (odd & 2) != 0 ? "/run/user/1" : "";
    const std::string_view text = input.rest();

    const LoadedConfig loaded = parse_config(text, kName, surroundings);
    FUZZ_CHECK(loaded.config.has_value() == loaded.errors.empty());
    const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
    for (const std::string& error : loaded.errors) {
        check_error(error, lines);
    }
    if (!loaded.config) {
        return 0;
    }
    check_limits(*loaded.config);
    check_rings(*loaded.config, 0);
    check_rings(*loaded.config, std::uint64_t{host} << (odd & 31));

    const std::string again = write_down(*loaded.config);
    const LoadedConfig reloaded = parse_config(again, kName, surroundings);
    for (const std::string& error : reloaded.errors) {
        std::fprintf(stderr, "%s\nof:\n%s\n", error.c_str(), again.c_str());
    }
    FUZZ_CHECK(reloaded.config.has_value());
    FUZZ_CHECK(diff(*loaded.config, *reloaded.config).empty());
    FUZZ_CHECK(loaded.config->rings == reloaded.config->rings);
    FUZZ_CHECK(diff(*loaded.config, default_config(surroundings)).empty() ==
               diff(default_config(surroundings), *loaded.config).empty());
    return 0;
}
