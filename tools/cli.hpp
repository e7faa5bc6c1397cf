// SPDX-License-Identifier: Apache-2.0
// What all tools share at their command line: options, durations and sizes, exit codes, and the one
// form in which they report errors. Free functions and plain values, used by a tool's one thread.
//
// Why not getopt_long: it prints in its own words, and accepts abbreviations, with which every new
// option may break somebody's script.
#pragma once

#include "sys/result.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::tools {

/// Exit codes: part of every man page, never changed. A tool ended by signal n exits with 128 + n.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNoConnection = 3;
inline constexpr int kExitDenied = 4;
inline constexpr int kExitLost = 5;
inline constexpr int kExitStatus = 6;  // ipcbus-req: a responder says that it went wrong
inline constexpr int kExitNobody = 7;  // ipcbus-req: nobody serves the topic
inline constexpr int kExitTimedOut = 124;

struct OptionSpec {
    int id = 0;                       // what Option::id will be; unique in a tool
    char short_name = '\0';           // '\0': none
    std::string_view long_name = {};  // empty: none
    bool takes_value = false;
    // A long option that may have one: after '=', or as the next word if that is a duration.
    bool may_take_duration = false;
};

/// An option as it was given. The views are into argv.
struct Option {
    int id = 0;
    std::string shown;  // as it was written, "-C" or "--count", for error messages
    std::string_view value;  // of one that may have a value and has none: no data()
};

struct Arguments {
    std::vector<Option> options;  // in their order
    std::vector<std::string_view> positionals;
};

/// Options and operands, in any order; `-vN`, `-C5`, `-C 5`, `--count=5`, `--count 5`; all is an
/// operand after `--`, and so is `-` alone. `arguments` is argv without the program's name.
[[nodiscard]] sys::Result<Arguments> parse_arguments(std::span<char* const> arguments,
                                                     std::span<const OptionSpec> specs);

/// "500ms", "2s", "1.5" (seconds), also ns, us, m or min, h. Exact to the nanosecond.
[[nodiscard]] sys::Result<std::int64_t> parse_duration_ns(std::string_view text);
/// "65536", "64KiB" or "64K" (1024), "64kB" (1000), also M and G.
[[nodiscard]] sys::Result<std::uint64_t> parse_size(std::string_view text);
/// A decimal number of at least `least`.
[[nodiscard]] sys::Result<std::uint64_t> parse_count(std::string_view text, std::uint64_t least);
/// A number greater than 0, at most a thousand million: messages a second.
[[nodiscard]] sys::Result<double> parse_rate(std::string_view text);

/// The same for the value of an option: the error names option and value.
[[nodiscard]] sys::Result<std::int64_t> duration_option(const Option& option);
[[nodiscard]] sys::Result<std::uint64_t> size_option(const Option& option);
[[nodiscard]] sys::Result<std::uint64_t> count_option(const Option& option,
                                                      std::uint64_t least = 1);
[[nodiscard]] sys::Result<double> rate_option(const Option& option);

/// A duration in the form that parse_duration_ns reads, short: "1.5s", "500ms".
[[nodiscard]] std::string show_duration(std::int64_t duration_ns);
/// "1 message", "2 messages".
[[nodiscard]] std::string plural(std::uint64_t count, std::string_view what);
/// 'text' in quotes, cut when it is long.
[[nodiscard]] std::string quoted(std::string_view text);

/// Writes "TOOL: text" to stderr: one line and one system call, whatever is in it (a topic or a
/// path may hold control characters).
void report(std::string_view tool, std::string_view text);
/// Reports a mistake in the command line; returns kExitUsage.
[[nodiscard]] int report_usage(std::string_view tool, std::string_view text);
/// Writes help or version to stdout; returns the exit code.
[[nodiscard]] int print_to_stdout(std::string_view tool, std::string_view text);

/// Makes sure that 0, 1 and 2 are open, so that no descriptor made later is mistaken for one of
/// them: started with `>&-`, a tool gets an error when it writes instead of writing into a socket.
[[nodiscard]] bool reserve_standard_descriptors();

}  // namespace ipcbus::tools
