// SPDX-License-Identifier: Apache-2.0
// Reading what a client shows and believes. See credentials.hpp.
#include "credentials.hpp"

#include <cstdlib>

namespace ipcbus::client {

namespace {

void fill(std::string& option, const char* variable) {
    const char* const value = option.empty() ? ::secure_getenv(variable) : nullptr;
    if (value != nullptr) {
        option = value;
    }
}

}  // namespace

TlsOptions with_environment(TlsOptions options) {
    fill(options.ca_file, "IPCBUS_CA_FILE");
    // A pair: that of the options or that of the environment.
    if (options.certificate_file.empty() && options.key_file.empty()) {
        fill(options.certificate_file, "IPCBUS_CERTIFICATE_FILE");
        fill(options.key_file, "IPCBUS_KEY_FILE");
    }
    fill(options.server_name, "IPCBUS_SERVER_NAME");
    return options;
}

sys::Result<std::shared_ptr<const sys::TlsContext>> load_credentials(const TlsOptions& options) {
    if (options.certificate_file.empty() != options.key_file.empty()) {
        return sys::fail(EINVAL, options.key_file.empty()
                                     ? "a certificate needs its key: --key-file, IPCBUS_KEY_FILE"
                                     : "a key needs its certificate: --certificate-file, "
                                       "IPCBUS_CERTIFICATE_FILE");
    }
    const sys::TlsFile ca =
        IPCBUS_TRY(sys::read_tls_file("CA file", options.ca_file, sys::Secrecy::open));
    const sys::TlsFile certificate = IPCBUS_TRY(
        sys::read_tls_file("certificate file", options.certificate_file, sys::Secrecy::open));
    sys::TlsFile key =
        IPCBUS_TRY(sys::read_tls_file("key file", options.key_file, sys::Secrecy::secret));
    return sys::TlsContext::client(ca, certificate, std::move(key));
}

}  // namespace ipcbus::client
