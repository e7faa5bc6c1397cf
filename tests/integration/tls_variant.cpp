// SPDX-License-Identifier: Apache-2.0
// With IPCBUS_TEST_TLS in the environment every daemon of this program listens on TLS, with
// certificates made here, and clients believe their authority: so tests of remote clients are tests
// of TLS, too.
#include "certificates.hpp"
#include "daemon_fixture.hpp"

#include <sys/stat.h>

#include <cstdlib>
#include <memory>

using namespace ipcbus::test;

namespace {

/// For as long as the program runs.
struct Files {
    Files() {
        const Authority authority;
        const Certificate own = authority.issue();
        write_file(directory.file("ca.pem"), authority.pem());
        write_file(directory.file("cert.pem"), own.certificate);
        write_file(directory.file("key.pem"), own.key);
        (void)::chmod(directory.file("key.pem").c_str(), 0600);
        ::setenv("IPCBUS_CA_FILE", directory.file("ca.pem").c_str(), 1);
    }
    TempDir directory;
};

std::string keys() {
    static const Files files;
    return "listen_tls = [\"127.0.0.1:0\"]\ncertificate = \"" + files.directory.file("cert.pem") +
           "\"\nkey = \"" + files.directory.file("key.pem") + "\"\n";
}

[[maybe_unused]] const bool kChosen = [] {
    if (std::getenv("IPCBUS_TEST_TLS") != nullptr) {
        DaemonFixture::tls_keys = keys;
    }
    return true;
}();

}  // namespace
