// SPDX-License-Identifier: Apache-2.0
// Unix sockets, as stream and as seqpacket, with as large a buffer as the system allows. A stream
// is used as a pipe is: one send() a message, read in blocks of 64 KiB, batches by writev(). A
// seqpacket socket keeps messages apart; streams of small ones are read by recvmmsg(), up to 16 at
// once, and batches are sent by sendmmsg().
#include "peers/kernel.hpp"
#include "peers/loops.hpp"

#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace ipcbus::bench {
namespace {

constexpr std::size_t kPacketsMax = 16;

class UnixSocket {
public:
    std::string start(int type) {
        int fds[2];
        if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) {
            return "socketpair() failed";
        }
        for (int i = 0; i < 2; i++) {
            ends_[i].reset(fds[i]);
            const int bytes = 4 << 20;
            if (::setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) {
                (void)::setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
            }
        }
        return {};
    }
    /// What the buffer takes at once, less what the kernel needs around it.
    std::size_t room() const {
        int bytes = 0;
        socklen_t size = sizeof bytes;
        (void)::getsockopt(ends_[0].get(), SOL_SOCKET, SO_SNDBUF, &bytes, &size);
        return static_cast<std::size_t>(bytes) / 2;
    }
    int end(Side side) const { return ends_[side == Side::a ? 0 : 1].get(); }

private:
    sys::UniqueFd ends_[2];
};

class UnixStream : public PeerLoops<UnixStream> {
public:
    const Traits& traits() const override { return traits_; }
    std::string start(const Setup&) override { return socket_.start(SOCK_STREAM); }
    void open(Side side) override {
        fd_ = socket_.end(side);
        in_.open(fd_);
    }
    void prepare(const Slice& slice) override { in_.prepare(slice); }

    void send(const void* data, std::size_t bytes) { write_all(fd_, data, bytes, "Unix stream"); }
    void send_many(const Message* messages, std::size_t count) {
        writev_all(fd_, messages, count, "Unix stream");
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) { return in_.next(ret_bytes, "Unix stream"); }
    void settle() {}

private:
    Traits traits_{.name = "Unix stream", .spins = true, .batches = true};
    UnixSocket socket_;
    ByteStreamReader in_;
    int fd_ = -1;
};

class UnixSeqpacket : public PeerLoops<UnixSeqpacket> {
public:
    const Traits& traits() const override { return traits_; }
    std::string start(const Setup&) override {
        const std::string why = socket_.start(SOCK_SEQPACKET);
        traits_.message_bytes_max = socket_.room();
        return why;
    }
    void open(Side side) override { fd_ = socket_.end(side); }
    void prepare(const Slice& slice) override {
        const bool many = slice.stream && slice.message_bytes <= 4096;
        packets_max_ = many ? kPacketsMax : 1;
        stride_ = slice.message_bytes + 64;
        buffer_.resize(stride_ * packets_max_);
        for (std::size_t i = 0; i < packets_max_; i++) {
            parts_[i] = {buffer_.data() + i * stride_, stride_};
            packets_[i] = {};
            packets_[i].msg_hdr.msg_iov = &parts_[i];
            packets_[i].msg_hdr.msg_iovlen = 1;
        }
        next_ = count_ = 0;
        set_nonblocking(fd_, slice.waiting == Waiting::spin);
    }

    void send(const void* data, std::size_t bytes) {
        while (::send(fd_, data, bytes, 0) != static_cast<ssize_t>(bytes)) {
            check();
        }
    }
    void send_many(const Message* messages, std::size_t count) {
        for (std::size_t done = 0; done < count;) {
            std::array<iovec, kPacketsMax> parts;
            std::array<mmsghdr, kPacketsMax> packets{};
            const std::size_t now = std::min(count - done, kPacketsMax);
            for (std::size_t i = 0; i < now; i++) {
                const Message& message = messages[done + i];
                parts[i] = {const_cast<void*>(message.data()), message.bytes()};
                packets[i].msg_hdr.msg_iov = &parts[i];
                packets[i].msg_hdr.msg_iovlen = 1;
            }
            const int sent = ::sendmmsg(fd_, packets.data(), static_cast<unsigned>(now), 0);
            sent > 0 ? void(done += static_cast<std::size_t>(sent)) : check();
        }
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) {
        if (next_ == count_) {
            fill();
        }
        ret_bytes = packets_[next_].msg_len;
        return buffer_.data() + next_++ * stride_;
    }
    void settle() {}

private:
    void fill() {
        next_ = count_ = 0;
        while (count_ == 0) {
            if (packets_max_ == 1) {
                const ssize_t got = ::recv(fd_, buffer_.data(), stride_, 0);
                packets_[0].msg_len = static_cast<unsigned>(got);
                got > 0 ? void(count_ = 1) : check();
                continue;
            }
            const int got = ::recvmmsg(fd_, packets_.data(), static_cast<unsigned>(packets_max_),
                                       MSG_WAITFORONE, nullptr);
            got > 0 ? void(count_ = static_cast<std::size_t>(got)) : check();
        }
    }
    void check() {
        if (errno != EAGAIN && errno != EINTR) {
            fail(traits_.name, std::strerror(errno));
        }
    }

    Traits traits_{.name = "Unix seqpacket", .spins = true, .batches = true};
    UnixSocket socket_;
    int fd_ = -1;
    std::size_t packets_max_ = 1;
    std::size_t stride_ = 0;
    std::vector<char> buffer_;
    std::array<iovec, kPacketsMax> parts_{};
    std::array<mmsghdr, kPacketsMax> packets_{};
    std::size_t next_ = 0;
    std::size_t count_ = 0;
};

const Registered stream(101, [] { return std::make_unique<UnixStream>(); });
const Registered seqpacket(102, [] { return std::make_unique<UnixSeqpacket>(); });

}  // namespace
}  // namespace ipcbus::bench
