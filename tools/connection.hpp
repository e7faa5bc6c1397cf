// SPDX-License-Identifier: Apache-2.0
// What every tool of the bus does alike: main(), the options that all have (where the bus is, how
// much to say), the connection made from them, and which exit code an error of libipcbus becomes.
// Used by a tool's one thread.
#pragma once

#include "cli.hpp"

#include <ipcbus/ipcbus.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::tools {

enum CommonOptionId : int {
    kAddress = 1,
    kName,
    kConnectTimeout,
    kTokenFile,
    kCaFile,
    kCertificateFile,
    kKeyFile,
    kServerName,
    kNoReconnect,
    kQuiet,
    kDebug,
    kHelp,
    kVersion,
    kPrintOptions,
    kFirstOfTool,  // ids from here on are each tool's own
};

struct CommonOptions {
    std::string address;  // empty: where libipcbus looks
    std::string name;     // empty: the name of the tool
    std::string ca_file;  // these four: as libipcbus takes them, empty: what the environment says
    std::string certificate_file;
    std::string key_file;
    std::string server_name;
    std::int64_t connect_timeout_ns = 0;
    bool reconnect = true;
    bool quiet = false;
    bool debug = false;
    bool help = false;
    bool version = false;
    std::string option_list;  // asked for by --print-options, else empty
};

/// Reads a command line: common options go to `ret_common`, those of `own` to `take`, in their
/// order. Returns the operands. After -h or -V nothing more is read. --print-options, by which the
/// completions of shells learn the options, is help of another form; it also names
/// `operand_words`, for a tool whose operand is one of a few words.
[[nodiscard]] sys::Result<std::vector<std::string_view>> read_options(
    std::span<char* const> arguments, std::span<const OptionSpec> own,
    const std::function<sys::Result<void>(const Option&)>& take, CommonOptions& ret_common,
    std::span<const std::string_view> operand_words = {});
/// The lines of --help about them.
[[nodiscard]] std::string_view common_help();
/// What --version prints: the tool, then library (compiled with, running), protocol and layout.
[[nodiscard]] std::string version_text(std::string_view tool);

/// The value of --ready-fd: an open descriptor that is neither stdin nor stdout.
[[nodiscard]] sys::Result<int> ready_fd_option(const Option& option);
/// Writes a line there and closes it, unless it is negative. False: it has been reported why not.
[[nodiscard]] bool announce_ready(std::string_view tool, int ready_fd);

struct CloseBus {
    void operator()(ipcbus_bus* bus) const { ipcbus_close(bus); }
};
struct Unadvertise {
    void operator()(ipcbus_publisher* publisher) const { ipcbus_unadvertise(publisher); }
};
struct Unsubscribe {
    void operator()(ipcbus_subscriber* subscriber) const { ipcbus_unsubscribe(subscriber); }
};
struct FreeSet {
    void operator()(ipcbus_set* set) const { ipcbus_set_free(set); }
};
struct FreeRequester {
    void operator()(ipcbus_requester* requester) const { ipcbus_requester_free(requester); }
};
struct FreeResponder {
    void operator()(ipcbus_responder* responder) const { ipcbus_responder_free(responder); }
};
using BusPtr = std::unique_ptr<ipcbus_bus, CloseBus>;
using PublisherPtr = std::unique_ptr<ipcbus_publisher, Unadvertise>;
using SubscriberPtr = std::unique_ptr<ipcbus_subscriber, Unsubscribe>;
using SetPtr = std::unique_ptr<ipcbus_set, FreeSet>;
using RequesterPtr = std::unique_ptr<ipcbus_requester, FreeRequester>;
using ResponderPtr = std::unique_ptr<ipcbus_responder, FreeResponder>;

/// What libipcbus said last, or what the errno means where it said nothing.
[[nodiscard]] std::string library_error(std::int64_t result);

/// Connects; on failure reports it and leaves ret_bus empty. Returns an exit code.
[[nodiscard]] int connect_bus(std::string_view tool, const CommonOptions& options, BusPtr& ret_bus);

/// The exit code for what a call after connecting returned.
[[nodiscard]] int exit_code_for(std::int64_t result);
/// Reports "cannot WHAT: reason" and returns the exit code.
[[nodiscard]] int report_failure(std::string_view tool, std::string_view what,
                                 std::int64_t result);

/// main() of a tool: reads the command line by `parse`, answers --help, --version and mistakes in
/// it, or does what `run` does. Options have a member `common`. Returns the exit code.
template <class Options>
[[nodiscard]] int tool_main(std::string_view tool, int argc, char** argv,
                            sys::Result<Options> (*parse)(std::span<char* const>),
                            std::string (*help)(), int (*run)(const Options&)) {
    if (!reserve_standard_descriptors()) {
        return kExitFailed;
    }
    const std::span<char* const> words(argv, static_cast<std::size_t>(argc));
    const sys::Result<Options> options = parse(words.subspan(argc > 0 ? 1 : 0));
    if (!options.ok()) {
        return report_usage(tool, options.error().what);
    }
    if (const std::string& list = options.value().common.option_list; !list.empty()) {
        return print_to_stdout(tool, list);
    }
    if (options.value().common.help) {
        return print_to_stdout(tool, help());
    }
    if (options.value().common.version) {
        return print_to_stdout(tool, version_text(tool));
    }
    return run(options.value());
}

}  // namespace ipcbus::tools
