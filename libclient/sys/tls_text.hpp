// SPDX-License-Identifier: Apache-2.0
// What TLS has to say to people: names and dates of certificates, and what went wrong with what to
// do about it. Private to sys/tls_*.cpp. What is quoted of a certificate is the other side's, and
// made harmless: printable, and bounded.
#pragma once

#include "sys/result.hpp"

#include <cstdint>
#include <string>

struct asn1_string_st;
struct x509_st;

namespace ipcbus::sys {

/// Of a subject, quoted or as an identity.
inline constexpr std::size_t kTlsSubjectBytesMax = 512;

/// As RFC 4514 writes it, "CN=alice,O=Example"; longer than kTlsSubjectBytesMax if it is too long.
[[nodiscard]] std::string tls_subject(const x509_st* certificate);
/// "DNS:bus.example.org, IP:192.0.2.1", some of them; "no name" if there is none.
[[nodiscard]] std::string tls_names(const x509_st* certificate);
/// "2027-01-31 00:00:00 UTC".
[[nodiscard]] std::string tls_date(const asn1_string_st* time);
[[nodiscard]] std::int64_t tls_time_s(const asn1_string_st* time);

/// What OpenSSL complained of last, in its words; forgets it.
[[nodiscard]] std::string last_tls_reason();

/// Why a certificate of the other side is not believed: a code of X509_V_ERR. `wanted`: the name
/// that a server's must be for.
[[nodiscard]] Error tls_disbelief(bool of_server, int code, const x509_st* certificate,
                                  const std::string& wanted);
/// What the other side has told us before it hung up: an alert of RFC 8446.
[[nodiscard]] Error tls_alert(bool we_are_server, int alert);

}  // namespace ipcbus::sys
