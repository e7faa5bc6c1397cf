// SPDX-License-Identifier: Apache-2.0
// Certificates made with OpenSSL. See certificates.hpp.
#include "certificates.hpp"

#include "sys/assert.hpp"

#include "sys/openssl_ptr.hpp"

#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

namespace ipcbus::test {

namespace {

using sys::BioPtr;
using sys::KeyPtr;
using sys::X509Ptr;

std::string text_of(BIO* bio) {
    char* bytes = nullptr;
    const long count = BIO_get_mem_data(bio, &bytes);
    return {bytes, static_cast<std::size_t>(count)};
}

std::string pem_of(X509* certificate) {
    const BioPtr bio(BIO_new(BIO_s_mem()));
    IPCBUS_ASSERT(PEM_write_bio_X509(bio.get(), certificate) == 1);
    return text_of(bio.get());
}

std::string pem_of(EVP_PKEY* key, const char* passphrase = nullptr) {
    const BioPtr bio(BIO_new(BIO_s_mem()));
    IPCBUS_ASSERT(PEM_write_bio_PKCS8PrivateKey(
                      bio.get(), key, passphrase == nullptr ? nullptr : EVP_aes_128_cbc(),
                      passphrase, passphrase == nullptr ? 0 : 6, nullptr, nullptr) == 1);
    return text_of(bio.get());
}

void extend(X509* certificate, X509* issuer, int nid, const std::string& value) {
    if (value.empty()) {
        return;
    }
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
    X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
    IPCBUS_ASSERT(extension != nullptr);
    IPCBUS_ASSERT(X509_add_ext(certificate, extension, -1) == 1);
    X509_EXTENSION_free(extension);
}

X509Ptr begin(EVP_PKEY* key, const Wanted& wanted) {
    X509Ptr made(X509_new());
    IPCBUS_ASSERT(made);
    unsigned char serial[8];
    IPCBUS_ASSERT(RAND_bytes(serial, sizeof serial) == 1);
    serial[0] = static_cast<unsigned char>(serial[0] & 0x7f);
    BIGNUM* const number = BN_bin2bn(serial, sizeof serial, nullptr);
    IPCBUS_ASSERT(BN_to_ASN1_INTEGER(number, X509_get_serialNumber(made.get())) != nullptr);
    BN_free(number);
    IPCBUS_ASSERT(X509_set_version(made.get(), X509_VERSION_3) == 1);
    X509_gmtime_adj(X509_getm_notBefore(made.get()), wanted.begins_s);
    X509_gmtime_adj(X509_getm_notAfter(made.get()), wanted.ends_s);
    IPCBUS_ASSERT(X509_set_pubkey(made.get(), key) == 1);
    if (!wanted.common_name.empty()) {
        IPCBUS_ASSERT(X509_NAME_add_entry_by_txt(
                          X509_get_subject_name(made.get()), "CN", MBSTRING_UTF8,
                          reinterpret_cast<const unsigned char*>(wanted.common_name.c_str()), -1,
                          -1, 0) == 1);
    }
    for (int i = 0; i < wanted.units; i++) {
        const std::string unit(64, static_cast<char>('a' + i % 26));
        IPCBUS_ASSERT(X509_NAME_add_entry_by_txt(
                          X509_get_subject_name(made.get()), "OU", MBSTRING_ASC,
                          reinterpret_cast<const unsigned char*>(unit.c_str()), -1, -1, 0) == 1);
    }
    return made;
}

}  // namespace

struct Authority::Parts {
    KeyPtr key{EVP_EC_gen("P-256")};
    X509Ptr certificate;
};

Authority::Authority(const std::string& common_name) : parts_(std::make_unique<Parts>()) {
    Wanted wanted;
    wanted.common_name = common_name;
    wanted.ends_s = 24 * 3600;
    wanted.begins_s = -24 * 3600;
    IPCBUS_ASSERT(parts_->key);
    parts_->certificate = begin(parts_->key.get(), wanted);
    X509* const own = parts_->certificate.get();
    IPCBUS_ASSERT(X509_set_issuer_name(own, X509_get_subject_name(own)) == 1);
    extend(own, own, NID_basic_constraints, "critical,CA:TRUE");
    extend(own, own, NID_subject_key_identifier, "hash");
    IPCBUS_ASSERT(X509_sign(own, parts_->key.get(), EVP_sha256()) != 0);
    pem_ = pem_of(own);
}

Authority::~Authority() = default;

Certificate Authority::issue(const Wanted& wanted) const {
    const KeyPtr key(EVP_EC_gen("P-256"));
    IPCBUS_ASSERT(key);
    const X509Ptr made = begin(key.get(), wanted);
    X509* const issuer = parts_->certificate.get();
    IPCBUS_ASSERT(X509_set_issuer_name(made.get(), X509_get_subject_name(issuer)) == 1);
    extend(made.get(), issuer, NID_subject_alt_name, wanted.names);
    extend(made.get(), issuer, NID_ext_key_usage, wanted.purposes);
    extend(made.get(), issuer, NID_authority_key_identifier, "keyid");
    if (wanted.padding_bytes != 0) {
        extend(made.get(), issuer, NID_netscape_comment,
               std::string(static_cast<std::size_t>(wanted.padding_bytes), 'x'));
    }
    IPCBUS_ASSERT(X509_sign(made.get(), parts_->key.get(), EVP_sha256()) != 0);
    return {pem_of(made.get()), pem_of(key.get())};
}

std::string with_passphrase(const std::string& key) {
    const BioPtr bio(BIO_new_mem_buf(key.data(), static_cast<int>(key.size())));
    const KeyPtr parsed(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
    IPCBUS_ASSERT(parsed);
    return pem_of(parsed.get(), "secret");
}

}  // namespace ipcbus::test
