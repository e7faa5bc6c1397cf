// SPDX-License-Identifier: Apache-2.0
// Goal: a client over TCP is a client: what is published at either end is received at the other, in
// order, in every mode, with the right count of what was lost; a slow one harms nobody; who is
// silent, speaks something else or has no token is refused. (The files of local tests that hold for
// remote clients as they are run once more over TCP: meson.build.)
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "protocol/frame_reader.hpp"
#include "sys/address.hpp"
#include "sys/clock.hpp"
#include "sys/tcp.hpp"

#include <doctest/doctest.h>

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

std::string local_address(const DaemonFixture& daemon) { return "unix:" + daemon.socket_path(); }

/// A plain TCP connection to the daemon.
sys::UniqueFd raw(const DaemonFixture& daemon) {
    const auto address = sys::parse_address(daemon.tcp_address());
    REQUIRE(address.ok());
    const sys::TcpEndpoint endpoint{address.value().host, address.value().port};
    const auto found = sys::look_up(endpoint);
    REQUIRE(found.ok());
    auto fd = sys::connect_tcp(endpoint, found.value(), kLongNs);
    REQUIRE(fd.ok());
    return std::move(fd).value();
}

void say(const sys::UniqueFd& socket, std::string_view bytes) {
    REQUIRE(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
}

/// All that comes until the daemon hangs up; nothing if it does not.
std::optional<std::string> heard(const sys::UniqueFd& socket) {
    std::string all;
    std::array<char, 4096> bytes;
    for (;;) {
        pollfd wait{socket.get(), POLLIN, 0};
        if (::poll(&wait, 1, static_cast<int>(kLongNs / kMillisecondNs)) <= 0) {
            return std::nullopt;
        }
        const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
        if (got <= 0) {
            return all;
        }
        all.append(bytes.data(), static_cast<std::size_t>(got));
    }
}

template <class Frame>
std::string bytes_of(const Frame& frame, std::uint64_t request) {
    std::vector<std::byte> out;
    protocol::encode(out, frame, request);
    return {reinterpret_cast<const char*>(out.data()), out.size()};
}

std::string other_version() {
    protocol::Hello hello;
    hello.protocol_major = 99;
    return bytes_of(hello, 1);
}

/// What that process has had of a processor so far.
std::int64_t cpu_ns(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/schedstat");
    std::int64_t ns = 0;
    REQUIRE(static_cast<bool>(file >> ns));
    return ns;
}

/// A token file of the test's own, and the environment that names it.
struct TokenFile {
    TokenFile(const TempDir& directory, const std::string& text, mode_t mode = 0600)
        : path(directory.file("token")) {
        write_file(path, text);
        REQUIRE(::chmod(path.c_str(), mode) == 0);
        ::setenv("IPCBUS_TOKEN_FILE", path.c_str(), 1);
    }
    ~TokenFile() { ::unsetenv("IPCBUS_TOKEN_FILE"); }
    TokenFile(const TokenFile&) = delete;
    TokenFile& operator=(const TokenFile&) = delete;
    std::string path;
};

}  // namespace

TEST_CASE("from everywhere to everywhere, in order, of any size") {
    const DaemonFixture daemon;
    const Bus here = connect(local_address(daemon));
    const Bus there = connect(daemon.tcp_address());
    const Bus elsewhere = connect(daemon.tcp_address());
    for (const Bus* from : {&here, &there}) {
        const Subscriber near = subscribe(here, "any/+");
        const Subscriber far = subscribe(there, "any/+");
        const Subscriber farther = subscribe(elsewhere, "any/#");
        const Publisher publisher = advertise(*from, "any/size", 1 << 20, -1);
        std::thread publishing([&] {
            for (std::size_t i = 0; i < 3000; i++) {
                const std::string text(i % 7 == 0 ? i * 80 : i % 100,
                                       static_cast<char>('a' + i % 26));
                must(ipcbus_publish(publisher.get(), text.data(), text.size()), "publish");
            }
        });
        for (std::size_t i = 0; i < 3000; i++) {
            const std::string text(i % 7 == 0 ? i * 80 : i % 100, static_cast<char>('a' + i % 26));
            for (const Subscriber* subscriber : {&near, &far, &farther}) {
                const Received got = receive(*subscriber);
                REQUIRE(got.result == 0);
                REQUIRE(got.payload == text);
                REQUIRE(got.topic == "any/size");
                REQUIRE(got.message.sequence == i + 1);
            }
        }
        publishing.join();
    }
}

TEST_CASE("under a filter; claimed and committed; the number of subscribers is told") {
    const DaemonFixture daemon;
    const Bus here = connect(local_address(daemon));
    const Bus there = connect(daemon.tcp_address());
    const Publisher publisher = advertise(there, "many/+");
    CHECK(ipcbus_wait_subscribers(publisher.get(), 1, 0) == -EAGAIN);
    const Subscriber near = subscribe(here, "many/#");
    const Subscriber far = subscribe(there, "many/b");
    REQUIRE(ipcbus_wait_subscribers(publisher.get(), 2, kLongNs) == 0);
    CHECK(ipcbus_subscriber_count(publisher.get()) == 2);
    publish_to(publisher, "many/a", "one");
    publish_to(publisher, "many/b", "two");
    CHECK(receive(near).topic == "many/a");
    CHECK(receive(near).topic == "many/b");
    CHECK(received_text(far) == "two");
    void* room = nullptr;
    REQUIRE(ipcbus_claim_to(publisher.get(), "many/b", 5, &room) == 0);
    std::memcpy(room, "three", 5);
    REQUIRE(ipcbus_commit(publisher.get(), 5) == 0);
    CHECK(received_text(far) == "three");
}

TEST_CASE("what was published before a close is with the daemon after it") {
    const DaemonFixture daemon;
    const Bus here = connect(local_address(daemon));
    const Subscriber near = subscribe(here, "last/words");
    for (int round = 0; round < 20; round++) {
        {
            const Bus there = connect(daemon.tcp_address());
            const Publisher publisher = advertise(there, "last/words");
            for (int i = 0; i < 20; i++) {
                publish(publisher, std::to_string(i));
            }
        }
        for (int i = 0; i < 20; i++) {
            REQUIRE(received_text(near) == std::to_string(i));
        }
    }
}

TEST_CASE("a remote reader that does not read holds nobody back for longer than a local one") {
    const DaemonFixture daemon("[publications]\nstall_timeout = \"300ms\"\n");
    const Bus here = connect(local_address(daemon));
    const Bus slow = connect(daemon.tcp_address());
    const Bus fast = connect(daemon.tcp_address());
    const Subscriber asleep = subscribe(slow, "flood");
    const Subscriber awake = subscribe(fast, "flood");
    const Publisher publisher = advertise(here, "flood", 65536, -1);
    constexpr std::uint64_t kMessages = 40'000;  // of 1 KiB: far more than any buffer on the way
    std::thread publishing([&] {
        const std::string text(1000, 'x');
        for (std::uint64_t i = 0; i < kMessages; i++) {
            must(ipcbus_publish(publisher.get(), text.data(), text.size()), "publish");
        }
    });
    for (std::uint64_t i = 1; i <= kMessages; i++) {
        const Received got = receive(awake);
        REQUIRE(got.result == 0);
        REQUIRE(got.message.sequence == i);
    }
    publishing.join();
    // It gets what was on the way, is told of the rest, exactly, and then of what comes.
    publish(publisher, "end");
    std::uint64_t next = 1;
    for (;;) {
        const Received got = receive(asleep);
        if (got.result == -ESTALE) {
            next += got.message.lost;
            continue;
        }
        REQUIRE(got.result == 0);
        REQUIRE(got.message.sequence == next);
        next++;
        if (got.payload == "end") {
            break;
        }
    }
    CHECK(next == kMessages + 2);
    CHECK(ipcbus_lost(asleep.get()) > 1000);
    CHECK(ipcbus_lost(awake.get()) == 0);
}

TEST_CASE(
    "lossy and latest: the writer never waits, and every message is either received or lost") {
    const DaemonFixture daemon;
    const Bus here = connect(local_address(daemon));
    const Bus there = connect(daemon.tcp_address());
    const std::uint32_t mode = [] {
        std::uint32_t chosen = IPCBUS_LOSSY;
        SUBCASE("lossy") { chosen = IPCBUS_LOSSY; }
        SUBCASE("latest") { chosen = IPCBUS_LATEST; }
        return chosen;
    }();
    const Subscriber far = subscribe(there, "fast", mode);
    const Publisher publisher = advertise(here, "fast", 65536, 0);
    for (int i = 0; i < 100'000; i++) {
        REQUIRE(ipcbus_publish(publisher.get(), "0123456789", 10) == 0);
    }
    publish(publisher, "end");
    std::uint64_t accounted = 0;
    for (;;) {
        const Received got = receive(far);
        REQUIRE((got.result == 0 || got.result == -ESTALE));
        accounted += got.message.lost + (got.result == 0 ? 1 : 0);
        if (got.result == 0) {
            REQUIRE(got.message.sequence == accounted);
            if (got.payload == "end") {
                break;
            }
        }
    }
    CHECK(accounted == 100'001);
}

TEST_CASE("a slow local reader holds a remote publisher back, and no message is lost") {
    DaemonFixture daemon("[publications]\nstall_timeout = \"10min\"\n");
    const Bus here = connect(local_address(daemon));
    const Bus there = connect(daemon.tcp_address());
    const Subscriber near = subscribe(here, "slow");
    const Publisher publisher = advertise(there, "slow", 65536);
    REQUIRE(ipcbus_set_max_block(publisher.get(), 0) == 0);
    const std::string text(1000, 'x');
    std::uint64_t published = 0;
    for (int refused = 0; refused < 50;) {
        if (const int result = ipcbus_publish(publisher.get(), text.data(), text.size());
            result == 0) {
            published++;
        } else {
            REQUIRE(result == -EAGAIN);
            refused++;
            (void)::poll(nullptr, 0, 1);
        }
        REQUIRE(published < 2000);  // two rings and a window hold less than 500
    }
    // Meanwhile the daemon sleeps: there is nothing that it could do.
    const std::int64_t before_ns = cpu_ns(daemon.process().pid());
    (void)::poll(nullptr, 0, 200);
    CHECK(cpu_ns(daemon.process().pid()) - before_ns < 50 * kMillisecondNs);
    for (std::uint64_t i = 1; i <= published; i++) {
        const Received got = receive(near);
        REQUIRE(got.result == 0);
        REQUIRE(got.message.sequence == i);
    }
}

TEST_CASE("another daemon at the same place: both go on there, and know what they missed") {
    const TempDir directory;
    std::string tcp;
    const auto start = [&](const std::string& listen) {
        ChildProcess daemon =
            ChildProcess::run({daemon_program(), "--listen", "unix:" + directory.file("bus.sock"),
                               "--listen", listen});
        REQUIRE(daemon.wait_for_output("listening on unix") != std::string::npos);
        const std::size_t at = daemon.output().find("tcp:");
        tcp = daemon.output().substr(at, daemon.output().find('\n', at) - at);
        return daemon;
    };
    ChildProcess first = start("tcp:127.0.0.1:0");
    const Bus writers = connect(tcp);
    const Bus readers = connect(tcp);
    const Subscriber subscriber = subscribe(readers, "again");
    const Publisher publisher = advertise(writers, "again");
    publish(publisher, "before");
    CHECK(received_text(subscriber) == "before");
    first.signal(SIGKILL);
    (void)first.wait();
    ChildProcess second = start(tcp);
    // What is published meanwhile is lost, and counted.
    std::uint64_t next = 2;
    bool after = false;
    std::uint64_t sent = 1;
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (!after && !deadline.passed()) {
        publish(publisher, "after");
        sent++;
        const Received got = receive(subscriber, 10 * kMillisecondNs);
        if (got.result == -ESTALE) {
            next += got.message.lost;
        } else if (got.result == 0) {
            REQUIRE(got.message.sequence == next);
            next++;
            after = true;
        }
    }
    CHECK(after);
    CHECK(next <= sent + 1);
    CHECK(ipcbus_reconnects(readers.get()) == 1);
    second.signal(SIGTERM);
    CHECK(second.wait() == 0);
}

TEST_CASE("a stop tells remote clients, behind what they had to read") {
    DaemonFixture daemon;
    const Bus here = connect(local_address(daemon));
    const Bus there = connect(daemon.tcp_address(), nullptr, IPCBUS_NO_RECONNECT);
    const Subscriber far = subscribe(there, "stop");
    const Publisher publisher = advertise(here, "stop");
    wait_for_publications(far, 1);
    for (int i = 0; i < 100; i++) {
        publish(publisher, std::to_string(i));
    }
    CHECK(daemon.stop() == 0);
    for (int i = 0; i < 100; i++) {
        CHECK(received_text(far) == std::to_string(i));
    }
    CHECK(receive(far).result == -ESHUTDOWN);
}

TEST_CASE("silence, HTTP, noise and pieces of frames: a clear end, and nobody else notices") {
    const DaemonFixture daemon("[tcp]\nhandshake_timeout = \"200ms\"\n");
    const Bus there = connect(daemon.tcp_address());
    const Subscriber subscriber = subscribe(there, "calm");
    const Publisher publisher = advertise(there, "calm");
    const auto still_works = [&] {
        publish(publisher, "still");
        CHECK(received_text(subscriber) == "still");
    };

    const sys::UniqueFd silent = raw(daemon);
    CHECK(heard(silent) == "");
    still_works();

    const sys::UniqueFd slow = raw(daemon);
    say(slow, bytes_of(protocol::Hello{}, 1).substr(0, 10));
    CHECK(heard(slow) == "");

    const sys::UniqueFd browser = raw(daemon);
    say(browser, "GET / HTTP/1.1\r\nHost: bus\r\n\r\n");
    const auto answer = heard(browser);
    REQUIRE(answer);
    CHECK(answer->starts_with("HTTP/1.0 400 "));
    still_works();

    // Whatever may not be said over TCP, and what is not allowed before WELCOME.
    for (const std::string& frame :
         {bytes_of(protocol::Subscribe{"a", 0}, 1), bytes_of(protocol::Resume{}, 1),
          bytes_of(protocol::Hello{}, 1) + bytes_of(protocol::Mapped{}, 2),
          bytes_of(protocol::Hello{}, 1) + bytes_of(protocol::Hello{}, 2),
          bytes_of(protocol::Hello{}, std::uint64_t{1} << 63), other_version()}) {
        const sys::UniqueFd socket = raw(daemon);
        say(socket, frame);
        const auto said = heard(socket);
        REQUIRE(said);
        CHECK(said->size() > protocol::kFrameHeaderBytes);
    }
    still_works();
}

TEST_CASE("tokens: the right one, a wrong one, none") {
    const TempDir directory;
    const std::string tokens = directory.file("tokens");
    write_file(tokens, "# who\nalice 0123456789abcdef\nbob fedcba9876543210\n");
    REQUIRE(::chmod(tokens.c_str(), 0600) == 0);
    DaemonFixture daemon("[tcp]\ntoken_file = \"" + tokens + "\"\n");
    const auto result = [&] {
        ipcbus_connect_options options = IPCBUS_INIT(options);
        const std::string address = daemon.tcp_address();
        options.address = address.c_str();
        ipcbus_bus* bus = nullptr;
        const int connected = ipcbus_connect(&options, &bus);
        if (connected == 0) {
            ipcbus_close(bus);
        }
        return connected;
    };
    CHECK(result() == -EACCES);
    CHECK(std::string(ipcbus_last_error()).find("wants a token") != std::string::npos);
    {
        const TokenFile file(directory, "alice 0123456789abcdef\n");
        CHECK(result() == 0);
    }
    {
        const TokenFile file(directory, "fedcba9876543210");
        CHECK(result() == 0);
    }
    {
        const TokenFile file(directory, "0123456789abcdeF");
        CHECK(result() == -EACCES);
        CHECK(std::string(ipcbus_last_error()).find("not known here") != std::string::npos);
    }
    {
        const TokenFile file(directory, "0123456789abcdef", 0644);
        CHECK(result() == -EACCES);
        CHECK(std::string(ipcbus_last_error()).find("chmod 600") != std::string::npos);
    }
    CHECK(connect(local_address(daemon)) != nullptr);  // who is local needs none
    CHECK(daemon.process().output().find("0123456789") == std::string::npos);
    // Read again by a reload.
    write_file(tokens, "alice another-token-of-hers\n");
    CHECK(daemon.reload().find("tokens in tcp.token_file") != std::string::npos);
    const TokenFile file(directory, "0123456789abcdef");
    CHECK(result() == -EACCES);
}

TEST_CASE("one remote client too many is refused by name") {
    const DaemonFixture daemon("[tcp]\nclients = 1\n");
    const Bus first = connect(daemon.tcp_address());
    ipcbus_connect_options options = IPCBUS_INIT(options);
    const std::string address = daemon.tcp_address();
    options.address = address.c_str();
    ipcbus_bus* bus = nullptr;
    CHECK(ipcbus_connect(&options, &bus) == -EDQUOT);
    CHECK(std::string(ipcbus_last_error()).find("raise tcp.clients") != std::string::npos);
}

TEST_CASE("a forked child keeps no connection") {
    const DaemonFixture daemon;
    const Bus here = connect(local_address(daemon));
    Subscriber near = subscribe(here, "fork");
    Bus there = connect(daemon.tcp_address());
    Publisher publisher = advertise(there, "fork");
    wait_for_publications(near, 1);
    ChildProcess lives = ChildProcess::fork([] {
        (void)::poll(nullptr, 0, 60'000);
        return 0;
    });
    publisher.reset();
    there.reset();
    wait_for_publications(near, 0);
    lives.signal(SIGKILL);
    (void)lives.wait();
}
