// SPDX-License-Identifier: Apache-2.0
// Goal: however TLS comes in pieces, it is understood; wherever it is cut off, the daemon lets go
// of all of it, and who is connected notices nothing. A certificate that expires is said to have.
// Method: TLS of our own over a raw socket, a byte at a time.
#include "bus_client.hpp"
#include "certificates.hpp"
#include "daemon_fixture.hpp"
#include "remote_client.hpp"

#include "sys/clock.hpp"
#include "sys/tls_stream.hpp"

#include <doctest/doctest.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

using Bytes = std::vector<std::byte>;

std::string text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Files of a daemon, and who believes it.
struct Place {
    explicit Place(const Wanted& wanted = {}) {
        const Certificate own = authority.issue(wanted);
        write_file(directory.file("server.pem"), own.certificate);
        write_file(directory.file("server.key"), own.key);
        REQUIRE(::chmod(directory.file("server.key").c_str(), 0600) == 0);
        auto made = sys::TlsContext::client({"ca", authority.pem()}, {}, {});
        REQUIRE(made.ok());
        context = made.value();
    }
    [[nodiscard]] std::string config() const {
        return "[tcp]\nconnects_per_second = 100000\nhandshake_timeout = \"10min\"\n"
               "listen_tls = [\"127.0.0.1:0\"]\n"
               "certificate = \"" +
               directory.file("server.pem") + "\"\nkey = \"" + directory.file("server.key") +
               "\"\n";
    }

    TempDir directory;
    Authority authority;
    std::shared_ptr<const sys::TlsContext> context;
};

/// A client that says what it likes, in pieces as it likes.
struct Sealed {
    Sealed(const DaemonFixture& daemon, const Place& place)
        : socket(connect_raw(daemon.tls_address())) {
        const int one = 1;
        REQUIRE(::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
        auto made = sys::TlsStream::connect(place.context, "localhost");
        REQUIRE(made.ok());
        tls = std::move(made).value();
    }
    /// `pause_ms` between the pieces: so that they are not put together again on the way.
    void send(std::span<const std::byte> bytes, std::size_t piece, int pause_ms = 0) const {
        for (std::size_t at = 0; at < bytes.size(); at += piece) {
            (void)::poll(nullptr, 0, pause_ms);
            RemoteClient::say(socket,
                              text_of(bytes.subspan(at, std::min(piece, bytes.size() - at))));
        }
    }
    /// What comes next, opened.
    Bytes hear() {
        std::array<std::byte, 16384> bytes;
        pollfd wait{socket.get(), POLLIN, 0};
        REQUIRE(::poll(&wait, 1, kTimeoutMs) == 1);
        const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
        REQUIRE(got > 0);
        Bytes plain;
        REQUIRE(tls->feed(std::span(bytes).first(static_cast<std::size_t>(got)), plain).ok());
        return plain;
    }
    /// Until the server has proved what it must: the client's answer to that is not sent yet.
    void shake(std::size_t piece) {
        send(tls->seal({}), piece);
        while (!tls->ready()) {
            (void)hear();
        }
    }
    static Bytes hello() {
        Bytes frame;
        protocol::Hello hello;
        hello.name = "sealed";
        protocol::encode(frame, hello, 1);
        return frame;
    }

    sys::UniqueFd socket;
    std::unique_ptr<sys::TlsStream> tls;
};

/// Who is connected all the while.
struct Bystander {
    explicit Bystander(const DaemonFixture& daemon)
        : bus(connect(daemon.local_address())),
          subscriber(subscribe(bus, "calm")),
          publisher(advertise(bus, "calm")) {
        wait_for_publications(subscriber, 1);
    }
    void check() const {
        publish(publisher, "still");
        CHECK(received_text(subscriber) == "still");
    }
    Bus bus;
    Subscriber subscriber;
    Publisher publisher;
};

}  // namespace

TEST_CASE("TLS cut at every byte is TLS") {
    const Place place;
    const DaemonFixture daemon(place.config());
    for (const std::size_t piece : {1, 2, 7}) {
        CAPTURE(piece);
        Sealed client(daemon, place);
        client.shake(piece);
        client.send(client.tls->seal(Sealed::hello()), piece, 1);
        protocol::FrameReader frames;
        protocol::FrameHeader header;
        std::span<const std::byte> fields;
        while (frames.next(header, fields) != protocol::FrameReader::Status::frame) {
            frames.add(client.hear());
        }
        CHECK(header.type == protocol::FrameType::welcome);
    }
}

TEST_CASE("TLS that is cut off, at every byte: nothing stays of it") {
    const Place place;
    DaemonFixture daemon(place.config());
    const Bystander bystander(daemon);
    const std::size_t before = daemon.process().descriptor_count();
    std::size_t cuts = 0;
    for (std::size_t cut = 0;; cut++) {  // the client's first words
        const Sealed client(daemon, place);
        const Bytes said = client.tls->seal({});
        if (cut > said.size()) {
            break;
        }
        client.send(std::span(said).first(cut), said.size());
        cuts++;
    }
    bystander.check();
    for (std::size_t cut = 0;; cut++) {  // the end of the handshake, and HELLO behind it
        Sealed client(daemon, place);
        client.shake(16384);
        const Bytes said = client.tls->seal(Sealed::hello());
        if (cut > said.size()) {
            break;
        }
        client.send(std::span(said).first(cut), said.size());
        cuts++;
    }
    CHECK(cuts > 300);
    bystander.check();
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (daemon.process().descriptor_count() > before && !deadline.passed()) {
        (void)::poll(nullptr, 0, 5);
    }
    CHECK(daemon.process().descriptor_count() <= before);
}

TEST_CASE("a certificate that expires while the daemon runs is said to have") {
    const Place place({.ends_s = 2});
    DaemonFixture daemon(place.config());
    CHECK(daemon.process().wait_for_output("expires soon: renew it") != std::string::npos);
    CHECK(daemon.process().wait_for_output("has expired: clients will refuse it") !=
          std::string::npos);
}
