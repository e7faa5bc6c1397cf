// SPDX-License-Identifier: Apache-2.0
// Goal: connections arrive with the kernel's word about who they are; running out of descriptors
// neither spins nor ends accepting; only socket files that we made are removed.
// Method: real sockets in a temporary directory, a real loop, child processes as peers.
#include "listener.hpp"
#include "log.hpp"
#include "loop_support.hpp"

#include "sys/address.hpp"
#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

using namespace ipcbus;
using daemon::EventLoop;
using daemon::Listener;
using daemon::OperationScope;
using sys::UniqueFd;

namespace {

constexpr std::int64_t kSecond_ns = 1'000'000'000;

class TempDir {
public:
    TempDir() { REQUIRE(::mkdtemp(name_) != nullptr); }
    ~TempDir() {
        (void)::unlink((path() + "/sub/bus.sock").c_str());
        (void)::rmdir((path() + "/sub").c_str());
        (void)::unlink((path() + "/bus.sock").c_str());
        (void)::rmdir(name_);
    }
    [[nodiscard]] std::string path() const { return name_; }

private:
    char name_[32] = "/tmp/ipcbus-listener-XXXXXX";
};

struct Arrived {
    UniqueFd socket;
    daemon::PeerIdentity peer;
};

struct Fixture {
    Fixture() {
        auto made = EventLoop::create();
        REQUIRE(made.ok());
        loop = std::move(made).value();
    }

    std::unique_ptr<Listener> listen(daemon::ListenOptions options) {
        auto made = Listener::create(*loop, std::move(options), [this](UniqueFd socket, auto peer) {
            if (peer.ok()) {
                arrived.push_back({std::move(socket), std::move(peer).value()});
            } else {
                refused.push_back(peer.error());
            }
        });
        REQUIRE_MESSAGE(made.ok(), (made.ok() ? "" : made.error().what));
        return std::move(made).value();
    }

    bool run_until_arrived(std::size_t count) {
        OperationScope scope(*loop);
        bool late = false;
        daemon::Timer limit(scope, [&late] { late = true; });
        limit.start(10 * kSecond_ns);
        while (arrived.size() < count && !late) {
            REQUIRE(loop->run_once().ok());
        }
        return !late;
    }

    TempDir directory;
    std::string path = directory.path() + "/bus.sock";
    std::unique_ptr<EventLoop> loop;
    std::vector<Arrived> arrived;
    std::vector<sys::Error> refused;
};

UniqueFd connect(const std::string& path) {
    auto socket = sys::connect_unix(path, kSecond_ns);
    REQUIRE(socket.ok());
    return std::move(socket).value();
}

bool exists(const std::string& path) {
    struct stat status{};
    return ::lstat(path.c_str(), &status) == 0;
}

/// A low limit of descriptors, for the length of a test. The kernel reads the limit when an accept
/// is armed: so this comes before the listener.
class DescriptorLimit {
public:
    DescriptorLimit() {
        REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
        rlimit low = before_;
        low.rlim_cur = 128;
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
    }
    ~DescriptorLimit() { (void)::setrlimit(RLIMIT_NOFILE, &before_); }

private:
    rlimit before_{};
};

/// Every descriptor that there was.
std::vector<UniqueFd> take_all_descriptors() {
    std::vector<UniqueFd> taken;
    while (true) {
        UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        if (!fd) {
            return taken;
        }
        taken.push_back(std::move(fd));
    }
}

}  // namespace

TEST_SUITE_BEGIN("listener");

TEST_CASE("a peer's identity is that of the process that connected") {
    Fixture fixture;
    const auto listener = fixture.listen({.addresses = {"unix:" + fixture.path}, .mode = 0640});
    struct stat status{};
    REQUIRE(::stat(fixture.path.c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0640);

    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        auto socket = sys::connect_unix(fixture.path, kSecond_ns);
        ::pause();
        ::_exit(socket.ok() ? 0 : 1);
    }
    CHECK(fixture.run_until_arrived(1));
    const daemon::PeerIdentity& peer = fixture.arrived[0].peer;
    CHECK(peer.pid == child);
    CHECK(peer.uid == ::geteuid());
    CHECK(peer.gid == ::getegid());
    REQUIRE(peer.pidfd.valid());
    CHECK((::fcntl(peer.pidfd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    pollfd dead{peer.pidfd.get(), POLLIN, 0};
    CHECK(::poll(&dead, 1, 0) == 0);
    REQUIRE(::kill(child, SIGKILL) == 0);
    CHECK(::poll(&dead, 1, 10000) == 1);
    CHECK(::waitpid(child, nullptr, 0) == child);
}

TEST_CASE("the last directory of the path is made") {
    Fixture fixture;
    const std::string path = fixture.directory.path() + "/sub/bus.sock";
    const auto listener = fixture.listen({.addresses = {"unix:" + path}});
    const UniqueFd client = connect(path);
    CHECK(fixture.run_until_arrived(1));
}

TEST_CASE("stop removes the socket and ends what waits") {
    Fixture fixture;
    auto listener = fixture.listen({.addresses = {"unix:" + fixture.path}});
    const UniqueFd waiting = connect(fixture.path);
    listener->stop();
    CHECK_FALSE(exists(fixture.path));
    REQUIRE(fixture.loop->run_until_idle().ok());
    listener.reset();
    pollfd hangup{waiting.get(), POLLIN, 0};
    CHECK(::poll(&hangup, 1, 10000) == 1);
}

TEST_CASE("stop leaves a socket that somebody else has put there since") {
    Fixture fixture;
    auto listener = fixture.listen({.addresses = {"unix:" + fixture.path}});
    REQUIRE(::unlink(fixture.path.c_str()) == 0);
    auto other = sys::listen_unix(fixture.path, 0600, 1);
    REQUIRE(other.ok());
    listener.reset();
    CHECK(exists(fixture.path));
}

TEST_CASE("an inherited socket is used, though non-blocking, and left in place") {
    Fixture fixture;
    auto made = sys::listen_unix(fixture.path, 0600, 16);
    REQUIRE(made.ok());
    const UniqueFd kept(::fcntl(made.value().get(), F_DUPFD_CLOEXEC, 3));  // the service manager's
    REQUIRE(::fcntl(kept.get(), F_SETFL, O_NONBLOCK) == 0);
    daemon::ListenOptions options;
    options.addresses = {"unix:/nonexistent/ignored.sock"};
    options.inherited.push_back(std::move(made).value());
    auto listener = fixture.listen(std::move(options));
    CHECK(listener->addresses() == std::vector<std::string>{"unix:" + fixture.path});
    for (std::size_t count = 1; count <= 3; ++count) {
        const UniqueFd client = connect(fixture.path);
        CHECK(fixture.run_until_arrived(count));
    }
    CHECK(tests::turns_of_a_while(*fixture.loop) == 1);  // it waits, it does not try and try
    listener.reset();
    CHECK(exists(fixture.path));
    const UniqueFd next = connect(fixture.path);  // still listening
}

TEST_CASE("what cannot be bound is refused, and nothing stays") {
    Fixture fixture;
    const auto failed = Listener::create(
        *fixture.loop,
        {.addresses = {"unix:" + fixture.path, "unix:/nonexistent/directory/bus.sock"}},
        [](UniqueFd, auto) {});
    REQUIRE_FALSE(failed.ok());
    CHECK(failed.error().what.find("/nonexistent/directory/bus.sock") != std::string::npos);
    CHECK_FALSE(exists(fixture.path));
}

TEST_CASE("out of descriptors: no spinning, and accepting goes on afterwards") {
    const DescriptorLimit limit;
    Fixture fixture;
    const auto listener = fixture.listen({.addresses = {"unix:" + fixture.path}});
    std::vector<UniqueFd> clients;
    // UBSan needs descriptors for a look at a type that it has not seen yet: show it everything
    // that is used below.
    clients.push_back(connect(fixture.path));
    CHECK(fixture.run_until_arrived(1));
    fixture.arrived.clear();
    daemon::log_error("{} follow", "errors");
    daemon::log_info("{} follow", "errors");
    clients.clear();
    for (int i = 0; i < 3; ++i) {
        clients.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    }
    {
        std::vector<UniqueFd> taken = take_all_descriptors();
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        fixture.path.copy(address.sun_path, sizeof address.sun_path - 1);
        for (const UniqueFd& client : clients) {
            REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&address),
                              sizeof address) == 0);
        }
        const std::int64_t end_ns = sys::monotonic_ns() + kSecond_ns / 2;
        const std::uint64_t before = fixture.loop->turns();
        OperationScope scope(*fixture.loop);
        daemon::Timer wake(scope, [] {});
        wake.start(kSecond_ns / 2);
        while (sys::monotonic_ns() < end_ns) {
            REQUIRE(fixture.loop->run_once().ok());
        }
        CHECK(fixture.arrived.empty());
        CHECK(fixture.loop->turns() - before < 10);

        // Room for the socket and not for its pidfd: that connection is to be refused, with why.
        taken.pop_back();
        pollfd hangup{clients[0].get(), POLLIN, 0};
        while (::poll(&hangup, 1, 0) == 0) {
            REQUIRE(fixture.loop->run_once().ok());
        }
        CHECK(fixture.arrived.empty());
        REQUIRE(!fixture.refused.empty());
        CHECK(fixture.refused[0].code == EMFILE);
    }
    clients.push_back(connect(fixture.path));
    CHECK(fixture.run_until_arrived(1));
    for (const Arrived& one : fixture.arrived) {
        CHECK(one.peer.pidfd.valid());
    }
}

TEST_CASE("connections that are refused and accepted by turns do not fill the log") {
    const DescriptorLimit limit;
    Fixture fixture;
    const std::string log = fixture.directory.path() + "/log";
    REQUIRE(daemon::log_open({.level = daemon::LogLevel::info, .target = log}).ok());
    daemon::log_error("{} follow", "errors");  // as above
    const auto listener = fixture.listen({.addresses = {"unix:" + fixture.path}});
    for (std::size_t round = 1; round <= 5; round++) {
        {
            UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
            std::vector<UniqueFd> taken = take_all_descriptors();
            sockaddr_un address{};
            address.sun_family = AF_UNIX;
            fixture.path.copy(address.sun_path, sizeof address.sun_path - 1);
            REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&address),
                              sizeof address) == 0);
            taken.pop_back();  // room for the socket and not for its pidfd
            while (fixture.refused.size() < round) {
                REQUIRE(fixture.loop->run_once().ok());
            }
        }
        const UniqueFd client = connect(fixture.path);
        CHECK(fixture.run_until_arrived(1));
        fixture.arrived.clear();
    }
    REQUIRE(daemon::log_open({}).ok());
    std::ifstream file(log);
    std::size_t refused = 0;
    std::size_t failed = 0;
    for (std::string line; std::getline(file, line);) {
        refused += line.find("connections are refused") != std::string::npos ? 1 : 0;
        failed += line.find("cannot accept") != std::string::npos ? 1 : 0;
    }
    CHECK(refused == 1);
    CHECK(failed <= 1);
    (void)::unlink(log.c_str());
}

TEST_SUITE_END();
