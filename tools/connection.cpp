// SPDX-License-Identifier: Apache-2.0
// See connection.hpp. One thread.
#include "connection.hpp"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

namespace ipcbus::tools {

using sys::Result;

namespace {

constexpr std::array kCommonSpecs = {
    OptionSpec{kAddress, '\0', "address", true},
    OptionSpec{kName, 'i', "name", true},
    OptionSpec{kConnectTimeout, '\0', "connect-timeout", true},
    OptionSpec{kTokenFile, '\0', "token-file", true},
    OptionSpec{kCaFile, '\0', "ca-file", true},
    OptionSpec{kCertificateFile, '\0', "certificate-file", true},
    OptionSpec{kKeyFile, '\0', "key-file", true},
    OptionSpec{kServerName, '\0', "server-name", true},
    OptionSpec{kNoReconnect, '\0', "no-reconnect", false},
    OptionSpec{kQuiet, 'q', "quiet", false},
    OptionSpec{kDebug, 'd', "debug", false},
    OptionSpec{kHelp, 'h', "help", false},
    OptionSpec{kVersion, 'V', "version", false},
    OptionSpec{kPrintOptions, '\0', "print-options", false},
};

/// Takes one option in; true if it was a common one.
Result<bool> take_common_option(const Option& option, CommonOptions& options) {
    switch (option.id) {
        case kAddress:
            if (option.value.empty()) {
                return sys::fail(EINVAL, "--address needs an address, like unix:/run/bus.sock");
            }
            options.address = option.value;
            return true;
        case kName: options.name = option.value; return true;
        case kConnectTimeout:
            options.connect_timeout_ns = IPCBUS_TRY(duration_option(option));
            return true;
        case kTokenFile:
            // The library reads it from there, for each connection it makes.
            if (::setenv("IPCBUS_TOKEN_FILE", std::string(option.value).c_str(), 1) != 0) {
                return sys::fail_errno("setenv");
            }
            return true;
        case kCaFile: options.ca_file = option.value; return true;
        case kCertificateFile: options.certificate_file = option.value; return true;
        case kKeyFile: options.key_file = option.value; return true;
        case kServerName: options.server_name = option.value; return true;
        case kNoReconnect: options.reconnect = false; return true;
        case kQuiet: options.quiet = true; return true;
        case kDebug: options.debug = true; return true;
        case kHelp: options.help = true; return true;
        case kVersion: options.version = true; return true;
        case kPrintOptions: options.help = true; return true;
        default: return false;
    }
}

/// "-t --topic=", a line for each option but --print-options; "=": it takes a value.
/// Then a line for each word that the operand can be.
std::string list_options(std::span<const OptionSpec> specs,
                         std::span<const std::string_view> operand_words) {
    std::string list;
    for (const OptionSpec& spec : specs) {
        if (spec.id == kPrintOptions) {
            continue;
        }
        std::string line;
        if (spec.short_name != '\0') {
            line.append("-").append(1, spec.short_name);
        }
        if (!spec.long_name.empty()) {
            line.append(line.empty() ? "--" : " --").append(spec.long_name);
        }
        list.append(line).append(spec.takes_value ? "=\n" : "\n");
    }
    for (const std::string_view word : operand_words) {
        list.append(word).append("\n");
    }
    return list;
}

}  // namespace

Result<std::vector<std::string_view>> read_options(
    std::span<char* const> arguments, std::span<const OptionSpec> own,
    const std::function<Result<void>(const Option&)>& take, CommonOptions& ret_common,
    std::span<const std::string_view> operand_words) {
    std::vector<OptionSpec> specs(own.begin(), own.end());
    specs.insert(specs.end(), kCommonSpecs.begin(), kCommonSpecs.end());
    Arguments parsed = IPCBUS_TRY(parse_arguments(arguments, specs));
    for (const Option& option : parsed.options) {
        if (!IPCBUS_TRY(take_common_option(option, ret_common))) {
            IPCBUS_TRY(take(option));
        }
        if (option.id == kPrintOptions) {
            ret_common.option_list = list_options(specs, operand_words);
        }
        if (ret_common.help || ret_common.version) {
            break;
        }
    }
    return std::move(parsed.positionals);
}

Result<int> ready_fd_option(const Option& option) {
    constexpr std::uint64_t kFdMax = 1'000'000'000;
    const std::uint64_t fd = IPCBUS_TRY(count_option(option, 0));
    if (fd == STDIN_FILENO || fd == STDOUT_FILENO) {
        return sys::fail(EINVAL, option.shown + " " + quoted(option.value) +
                                     ": only messages go to stdout; open another, like 3>file");
    }
    if (fd > kFdMax || ::fcntl(static_cast<int>(fd), F_GETFD) < 0) {
        return sys::fail(EINVAL, option.shown + " " + quoted(option.value) +
                                     ": there is no such open descriptor");
    }
    return static_cast<int>(fd);
}

bool announce_ready(std::string_view tool, int ready_fd) {
    if (ready_fd < 0) {
        return true;
    }
    constexpr std::string_view kLine = "ready\n";
    if (::write(ready_fd, kLine.data(), kLine.size()) < 0) {
        report(tool, "cannot write to descriptor " + std::to_string(ready_fd) +
                         " of --ready-fd: " + std::strerror(errno));
        return false;
    }
    if (ready_fd != STDERR_FILENO) {
        (void)::close(ready_fd);  // so that who waits for its end sees it, too
    }
    return true;
}

std::string_view common_help() {
    return "  --address ADDRESS  unix:PATH, tcp:HOST:PORT or tls:HOST:PORT; $IPCBUS_ADDRESS\n"
           "  --token-file, --ca-file, --certificate-file, --key-file FILE, --server-name N\n"
           "  --connect-timeout D  keep trying  --no-reconnect  3 if lost  -i, --name NAME\n"
           "  -q  no warnings   -d  tell what happens   -h  this help   -V  versions\n";
}

std::string version_text(std::string_view tool) {
    const std::uint32_t protocol = ipcbus_protocol_version();
    return std::string(tool) + " " IPCBUS_VERSION "\nlibrary " + ipcbus_version() +
           " (compiled with " IPCBUS_VERSION "), protocol " + std::to_string(protocol >> 16) + "." +
           std::to_string(protocol & 0xffff) + ", layout " +
           std::to_string(ipcbus_layout_version()) + "\n";
}

std::string library_error(std::int64_t result) {
    const char* text = ipcbus_last_error();
    return *text != '\0' ? text : std::strerror(static_cast<int>(-result));
}

int connect_bus(std::string_view tool, const CommonOptions& options, BusPtr& ret_bus) {
    ipcbus_connect_options connect_options = IPCBUS_INIT(connect_options);
    const std::string name = options.name.empty() ? std::string(tool) : options.name;
    connect_options.address = options.address.empty() ? nullptr : options.address.c_str();
    connect_options.name = name.c_str();
    const auto text = [](const std::string& given) {
        return given.empty() ? nullptr : given.c_str();
    };
    connect_options.ca_file = text(options.ca_file);
    connect_options.certificate_file = text(options.certificate_file);
    connect_options.key_file = text(options.key_file);
    connect_options.server_name = text(options.server_name);
    connect_options.timeout_ns = options.connect_timeout_ns;
    connect_options.flags = options.reconnect ? 0 : IPCBUS_NO_RECONNECT;
    ipcbus_bus* bus = nullptr;
    const int result = ipcbus_connect(&connect_options, &bus);
    if (result == 0) {
        ret_bus.reset(bus);
        if (options.debug) {
            report(tool, "connected as " + quoted(name));
        }
        return kExitDone;
    }
    report(tool, "cannot connect: " + library_error(result));
    switch (result) {
        case -EINVAL:
        case -ENAMETOOLONG: return kExitUsage;
        case -EACCES: return kExitDenied;
        default: return kExitNoConnection;
    }
}

int exit_code_for(std::int64_t result) {
    switch (result) {
        case -EACCES: return kExitDenied;
        case -EINVAL:
        case -ENAMETOOLONG: return kExitUsage;
        case -ESHUTDOWN:
        case -ECONNREFUSED: return kExitNoConnection;
        case -ETIMEDOUT:
        case -EAGAIN: return kExitTimedOut;
        case -EHOSTUNREACH: return kExitNobody;
        default: return kExitFailed;
    }
}

int report_failure(std::string_view tool, std::string_view what, std::int64_t result) {
    report(tool, "cannot " + std::string(what) + ": " + library_error(result));
    return exit_code_for(result);
}

}  // namespace ipcbus::tools
