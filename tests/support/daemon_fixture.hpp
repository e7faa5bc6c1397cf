// SPDX-License-Identifier: Apache-2.0
// DaemonFixture: a private ipcbusd with a directory, socket and configuration of its own; ready
// when the constructor returns, ended and checked by the destructor. The program is the one that
// IPCBUS_TEST_DAEMON names. Owned by one test, one thread.
#pragma once

#include "child_process.hpp"
#include "temp_dir.hpp"

namespace ipcbus::test {

class DaemonFixture {
public:
    /// `config`: TOML, may be empty. `descriptors_max`: its RLIMIT_NOFILE, 0 for this process's.
    explicit DaemonFixture(const std::string& config = "", unsigned descriptors_max = 0);
    /// Ends it, if the test has not, and checks that it ended well.
    ~DaemonFixture();

    [[nodiscard]] const std::string& socket_path() const { return socket_path_; }
    /// Where clients find it: its socket; with IPCBUS_TEST_TCP set, its TCP port, with
    /// IPCBUS_TEST_TLS, the one for TLS. So every test that gives this to a client is one of remote
    /// clients, too.
    [[nodiscard]] std::string address() const {
        return over_tcp() ? tcp_address() : local_address();
    }
    /// For who is known to have published when publish returns.
    [[nodiscard]] std::string local_address() const { return "unix:" + socket_path_; }
    /// "tcp:127.0.0.1:PORT"; over TLS, "tls:127.0.0.1:PORT".
    [[nodiscard]] const std::string& tcp_address() const { return tls_keys ? tls_ : tcp_; }
    /// "tcp:127.0.0.1:PORT" in any case, and the one for TLS; empty: the configuration has none.
    [[nodiscard]] const std::string& plain_address() const { return tcp_; }
    [[nodiscard]] const std::string& tls_address() const { return tls_; }
    [[nodiscard]] static bool over_tcp();
    /// Keys of [tcp] for daemons that are tested over TLS; null: none are.
    static inline std::string (*tls_keys)() = nullptr;
    [[nodiscard]] const TempDir& directory() const { return directory_; }
    [[nodiscard]] ChildProcess& process() { return process_; }

    /// For a reload: what the file says from now on.
    void write_config(const std::string& config);
    /// SIGHUP, and waits until the daemon says how it went. The log lines since.
    std::string reload();
    /// SIGTERM, and waits for its end. The exit code.
    std::optional<int> stop();

private:
    TempDir directory_;
    std::string socket_path_;
    std::string tcp_;
    std::string tls_;
    ChildProcess process_;
    std::size_t log_read_ = 0;
};

/// The environment's, else the one this test was built with.
[[nodiscard]] std::string daemon_program();

}  // namespace ipcbus::test
