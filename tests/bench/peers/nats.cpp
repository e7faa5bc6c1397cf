// SPDX-License-Identifier: Apache-2.0
// NATS: a private nats-server on a TCP port of localhost (it listens on no Unix sockets), and
// libnats. Each side attaches the connection to an event loop of its own, as libnats offers for the
// users of libuv and libevent: without it, every message is handed over from libnats' reading
// thread, which costs a fifth to a third of rate and latency. The loop here is one poll(). With few
// CPUs, pinning both sides helps, and leaves the server free. A slow subscriber is cut off by the
// server: the frame lets no more than a window of messages be on the way.
#include "peers/loops.hpp"
#include "peers/polling.hpp"
#include "peers/server.hpp"

#include <nats/nats.h>

#include <algorithm>

namespace ipcbus::bench {
namespace {

constexpr const char* kSubjects[] = {"a", "b"};  // what A reads, what B reads

void check(natsStatus status, const char* what) {
    if (status != NATS_OK) {
        fail("NATS", std::string(what) + ": " + natsStatus_GetText(status));
    }
}

class Nats : public PeerLoops<Nats> {
public:
    ~Nats() override {
        settle();
        natsSubscription_Destroy(subscription_);
        natsConnection_Destroy(connection_);
        natsOptions_Destroy(options_);
    }
    const Traits& traits() const override { return traits_; }
    int server_pid() const override { return server_.pid(); }

    std::string start(const Setup& setup) override {
        port_ = Server::free_port();
        return server_.start({"nats-server", "-a", "127.0.0.1", "-p", std::to_string(port_)},
                             setup.directory + "/log", [this] { return Server::answers(port_); });
    }
    void open(Side side) override {
        const int own = side == Side::a ? 0 : 1;
        other_ = kSubjects[1 - own];
        check(natsOptions_Create(&options_), "options");
        const std::string url = "nats://127.0.0.1:" + std::to_string(port_);
        check(natsOptions_SetURL(options_, url.c_str()), "address");
        check(natsOptions_SetEventLoop(options_, this, attach, ignore, ignore, detach), "loop");
        check(natsConnection_Connect(&connection_, options_), "connect");
        check(natsConnection_SubscribeSync(&subscription_, connection_, kSubjects[own]),
              "subscribe");
        check(natsSubscription_SetPendingLimits(subscription_, -1, -1), "limits");
        // What A sends to itself comes back only after the server has seen the subscription.
        check(natsConnection_PublishString(connection_, kSubjects[own], "subscribed"), "greeting");
        flush();
        std::size_t bytes = 0;
        receive(bytes);
        settle();
    }
    void prepare(const Slice& slice) override {
        traits_.window = std::clamp<std::size_t>(kWindowBytes / slice.message_bytes, 4, 8192);
        spin_ = slice.waiting == Waiting::spin;
    }

    void send(const void* data, std::size_t bytes) {
        check(natsConnection_Publish(connection_, other_, data, int(bytes)), "publish");
        if (natsConnection_Buffered(connection_) >= kBlock) {
            flush();
        }
    }
    void flush() {
        while (natsConnection_Buffered(connection_) > 0) {
            natsConnection_ProcessWriteEvent(connection_);
        }
    }
    const void* receive(std::size_t& ret_bytes) {
        settle();
        natsStatus status = NATS_OK;
        while ((status = natsSubscription_NextMsg(&received_, subscription_, 0)) == NATS_TIMEOUT) {
            await_input(socket_, spin_);
            natsConnection_ProcessReadEvent(connection_);
        }
        check(status, "receive");
        ret_bytes = static_cast<std::size_t>(natsMsg_GetDataLength(received_));
        return natsMsg_GetData(received_);
    }
    void settle() {
        natsMsg_Destroy(received_);
        received_ = nullptr;
    }

private:
    static constexpr std::size_t kWindowBytes = 1 << 20;
    static constexpr int kBlock = 32 << 10;  // libnats' own

    // The event loop: it knows its socket; reading and writing are always looked at.
    static natsStatus attach(void** ret_user, void* loop, natsConnection*, natsSock socket) {
        static_cast<Nats*>(loop)->socket_ = socket;
        *ret_user = loop;
        return NATS_OK;
    }
    static natsStatus ignore(void*, bool) { return NATS_OK; }
    static natsStatus detach(void*) { return NATS_OK; }

    Traits traits_{.name = "NATS",
                   .spins = has_cpus(3),
                   .tcp = true,
                   .has_server = true,
                   .pin_threads = true,
                   .packages = {"nats-server", "libnats-dev"}};
    Server server_;
    int port_ = 0;
    natsOptions* options_ = nullptr;
    natsConnection* connection_ = nullptr;
    natsSubscription* subscription_ = nullptr;
    natsSock socket_ = -1;
    const char* other_ = nullptr;
    natsMsg* received_ = nullptr;
    bool spin_ = false;
};

const Registered registered(400, [] { return std::make_unique<Nats>(); });

}  // namespace
}  // namespace ipcbus::bench
