// SPDX-License-Identifier: Apache-2.0
// See remote_client.hpp.
#include "remote_client.hpp"

#include "sys/address.hpp"
#include "sys/clock.hpp"
#include "sys/tcp.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

namespace ipcbus::test {

using protocol::FrameReader;

sys::UniqueFd connect_raw(const std::string& address, int receive_bytes, const char* from) {
    const auto where = sys::parse_address(address);
    REQUIRE(where.ok());
    sys::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(static_cast<bool>(fd));
    if (receive_bytes != 0) {
        REQUIRE(::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &receive_bytes,
                             sizeof receive_bytes) == 0);
    }
    if (from != nullptr) {
        const auto own = sys::look_up({from, 0});
        REQUIRE(own.ok());
        REQUIRE(::bind(fd.get(), own.value()->ai_addr, own.value()->ai_addrlen) == 0);
    }
    const sys::TcpEndpoint endpoint{where.value().host, where.value().port};
    const auto found = sys::look_up(endpoint);
    REQUIRE(found.ok());
    REQUIRE(::connect(fd.get(), found.value()->ai_addr, found.value()->ai_addrlen) == 0);
    return fd;
}

bool hung_up(const sys::UniqueFd& socket, int timeout_ms) {
    const sys::Deadline deadline = sys::Deadline::after(std::int64_t{timeout_ms} * 1'000'000);
    std::array<char, 4096> bytes;
    for (;;) {
        pollfd wait{socket.get(), POLLIN, 0};
        const auto left_ms = static_cast<int>(deadline.remaining_ns() / 1'000'000);
        if (::poll(&wait, 1, left_ms) <= 0) {
            return false;
        }
        if (::recv(socket.get(), bytes.data(), bytes.size(), 0) <= 0) {
            return true;
        }
    }
}

RemoteClient::RemoteClient(const std::string& address, int receive_bytes, const char* from)
    : socket_(connect_raw(address, receive_bytes, from)) {
    protocol::Hello hello;
    hello.name = "remote";
    REQUIRE(ask(hello).header.type == protocol::FrameType::welcome);
}

Incoming RemoteClient::next() {
    for (;;) {
        if (std::optional<Incoming> incoming = next_if_there()) {
            return std::move(*incoming);
        }
        pollfd wait{socket_.get(), POLLIN, 0};
        REQUIRE(::poll(&wait, 1, kTimeoutMs) == 1);
    }
}

std::optional<Incoming> RemoteClient::next_if_there() {
    Incoming incoming;
    std::span<const std::byte> fields;
    for (;;) {
        const FrameReader::Status status = reader_.next(incoming.header, fields);
        REQUIRE(status != FrameReader::Status::malformed);
        if (status == FrameReader::Status::frame) {
            incoming.fields.assign(fields.begin(), fields.end());
            return incoming;
        }
        std::array<std::byte, 65536> bytes;
        const ssize_t got = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) {
            return std::nullopt;
        }
        REQUIRE(got > 0);
        reader_.add(std::span(bytes).first(static_cast<std::size_t>(got)));
    }
}

Incoming RemoteClient::answer() {
    for (;;) {
        Incoming incoming = next();
        if (incoming.header.request == request_) {
            return incoming;
        }
    }
}

void RemoteClient::say(const sys::UniqueFd& socket, std::string_view bytes) {
    REQUIRE(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
}

std::string RemoteClient::heard(const sys::UniqueFd& socket) {
    std::string all;
    std::array<char, 4096> bytes;
    for (;;) {
        pollfd wait{socket.get(), POLLIN, 0};
        REQUIRE(::poll(&wait, 1, kTimeoutMs) == 1);
        const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
        if (got <= 0) {
            return all;
        }
        all.append(bytes.data(), static_cast<std::size_t>(got));
    }
}

}  // namespace ipcbus::test
