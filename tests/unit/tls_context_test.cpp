// SPDX-License-Identifier: Apache-2.0
// Goal: what is wrong with a certificate, a key or a file of authorities is said by its file's
// name, nobody is asked for a passphrase, and no error holds a secret. What is good says what it
// is.
#include "sys/tls_context.hpp"

#include "certificates.hpp"
#include "sys/small_file.hpp"
#include "temp_dir.hpp"

#include <doctest/doctest.h>

#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

using namespace ipcbus;
using namespace ipcbus::sys;
using test::Authority;
using test::Certificate;
using test::TempDir;
using test::write_file;

namespace {

std::string server_fault(const std::string& certificate, const std::string& key,
                         const std::string& ca = "",
                         ClientCertificates clients = ClientCertificates::none) {
    const auto made = TlsContext::server({"the certificate", certificate}, {"the key", key},
                                         {"the ca", ca}, clients);
    if (made.ok()) {
        return "";
    }
    CHECK(made.error().what.find("MII") == std::string::npos);  // how PEM of a key begins
    return made.error().what;
}

struct File {
    File(const std::string& text, mode_t mode) {
        write_file(name, text);
        REQUIRE(::chmod(name.c_str(), mode) == 0);
    }
    TempDir directory;
    std::string name = directory.file("file");
};

}  // namespace

TEST_SUITE_BEGIN("tls_context");

TEST_CASE("what a good one says of itself") {
    const Authority authority;
    const Authority another("another");
    const Certificate own = authority.issue();
    const auto made =
        TlsContext::server({"c", own.certificate + authority.pem()}, {"k", own.key},
                           {"ca", authority.pem() + another.pem()}, ClientCertificates::optional);
    REQUIRE(made.ok());
    const TlsContext& context = *made.value();
    CHECK(context.certificate().starts_with("CN=localhost (until 2"));
    CHECK(context.certificate().find(" UTC, SHA-256 ") != std::string::npos);
    CHECK(context.authorities().starts_with("2 authorities (the first: SHA-256 "));
    CHECK(context.authorities().ends_with(")"));
    const std::int64_t left_s = context.expires_s() - ::time(nullptr);
    CHECK(left_s > 3500);
    CHECK(left_s <= 3600);
    // Another certificate is told from it, though all but its key is the same.
    const Certificate other = authority.issue();
    const auto next = TlsContext::server({"c", other.certificate}, {"k", other.key}, {},
                                         ClientCertificates::none);
    REQUIRE(next.ok());
    CHECK(next.value()->certificate() != context.certificate());
    CHECK(next.value()->authorities().empty());
}

TEST_CASE("what is wrong, by the name of its file") {
    const Authority authority;
    const Certificate own = authority.issue();
    const Certificate other = authority.issue();
    CHECK(server_fault(own.certificate, own.key).empty());
    CHECK(server_fault("", own.key) ==
          "the certificate: there is no certificate in it (PEM is wanted)");
    CHECK(server_fault(own.key, own.key) ==
          "the certificate: there is no certificate in it (PEM is wanted)");
    std::string broken = own.certificate;
    broken.replace(100, 8, "????????");
    CHECK(server_fault(broken, own.key) == "the certificate: a certificate in it is broken");
    CHECK(server_fault(own.certificate + broken, own.key) ==
          "the certificate: a certificate in it is broken");
    CHECK(server_fault(own.certificate, "") ==
          "the key: there is no private key in it (PEM is wanted)");
    CHECK(server_fault(own.certificate, own.certificate) ==
          "the key: there is no private key in it (PEM is wanted)");
    CHECK(server_fault(own.certificate, test::with_passphrase(own.key)) ==
          "the key: the key has a passphrase, which nobody is there to give");
    CHECK(server_fault(own.certificate, other.key) ==
          "the key: it is not the key of the certificate (the certificate)");
    CHECK(server_fault(own.certificate, own.key, "", ClientCertificates::required) ==
          "the ca: there is no certificate in it (PEM is wanted)");
    CHECK(server_fault(own.certificate, own.key, "", ClientCertificates::none).empty());
}

TEST_CASE("a client: the authorities of the system, or its own; a certificate or none") {
    const Authority authority;
    const Certificate own = authority.issue();
    CHECK(TlsContext::client({}, {}, {}).ok());
    CHECK(TlsContext::client({"ca", authority.pem()}, {}, {}).ok());
    CHECK(TlsContext::client({}, {"c", own.certificate}, {"k", own.key}).ok());
    CHECK_FALSE(TlsContext::client({"ca", "nonsense"}, {}, {}).ok());
    CHECK_FALSE(TlsContext::client({}, {"c", own.certificate}, {"k", ""}).ok());
}

TEST_CASE("files: secrets that others can read, and what is no file") {
    for (const mode_t mode : {0640, 0604, 0620, 0601}) {
        const File file("secret", mode);
        const auto refused = read_small_file(file.name, "key", 4096, Secrecy::secret);
        REQUIRE_FALSE(refused.ok());
        CHECK(refused.error().code == EACCES);
        CHECK(refused.error().what.find(std::string("chmod 600 ") + file.name) !=
              std::string::npos);
        CHECK(read_small_file(file.name, "certificate", 4096, Secrecy::open).value() == "secret");
    }
    const File good("secret", 0600);
    CHECK(read_small_file(good.name, "key", 4096, Secrecy::secret).value() == "secret");
    const File large(std::string(4097, 'x'), 0600);
    CHECK(read_small_file(large.name, "n", 4096, Secrecy::open).error().what ==
          "n: it is no regular file of at most 4 KiB");
    CHECK(read_small_file("/nowhere/at/all", "n", 4096, Secrecy::open).error().code == ENOENT);
    CHECK(read_small_file("/tmp", "n", 4096, Secrecy::open).error().code == EINVAL);
    CHECK(read_small_file("/dev/zero", "n", 4096, Secrecy::open).error().code == EINVAL);
}

TEST_SUITE_END();
