// SPDX-License-Identifier: Apache-2.0
// Certificate, key and authorities of the configuration. See tls_files.hpp.
#include "tls_files.hpp"

#include <array>

namespace ipcbus::daemon {

namespace {

using sys::ClientCertificates;
using sys::Secrecy;
using sys::TlsFile;

constexpr std::array kModes = {ClientCertificates::none, ClientCertificates::optional,
                               ClientCertificates::required};

}  // namespace

sys::Result<std::shared_ptr<const sys::TlsContext>> load_tls(const TcpConfig& config) {
    const bool asked = config.client_certificates != ClientCertificates::none;
    if (config.certificate.empty() != config.key.empty()) {
        return config.key.empty()
                   ? sys::fail(EINVAL, "tcp.certificate: the key to it is missing: tcp.key")
                   : sys::fail(EINVAL, "tcp.key: its certificate is missing: tcp.certificate");
    }
    if (config.certificate.empty() && asked) {
        return sys::fail(EINVAL,
                         "tcp.client_certificates: clients show theirs over TLS, for which "
                         "tcp.certificate and tcp.key are missing");
    }
    if (asked && config.client_ca.empty()) {
        return sys::fail(EINVAL,
                         "tcp.client_certificates: the authorities that they are from are "
                         "missing: tcp.client_ca");
    }
    if (!asked && !config.client_ca.empty()) {
        return sys::fail(EINVAL,
                         "tcp.client_ca: nobody is asked for a certificate: say "
                         "client_certificates = \"required\" or \"optional\"");
    }
    if (config.certificate.empty()) {
        return std::shared_ptr<const sys::TlsContext>();
    }
    const TlsFile certificate =
        IPCBUS_TRY(sys::read_tls_file("tcp.certificate", config.certificate, Secrecy::open));
    TlsFile key = IPCBUS_TRY(sys::read_tls_file("tcp.key", config.key, Secrecy::secret));
    const TlsFile client_ca =
        IPCBUS_TRY(sys::read_tls_file("tcp.client_ca", config.client_ca, Secrecy::open));
    return sys::TlsContext::server(certificate, std::move(key), client_ca,
                                   config.client_certificates);
}

std::vector<Change> diff_tls(const TcpConfig& old_config, const TcpConfig& new_config) {
    std::vector<Change> changes;
    const auto compare = [&](const char* key, const std::string& before, const std::string& after) {
        if (before != after) {
            changes.push_back(Change{key, before, after, Tag::live});
        }
    };
    const auto quoted = [](std::string_view text) { return '"' + std::string(text) + '"'; };
    compare("tcp.certificate", quoted(old_config.certificate), quoted(new_config.certificate));
    compare("tcp.key", quoted(old_config.key), quoted(new_config.key));
    compare("tcp.client_ca", quoted(old_config.client_ca), quoted(new_config.client_ca));
    compare("tcp.client_certificates",
            quoted(client_certificates_name(old_config.client_certificates)),
            quoted(client_certificates_name(new_config.client_certificates)));
    if (old_config.tls && new_config.tls) {
        compare("certificate in tcp.certificate", old_config.tls->certificate(),
                new_config.tls->certificate());
        compare("authorities in tcp.client_ca", old_config.tls->authorities(),
                new_config.tls->authorities());
    }
    return changes;
}

std::optional<ClientCertificates> parse_client_certificates(std::string_view text) {
    for (const ClientCertificates mode : kModes) {
        if (text == client_certificates_name(mode)) {
            return mode;
        }
    }
    return std::nullopt;
}

std::string_view client_certificates_name(ClientCertificates mode) {
    switch (mode) {
    case ClientCertificates::none:
        return "none";
    case ClientCertificates::optional:
        return "optional";
    case ClientCertificates::required:
        break;
    }
    return "required";
}

}  // namespace ipcbus::daemon
