// SPDX-License-Identifier: Apache-2.0
// What a client shows to the daemon of another host over TLS, and whom it believes: files that its
// options or the environment name. Read anew for each connection, so that what is renewed is used.
// Free functions, any thread.
#pragma once

#include "sys/tls_context.hpp"

#include <memory>
#include <string>

namespace ipcbus::client {

/// Each empty: as the environment says, IPCBUS_CA_FILE, IPCBUS_CERTIFICATE_FILE, IPCBUS_KEY_FILE,
/// IPCBUS_SERVER_NAME; if that says nothing: the authorities of the system, no certificate, the
/// host of the address.
struct TlsOptions {
    std::string ca_file;
    std::string certificate_file;
    std::string key_file;
    std::string server_name;
    bool operator==(const TlsOptions&) const = default;
};

/// With what the environment says. It does not count in a set-user-ID program.
[[nodiscard]] TlsOptions with_environment(TlsOptions options);

/// Errors name the file, and the option or variable that names it.
[[nodiscard]] sys::Result<std::shared_ptr<const sys::TlsContext>> load_credentials(
    const TlsOptions& options);

}  // namespace ipcbus::client
