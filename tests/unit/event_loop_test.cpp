// SPDX-License-Identifier: Apache-2.0
// Goal: no operation is lost, none outlives its owner, nothing spins, nothing wakes an idle loop.
// Method: a real io_uring, real sockets and timers; each test runs turns until what it waits for
// has happened, with a timer as the limit. Single-threaded, as the daemon is.
#include "event_loop.hpp"

#include "loop_support.hpp"
#include "operations.hpp"

#include <doctest/doctest.h>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <deque>

using namespace ipcbus;
using namespace ipcbus::tests;
using daemon::EventLoop;
using daemon::OperationScope;
using sys::UniqueFd;

namespace {

/// What EventLoop::create says in a process whose io_uring_setup fails with `error`, as a container
/// makes it fail; by exit status: 0 it is one line that contains `word`.
int refused_with(int error, const char* word) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        std::array<sock_filter, 4> filter = {{
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        }};
        const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
        if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
            ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
            ::_exit(2);
        }
        const auto loop = EventLoop::create();
        const bool good = !loop.ok() && loop.error().code == error &&
                          loop.error().what.find('\n') == std::string::npos &&
                          loop.error().what.find(word) != std::string::npos;
        ::_exit(good ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_SUITE_BEGIN("event_loop");

TEST_CASE("cancel: by operation and by descriptor") {
    const auto loop = make_loop();
    Receiver receiver(*loop);
    const Pair pair = socket_pair();
    receiver.recv.start(pair.ours.get());
    SUBCASE("at once, before the kernel has seen it") { receiver.recv.cancel(); }
    SUBCASE("while it waits") {
        REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
        receiver.recv.cancel();
        receiver.recv.cancel();
    }
    SUBCASE("by descriptor") {
        REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
        loop->cancel_fd(pair.ours.get());
    }
    CHECK(run_until(*loop, [&] { return receiver.end.has_value(); }));
    CHECK(*receiver.end == ECANCELED);
    // It can be started again, and works.
    receiver.end.reset();
    receiver.recv.start(pair.ours.get());
    write_all(pair.theirs.get(), "again");
    CHECK(run_until(*loop, [&] { return receiver.text == "again"; }));
}

TEST_CASE("cancel from the callback keeps a multishot from rearming") {
    const auto loop = make_loop({.recv_buffer_count = 1, .recv_buffer_bytes = 16});
    OperationScope scope(*loop);
    std::optional<int> end;
    std::size_t calls = 0;
    std::optional<daemon::RecvOperation> recv;
    recv.emplace(
        scope,
        [&](std::span<const std::byte>) {
            ++calls;
            recv->cancel();
        },
        [&](int error) { end = error; });
    const Pair pair = socket_pair();
    write_all(pair.theirs.get(), std::string(64, 'x'));
    recv->start(pair.ours.get());
    CHECK(run_until(*loop, [&] { return end.has_value(); }));
    CHECK(*end == ECANCELED);
    CHECK(calls == 1);
}

TEST_CASE("scope: closed with everything in flight, the owner goes when the kernel is done") {
    const auto loop = make_loop();
    struct Owner {
        Owner(EventLoop& loop, int& calls_of)
            : calls(calls_of),
              scope(loop),
              recv(
                  scope, [this](auto) { ++calls; }, [this](int) { ++calls; }),
              send(scope, [this](int) { ++calls; }),
              timer(scope, [this] { ++calls; }),
              poll(scope, [this](int) { ++calls; }) {}
        int& calls;
        OperationScope scope;
        daemon::RecvOperation recv;
        daemon::SendOperation send;
        daemon::Timer timer;
        daemon::PollOperation poll;
    };
    int calls = 0;
    auto owner = std::make_unique<Owner>(*loop, calls);
    Pair pair = socket_pair();
    owner->recv.start(pair.ours.get());
    owner->send.start(pair.ours.get(), std::vector<std::byte>(std::size_t{8} << 20));  // stuck
    owner->timer.start(1000 * kLimit_ns);
    owner->poll.start(pair.theirs.get(), POLLHUP);
    REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
    CHECK(owner->scope.submitted_count() == 4);
    write_all(pair.theirs.get(), "too late");

    bool closed = false;
    owner->scope.close([&] {
        CHECK(owner->scope.submitted_count() == 0);
        closed = true;
        owner.reset();
    });
    CHECK_FALSE(closed);
    owner->timer.start(1);  // ignored
    CHECK(run_until(*loop, [&] { return closed; }));
    CHECK(calls == 0);
    CHECK(loop->submitted_count() == 0);
}

TEST_CASE("scope: closed with nothing in flight, and closed from a callback") {
    const auto loop = make_loop();
    int closed = 0;
    auto scope = std::make_unique<OperationScope>(*loop);
    scope->close([&] { ++closed; });
    scope->close([&] { closed += 100; });
    CHECK(closed == 0);
    REQUIRE(loop->run_once().ok());  // does not block: something is deferred
    CHECK(closed == 1);

    OperationScope other(*loop);
    daemon::Timer timer(other, [&] { other.close([&] { ++closed; }); });
    timer.start(1);
    CHECK(run_until(*loop, [&] { return closed == 2; }));

    // An owner that dies between close() and the end of the turn takes its callback with it.
    scope = std::make_unique<OperationScope>(*loop);
    scope->close([&] { ++closed; });
    scope.reset();
    REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
    CHECK(closed == 2);
}

TEST_CASE("destructors wait for what is in flight") {
    const auto loop = make_loop();
    const Pair pair = socket_pair();
    {
        Receiver receiver(*loop);
        receiver.recv.start(pair.ours.get());
        OperationScope scope(*loop);
        daemon::SendOperation send(scope, [](int) { FAIL("called back after its end"); });
        send.start(pair.ours.get(), std::vector<std::byte>(std::size_t{8} << 20));
        REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
        daemon::Timer never_seen(scope, [] { FAIL("called back after its end"); });
        never_seen.start(1);
    }
    CHECK(loop->submitted_count() == 0);
    REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
}

TEST_CASE("what waiting for one operation has brought of others is not waited for again") {
    // As when a start fails: rings are on their way out while the rest of the daemon is destroyed.
    auto loop = make_loop();
    Pair pair = socket_pair();
    const Pair silent = socket_pair();
    loop->close_async(std::move(pair.theirs));
    {
        OperationScope scope(*loop);
        std::deque<daemon::PollOperation> polls;
        for (int i = 0; i < 20; ++i) {
            polls.emplace_back(scope, [](int) { FAIL("nothing is to be read"); });
            polls.back().start(silent.ours.get(), POLLIN);
        }
        polls.pop_back();  // submits all, the closing as well
        char byte;
        REQUIRE(::read(pair.ours.get(), &byte, 1) == 0);  // a worker has closed it
        polls.clear();                                    // by now its completion has come, too
    }
    loop.reset();
}

TEST_CASE("full queues lose nothing") {
    // 500 timers and their cancellations through 4 submission and 8 completion entries.
    const auto loop = make_loop({.submission_entries = 4, .completion_entries = 8});
    OperationScope scope(*loop);
    std::size_t expired = 0;
    std::deque<daemon::Timer> timers;
    for (int i = 0; i < 500; ++i) {
        timers.emplace_back(scope, [&] { ++expired; });
    }
    for (daemon::Timer& timer : timers) {
        timer.start(kMillisecond_ns);
    }
    CHECK(run_until(*loop, [&] { return expired == timers.size(); }));
    for (daemon::Timer& timer : timers) {
        timer.start(1000 * kLimit_ns);
    }
    REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
    bool closed = false;
    scope.close([&] { closed = true; });
    CHECK(run_until(*loop, [&] { return closed; }));
    CHECK(expired == timers.size());
    CHECK(loop->submitted_count() == 0);
}

TEST_CASE("callbacks never run inside one another") {
    const auto loop = make_loop();
    OperationScope scope(*loop);
    int depth = 0;
    int deepest = 0;
    int left = 100;
    std::deque<daemon::Timer> timers;
    for (int i = 0; i < 10; ++i) {
        timers.emplace_back(scope, [&, i] {
            deepest = std::max(deepest, ++depth);
            if (left > 0) {
                --left;
                timers[static_cast<std::size_t>(i)].start(0);
            }
            loop->defer([&] { deepest = std::max(deepest, depth + 1); });
            --depth;
        });
    }
    for (daemon::Timer& timer : timers) {
        timer.start(0);
    }
    CHECK(run_until(*loop, [&] { return left == 0; }));
    CHECK(deepest == 1);
    scope.close(nullptr);
    REQUIRE(loop->run_until_idle().ok());
}

TEST_CASE("an idle loop takes no turns") {
    const auto loop = make_loop();
    Receiver receiver(*loop);
    const Pair pair = socket_pair();
    receiver.recv.start(pair.ours.get());
    write_all(pair.theirs.get(), "once");
    CHECK(run_until(*loop, [&] { return receiver.text == "once"; }));
    REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());

    CHECK(turns_of_a_while(*loop) == 1);
}

TEST_CASE("a refused io_uring is one line that says what to do") {
    CHECK(refused_with(EPERM, "seccomp") == 0);
    CHECK(refused_with(ENOSYS, "seccomp") == 0);
    CHECK(refused_with(ENOMEM, "LimitMEMLOCK") == 0);
    CHECK(refused_with(EMFILE, "LimitNOFILE") == 0);
    CHECK(refused_with(EINVAL, "Linux 6.1") == 0);
}

TEST_SUITE_END();
