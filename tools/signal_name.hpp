// SPDX-License-Identifier: Apache-2.0
// Signals by name, as on the command line of kill(1): USR1, SIGUSR1, 10, RTMIN+3. Free functions;
// any thread.
#pragma once

#include "cli.hpp"
#include "sys/result.hpp"

#include <string>
#include <string_view>

namespace ipcbus::tools {

/// The number of a signal that may be sent or waited for. Upper and lower case are the same.
[[nodiscard]] sys::Result<int> parse_signal(std::string_view text);
/// The same for the value of an option: the error names it.
[[nodiscard]] sys::Result<int> signal_option(const Option& option);
/// "HUP", "RTMIN+3".
[[nodiscard]] std::string signal_name(int number);

}  // namespace ipcbus::tools
