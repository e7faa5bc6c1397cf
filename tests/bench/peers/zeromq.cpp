// SPDX-License-Identifier: Apache-2.0
// ZeroMQ over ipc://: PUSH to PULL each way, which carries streams a little faster than PAIR and a
// ping-pong alike, with one I/O thread in each process (more do not help one connection), on the
// CPU of its process: 6.7 million messages a second of 64 bytes, where threads that are free to
// move give 2 or 5.5 at random. The high-water marks are those that ZeroMQ delivers: at 1,000
// messages on each side the sender waits, and nothing is lost. Large messages go over sockets of
// their own, which hold less: 1,000 of them would only push each other out of the caches. Received
// messages are read where ZeroMQ put them. Spinning is ZMQ_DONTWAIT; the I/O threads want CPUs too.
#include "peers/loops.hpp"
#include "peers/polling.hpp"

#include <zmq.h>

namespace ipcbus::bench {
namespace {

void check(int result, const char* what) {
    if (result < 0) {
        fail("ZeroMQ", std::string(what) + ": " + zmq_strerror(zmq_errno()));
    }
}

/// One PUSH and one PULL socket; each side binds the socket that it reads.
struct Link {
    void* push = nullptr;
    void* pull = nullptr;

    void open(void* context, const std::string& own, const std::string& other, int messages_max,
              int buffer_bytes) {
        push = zmq_socket(context, ZMQ_PUSH);
        pull = zmq_socket(context, ZMQ_PULL);
        const int no_linger = 0;
        for (void* socket : {push, pull}) {
            check(zmq_setsockopt(socket, ZMQ_LINGER, &no_linger, sizeof(int)), "linger");
            check(zmq_setsockopt(socket, ZMQ_SNDHWM, &messages_max, sizeof(int)), "send mark");
            check(zmq_setsockopt(socket, ZMQ_RCVHWM, &messages_max, sizeof(int)), "receive mark");
            check(zmq_setsockopt(socket, ZMQ_SNDBUF, &buffer_bytes, sizeof(int)), "send buffer");
            check(zmq_setsockopt(socket, ZMQ_RCVBUF, &buffer_bytes, sizeof(int)), "receive buffer");
        }
        check(zmq_bind(pull, own.c_str()), "bind");
        check(zmq_connect(push, other.c_str()), "connect");
        // A greeting each way: from here on the connections stand.
        char greeting = 0;
        check(zmq_send(push, &greeting, 1, 0), "send");
        check(zmq_recv(pull, &greeting, 1, 0), "receive");
    }
    void close() {
        zmq_close(push);
        zmq_close(pull);
    }
};

class ZeroMq : public PeerLoops<ZeroMq> {
public:
    ~ZeroMq() override {
        if (context_ != nullptr) {
            zmq_msg_close(&message_);
            small_.close();
            large_.close();
            zmq_ctx_term(context_);
        }
    }
    const Traits& traits() const override { return traits_; }

    std::string start(const Setup& setup) override {
        directory_ = setup.directory;
        return {};
    }
    void open(Side side) override {
        context_ = zmq_ctx_new();
        zmq_msg_init(&message_);
        const std::string base = "ipc://" + directory_ + "/";
        const std::string own = base + (side == Side::a ? "a" : "b");
        const std::string other = base + (side == Side::a ? "b" : "a");
        small_.open(context_, own, other, 1000, -1);
        large_.open(context_, own + "-large", other + "-large", kLargeMessagesMax, kLargeBuffer);
    }
    void prepare(const Slice& slice) override {
        link_ = slice.message_bytes < kLarge ? &small_ : &large_;
        flags_ = slice.waiting == Waiting::spin ? ZMQ_DONTWAIT : 0;
    }

    void send(const void* data, std::size_t bytes) {
        while (zmq_send(link_->push, data, bytes, flags_) < 0) {
            check_again("send");
        }
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) {
        while (zmq_msg_recv(&message_, link_->pull, flags_) < 0) {
            check_again("receive");
        }
        ret_bytes = zmq_msg_size(&message_);
        return zmq_msg_data(&message_);
    }
    void settle() {}

private:
    static constexpr std::size_t kLarge = 16 << 10;
    static constexpr int kLargeMessagesMax = 16;
    static constexpr int kLargeBuffer = 1 << 20;

    static void check_again(const char* what) {
        if (zmq_errno() != EAGAIN && zmq_errno() != EINTR) {
            check(-1, what);
        }
    }

    Traits traits_{.name = "ZeroMQ ipc",
                   .spins = has_cpus(4),
                   .has_server = true,  // the I/O threads
                   .pin_threads = true,
                   .packages = {"libzmq3-dev"}};
    std::string directory_;
    void* context_ = nullptr;
    Link small_, large_;
    Link* link_ = nullptr;
    int flags_ = 0;
    zmq_msg_t message_;
};

const Registered registered(300, [] { return std::make_unique<ZeroMq>(); });

}  // namespace
}  // namespace ipcbus::bench
