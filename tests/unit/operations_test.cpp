// SPDX-License-Identifier: Apache-2.0
// Goal: each kind of operation does what operations.hpp says, also when buffers run out, peers are
// slow or gone, and descriptors ride along. Method: a real io_uring, real sockets and processes.
#include "operations.hpp"

#include "loop_support.hpp"

#include "sys/clock.hpp"
#include "sys/fd_passing.hpp"
#include "sys/memfd.hpp"

#include <doctest/doctest.h>

#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <array>
#include <list>

using namespace ipcbus;
using namespace ipcbus::tests;
using daemon::EventLoop;
using daemon::OperationScope;
using sys::UniqueFd;

TEST_SUITE_BEGIN("operations");

TEST_CASE("accept: every connection arrives, close-on-exec and blocking") {
    const auto loop = make_loop();
    const UniqueFd listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    // An abstract name that the kernel chooses.
    REQUIRE(::bind(listening.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)) ==
            0);
    socklen_t bytes = sizeof address;
    REQUIRE(::getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address), &bytes) == 0);
    REQUIRE(::listen(listening.get(), 16) == 0);

    OperationScope scope(*loop);
    std::vector<UniqueFd> accepted;
    int error = -1;
    daemon::AcceptOperation accept(
        scope, [&](UniqueFd fd) { accepted.push_back(std::move(fd)); }, [&](int e) { error = e; });
    accept.start(listening.get());

    std::vector<UniqueFd> clients;
    for (int i = 0; i < 10; ++i) {
        clients.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(::connect(clients.back().get(), reinterpret_cast<sockaddr*>(&address), bytes) == 0);
    }
    CHECK(run_until(*loop, [&] { return accepted.size() == clients.size(); }));
    for (const UniqueFd& fd : accepted) {
        CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
        CHECK((::fcntl(fd.get(), F_GETFL) & O_NONBLOCK) == 0);
    }

    SUBCASE("cancelled, it says so and stays cancelled") {
        accept.cancel();
        CHECK(run_until(*loop, [&] { return error != -1; }));
        CHECK(error == ECANCELED);
        CHECK_FALSE(accept.submitted());
    }
    SUBCASE("what arrives while the owner closes is closed, not leaked") {
        const std::uint64_t before = open_descriptors();
        const UniqueFd late(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(::connect(late.get(), reinterpret_cast<sockaddr*>(&address), bytes) == 0);
        scope.close(nullptr);
        REQUIRE(loop->run_until_idle().ok());
        CHECK(accepted.size() == clients.size());
        CHECK(open_descriptors() == before + 1);
    }
}

TEST_CASE("recv: bytes before a hang-up come before it") {
    const auto loop = make_loop();
    Receiver receiver(*loop);
    Pair pair = socket_pair();
    receiver.recv.start(pair.ours.get());
    write_all(pair.theirs.get(), "hello ");
    CHECK(run_until(*loop, [&] { return receiver.text == "hello "; }));
    write_all(pair.theirs.get(), "world");
    pair.theirs.reset();
    CHECK(run_until(*loop, [&] { return receiver.end.has_value(); }));
    CHECK(receiver.text == "hello world");
    CHECK(*receiver.end == 0);
    CHECK_FALSE(receiver.recv.submitted());
}

TEST_CASE("recv and send wait, also on a non-blocking socket") {
    const auto loop = make_loop();
    const Pair pair = socket_pair();
    for (const UniqueFd* fd : {&pair.ours, &pair.theirs}) {
        REQUIRE(::fcntl(fd->get(), F_SETFL, O_NONBLOCK) == 0);
    }
    Receiver receiver(*loop);
    receiver.recv.start(pair.ours.get());
    CHECK(turns_of_a_while(*loop) == 1);
    CHECK_FALSE(receiver.end.has_value());

    OperationScope scope(*loop);
    std::optional<int> done;
    daemon::SendOperation send(scope, [&](int error) { done = error; });
    const std::size_t bytes = std::size_t{1} << 20;  // more than the socket takes at once
    send.start(pair.theirs.get(), std::vector<std::byte>(bytes));
    CHECK(run_until(*loop, [&] { return done.has_value() && receiver.text.size() == bytes; }));
    CHECK(*done == 0);
}

TEST_CASE("recv: running out of buffers loses nothing and does not spin") {
    // Two buffers of 64 bytes for four senders.
    const auto loop = make_loop({.recv_buffer_count = 2, .recv_buffer_bytes = 64});
    std::list<Receiver> receivers;
    std::vector<Pair> pairs;
    std::string sent;
    for (int i = 0; i < 20000; ++i) {
        sent += static_cast<char>('a' + i % 23);
    }
    for (int i = 0; i < 4; ++i) {
        pairs.push_back(socket_pair());
        receivers.emplace_back(*loop).recv.start(pairs.back().ours.get());
        write_all(pairs.back().theirs.get(), sent);
    }
    CHECK(run_until(*loop, [&] {
        for (const Receiver& receiver : receivers) {
            if (receiver.text.size() < sent.size()) {
                return false;
            }
        }
        return true;
    }));
    for (const Receiver& receiver : receivers) {
        CHECK(receiver.text == sent);
        CHECK_FALSE(receiver.end.has_value());
    }
    // Each turn moves at least one buffer; a few are spent on rearming.
    CHECK(loop->turns() <= 2 * (4 * sent.size() / 64) + 16);
    // And now it is quiet: rearming left nothing behind that wakes the loop.
    CHECK(turns_of_a_while(*loop) == 1);
}

TEST_CASE("recv: descriptors that a peer passes vanish") {
    const auto loop = make_loop();
    Receiver receiver(*loop);
    const Pair pair = socket_pair();
    receiver.recv.start(pair.ours.get());
    const std::uint64_t before = open_descriptors();
    const int passed[] = {0, 1, 2};
    REQUIRE(sys::send_with_fds(pair.theirs.get(), bytes_of("take these"), passed).ok());
    CHECK(run_until(*loop, [&] { return receiver.text == "take these"; }));
    CHECK(open_descriptors() == before);
}

TEST_CASE("send: with descriptors, whose owners may let go at once") {
    const auto loop = make_loop();
    OperationScope scope(*loop);
    std::optional<int> done;
    daemon::SendOperation send(scope, [&](int error) { done = error; });
    const Pair pair = socket_pair();

    auto memory = sys::create_memfd("event_loop_test", 4096);
    REQUIRE(memory.ok());
    struct stat original{};
    REQUIRE(::fstat(memory.value().get(), &original) == 0);
    send.start(pair.ours.get(), bytes_of("frame"), {daemon::share(std::move(memory).value())});
    CHECK(run_until(*loop, [&] { return done.has_value(); }));
    CHECK(*done == 0);
    CHECK(send.bytes_sent() == 5);

    std::array<std::byte, 64> buffer{};
    std::vector<UniqueFd> fds;
    const auto got = sys::receive_with_fds(pair.theirs.get(), buffer, fds, true);
    REQUIRE(got.ok());
    CHECK(got.value() == 5);
    REQUIRE(fds.size() == 1);
    struct stat received{};
    REQUIRE(::fstat(fds[0].get(), &received) == 0);
    CHECK(received.st_ino == original.st_ino);
}

TEST_CASE("send: a large one to a slow reader arrives whole, its descriptor once") {
    const auto loop = make_loop();
    OperationScope scope(*loop);
    std::optional<int> done;
    daemon::SendOperation send(scope, [&](int error) { done = error; });
    const Pair pair = socket_pair();
    std::string text;
    for (int i = 0; text.size() < (std::size_t{2} << 20); ++i) {
        text += std::to_string(i) + ",";
    }
    send.start(pair.ours.get(), bytes_of(text),
               {daemon::share(UniqueFd(::fcntl(0, F_DUPFD_CLOEXEC, 3)))});

    std::string received;
    std::vector<UniqueFd> fds;
    std::vector<std::byte> buffer(65536);
    CHECK(run_until(*loop, [&] {
        loop->defer([] {});  // keeps the loop turning: the reader is this same thread
        const auto got = sys::receive_with_fds(pair.theirs.get(), buffer, fds, true);
        if (got.ok()) {
            received.append(reinterpret_cast<const char*>(buffer.data()), got.value());
        }
        return received.size() == text.size();
    }));
    CHECK(run_until(*loop, [&] { return done.has_value(); }));
    CHECK(*done == 0);
    CHECK(received == text);
    CHECK(fds.size() == 1);
}

TEST_CASE("send: to a peer that is gone is EPIPE, not a signal") {
    const auto loop = make_loop();
    OperationScope scope(*loop);
    std::optional<int> done;
    daemon::SendOperation send(scope, [&](int error) { done = error; });
    Pair pair = socket_pair();
    pair.theirs.reset();
    send.start(pair.ours.get(), bytes_of("x"));
    CHECK(run_until(*loop, [&] { return done.has_value(); }));
    CHECK(*done == EPIPE);
}

TEST_CASE("timer: expires once, not early; restart and stop") {
    const auto loop = make_loop();
    OperationScope scope(*loop);
    int expiries = 0;
    daemon::Timer timer(scope, [&] { ++expiries; });

    const std::int64_t begin_ns = sys::monotonic_ns();
    timer.start(20 * kMillisecond_ns);
    CHECK(timer.running());
    CHECK(run_until(*loop, [&] { return expiries == 1; }));
    CHECK(sys::monotonic_ns() - begin_ns >= 20 * kMillisecond_ns);
    CHECK_FALSE(timer.running());

    SUBCASE("set anew to later, it does not expire at the old time") {
        const std::int64_t again_ns = sys::monotonic_ns();
        timer.start(5 * kMillisecond_ns);
        REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
        timer.start(40 * kMillisecond_ns);
        CHECK(run_until(*loop, [&] { return expiries == 2; }));
        CHECK(sys::monotonic_ns() - again_ns >= 40 * kMillisecond_ns);
    }
    SUBCASE("set anew to earlier") {
        timer.start(1000 * kLimit_ns);
        REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
        timer.start(kMillisecond_ns);
        CHECK(run_until(*loop, [&] { return expiries == 2; }));
    }
    SUBCASE("stopped after its time had passed, it stays silent") {
        timer.start(kMillisecond_ns);
        REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
        (void)::poll(nullptr, 0, 5);
        timer.stop();
        REQUIRE(loop->run_until_idle().ok());
        CHECK(expiries == 1);
    }
    SUBCASE("stopped and started in one turn") {
        timer.start(1000 * kLimit_ns);
        timer.stop();
        timer.start(kMillisecond_ns);
        CHECK(run_until(*loop, [&] { return expiries == 2; }));
    }
    SUBCASE("it may start itself from its callback") {
        std::optional<daemon::Timer> periodic;
        periodic.emplace(scope, [&] {
            if (++expiries < 6) {
                periodic->start(kMillisecond_ns);
            }
        });
        periodic->start(kMillisecond_ns);
        CHECK(run_until(*loop, [&] { return expiries == 6; }));
    }
}

TEST_CASE("poll: the death of a process, by its pidfd") {
    const auto loop = make_loop();
    OperationScope scope(*loop);
    std::optional<int> ready;
    daemon::PollOperation poll(scope, [&](int error) { ready = error; });
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        ::pause();
        ::_exit(0);
    }
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
    REQUIRE(pidfd.valid());
    poll.start(pidfd.get(), POLLIN);
    REQUIRE(loop->run_once(EventLoop::Wait::poll).ok());
    CHECK_FALSE(ready.has_value());
    REQUIRE(::kill(child, SIGKILL) == 0);
    CHECK(run_until(*loop, [&] { return ready.has_value(); }));
    CHECK(*ready == 0);
    CHECK(::waitpid(child, nullptr, 0) == child);
}

TEST_CASE("fallocate and close happen on a worker") {
    const auto loop = make_loop();
    OperationScope scope(*loop);
    std::optional<int> done;
    daemon::FallocateOperation fallocate(scope, [&](int error) { done = error; });
    auto memory = sys::create_memfd("event_loop_test", std::uint64_t{4} << 20);
    REQUIRE(memory.ok());
    const int fd = memory.value().get();
    fallocate.start(daemon::share(std::move(memory).value()), 0, std::uint64_t{4} << 20);
    struct stat status{};
    REQUIRE(::fstat(fd, &status) == 0);
    CHECK(run_until(*loop, [&] { return done.has_value(); }));
    CHECK(*done == 0);
    CHECK(::fcntl(fd, F_GETFD) < 0);  // the operation held the last reference

    Pair pair = socket_pair();
    Receiver receiver(*loop);
    receiver.recv.start(pair.ours.get());
    loop->close_async(std::move(pair.theirs));
    CHECK(run_until(*loop, [&] { return receiver.end.has_value(); }));
    CHECK(*receiver.end == 0);
    REQUIRE(loop->run_until_idle().ok());
}

TEST_CASE("fallocate reports what the file cannot have") {
    const auto loop = make_loop();
    OperationScope scope(*loop);
    std::optional<int> done;
    daemon::FallocateOperation fallocate(scope, [&](int error) { done = error; });
    auto memory = sys::create_memfd("event_loop_test", 4096);
    REQUIRE(memory.ok());
    REQUIRE(sys::add_seals(memory.value().get(), sys::kSealsAtBirth).ok());
    fallocate.start(daemon::share(std::move(memory).value()), 0, 8192);
    CHECK(run_until(*loop, [&] { return done.has_value(); }));
    CHECK(*done == EPERM);
}

TEST_SUITE_END();
