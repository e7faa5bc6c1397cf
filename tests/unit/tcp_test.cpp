// SPDX-License-Identifier: Apache-2.0
// Goal: endpoints are read as they are documented; what is loopback is known; sockets listen and
// connect, and say who is at the other end. Sockets of this host only.
#include "sys/tcp.hpp"

#include "child_process.hpp"
#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>
#include <optional>
#include <vector>

using namespace ipcbus::sys;
using ipcbus::test::ChildProcess;

TEST_SUITE_BEGIN("tcp");

TEST_CASE("endpoints, as text and back") {
    const auto parsed = [](const char* text, bool any_port = false) {
        auto endpoint = parse_endpoint(text, any_port);
        REQUIRE(endpoint.ok());
        return endpoint.value();
    };
    CHECK(parsed("4222") == TcpEndpoint{"", 4222});
    CHECK(parsed("host:65535") == TcpEndpoint{"host", 65535});
    CHECK(parsed("[::1]:1") == TcpEndpoint{"::1", 1});
    CHECK(parsed("127.0.0.1:0", true) == TcpEndpoint{"127.0.0.1", 0});
    CHECK(parsed("[::1]:1").text() == "[::1]:1");
    CHECK(parsed("host:2").text() == "host:2");
    for (const char* text : {"", ":", ":1", "host", "host:", "host:0", "host:65536", "host:-1",
                             "host:1x", "::1:5", "[]:5", "[::1]", "a:b:1"}) {
        CAPTURE(text);
        CHECK(parse_endpoint(text).error().code == EINVAL);
    }
}

TEST_CASE("loopback is what cannot leave this host, by number") {
    for (const char* host : {"", "127.0.0.1", "127.255.0.9", "::1"}) {
        CHECK(is_loopback(host));
    }
    for (const char* host : {"0.0.0.0", "::", "192.0.2.1", "128.0.0.1", "localhost", "::2"}) {
        CHECK_FALSE(is_loopback(host));
    }
}

TEST_CASE("listen, connect, names, options") {
    auto listening = listen_tcp({"127.0.0.1", 0}, 4);
    REQUIRE(listening.ok());
    REQUIRE(listening.value().size() == 1);
    const std::string name = tcp_name(listening.value()[0].get(), true);
    REQUIRE(name.starts_with("127.0.0.1:"));
    auto endpoint = parse_endpoint(name);
    REQUIRE(endpoint.ok());
    const auto addresses = look_up(endpoint.value());
    REQUIRE(addresses.ok());
    auto connected = connect_tcp(endpoint.value(), addresses.value(), 1'000'000'000);
    REQUIRE(connected.ok());
    const int socket = connected.value().get();
    CHECK(tcp_name(socket) == name);
    CHECK(tcp_peer_host(socket) == "127.0.0.1");
    REQUIRE(set_tcp_options(socket, 8'000'000'000).ok());
    const auto option = [&](int level, int what) {
        int value = -1;
        socklen_t bytes = sizeof value;
        CHECK(::getsockopt(socket, level, what, &value, &bytes) == 0);
        return value;
    };
    CHECK(option(IPPROTO_TCP, TCP_NODELAY) == 1);
    CHECK(option(SOL_SOCKET, SO_KEEPALIVE) == 1);
    CHECK(option(IPPROTO_TCP, TCP_KEEPIDLE) == 2);
    CHECK(option(IPPROTO_TCP, TCP_USER_TIMEOUT) == 0);  // ends who lives and does not read
    CHECK_FALSE(peer_is_dead(socket, 1));
    // The port is taken; and when it is free, nobody is there.
    CHECK(listen_tcp(endpoint.value(), 4).error().code == EADDRINUSE);
    listening.value().clear();
    CHECK(connect_tcp(endpoint.value(), addresses.value(), 1'000'000'000).error().code ==
          ECONNREFUSED);
}

TEST_CASE("who does not read lives; who does not acknowledge is dead") {
    // In a network of its own, whose loopback interface can be cut.
    ChildProcess child = ChildProcess::fork([] {
        if (::unshare(CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
            return 77;
        }
        const auto set_loopback = [](bool up) {
            const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            ifreq request{};
            std::strcpy(request.ifr_name, "lo");
            request.ifr_flags = up ? IFF_UP : 0;
            return ::ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0;
        };
        if (!set_loopback(true)) {
            return 77;
        }
        auto listening = listen_tcp({"127.0.0.1", 0}, 4);
        if (!listening.ok()) {
            return 1;
        }
        const auto endpoint = parse_endpoint(tcp_name(listening.value()[0].get(), true));
        const auto addresses = look_up(endpoint.value());
        auto connected = connect_tcp(endpoint.value(), addresses.value(), 5'000'000'000);
        if (!connected.ok()) {
            return 2;
        }
        const int socket = connected.value().get();
        constexpr std::int64_t kDeadNs = 1'000'000'000;
        std::vector<char> bytes(1 << 20);
        while (::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL) > 0) {}
        // Its window is closed, and it says so when it is asked.
        const Deadline alive = Deadline::after(3 * kDeadNs);
        while (!alive.passed()) {
            if (peer_is_dead(socket, kDeadNs)) {
                return 3;
            }
            (void)::poll(nullptr, 0, 50);
        }
        if (!set_loopback(false)) {
            return 4;
        }
        const Deadline dead = Deadline::after(30 * kDeadNs);
        while (!peer_is_dead(socket, kDeadNs)) {
            if (dead.passed()) {
                return 5;
            }
            (void)::poll(nullptr, 0, 50);
        }
        return 0;
    });
    const std::optional<int> code = child.wait(60'000);
    if (code == 77) {
        MESSAGE("not allowed to make a network here: left out");
        return;
    }
    CHECK(code == 0);
}
