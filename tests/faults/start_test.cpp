// SPDX-License-Identifier: Apache-2.0
// Goal: a daemon that cannot start says why in a line and exits with 1; one that starts although
// something has failed serves. The same for its end and for a reload. Method: it is started once
// for each call that it makes on the way, which fails; then once with all calls of a kind failing.
#include "scenario.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

struct StartFault {
    Call call;
    int error;
    /// Whether it starts when all such calls fail.
    bool starts_without;
    /// What it says then, if not the error in words.
    const char* says = nullptr;
};

const char* const kConfig =
    "[[rule]]\nuser = \"root\"\ngroup = \"root\"\ndeny = \"publish\"\nfilter = \"none\"\n";

const StartFault kStartFaults[] = {
    {Call::bind, EACCES, false},
    {Call::bind, ENOSPC, false},
    {Call::close, EIO, true},
    {Call::fallocate, ENOSPC, true},
    {Call::fchmod, EPERM, false},
    {Call::fcntl_add_seals, ENOMEM, true},
    {Call::flock, ENOLCK, true},
    {Call::fstat, ENOMEM, false},
    {Call::ftruncate, ENOSPC, true},
    {Call::getgrnam_r, EIO, false},
    {Call::getpwnam_r, EMFILE, false},
    {Call::getrandom, ENOSYS, false},
    {Call::getrlimit, EFAULT, false},
    {Call::io_uring_probe, ENOMEM, false, "io_uring_register is refused"},
    {Call::io_uring_queue_init, EPERM, false},
    {Call::io_uring_queue_init, ENOSYS, false},
    {Call::io_uring_queue_init, ENOMEM, false},
    {Call::io_uring_queue_init, EMFILE, false},
    {Call::io_uring_queue_init, EINVAL, false, "io_uring is too old"},
    {Call::io_uring_register_buf, EINVAL, false, "no provided buffer rings"},
    {Call::io_uring_register_buf, ENOMEM, false},
    {Call::io_uring_register_work, EINVAL, true},
    {Call::listen, EADDRINUSE, false},
    {Call::lstat, EACCES, true},
    {Call::madvise, ENOMEM, true},
    {Call::memfd_create, EMFILE, true},
    {Call::mkdir, EROFS, true},
    {Call::mmap, ENOMEM, false},
    {Call::open, EMFILE, false},
    {Call::read, EIO, false},
    {Call::sd_listen_fds, EINVAL, false},
    {Call::sd_notify, ECONNREFUSED, true},
    {Call::sd_watchdog, EINVAL, true},
    {Call::signal, EINVAL, false},
    {Call::signalfd, EMFILE, false},
    {Call::sigprocmask, EINVAL, false},
    {Call::socket, EMFILE, false},
    {Call::write, EIO, true},
    {Call::write, 0, true},
};

/// Where an earlier daemon has left its socket.
const StartFault kStaleSocketFaults[] = {
    {Call::connect, EACCES, false, "another daemon answers there"},
    {Call::lstat, EACCES, false},
    {Call::setsockopt, ENOMEM, false, "another daemon answers there"},
    {Call::unlink, EROFS, false},
};

/// Started with that fault, it serves, or has said why not. True: it serves.
bool starts(FaultyDaemon& daemon, const StartFault& fault) {
    (void)daemon.start();
    ipcbus_connect_options options = IPCBUS_INIT(options);
    const std::string address = daemon.address();
    options.address = address.c_str();
    ipcbus_bus* bus = nullptr;
    daemon.disarm();
    if (daemon.process().running() && ipcbus_connect(&options, &bus) == 0) {
        ipcbus_close(bus);
        CHECK(daemon.stop().value_or(-1) == 0);
        return true;
    }
    CHECK(daemon.process().wait().value_or(-1) == 1);
    const std::string& said = daemon.process().output();
    INFO(said);
    const char* const wanted = fault.says != nullptr ? fault.says : std::strerror(fault.error);
    CHECK(said.find(wanted) != std::string::npos);
    return false;
}

void leave_socket(const std::string& path) {
    const sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
}

void sweep(const StartFault& fault, bool stale_socket) {
    const std::string which =
        std::string(call_name(fault.call)) + ": " + std::strerror(fault.error);
    INFO(which);
    std::uint64_t number = 1;
    for (;; number++) {
        INFO("the ", number, "th");
        REQUIRE(number < 200);
        FaultyDaemon daemon(kConfig);
        if (stale_socket) {
            leave_socket(daemon.socket_path());
        }
        daemon.arm(fault.call, fault.error, number, 1);
        const bool good = starts(daemon, fault);
        if (daemon.failed(fault.call) == 0) {
            CHECK(good);
            break;
        }
    }
    CHECK(number > 1);
    FaultyDaemon daemon(kConfig);
    if (stale_socket) {
        leave_socket(daemon.socket_path());
    }
    daemon.arm(fault.call, fault.error, 1, kAlways);
    CHECK(starts(daemon, fault) == fault.starts_without);
}

}  // namespace

TEST_CASE("a start in which a call fails succeeds, or says why not") {
    for (const StartFault& fault : kStartFaults) {
        sweep(fault, false);
    }
}

TEST_CASE("so does one that finds the socket of a dead daemon") {
    for (const StartFault& fault : kStaleSocketFaults) {
        sweep(fault, true);
    }
}

TEST_CASE("a reload in which a call fails leaves a daemon that serves") {
    FaultyDaemon daemon;
    daemon.must_start();
    for (const Call call :
         {Call::open, Call::read, Call::fstat, Call::getrlimit, Call::write, Call::sd_notify}) {
        const std::string which = call_name(call);
        INFO(which);
        // Signals are read, too: it may well wait for them as long as it cannot.
        const std::uint64_t most = call == Call::read ? 2 : kAlways;
        for (const std::uint64_t count : {std::uint64_t{1}, most}) {
            daemon.arm(Call::sd_notify, EIO, 1, 0);
            daemon.arm(call, EIO, 1, count);
            daemon.process().signal(SIGHUP);
            // That it begins, and that it is over, is told twice, whatever comes of it.
            CHECK(daemon.wait_until([&] { return daemon.calls(Call::sd_notify) >= 2; }));
            daemon.disarm();
            const Bus bus = connect(daemon.address());
        }
    }
    CHECK(daemon.stop().value_or(-1) == 0);
}

TEST_CASE("an end in which a call fails is an end") {
    for (const Call call : {Call::close, Call::lstat, Call::munmap, Call::sd_notify, Call::shutdown,
                            Call::unlink, Call::write}) {
        const std::string which = call_name(call);
        INFO(which);
        Scenario scenario;
        scenario.daemon.block()->spared_pids[0] = 0;
        scenario.daemon.arm(call, EIO, 1, kAlways);
        scenario.witnesses.stop_sleeping();
        scenario.daemon.process().signal(SIGTERM);
        scenario.daemon.process().signal(SIGINT);
        CHECK(scenario.daemon.process().wait().value_or(-1) == 0);
        CHECK(scenario.daemon.failed(call) > 0);
    }
}
