// SPDX-License-Identifier: Apache-2.0
// MQTT: a private mosquitto on a Unix socket, or over TCP, and libmosquitto, QoS 0. Each side runs
// the client's loop itself, without a thread, so that a message costs no hand-over within the
// process; a publish is then written to the socket by the call. mosquitto drops QoS 0 messages that
// it has no room for: that limit is lifted, and the frame lets no more than a window of messages be
// on the way.
#include "peers/loops.hpp"
#include "peers/polling.hpp"
#include "peers/server.hpp"

#include <mosquitto.h>

#include <algorithm>
#include <fstream>
#include <vector>

namespace ipcbus::bench {
namespace {

constexpr const char* kTopics[] = {"a", "b"};  // what A reads, what B reads

void check(int result, const char* what) {
    if (result != MOSQ_ERR_SUCCESS) {
        fail("mosquitto", std::string(what) + ": " + mosquitto_strerror(result));
    }
}

class Mosquitto : public PeerLoops<Mosquitto> {
public:
    explicit Mosquitto(bool tcp) {
        traits_.name = tcp ? "mosquitto tcp" : "mosquitto";
        traits_.local = !tcp;
        traits_.tcp = tcp;
    }
    ~Mosquitto() override {
        if (client_ != nullptr) {
            mosquitto_disconnect(client_);
            mosquitto_destroy(client_);
            mosquitto_lib_cleanup();
        }
    }
    const Traits& traits() const override { return traits_; }
    int server_pid() const override { return server_.pid(); }

    std::string start(const Setup& setup) override {
        socket_ = traits_.tcp ? "127.0.0.1" : setup.directory + "/mosquitto.sock";
        port_ = traits_.tcp ? Server::free_port() : 0;
        const std::string config = setup.directory + "/mosquitto.conf";
        std::ofstream(config) << "listener " << port_ << " " << socket_
                              << "\nset_tcp_nodelay true\nallow_anonymous true\n"
                              << "persistence false\nlog_type error\nmax_queued_messages 0\n"
                              << (::geteuid() == 0 ? "user root\n" : "");
        return server_.start({"mosquitto", "-c", config}, setup.directory + "/log", [this] {
            return port_ != 0 ? Server::answers(port_) : Server::answers(socket_);
        });
    }
    void open(Side side) override {
        const int own = side == Side::a ? 0 : 1;
        other_ = kTopics[1 - own];
        mosquitto_lib_init();
        client_ = mosquitto_new(nullptr, true, this);
        mosquitto_subscribe_callback_set(client_, [](mosquitto*, void* self, int, int, const int*) {
            static_cast<Mosquitto*>(self)->subscribed_ = true;
        });
        mosquitto_message_callback_set(
            client_, [](mosquitto*, void* self, const mosquitto_message* message) {
                static_cast<Mosquitto*>(self)->take(*message);
            });
        check(mosquitto_int_option(client_, MOSQ_OPT_TCP_NODELAY, 1), "no delay");
        check(mosquitto_connect(client_, socket_.c_str(), port_, kKeepaliveS), "connect");
        check(mosquitto_subscribe(client_, nullptr, kTopics[own], 0), "subscribe");
        while (!subscribed_) {
            check(mosquitto_loop(client_, -1, 1), "subscribe");
        }
    }
    void prepare(const Slice& slice) override {
        traits_.window = std::clamp<std::size_t>(kWindowBytes / slice.message_bytes, 4, 512);
        spin_ = slice.waiting == Waiting::spin;
    }

    void send(const void* data, std::size_t bytes) {
        check(mosquitto_publish(client_, nullptr, other_, int(bytes), data, 0, false), "publish");
    }
    void flush() {
        while (mosquitto_want_write(client_)) {
            check(mosquitto_loop_write(client_, 1), "write");
        }
    }
    /// The callback may be called for several messages in one read: they wait in received_.
    const void* receive(std::size_t& ret_bytes) {
        if (next_ == count_) {
            next_ = count_ = 0;
            while (count_ == 0) {
                check(mosquitto_loop(client_, spin_ ? 0 : -1, 1), "loop");
            }
        }
        const std::vector<char>& message = received_[next_++];
        ret_bytes = message.size();
        return message.data();
    }
    void settle() {}

private:
    static constexpr std::size_t kWindowBytes = 1 << 20;
    static constexpr int kKeepaliveS = 3600;

    void take(const mosquitto_message& message) {
        if (count_ == received_.size()) {
            received_.emplace_back();
        }
        const auto* data = static_cast<const char*>(message.payload);
        received_[count_++].assign(data, data + message.payloadlen);
    }

    Traits traits_{
        .spins = has_cpus(3), .has_server = true, .packages = {"mosquitto", "libmosquitto-dev"}};
    Server server_;
    std::string socket_;  ///< or host
    int port_ = 0;        ///< 0: a Unix socket
    mosquitto* client_ = nullptr;
    const char* other_ = nullptr;
    bool subscribed_ = false;
    bool spin_ = false;
    std::vector<std::vector<char>> received_;
    std::size_t count_ = 0;
    std::size_t next_ = 0;
};

const Registered local(410, [] { return std::make_unique<Mosquitto>(false); });
const Registered tcp(411, [] { return std::make_unique<Mosquitto>(true); });

}  // namespace
}  // namespace ipcbus::bench
