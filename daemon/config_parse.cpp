// SPDX-License-Identifier: Apache-2.0
// Reading the TOML file: every table and key is looked up in the table of keys, every mistake
// becomes one line "file:line:column: what is wrong and what would be right", and all of them are
// reported. toml++ throws; nothing leaves this file. Pure but for reading the file.
#include "config_access.hpp"
#include "config_keys.hpp"
#include "tls_files.hpp"

#include "protocol/topic.hpp"
#include "sys/address.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

namespace ipcbus::daemon {

namespace {

/// No sane configuration is near it; keeps a wrong path (/dev/zero) from filling the memory.
constexpr std::size_t kFileBytesMax = std::size_t{1} << 20;

constexpr auto kTables = std::to_array<std::string_view>(
    {"listen", "tcp", "log", "statistics", "access", "publications", "limits", "limits.per_uid"});
constexpr auto kTextKeys = std::to_array<std::string_view>(
    {"listen.sockets", "tcp.listen", "tcp.listen_tls", "tcp.insecure", "tcp.token_file",
     "tcp.certificate", "tcp.key", "tcp.client_ca", "tcp.client_certificates", "log.level",
     "log.target", "statistics.visible", "access.local", "access.remote", "rule", "ring"});
constexpr auto kRuleKeys =
    std::to_array<std::string_view>({"filter", "bytes", "bytes_max", "record_bytes_max"});

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) {
        row[j] = j;
    }
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i);
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
        }
    }
    return row.back();
}

std::string did_you_mean(std::string_view unknown, const std::vector<std::string_view>& known) {
    if (unknown.size() > 64) {  // the distance is quadratic
        return {};
    }
    std::string_view best;
    std::size_t best_distance = 4;
    for (const std::string_view candidate : known) {
        const std::size_t distance = edit_distance(unknown, candidate);
        if (distance < best_distance) {
            best_distance = distance;
            best = candidate;
        }
    }
    return best.empty() ? std::string() : fmt::format(", did you mean {}?", best);
}

class Parser {
public:
    Parser(std::string_view name, const Surroundings& surroundings)
        : name_(name), config_(default_config(surroundings)) {}

    void parse(std::string_view text);
    [[nodiscard]] LoadedConfig finish() &&;

private:
    struct Complaint {
        toml::source_position at;
        std::string message;
    };

    void complain(const toml::source_position& at, std::string message) {
        complaints_.push_back(Complaint{at, std::move(message)});
    }
    void complain(const toml::node& node, std::string message) {
        complain(node.source().begin, std::move(message));
    }
    void table(const toml::table& table, const std::string& prefix);
    void entry(const toml::key& key, const toml::node& node, const std::string& name);
    bool too_deep(std::string_view text);
    void text_key(const toml::node& node, const std::string& name);
    void sockets(const toml::node& node);
    void endpoints(const toml::node& node, const std::string& name,
                   std::vector<sys::TcpEndpoint>& found);
    void tcp_key(const toml::node& node, const std::string& name);
    void tcp_path(const toml::node& node, const std::string& name);
    void tcp_check();
    void access_default(const toml::node& node, const std::string& name, bool& allowed);
    void access_check();
    void rules(const toml::node& node);
    void rule(const toml::table& table);
    bool number(const toml::node& node, const NumberKey& key, std::uint64_t& target);
    std::optional<std::uint64_t> raw_number(const toml::node& node, Unit unit);
    void unknown(const toml::key& key, const std::string& name);
    void cross_check();
    void per_uid();

    std::string name_;
    Config config_;
    AccessRules access_;
    std::vector<Complaint> complaints_;
    /// Which keys the file has, and where: for checks of one against another.
    std::vector<std::pair<std::string, toml::source_position>> given_;
};

/// toml++ bounds how deep values nest, but not how many parts a key or a header has, and takes its
/// tables apart by recursion. Each part but one costs a dot, all in one line.
bool Parser::too_deep(std::string_view text) {
    constexpr std::ptrdiff_t kDotsPerLineMax = 128;
    toml::source_index number = 1;
    for (std::size_t begin = 0; begin < text.size(); number++) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        const std::string_view line = text.substr(begin, end - begin);
        if (std::count(line.begin(), line.end(), '.') > kDotsPerLineMax) {
            complain(toml::source_position{number, 1},
                     fmt::format("more than {} dots in a line", kDotsPerLineMax));
            return true;
        }
        begin = end + 1;
    }
    return false;
}

void Parser::parse(std::string_view text) {
    if (too_deep(text)) {
        return;
    }
    try {
        const toml::table root = toml::parse(text, name_);
        table(root, "");
        cross_check();
    } catch (const toml::parse_error& error) {
        complain(error.source().begin, std::string(error.description()));
    } catch (const std::exception& error) {
        complain(toml::source_position{}, error.what());
    }
}

LoadedConfig Parser::finish() && {
    LoadedConfig loaded;
    std::sort(complaints_.begin(), complaints_.end(),
              [](const Complaint& a, const Complaint& b) { return a.at < b.at; });
    for (const Complaint& complaint : complaints_) {
        loaded.errors.push_back(
            fmt::format("{}:{}:{}: {}", name_, std::max<unsigned>(complaint.at.line, 1),
                        std::max<unsigned>(complaint.at.column, 1), complaint.message));
    }
    if (loaded.errors.empty()) {
        loaded.config = std::move(config_);
    }
    return loaded;
}

void Parser::table(const toml::table& table, const std::string& prefix) {
    for (auto&& [key, node] : table) {
        const std::string name = prefix + std::string(key.str());
        if (std::find(kTables.begin(), kTables.end(), name) != kTables.end()) {
            if (const toml::table* const inner = node.as_table()) {
                this->table(*inner, name + ".");
            } else {
                complain(node, fmt::format("{0} must be a table: [{0}]", name));
            }
        } else {
            entry(key, node, name);
        }
    }
}

void Parser::entry(const toml::key& key, const toml::node& node, const std::string& name) {
    if (std::find(kTextKeys.begin(), kTextKeys.end(), name) != kTextKeys.end()) {
        text_key(node, name);
        return;
    }
    for (const NumberKey& candidate : number_keys()) {
        if (candidate.name == name) {
            if (number(node, candidate, candidate.member(config_))) {
                given_.emplace_back(name, node.source().begin);
            }
            return;
        }
    }
    unknown(key, name);
}

void Parser::unknown(const toml::key& key, const std::string& name) {
    std::vector<std::string_view> known(kTables.begin(), kTables.end());
    known.insert(known.end(), kTextKeys.begin(), kTextKeys.end());
    for (const NumberKey& number : number_keys()) {
        known.push_back(number.name);
    }
    complain(key.source().begin, fmt::format("unknown key {}{}", name, did_you_mean(name, known)));
}

void Parser::text_key(const toml::node& node, const std::string& name) {
    if (name == "ring") {
        rules(node);
        return;
    }
    if (name == "rule") {
        read_access_rules(node, access_, [this](const toml::node& at, std::string message) {
            complain(at, std::move(message));
        });
        return;
    }
    if (name == "access.local" || name == "access.remote") {
        access_default(node, name,
                       name == "access.local" ? access_.local_allowed : access_.remote_allowed);
        return;
    }
    if (name == "listen.sockets") {
        sockets(node);
        return;
    }
    if (name.starts_with("tcp.")) {
        tcp_key(node, name);
        given_.emplace_back(name, node.source().begin);
        return;
    }
    const auto value = node.value_exact<std::string>();
    if (name == "log.level") {
        const auto level = value ? parse_level(*value) : std::nullopt;
        if (level) {
            config_.log.level = *level;
        } else {
            complain(node, "log.level must be \"error\", \"warning\", \"info\" or \"debug\"");
        }
        return;
    }
    if (name == "statistics.visible") {
        if (value && (*value == "own" || *value == "all")) {
            config_.statistics.visible_to_all = *value == "all";
        } else {
            complain(node, "statistics.visible must be \"own\" or \"all\"");
        }
        return;
    }
    const bool good = value && (*value == "stderr" || *value == "journal" ||
                                (value->starts_with('/') && value->find('\0') == value->npos));
    if (good) {
        config_.log.target = *value;
    } else {
        complain(node, "log.target must be \"stderr\", \"journal\" or an absolute path");
    }
}

void Parser::access_default(const toml::node& node, const std::string& name, bool& allowed) {
    const auto value = node.value_exact<std::string>();
    if (value && (*value == "allow" || *value == "deny")) {
        allowed = *value == "allow";
    } else {
        complain(node, name + " must be \"allow\" or \"deny\"");
    }
}

/// A rule about who cannot be there would be taken for one that protects.
void Parser::access_check() {
    for (const AccessRule& rule : access_.rules) {
        if (!rule.subjects.empty() &&
            config_.tcp.client_certificates == sys::ClientCertificates::none) {
            complain(toml::source_position{rule.line, 1},
                     "rule.subject: nobody shows a certificate as long as tcp.client_certificates "
                     "is \"none\"");
        }
        if (!rule.tokens.empty() && config_.tcp.token_file.empty()) {
            complain(toml::source_position{rule.line, 1},
                     "rule.token: nobody has a token as long as there is no tcp.token_file");
        }
    }
    config_.access = std::make_shared<const AccessRules>(std::move(access_));
}

void Parser::sockets(const toml::node& node) {
    const toml::array* const array = node.as_array();
    if (array == nullptr || array->empty()) {
        complain(node,
                 "listen.sockets must be a list of at least one address, "
                 "[\"unix:/run/ipcbus/bus.sock\"]");
        return;
    }
    std::vector<std::string> found;
    for (const toml::node& element : *array) {
        const auto text = element.value_exact<std::string>();
        if (!text) {
            complain(element, "an address in listen.sockets must be a string, \"unix:/path\"");
            continue;
        }
        const auto address = sys::parse_address(*text);
        if (!address) {
            complain(element, "listen.sockets: " + address.error().what);
            continue;
        }
        if (address.value().kind == sys::Address::Kind::tcp) {
            complain(element, "listen.sockets are of this host alone: for TCP there is tcp.listen");
            continue;
        }
        std::string normal = "unix:" + address.value().path;
        if (std::find(found.begin(), found.end(), normal) != found.end()) {
            complain(element, fmt::format("listen.sockets has {} twice", normal));
            continue;
        }
        found.push_back(std::move(normal));
    }
    config_.listen.sockets = std::move(found);
}

void Parser::tcp_key(const toml::node& node, const std::string& name) {
    if (name == "tcp.listen") {
        endpoints(node, name, config_.tcp.listen);
    } else if (name == "tcp.listen_tls") {
        endpoints(node, name, config_.tcp.listen_tls);
    } else if (name == "tcp.client_certificates") {
        const auto text = node.value_exact<std::string>();
        if (const auto mode = text ? parse_client_certificates(*text) : std::nullopt) {
            config_.tcp.client_certificates = *mode;
        } else {
            complain(node,
                     "tcp.client_certificates must be \"none\", \"optional\" or \"required\"");
        }
    } else if (name == "tcp.insecure") {
        if (const auto value = node.value_exact<bool>()) {
            config_.tcp.insecure = *value;
        } else {
            complain(node, "tcp.insecure must be true or false");
        }
    } else {
        tcp_path(node, name);
    }
}

void Parser::tcp_path(const toml::node& node, const std::string& name) {
    TcpConfig& tcp = config_.tcp;
    const auto path = node.value_exact<std::string>();
    if (!path || (!path->empty() && !path->starts_with('/')) || path->find('\0') != path->npos) {
        complain(node, name + " must be an absolute path");
    } else if (name == "tcp.certificate") {
        tcp.certificate = *path;
    } else if (name == "tcp.key") {
        tcp.key = *path;
    } else if (name == "tcp.client_ca") {
        tcp.client_ca = *path;
    } else if (auto tokens = Tokens::load(*path); !tokens.ok()) {
        complain(node, "tcp.token_file: " + tokens.error().what);
    } else {
        tcp.token_file = *path;
        tcp.tokens = std::move(tokens).value();
    }
}

/// What its keys say together.
void Parser::tcp_check() {
    const auto complain_of = [this](const sys::Error& error) {
        // Which key it is about is how it begins.
        const auto at = std::find_if(given_.begin(), given_.end(), [&](const auto& key) {
            return error.what.starts_with(key.first + ": ");
        });
        complain(at == given_.end() ? toml::source_position{} : at->second, error.what);
    };
    if (auto tls = load_tls(config_.tcp); tls.ok()) {
        config_.tcp.tls = std::move(tls).value();
    } else {
        complain_of(tls.error());
        config_.tcp.listen_tls.clear();  // for want of these files it is not wrong, too
    }
    if (auto exposed = check_exposure(config_.tcp); !exposed.ok()) {
        complain_of(exposed.error());
    }
}

void Parser::endpoints(const toml::node& node, const std::string& name,
                       std::vector<sys::TcpEndpoint>& found) {
    const toml::array* const array = node.as_array();
    if (array == nullptr) {
        complain(node, name + " must be a list: [4222], [\"127.0.0.1:4222\", \"[::1]:4222\"]");
        return;
    }
    for (const toml::node& element : *array) {
        const auto text = element.value_exact<std::string>();
        const auto port = element.value_exact<std::int64_t>();
        if (!text && !port) {
            complain(element, name + ": an endpoint is \"HOST:PORT\" or a port");
            continue;
        }
        auto endpoint = sys::parse_endpoint(text ? *text : std::to_string(*port), true);
        if (!endpoint.ok()) {
            complain(element, name + ": " + endpoint.error().what);
            continue;
        }
        if (std::find(found.begin(), found.end(), endpoint.value()) != found.end()) {
            complain(element, name + " has " + endpoint.value().text() + " twice");
            continue;
        }
        found.push_back(std::move(endpoint).value());
    }
}

/// The number as it stands, converted by its unit; complains about the form, not the range.
std::optional<std::uint64_t> Parser::raw_number(const toml::node& node, Unit unit) {
    const auto integer = node.value_exact<std::int64_t>();
    const auto text = node.value_exact<std::string>();
    if (integer && unit != Unit::duration) {
        // Negative numbers become huge and so out of range, as they should.
        return static_cast<std::uint64_t>(*integer);
    }
    if (text && unit == Unit::duration) {
        return parse_duration(*text);
    }
    if (text && unit == Unit::mode) {
        return parse_mode(*text);
    }
    if (text && unit != Unit::count) {
        return parse_bytes(*text);
    }
    return std::nullopt;
}

bool Parser::number(const toml::node& node, const NumberKey& key, std::uint64_t& target) {
    const auto value = raw_number(node, key.unit);
    if (!value) {
        const char* form = "a whole number";
        switch (key.unit) {
        case Unit::bytes:
        case Unit::ring_bytes:
            form = "a number of bytes, 1048576 or \"1MiB\" (KiB, MiB, GiB)";
            break;
        case Unit::duration:
            form = "a duration, \"5s\" or \"500ms\" (ms, s, min, h)";
            break;
        case Unit::mode:
            form = "a file mode, \"0660\"";
            break;
        case Unit::count:
            break;
        }
        complain(node, fmt::format("{} must be {}", key.name, form));
        return false;
    }
    const bool power = key.unit != Unit::ring_bytes || std::has_single_bit(*value);
    if (*value < key.min || *value > key.max || !power) {
        complain(node,
                 fmt::format("{} must be {}from {} to {}", key.name,
                             key.unit == Unit::ring_bytes ? "a power of two " : "",
                             format_number(key.unit, key.min), format_number(key.unit, key.max)));
        return false;
    }
    target = *value;
    return true;
}

void Parser::rules(const toml::node& node) {
    const toml::array* const array = node.as_array();
    if (array == nullptr || !array->is_homogeneous(toml::node_type::table)) {
        complain(node, "ring must be a list of tables: [[ring]]");
        return;
    }
    for (const toml::node& element : *array) {
        rule(*element.as_table());
    }
}

void Parser::rule(const toml::table& table) {
    RingRule rule;
    bool filter_given = false;
    for (auto&& [key, node] : table) {
        const std::string_view name = key.str();
        if (name == "filter") {
            filter_given = true;
            const auto text = node.value_exact<std::string>();
            if (text && protocol::valid_filter(*text)) {
                rule.filter = *text;
            } else {
                complain(node,
                         fmt::format("ring.filter must be a topic or a filter{}{}",
                                     text ? ": " : "", text ? protocol::filter_fault(*text) : ""));
            }
        } else if (name == "bytes" || name == "bytes_max") {
            const NumberKey form{name == "bytes" ? "ring.bytes" : "ring.bytes_max",
                                 Tag::new_objects,
                                 Unit::ring_bytes,
                                 kConfigRingBytesMin,
                                 kConfigRingBytesMax,
                                 nullptr};
            (void)number(node, form, name == "bytes" ? rule.bytes : rule.bytes_max);
        } else if (name == "record_bytes_max") {
            const NumberKey form{"ring.record_bytes_max", Tag::new_objects,        Unit::bytes,
                                 kRecordBytesMaxMin,      kConfigRingBytesMax / 4, nullptr};
            (void)number(node, form, rule.record_bytes_max);
        } else {
            complain(key.source().begin,
                     fmt::format("unknown key ring.{}{}", name,
                                 did_you_mean(name, {kRuleKeys.begin(), kRuleKeys.end()})));
        }
    }
    if (!filter_given) {
        complain(table, "[[ring]] needs a filter");
    }
    if (rule.bytes != 0 && rule.bytes_max != 0 && rule.bytes > rule.bytes_max) {
        complain(table, fmt::format("ring.bytes ({}) is above ring.bytes_max ({})",
                                    format_bytes(rule.bytes), format_bytes(rule.bytes_max)));
    }
    config_.rings.push_back(std::move(rule));
}

void Parser::cross_check() {
    per_uid();
    tcp_check();
    access_check();
    const PublicationsConfig& defaults = config_.publications;
    if (defaults.ring_bytes > defaults.ring_bytes_max) {
        const auto at = std::find_if(given_.begin(), given_.end(), [](const auto& key) {
            return key.first.starts_with("publications.ring_bytes");
        });
        complain(
            at->second,
            fmt::format("publications.ring_bytes ({}) is above publications.ring_bytes_max ({})",
                        format_bytes(defaults.ring_bytes), format_bytes(defaults.ring_bytes_max)));
    }
    for (RingRule& rule : config_.rings) {
        // What a rule does not say, it takes from [publications], but never contradicts itself.
        if (rule.bytes == 0) {
            rule.bytes = rule.bytes_max == 0 ? defaults.ring_bytes
                                             : std::min(defaults.ring_bytes, rule.bytes_max);
        }
        if (rule.bytes_max == 0) {
            rule.bytes_max = std::max(defaults.ring_bytes_max, rule.bytes);
        }
    }
}

void Parser::per_uid() {
    // A total that was set moves the share of one uid with it, unless that was set, too.
    Config shares = config_;
    set_per_uid_defaults(shares);
    const std::string prefix = "limits.per_uid.";
    for (const NumberKey& key : number_keys()) {
        if (!key.name.starts_with(prefix)) {
            continue;
        }
        const auto at = std::find_if(given_.begin(), given_.end(),
                                     [&](const auto& given) { return given.first == key.name; });
        if (at == given_.end()) {
            key.member(config_) = key.member(shares);  // what is no share stays as it is
            continue;
        }
        const std::string total_name = "limits." + std::string(key.name.substr(prefix.size()));
        const auto total = std::find_if(number_keys().begin(), number_keys().end(),
                                        [&](const NumberKey& k) { return k.name == total_name; });
        if (total == number_keys().end()) {
            continue;  // not a share of anything
        }
        const std::uint64_t mine = key.member(config_);
        const std::uint64_t all = total->member(config_);
        if (mine > all) {
            complain(at->second, fmt::format("{} ({}) is above {} ({})", key.name,
                                             format_number(key.unit, mine), total_name,
                                             format_number(key.unit, all)));
        }
    }
}

sys::Result<std::string> read_file(const std::string& path) {
    const sys::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd) {
        return sys::fail(errno, std::strerror(errno));
    }
    // A pipe that nobody writes reads as an empty file, which would be: all defaults.
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) {
        return sys::fail(errno, std::strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return sys::fail(EINVAL,
                         S_ISDIR(status.st_mode) ? "it is a directory" : "it is no regular file");
    }
    std::string text;
    std::array<char, 65536> chunk;
    while (true) {
        const ssize_t got = ::read(fd.get(), chunk.data(), chunk.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return sys::fail(errno, std::strerror(errno));
        }
        if (got == 0) {
            return text;
        }
        text.append(chunk.data(), static_cast<std::size_t>(got));
        if (text.size() > kFileBytesMax) {
            return sys::fail(EFBIG, fmt::format("larger than {}", format_bytes(kFileBytesMax)));
        }
    }
}

}  // namespace

LoadedConfig parse_config(std::string_view text, std::string_view name,
                          const Surroundings& surroundings) {
    Parser parser(name, surroundings);
    parser.parse(text);
    return std::move(parser).finish();
}

LoadedConfig load_config(const std::string& path, const Surroundings& surroundings) {
    const auto text = read_file(path);
    if (!text) {
        LoadedConfig loaded;
        loaded.errors.push_back(fmt::format("{}: cannot read it: {}", path, text.error().what));
        return loaded;
    }
    return parse_config(text.value(), path, surroundings);
}

}  // namespace ipcbus::daemon
