// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbusd. Read once at start; the result stays as it is (a reload uses it
// again: --listen wins over the file). Plain values, no thread rules.
#pragma once

#include "sys/tcp.hpp"

#include <string>
#include <vector>

namespace ipcbus::daemon {

struct Options {
    /// Empty: built-in defaults.
    std::string config_path;
    /// As given with --listen, checked; not empty: replaces listen.sockets of the file.
    std::vector<std::string> listen;
    /// The same for tcp.listen.
    std::vector<sys::TcpEndpoint> listen_tcp = {};
    /// And for tcp.listen_tls.
    std::vector<sys::TcpEndpoint> listen_tls = {};
};

struct CommandLine {
    enum class Action { run, check_config, show_help, show_version, show_options, usage_error };
    Action action = Action::run;
    Options options;
    /// For usage_error: one line, without the program's name.
    std::string error;
};

[[nodiscard]] CommandLine parse_command_line(int argc, char* const* argv);
[[nodiscard]] std::string help_text();
/// For the completions of shells: "-c --config=", a line for each option; "=": it takes a value.
[[nodiscard]] std::string option_list();

}  // namespace ipcbus::daemon
