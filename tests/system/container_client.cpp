// SPDX-License-Identifier: Apache-2.0
// What containers_test.py has run in a container, beside the tools: attackers, and a client that
// forks. Each is a test case, so that a check which fails is told as in any other test. Address and
// topic are IPCBUS_TEST_ADDRESS and IPCBUS_TEST_TOPIC; nothing here starts a daemon. One thread.
#include "attack.hpp"
#include "bus_client.hpp"

#include <doctest/doctest.h>

#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

using namespace ipcbus::test;

namespace {

std::string from_environment(const char* name) {
    const char* const text = std::getenv(name);
    must_be(text != nullptr, std::string(name) + " is not set");
    return text;
}

std::string address() { return from_environment("IPCBUS_TEST_ADDRESS"); }
std::string topic() { return from_environment("IPCBUS_TEST_TOPIC"); }
std::string socket_path() { return address().substr(std::string("unix:").size()); }

}  // namespace

TEST_CASE("attack as reader") { attack_as_reader(socket_path(), topic()); }
TEST_CASE("attack as publisher") { attack_as_publisher(socket_path(), topic()); }
TEST_CASE("attack mappings") { attack_mappings(address(), topic()); }

TEST_CASE("parent") {
    // Forks behind the C library's back, so that the child keeps the socket, and waits to be
    // killed.
    const Bus bus = connect(address(), "parent");
    const Subscriber subscriber = subscribe(bus, topic());
    const long child = ::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    REQUIRE(child >= 0);
    if (child != 0) {
        std::puts("ready");
        std::fflush(stdout);
    }
    for (;;) {
        ::pause();
    }
}
