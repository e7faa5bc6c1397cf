// SPDX-License-Identifier: Apache-2.0
// Reading [[rule]] of the configuration: one list of tables into AccessRules. Part of the parser
// (config_parse.cpp). Asks the system's databases for the names of users and groups.
#pragma once

#include "access.hpp"

#include <toml++/toml.h>

#include <functional>
#include <string>

namespace ipcbus::daemon {

using Complain = std::function<void(const toml::node& at, std::string message)>;

/// `complain` is called for each mistake.
void read_access_rules(const toml::node& node, AccessRules& ret_rules, const Complain& complain);

}  // namespace ipcbus::daemon
