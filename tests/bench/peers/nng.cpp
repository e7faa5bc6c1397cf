// SPDX-License-Identifier: Apache-2.0
// nng over ipc://: a pair0 socket on each side (push and pull carry a sixth of its rate), messages
// handed over and read as nng_msg without another copy, and queues on both sides, without which
// every message waits for a thread of nng's to take it. nng's threads run on the CPU of their
// process, which gives half as much again as letting them move. A sender waits when the queue is
// full; nothing is lost. Spinning is NNG_FLAG_NONBLOCK; nng's threads want CPUs too.
#include "peers/loops.hpp"
#include "peers/polling.hpp"

#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>

#include <unistd.h>

namespace ipcbus::bench {
namespace {

void check(int result, const char* what) {
    if (result != 0) {
        fail("nng", std::string(what) + ": " + nng_strerror(result));
    }
}

class Nng : public PeerLoops<Nng> {
public:
    ~Nng() override {
        settle();
        if (nng_socket_id(socket_) > 0) {
            nng_close(socket_);
        }
    }
    const Traits& traits() const override { return traits_; }

    std::string start(const Setup& setup) override {
        address_ = "ipc://" + setup.directory + "/pair";
        return {};
    }
    void open(Side side) override {
        check(nng_pair0_open(&socket_), "open");
        check(nng_socket_set_int(socket_, NNG_OPT_SENDBUF, kQueue), "send queue");
        check(nng_socket_set_int(socket_, NNG_OPT_RECVBUF, kQueue), "receive queue");
        check(nng_socket_set_size(socket_, NNG_OPT_RECVMAXSZ, 0), "size limit");
        if (side == Side::a) {
            check(nng_listen(socket_, address_.c_str(), nullptr, 0), "listen");
        } else {
            int result = 0;
            while ((result = nng_dial(socket_, address_.c_str(), nullptr, 0)) != 0) {
                if (result != NNG_ECONNREFUSED && result != NNG_ENOENT) {
                    check(result, "dial");
                }
                ::usleep(1000);
            }
        }
        // A greeting each way: from here on the connection stands.
        char greeting = 0;
        std::size_t bytes = 1;
        check(nng_send(socket_, &greeting, 1, 0), "send");
        check(nng_recv(socket_, &greeting, &bytes, 0), "receive");
    }
    void prepare(const Slice& slice) override {
        flags_ = slice.waiting == Waiting::spin ? NNG_FLAG_NONBLOCK : 0;
    }

    void send(const void* data, std::size_t bytes) {
        nng_msg* message = nullptr;
        check(nng_msg_alloc(&message, bytes), "memory");
        std::memcpy(nng_msg_body(message), data, bytes);
        int result = 0;
        while ((result = nng_sendmsg(socket_, message, flags_)) == NNG_EAGAIN) {}
        check(result, "send");
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) {
        settle();
        int result = 0;
        while ((result = nng_recvmsg(socket_, &received_, flags_)) == NNG_EAGAIN) {}
        check(result, "receive");
        ret_bytes = nng_msg_len(received_);
        return nng_msg_body(received_);
    }
    void settle() {
        if (received_ != nullptr) {
            nng_msg_free(received_);
            received_ = nullptr;
        }
    }

private:
    static constexpr int kQueue = 128;  // messages; longer ones are no faster

    Traits traits_{.name = "nng ipc",
                   .spins = has_cpus(4),
                   .has_server = true,  // its threads
                   .pin_threads = true,
                   .packages = {"libnng-dev"}};
    std::string address_;
    nng_socket socket_ = NNG_SOCKET_INITIALIZER;
    nng_msg* received_ = nullptr;
    int flags_ = 0;
};

const Registered registered(310, [] { return std::make_unique<Nng>(); });

}  // namespace
}  // namespace ipcbus::bench
