// SPDX-License-Identifier: Apache-2.0
// Goal: the daemon may be killed and started again under requests: who has been answered before is
// answered without it; what cannot be answered any more fails, though nobody has died; and all is
// as before once both have found the new one.
// Method: an ipcbusd that is killed and started on the same address; requester and responder by the
// library, in this process, so that each step is made when it is to be made.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"

#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <signal.h>

#include <cerrno>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

/// A daemon that comes and goes; its address stays.
class Daemon {
public:
    Daemon() : path_(directory_.file("bus.sock")) { start(); }
    void start() {
        process_ = ChildProcess::run({daemon_program(), "--listen", address()});
        const bool listens = process_.wait_for_output("listening on") != std::string::npos;
        INFO(process_.output());
        REQUIRE(listens);
    }
    void kill() {
        process_.signal(SIGKILL);
        REQUIRE(process_.wait() == 128 + SIGKILL);
    }
    [[nodiscard]] std::string address() const { return "unix:" + path_; }

private:
    TempDir directory_;
    std::string path_;
    ChildProcess process_;
};

struct Pair {
    explicit Pair(const Daemon& daemon)
        : server(connect(daemon.address())),
          client(connect(daemon.address())),
          responder(serve(server, "t")),
          requester(make_requester(client, "t")) {}
    /// Asks and answers.
    void trip(const std::string& text) {
        const std::uint64_t number = ask(requester, text);
        const Request request = next_request(responder);
        REQUIRE(request.payload == text);
        REQUIRE(respond(responder, request, "re " + text) == 0);
        const Reply reply = next_reply(requester);
        REQUIRE(reply.result == 0);
        CHECK(reply.payload == "re " + text);
        CHECK(reply.info.request == number);
    }
    /// Until both have found the new daemon, and each other there. What is asked meanwhile may
    /// fail, and is then answered by nobody.
    void find_each_other() {
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        bool answered = false;
        while (!answered && !deadline.passed()) {
            std::uint64_t number = 0;
            const int asked = ipcbus_ask(requester.get(), "?", 1, 0, kMillisecondNs, &number);
            REQUIRE((asked == 0 || asked == -EHOSTUNREACH));
            const Request request = next_request(responder, kMillisecondNs);
            if (request.result == 0) {
                (void)respond(responder, request, "!");
            }
            const Reply reply = next_reply(requester, kMillisecondNs);
            answered = reply.result == 0 && ipcbus_reconnects(client.get()) == 1 &&
                       ipcbus_reconnects(server.get()) == 1;
        }
        REQUIRE(answered);
        int result = 0;
        while (result != -ENOENT && !deadline.passed()) {  // those that were given up
            const Request request = next_request(responder, 0);
            if (request.result == 0) {
                (void)respond(responder, request, "!");
            }
            result = next_reply(requester, kMillisecondNs).result;
            if (result == -ETIMEDOUT || result == -EPIPE || result == 0) {
                continue;
            }
        }
        REQUIRE(result == -ENOENT);
    }

    Bus server;
    Bus client;
    Responder responder;
    Requester requester;
};

}  // namespace

TEST_CASE("who has been answered before needs no daemon") {
    Daemon daemon;
    Pair pair(daemon);
    pair.trip("before");
    ask(pair.requester, "under way");
    daemon.kill();
    const Request request = next_request(pair.responder);
    CHECK(request.payload == "under way");
    REQUIRE(respond(pair.responder, request, "without it") == 0);
    CHECK(next_reply(pair.requester).payload == "without it");
    for (int i = 0; i < 100; i++) {
        pair.trip(std::to_string(i));
    }
    daemon.start();
    pair.find_each_other();
    for (int i = 0; i < 100; i++) {
        pair.trip(std::to_string(i));
    }
}

TEST_CASE("what nobody can answer any more fails, though nobody has died") {
    Daemon daemon;
    Pair pair(daemon);
    const std::uint64_t number = ask(pair.requester, "first of all");
    const Request request = next_request(pair.responder);
    daemon.kill();
    // No ring has been made for its replies, and none will be.
    CHECK(respond(pair.responder, request, "too late") == -ESHUTDOWN);
    daemon.start();
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    const Reply reply = next_reply(pair.requester);
    CHECK(reply.result == -EPIPE);
    CHECK(reply.info.request == number);
    CHECK(deadline.remaining_ns() > kLongNs / 2);
    pair.find_each_other();
    pair.trip("after");
}
