// SPDX-License-Identifier: Apache-2.0
// getopt_long with our own one-line errors. Called once, before any thread exists: getopt keeps its
// state in globals.
#include "options.hpp"

#include "sys/address.hpp"

#include <getopt.h>

#include <array>
#include <string_view>

namespace ipcbus::daemon {

namespace {

enum LongOnly { kListen = 256, kCheckConfig, kPrintOptions };

const std::array<option, 7> kLongOptions = {{
    {"config", required_argument, nullptr, 'c'},
    {"listen", required_argument, nullptr, kListen},
    {"check-config", no_argument, nullptr, kCheckConfig},
    {"help", no_argument, nullptr, 'h'},
    {"version", no_argument, nullptr, 'V'},
    {"print-options", no_argument, nullptr, kPrintOptions},
    {nullptr, 0, nullptr, 0},
}};

CommandLine usage_error(std::string message) {
    CommandLine result;
    result.action = CommandLine::Action::usage_error;
    result.error = std::move(message);
    return result;
}

/// The option getopt stumbled over, as the user wrote it.
std::string offending_option(char* const* argv) {
    if (optopt > 0 && optopt < 256) {
        return std::string("-") + static_cast<char>(optopt);
    }
    return argv[optind - 1];
}

}  // namespace

CommandLine parse_command_line(int argc, char* const* argv) {
    CommandLine result;
    bool check = false;
    optind = 0;  // 0, not 1: glibc starts anew, also after an earlier call
    opterr = 0;
    for (int found = 0;
         (found = ::getopt_long(argc, argv, ":c:hV", kLongOptions.data(), nullptr)) != -1;) {
        switch (found) {
        case 'c':
            if (*optarg == '\0') {
                return usage_error("the name of the configuration file is empty");
            }
            result.options.config_path = optarg;
            break;
        case kListen: {
            const bool tls = std::string_view(optarg).starts_with("tls:");
            if (tls || std::string_view(optarg).starts_with("tcp:")) {
                auto endpoint = sys::parse_endpoint(optarg + 4, true);
                if (!endpoint) {
                    return usage_error("--listen " + std::string(optarg) + ": " +
                                       endpoint.error().what);
                }
                (tls ? result.options.listen_tls : result.options.listen_tcp)
                    .push_back(std::move(endpoint).value());
                break;
            }
            const auto address = sys::parse_address(optarg);
            if (!address) {
                return usage_error("--listen " + std::string(optarg) + ": " + address.error().what);
            }
            result.options.listen.push_back("unix:" + address.value().path);
            break;
        }
        case kCheckConfig:
            check = true;
            break;
        case 'h':
            result.action = CommandLine::Action::show_help;
            return result;
        case 'V':
            result.action = CommandLine::Action::show_version;
            return result;
        case kPrintOptions:
            result.action = CommandLine::Action::show_options;
            return result;
        case ':':
            return usage_error(offending_option(argv) + " needs an argument");
        default:
            return usage_error("unknown option " + offending_option(argv));
        }
    }
    if (optind < argc) {
        return usage_error("unexpected argument " + std::string(argv[optind]));
    }
    if (check) {
        result.action = CommandLine::Action::check_config;
    }
    return result;
}

std::string help_text() {
    return "Usage: ipcbusd [-c FILE] [--listen ADDRESS]... [--check-config]\n"
           "The daemon of ipcbus: creates the shared memory that messages go through.\n"
           "\n"
           "  -c, --config FILE     read the configuration from FILE (see ipcbusd.toml(5))\n"
           "      --listen ADDRESS  on unix:PATH instead of listen.sockets, on tcp:PORT or\n"
           "                        tcp:HOST:PORT instead of tcp.listen, on tls:PORT or\n"
           "                        tls:HOST:PORT instead of tcp.listen_tls; repeatable\n"
           "      --check-config    check the configuration, print every error, and exit\n"
           "  -h, --help            show this help and exit\n"
           "  -V, --version         show versions of program, protocol and layout and exit\n"
           "\n"
           "SIGHUP reloads the configuration, SIGTERM and SIGINT stop. See ipcbusd(8).\n";
}

std::string option_list() {
    std::string list;
    for (const option& one : kLongOptions) {
        if (one.name == nullptr || one.val == kPrintOptions) {
            continue;
        }
        if (one.val < kListen) {
            list.append("-").append(1, static_cast<char>(one.val)).append(" ");
        }
        list.append("--").append(one.name).append(one.has_arg == no_argument ? "\n" : "=\n");
    }
    return list;
}

}  // namespace ipcbus::daemon
