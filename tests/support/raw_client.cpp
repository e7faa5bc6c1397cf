// SPDX-License-Identifier: Apache-2.0
// See raw_client.hpp.
#include "raw_client.hpp"

#include "sys/address.hpp"
#include "sys/fd_passing.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <bit>
#include <cerrno>

namespace ipcbus::test {

using protocol::FrameReader;
using protocol::FrameType;
using protocol::u32;
using protocol::u64;

namespace {

/// Descriptors that this frame comes with, by the protocol.
std::size_t fds_of(const Incoming& incoming) {
    switch (incoming.header.type) {
    case FrameType::welcome:
        return decoded<protocol::Welcome>(incoming).resumed != 0 ? 0 : 3;
    case FrameType::advertised:
    case FrameType::attached:
        return 1;
    case FrameType::peer:
        return static_cast<std::size_t>(std::popcount(decoded<protocol::Peer>(incoming).pages));
    default:
        return 0;
    }
}

}  // namespace

RawClient::RawClient(const std::string& socket_path) {
    auto connected = sys::connect_unix(socket_path, 10'000'000'000);
    REQUIRE(connected.ok());
    socket_ = std::move(connected).value();
}

RawClient RawClient::on_bus(const std::string& socket_path, const std::string& name) {
    RawClient client(socket_path);
    client.hello(name);
    client.mapped(0);
    return client;
}

void RawClient::hello(const std::string& name) {
    protocol::Hello frame;
    frame.name = name;
    const u64 asked = send(frame);
    welcome = expect<protocol::Welcome>();
    CHECK(request == asked);
    REQUIRE(welcome.geometry.valid());
    REQUIRE(fds.size() == 3);
    own_fds = std::move(fds);
    const auto map = [&](std::size_t which, u64 bytes) {
        auto mapped = sys::map_shared(own_fds[which].get(), 0, bytes, sys::Access::read_write);
        REQUIRE(mapped.ok());
        return std::move(mapped).value();
    };
    cursor = map(0, protocol::cursor_bytes(welcome.geometry));
    doorbell = map(1, protocol::doorbell_bytes(welcome.geometry));
    mailbox = map(2, protocol::mailbox_bytes(welcome.geometry));
}

void RawClient::send_bytes(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            return;  // the test finds out when it reads
        }
        REQUIRE(sent > 0);
        bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
}

std::optional<Incoming> RawClient::next() {
    if (!kept_.empty()) {
        Incoming incoming = std::move(kept_.front());
        kept_.pop_front();
        return incoming;
    }
    return receive();
}

Incoming RawClient::wait_for(u64 asked) {
    for (;;) {
        std::optional<Incoming> incoming = receive();
        REQUIRE(incoming.has_value());
        if (incoming->header.request == asked) {
            return std::move(*incoming);
        }
        kept_.push_back(std::move(*incoming));
    }
}

std::optional<Incoming> RawClient::receive() {
    Incoming incoming;
    std::span<const std::byte> fields;
    for (;;) {
        const u64 begin = reader_.consumed();
        const FrameReader::Status status = reader_.next(incoming.header, fields);
        REQUIRE(status != FrameReader::Status::malformed);
        if (status == FrameReader::Status::frame) {
            incoming.fields.assign(fields.begin(), fields.end());
            const std::size_t count = fds_of(incoming);
            for (std::size_t i = 0; i < count; i++) {
                REQUIRE(!received_fds_.empty());
                // The kernel puts bytes without descriptors before them into the same receive.
                CHECK(received_fds_.front().begin <= begin);
                CHECK(received_fds_.front().end > begin);
                incoming.fds.push_back(std::move(received_fds_.front().fd));
                received_fds_.pop_front();
            }
            if (count > 0 && acknowledges) {
                send_with(protocol::Received{static_cast<u32>(count)}, 0);
            }
            return incoming;
        }
        pollfd entry{socket_.get(), POLLIN, 0};
        INFO("waiting for a frame");
        REQUIRE(::poll(&entry, 1, kTimeoutMs) == 1);
        std::byte buffer[16384];
        std::vector<sys::UniqueFd> came;
        auto got = sys::receive_with_fds(socket_.get(), buffer, came, true);
        if (!got.ok()) {
            INFO(got.error().what);
            REQUIRE(got.error().code == ECONNRESET);
            return std::nullopt;
        }
        if (got.value() == 0) {
            return std::nullopt;
        }
        for (sys::UniqueFd& fd : came) {
            received_fds_.push_back(
                {received_bytes_, received_bytes_ + got.value(), std::move(fd)});
        }
        received_bytes_ += got.value();
        reader_.add({buffer, got.value()});
    }
}

void RawClient::expect_error(int code, const std::vector<std::string>& parts) {
    const auto error = expect<protocol::ErrorFrame>();
    INFO(error.text);
    CHECK(error.code == static_cast<u32>(code));
    for (const std::string& part : parts) {
        INFO("must name ", part);
        CHECK(error.text.find(part) != std::string::npos);
    }
}

std::vector<Incoming> RawClient::drain() {
    const u64 asked = send(protocol::Unsubscribe{~u64{0}});  // refused: there is none
    (void)decoded<protocol::ErrorFrame>(wait_for(asked));
    std::vector<Incoming> frames;
    for (Incoming& incoming : kept_) {
        frames.push_back(std::move(incoming));
    }
    kept_.clear();
    return frames;
}

std::vector<Incoming> RawClient::so_far() {
    std::vector<Incoming> frames;
    pollfd entry{socket_.get(), POLLIN, 0};
    while (!kept_.empty() || ::poll(&entry, 1, 0) == 1) {
        std::optional<Incoming> incoming = next();
        if (!incoming.has_value()) {
            break;
        }
        frames.push_back(std::move(*incoming));
    }
    return frames;
}

void RawClient::expect_nothing() {
    for (const Incoming& incoming : drain()) {
        FAIL_CHECK("unexpected ", protocol::frame_name(incoming.header.type));
    }
}

protocol::Advertised RawClient::advertise(const std::string& topic, u64 ring_bytes) {
    protocol::Advertise frame;
    frame.topic = topic;
    frame.ring_bytes = ring_bytes;
    return answer<protocol::Advertised>(send(frame));
}

protocol::Subscribed RawClient::subscribe(const std::string& filter, protocol::ReaderMode mode) {
    return answer<protocol::Subscribed>(
        send(protocol::Subscribe{filter, static_cast<protocol::u8>(mode)}));
}

u64 RawClient::attention(u32 index) const {
    return reinterpret_cast<const protocol::MailboxPublication*>(mailbox.data() +
                                                                 protocol::attention_offset(index))
        ->attention.load(std::memory_order_acquire);
}

}  // namespace ipcbus::test
