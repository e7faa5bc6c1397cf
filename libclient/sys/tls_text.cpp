// SPDX-License-Identifier: Apache-2.0
// Words for what TLS does. See tls_text.hpp.
#include "sys/tls_text.hpp"

#include "sys/openssl_ptr.hpp"

#include <arpa/inet.h>
#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <time.h>

#include <algorithm>

namespace ipcbus::sys {

namespace {

/// Of the names of a certificate, as many bytes are quoted.
constexpr std::size_t kNamesBytesMax = 160;

std::string printable(const unsigned char* bytes, int count) {
    std::string text(reinterpret_cast<const char*>(bytes),
                     std::min(static_cast<std::size_t>(std::max(count, 0)), kNamesBytesMax));
    std::replace_if(text.begin(), text.end(), [](char c) { return c <= ' ' || c > '~'; }, '?');
    return text;
}

std::string name_text(const GENERAL_NAME& name) {
    if (name.type == GEN_DNS) {
        return "DNS:" +
               printable(ASN1_STRING_get0_data(name.d.dNSName), ASN1_STRING_length(name.d.dNSName));
    }
    if (name.type == GEN_IPADD) {
        const int bytes = ASN1_STRING_length(name.d.iPAddress);
        char text[INET6_ADDRSTRLEN];
        if ((bytes == 4 || bytes == 16) &&
            ::inet_ntop(bytes == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(name.d.iPAddress),
                        text, sizeof text) != nullptr) {
            return std::string("IP:") + text;
        }
    }
    return {};
}

bool tls_tm(const asn1_string_st* time, tm& ret_tm) {
    return time != nullptr && ASN1_TIME_to_tm(time, &ret_tm) == 1;
}

/// The subject as far as it is worth saying.
std::string short_subject(const x509_st* certificate) {
    std::string text = certificate == nullptr ? "" : tls_subject(certificate);
    text.resize(std::min(text.size(), kNamesBytesMax));
    return text;
}

}  // namespace

std::string tls_subject(const x509_st* certificate) {
    const BioPtr bio(BIO_new(BIO_s_mem()));
    if (!bio ||
        X509_NAME_print_ex(bio.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) < 0) {
        ERR_clear_error();
        return {};
    }
    char* bytes = nullptr;
    const long count = BIO_get_mem_data(bio.get(), &bytes);
    return {bytes,
            std::min(static_cast<std::size_t>(std::max(count, 0L)), kTlsSubjectBytesMax + 1)};
}

std::string tls_names(const x509_st* certificate) {
    std::string all;
    auto* const names = static_cast<GENERAL_NAMES*>(
        X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
    for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names); i++) {
        const std::string one = name_text(*sk_GENERAL_NAME_value(names, i));
        if (!one.empty() && all.size() + one.size() > kNamesBytesMax) {
            all += ", ...";
            break;
        }
        all += (all.empty() || one.empty() ? "" : ", ") + one;
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    return all.empty() ? "no name (subjectAltName)" : all;
}

std::string tls_date(const asn1_string_st* time) {
    tm parts{};
    char text[64];
    if (!tls_tm(time, parts) ||
        ::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts) == 0) {
        return "?";
    }
    return text;
}

std::int64_t tls_time_s(const asn1_string_st* time) {
    tm parts{};
    return tls_tm(time, parts) ? std::int64_t{::timegm(&parts)} : 0;
}

std::string last_tls_reason() {
    const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
    std::string text = reason == nullptr ? "for no reason that OpenSSL gives" : reason;
    ERR_clear_error();
    return text;
}

Error tls_disbelief(bool of_server, int code, const x509_st* certificate,
                    const std::string& wanted) {
    std::string what = of_server ? "the server's certificate" : "the client's certificate";
    if (const std::string subject = short_subject(certificate); !subject.empty()) {
        what += " (" + subject + ")";
    }
    switch (code) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        what += " has expired, on " + tls_date(X509_get0_notAfter(certificate)) +
                ": it must be renewed, or the clock here is wrong";
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        what += " is good from " + tls_date(X509_get0_notBefore(certificate)) +
                " on only: wait, or look at the clocks of both hosts";
        break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        what += " is not for '" + wanted + "' but for " + tls_names(certificate) +
                ": use one of its names in the address, or name it "
                "(--server-name, IPCBUS_SERVER_NAME)";
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        what += " is from an authority that is not known here: ";
        what += of_server ? "name the file of the right one (--ca-file, IPCBUS_CA_FILE)"
                          : "tcp.client_ca has those that are";
        break;
    case X509_V_ERR_INVALID_PURPOSE:
        what += of_server ? " is not for a server (extendedKeyUsage serverAuth)"
                          : " is not for a client (extendedKeyUsage clientAuth)";
        break;
    default:
        what += std::string(" is not believed: ") + X509_verify_cert_error_string(code);
    }
    return fail(EACCES, std::move(what));
}

Error tls_alert(bool we_are_server, int alert) {
    const std::string other = we_are_server ? "the client" : "the server";
    const std::string where =
        we_are_server ? ""
                      : " (--certificate-file and --key-file, IPCBUS_CERTIFICATE_FILE and "
                        "IPCBUS_KEY_FILE)";
    const std::string doubts = other + " does not believe our certificate";
    switch (alert) {
    case SSL_AD_CERTIFICATE_REQUIRED:
        return fail(EACCES, other + " wants a certificate, and none was shown" + where);
    case SSL_AD_CERTIFICATE_EXPIRED:
        return fail(EACCES, doubts + ": it has expired" + where);
    case SSL_AD_UNKNOWN_CA:
        return fail(EACCES, doubts + ": it does not know the authority that it is from" + where);
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_DECRYPT_ERROR:
        return fail(EACCES, doubts + ": " + SSL_alert_desc_string_long(alert) + where);
    case SSL_AD_PROTOCOL_VERSION:
        return fail(EPROTO, other + " speaks no TLS 1.3");
    case SSL_AD_INTERNAL_ERROR:
        return fail(EPROTO, other + " has refused the connection" +
                                (we_are_server ? "" : ": its log says why"));
    default:
        return fail(EPROTO,
                    other + " has ended the connection: " + SSL_alert_desc_string_long(alert));
    }
}

}  // namespace ipcbus::sys
