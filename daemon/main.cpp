// SPDX-License-Identifier: Apache-2.0
// ipcbusd: command line -> configuration -> log -> Broker::run -> exit code; nothing else.
#include "broker.hpp"
#include "config.hpp"
#include "log.hpp"
#include "options.hpp"
#include "reload.hpp"
#include "surroundings.hpp"

#include "protocol/layout.hpp"
#include "protocol/wire.hpp"

#include <ipcbus/version.h>

#include <cstdio>
#include <exception>

namespace {

using namespace ipcbus;
using daemon::CommandLine;

constexpr int kExitDone = 0;
constexpr int kExitError = 1;
constexpr int kExitUsage = 2;

void print_version() {
    std::printf("ipcbusd %s\nprotocol %u.%u\nshared-memory layout %u\n", IPCBUS_VERSION,
                unsigned{protocol::kProtocolMajor}, unsigned{protocol::kProtocolMinor},
                unsigned{protocol::kLayoutVersion});
}

int check_config(const CommandLine& command, const daemon::LoadedConfig& loaded) {
    for (const std::string& error : loaded.errors) {
        std::fprintf(stderr, "%s\n", error.c_str());
    }
    if (!loaded.config) {
        return kExitError;
    }
    const std::string& path = command.options.config_path;
    std::printf("%s: the configuration is good\n",
                path.empty() ? "built-in defaults" : path.c_str());
    return kExitDone;
}

int serve(const CommandLine& command, daemon::LoadedConfig loaded) {
    // What is wrong with the configuration goes where everything does before there is one: under
    // systemd that is the journal, which is to know it for an error.
    (void)daemon::log_open({});
    if (!loaded.config) {
        for (const std::string& error : loaded.errors) {
            daemon::log_error("{}", error);
        }
        return kExitError;
    }
    if (const auto opened = daemon::log_open(loaded.config->log); !opened) {
        daemon::log_error("{}", opened.error().what);
        return kExitError;
    }
    daemon::raise_descriptor_limit();
    auto broker = daemon::Broker::create(command.options, std::move(*loaded.config));
    if (!broker) {
        daemon::log_error("{}", broker.error().what);
        return kExitError;
    }
    return broker.value()->run();
}

int run(int argc, char** argv) {
    const CommandLine command = daemon::parse_command_line(argc, argv);
    switch (command.action) {
    case CommandLine::Action::usage_error:
        std::fprintf(stderr, "ipcbusd: %s (see ipcbusd --help)\n", command.error.c_str());
        return kExitUsage;
    case CommandLine::Action::show_help:
        std::fputs(daemon::help_text().c_str(), stdout);
        return kExitDone;
    case CommandLine::Action::show_options:
        std::fputs(daemon::option_list().c_str(), stdout);
        return kExitDone;
    case CommandLine::Action::show_version:
        print_version();
        return kExitDone;
    case CommandLine::Action::check_config:
    case CommandLine::Action::run:
        break;
    }
    daemon::LoadedConfig loaded = daemon::load_config(command.options, daemon::look_around());
    return command.action == CommandLine::Action::check_config ? check_config(command, loaded)
                                                               : serve(command, std::move(loaded));
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {  // ours do not throw: out of memory
        std::fprintf(stderr, "ipcbusd: %s\n", error.what());
        return kExitError;
    }
}
