// SPDX-License-Identifier: Apache-2.0
// Goal: the service manager hears exactly what it expects, the watchdog beats by itself and only if
// asked to. Method: a NOTIFY_SOCKET of our own, in a child process because of the environment.
// Built without libsystemd there is nothing to hear.
#include "notify.hpp"

#include <doctest/doctest.h>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <string>

using namespace ipcbus;

#ifdef IPCBUS_HAVE_SYSTEMD

namespace {

/// Listens where NOTIFY_SOCKET of this process points from now on.
sys::UniqueFd listen_to_notifications() {
    sys::UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string name = "ipcbus-notify-test-" + std::to_string(::getpid());
    name.copy(address.sun_path + 1, name.size());  // abstract
    const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), bytes) != 0) {
        return {};
    }
    (void)::setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1);
    return socket;
}

std::string next(int socket) {
    pollfd ready{socket, POLLIN, 0};
    std::array<char, 512> buffer;
    if (::poll(&ready, 1, 5000) != 1) {
        return "nothing";
    }
    const ssize_t got = ::recv(socket, buffer.data(), buffer.size(), 0);
    return std::string(buffer.data(), static_cast<std::size_t>(got > 0 ? got : 0));
}

#define EXPECT(condition)                                                \
    if (!(condition)) {                                                  \
        std::fprintf(stderr, "notify_test: not true: %s\n", #condition); \
        return 1;                                                        \
    }

int states() {
    const sys::UniqueFd socket = listen_to_notifications();
    daemon::notify_ready("listening on\nunix:/a");
    EXPECT(next(socket.get()) == "READY=1\nSTATUS=listening on unix:/a");
    daemon::notify_reloading();
    const std::string reloading = next(socket.get());
    EXPECT(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    EXPECT(std::strtoull(reloading.c_str() + 27, nullptr, 10) > 0);
    daemon::notify_status("x");
    EXPECT(next(socket.get()) == "STATUS=x");
    daemon::notify_stopping();
    EXPECT(next(socket.get()) == "STOPPING=1\nSTATUS=stopping");
    return 0;
}

int watchdog() {
    const sys::UniqueFd socket = listen_to_notifications();
    auto loop = daemon::EventLoop::create();
    EXPECT(loop.ok());
    {
        daemon::Watchdog silent(*loop.value());  // no WATCHDOG_USEC
        silent.start();
        EXPECT(loop.value()->submitted_count() == 0);
    }
    (void)::setenv("WATCHDOG_USEC", "20000", 1);
    daemon::Watchdog beating(*loop.value());
    beating.start();
    for (int beat = 0; beat < 3; ++beat) {
        EXPECT(next(socket.get()) == "WATCHDOG=1");
        EXPECT(loop.value()->run_once().ok());
    }
    EXPECT(loop.value()->turns() == 3);
    beating.stop();
    EXPECT(loop.value()->run_until_idle().ok());
    return 0;
}

/// The test process is to keep its environment: a child has its own.
int in_child(int (*body)()) {
    const pid_t child = ::fork();
    if (child == 0) {
        (void)::alarm(20);
        ::_exit(body());
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_SUITE_BEGIN("notify");

TEST_CASE("states") { CHECK(in_child(states) == 0); }

TEST_CASE("watchdog: at half of its time, and silent unless asked for") {
    CHECK(in_child(watchdog) == 0);
}

TEST_CASE("without a service manager there are no inherited sockets") {
    auto sockets = daemon::take_inherited_sockets();
    REQUIRE(sockets.ok());
    CHECK(sockets.value().empty());
}

TEST_SUITE_END();

#endif
