// SPDX-License-Identifier: Apache-2.0
// RawClient: speaks the control protocol over a socket, frame by frame, without the library: so a
// test can be as wrong or as hostile as it likes. Checks on the way that descriptors arrive with
// the first byte of the frame that names them, and acknowledges them unless told not to. One test,
// one thread.
#pragma once

#include "child_process.hpp"

#include "protocol/frame_reader.hpp"
#include "sys/mapping.hpp"

#include <doctest/doctest.h>

#include <deque>
#include <optional>

namespace ipcbus::test {

struct Incoming {
    protocol::FrameHeader header;
    std::vector<std::byte> fields;
    std::vector<sys::UniqueFd> fds;
};

/// A MEMBERS frame's content, an attachment's ring and so on, decoded from an Incoming.
template <class Frame>
Frame decoded(const Incoming& incoming) {
    INFO("frame ", protocol::frame_name(incoming.header.type), ", expected ",
         protocol::frame_name(Frame::kType));
    REQUIRE(incoming.header.type == Frame::kType);
    Frame frame;
    REQUIRE(protocol::decode(incoming.fields, frame));
    return frame;
}

class RawClient {
public:
    explicit RawClient(const std::string& socket_path);

    /// HELLO, WELCOME, pages mapped, MAPPED.
    static RawClient on_bus(const std::string& socket_path, const std::string& name = "raw");
    void hello(const std::string& name = "raw");

    template <class Frame>
    protocol::u64 send(const Frame& frame) {
        send_with(frame, ++request_);
        return request_;
    }
    template <class Frame>
    void send_with(const Frame& frame, protocol::u64 number) {
        std::vector<std::byte> bytes;
        protocol::encode(bytes, frame, number);
        send_bytes(bytes);
    }
    void send_bytes(std::span<const std::byte> bytes);

    /// The next frame; nothing: the daemon has hung up.
    std::optional<Incoming> next();
    template <class Frame>
    Frame expect() {
        std::optional<Incoming> incoming = next();
        INFO("expected ", protocol::frame_name(Frame::kType));
        REQUIRE(incoming.has_value());
        const Frame frame = decoded<Frame>(*incoming);
        request = incoming->header.request;
        fds = std::move(incoming->fds);
        return frame;
    }
    /// An ERROR with that code whose text has those parts.
    void expect_error(int code, const std::vector<std::string>& parts = {});
    void expect_hang_up() { CHECK(!next().has_value()); }

    /// The answer to that request; what comes before it is kept for later.
    template <class Frame>
    Frame answer(protocol::u64 asked) {
        Incoming incoming = wait_for(asked);
        fds = std::move(incoming.fds);
        return decoded<Frame>(incoming);
    }

    /// All frames that the daemon had to say before it answered what is asked here.
    std::vector<Incoming> drain();
    /// All frames that are there already.
    std::vector<Incoming> so_far();
    /// drain(), where nothing may come.
    void expect_nothing();

    // One request and its answer.
    protocol::Advertised advertise(const std::string& topic, protocol::u64 ring_bytes = 65536);
    protocol::Subscribed subscribe(const std::string& filter,
                                   protocol::ReaderMode mode = protocol::ReaderMode::reliable);
    void unsubscribe(const protocol::Subscribed& subscribed) {
        (void)answer<protocol::Done>(send(protocol::Unsubscribe{subscribed.subscription}));
    }
    void unadvertise(protocol::u64 publication) {
        (void)answer<protocol::Done>(send(protocol::Unadvertise{publication}));
    }
    void mapped(protocol::u64 publication) { send_with(protocol::Mapped{publication}, 0); }
    void taken(const protocol::Members& members) {
        send_with(protocol::Taken{members.publication, members.number}, 0);
    }

    void close() { socket_.reset(); }
    [[nodiscard]] int socket() const { return socket_.get(); }

    protocol::u64 request = 0;       ///< of the last expect()
    std::vector<sys::UniqueFd> fds;  ///< of the last expect()
    bool acknowledges = true;        ///< sends RECEIVED
    protocol::Welcome welcome;
    std::vector<sys::UniqueFd> own_fds;  ///< cursor page, doorbell page, mailbox
    sys::Mapping cursor;
    sys::Mapping doorbell;
    sys::Mapping mailbox;

    [[nodiscard]] protocol::u64 attention(protocol::u32 index) const;

private:
    struct ReceivedFd {
        protocol::u64 begin;  ///< of the bytes that it came with, in the stream
        protocol::u64 end;
        sys::UniqueFd fd;
    };

    RawClient() = default;
    std::optional<Incoming> receive();
    Incoming wait_for(protocol::u64 asked);

    sys::UniqueFd socket_;
    std::deque<Incoming> kept_;
    protocol::FrameReader reader_;
    protocol::u64 request_ = 0;
    protocol::u64 received_bytes_ = 0;
    std::deque<ReceivedFd> received_fds_;
};

}  // namespace ipcbus::test
