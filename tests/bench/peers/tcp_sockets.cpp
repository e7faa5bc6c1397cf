// SPDX-License-Identifier: Apache-2.0
// Bare TCP connections of the loopback: what anything over TCP can do at most. One from A to B; and
// one each to a relay, a process that hands on what it reads, which is the least that a broker
// does. Without delay, buffers as the system makes them, a write a message.
#include "peers/kernel.hpp"
#include "peers/loops.hpp"
#include "sys/tcp.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <array>

namespace ipcbus::bench {
namespace {

/// Both ends of a connection.
using Connection = std::array<sys::UniqueFd, 2>;

std::string connect_both(Connection& ret_ends) {
    auto listening = sys::listen_tcp({"127.0.0.1", 0}, 1);
    if (!listening.ok()) {
        return listening.error().what;
    }
    const int listener = listening.value().front().get();
    sockaddr_in where{};
    socklen_t size = sizeof where;
    ret_ends[0].reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::getsockname(listener, reinterpret_cast<sockaddr*>(&where), &size) != 0 ||
        ::connect(ret_ends[0].get(), reinterpret_cast<const sockaddr*>(&where), size) != 0) {
        return "cannot connect";
    }
    // What listens is ready: the connection is there.
    pollfd ready{listener, POLLIN, 0};
    (void)::poll(&ready, 1, -1);
    ret_ends[1].reset(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    const int one = 1;
    for (const sys::UniqueFd& end : ret_ends) {
        if (!end || ::setsockopt(end.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) {
            return "cannot connect";
        }
    }
    return {};
}

/// Hands on what comes, both ways, until one end hangs up.
void relay(int one, int other) {
    std::array<char, 65536> bytes;
    for (;;) {
        pollfd waits[2] = {{one, POLLIN, 0}, {other, POLLIN, 0}};
        (void)::poll(waits, 2, -1);
        for (int side = 0; side < 2; side++) {
            if (waits[side].revents == 0) {
                continue;
            }
            const ssize_t got = ::recv(waits[side].fd, bytes.data(), bytes.size(), 0);
            if (got <= 0) {
                return;
            }
            write_all(waits[1 - side].fd, bytes.data(), static_cast<std::size_t>(got), "relay");
        }
    }
}

class BareTcp : public PeerLoops<BareTcp> {
public:
    explicit BareTcp(bool relayed) : relayed_(relayed) {
        traits_.name = relayed ? "bare TCP relay" : "bare TCP";
        traits_.has_server = relayed;
    }
    ~BareTcp() override {
        if (relay_pid_ != 0 && owner_ == ::getpid()) {
            ::kill(relay_pid_, SIGKILL);
            ::waitpid(relay_pid_, nullptr, 0);
        }
    }
    const Traits& traits() const override { return traits_; }
    int server_pid() const override { return relay_pid_; }

    std::string start(const Setup&) override {
        Connection first;
        if (std::string why = connect_both(first); !why.empty()) {
            return why;
        }
        ends_ = std::move(first);
        if (!relayed_) {
            return {};
        }
        Connection second;
        if (std::string why = connect_both(second); !why.empty()) {
            return why;
        }
        owner_ = ::getpid();
        relay_pid_ = ::fork();
        if (relay_pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() == owner_) {
                ends_[0].reset();
                second[1].reset();
                relay(ends_[1].get(), second[0].get());
            }
            ::_exit(0);
        }
        ends_[1] = std::move(second[1]);
        return relay_pid_ < 0 ? "cannot fork" : "";
    }
    void open(Side side) override {
        fd_ = ends_[side == Side::a ? 0 : 1].get();
        in_.open(fd_);
    }
    void prepare(const Slice& slice) override { in_.prepare(slice); }

    void send(const void* data, std::size_t bytes) { write_all(fd_, data, bytes, "TCP"); }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) { return in_.next(ret_bytes, "TCP"); }
    void settle() {}

private:
    Traits traits_{.limit = true, .local = false, .tcp = true};
    bool relayed_;
    Connection ends_;
    pid_t owner_ = 0;
    pid_t relay_pid_ = 0;
    ByteStreamReader in_;
    int fd_ = -1;
};

const Registered direct(103, [] { return std::make_unique<BareTcp>(false); });
const Registered relayed(104, [] { return std::make_unique<BareTcp>(true); });

}  // namespace
}  // namespace ipcbus::bench
