// SPDX-License-Identifier: Apache-2.0
// See daemon_fixture.hpp.
#include "daemon_fixture.hpp"

#include <doctest/doctest.h>

#include <signal.h>

#include <cstdlib>

namespace ipcbus::test {

std::string daemon_program() {
    if (const char* program = std::getenv("IPCBUS_TEST_DAEMON")) {
        return program;
    }
#ifdef IPCBUS_TEST_DAEMON
    return IPCBUS_TEST_DAEMON;
#else
    FAIL("IPCBUS_TEST_DAEMON does not say which ipcbusd to test");
    return {};
#endif
}

DaemonFixture::DaemonFixture(const std::string& config, unsigned descriptors_max)
    : socket_path_(directory_.file("bus.sock")) {
    write_config(config);
    std::vector<std::string> command{daemon_program(), "-c", directory_.file("ipcbusd.toml"),
                                     "--listen", "unix:" + socket_path_,
                                     "--listen", "tcp:127.0.0.1:0"};
    if (descriptors_max != 0) {
        command.insert(command.begin(), {"/bin/sh", "-c", "ulimit -n \"$0\" && exec \"$@\"",
                                         std::to_string(descriptors_max)});
    }
    process_ = ChildProcess::run(command);
    // It says so once the socket can be connected to.
    log_read_ = process_.wait_for_output("listening on unix");
    INFO(process_.output());
    REQUIRE(log_read_ != std::string::npos);
    const auto address_after = [this](const std::string& text) {
        const std::size_t at = process_.output().find(text);
        const std::size_t begin = at + text.size() - 4;
        return at == std::string::npos
                   ? std::string()
                   : process_.output().substr(begin, process_.output().find('\n', at) - begin);
    };
    tcp_ = address_after("listening on tcp:");
    tls_ = address_after("listening on tls:");
}

DaemonFixture::~DaemonFixture() {
    if (process_.running()) {
        (void)::kill(process_.pid(), SIGTERM);
        (void)::kill(process_.pid(), SIGINT);  // the second one: no test waits for a drain here
    }
    const std::optional<int> status = process_.wait();
    const std::string& log = process_.output();
    INFO(log);
    CHECK(status.has_value());
    CHECK(status.value_or(-1) == 0);
    CHECK(log.find("assertion failed") == std::string::npos);
}

bool DaemonFixture::over_tcp() {
    return std::getenv("IPCBUS_TEST_TCP") != nullptr || tls_keys != nullptr;
}

void DaemonFixture::write_config(const std::string& config) {
    std::string text = config;
    if (tls_keys != nullptr) {
        const std::string table = "[tcp]\n";
        const std::size_t there = text.find(table);
        if (there == std::string::npos) {
            text += "\n" + table + tls_keys();
        } else {
            text.insert(there + table.size(), tls_keys());
        }
    }
    write_file(directory_.file("ipcbusd.toml"), text);
}

std::string DaemonFixture::reload() {
    process_.signal(SIGHUP);
    const std::size_t from = log_read_;
    const std::size_t summary = process_.wait_for_output("SIGHUP: ", from);
    REQUIRE(summary != std::string::npos);
    log_read_ = process_.wait_for_output("\n", summary);
    return process_.output().substr(from, log_read_ - from);
}

std::optional<int> DaemonFixture::stop() {
    process_.signal(SIGTERM);
    return process_.wait();
}

}  // namespace ipcbus::test
