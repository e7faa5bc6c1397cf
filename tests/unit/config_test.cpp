// SPDX-License-Identifier: Apache-2.0
// Goal: a file is taken whole or every one of its mistakes is named with its place; ranges and
// defaults are what the man page says; the ring of a publication follows the rules in order.
// Method: texts, parsed in surroundings that the test invents. Pure.
#include "config.hpp"

#include "protocol/layout.hpp"
#include "sys/unique_fd.hpp"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>

using namespace ipcbus;
using daemon::Config;
using daemon::Tag;

namespace {

constexpr std::uint64_t kKiB = std::uint64_t{1} << 10;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

daemon::Surroundings surroundings() {
    return {.ram_bytes = 16 * kGiB,
            .memory_max_bytes = 0,
            .descriptors_max = 20000,
            .uid = 0,
            .runtime_dir = ""};
}

Config good(std::string_view text) {
    auto loaded = daemon::parse_config(text, "test.toml", surroundings());
    for (const std::string& error : loaded.errors) {
        INFO(error);
        CHECK(error.empty());
    }
    REQUIRE(loaded.config.has_value());
    return *loaded.config;
}

std::vector<std::string> errors_of(std::string_view text) {
    auto loaded = daemon::parse_config(text, "test.toml", surroundings());
    CHECK_FALSE(loaded.config.has_value());
    return loaded.errors;
}

/// The only error of a text.
std::string error_of(std::string_view text) {
    const auto errors = errors_of(text);
    REQUIRE(errors.size() == 1);
    return errors.front();
}

}  // namespace

TEST_SUITE_BEGIN("config");

TEST_CASE("an empty file is the defaults") {
    const Config config = good("");
    CHECK(daemon::diff(config, daemon::default_config(surroundings())).empty());
    CHECK(config.listen.sockets == std::vector<std::string>{"unix:" IPCBUS_SYSTEM_SOCKET});
    CHECK(config.publications.ring_bytes == kMiB);
    CHECK(config.publications.stall_timeout_ns == 5'000'000'000);
    CHECK(config.publications.rings_ready == 4);
}

TEST_CASE("defaults follow the surroundings") {
    daemon::Surroundings here = surroundings();
    SUBCASE("half of the memory of the host") {
        CHECK(daemon::default_config(here).limits.total.ring_bytes == 8 * kGiB);
    }
    SUBCASE("80 % of the group's limit, if that is less") {
        here.memory_max_bytes = 1000 * kMiB;
        CHECK(daemon::default_config(here).limits.total.ring_bytes == 800 * kMiB);
        CHECK(daemon::default_config(here).limits.per_uid.ring_bytes == 400 * kMiB);
        here.memory_max_bytes = 100 * kGiB;
        CHECK(daemon::default_config(here).limits.total.ring_bytes == 8 * kGiB);
    }
    SUBCASE("nothing known is no reason for zeros") {
        const Config config = daemon::default_config({});
        CHECK(config.limits.total.ring_bytes >= kMiB);
        CHECK(config.limits.total.descriptors >= 64);
        CHECK(config.limits.per_uid.descriptors >= 16);
    }
    SUBCASE("a user has a socket of their own") {
        here.uid = 1000;
        here.runtime_dir = "/run/user/1000";
        CHECK(daemon::default_config(here).listen.sockets.front() ==
              "unix:/run/user/1000/ipcbus/bus.sock");
        here.runtime_dir = "";
        CHECK(daemon::default_config(here).listen.sockets.front() == "unix:" IPCBUS_SYSTEM_SOCKET);
    }
}

TEST_CASE("every key, in the forms it may have") {
    const Config config = good(R"(
[listen]
sockets = ["unix:/run/a.sock", "/run/b.sock"]
mode = "0660"
[log]
level = "debug"
target = "/var/log/ipcbusd.log"
[publications]
ring_bytes = "256KiB"
ring_bytes_max = 1073741824
stall_timeout = "500ms"
rings_ready = 0
[[ring]]
filter = "plant/#"
bytes = "4 MiB"
bytes_max = "64MiB"
record_bytes_max = "100KiB"
[limits]
clients = 10
publications = 20
subscriptions = 30
descriptors = 400
ring_bytes = "2GiB"
attachments_per_client = 50
waiters_per_client = 6
unread_reply_bytes = "128KiB"
drain_timeout = "2min"
[limits.per_uid]
clients = 1
publications = 2
subscriptions = 3
descriptors = 40
ring_bytes = "1GiB"
)");
    CHECK(config.listen.sockets ==
          std::vector<std::string>{"unix:/run/a.sock", "unix:/run/b.sock"});
    CHECK(config.listen.mode == 0660);
    CHECK(config.log.level == daemon::LogLevel::debug);
    CHECK(config.log.target == "/var/log/ipcbusd.log");
    CHECK(config.publications.ring_bytes == 256 * kKiB);
    CHECK(config.publications.ring_bytes_max == kGiB);
    CHECK(config.publications.stall_timeout_ns == 500'000'000);
    CHECK(config.publications.rings_ready == 0);
    REQUIRE(config.rings.size() == 1);
    CHECK(config.rings[0] == daemon::RingRule{"plant/#", 4 * kMiB, 64 * kMiB, 100 * kKiB});
    CHECK(config.limits.total.clients == 10);
    CHECK(config.limits.total.publications == 20);
    CHECK(config.limits.total.subscriptions == 30);
    CHECK(config.limits.total.descriptors == 400);
    CHECK(config.limits.total.ring_bytes == 2 * kGiB);
    CHECK(config.limits.attachments_per_client == 50);
    CHECK(config.limits.waiters_per_client == 6);
    CHECK(config.limits.unread_reply_bytes == 128 * kKiB);
    CHECK(config.limits.drain_timeout_ns == 120'000'000'000);
    CHECK(config.limits.per_uid.clients == 1);
    CHECK(config.limits.per_uid.publications == 2);
    CHECK(config.limits.per_uid.subscriptions == 3);
    CHECK(config.limits.per_uid.descriptors == 40);
    CHECK(config.limits.per_uid.ring_bytes == kGiB);
    CHECK(good("listen.mode = 0o600").listen.mode == 0600);
}

TEST_CASE("the share of one uid follows the total, unless set") {
    CHECK(good("limits.clients = 100").limits.per_uid.clients == 50);
    CHECK(good("limits.clients = 1").limits.per_uid.clients == 1);
    CHECK(good("limits.clients = 100\nlimits.per_uid.clients = 100").limits.per_uid.clients == 100);
    CHECK(error_of("limits.clients = 100\nlimits.per_uid.clients = 101") ==
          "test.toml:2:26: limits.per_uid.clients (101) is above limits.clients (100)");
}

TEST_CASE("all mistakes are reported, in order, each with its place") {
    const auto errors = errors_of(
        "[listen]\n"
        "mode = \"rw-rw----\"\n"
        "[publications]\n"
        "ring_byte = \"1MiB\"\n"
        "stall_timeout = 5\n"
        "ring_bytes = 100000\n"
        "[limits]\n"
        "clients = 0\n"
        "  waiters_per_client = 65536\n"
        "ring_bytes = true\n"
        "[lag]\n"
        "level = \"info\"\n");
    const std::vector<std::string> expected = {
        "test.toml:2:8: listen.mode must be a file mode, \"0660\"",
        "test.toml:4:1: unknown key publications.ring_byte, did you mean publications.ring_bytes?",
        "test.toml:5:17: publications.stall_timeout must be a duration, \"5s\" or \"500ms\" "
        "(ms, s, min, h)",
        "test.toml:6:14: publications.ring_bytes must be a power of two from 64KiB to 1GiB",
        "test.toml:8:11: limits.clients must be from 1 to 1048576",
        "test.toml:9:24: limits.waiters_per_client must be from 1 to 65535",
        "test.toml:10:14: limits.ring_bytes must be a number of bytes, 1048576 or \"1MiB\" "
        "(KiB, MiB, GiB)",
        "test.toml:11:2: unknown key lag, did you mean log?",
    };
    CHECK(errors == expected);
}

TEST_CASE("a file that is no TOML") {
    CHECK(error_of("[log\nlevel = 1").starts_with("test.toml:1:"));
    CHECK(error_of("log.level = \"info\"\nlog.level = \"info\"").starts_with("test.toml:2:"));
    CHECK(error_of("a = \"\xff\"").starts_with("test.toml:1:"));
    CHECK(error_of(std::string(100000, '[')).starts_with("test.toml:1:"));
}

TEST_CASE("a key or a header of very many parts") {
    std::string key = "a";
    for (int i = 0; i < 100'000; i++) {
        key += ".a";
    }
    CHECK(error_of("\n" + key + " = 1\n").starts_with("test.toml:2:1: more than 128 dots"));
    CHECK(error_of("[" + key + "]").starts_with("test.toml:1:1: more than 128 dots"));
}

TEST_CASE("values nested as deep as may be, each under a key of as many parts as may be") {
    std::string key = "a";
    for (int i = 0; i < 128; i++) {
        key += ".a";
    }
    std::string text = "x = [";
    std::string end = "]";
    for (int i = 0; i < 120; i++) {
        text += "{ " + key + " = [\n";
        end += "}]";
    }
    CHECK(!errors_of(text + std::string(end.rbegin(), end.rend())).empty());
}

TEST_CASE("numbers at and beyond their ends") {
    CHECK(good("publications.ring_bytes = 65536").publications.ring_bytes == 65536);
    CHECK(good("publications.ring_bytes = \"64KiB\"").publications.ring_bytes == 65536);
    CHECK_FALSE(errors_of("publications.ring_bytes = 32768").empty());
    CHECK_FALSE(errors_of("publications.ring_bytes = \"2GiB\"").empty());
    CHECK_FALSE(errors_of("publications.ring_bytes = -65536").empty());
    CHECK_FALSE(errors_of("publications.ring_bytes = \"99999999999999999999\"").empty());
    CHECK_FALSE(errors_of("publications.ring_bytes = \"18446744073709551615GiB\"").empty());
    CHECK_FALSE(errors_of("publications.ring_bytes = \"-1MiB\"").empty());
    CHECK_FALSE(errors_of("publications.ring_bytes = \"1 M\"").empty());
    CHECK_FALSE(errors_of("publications.ring_bytes = 1e6").empty());
    CHECK_FALSE(errors_of("limits.clients = \"10\"").empty());
    CHECK_FALSE(errors_of("limits.clients = 10.0").empty());
    CHECK_FALSE(errors_of("publications.stall_timeout = \"9ms\"").empty());
    CHECK_FALSE(errors_of("publications.stall_timeout = \"2h\"").empty());
    CHECK(good("limits.drain_timeout = \"0s\"").limits.drain_timeout_ns == 0);
    CHECK_FALSE(errors_of("listen.mode = 0o1777").empty());
}

TEST_CASE("wrong shapes") {
    CHECK(error_of("listen = 1") == "test.toml:1:10: listen must be a table: [listen]");
    CHECK_FALSE(errors_of("listen.sockets = []").empty());
    CHECK_FALSE(errors_of("listen.sockets = \"unix:/a\"").empty());
    CHECK_FALSE(errors_of("listen.sockets = [\"unix:relative\"]").empty());
    CHECK_FALSE(errors_of("listen.sockets = [1]").empty());
    CHECK(error_of("listen.sockets = [\"/a\", \"unix:/a\"]") ==
          "test.toml:1:25: listen.sockets has unix:/a twice");
    CHECK_FALSE(errors_of("log.level = \"loud\"").empty());
    CHECK_FALSE(errors_of("log.target = \"relative\"").empty());
    CHECK(error_of("statistics.visible = \"some\"") ==
          "test.toml:1:22: statistics.visible must be \"own\" or \"all\"");
    CHECK_FALSE(errors_of("statistics.visible = true").empty());
    CHECK(error_of("ring = 1") == "test.toml:1:8: ring must be a list of tables: [[ring]]");
    CHECK(error_of("[[ring]]\nbytes = \"1MiB\"") == "test.toml:1:1: [[ring]] needs a filter");
    CHECK(error_of("[[ring]]\nfilter = \"a/#/b\"").starts_with("test.toml:2:10: ring.filter"));
    CHECK(error_of("[[ring]]\nfilter = \"a\"\nbyts = 1") ==
          "test.toml:3:1: unknown key ring.byts, did you mean bytes?");
    CHECK(error_of("[[ring]]\nfilter = \"a\"\nbytes = \"2MiB\"\nbytes_max = \"1MiB\"") ==
          "test.toml:1:1: ring.bytes (2MiB) is above ring.bytes_max (1MiB)");
    CHECK(error_of("publications.ring_bytes = \"512MiB\"") ==
          "test.toml:1:27: publications.ring_bytes (512MiB) is above "
          "publications.ring_bytes_max (256MiB)");
}

TEST_CASE("ring_for: the first rule that covers, the request, the limits") {
    const Config config = good(R"(
[publications]
ring_bytes = "128KiB"
ring_bytes_max = "16MiB"
[[ring]]
filter = "plant/+/video"
bytes = "64MiB"
bytes_max = "256MiB"
[[ring]]
filter = "plant/#"
bytes_max = "64KiB"
record_bytes_max = 1000
)");
    const auto bytes = [&](std::string_view topic, std::uint64_t requested) {
        const auto sizing = config.ring_for(topic, requested);
        return sizing.ok() ? sizing.value().bytes : 0;
    };
    CHECK(bytes("other", 0) == 128 * kKiB);
    CHECK(bytes("plant/7/video", 0) == 64 * kMiB);
    CHECK(bytes("plant/7/temp", 0) == 64 * kKiB);  // its own maximum holds for the default, too
    CHECK(config.ring_for("plant/7/temp", 0).value().record_bytes_max == 1000);
    CHECK(config.ring_for("other", 0).value().record_bytes_max ==
          protocol::record_bytes_max(128 * kKiB));
    // A publication under a filter is only covered by a rule that covers all of it.
    CHECK(bytes("plant/+/video", 0) == 64 * kMiB);
    CHECK(bytes("plant/#", 0) == 64 * kKiB);
    CHECK(bytes("#", 0) == 128 * kKiB);
    // Requests are rounded up, reply rings may be small.
    CHECK(bytes("other", 1) == 4096);
    CHECK(bytes("other", 100000) == 128 * kKiB);
    CHECK(bytes("other", 16 * kMiB) == 16 * kMiB);
    const auto refused = config.ring_for("other", 16 * kMiB + 1);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == EDQUOT);
    CHECK(refused.error().what ==
          "a ring of 16777217 for other is above the limit of 16MiB: "
          "raise publications.ring_bytes_max");
    CHECK_FALSE(config.ring_for("other", UINT64_MAX).ok());
    const auto by_rule = config.ring_for("plant/x", 128 * kKiB);
    REQUIRE_FALSE(by_rule.ok());
    CHECK(by_rule.error().what ==
          "a ring of 128KiB for plant/x is above the limit of 64KiB: raise "
          "bytes_max of [[ring]] \"plant/#\"");
}

TEST_CASE("diff names each change with its tag") {
    const Config before = good("");
    const Config after = good(
        "listen.mode = \"0600\"\n"
        "log.level = \"debug\"\n"
        "statistics.visible = \"all\"\n"
        "publications.stall_timeout = \"250ms\"\n"
        "limits.clients = 2\n"
        "[[ring]]\nfilter = \"a\"\n");
    const auto changes = daemon::diff(before, after);
    const auto find = [&](std::string_view key) {
        const auto at = std::find_if(changes.begin(), changes.end(),
                                     [&](const daemon::Change& c) { return c.key == key; });
        REQUIRE(at != changes.end());
        return *at;
    };
    CHECK(changes.size() == 7);
    CHECK(find("listen.mode").tag == Tag::restart);
    CHECK(find("listen.mode").old_value == "0666");
    CHECK(find("listen.mode").new_value == "0600");
    CHECK(find("log.level").tag == Tag::live);
    CHECK(find("statistics.visible").tag == Tag::live);
    CHECK(find("statistics.visible").old_value == "\"own\"");
    CHECK(find("statistics.visible").new_value == "\"all\"");
    CHECK(find("publications.stall_timeout").tag == Tag::new_objects);
    CHECK(find("publications.stall_timeout").old_value == "5s");
    CHECK(find("publications.stall_timeout").new_value == "250ms");
    CHECK(find("limits.clients").tag == Tag::live);
    CHECK(find("limits.per_uid.clients").new_value == "1");
    CHECK(find("ring").tag == Tag::new_objects);
    CHECK(find("ring").new_value == "{filter \"a\", bytes 1MiB, bytes_max 256MiB}");
    CHECK(daemon::diff(after, after).empty());
}

TEST_CASE("files: missing, too large, not a file") {
    const auto missing = daemon::load_config("/nonexistent/ipcbusd.toml", surroundings());
    REQUIRE(missing.errors.size() == 1);
    CHECK(missing.errors[0] ==
          "/nonexistent/ipcbusd.toml: cannot read it: No such file or directory");
    CHECK(daemon::load_config("/", surroundings()).errors ==
          std::vector<std::string>{"/: cannot read it: it is a directory"});
    // A device, and a pipe that nobody writes: empty, but no configuration of defaults.
    CHECK(daemon::load_config("/dev/null", surroundings()).errors ==
          std::vector<std::string>{"/dev/null: cannot read it: it is no regular file"});
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    ::close(pipe[1]);
    const std::string fifo = "/proc/self/fd/" + std::to_string(pipe[0]);
    CHECK(daemon::load_config(fifo, surroundings()).errors ==
          std::vector<std::string>{fifo + ": cannot read it: it is no regular file"});
    ::close(pipe[0]);
    const ipcbus::sys::UniqueFd large(::memfd_create("large", MFD_CLOEXEC));
    REQUIRE(::ftruncate(large.get(), 64 << 20) == 0);
    CHECK(daemon::load_config("/proc/self/fd/" + std::to_string(large.get()), surroundings())
              .errors.size() == 1);
}

TEST_CASE("the example file shows every key with its default") {
    const char* const path = std::getenv("IPCBUS_EXAMPLE_CONFIG");
    if (path == nullptr) {
        MESSAGE("IPCBUS_EXAMPLE_CONFIG is not set: skipped");
        return;
    }
    auto loaded = daemon::load_config(path, surroundings());
    CHECK(loaded.errors == std::vector<std::string>{});
    REQUIRE(loaded.config.has_value());
    CHECK(daemon::diff(*loaded.config, daemon::default_config(surroundings())).empty());
}

TEST_SUITE_END();

TEST_CASE("rules of access: all their keys, and what is wrong with each") {
    const Config config = good(
        "[access]\nremote = \"deny\"\n"
        "[tcp]\nlisten = [4222]\n"
        "[[rule]]\nname = \"n\"\nuid = [7, 8]\nuser = \"root\"\ngid = 9\ngroup = \"root\"\n"
        "allow = [\"publish\", \"subscribe-reliably\"]\nfilter = [\"a\", \"b/#\"]\n"
        "[[rule]]\nfrom = \"remote\"\ndeny = \"subscribe\"\nfilter = \"#\"\n");
    CHECK(config.access->local_allowed);
    CHECK_FALSE(config.access->remote_allowed);
    REQUIRE(config.access->rules.size() == 2);
    CHECK(config.access->rules[0].text() ==
          "n: uid 7,8,0 gid 9,0 allow publish subscribe-reliably filter a,b/#");
    CHECK(config.access->rules[0].line == 5);
    CHECK(config.access->rules[1].text() == "remote deny subscribe filter #");
    const auto changes = daemon::diff(good(""), config);
    CHECK(std::count_if(changes.begin(), changes.end(), [](const daemon::Change& change) {
              return change.tag == Tag::live &&
                     (change.key == "access.remote" || change.key.starts_with("rule "));
          }) == 3);
    const std::string rest = "deny = \"publish\"\nfilter = \"#\"\n";
    const std::pair<std::string, std::string> wrong[] = {
        {"[access]\nlocal = true\n", "access.local must be"},
        {"[rule]\n" + rest, "[[rule]]"},
        {"[[rule]]\nfilter = \"#\"\n", "needs allow or deny"},
        {"[[rule]]\ndeny = \"publish\"\n", "needs a filter"},
        {"[[rule]]\nallow = \"publish\"\n" + rest, "either allows or denies"},
        {"[[rule]]\ndeny = \"read\"\nfilter = \"#\"\n", "subscribe-reliably"},
        {"[[rule]]\ndeny = []\nfilter = \"#\"\n", "empty list"},
        {"[[rule]]\ndeny = \"publish\"\nfilter = \"a/#/b\"\n", "a/#/b"},
        {"[[rule]]\nuid = -1\n" + rest, "rule.uid"},
        {"[[rule]]\nuid = \"root\"\n" + rest, "rule.uid"},
        {"[[rule]]\nuid = []\n" + rest, "empty list"},
        {"[[rule]]\nuser = \"no such user\"\n" + rest, "there is none of that name"},
        {"[[rule]]\ngroup = 5\n" + rest, "rule.group"},
        {"[[rule]]\nfrom = \"afar\"\n" + rest, "rule.from"},
        {"[[rule]]\nfrom = \"remote\"\nuid = 5\n" + rest, "about nobody"},
        {"[[rule]]\ntoken = \"t\"\n" + rest, "no tcp.token_file"},
        {"[[rule]]\nsubject = \"CN=t\"\n" + rest, "client_certificates"},
        {"[[rule]]\nname = \"\"\n" + rest, "rule.name"},
        {"[[rule]]\nusers = \"root\"\n" + rest, "unknown key rule.users"},
    };
    for (const auto& [text, part] : wrong) {
        const std::string error = error_of(text);
        INFO(text);
        INFO(error);
        CHECK(error.find(part) != std::string::npos);
    }
}

TEST_CASE("tcp: off, loopback, and beyond it only in so many words") {
    CHECK(good("").tcp.listen.empty());
    const Config config = good(
        "[tcp]\nlisten = [4222, \"[::1]:4223\", \"127.0.0.1:4224\"]\nclients = 7\n"
        "handshake_timeout = \"1s\"\ndead_peer_timeout = \"2s\"\n");
    REQUIRE(config.tcp.listen.size() == 3);
    CHECK(config.tcp.listen[0] == sys::TcpEndpoint{"", 4222});
    CHECK(config.tcp.listen[1] == sys::TcpEndpoint{"::1", 4223});
    CHECK(config.tcp.clients == 7);
    CHECK(config.tcp.handshake_timeout_ns == 1'000'000'000);
    CHECK(config.tcp.dead_peer_timeout_ns == 2'000'000'000);
    const std::string refused = error_of("[tcp]\nlisten = [4222, \"0.0.0.0:4222\"]\n");
    CHECK(refused.starts_with("test.toml:2:10: tcp.listen: 0.0.0.0:4222 is not this host's"));
    CHECK(refused.find("insecure = true") != std::string::npos);
    CHECK(errors_of("[tcp]\nlisten = [\"localhost:1\"]\n").size() == 1);  // a name can be anything
    CHECK(good("[tcp]\ninsecure = true\nlisten = [\"0.0.0.0:4222\"]\n").tcp.insecure);
    CHECK(error_of("[tcp]\ninsecure = \"yes\"\n") ==
          "test.toml:2:12: tcp.insecure must be true or false");
    CHECK(error_of("[tcp]\nlisten = [4222, 4222]\n").ends_with("tcp.listen has :4222 twice"));
    CHECK(error_of("[tcp]\nlisten = [70000]\n").find("from 1 to 65535") != std::string::npos);
    CHECK(error_of("[tcp]\nlisten = \"4222\"\n").find("must be a list") != std::string::npos);
    CHECK(error_of("[tcp]\ntoken_file = \"tokens\"\n").find("absolute path") !=
          std::string::npos);
    CHECK(error_of("[tcp]\ntoken_file = \"/nowhere/tokens\"\n").find("No such file") !=
          std::string::npos);
    CHECK(error_of("[listen]\nsockets = [\"tcp:1\"]\n").find("tcp.listen") != std::string::npos);
    const auto changes = daemon::diff(good(""), config);
    CHECK(std::any_of(changes.begin(), changes.end(), [](const daemon::Change& change) {
        return change.key == "tcp.listen" && change.tag == Tag::restart &&
               change.new_value == "[\"4222\", \"[::1]:4223\", \"127.0.0.1:4224\"]";
    }));
}
