// SPDX-License-Identifier: Apache-2.0
// Goal: a daemon that cannot start says why, in one line, and exits with 1; nothing else, also not
// what a sanitizer would have to say, for everything that was begun is taken back first. Method: a
// real ipcbusd, where it cannot listen, may not, or is refused io_uring.
#include "child_process.hpp"
#include "daemon_fixture.hpp"
#include "seccomp.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

/// Starts a daemon after `prepare` has been done in its process; what it says, and that it fails.
std::string failing_start(const std::string& address, const std::function<int()>& prepare) {
    const TempDir directory;
    const std::string said = directory.file("said");
    // Opened here: the process may be another user's by then.
    const sys::UniqueFd log(::open(said.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(log.valid());
    const std::string program = daemon_program();
    ChildProcess daemon = ChildProcess::fork([&] {
        if (prepare() != 0 || ::dup2(log.get(), STDERR_FILENO) < 0) {
            return 99;
        }
        ::execl(program.c_str(), "ipcbusd", "--listen", address.c_str(), nullptr);
        return 98;
    });
    CHECK(daemon.wait() == 1);
    std::ifstream file(said);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void check_one_line(const std::string& said, const std::string& address, const std::string& why) {
    INFO(said);
    CHECK(said.find('\n') == said.size() - 1);
    CHECK(said.find(address) != std::string::npos);
    CHECK(said.find(why) != std::string::npos);
}

int nothing() { return 0; }

/// As a container does it.
int refuse_io_uring() {
    return refuse_system_call(SYS_io_uring_setup) ? 0 : 1;
}

}  // namespace

TEST_CASE("an address on which a daemon answers: refused, and that daemon goes on") {
    DaemonFixture first;
    check_one_line(failing_start(first.address(), nothing), first.socket_path(),
                   "another daemon answers there");
    CHECK(::access(first.socket_path().c_str(), F_OK) == 0);
}

TEST_CASE("an address that is a file of somebody: refused, and the file stays") {
    const TempDir directory;
    const std::string path = directory.file("precious");
    write_file(path, "data");
    check_one_line(failing_start("unix:" + path, nothing), path, "is not a socket");
    struct stat status{};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    CHECK(status.st_size == 4);
}

TEST_CASE("a directory in which it may not make a socket") {
    if (!may_be_user(12345)) {
        MESSAGE("skipped: this process cannot become a user who may not");
        return;
    }
    const TempDir directory;
    REQUIRE(::chmod(directory.path().c_str(), 0755) == 0);
    const std::string path = directory.file("bus.sock");
    check_one_line(failing_start("unix:" + path, [] { return ::setuid(12345); }), path,
                   "Permission denied");
}

TEST_CASE("the second of two addresses cannot be had: the first is given up as well") {
    const TempDir directory;
    const std::string good = directory.file("bus.sock");
    const std::string bad = "/nonexistent/directory/bus.sock";
    write_file(directory.file("ipcbusd.toml"),
               "[listen]\nsockets = [\"unix:" + good + "\", \"unix:" + bad + "\"]\n");
    ChildProcess daemon =
        ChildProcess::run({daemon_program(), "-c", directory.file("ipcbusd.toml")});
    CHECK(daemon.wait() == 1);
    check_one_line(daemon.output(), bad, "No such file");
    CHECK(::access(good.c_str(), F_OK) != 0);
}

TEST_CASE("io_uring is refused, as many containers do") {
    const TempDir directory;
    const std::string path = directory.file("bus.sock");
    check_one_line(failing_start("unix:" + path, refuse_io_uring), "io_uring",
                   "Operation not permitted");
    CHECK(::access(path.c_str(), F_OK) != 0);
}
