// SPDX-License-Identifier: Apache-2.0
// Redis pub/sub: a private redis-server on a Unix socket, without persistence, and hiredis. A
// connection that has subscribed may do nothing else, so each side has two. The publishing one says
// CLIENT REPLY OFF, or every PUBLISH would be answered; a stream's commands are pipelined in
// blocks. Redis cuts off a subscriber that is too slow: that limit is lifted, and the frame lets no
// more than a window of messages be on the way.
#include "peers/loops.hpp"
#include "peers/polling.hpp"
#include "peers/server.hpp"

#include <hiredis/hiredis.h>

#include <algorithm>

namespace ipcbus::bench {
namespace {

constexpr const char* kName = "Redis";
constexpr const char* kChannels[] = {"a", "b"};  // what A reads, what B reads

class Redis : public PeerLoops<Redis> {
public:
    ~Redis() override {
        settle();
        for (redisContext* connection : {publishing_, subscribed_}) {
            if (connection != nullptr) {
                redisFree(connection);
            }
        }
    }
    const Traits& traits() const override { return traits_; }
    int server_pid() const override { return server_.pid(); }

    std::string start(const Setup& setup) override {
        socket_ = setup.directory + "/redis.sock";
        return server_.start(
            {"redis-server", "--port", "0", "--unixsocket", socket_, "--save", "", "--appendonly",
             "no", "--dir", setup.directory, "--client-output-buffer-limit", "pubsub 0 0 0"},
            setup.directory + "/log", [this] { return Server::answers(socket_); });
    }
    void open(Side side) override {
        const int own = side == Side::a ? 0 : 1;
        other_ = kChannels[1 - own];
        publishing_ = connect();
        subscribed_ = connect();
        redisReply* reply =
            static_cast<redisReply*>(redisCommand(subscribed_, "SUBSCRIBE %s", kChannels[own]));
        if (reply == nullptr || reply->type != REDIS_REPLY_ARRAY) {
            fail(kName, "cannot subscribe");
        }
        freeReplyObject(reply);
        redisAppendCommand(publishing_, "CLIENT REPLY OFF");
        flush();
    }
    void prepare(const Slice& slice) override {
        traits_.window = std::clamp<std::size_t>(kWindowBytes / slice.message_bytes, 4, 4096);
        spin_ = slice.waiting == Waiting::spin;
    }

    void send(const void* data, std::size_t bytes) {
        const char* words[] = {"PUBLISH", other_, static_cast<const char*>(data)};
        const std::size_t lengths[] = {7, 1, bytes};
        redisAppendCommandArgv(publishing_, 3, words, lengths);
        held_back_ += bytes;
        if (held_back_ >= kBlock) {
            flush();
        }
    }
    void flush() {
        held_back_ = 0;
        for (int done = 0; done == 0;) {
            if (redisBufferWrite(publishing_, &done) != REDIS_OK) {
                fail(kName, publishing_->errstr);
            }
        }
    }
    const void* receive(std::size_t& ret_bytes) {
        settle();
        void* reply = nullptr;
        while (redisGetReplyFromReader(subscribed_, &reply) == REDIS_OK && reply == nullptr) {
            if (spin_) {
                await_input(subscribed_->fd, true);
            }
            if (redisBufferRead(subscribed_) != REDIS_OK) {
                break;
            }
        }
        received_ = static_cast<redisReply*>(reply);  // "message", channel, payload
        if (received_ == nullptr || received_->elements != 3) {
            fail(kName, received_ == nullptr ? subscribed_->errstr : "no message");
        }
        ret_bytes = received_->element[2]->len;
        return received_->element[2]->str;
    }
    void settle() {
        freeReplyObject(received_);
        received_ = nullptr;
    }

private:
    static constexpr std::size_t kWindowBytes = 1 << 20;
    static constexpr std::size_t kBlock = 16 << 10;

    redisContext* connect() const {
        redisContext* connection = redisConnectUnix(socket_.c_str());
        if (connection == nullptr || connection->err != 0) {
            fail(kName, connection == nullptr ? "memory" : connection->errstr);
        }
        connection->reader->maxbuf = 0;  // as its documentation advises for large payloads
        return connection;
    }

    Traits traits_{.name = "Redis pub/sub",
                   .spins = has_cpus(3),
                   .has_server = true,
                   .packages = {"redis-server", "libhiredis-dev"}};
    Server server_;
    std::string socket_;
    redisContext* publishing_ = nullptr;
    redisContext* subscribed_ = nullptr;
    const char* other_ = nullptr;
    redisReply* received_ = nullptr;
    std::size_t held_back_ = 0;  // bytes, not yet written
    bool spin_ = false;
};

const Registered registered(420, [] { return std::make_unique<Redis>(); });

}  // namespace
}  // namespace ipcbus::bench
