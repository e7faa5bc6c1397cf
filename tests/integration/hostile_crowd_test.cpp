// SPDX-License-Identifier: Apache-2.0
// Goal: many hostile connections at once: half open, silent, reading nothing, passing descriptors,
// kept open by forked children. The daemon's memory, descriptors and CPU time stay within bounds,
// and who is honest is served beside it.
// Method: a private ipcbusd, thousands of raw sockets; bystanders.
// Bounds: one uid has half of limits.clients connections, the next one is refused with the key's
// name, another uid connects. A connection that has said nothing yet costs the daemon 4 KiB, two
// descriptors and 300 us of CPU at most, refused or not; one that reads nothing, 200 KiB; one whose
// process is dead, two descriptors, as long as a child of it keeps the other end open.
#include "bus_client.hpp"
#include "bystanders.hpp"
#include "daemon_fixture.hpp"
#include "ledger.hpp"
#include "raw_client.hpp"

#include "sys/address.hpp"
#include "sys/clock.hpp"
#include "sys/fd_passing.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

namespace {

Ledger ledger(DaemonFixture& daemon) { return Ledger::of(daemon.process().pid()); }
std::int64_t used_ns(DaemonFixture& daemon) { return cpu_ns(daemon.process().pid()); }

/// Until the daemon has let go of what has gone; asks `watcher` again and again meanwhile.
void expect_back_to(DaemonFixture& daemon, const Ledger& before, RawClient& watcher) {
    const auto is_back = [&](const Ledger& now) {
        return now.descriptors <= before.descriptors && now.operations <= before.operations &&
               now.memfd_bytes <= before.memfd_bytes;
    };
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (!is_back(ledger(daemon)) && !deadline.passed()) {
        watcher.expect_nothing();
    }
    const Ledger after = ledger(daemon);
    INFO("before: ", before.text(), "; after: ", after.text());
    CHECK(is_back(after));
}

/// What the other uid's connection was told; "" if it is welcome.
std::string asked_as_another_uid(const std::string& socket_path) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const sys::UniqueFd read_end(ends[0]);
    sys::UniqueFd write_end(ends[1]);
    ChildProcess child = ChildProcess::fork([&] {
        if (::setuid(12345) != 0) {
            return 1;
        }
        auto socket = sys::connect_unix(socket_path, kLongNs);
        std::vector<std::byte> hello;
        protocol::encode(hello, protocol::Hello{}, 1);
        std::byte answer[600];
        if (!socket.ok() || ::send(socket.value().get(), hello.data(), hello.size(), 0) < 0 ||
            ::recv(socket.value().get(), answer, sizeof(answer), 0) < 16) {
            return 2;
        }
        return static_cast<int>(answer[4]) == static_cast<int>(protocol::FrameType::welcome) ? 0
                                                                                             : 3;
    });
    const int status = child.wait().value_or(-1);
    return status == 0 ? "" : "status " + std::to_string(status);
}

/// The rest of what a connection has been told, in pieces that are not interpreted.
std::string told(int socket) {
    std::string text;
    char buffer[1024];
    for (;;) {
        const ssize_t got = ::recv(socket, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (got <= 0) {
            return text;
        }
        text.append(buffer, static_cast<std::size_t>(got));
    }
}

}  // namespace

TEST_CASE("10,000 half-open connections") {
    constexpr std::size_t kConnections = 10'000;
    rlimit descriptors{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &descriptors) == 0);
    const rlimit before_limit = descriptors;
    descriptors.rlim_cur = descriptors.rlim_max;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &descriptors) == 0);
    if (descriptors.rlim_cur < kConnections + 200) {
        MESSAGE("skipped: RLIMIT_NOFILE is ", descriptors.rlim_cur);
        return;
    }
    // The limit of connections at once, not that of connections in a second.
    DaemonFixture daemon("[limits.per_uid]\nconnects_per_second = 1000000\n");
    REQUIRE(::chmod(daemon.directory().path().c_str(), 0711) == 0);
    RawClient watcher = RawClient::on_bus(daemon.socket_path(), "watcher");
    watcher.expect_nothing();
    Bystanders bystanders(daemon.address());
    const Ledger before = ledger(daemon);
    const std::int64_t cpu_before_ns = used_ns(daemon);
    std::vector<std::byte> hello;
    protocol::encode(hello, protocol::Hello{}, 1);
    std::vector<sys::UniqueFd> sockets;
    for (std::size_t i = 0; i < kConnections; i++) {
        auto socket = sys::connect_unix(daemon.socket_path(), kLongNs);
        REQUIRE(socket.ok());
        // Silent, or in the middle of its first frame. Refused ones are closed already.
        if (i % 2 == 1) {
            (void)::send(socket.value().get(), hello.data(), i % hello.size(), MSG_NOSIGNAL);
        }
        sockets.push_back(std::move(socket).value());
    }
    watcher.expect_nothing();
    // limits.clients is 4096; of them a uid may have half.
    pollfd entry{sockets.back().get(), POLLIN, 0};
    REQUIRE(::poll(&entry, 1, kTimeoutMs) == 1);
    const std::string refusal = told(sockets.back().get());
    CHECK(refusal.find("limits.per_uid.clients") != std::string::npos);
    const auto refused = static_cast<std::size_t>(
        std::count_if(sockets.begin(), sockets.end(), [](const sys::UniqueFd& socket) {
            pollfd one{socket.get(), POLLIN, 0};
            return ::poll(&one, 1, 0) == 1;
        }));
    const std::size_t open = kConnections - refused;
    // What was refused is closed in its turn.
    const std::size_t descriptors_max = before.descriptors + 2 * open + 8;
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (ledger(daemon).descriptors > descriptors_max && !deadline.passed()) {
        watcher.expect_nothing();
    }
    const Ledger during = ledger(daemon);
    const std::int64_t cpu_ns_each =
        (used_ns(daemon) - cpu_before_ns) / static_cast<std::int64_t>(kConnections);
    INFO("before: ", before.text(), "; during: ", during.text());
    CHECK(open <= 2048);
    CHECK(open >= 1900);  // the watcher and the bystanders are of this uid, too
    CHECK(during.descriptors <= descriptors_max);
    if (!kSanitized) {
        CHECK(during.own_bytes <= before.own_bytes + 4096 * kConnections + (1 << 20));
        CHECK(cpu_ns_each < 300'000 * patience());
    }
    if (may_be_user(12345)) {
        CHECK(asked_as_another_uid(daemon.socket_path()).empty());
    } else {
        MESSAGE("another uid: skipped, this process cannot become one");
    }
    bystanders.expect_trips();
    sockets.clear();
    expect_back_to(daemon, before, watcher);
    RawClient::on_bus(daemon.socket_path()).expect_nothing();
    (void)::setrlimit(RLIMIT_NOFILE, &before_limit);
    const std::uint64_t more = during.own_bytes - before.own_bytes;
    MESSAGE(open, " open, ", refused, " refused, ", more / kConnections, " bytes and ",
            cpu_ns_each / 1000, " us of CPU each; the longest trip ",
            bystanders.longest_trip_ns() / 1000, " us");
}

TEST_CASE("many who ask and read nothing: memory has a bound") {
    constexpr std::size_t kDeaf = 100;
    DaemonFixture daemon;
    RawClient watcher = RawClient::on_bus(daemon.socket_path(), "watcher");
    Bystanders bystanders(daemon.address());
    watcher.expect_nothing();
    const Ledger before = ledger(daemon);
    std::vector<std::byte> bytes;
    protocol::encode(bytes, protocol::Hello{}, 1);
    protocol::encode(bytes, protocol::Mapped{0}, 0);
    std::vector<std::byte> questions;
    for (u64 i = 0; i < 500; i++) {
        protocol::encode(questions, protocol::Unsubscribe{i}, 100 + i);
    }
    std::uint64_t most_bytes = 0;
    {
        std::vector<sys::UniqueFd> deaf;
        std::size_t cut_off = 0;
        for (std::size_t i = 0; i < kDeaf; i++) {
            auto socket = sys::connect_unix(daemon.socket_path(), kLongNs);
            REQUIRE(socket.ok());
            (void)::send(socket.value().get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            deaf.push_back(std::move(socket).value());
        }
        // Until all have been cut off, as much as each can take at a time.
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        std::vector<bool> over(kDeaf);
        while (cut_off < kDeaf && !deadline.passed()) {
            for (std::size_t i = 0; i < kDeaf; i++) {
                if (!over[i] &&
                    ::send(deaf[i].get(), questions.data(), questions.size(),
                           MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
                    errno != EAGAIN) {
                    over[i] = true;
                    cut_off++;
                }
            }
            most_bytes = std::max(most_bytes, ledger(daemon).own_bytes);
            watcher.expect_nothing();
        }
        CHECK(cut_off == kDeaf);
        if (!kSanitized) {
            // 0.3 % more than the bound with 1 MiB has been seen under an emulated kernel.
            const std::size_t slack = patience() == 1 ? 1 << 20 : 2 << 20;
            CHECK(most_bytes <= before.own_bytes + kDeaf * 200 * 1024 + slack);
        }
        bystanders.expect_trips();
    }
    expect_back_to(daemon, before, watcher);
    const std::uint64_t more = most_bytes - std::min(most_bytes, before.own_bytes);
    MESSAGE("KiB each: ", more / kDeaf / 1024);
}

TEST_CASE("descriptors in every message, also before HELLO, also the connection itself") {
    DaemonFixture daemon;
    Bystanders bystanders(daemon.address());
    RawClient watcher = RawClient::on_bus(daemon.socket_path(), "watcher");
    watcher.expect_nothing();
    const Ledger before = ledger(daemon);
    std::vector<std::byte> hello;
    protocol::encode(hello, protocol::Hello{}, 1);
    for (int round = 0; round < 50; round++) {
        RawClient client(daemon.socket_path());
        std::vector<int> fds(round % 2 == 0 ? 253 : 1, client.socket());
        // A byte with each load, up to the middle of the frame, or all of it.
        const std::size_t bytes = round % 3 == 0 ? hello.size() / 2 : hello.size();
        for (std::size_t i = 0; i < bytes; i++) {
            const auto sent = sys::send_with_fds(client.socket(), {&hello[i], 1}, fds);
            if (!sent.ok()) {  // too many of this uid are on the way: the kernel's own bound
                CHECK(sent.error().code == ETOOMANYREFS);
                client.send_bytes({&hello[i], 1});
            }
        }
        if (bytes == hello.size()) {
            (void)client.expect<protocol::Welcome>();
            CHECK(ledger(daemon).descriptors <= before.descriptors + 2 * 5 + 2);
        }
    }
    expect_back_to(daemon, before, watcher);
    bystanders.expect_trips();
}

TEST_CASE("forked children that keep the sockets of dead clients keep nothing else") {
    constexpr std::size_t kChildren = 50;
    DaemonFixture daemon;
    Bystanders bystanders(daemon.address());
    RawClient watcher = RawClient::on_bus(daemon.socket_path(), "watcher");
    watcher.expect_nothing();
    const Ledger before = ledger(daemon);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const sys::UniqueFd read_end(ends[0]);
    sys::UniqueFd write_end(ends[1]);  // closed: the children end
    for (std::size_t i = 0; i < kChildren; i++) {
        ChildProcess client = ChildProcess::fork([&] {
            const Bus bus = connect(daemon.address(), "dying");
            const Publisher out = advertise(bus, "hostile/" + std::to_string(i));
            const Subscriber in = subscribe(bus, "#", IPCBUS_LOSSY);
            // Behind the library's back, so that its descriptors stay open.
            if (::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0) {
                char byte = 0;
                write_end.reset();
                (void)!::read(read_end.get(), &byte, 1);
                ::_exit(0);
            }
            (void)::raise(SIGKILL);
            return 0;
        });
        CHECK(client.wait() == 128 + SIGKILL);
    }
    // Descriptors of ours may be unread in those sockets: the daemon keeps its end, to know.
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (ledger(daemon).descriptors > before.descriptors + 2 * kChildren && !deadline.passed()) {
        watcher.expect_nothing();
    }
    CHECK(ledger(daemon).descriptors <= before.descriptors + 2 * kChildren);
    write_end.reset();
    expect_back_to(daemon, before, watcher);
    bystanders.expect_trips();
}
