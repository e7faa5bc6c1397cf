// SPDX-License-Identifier: Apache-2.0
// Goal: the library's end of a connection to another host: nothing that is reliable is lost while
// the way is blocked, whoever does not read holds nobody else back when the daemon is lost, and to
// connect takes as long as was asked, and no longer.
// Method: daemons that are stopped (SIGSTOP), killed, or not there; ports that swallow connections.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "remote_client.hpp"
#include "sys/clock.hpp"
#include "sys/tcp.hpp"

#include <doctest/doctest.h>

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <optional>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

std::string local_address(const DaemonFixture& daemon) { return "unix:" + daemon.socket_path(); }

/// A port of this host where somebody listens, and takes no connection any more.
struct Swallower {
    Swallower() {
        auto made = sys::listen_tcp({"127.0.0.1", 0}, 0);
        REQUIRE(made.ok());
        listening = std::move(made.value().front());
        address = "tcp:" + sys::tcp_name(listening.get(), true);
        // What the queue takes is taken; the rest waits for an answer that does not come.
        for (int i = 0; i < 4; i++) {
            taken.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            sockaddr_storage where{};
            socklen_t bytes = sizeof where;
            REQUIRE(::getsockname(listening.get(), reinterpret_cast<sockaddr*>(&where), &bytes) ==
                    0);
            (void)::connect(taken.back().get(), reinterpret_cast<sockaddr*>(&where), bytes);
        }
    }
    sys::UniqueFd listening;
    std::vector<sys::UniqueFd> taken;
    std::string address;
};

struct Tried {
    int result;
    std::int64_t took_ns;
};
Tried try_to_connect(const std::string& address, std::int64_t timeout_ns) {
    ipcbus_connect_options options = IPCBUS_INIT(options);
    options.address = address.c_str();
    options.timeout_ns = timeout_ns;
    ipcbus_bus* bus = nullptr;
    const std::int64_t began_ns = sys::monotonic_ns();
    const int result = ipcbus_connect(&options, &bus);
    const std::int64_t took_ns = sys::monotonic_ns() - began_ns;
    if (result == 0) {
        ipcbus_close(bus);
    }
    return {result, took_ns};
}

/// On the way to a daemon: what may lose the way to one end and not tell the other.
class Middlebox {
public:
    explicit Middlebox(const std::string& to) : to_(sys::parse_endpoint(to.substr(4)).value()) {
        auto made = sys::listen_tcp({"127.0.0.1", 0}, 8);
        REQUIRE(made.ok());
        listening_ = std::move(made.value().front());
        address_ = "tcp:" + sys::tcp_name(listening_.get(), true);
        thread_ = std::thread([this] { run(); });
    }
    ~Middlebox() {
        over_ = true;
        thread_.join();
    }
    [[nodiscard]] const std::string& address() const { return address_; }
    /// The connection that there is ends for the client; the daemon's end stays.
    void forget() {
        forget_ = true;
        while (forget_) {
            (void)::poll(nullptr, 0, 1);
        }
    }

private:
    void run() {
        while (!over_) {
            if (forget_) {
                const linger now{1, 0};
                (void)::setsockopt(near_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
                near_.reset();
                kept_.push_back(std::move(far_));
                forget_ = false;
            }
            pollfd waits[3] = {{listening_.get(), POLLIN, 0},
                               {near_ ? near_.get() : -1, POLLIN, 0},
                               {far_ ? far_.get() : -1, POLLIN, 0}};
            (void)::poll(waits, 3, 5);
            if (waits[0].revents != 0) {
                near_.reset(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
                far_ = sys::connect_tcp(to_, sys::look_up(to_).value(), kLongNs, -1).value();
            }
            if (waits[1].revents != 0) {
                carry(near_, far_);
            }
            if (waits[2].revents != 0) {
                carry(far_, near_);
            }
        }
    }
    static void carry(const sys::UniqueFd& from, const sys::UniqueFd& to) {
        char bytes[65536];
        if (const ssize_t got = ::recv(from.get(), bytes, sizeof bytes, MSG_DONTWAIT); got > 0) {
            (void)!::send(to.get(), bytes, static_cast<std::size_t>(got), MSG_NOSIGNAL);
        }
    }

    sys::TcpEndpoint to_;
    std::string address_;
    sys::UniqueFd listening_;
    sys::UniqueFd near_;
    sys::UniqueFd far_;
    std::vector<sys::UniqueFd> kept_;
    std::atomic<bool> forget_{false};
    std::atomic<bool> over_{false};
    std::thread thread_;
};

ChildProcess start_daemon(const TempDir& directory, const std::string& listen,
                          std::string& ret_tcp) {
    ChildProcess daemon = ChildProcess::run(
        {daemon_program(), "--listen", "unix:" + directory.file("bus.sock"), "--listen", listen});
    const std::size_t found = daemon.wait_for_output("listening on unix");
    INFO(daemon.output());
    REQUIRE(found != std::string::npos);
    const std::size_t at = daemon.output().find("tcp:");
    ret_tcp = daemon.output().substr(at, daemon.output().find('\n', at) - at);
    return daemon;
}

}  // namespace

TEST_CASE("the way is blocked for longer than the stall timeout: nothing reliable is lost") {
    DaemonFixture daemon("[publications]\nstall_timeout = \"200ms\"\n");
    const Bus here = connect(local_address(daemon));
    const Bus there = connect(daemon.tcp_address());
    const Subscriber near = subscribe(here, "blocked");
    const Publisher publisher = advertise(there, "blocked", 65536, -1);
    REQUIRE(ipcbus_wait_subscribers(publisher.get(), 1, kLongNs) == 0);
    constexpr std::uint64_t kMessages = 20'000;
    daemon.process().signal(SIGSTOP);
    std::thread publishing([&] {
        const std::string text(1000, 'x');
        for (std::uint64_t i = 0; i < kMessages; i++) {
            must(ipcbus_publish(publisher.get(), text.data(), text.size()), "publish");
        }
    });
    (void)::poll(nullptr, 0, 1200);  // six times as long as a reader may stand still
    daemon.process().signal(SIGCONT);
    for (std::uint64_t i = 1; i <= kMessages; i++) {
        const Received got = receive(near);
        REQUIRE(got.result == 0);
        REQUIRE(got.message.sequence == i);
    }
    publishing.join();
    CHECK(ipcbus_reconnects(there.get()) == 0);
    CHECK(daemon.process().output().find("DATA:") == std::string::npos);
}

TEST_CASE("who does not read keeps nobody from the next daemon") {
    const TempDir directory;
    std::string tcp;
    ChildProcess first = start_daemon(directory, "tcp:127.0.0.1:0", tcp);
    const Bus here = connect("unix:" + directory.file("bus.sock"));
    const Bus there = connect(tcp);
    const Subscriber lazy = subscribe(there, "flood");
    const Subscriber eager = subscribe(there, "live");
    const Publisher flood = advertise(here, "flood", 8 << 20);
    const Publisher own = advertise(there, "own");
    wait_for_publications(lazy, 1);
    REQUIRE(ipcbus_set_max_block(flood.get(), 0) == 0);
    const std::string text(10'000, 'x');
    for (int quiet = 0; quiet < 20;) {  // until every buffer on the way is full
        if (ipcbus_publish(flood.get(), text.data(), text.size()) == 0) {
            quiet = 0;
        } else {
            quiet++;
            (void)::poll(nullptr, 0, 10);
        }
    }
    first.signal(SIGKILL);
    (void)first.wait();
    std::string again;
    ChildProcess second = start_daemon(directory, tcp, again);
    const Bus other = connect("unix:" + directory.file("bus.sock"));
    const Publisher live = advertise(other, "live");
    // The eager one and the publisher are on the new bus although the lazy one has never read.
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    std::optional<std::string> heard;
    while (!heard && !deadline.passed()) {
        publish(live, "here again");
        publish(own, "nobody waits for a reader that is gone");
        if (const Received got = receive(eager, 10 * kMillisecondNs); got.result == 0) {
            heard = got.payload;
        }
    }
    CHECK(heard == "here again");
    CHECK(ipcbus_reconnects(there.get()) == 1);
    // And the lazy one gets what it had, and is told of the rest.
    const Received got = receive(lazy);
    CHECK(got.result == 0);
    second.signal(SIGTERM);
    CHECK(second.wait() == 0);
}

TEST_CASE("to connect takes as long as was asked") {
    const Swallower nobody_answers;
    const Tried asked = try_to_connect(nobody_answers.address, 200 * kMillisecondNs);
    CHECK(asked.result == -ETIMEDOUT);
    CHECK(asked.took_ns >= 200 * kMillisecondNs);
    CHECK(asked.took_ns < 3 * kSecondNs);
    // A daemon that comes up later is found, without a limit of time and with one.
    const std::int64_t timeout_ns = [] {
        std::int64_t chosen = -1;
        SUBCASE("no limit") { chosen = -1; }
        SUBCASE("a limit") { chosen = kLongNs; }
        return chosen;
    }();
    std::string tcp;
    {
        auto reserved = sys::listen_tcp({"127.0.0.1", 0}, 1);
        REQUIRE(reserved.ok());
        tcp = "tcp:" + sys::tcp_name(reserved.value().front().get(), true);
    }
    Tried later{};
    std::thread connecting([&] { later = try_to_connect(tcp, timeout_ns); });
    const TempDir directory;
    std::string again;
    ChildProcess daemon = start_daemon(directory, tcp, again);
    connecting.join();
    CHECK(later.result == 0);
    // A name that nobody knows is one that is not known yet.
    const Tried unknown = try_to_connect("tcp:no-such-host.invalid:4222", 100 * kMillisecondNs);
    CHECK((unknown.result == -ECONNREFUSED || unknown.result == -ETIMEDOUT));
    CHECK(unknown.took_ns < 10 * kSecondNs);
    daemon.signal(SIGTERM);
    CHECK(daemon.wait() == 0);
}

TEST_CASE("a connection of which only one end knows that it is over ends with the next one") {
    const DaemonFixture daemon("[tcp]\ndead_peer_timeout = \"10min\"\n");
    Middlebox way(daemon.tcp_address());
    const Bus here = connect(daemon.local_address());
    const Bus there = connect(way.address());
    const Subscriber near = subscribe(here, "there");
    const Subscriber far = subscribe(there, "here");
    const Publisher publisher = advertise(there, "there");
    const Publisher own = advertise(here, "here");
    REQUIRE(ipcbus_wait_subscribers(publisher.get(), 1, kLongNs) == 0);
    REQUIRE(ipcbus_wait_subscribers(own.get(), 1, kLongNs) == 0);
    publish(publisher, "before");
    CHECK(received_text(near) == "before");
    way.forget();
    // Rings of one publication are read one after the other: the first has to end.
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    std::optional<std::string> heard;
    while (!heard && !deadline.passed()) {
        publish(publisher, "after");
        if (const Received got = receive(near, 10 * kMillisecondNs); got.result == 0) {
            heard = got.payload;
        }
    }
    CHECK(heard == "after");
    CHECK(ipcbus_reconnects(there.get()) == 1);
    Received last;
    while (last.payload != "to the one that there is" && !deadline.passed()) {
        publish(own, "to the one that there is");
        last = receive(far, 10 * kMillisecondNs);  // or what was lost
    }
    CHECK(last.ok());
    CHECK(ipcbus_subscriber_count(own.get()) == 1);
}

TEST_CASE("who cannot send sleeps, whatever waits to be sent") {
    DaemonFixture daemon;
    const Bus there = connect(daemon.tcp_address());
    std::vector<Publisher> publishers;
    for (int i = 0; i < 60; i++) {
        publishers.push_back(advertise(there, "stopped/" + std::to_string(i), 1 << 20));
        REQUIRE(ipcbus_set_max_block(publishers.back().get(), 0) == 0);
    }
    daemon.process().signal(SIGSTOP);
    const std::string text(10'000, 'x');
    for (const Publisher& publisher : publishers) {
        while (ipcbus_publish(publisher.get(), text.data(), text.size()) == 0) {}
    }
    const auto used_ns = [] {
        timespec used{};
        (void)::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        return used.tv_sec * kSecondNs + used.tv_nsec;
    };
    // What there is room for is sent first.
    std::int64_t of_a_second_ns = kSecondNs;
    for (int i = 0; i < 5 && of_a_second_ns > 100 * kMillisecondNs; i++) {
        const std::int64_t before_ns = used_ns();
        (void)::poll(nullptr, 0, 1000);
        of_a_second_ns = used_ns() - before_ns;
    }
    CHECK(of_a_second_ns < 100 * kMillisecondNs);
    daemon.process().signal(SIGCONT);
}
