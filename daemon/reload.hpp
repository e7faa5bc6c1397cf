// SPDX-License-Identifier: Apache-2.0
// Which configuration is in force: at the start, and again at SIGHUP, all or nothing. Decides only;
// the broker applies the outcome and logs it. Pure but for reading the file; the daemon's one
// thread.
#pragma once

#include "config.hpp"
#include "options.hpp"
#include "surroundings.hpp"

#include <optional>
#include <string>
#include <vector>

namespace ipcbus::daemon {

/// The file of the command line (or the defaults) with the command line's own settings on top.
[[nodiscard]] LoadedConfig load_config(const Options& options, const Surroundings& surroundings);

struct ReloadOutcome {
    /// Set if everything is good, also when nothing changed. Else the old one stays, whole.
    std::optional<Config> config;
    std::vector<Change> changes;
    std::vector<std::string> errors;

    /// One line for STATUS=: "reloaded, 2 changes", "reload refused: FILE:3:1: ...".
    [[nodiscard]] std::string summary() const;
};

/// A changed restart key refuses the whole reload; the error names its old and its new value.
[[nodiscard]] ReloadOutcome reload(const Options& options, const Config& current,
                                   const Surroundings& surroundings);

/// One line for the log: "limits.clients: 4096 -> 100 (live)".
[[nodiscard]] std::string describe(const Change& change);

}  // namespace ipcbus::daemon
