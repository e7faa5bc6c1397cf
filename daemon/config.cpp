// SPDX-License-Identifier: Apache-2.0
// The table of keys, defaults, units, what changed between two configurations, and the size of a
// ring. Pure functions. How the file is read is in config_parse.cpp.
#include "config.hpp"

#include "config_keys.hpp"
#include "tls_files.hpp"

#include "protocol/layout.hpp"
#include "protocol/topic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>

namespace ipcbus::daemon {

namespace {

constexpr std::uint64_t kKiB = std::uint64_t{1} << 10;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint64_t kSecond_ns = 1'000'000'000;

constexpr std::uint64_t kCountMax = protocol::kPublicationsMax;
constexpr std::uint64_t kRingTotalMax = std::uint64_t{1} << 50;

// The order is that of the man page.
const auto kNumberKeys = std::to_array<NumberKey>({
    {"listen.mode", Tag::restart, Unit::mode, 0, 0777,
     [](Config& c) -> std::uint64_t& { return c.listen.mode; }},
    {key::kTcpClients, Tag::live, Unit::count, 1, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.tcp.clients; }},
    {key::kTcpConnects, Tag::live, Unit::count, 1, 1'000'000,
     [](Config& c) -> std::uint64_t& { return c.tcp.connects_per_second; }},
    {key::kTcpMappings, Tag::live, Unit::count, 64, std::uint64_t{1} << 24,
     [](Config& c) -> std::uint64_t& { return c.tcp.mappings; }},
    {"tcp.handshake_timeout", Tag::live, Unit::duration, kSecond_ns / 100, 600 * kSecond_ns,
     [](Config& c) -> std::uint64_t& { return c.tcp.handshake_timeout_ns; }},
    {"tcp.dead_peer_timeout", Tag::live, Unit::duration, kSecond_ns, 24 * 3600 * kSecond_ns,
     [](Config& c) -> std::uint64_t& { return c.tcp.dead_peer_timeout_ns; }},
    {"publications.ring_bytes", Tag::new_objects, Unit::ring_bytes, kConfigRingBytesMin,
     kConfigRingBytesMax, [](Config& c) -> std::uint64_t& { return c.publications.ring_bytes; }},
    {"publications.ring_bytes_max", Tag::new_objects, Unit::ring_bytes, kConfigRingBytesMin,
     kConfigRingBytesMax,
     [](Config& c) -> std::uint64_t& { return c.publications.ring_bytes_max; }},
    {"publications.stall_timeout", Tag::new_objects, Unit::duration, kSecond_ns / 100,
     3600 * kSecond_ns,
     [](Config& c) -> std::uint64_t& { return c.publications.stall_timeout_ns; }},
    {"publications.rings_ready", Tag::live, Unit::count, 0, 1024,
     [](Config& c) -> std::uint64_t& { return c.publications.rings_ready; }},
    {key::kClients, Tag::live, Unit::count, 1, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.limits.total.clients; }},
    {key::kPublications, Tag::live, Unit::count, 1, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.limits.total.publications; }},
    {key::kSubscriptions, Tag::live, Unit::count, 1, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.limits.total.subscriptions; }},
    {key::kDescriptors, Tag::live, Unit::count, 64, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.limits.total.descriptors; }},
    {key::kRingBytes, Tag::live, Unit::bytes, kMiB, kRingTotalMax,
     [](Config& c) -> std::uint64_t& { return c.limits.total.ring_bytes; }},
    {key::kAttachmentsPerClient, Tag::new_objects, Unit::count, 1, protocol::kAttachmentsMax,
     [](Config& c) -> std::uint64_t& { return c.limits.attachments_per_client; }},
    {key::kWaitersPerClient, Tag::new_objects, Unit::count, 1, protocol::kWaitersMax,
     [](Config& c) -> std::uint64_t& { return c.limits.waiters_per_client; }},
    {key::kUnreadReplyBytes, Tag::live, Unit::bytes, 64 * kKiB, kGiB,
     [](Config& c) -> std::uint64_t& { return c.limits.unread_reply_bytes; }},
    {"limits.drain_timeout", Tag::live, Unit::duration, 0, 600 * kSecond_ns,
     [](Config& c) -> std::uint64_t& { return c.limits.drain_timeout_ns; }},
    {key::kUidClients, Tag::live, Unit::count, 1, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.limits.per_uid.clients; }},
    {key::kUidConnects, Tag::live, Unit::count, 1, 1'000'000,
     [](Config& c) -> std::uint64_t& { return c.limits.uid_connects_per_second; }},
    {key::kUidPublications, Tag::live, Unit::count, 1, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.limits.per_uid.publications; }},
    {key::kUidSubscriptions, Tag::live, Unit::count, 1, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.limits.per_uid.subscriptions; }},
    {key::kUidDescriptors, Tag::live, Unit::count, 16, kCountMax,
     [](Config& c) -> std::uint64_t& { return c.limits.per_uid.descriptors; }},
    {key::kUidRingBytes, Tag::live, Unit::bytes, 64 * kKiB, kRingTotalMax,
     [](Config& c) -> std::uint64_t& { return c.limits.per_uid.ring_bytes; }},
});

struct Suffix {
    std::string_view text;
    std::uint64_t factor;
};
constexpr auto kByteSuffixes =
    std::to_array<Suffix>({{"GiB", kGiB}, {"MiB", kMiB}, {"KiB", kKiB}, {"", 1}});
constexpr auto kTimeSuffixes = std::to_array<Suffix>({{"h", 3600 * kSecond_ns},
                                                      {"min", 60 * kSecond_ns},
                                                      {"s", kSecond_ns},
                                                      {"ms", kSecond_ns / 1000},
                                                      {"us", kSecond_ns / 1'000'000},
                                                      {"ns", 1}});

std::optional<std::uint64_t> parse_with(std::span<const Suffix> suffixes, std::string_view text) {
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc{}) {
        return std::nullopt;
    }
    std::string_view rest(parsed.ptr,
                          static_cast<std::size_t>(text.data() + text.size() - parsed.ptr));
    if (rest.starts_with(' ')) {
        rest.remove_prefix(1);
    }
    for (const Suffix& suffix : suffixes) {
        if (rest == suffix.text) {
            std::uint64_t product = 0;
            if (__builtin_mul_overflow(value, suffix.factor, &product)) {
                return std::nullopt;
            }
            return product;
        }
    }
    return std::nullopt;
}

std::string format_with(std::span<const Suffix> suffixes, std::uint64_t value) {
    for (const Suffix& suffix : suffixes) {
        if (value % suffix.factor == 0 && value != 0) {
            return fmt::format("{}{}", value / suffix.factor, suffix.text);
        }
    }
    return fmt::format("0{}", suffixes.back().text);
}

std::vector<std::string> endpoint_names(const std::vector<sys::TcpEndpoint>& endpoints) {
    std::vector<std::string> names;
    for (const sys::TcpEndpoint& endpoint : endpoints) {
        names.push_back(endpoint.host.empty() ? fmt::format("{}", endpoint.port) : endpoint.text());
    }
    return names;
}

std::string format_list(const std::vector<std::string>& values) {
    return values.empty() ? "[]" : fmt::format("[\"{}\"]", fmt::join(values, "\", \""));
}

std::string format_rules(const std::vector<RingRule>& rules) {
    std::vector<std::string> texts;
    for (const RingRule& rule : rules) {
        texts.push_back(
            fmt::format("{{filter \"{}\", bytes {}, bytes_max {}{}}}", rule.filter,
                        format_bytes(rule.bytes), format_bytes(rule.bytes_max),
                        rule.record_bytes_max == 0
                            ? std::string()
                            : ", record_bytes_max " + format_bytes(rule.record_bytes_max)));
    }
    return texts.empty() ? "none" : fmt::format("{}", fmt::join(texts, ", "));
}

/// Where the socket is when nothing says so. An unprivileged daemon of a login session has a
/// directory of its own; one that a service manager runs under its own user has not, and serves
/// the system.
std::string default_socket(const Surroundings& surroundings) {
    if (surroundings.uid != 0 && surroundings.runtime_dir.starts_with('/')) {
        return "unix:" + surroundings.runtime_dir + "/ipcbus/bus.sock";
    }
    return "unix:" IPCBUS_SYSTEM_SOCKET;
}

/// Under a memory.max, 80 % of it: going beyond is not an error there but a SIGKILL, and the daemon
/// itself needs some. Otherwise half of the memory of the host, as a tmpfs gets by default; not of
/// what is available now, which would be another number at each reload.
std::uint64_t default_ring_total(const Surroundings& surroundings) {
    const std::uint64_t host = surroundings.ram_bytes == 0 ? kGiB : surroundings.ram_bytes / 2;
    const std::uint64_t group = surroundings.memory_max_bytes / 5 * 4;
    const std::uint64_t chosen = group == 0 ? host : std::min(host, group);
    return std::clamp(chosen / kMiB * kMiB, kMiB, kRingTotalMax);
}

}  // namespace

std::span<const NumberKey> number_keys() { return kNumberKeys; }

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
    return parse_with(kByteSuffixes, text);
}

std::optional<std::uint64_t> parse_duration(std::string_view text) {
    return parse_with(kTimeSuffixes, text);
}

std::optional<std::uint64_t> parse_mode(std::string_view text) {
    if (text.starts_with("0o")) {
        text.remove_prefix(2);
    }
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, 8);
    if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size()) {
        return std::nullopt;
    }
    return value;
}

std::string format_bytes(std::uint64_t bytes) {
    return bytes == 0 ? "0" : format_with(kByteSuffixes, bytes);
}

std::string format_duration(std::uint64_t duration_ns) {
    return duration_ns == 0 ? "0s" : format_with(kTimeSuffixes, duration_ns);
}

std::string format_number(Unit unit, std::uint64_t value) {
    switch (unit) {
    case Unit::bytes:
    case Unit::ring_bytes:
        return format_bytes(value);
    case Unit::duration:
        return format_duration(value);
    case Unit::mode:
        return fmt::format("0{:03o}", value);
    case Unit::count:
        break;
    }
    return fmt::format("{}", value);
}

std::optional<LogLevel> parse_level(std::string_view text) {
    for (const LogLevel level :
         {LogLevel::error, LogLevel::warning, LogLevel::info, LogLevel::debug}) {
        if (text == level_name(level)) {
            return level;
        }
    }
    return std::nullopt;
}

std::string_view level_name(LogLevel level) {
    switch (level) {
    case LogLevel::error:
        return "error";
    case LogLevel::warning:
        return "warning";
    case LogLevel::info:
        return "info";
    case LogLevel::debug:
        break;
    }
    return "debug";
}

void set_per_uid_defaults(Config& config) {
    // Half: one user can neither fill the bus nor keep the others out.
    const auto half = [](std::uint64_t total, std::uint64_t min) {
        return std::max(total / 2, min);
    };
    const CountedLimits& total = config.limits.total;
    config.limits.per_uid = CountedLimits{
        .clients = half(total.clients, 1),
        .publications = half(total.publications, 1),
        .subscriptions = half(total.subscriptions, 1),
        .descriptors = half(total.descriptors, 16),
        .ring_bytes = half(total.ring_bytes, 64 * kKiB),
    };
}

sys::Result<void> check_exposure(const TcpConfig& config) {
    for (const sys::TcpEndpoint& endpoint : config.listen) {
        if (!config.insecure && !sys::is_loopback(endpoint.host)) {
            return sys::fail(
                EINVAL,
                fmt::format("tcp.listen: {} is not this host's loopback, and messages and tokens "
                            "would cross the network in clear text: put it into listen_tls, or say "
                            "insecure = true in [tcp] if that is wanted",
                            endpoint.text()));
        }
    }
    if (!config.listen_tls.empty() && !config.tls) {
        return sys::fail(EINVAL,
                         "tcp.listen_tls: TLS needs a certificate and the key to it: "
                         "tcp.certificate and tcp.key");
    }
    return {};
}

Config default_config(const Surroundings& surroundings) {
    Config config;
    config.listen.sockets = {default_socket(surroundings)};
    // Some descriptors are the daemon's own: log, signals, sockets, the ones just being passed.
    constexpr std::uint64_t kOwnDescriptors = 64;
    config.limits.total = CountedLimits{
        .clients = 4096,
        .publications = 32768,
        .subscriptions = 65536,
        .descriptors = std::clamp<std::uint64_t>(surroundings.descriptors_max, 2 * kOwnDescriptors,
                                                 kCountMax) -
                       kOwnDescriptors,
        .ring_bytes = default_ring_total(surroundings),
    };
    set_per_uid_defaults(config);
    return config;
}

sys::Result<RingSizing> Config::ring_for(std::string_view topic_or_filter,
                                         std::uint64_t requested_bytes) const {
    const RingRule* rule = nullptr;
    for (const RingRule& candidate : rings) {
        if (protocol::filter_covers(candidate.filter, topic_or_filter)) {
            rule = &candidate;
            break;
        }
    }
    const std::uint64_t bytes_max = rule != nullptr ? rule->bytes_max : publications.ring_bytes_max;
    std::uint64_t bytes = rule != nullptr ? rule->bytes : publications.ring_bytes;
    if (requested_bytes > bytes_max) {
        const std::string name = rule != nullptr
                                     ? fmt::format("bytes_max of [[ring]] \"{}\"", rule->filter)
                                     : "publications.ring_bytes_max";
        return sys::fail(EDQUOT,
                         fmt::format("a ring of {} for {} is above the limit of {}: raise {}",
                                     format_bytes(requested_bytes), topic_or_filter,
                                     format_bytes(bytes_max), name));
    }
    if (requested_bytes != 0) {
        bytes = std::bit_ceil(std::max(requested_bytes, protocol::kRingBytesMin));
    }
    std::uint64_t record_bytes_max = protocol::record_bytes_max(bytes);
    if (rule != nullptr && rule->record_bytes_max != 0) {
        record_bytes_max = std::min(record_bytes_max, rule->record_bytes_max);
    }
    return RingSizing{.bytes = bytes, .record_bytes_max = record_bytes_max};
}

std::vector<Change> diff_access(const AccessRules& before, const AccessRules& after) {
    std::vector<Change> changes;
    const auto compare = [&](std::string key, std::string old_value, std::string new_value) {
        if (old_value != new_value) {
            changes.push_back(
                Change{std::move(key), std::move(old_value), std::move(new_value), Tag::live});
        }
    };
    const auto word = [](bool allowed) { return allowed ? "\"allow\"" : "\"deny\""; };
    compare("access.local", word(before.local_allowed), word(after.local_allowed));
    compare("access.remote", word(before.remote_allowed), word(after.remote_allowed));
    const auto text = [](const AccessRules& rules, std::size_t i) {
        return i < rules.rules.size() ? rules.rules[i].text() : std::string("none");
    };
    for (std::size_t i = 0; i < std::max(before.rules.size(), after.rules.size()); i++) {
        compare(fmt::format("rule {}", i + 1), text(before, i), text(after, i));
    }
    return changes;
}

std::vector<Change> diff(const Config& old_config, const Config& new_config) {
    std::vector<Change> changes;
    const auto compare = [&](std::string_view name, Tag tag, std::string old_value,
                             std::string new_value) {
        if (old_value != new_value) {
            changes.push_back(
                Change{std::string(name), std::move(old_value), std::move(new_value), tag});
        }
    };
    compare("listen.sockets", Tag::restart, format_list(old_config.listen.sockets),
            format_list(new_config.listen.sockets));
    compare("tcp.listen", Tag::restart, format_list(endpoint_names(old_config.tcp.listen)),
            format_list(endpoint_names(new_config.tcp.listen)));
    compare("tcp.listen_tls", Tag::restart, format_list(endpoint_names(old_config.tcp.listen_tls)),
            format_list(endpoint_names(new_config.tcp.listen_tls)));
    compare("tcp.insecure", Tag::restart, fmt::format("{}", old_config.tcp.insecure),
            fmt::format("{}", new_config.tcp.insecure));
    compare("tcp.token_file", Tag::live, fmt::format("\"{}\"", old_config.tcp.token_file),
            fmt::format("\"{}\"", new_config.tcp.token_file));
    if (old_config.tcp.token_file == new_config.tcp.token_file &&
        old_config.tcp.tokens != new_config.tcp.tokens) {
        changes.push_back(Change{
            "tokens in tcp.token_file", fmt::format("{} of them", old_config.tcp.tokens.size()),
            fmt::format("{} of them, not all the same", new_config.tcp.tokens.size()), Tag::live});
    }
    for (Change& change : diff_tls(old_config.tcp, new_config.tcp)) {
        changes.push_back(std::move(change));
    }
    compare("log.level", Tag::live, fmt::format("\"{}\"", level_name(old_config.log.level)),
            fmt::format("\"{}\"", level_name(new_config.log.level)));
    compare("log.target", Tag::live, fmt::format("\"{}\"", old_config.log.target),
            fmt::format("\"{}\"", new_config.log.target));
    const auto visible = [](const Config& config) {
        return config.statistics.visible_to_all ? "\"all\"" : "\"own\"";
    };
    compare("statistics.visible", Tag::live, visible(old_config), visible(new_config));
    for (Change& change : diff_access(*old_config.access, *new_config.access)) {
        changes.push_back(std::move(change));
    }
    // The table hands out references; these are copies, so that the originals stay const.
    Config before = old_config;
    Config after = new_config;
    for (const NumberKey& number : kNumberKeys) {
        compare(number.name, number.tag, format_number(number.unit, number.member(before)),
                format_number(number.unit, number.member(after)));
    }
    compare("ring", Tag::new_objects, format_rules(old_config.rings),
            format_rules(new_config.rings));
    return changes;
}

}  // namespace ipcbus::daemon
