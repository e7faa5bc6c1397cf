// SPDX-License-Identifier: Apache-2.0
// Goal: every option in each of its forms, and one line for each mistake. Pure.
#include "options.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using ipcbus::daemon::CommandLine;
using Action = CommandLine::Action;

namespace {

CommandLine parse(std::vector<std::string> words) {
    words.insert(words.begin(), "ipcbusd");
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    return ipcbus::daemon::parse_command_line(static_cast<int>(words.size()), argv.data());
}

}  // namespace

TEST_SUITE_BEGIN("options");

TEST_CASE("good command lines") {
    CHECK(parse({}).action == Action::run);
    CHECK(parse({}).options.config_path.empty());
    CHECK(parse({"-c", "a.toml"}).options.config_path == "a.toml");
    CHECK(parse({"--config", "a.toml"}).options.config_path == "a.toml");
    CHECK(parse({"--config=a.toml"}).options.config_path == "a.toml");
    CHECK(parse({"-ca.toml"}).options.config_path == "a.toml");
    const CommandLine two = parse({"--listen", "unix:/a", "--listen=/b", "--check-config"});
    CHECK(two.action == Action::check_config);
    CHECK(two.options.listen == std::vector<std::string>{"unix:/a", "unix:/b"});
    CHECK(parse({"-h"}).action == Action::show_help);
    CHECK(parse({"--help"}).action == Action::show_help);
    CHECK(parse({"-V"}).action == Action::show_version);
    CHECK(parse({"--version"}).action == Action::show_version);
}

TEST_CASE("mistakes are one line that names the word") {
    const auto error = [](std::vector<std::string> words) {
        const CommandLine line = parse(std::move(words));
        CHECK(line.action == Action::usage_error);
        CHECK(line.error.find('\n') == std::string::npos);
        return line.error;
    };
    CHECK(error({"-x"}) == "unknown option -x");
    CHECK(error({"--nonsense"}) == "unknown option --nonsense");
    CHECK(error({"-c"}) == "-c needs an argument");
    CHECK(error({"-c", ""}) == "the name of the configuration file is empty");
    CHECK(error({"--listen"}) == "--listen needs an argument");
    CHECK(error({"--listen", "relative"}).starts_with("--listen relative: "));
    CHECK(error({"--listen", "tcp:localhost:x"}).starts_with("--listen tcp:localhost:x: "));
    CHECK(error({"--listen", "tls:localhost:x"}).starts_with("--listen tls:localhost:x: "));
    CHECK(error({"extra"}) == "unexpected argument extra");
    CHECK(error({"--", "-c"}) == "unexpected argument -c");
}

TEST_CASE("help names every option") {
    const std::string help = ipcbus::daemon::help_text();
    for (const char* option :
         {"-c", "--config", "--listen", "--check-config", "-h", "--help", "-V", "--version"}) {
        CHECK(help.find(option) != std::string::npos);
    }
}

TEST_SUITE_END();
