// SPDX-License-Identifier: Apache-2.0
// Owners of OpenSSL's objects. Types only; included where OpenSSL's headers are, never by headers.
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>

namespace ipcbus::sys {

template <auto kFree>
struct FreeBy {
    template <class T>
    void operator()(T* object) const {
        kFree(object);
    }
};
using BioPtr = std::unique_ptr<BIO, FreeBy<BIO_free>>;
using X509Ptr = std::unique_ptr<X509, FreeBy<X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, FreeBy<EVP_PKEY_free>>;

}  // namespace ipcbus::sys
