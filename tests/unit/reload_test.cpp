// SPDX-License-Identifier: Apache-2.0
// Goal: a reload is all or nothing, and says what it did. Method: a file in /tmp, rewritten.
#include "reload.hpp"

#include <doctest/doctest.h>

#include <unistd.h>

#include <fstream>
#include <string>

using namespace ipcbus;

namespace {

class ConfigFile {
public:
    explicit ConfigFile(const std::string& text) {
        const int fd = ::mkstemp(name_);
        REQUIRE(fd >= 0);
        (void)::close(fd);
        write(text);
    }
    ~ConfigFile() { (void)::unlink(name_); }
    void write(const std::string& text) const { std::ofstream(name_) << text; }
    [[nodiscard]] std::string path() const { return name_; }

private:
    char name_[32] = "/tmp/ipcbus-reload-XXXXXX";
};

const daemon::Surroundings kHere = {.ram_bytes = std::uint64_t{1} << 34,
                                    .memory_max_bytes = 0,
                                    .descriptors_max = 1024,
                                    .uid = 0,
                                    .runtime_dir = ""};

}  // namespace

TEST_SUITE_BEGIN("reload");

TEST_CASE("reload: good, unchanged, wrong, restart") {
    const ConfigFile file("log.level = \"info\"\n");
    const daemon::Options options{.config_path = file.path(), .listen = {}};
    const auto loaded = daemon::load_config(options, kHere);
    REQUIRE(loaded.config.has_value());

    SUBCASE("unchanged") {
        const auto outcome = daemon::reload(options, *loaded.config, kHere);
        CHECK(outcome.config.has_value());
        CHECK(outcome.changes.empty());
        CHECK(outcome.summary() == "reloaded, nothing changed");
    }
    SUBCASE("good") {
        file.write("log.level = \"debug\"\nlimits.drain_timeout = \"1s\"\n");
        const auto outcome = daemon::reload(options, *loaded.config, kHere);
        REQUIRE(outcome.config.has_value());
        REQUIRE(outcome.changes.size() == 2);
        CHECK(daemon::describe(outcome.changes[0]) == "log.level: \"info\" -> \"debug\" (live)");
        CHECK(daemon::describe(outcome.changes[1]) == "limits.drain_timeout: 5s -> 1s (live)");
        CHECK(outcome.summary() == "reloaded, 2 changes");
    }
    SUBCASE("wrong: nothing of it, every error") {
        file.write("log.level = \"debug\"\nnonsense = 1\nlimits.clients = 0\n");
        const auto outcome = daemon::reload(options, *loaded.config, kHere);
        CHECK_FALSE(outcome.config.has_value());
        CHECK(outcome.changes.empty());
        REQUIRE(outcome.errors.size() == 2);
        CHECK(outcome.errors[0] == file.path() + ":2:1: unknown key nonsense");
        CHECK(outcome.summary() == "reload refused, the old configuration stays: " +
                                       outcome.errors[0] + " (and 1 more)");
    }
    SUBCASE("gone") {
        const daemon::Options gone{.config_path = file.path() + ".gone", .listen = {}};
        CHECK_FALSE(daemon::reload(gone, *loaded.config, kHere).config.has_value());
    }
    SUBCASE("restart: refused as a whole, by name, with both values") {
        file.write("listen.mode = \"0600\"\nlog.level = \"debug\"\n");
        const auto outcome = daemon::reload(options, *loaded.config, kHere);
        CHECK_FALSE(outcome.config.has_value());
        CHECK(outcome.changes.empty());
        REQUIRE(outcome.errors.size() == 1);
        CHECK(outcome.errors[0] == file.path() +
                                       ": listen.mode is 0666 and would become 0600: "
                                       "that needs a restart, nothing was changed");
    }
}

TEST_CASE("--listen wins over the file, at the start and at each reload") {
    const ConfigFile file("listen.sockets = [\"/a\"]\n");
    const daemon::Options options{.config_path = file.path(), .listen = {"unix:/b"}};
    const auto loaded = daemon::load_config(options, kHere);
    REQUIRE(loaded.config.has_value());
    CHECK(loaded.config->listen.sockets == options.listen);
    file.write("listen.sockets = [\"/c\"]\n");
    const auto outcome = daemon::reload(options, *loaded.config, kHere);
    CHECK(outcome.config.has_value());
    CHECK(outcome.changes.empty());
}

TEST_CASE("without a file there are the defaults") {
    const auto loaded = daemon::load_config(daemon::Options{}, kHere);
    REQUIRE(loaded.config.has_value());
    CHECK(daemon::reload(daemon::Options{}, *loaded.config, kHere).config.has_value());
}

TEST_SUITE_END();
