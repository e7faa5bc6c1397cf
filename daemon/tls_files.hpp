// SPDX-License-Identifier: Apache-2.0
// The files of [tcp] that make TLS: read when the configuration is, at the start and at each
// reload, so that what is wrong with one of them is wrong with the configuration. Pure but for
// reading them; the daemon's one thread.
#pragma once

#include "config.hpp"

#include <string_view>

namespace ipcbus::daemon {

/// What a listener of tcp.listen_tls shows and believes; null: no certificate is configured. An
/// error begins with the name of the key it is about: "tcp.key: ...".
[[nodiscard]] sys::Result<std::shared_ptr<const sys::TlsContext>> load_tls(const TcpConfig& config);

/// What differs, contents of files included.
[[nodiscard]] std::vector<Change> diff_tls(const TcpConfig& old_config,
                                           const TcpConfig& new_config);

[[nodiscard]] std::optional<sys::ClientCertificates> parse_client_certificates(
    std::string_view text);
[[nodiscard]] std::string_view client_certificates_name(sys::ClientCertificates mode);

}  // namespace ipcbus::daemon
