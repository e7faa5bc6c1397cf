// SPDX-License-Identifier: Apache-2.0
// Authority: makes certificates for tests, good ones and others: PEM text, keys of the curve P-256,
// made in microseconds. Owned by one test, one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

struct evp_pkey_st;
struct x509_st;

namespace ipcbus::test {

struct Wanted {
    std::string common_name = "localhost";  ///< of the subject; empty: a subject of nothing
    /// subjectAltName as openssl writes it; empty: none.
    std::string names = "DNS:localhost,IP:127.0.0.1";
    std::string purposes{};  ///< extendedKeyUsage: "serverAuth"; empty: none
    long begins_s = -3600;   ///< from now
    long ends_s = 3600;
    int units = 0;          ///< OUs of the subject, each of 64 bytes
    int padding_bytes = 0;  ///< makes it larger
};

struct Certificate {
    std::string certificate;
    std::string key;
};

class Authority {
public:
    explicit Authority(const std::string& common_name = "ipcbus test authority");
    ~Authority();
    Authority(const Authority&) = delete;
    Authority& operator=(const Authority&) = delete;

    [[nodiscard]] Certificate issue(const Wanted& wanted = {}) const;
    /// Its own certificate.
    [[nodiscard]] const std::string& pem() const { return pem_; }

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
    std::string pem_;
};

/// The key with a passphrase around it.
[[nodiscard]] std::string with_passphrase(const std::string& key);

}  // namespace ipcbus::test
