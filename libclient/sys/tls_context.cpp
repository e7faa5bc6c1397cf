// SPDX-License-Identifier: Apache-2.0
// Certificates, keys and authorities, from PEM to a context of OpenSSL. See tls_context.hpp.
#include "sys/tls_context.hpp"

#include "sys/openssl_ptr.hpp"
#include "sys/tls_text.hpp"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <array>
#include <cstdio>
#include <vector>

namespace ipcbus::sys {

namespace {

/// Certificates of one side, all in all.
constexpr long kChainBytesMax = 32 * 1024;

/// Ours never asks anybody for a passphrase: it would be the terminal.
int no_passphrase(char*, int, int, void* ret_asked) {
    *static_cast<bool*>(ret_asked) = true;
    return -1;
}

BioPtr reading(const std::string& text) {
    return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Error out_of_memory() { return fail(ENOMEM, "TLS: out of memory"); }

/// The first bytes of what `openssl x509 -fingerprint -sha256` shows.
std::string fingerprint(const X509* certificate) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned bytes = 0;
    (void)X509_digest(certificate, EVP_sha256(), digest.data(), &bytes);
    std::string hex;
    for (std::size_t i = 0; i < 8; i++) {
        char two[3];
        (void)std::snprintf(two, sizeof two, "%02x", unsigned{digest[i]});
        hex += two;
    }
    return hex;
}

/// All certificates of a PEM file; other things in it are passed over, what is broken is an error.
Result<std::vector<X509Ptr>> certificates(const TlsFile& file) {
    std::vector<X509Ptr> all;
    const BioPtr bio = reading(file.text);
    if (!bio) {
        return out_of_memory();
    }
    for (;;) {
        bool asked = false;
        X509Ptr one(PEM_read_bio_X509(bio.get(), nullptr, no_passphrase, &asked));
        if (one) {
            all.push_back(std::move(one));
            continue;
        }
        const unsigned long code = ERR_peek_last_error();
        ERR_clear_error();
        if (ERR_GET_LIB(code) != ERR_LIB_PEM || ERR_GET_REASON(code) != PEM_R_NO_START_LINE) {
            return fail(EINVAL, file.name + ": a certificate in it is broken");
        }
        break;
    }
    if (all.empty()) {
        return fail(EINVAL, file.name + ": there is no certificate in it (PEM is wanted)");
    }
    return all;
}

Result<KeyPtr> private_key(const TlsFile& file) {
    const BioPtr bio = reading(file.text);
    if (!bio) {
        return out_of_memory();
    }
    bool asked = false;
    KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, &asked));
    ERR_clear_error();
    if (key) {
        return key;
    }
    return fail(EINVAL,
                file.name + (asked ? ": the key has a passphrase, which nobody is there to give"
                                   : ": there is no private key in it (PEM is wanted)"));
}

}  // namespace

Result<TlsFile> read_tls_file(const std::string& what, const std::string& path, Secrecy secrecy) {
    TlsFile file;
    if (!path.empty()) {
        file.name = what + ": " + path;
        file.text = IPCBUS_TRY(read_small_file(path, file.name, kTlsFileBytesMax, secrecy));
    }
    return file;
}

void TlsContext::Free::operator()(ssl_ctx_st* context) const { SSL_CTX_free(context); }

Result<std::shared_ptr<TlsContext>> TlsContext::make(bool server) {
    // A thread of the library may still be at work when the program ends: nothing is taken apart
    // under it, unless the program has initialized OpenSSL itself, before us and otherwise.
    if (OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, nullptr) != 1) {
        return fail(EINVAL, "TLS: OpenSSL cannot be initialized: look at its openssl.cnf");
    }
    ERR_clear_error();
    std::shared_ptr<TlsContext> made(new TlsContext);
    made->server_ = server;
    made->context_.reset(SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()));
    SSL_CTX* const context = made->context_.get();
    if (context == nullptr) {
        return out_of_memory();
    }
    if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
        (server && SSL_CTX_set_num_tickets(context, 0) != 1)) {
        return fail(EPROTONOSUPPORT, "TLS: OpenSSL offers no TLS 1.3: look at its openssl.cnf");
    }
    (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    (void)SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    (void)SSL_CTX_set_max_cert_list(context, kChainBytesMax);
    return made;
}

/// The own certificate, what leads to its authority, and the key to it.
Result<void> TlsContext::show(const TlsFile& certificate, TlsFile key) {
    auto loaded = private_key(key);
    OPENSSL_cleanse(key.text.data(), key.text.size());
    const std::vector<X509Ptr> chain = IPCBUS_TRY(certificates(certificate));
    const KeyPtr secret = IPCBUS_TRY(std::move(loaded));
    X509* const own = chain.front().get();
    if (SSL_CTX_use_certificate(context_.get(), own) != 1) {
        return fail(EINVAL, certificate.name + ": cannot be used: " + last_tls_reason());
    }
    if (X509_check_private_key(own, secret.get()) != 1) {
        ERR_clear_error();
        return fail(EINVAL,
                    key.name + ": it is not the key of the certificate (" + certificate.name + ")");
    }
    if (SSL_CTX_use_PrivateKey(context_.get(), secret.get()) != 1) {
        return fail(EINVAL, key.name + ": cannot be used: " + last_tls_reason());
    }
    for (std::size_t i = 1; i < chain.size(); i++) {
        if (SSL_CTX_add1_chain_cert(context_.get(), chain[i].get()) != 1) {
            return fail(EINVAL, certificate.name + ": cannot be used: " + last_tls_reason());
        }
    }
    expires_s_ = tls_time_s(X509_get0_notAfter(own));
    certificate_ = tls_subject(own) + " (until " + tls_date(X509_get0_notAfter(own)) +
                   ", SHA-256 " + fingerprint(own) + ")";
    return {};
}

Result<void> TlsContext::believe(const TlsFile& ca) {
    const std::vector<X509Ptr> all = IPCBUS_TRY(certificates(ca));
    X509_STORE* const store = SSL_CTX_get_cert_store(context_.get());
    for (const X509Ptr& one : all) {
        if (X509_STORE_add_cert(store, one.get()) != 1 ||
            (server_ && SSL_CTX_add_client_CA(context_.get(), one.get()) != 1)) {
            return fail(EINVAL, ca.name + ": cannot be used: " + last_tls_reason());
        }
    }
    authorities_ = std::to_string(all.size()) + (all.size() == 1 ? " authority" : " authorities") +
                   " (the first: SHA-256 " + fingerprint(all.front().get()) + ")";
    return {};
}

Result<std::shared_ptr<const TlsContext>> TlsContext::server(const TlsFile& certificate,
                                                             TlsFile key, const TlsFile& client_ca,
                                                             ClientCertificates clients) {
    std::shared_ptr<TlsContext> made = IPCBUS_TRY(make(true));
    IPCBUS_TRY(made->show(certificate, std::move(key)));
    if (clients == ClientCertificates::none) {
        SSL_CTX_set_verify(made->get(), SSL_VERIFY_NONE, nullptr);
        return std::shared_ptr<const TlsContext>(std::move(made));
    }
    IPCBUS_TRY(made->believe(client_ca));
    SSL_CTX_set_verify(made->get(),
                       clients == ClientCertificates::required
                           ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
                           : SSL_VERIFY_PEER,
                       nullptr);
    return std::shared_ptr<const TlsContext>(std::move(made));
}

Result<std::shared_ptr<const TlsContext>>
TlsContext::client(const TlsFile& ca, const TlsFile& certificate, TlsFile key) {
    std::shared_ptr<TlsContext> made = IPCBUS_TRY(make(false));
    SSL_CTX_set_verify(made->get(), SSL_VERIFY_PEER, nullptr);
    if (ca.given()) {
        IPCBUS_TRY(made->believe(ca));
    } else if (SSL_CTX_set_default_verify_paths(made->get()) != 1) {
        return fail(EINVAL,
                    "TLS: the authorities of the system cannot be read: " + last_tls_reason());
    }
    if (certificate.given()) {
        IPCBUS_TRY(made->show(certificate, std::move(key)));
    }
    return std::shared_ptr<const TlsContext>(std::move(made));
}

}  // namespace ipcbus::sys
