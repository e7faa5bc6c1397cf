// SPDX-License-Identifier: Apache-2.0
// For the session fuzzer: a bus in this process, on the daemon's own loop, and one end of a control
// connection to it, by a socket pair; what a listener would have found out about the peer is
// invented, and the pidfd is an eventfd, so that a process dies when the input says so. One thread.
#pragma once

#include "fuzz.hpp"

#include "bus.hpp"
#include "child_process.hpp"
#include "log.hpp"
#include "operations.hpp"
#include "protocol/frame_reader.hpp"
#include "sys/fd_passing.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bit>
#include <deque>

namespace ipcbus::fuzz {

using protocol::FrameHeader;
using protocol::FrameReader;
using protocol::FrameType;
using protocol::u32;
using protocol::u64;
using protocol::u8;

inline daemon::EventLoop& event_loop() {
    // One for all inputs: making it takes longer than most of them. Never destroyed.
    static daemon::EventLoop* const loop = [] {
        daemon::LogConfig log;
        log.level = daemon::LogLevel::debug;
        log.target = "/dev/null";
        FUZZ_CHECK(daemon::log_open(log).ok());
        auto made = daemon::EventLoop::create();
        FUZZ_CHECK(made.ok());
        return std::move(made).value().release();
    }();
    return *loop;
}

inline void turns(unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        FUZZ_CHECK(event_loop().run_once(daemon::EventLoop::Wait::poll).ok());
    }
}

/// Turns until `done`; what should take a millisecond has a hundred seconds. What takes many turns
/// waits for the kernel, or for a timer of the daemon: then so do we.
template <class Done>
void turn_until(Done done) {
    constexpr unsigned kTurnsAtOnce = 64;
    // A sanitizer takes a hundred times as long.
    const std::int64_t limit_ns = std::int64_t{100'000'000'000} * test::patience();
    daemon::OperationScope scope(event_loop());
    bool limit_passed = false;
    daemon::Timer limit(scope, [&] { limit_passed = true; });
    for (unsigned count = 0; !done(); count++) {
        FUZZ_CHECK(!limit_passed);
        if (count < kTurnsAtOnce) {
            turns(1);
            continue;
        }
        if (!limit.running()) {
            limit.start(limit_ns);
        }
        FUZZ_CHECK(event_loop().run_once(daemon::EventLoop::Wait::block).ok());
    }
}

/// A frame of the daemon, and the descriptors that came with it.
struct Incoming {
    FrameHeader header;
    std::vector<std::byte> fields;
    std::vector<sys::UniqueFd> fds;

    template <class Frame>
    [[nodiscard]] Frame as() const {
        FUZZ_CHECK(header.type == Frame::kType);
        Frame frame;
        FUZZ_CHECK(protocol::decode(fields, frame));
        return frame;
    }
    /// By the protocol.
    [[nodiscard]] std::size_t fds_due() const {
        switch (header.type) {
        case FrameType::welcome:
            return as<protocol::Welcome>().resumed != 0 ? 0 : 3;
        case FrameType::advertised:
        case FrameType::attached:
            return 1;
        case FrameType::peer:
            return static_cast<std::size_t>(std::popcount(as<protocol::Peer>().pages));
        default:
            return 0;
        }
    }
};

class Peer {
public:
    Peer(daemon::Bus& bus, uid_t uid, pid_t pid, bool has_pidfd) : uid_(uid), pid_(pid) {
        int ends[2];
        FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        socket_ = sys::UniqueFd(ends[0]);
        daemon::PeerIdentity identity{.uid = uid, .gid = 0, .pid = pid, .pidfd = {}};
        if (has_pidfd) {
            alive_ = sys::UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
            identity.pidfd = sys::UniqueFd(::fcntl(alive_.get(), F_DUPFD_CLOEXEC, 3));
            FUZZ_CHECK(identity.pidfd.valid());
        }
        bus.connect(sys::UniqueFd(ends[1]), std::move(identity));
    }

    [[nodiscard]] uid_t uid() const { return uid_; }
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] int socket() const { return socket_.get(); }
    [[nodiscard]] bool hung_up() const { return hung_up_; }

    template <class Frame>
    void put(const Frame& frame, u64 request) {
        protocol::encode(unsent_, frame, request);
    }
    void put_raw(std::span<const std::uint8_t> bytes) {
        const auto raw = std::as_bytes(bytes);
        unsent_.insert(unsent_.end(), raw.begin(), raw.end());
    }
    /// Sends up to `count` of what was put; what the socket does not take is kept.
    void flush(std::size_t count = ~std::size_t{0}) {
        count = std::min(count, unsent_.size());
        while (count > 0 && socket_) {
            const ssize_t sent =
                ::send(socket_.get(), unsent_.data(), count, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent <= 0) {
                return;
            }
            unsent_.erase(unsent_.begin(), unsent_.begin() + sent);
            count -= static_cast<std::size_t>(sent);
        }
    }

    /// All frames that are there. What the daemon sends is always well-formed.
    std::vector<Incoming> receive() {
        std::vector<Incoming> frames;
        std::byte buffer[16384];
        while (socket_ && !hung_up_) {
            std::vector<sys::UniqueFd> came;
            const auto got = sys::receive_with_fds(socket_.get(), buffer, came, true);
            hung_up_ = got.ok() ? got.value() == 0 : got.error().code != EAGAIN;
            for (sys::UniqueFd& fd : came) {
                fds_.push_back(std::move(fd));
            }
            if (!got.ok() || hung_up_) {
                break;
            }
            reader_.add({buffer, got.value()});
            cut(frames);
        }
        return frames;
    }

    /// The process is dead, as far as its pidfd tells. (Its socket may live on in a child.)
    void die() {
        const u64 one = 1;
        FUZZ_CHECK(!alive_ || ::write(alive_.get(), &one, sizeof one) > 0);
    }
    void close() { socket_.reset(); }
    void shut_down() { (void)::shutdown(socket_.get(), SHUT_WR); }

private:
    void cut(std::vector<Incoming>& ret_frames) {
        Incoming incoming;
        std::span<const std::byte> fields;
        for (;;) {
            const auto status = reader_.next(incoming.header, fields);
            FUZZ_CHECK(status != FrameReader::Status::malformed);
            if (status == FrameReader::Status::need_more) {
                return;
            }
            incoming.fields.assign(fields.begin(), fields.end());
            for (std::size_t due = incoming.fds_due(); due > 0; due--) {
                FUZZ_CHECK(!fds_.empty());
                incoming.fds.push_back(std::move(fds_.front()));
                fds_.pop_front();
            }
            ret_frames.push_back(std::exchange(incoming, Incoming{}));
        }
    }

    uid_t uid_;
    pid_t pid_;
    sys::UniqueFd socket_;
    sys::UniqueFd alive_;
    std::vector<std::byte> unsent_;
    FrameReader reader_;
    std::deque<sys::UniqueFd> fds_;
    bool hung_up_ = false;
};

}  // namespace ipcbus::fuzz
