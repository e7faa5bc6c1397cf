// SPDX-License-Identifier: Apache-2.0
// One end of a TLS connection, over memory. See tls_stream.hpp.
#include "sys/tls_stream.hpp"

#include "sys/openssl_ptr.hpp"
#include "sys/tls_text.hpp"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <new>

namespace ipcbus::sys {

namespace {

constexpr std::size_t kRecordBytesMax = 16384;
/// What TLS adds to a record of that size, and then some.
constexpr std::size_t kRecordOverhead = 64;
/// A record of the handshake, or an alert; TLS 1.x as it is written there.
constexpr std::byte kAlertRecord{21};
constexpr std::byte kHandshakeRecord{22};
constexpr std::byte kMajorVersion{3};
constexpr std::byte kMinorVersionMax{4};

/// Of a number, as certificates name hosts.
bool is_address(const std::string& host) {
    in6_addr any{};
    return ::inet_pton(AF_INET, host.c_str(), &any) == 1 ||
           ::inet_pton(AF_INET6, host.c_str(), &any) == 1;
}

}  // namespace

/// What OpenSSL calls to read and write: memory of the stream's, and nothing of its own.
struct TlsStream::Bio {
    static TlsStream& of(BIO* bio) { return *static_cast<TlsStream*>(BIO_get_data(bio)); }

    static int read(BIO* bio, char* bytes, std::size_t count, std::size_t* ret_count) {
        TlsStream& stream = of(bio);
        BIO_clear_retry_flags(bio);
        count = std::min(count, stream.in_.size());
        if (count == 0) {
            BIO_set_retry_read(bio);
            return 0;
        }
        if (!stream.ready_) {
            stream.handshake_bytes_ += count;
            if (stream.handshake_bytes_ > kHandshakeBytesMax) {
                stream.too_much_ = true;
                return 0;
            }
        }
        std::memcpy(bytes, stream.in_.data(), count);
        stream.in_ = stream.in_.subspan(count);
        *ret_count = count;
        return 1;
    }

    static int write(BIO* bio, const char* bytes, std::size_t count, std::size_t* ret_count) {
        TlsStream& stream = of(bio);
        BIO_clear_retry_flags(bio);
        try {  // there is C between here and whoever could catch it
            const auto* const begin = reinterpret_cast<const std::byte*>(bytes);
            stream.out_.insert(stream.out_.end(), begin, begin + count);
        } catch (const std::bad_alloc&) {
            stream.out_of_memory_ = true;
            return 0;
        }
        *ret_count = count;
        return 1;
    }

    static long control(BIO*, int command, long, void*) {
        return command == BIO_CTRL_FLUSH ? 1 : 0;
    }

    static const BIO_METHOD* method() {
        static const BIO_METHOD* const made = [] {
            BIO_METHOD* const method =
                BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "ipcbus");
            if (method != nullptr) {
                (void)BIO_meth_set_read_ex(method, read);
                (void)BIO_meth_set_write_ex(method, write);
                (void)BIO_meth_set_ctrl(method, control);
            }
            return method;
        }();
        return made;
    }

    /// OpenSSL has judged a certificate of the other side's chain: says why, if it is not good.
    static int judged(int good, X509_STORE_CTX* store) {
        auto* const ssl = static_cast<SSL*>(
            X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
        TlsStream& stream = *static_cast<TlsStream*>(SSL_get_app_data(ssl));
        if (good == 0 && !stream.error_) {
            try {
                stream.error_ =
                    tls_disbelief(!stream.context_->is_server(), X509_STORE_CTX_get_error(store),
                                  X509_STORE_CTX_get_current_cert(store), stream.server_);
            } catch (const std::bad_alloc&) {
                stream.out_of_memory_ = true;
            }
        }
        return good;
    }
};

void TlsStream::Free::operator()(ssl_st* ssl) const { SSL_free(ssl); }

TlsStream::TlsStream(std::shared_ptr<const TlsContext> context, std::string server)
    : context_(std::move(context)), server_(std::move(server)) {}

TlsStream::~TlsStream() = default;

Result<void> TlsStream::begin() {
    ERR_clear_error();
    ssl_.reset(SSL_new(context_->get()));
    BIO* const bio = Bio::method() == nullptr || !ssl_ ? nullptr : BIO_new(Bio::method());
    if (bio == nullptr) {
        return fail(ENOMEM, "TLS: out of memory");
    }
    BIO_set_data(bio, this);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl_.get(), bio, bio);
    (void)SSL_set_app_data(ssl_.get(), this);
    SSL_set_verify(ssl_.get(), SSL_CTX_get_verify_mode(context_->get()), Bio::judged);
    return {};
}

Result<std::unique_ptr<TlsStream>> TlsStream::accept(std::shared_ptr<const TlsContext> context) {
    IPCBUS_ASSERT(context->is_server());
    std::unique_ptr<TlsStream> made(new TlsStream(std::move(context), {}));
    IPCBUS_TRY(made->begin());
    SSL_set_accept_state(made->ssl_.get());
    return made;
}

Result<std::unique_ptr<TlsStream>> TlsStream::connect(std::shared_ptr<const TlsContext> context,
                                                      const std::string& server) {
    IPCBUS_ASSERT(!context->is_server());
    if (server.empty() || server.find('\0') != std::string::npos) {
        return fail(EINVAL, "TLS: without the name of the server its certificate says nothing");
    }
    if (server.front() == '.') {  // which OpenSSL takes for every name below it
        return fail(EINVAL, "TLS: not the name of a server: \"" + server + "\"");
    }
    std::unique_ptr<TlsStream> made(new TlsStream(std::move(context), server));
    IPCBUS_TRY(made->begin());
    SSL* const ssl = made->ssl_.get();
    SSL_set_connect_state(ssl);
    // The names of the certificate, not its subject's CN; a wildcard is a whole label.
    SSL_set_hostflags(ssl,
                      X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    const bool address = is_address(server);
    const int set = address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), server.c_str())
                            : SSL_set1_host(ssl, server.c_str());
    if (set != 1 || (!address && SSL_set_tlsext_host_name(ssl, server.c_str()) != 1)) {
        return fail(EINVAL, "TLS: not the name of a server: \"" + server + "\"");
    }
    IPCBUS_TRY(made->shake());
    return made;
}

/// What an operation of OpenSSL that is not to be tried again has met with.
Error TlsStream::broken(int result) {
    const unsigned long code = ERR_peek_error();
    const int reason = ERR_GET_REASON(code);
    const bool of_tls = result == SSL_ERROR_SSL && ERR_GET_LIB(code) == ERR_LIB_SSL;
    ERR_clear_error();
    const std::string other = context_->is_server() ? "the client" : "the server";
    if (result == SSL_ERROR_WANT_READ && !too_much_) {
        // While we have something to send: it has begun a message of the handshake's, and no more.
        error_ = fail(EPROTO, other + " breaks TLS: a message that changes its keys, in pieces");
    } else if (out_of_memory_ || reason == ERR_R_MALLOC_FAILURE) {
        error_ = fail(ENOMEM, "TLS: out of memory");
    } else if (too_much_) {
        error_ = fail(EPROTO, "a TLS handshake of more than " +
                                  std::to_string(kHandshakeBytesMax / 1024) + " KiB");
    } else if (error_) {
        // why a certificate is not believed, and all the rest follows from that
    } else if (of_tls && reason > SSL_AD_REASON_OFFSET) {
        error_ = tls_alert(context_->is_server(), reason - SSL_AD_REASON_OFFSET);
    } else if (of_tls && reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        error_ = fail(EACCES,
                      "the client has shown no certificate, which "
                      "tcp.client_certificates requires");
    } else if (of_tls &&
               (reason == SSL_R_UNSUPPORTED_PROTOCOL || reason == SSL_R_WRONG_VERSION_NUMBER)) {
        error_ = fail(EPROTO, other + " speaks no TLS 1.3");
    } else {
        const char* const text = ERR_reason_error_string(code);
        error_ = fail(EPROTO, other + " breaks TLS: " + (text == nullptr ? "no reason" : text));
    }
    return *error_;
}

Result<void> TlsStream::check_first(std::span<const std::byte> bytes) {
    // A handshake's first bytes, as they come: the type of a record and a version.
    for (const std::byte byte : bytes) {
        const bool good = first_bytes_ == 0 ? byte == kHandshakeRecord ||
                                                  (byte == kAlertRecord && !context_->is_server())
                          : first_bytes_ == 1 ? byte == kMajorVersion
                                              : byte <= kMinorVersionMax;
        if (!good) {
            plainly_ = true;
            error_ =
                fail(EPROTO, context_->is_server()
                                 ? "this port speaks TLS, and what came is plain text: the address "
                                   "is tls:HOST:PORT"
                                 : "what answers there does not speak TLS: if it is an ipcbusd, "
                                   "this is its port for plain text, tcp:HOST:PORT");
            return *error_;
        }
        if (++first_bytes_ == 3) {
            break;
        }
    }
    return {};
}

Result<void> TlsStream::shake() {
    ERR_clear_error();
    const int result = SSL_do_handshake(ssl_.get());
    if (result != 1) {
        const int why = SSL_get_error(ssl_.get(), result);
        return why == SSL_ERROR_WANT_READ && !too_much_ ? Result<void>() : broken(why);
    }
    IPCBUS_TRY(know_peer());
    ready_ = true;
    return {};
}

/// Nothing is believed because a callback was not called.
Result<void> TlsStream::know_peer() {
    const X509Ptr shown(SSL_get1_peer_certificate(ssl_.get()));
    if (!shown && context_->is_server()) {
        return {};
    }
    const long verified = SSL_get_verify_result(ssl_.get());
    if (!shown || verified != X509_V_OK) {
        error_ =
            tls_disbelief(!context_->is_server(), static_cast<int>(verified), shown.get(), server_);
        return *error_;
    }
    peer_ = tls_subject(shown.get());
    if (context_->is_server() && (peer_.empty() || peer_.size() > kTlsSubjectBytesMax)) {
        error_ =
            fail(EACCES, peer_.empty() ? "the client's certificate has no subject: nobody could "
                                         "tell whose it is"
                                       : "the subject of the client's certificate has more than " +
                                             std::to_string(kTlsSubjectBytesMax) + " bytes");
        return *error_;
    }
    return {};
}

Result<void> TlsStream::feed(std::span<const std::byte> bytes, std::vector<std::byte>& plain) {
    if (error_) {
        return *error_;
    }
    if (first_bytes_ < 3) {
        IPCBUS_TRY(check_first(bytes));
    }
    in_ = bytes;
    if (!ready_) {
        IPCBUS_TRY(shake());
    }
    std::array<std::byte, kRecordBytesMax> record;
    while (ready_ && !ended_) {
        ERR_clear_error();
        std::size_t got = 0;
        const int result = SSL_read_ex(ssl_.get(), record.data(), record.size(), &got);
        if (result == 1) {
            plain.insert(plain.end(), record.begin(),
                         record.begin() + static_cast<std::ptrdiff_t>(got));
            continue;
        }
        const int why = SSL_get_error(ssl_.get(), result);
        if (why == SSL_ERROR_ZERO_RETURN) {
            ended_ = true;
        } else if (why != SSL_ERROR_WANT_READ) {
            return broken(why);
        } else {
            break;
        }
    }
    in_ = {};
    if (out_.size() > kUnsentBytesMax) {
        error_ = fail(EPROTO, "answers of TLS are asked for and not read");
        return *error_;
    }
    return {};
}

std::vector<std::byte> TlsStream::seal(std::span<const std::byte> plain) {
    IPCBUS_ASSERT(plain.empty() || error_ || (ready_ && !closed_));
    if (!plain.empty() && ready_ && !error_) {
        ERR_clear_error();
        out_.reserve(out_.size() + plain.size() +
                     (plain.size() / kRecordBytesMax + 1) * kRecordOverhead);
        std::size_t written = 0;
        const int result = SSL_write_ex(ssl_.get(), plain.data(), plain.size(), &written);
        if (result != 1) {
            (void)broken(SSL_get_error(ssl_.get(), result));  // see error()
        }
    }
    return std::exchange(out_, {});
}

void TlsStream::close() {
    if (ready_ && !error_ && !std::exchange(closed_, true)) {
        ERR_clear_error();
        (void)SSL_shutdown(ssl_.get());
        ERR_clear_error();
    }
}

bool may_be_tls(std::span<const std::byte> first_bytes) {
    return !first_bytes.empty() && first_bytes[0] == kHandshakeRecord &&
           (first_bytes.size() < 2 || first_bytes[1] == kMajorVersion) &&
           (first_bytes.size() < 3 || first_bytes[2] <= kMinorVersionMax);
}

}  // namespace ipcbus::sys
