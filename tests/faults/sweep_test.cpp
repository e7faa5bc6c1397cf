// SPDX-License-Identifier: Apache-2.0
// Goal: whatever system call or io_uring operation of a running daemon fails, the client concerned
// is told why (or notices nothing), the others go on, and once the fault is over everything is as
// it was. Method: for each call and error, a victim's whole life with the first such call failing,
// then with the second, until there are no more; then with all of them failing. After each: the
// witnesses, a new client, descriptors, memory; after each sweep the quotas.
// IPCBUS_TEST_ALL_FAULTS: all errors, and a daemon that keeps rings ready.
#include "scenario.hpp"

#include <doctest/doctest.h>

#include <cstring>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

enum class Notice {
    nobody,  ///< the daemon does without, or tries again
    told,    ///< the victim may fail, and is told of the error in words
    hung_up  ///< the victim may fail without a reason: none can be sent to it
};

struct Fault {
    Call call;
    int error;
    Notice notice;
    /// How many fail in a row when many do; fewer than kAlways where nobody could be served, or
    /// where the kernel says that only when there is something else to do.
    std::uint64_t many = kAlways;
    bool quick = true;
    /// What else fails, always: it is how the call is come by at all.
    Call with = Call::syscall_other;
    int with_error = 0;
};

constexpr bool kLong = false;

const Fault kFaults[] = {
    {Call::close, EIO, Notice::nobody},
    {Call::fallocate, ENOSPC, Notice::told},
    {Call::fallocate, ENOMEM, Notice::told, kAlways, kLong},
    {Call::fallocate, EINTR, Notice::nobody, 10},
    {Call::fchmod, ENOMEM, Notice::told, kAlways, kLong},
    {Call::fcntl_add_seals, ENOMEM, Notice::told},
    {Call::fcntl_get_seals, ENOMEM, Notice::told},
    {Call::fstat, ENOMEM, Notice::told, kAlways, kLong},
    {Call::ftruncate, ENOMEM, Notice::told},
    {Call::get_sqe, EAGAIN, Notice::nobody, 20},
    {Call::getrandom, EAGAIN, Notice::told},
    {Call::getrandom, EINTR, Notice::nobody, 10},
    {Call::getsockopt, ENOMEM, Notice::told},
    {Call::getsockopt_pidfd, EMFILE, Notice::told},
    {Call::getsockopt_pidfd, ENFILE, Notice::told, kAlways, kLong},
    {Call::getsockopt_pidfd, ENOPROTOOPT, Notice::nobody},
    {Call::pidfd_open, EMFILE, Notice::told, kAlways, true, Call::getsockopt_pidfd, ENOPROTOOPT},
    {Call::pidfd_open, ENOMEM, Notice::told, kAlways, kLong, Call::getsockopt_pidfd, ENOPROTOOPT},
    {Call::pidfd_open, ESRCH, Notice::nobody, kAlways, kLong, Call::getsockopt_pidfd, ENOPROTOOPT},
    {Call::io_uring_peek_batch, EAGAIN, Notice::nobody, 20},
    {Call::io_uring_submit_get, EBUSY, Notice::nobody, 20},
    {Call::io_uring_submit_get, EAGAIN, Notice::nobody, 20, kLong},
    {Call::io_uring_submit_get, EINTR, Notice::nobody, 20, kLong},
    {Call::io_uring_submit_wait, EAGAIN, Notice::nobody, 20},
    {Call::io_uring_submit_wait, EBUSY, Notice::nobody, 20, kLong},
    {Call::io_uring_submit_wait, EINTR, Notice::nobody, 20, kLong},
    {Call::ioctl, EINVAL, Notice::nobody},
    {Call::madvise, ENOMEM, Notice::told},
    {Call::madvise, EFAULT, Notice::told, kAlways, kLong},
    {Call::memfd_create, EMFILE, Notice::told},
    {Call::memfd_create, ENFILE, Notice::told, kAlways, kLong},
    {Call::memfd_create, ENOMEM, Notice::told, kAlways, kLong},
    {Call::mmap, ENOMEM, Notice::told},
    {Call::munmap, ENOMEM, Notice::nobody},
    {Call::op_close, EIO, Notice::nobody},
    {Call::op_fallocate, ENOSPC, Notice::told},
    {Call::op_fallocate, ENOMEM, Notice::told, kAlways, kLong},
    {Call::op_fallocate, EINTR, Notice::nobody, 10},
    {Call::op_poll, ENOMEM, Notice::told},
    {Call::op_recv, ENOMEM, Notice::told},
    {Call::op_recv, ENOBUFS, Notice::nobody, 10},
    {Call::op_recv, EINTR, Notice::nobody, 10, kLong},
    // Nothing can be sent, so nothing can be told. (EPIPE is left to the kernel: it says that only
    // when nobody is there any more.)
    {Call::op_sendmsg, ENOMEM, Notice::hung_up},
    {Call::op_sendmsg, ETOOMANYREFS, Notice::nobody, 3},
    {Call::op_sendmsg, EINTR, Notice::nobody, 10},
    {Call::op_sendmsg, 0, Notice::nobody},
    {Call::op_timeout, ENOMEM, Notice::nobody},
    {Call::open, EMFILE, Notice::told},
    {Call::open, ENFILE, Notice::told, kAlways, kLong},
    {Call::open, EACCES, Notice::told, kAlways, kLong},
    {Call::pwrite, ENOSPC, Notice::told},
    {Call::pwrite, 0, Notice::told},
};

/// Turns of the loop that a victim's life may cost. Without a fault it is about 60.
constexpr std::uint32_t kTurnsMax = 2000;

class Sweep {
public:
    Sweep(Scenario& scenario, const Fault& fault) : scenario_(scenario), fault_(fault) {}

    void run() {
        const std::string which =
            std::string(call_name(fault_.call)) + ": " + std::strerror(fault_.error);
        INFO(which);
        unsigned failures = 0;
        std::uint64_t number = 1;
        while (live(number, 1, failures)) {
            REQUIRE(number < 1000);
            number++;
        }
        CHECK(number > 1);  // it was made at all
        CHECK(live(1, fault_.many, failures));
        if (fault_.notice != Notice::nobody) {
            CHECK(failures > 0);
        }
        scenario_.check_quota();
    }

private:
    /// False: there were not so many calls, nothing has failed.
    bool live(std::uint64_t from, std::uint64_t count, unsigned& failures) {
        INFO("from the ", from, "th on ", count);
        FaultyDaemon& daemon = scenario_.daemon;
        if (fault_.with_error != 0) {
            daemon.arm(fault_.with, fault_.with_error, 1, kAlways);
        }
        daemon.arm(fault_.call, fault_.error, from, count);
        const std::uint32_t turns = daemon.block()->turns.load();
        const Outcome outcome = scenario_.victim();
        if (daemon.failed(fault_.call) > 0) {
            scenario_.settle();
        }
        CHECK(daemon.block()->turns.load() - turns < kTurnsMax);
        const bool hit = daemon.failed(fault_.call) > 0;
        if (hit) {
            judge(outcome, failures);
            scenario_.witnesses.talk();
            scenario_.witnesses.ask();
        }
        daemon.disarm();
        if (hit) {
            scenario_.check_recovery();
        }
        return hit;
    }

    void judge(const Outcome& outcome, unsigned& failures) {
        INFO(outcome.words());
        if (outcome.ok()) {
            return;
        }
        failures++;
        CHECK(fault_.notice != Notice::nobody);
        CHECK(is_documented(-outcome.code));
        if (fault_.notice == Notice::told) {
            const char* const why =
                fault_.error == 0 ? "not written whole" : std::strerror(fault_.error);
            CHECK(outcome.text.find(why) != std::string::npos);
        }
    }

    Scenario& scenario_;
    const Fault& fault_;
};

void sweep_all(unsigned rings_ready) {
    Scenario scenario(rings_ready);
    for (const Fault& fault : kFaults) {
        if (fault.quick || all_faults()) {
            Sweep(scenario, fault).run();
        }
    }
    CHECK(scenario.daemon.block()->unknown_operations.load() == 0);
    CHECK(scenario.daemon.calls(Call::syscall_other) == 0);
    CHECK(scenario.daemon.calls(Call::fcntl_other) == 0);
}

}  // namespace

TEST_CASE("each call of a running daemon fails once, and always, and nobody else notices") {
    sweep_all(0);
}

TEST_CASE("the same where rings are kept ready" * doctest::skip(!all_faults())) { sweep_all(2); }
