// SPDX-License-Identifier: Apache-2.0
// All or nothing: a configuration is in force whole, or the old one stays whole. See reload.hpp.
#include "reload.hpp"

#include <fmt/format.h>

namespace ipcbus::daemon {

namespace {

const char* tag_name(Tag tag) {
    switch (tag) {
    case Tag::live:
        return "live";
    case Tag::new_objects:
        return "new objects only";
    case Tag::restart:
        break;
    }
    return "restart";
}

}  // namespace

LoadedConfig load_config(const Options& options, const Surroundings& surroundings) {
    LoadedConfig loaded;
    if (options.config_path.empty()) {
        loaded.config = default_config(surroundings);
    } else {
        loaded = load_config(options.config_path, surroundings);
    }
    if (loaded.config && !options.listen.empty()) {
        loaded.config->listen.sockets = options.listen;
    }
    if (loaded.config && !(options.listen_tcp.empty() && options.listen_tls.empty())) {
        TcpConfig& tcp = loaded.config->tcp;
        tcp.listen = options.listen_tcp.empty() ? tcp.listen : options.listen_tcp;
        tcp.listen_tls = options.listen_tls.empty() ? tcp.listen_tls : options.listen_tls;
        if (auto exposed = check_exposure(tcp); !exposed.ok()) {
            loaded.errors.push_back("--listen: " + exposed.error().what);
            loaded.config.reset();
        }
    }
    return loaded;
}

ReloadOutcome reload(const Options& options, const Config& current,
                     const Surroundings& surroundings) {
    ReloadOutcome outcome;
    LoadedConfig loaded = load_config(options, surroundings);
    if (!loaded.config) {
        outcome.errors = std::move(loaded.errors);
        return outcome;
    }
    outcome.changes = diff(current, *loaded.config);
    const std::string file =
        options.config_path.empty() ? "built-in defaults" : options.config_path;
    for (const Change& change : outcome.changes) {
        if (change.tag == Tag::restart) {
            outcome.errors.push_back(fmt::format(
                "{}: {} is {} and would become {}: that needs a restart, nothing was changed", file,
                change.key, change.old_value, change.new_value));
        }
    }
    if (outcome.errors.empty()) {
        outcome.config = std::move(loaded.config);
    } else {
        outcome.changes.clear();
    }
    return outcome;
}

std::string ReloadOutcome::summary() const {
    if (!config) {
        const std::size_t others = errors.size() - 1;
        return fmt::format("reload refused, the old configuration stays: {}{}", errors.front(),
                           others == 0 ? std::string() : fmt::format(" (and {} more)", others));
    }
    return changes.empty() ? "reloaded, nothing changed"
                           : fmt::format("reloaded, {} change{}", changes.size(),
                                         changes.size() == 1 ? "" : "s");
}

std::string describe(const Change& change) {
    return fmt::format("{}: {} -> {} ({})", change.key, change.old_value, change.new_value,
                       tag_name(change.tag));
}

}  // namespace ipcbus::daemon
