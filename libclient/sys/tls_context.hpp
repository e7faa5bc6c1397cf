// SPDX-License-Identifier: Apache-2.0
// TlsContext: what one end of TLS connections shows and believes: certificate, key, authorities.
// Made from the text of files, by the daemon for its listeners and by the library for a connection;
// never changed after that, and shared by the connections that began with it: who reads the files
// again makes another. TLS 1.3 and nothing else; no session tickets, no resumption, no early data,
// so that what a connection was let in with is what it has shown itself.
#pragma once

#include "sys/result.hpp"
#include "sys/small_file.hpp"

#include <cstdint>
#include <memory>
#include <string>

struct ssl_ctx_st;

namespace ipcbus::sys {

/// Whether a server asks for certificates of clients; with `required` nobody comes in without.
enum class ClientCertificates { none, optional, required };

/// A file that has been read. `name` begins errors about it: "tcp.key: /etc/ipcbus/key.pem".
struct TlsFile {
    std::string name;
    std::string text;
    [[nodiscard]] bool given() const { return !name.empty(); }
};

/// Of a PEM file, at most.
inline constexpr std::size_t kTlsFileBytesMax = std::size_t{1} << 20;

/// `what` it is read for. An empty path: no file, not given. Errors: as read_small_file() has them.
[[nodiscard]] Result<TlsFile> read_tls_file(const std::string& what, const std::string& path,
                                            Secrecy secrecy);

class TlsContext {
public:
    /// `certificate`: PEM, the server's own first, then what leads to its authority. `key`: PEM,
    /// without a passphrase; wiped. `client_ca`: the authorities of clients, if these are asked.
    [[nodiscard]] static Result<std::shared_ptr<const TlsContext>>
    server(const TlsFile& certificate, TlsFile key, const TlsFile& client_ca,
           ClientCertificates clients);
    /// `ca`: the authorities that a server may be certified by; not given: the system's.
    /// `certificate` and `key`: both or none.
    [[nodiscard]] static Result<std::shared_ptr<const TlsContext>>
    client(const TlsFile& ca, const TlsFile& certificate, TlsFile key);

    TlsContext(const TlsContext&) = delete;
    TlsContext& operator=(const TlsContext&) = delete;

    [[nodiscard]] ssl_ctx_st* get() const { return context_.get(); }
    [[nodiscard]] bool is_server() const { return server_; }
    /// The own certificate, for people: "CN=bus (until 2027-01-31 00:00:00 UTC, SHA-256 0123abcd)".
    [[nodiscard]] const std::string& certificate() const { return certificate_; }
    /// The authorities believed: "2 authorities (SHA-256 0123abcd)".
    [[nodiscard]] const std::string& authorities() const { return authorities_; }
    /// Of the own certificate, seconds since 1970; 0: there is none.
    [[nodiscard]] std::int64_t expires_s() const { return expires_s_; }

private:
    struct Free {
        void operator()(ssl_ctx_st* context) const;
    };
    TlsContext() = default;
    [[nodiscard]] static Result<std::shared_ptr<TlsContext>> make(bool server);
    Result<void> show(const TlsFile& certificate, TlsFile key);
    Result<void> believe(const TlsFile& ca);

    std::unique_ptr<ssl_ctx_st, Free> context_;
    bool server_ = false;
    std::string certificate_;
    std::string authorities_;
    std::int64_t expires_s_ = 0;
};

}  // namespace ipcbus::sys
