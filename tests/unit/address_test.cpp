// SPDX-License-Identifier: Apache-2.0
// Addresses as text and from the environment; and Unix sockets: the mode they get, whose place
// they may take, and how long a client waits for one.
#include "sys/address.hpp"
#include "sys/clock.hpp"
#include "sys/fd_passing.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <thread>

namespace {

using namespace ipcbus::sys;

constexpr std::int64_t kLongNs = 30'000'000'000;  // a test that needs it has failed

class TempDir {
public:
    TempDir() {
        std::string pattern = (std::filesystem::temp_directory_path() / "ipcbus-XXXXXX").string();
        REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    ~TempDir() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] std::string file(const char* name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

/// Sets an environment variable for the length of a scope. nullopt: unset.
class ScopedEnv {
public:
    ScopedEnv(const char* name, std::optional<std::string> value) : name_(name) {
        if (const char* before = std::getenv(name)) {
            before_ = before;
        }
        set(value);
    }
    ScopedEnv(const ScopedEnv&) = delete;
    ScopedEnv& operator=(const ScopedEnv&) = delete;
    ~ScopedEnv() { set(before_); }

private:
    void set(const std::optional<std::string>& value) {
        (void)(value ? ::setenv(name_, value->c_str(), 1) : ::unsetenv(name_));
    }
    const char* name_;
    std::optional<std::string> before_;
};

TEST_SUITE_BEGIN("address");

TEST_CASE("addresses as text") {
    for (const char* text : {"unix:/run/ipcbus/bus.sock", "/run/ipcbus/bus.sock"}) {
        const Result<Address> address = parse_address(text);
        REQUIRE(address.ok());
        CHECK(address.value().kind == Address::Kind::unix_socket);
        CHECK(address.value().path == "/run/ipcbus/bus.sock");
    }
    const auto code = [](std::string_view text) {
        const Result<Address> address = parse_address(text);
        return address.ok() ? 0 : address.error().code;
    };
    CHECK(code("") == EINVAL);
    CHECK(code("unix:") == EINVAL);
    CHECK(code("unix:relative") == EINVAL);
    CHECK(code("bus.sock") == EINVAL);
    CHECK(code("udp:host:1") == EINVAL);
    CHECK(code(std::string_view("/a\0b", 4)) == EINVAL);
    CHECK(code("/" + std::string(106, 'a')) == 0);
    CHECK(code("/" + std::string(107, 'a')) == ENAMETOOLONG);
}

TEST_CASE("tcp: a host and a port") {
    const auto check = [](const char* text, const char* host, std::uint16_t port) {
        const Result<Address> address = parse_address(text);
        REQUIRE(address.ok());
        CHECK(address.value().kind == Address::Kind::tcp);
        CHECK(address.value().host == host);
        CHECK(address.value().port == port);
    };
    check("tcp:example.org:4222", "example.org", 4222);
    check("tcp:[fe80::1]:65535", "fe80::1", 65535);
    check("tcp:4222", "localhost", 4222);
    check("tls:bus.example.org:4222", "bus.example.org", 4222);
    CHECK(parse_address("tls:[::1]:4222").value().text() == "tls:[::1]:4222");
    CHECK(parse_address("tls:4222").value().tls);
    CHECK_FALSE(parse_address("tcp:4222").value().tls);
    CHECK(parse_address("tls:host").error().code == EINVAL);
    CHECK(parse_address("tcp:::1:4222").error().what.find("in brackets") != std::string::npos);
    for (const char* text : {"tcp:", "tcp:host", "tcp::1", "tcp:host:", "tcp:host:0",
                             "tcp:host:65536", "tcp:host:1x", "tcp:host:99999999999"}) {
        CHECK(parse_address(text).error().code == EINVAL);
    }
}

TEST_CASE("the default address: environment, then the user's daemon, then the system's") {
    const TempDir directory;
    const ScopedEnv no_address("IPCBUS_ADDRESS", std::nullopt);
    const ScopedEnv runtime("XDG_RUNTIME_DIR", directory.file("runtime"));
    CHECK(default_address() == "unix:" IPCBUS_SYSTEM_SOCKET);
    std::filesystem::create_directories(directory.file("runtime/ipcbus"));
    std::ofstream(directory.file("runtime/ipcbus/bus.sock")).put('\n');
    CHECK(default_address() == "unix:" + directory.file("runtime/ipcbus/bus.sock"));
    const ScopedEnv address("IPCBUS_ADDRESS", "unix:/elsewhere");
    CHECK(default_address() == "unix:/elsewhere");
    const ScopedEnv empty("IPCBUS_ADDRESS", "");
    CHECK(default_address() == "unix:" + directory.file("runtime/ipcbus/bus.sock"));
}

TEST_CASE("a listener has its mode whatever the umask, and can be connected to") {
    const TempDir directory;
    const std::string path = directory.file("bus.sock");
    const mode_t umask_before = ::umask(0077);
    const Result<UniqueFd> listener = listen_unix(path, 0666, 8);
    (void)::umask(umask_before);
    REQUIRE(listener.ok());
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    CHECK(S_ISSOCK(status.st_mode));
    CHECK((status.st_mode & 07777) == 0666);
    CHECK((::fcntl(listener.value().get(), F_GETFD) & FD_CLOEXEC) != 0);

    const Result<UniqueFd> client = connect_unix(path, 0);
    REQUIRE(client.ok());
    CHECK((::fcntl(client.value().get(), F_GETFL) & O_NONBLOCK) == 0);
    const UniqueFd accepted(::accept(listener.value().get(), nullptr, nullptr));
    REQUIRE(accepted.valid());
    REQUIRE(send_with_fds(client.value().get(), std::as_bytes(std::span("x", 1)), {}).ok());
    std::array<std::byte, 4> into{};
    std::vector<UniqueFd> fds;
    CHECK(receive_with_fds(accepted.get(), into, fds, false).value() == 1);
}

TEST_CASE("a stale socket is replaced, a living one and a file are not") {
    const TempDir directory;
    const std::string path = directory.file("bus.sock");
    { REQUIRE(listen_unix(path, 0600, 8).ok()); }
    REQUIRE(std::filesystem::exists(path));  // nobody removed it: as after a crash
    const Result<UniqueFd> living = listen_unix(path, 0600, 8);
    REQUIRE(living.ok());

    const Result<UniqueFd> second = listen_unix(path, 0600, 8);
    REQUIRE_FALSE(second.ok());
    CHECK(second.error().code == EADDRINUSE);
    CHECK(second.error().what.find("another daemon answers") != std::string::npos);
    CHECK(connect_unix(path, 0).ok());

    const std::string file = directory.file("precious");
    std::ofstream(file) << "data";
    const Result<UniqueFd> refused = listen_unix(file, 0600, 8);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == EADDRINUSE);
    CHECK(std::filesystem::file_size(file) == 4);

    CHECK(listen_unix(directory.file("missing/bus.sock"), 0600, 8).error().code == ENOENT);
}

TEST_CASE("a living listener whose queue is full is not taken for a stale one") {
    const TempDir directory;
    const std::string path = directory.file("bus.sock");
    const Result<UniqueFd> listener = listen_unix(path, 0600, 0);
    REQUIRE(listener.ok());
    const Result<UniqueFd> queued = connect_unix(path, 0);
    REQUIRE(queued.ok());
    CHECK(connect_unix(path, 1'000'000).error().code == ETIMEDOUT);
    CHECK(listen_unix(path, 0600, 8).error().code == EADDRINUSE);
    CHECK(std::filesystem::exists(path));
}

TEST_CASE("one who holds the directory's lock delays a listener and cannot prevent it") {
    const TempDir directory;
    const UniqueFd holder(::open(directory.file("").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(::flock(holder.get(), LOCK_EX) == 0);
    CHECK(listen_unix(directory.file("bus.sock"), 0600, 8).ok());
}

TEST_CASE("connecting waits for a daemon that is being started, and no longer than told") {
    const TempDir directory;
    const std::string path = directory.file("bus.sock");
    CHECK(connect_unix(path, 0).error().code == ECONNREFUSED);
    const std::int64_t began_ns = monotonic_ns();
    const Result<UniqueFd> late = connect_unix(path, 20'000'000);
    REQUIRE_FALSE(late.ok());
    CHECK(late.error().code == ECONNREFUSED);
    CHECK(late.error().what.starts_with(path + ": No such file or directory"));
    CHECK(monotonic_ns() - began_ns >= 20'000'000);

    Result<UniqueFd> client = fail(EINVAL, "not run");
    std::thread waiting([&] { client = connect_unix(path, kLongNs); });
    const Result<UniqueFd> listener = listen_unix(path, 0600, 8);
    waiting.join();
    REQUIRE(listener.ok());
    CHECK(client.ok());
    CHECK(connect_unix("relative", 0).error().code == EINVAL);
}

TEST_SUITE_END();

}  // namespace
