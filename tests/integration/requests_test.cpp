// SPDX-License-Identifier: Apache-2.0
// Goal: a request reaches one of those who serve its topic (or all), and its reply the one who
// asked, by the number of the request; that nobody serves, or that who was asked has died, is known
// at once and not by a time-out; late replies are nobody's.
// Method: a private ipcbusd; requesters and responders by the library, in this process where their
// steps are to be told apart, in processes of their own where one is to be killed or stopped.
// Bounds: "at once" is far below the deadline that the request had: kSoonNs of kLongNs.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <set>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

/// A responder that answers with what it was asked, prefixed, until it is ended.
ChildProcess echo_in_child(const std::string& address, const std::string& filter,
                           const std::string& prefix, Milestone& ready) {
    return ChildProcess::fork([&address, filter, prefix, &ready] {
        const Bus bus = connect(address);
        const Responder responder = serve(bus, filter);
        ready.raise(1);
        for (;;) {
            const Request request = next_request(responder, IPCBUS_FOREVER);
            must(request.result, "next request");
            const int result = respond(responder, request, prefix + request.payload);
            must_be(result == 0 || result == -EPIPE, "respond");
        }
        return 0;
    });
}

/// The user of this process; for a remote client one that stands for its host.
bool is_own(std::uint32_t uid) {
    return DaemonFixture::over_tcp() ? uid >= 0x80000000 : uid == ::getuid();
}

std::size_t own_mappings() {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
        count++;
    }
    return count;
}

/// Half of it, so that a slow machine does not fail and a wait for the deadline does.
const std::int64_t kSoonNs = kLongNs / 2;

}  // namespace

TEST_CASE("one asks, one answers") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "calc/add");
    const Requester requester = make_requester(client, "calc/add");
    CHECK(ipcbus_responder_count(requester.get()) == 1);
    CHECK(ipcbus_request_bytes_max(requester.get()) == 16384);
    std::uint64_t last = 0;
    for (int i = 0; i < 1000; i++) {
        const std::string text = "request " + std::to_string(i);
        const std::uint64_t number = ask(requester, text);
        CHECK(number > last);
        last = number;
        const Request request = next_request(responder);
        REQUIRE(request.result == 0);
        CHECK(request.payload == text);
        CHECK(request.topic == "calc/add");
        CHECK(request.info.sequence == number);
        CHECK(is_own(request.info.uid));
        REQUIRE(respond(responder, request, "reply " + std::to_string(i),
                        static_cast<std::uint32_t>(i % 3)) == 0);
        const Reply reply = next_reply(requester);
        REQUIRE(reply.result == 0);
        CHECK(reply.payload == "reply " + std::to_string(i));
        CHECK(reply.info.request == number);
        CHECK(reply.info.status == static_cast<std::uint32_t>(i % 3));
        CHECK(reply.info.flags == 0);
        CHECK(is_own(reply.info.uid));
    }
    CHECK(next_reply(requester, 0).result == -ENOENT);
    CHECK(ipcbus_requester_count(responder.get()) == 1);
}

TEST_CASE("empty, binary and the largest there is") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "blob");
    for (const std::uint64_t bytes_max : {std::uint64_t{1}, std::uint64_t{100'000}}) {
        ipcbus_requester_options options = IPCBUS_INIT(options);
        options.request_bytes_max = bytes_max;
        options.reply_bytes_max = bytes_max;
        const Requester requester = make_requester(client, "blob", options);
        const std::size_t most = ipcbus_request_bytes_max(requester.get());
        CHECK(most == (bytes_max == 1 ? 1024 : 131072));
        for (const std::size_t size : {std::size_t{0}, std::size_t{1}, most}) {
            std::string data(size, '\0');
            for (std::size_t i = 0; i < size; i++) {
                data[i] = static_cast<char>(i * 7);
            }
            const std::uint64_t number = ask(requester, data);
            const Request request = next_request(responder);
            CHECK(request.payload == data);
            REQUIRE(respond(responder, request, data) == 0);
            const Reply reply = next_reply(requester);
            CHECK(reply.info.request == number);
            CHECK(reply.payload == data);
        }
        const std::string too_large(most + 1, 'x');
        std::uint64_t number = 0;
        CHECK(ipcbus_ask(requester.get(), too_large.data(), too_large.size(), 0, 0, &number) ==
              -EMSGSIZE);
        CHECK(next_reply(requester, 0).result == -ENOENT);  // nothing was sent
        // A reply that the requester does not take is refused to who answers, who can say so.
        ask(requester, "small");
        const Request request = next_request(responder);
        CHECK(respond(responder, request, too_large) == -EMSGSIZE);
        CHECK(std::string(ipcbus_last_error()).find("reply_bytes_max") != std::string::npos);
        REQUIRE(respond(responder, request, "no", 7) == 0);
        CHECK(next_reply(requester).info.status == 7);
    }
}

TEST_CASE("a reply that does not fit the buffer stays") {
    const DaemonFixture daemon;
    SharedBlock<Milestone> ready;
    const ChildProcess child = echo_in_child(daemon.address(), "echo", "", *ready);
    REQUIRE(ready->wait(1));
    const Bus bus = connect(daemon.address());
    const Requester requester = make_requester(bus, "echo");
    char small[4] = {};
    ipcbus_reply reply{};
    CHECK(ipcbus_call(requester.get(), "12345678", 8, small, sizeof small, kLongNs, &reply) ==
          -EMSGSIZE);
    CHECK(reply.size == 8);
    CHECK(ipcbus_call(requester.get(), "x", 1, nullptr, 0, kLongNs, &reply) == -EBUSY);
    const Reply whole = next_reply(requester, 0);
    CHECK(whole.result == 0);
    CHECK(whole.payload == "12345678");
    CHECK(call(requester, "abc").payload == "abc");
}

TEST_CASE("nobody serves: known at once, and nothing is kept for who comes later") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Requester requester = make_requester(bus, "later");
    const Bus watcher = connect(daemon.address());
    const Subscriber everything = subscribe(watcher, "#");  // is no responder
    const Subscriber same = subscribe(watcher, "later");
    CHECK(call(requester, "a").result == -EHOSTUNREACH);
    CHECK(std::string(ipcbus_last_error()).find("nobody serves 'later'") != std::string::npos);
    CHECK(ipcbus_responder_count(requester.get()) == 0);
    CHECK(ipcbus_wait_responders(requester.get(), 1, 0) == -EAGAIN);

    const Bus server = connect(daemon.address());
    Responder responder = serve(server, "+");
    CHECK(ipcbus_wait_responders(requester.get(), 1, kLongNs) == 0);
    CHECK(next_request(responder, 0).result == -EAGAIN);
    ask(requester, "b");
    const Request request = next_request(responder);
    CHECK(request.payload == "b");
    CHECK(request.topic == "later");
    REQUIRE(respond(responder, request, "c") == 0);
    CHECK(next_reply(requester).payload == "c");
    // Neither requests nor replies are messages.
    CHECK(receive(everything, 0).result == -EAGAIN);
    CHECK(receive(same, 0).result == -EAGAIN);
    CHECK(ipcbus_publication_count(everything.get()) == 0);

    responder.reset();
    while (DaemonFixture::over_tcp() && ipcbus_responder_count(requester.get()) != 0) {
        std::this_thread::yield();  // on two connections, neither is first
    }
    CHECK(call(requester, "d").result == -EHOSTUNREACH);
}

TEST_CASE("a responder that dies in the middle fails its requests at once, and only those") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    bool has_answered = false;
    SUBCASE("before it has ever answered") {}
    SUBCASE("after it has answered others") { has_answered = true; }
    SharedBlock<Milestone> got;
    ChildProcess victim = ChildProcess::fork([&] {
        const Bus server = connect(daemon.address());
        const Responder responder = serve(server, "job");
        got->raise(1);
        for (bool first = has_answered;; first = false) {
            const Request request = next_request(responder, IPCBUS_FOREVER);
            must(request.result, "next request");
            got->raise(1);
            if (first) {
                must(respond(responder, request, "first"), "respond");
            }
        }
        return 0;
    });
    REQUIRE(got->wait(1));
    const Requester requester = make_requester(bus, "job");
    if (has_answered) {
        CHECK(call(requester, "0").payload == "first");
    }
    const std::uint64_t one = ask(requester, "1");
    const std::uint64_t two = ask(requester, "2");
    REQUIRE(got->wait(has_answered ? 4 : 3));
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    std::thread killer([&] { victim.signal(SIGKILL); });
    Reply reply = next_reply(requester);
    killer.join();
    CHECK(reply.result == -EPIPE);
    CHECK(reply.info.request == one);
    reply = next_reply(requester);
    CHECK(reply.result == -EPIPE);
    CHECK(reply.info.request == two);
    CHECK(deadline.remaining_ns() > kSoonNs);
    CHECK(next_reply(requester, 0).result == -ENOENT);
    CHECK(call(requester, "3").result == -EHOSTUNREACH);
}

TEST_CASE("who answers and exits at once has answered") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Requester requester = make_requester(bus, "once");
    for (int i = 0; i < 50; i++) {
        // Over TCP what is sent is on its way, and with its process.
        const bool killed = i % 2 == 0 && !DaemonFixture::over_tcp();
        ChildProcess child = ChildProcess::fork([&] {
            Bus server = connect(daemon.address());
            Responder responder = serve(server, "once");
            const Request request = next_request(responder, IPCBUS_FOREVER);
            must(request.result, "next request");
            must(respond(responder, request, "last words"), "respond");
            if (killed) {
                ::raise(SIGKILL);
            }
            responder.reset();
            server.reset();
            return 0;
        });
        REQUIRE(ipcbus_wait_responders(requester.get(), 1, kLongNs) == 0);
        const Reply reply = call(requester, "say");
        INFO("round ", i, ": ", ipcbus_last_error());
        REQUIRE(reply.result == 0);
        CHECK(reply.payload == "last words");
        (void)child.wait();
        while (ipcbus_responder_count(requester.get()) != 0) {
            std::this_thread::yield();
        }
    }
}

TEST_CASE("a deadline, and a reply that comes too late") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "slow");
    const Requester requester = make_requester(client, "slow");
    CHECK(call(requester, "one", kMillisecondNs).result == -ETIMEDOUT);
    CHECK(call(requester, "two", 0).result == -EAGAIN);
    const Request one = next_request(responder);
    const Request two = next_request(responder);
    CHECK(one.payload == "one");
    CHECK(two.payload == "two");
    // Both answers are in the ring before the third request is made; neither may be taken for its.
    REQUIRE(respond(responder, one, "to one") == 0);
    REQUIRE(respond(responder, two, "to two") == 0);
    ask(requester, "three");
    const Request three = next_request(responder);
    CHECK(next_reply(requester, kMillisecondNs).result == -ETIMEDOUT);
    REQUIRE(respond(responder, three, "to three") == 0);
    const Reply reply = next_reply(requester);
    CHECK(reply.payload == "to three");
    // Answered twice: the second is nobody's.
    REQUIRE(respond(responder, three, "again") == 0);
    CHECK(next_reply(requester, 0).result == -ENOENT);
    const std::uint64_t four = ask(requester, "four");
    CHECK(ipcbus_abandon(requester.get(), four) == 0);
    CHECK(ipcbus_abandon(requester.get(), four) == -ENOENT);
    CHECK(next_reply(requester, 0).result == -ENOENT);
}

TEST_CASE("several under way are answered in any order") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "jobs/#");
    const Requester requester = make_requester(client, "jobs/a");
    std::map<std::uint64_t, std::string> asked;
    std::vector<Request> got;
    for (int i = 0; i < 64; i++) {
        const std::string text = std::to_string(i);
        asked[ask(requester, text)] = text;
        got.push_back(next_request(responder));
    }
    for (std::size_t i = 0; i < got.size(); i++) {
        const Request& request = got[i * 37 % got.size()];
        REQUIRE(respond(responder, request, "re " + request.payload, 0, IPCBUS_REPLY_MORE) == 0);
        REQUIRE(respond(responder, request, "end " + request.payload) == 0);
    }
    for (std::size_t i = 0; i < 2 * got.size(); i++) {
        const Reply reply = next_reply(requester);
        REQUIRE(reply.result == 0);
        const bool more = (reply.info.flags & IPCBUS_REPLY_MORE) != 0;
        CHECK(reply.payload == (more ? "re " : "end ") + asked.at(reply.info.request));
    }
    CHECK(next_reply(requester, 0).result == -ENOENT);
}

TEST_CASE("responders share the requests; all of them are asked on demand") {
    const DaemonFixture daemon;
    SharedBlock<Milestone> ready;
    std::vector<ChildProcess> children;
    for (int i = 0; i < 4; i++) {
        children.push_back(
            echo_in_child(daemon.address(), "work", std::to_string(i) + ":", *ready));
    }
    REQUIRE(ready->wait(4));
    const Bus bus = connect(daemon.address());
    const Requester requester = make_requester(bus, "work");
    CHECK(ipcbus_responder_count(requester.get()) == 4);
    std::map<std::string, int> handled;
    for (int i = 0; i < 100; i++) {
        const Reply reply = call(requester, "x");
        REQUIRE(reply.result == 0);
        handled[reply.payload]++;
    }
    for (int i = 0; i < 4; i++) {
        CHECK(handled[std::to_string(i) + ":x"] == 25);
    }

    std::set<std::string> answers;
    const std::uint64_t all = ask(requester, "y", IPCBUS_ASK_ALL);
    for (int i = 0; i < 4; i++) {
        const Reply reply = next_reply(requester);
        REQUIRE(reply.result == 0);
        CHECK(reply.info.request == all);
        answers.insert(reply.payload);
    }
    CHECK(answers == std::set<std::string>{"0:y", "1:y", "2:y", "3:y"});
    CHECK(next_reply(requester, 0).result == -ENOENT);

    // One that is stopped lets its requests time out, and is then left out as long as there is
    // another; going on, its late replies are nobody's.
    children[2].signal(SIGSTOP);
    int timed_out = 0;
    for (int i = 0; i < 60; i++) {
        const Reply reply = call(requester, "z", kSecondNs * patience());
        timed_out += reply.result == -ETIMEDOUT ? 1 : 0;
        REQUIRE((reply.result == 0 || reply.result == -ETIMEDOUT));
        CHECK(reply.payload != "2:z");
    }
    CHECK(timed_out >= 1);
    CHECK(timed_out <= 2);
    children[2].signal(SIGCONT);
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    std::string answered;
    for (int i = 0; answered != "2:" + std::to_string(i - 1) && !deadline.passed(); i++) {
        const Reply reply = call(requester, std::to_string(i));
        REQUIRE(reply.result == 0);
        answered = reply.payload;
        REQUIRE(answered.substr(2) == std::to_string(i));
    }
    CHECK(answered.substr(0, 2) == "2:");
}

TEST_CASE("many requesters at once, each gets what it asked for") {
    const DaemonFixture daemon;
    SharedBlock<Milestone> ready;
    std::vector<ChildProcess> servers;
    for (int i = 0; i < 3; i++) {
        servers.push_back(echo_in_child(daemon.address(), "echo/+", "", *ready));
    }
    REQUIRE(ready->wait(3));
    std::vector<ChildProcess> clients;
    for (int i = 0; i < 12; i++) {
        clients.push_back(ChildProcess::fork([&daemon, i] {
            const Bus bus = connect(daemon.address());
            ipcbus_requester_options options = IPCBUS_INIT(options);
            options.request_bytes_max = 1024;
            options.reply_bytes_max = 1024;
            const Requester requester = make_requester(bus, "echo/" + std::to_string(i % 2),
                                                       options);
            for (int n = 0; n < 500 / patience(); n++) {
                const std::string text = std::to_string(i) + "/" + std::to_string(n) +
                                         std::string(static_cast<std::size_t>(n), '.');
                const Reply reply = call(requester, text);
                must(reply.result, "call");
                must_be(reply.payload == text, "another reply");
            }
            return 0;
        }));
    }
    for (ChildProcess& client : clients) {
        CHECK(client.wait() == 0);
    }
    for (const ChildProcess& server : servers) {
        CHECK(server.running());
    }
}

TEST_CASE("responders die all the time: every request ends, and those that are answered rightly") {
    const DaemonFixture daemon;
    SharedBlock<Milestone> ready;
    std::vector<ChildProcess> servers;
    for (int i = 0; i < 3; i++) {
        servers.push_back(echo_in_child(daemon.address(), "mortal", "", *ready));
    }
    REQUIRE(ready->wait(3));
    const Bus bus = connect(daemon.address());
    const Requester requester = make_requester(bus, "mortal");
    int answered = 0;
    for (int i = 0; i < 300; i++) {
        if (i % 10 == 9) {
            ChildProcess& victim = servers[static_cast<std::size_t>(i / 10) % servers.size()];
            victim.signal(SIGKILL);
            victim = echo_in_child(daemon.address(), "mortal", "", *ready);
        }
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        const Reply reply = call(requester, std::to_string(i));
        REQUIRE((reply.result == 0 || reply.result == -EPIPE || reply.result == -EHOSTUNREACH));
        CHECK(deadline.remaining_ns() > kSoonNs);
        if (reply.result == 0) {
            answered++;
            CHECK(reply.payload == std::to_string(i));
        }
    }
    CHECK(answered >= 240);
}

TEST_CASE("a requester that does not take its replies holds its responder once, for max_block") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "flood", kMillisecondNs);
    ipcbus_requester_options options = IPCBUS_INIT(options);
    options.reply_bytes_max = 1024;
    const Requester requester = make_requester(client, "flood", options);
    const std::uint64_t number = ask(requester, "all of it");
    const Request request = next_request(responder);
    const std::string block(1024, 'b');
    int sent = 0;
    int result = 0;
    for (; (result = respond(responder, request, block, 0, IPCBUS_REPLY_MORE)) == 0; sent++) {
        REQUIRE(sent < 10);
    }
    CHECK(result == -ETIMEDOUT);
    CHECK(sent >= 2);
    CHECK(respond(responder, request, block, 0, IPCBUS_REPLY_MORE) == -EAGAIN);
    // Others do not notice; and once it takes them, it is answered again.
    const Requester other = make_requester(client, "flood", options);
    ask(other, "me");
    const Request from_other = next_request(responder);
    REQUIRE(respond(responder, from_other, "you") == 0);
    CHECK(next_reply(other).payload == "you");
    for (int i = 0; i < sent; i++) {
        const Reply reply = next_reply(requester);
        REQUIRE(reply.result == 0);
        CHECK(reply.info.request == number);
        CHECK(reply.payload == block);
    }
    CHECK(next_reply(requester, 0).result == -EAGAIN);
    REQUIRE(respond(responder, request, "end") == 0);
    CHECK(next_reply(requester).payload == "end");
}

TEST_CASE("a requester that has gone is told to who answers it, and costs nothing") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "t");
    std::size_t mappings = 0;
    for (int i = 0; i < 100; i++) {
        if (i == 10) {
            CHECK(next_request(responder, 0).result == -EAGAIN);
            mappings = own_mappings();
        }
        Requester requester = make_requester(client, "t");
        ask(requester, "1");
        const Request one = next_request(responder);
        if (i % 2 == 0) {
            REQUIRE(respond(responder, one, "1") == 0);
            ask(requester, "2");
        }
        requester.reset();
        const Request two = i % 2 == 0 ? next_request(responder) : one;
        CHECK(two.payload == (i % 2 == 0 ? "2" : "1"));
        CHECK(respond(responder, two, "too late") == -EPIPE);
    }
    CHECK(next_request(responder, 0).result == -EAGAIN);
    CHECK(ipcbus_requester_count(responder.get()) == 0);
    CHECK(own_mappings() < mappings + 30);  // one requester and its replies have six
    Request forged;
    forged.info.requester = 12345;
    CHECK(respond(responder, forged, "x") == -EINVAL);
    forged.info.requester = 0;
    CHECK(respond(responder, forged, "x") == -EINVAL);
}

TEST_CASE("who works on a request holds up nobody who is asked meanwhile") {
    const DaemonFixture daemon;
    const Bus server = connect(daemon.address());
    const Responder busy = serve(server, "work");
    SharedBlock<Milestone> ready;
    const ChildProcess quick = echo_in_child(daemon.address(), "work", "", *ready);
    REQUIRE(ready->wait(1));
    const Bus bus = connect(daemon.address());
    const Requester requester = make_requester(bus, "work");
    REQUIRE(ipcbus_responder_count(requester.get()) == 2);
    ask(requester, "1");
    ask(requester, "2");
    const Request taken = next_request(busy);
    CHECK(next_reply(requester).result == 0);
    // Many times the ring, without waiting for room; and no loss is told of what was to others.
    const std::string large(16000, 'x');
    for (int i = 0; i < 40; i++) {
        std::uint64_t number = 0;
        REQUIRE(ipcbus_ask(requester.get(), large.data(), large.size(), 0, 0, &number) == 0);
        const Reply reply = next_reply(requester);
        REQUIRE(reply.result == 0);
        REQUIRE(reply.info.request == number);
    }
    CHECK(next_request(busy, 0).result == -EAGAIN);
    REQUIRE(respond(busy, taken, "done") == 0);
    const Reply reply = next_reply(requester);
    CHECK(reply.payload == "done");
    CHECK(reply.info.request == taken.info.sequence);
    // What is to it is kept for it, wherever it stood.
    ask(requester, "3");
    ask(requester, "4");
    CHECK(next_request(busy).result == 0);
}

TEST_CASE("what is to it is found by one that was overtaken before, wherever it stands") {
    const DaemonFixture daemon;
    const Bus server = connect(daemon.address());
    const Responder busy = serve(server, "work");
    SharedBlock<Milestone> ready;
    const ChildProcess quick = echo_in_child(daemon.address(), "work", "", *ready);
    REQUIRE(ready->wait(1));
    const Bus bus = connect(daemon.address());
    const std::string large(1000, 'x');
    for (int more = 0; more < 6; more++) {
        const Requester requester = make_requester(bus, "work");
        REQUIRE(ipcbus_responder_count(requester.get()) == 2);
        ask(requester, "1");
        ask(requester, "2");
        const Request taken = next_request(busy);
        REQUIRE(next_reply(requester).result == 0);
        // More than a ring, all to the other one: what was read last is gone.
        for (int i = 0; i < 100 + more; i++) {
            ask(requester, large);
            REQUIRE(next_reply(requester).result == 0);
        }
        const std::uint64_t to_quick = ask(requester, "a");
        const std::uint64_t to_busy = ask(requester, "b");
        REQUIRE(next_reply(requester).info.request == to_quick);
        // Now as much behind it as there is room for.
        int sent = 0;
        std::uint64_t number = 0;
        while (ipcbus_ask(requester.get(), large.data(), large.size(), 0, 0, &number) == 0) {
            REQUIRE(next_reply(requester).info.request == number);
            REQUIRE(++sent < 100);
        }
        CHECK(sent > 50);
        const Request kept = next_request(busy);
        INFO(more, " more, then ", sent);
        REQUIRE(kept.result == 0);
        CHECK(kept.info.sequence == to_busy);
        CHECK(kept.payload == "b");
        CHECK(next_request(busy, 0).result == -EAGAIN);
        REQUIRE(respond(busy, kept, "2nd") == 0);
        REQUIRE(respond(busy, taken, "1st") == 0);
        CHECK(next_reply(requester).payload == "2nd");
        CHECK(next_reply(requester).payload == "1st");
    }
}

TEST_CASE("what a responder does not read for long is given up, and told to who asked") {
    const std::int64_t stall_ms = 500 * patience();
    const DaemonFixture daemon("[publications]\nstall_timeout = \"" + std::to_string(stall_ms) +
                               "ms\"\n");
    const Bus server = connect(daemon.local_address());  // remote, it has room for more
    const Responder lazy = serve(server, "work");
    SharedBlock<Milestone> ready;
    const ChildProcess quick = echo_in_child(daemon.local_address(), "work", "", *ready);
    REQUIRE(ready->wait(1));
    const Bus bus = connect(daemon.address());
    const Requester requester = make_requester(bus, "work");
    REQUIRE(ipcbus_responder_count(requester.get()) == 2);
    // One that it works on, one that it does not read.
    ask(requester, "1");
    ask(requester, "2");
    REQUIRE(next_reply(requester).result == 0);
    const Request taken = next_request(lazy);
    REQUIRE(taken.result == 0);
    const std::uint64_t three = ask(requester, "3");
    const std::uint64_t unread = ask(requester, "4");
    REQUIRE(next_reply(requester).info.request == three);
    const std::string large(16000, 'x');
    std::vector<std::uint64_t> failed;
    for (int i = 0; i < 12; i++) {
        const std::uint64_t number = ask(requester, large);
        for (;;) {
            const Reply reply = next_reply(requester);
            if (reply.result == 0) {
                REQUIRE(reply.info.request == number);
                break;
            }
            REQUIRE(reply.result == -EPIPE);
            failed.push_back(reply.info.request);
        }
    }
    CHECK(failed == std::vector<std::uint64_t>{unread});
    CHECK(next_request(lazy, 0).result == -EAGAIN);
    ask(requester, "5");
    CHECK(next_reply(requester).payload == "5");
    REQUIRE(respond(lazy, taken, "done") == 0);
    const Reply late = next_reply(requester);
    CHECK(late.payload == "done");
    CHECK(late.info.request == taken.info.sequence);
}

TEST_CASE("a thread that asks itself is told so, and is not asked where there is another") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Responder own = serve(bus, "self");
    const Requester requester = make_requester(bus, "self");
    ask(requester, "one step after the other");
    const Request request = next_request(own);
    REQUIRE(respond(own, request, "is fine") == 0);
    CHECK(next_reply(requester).payload == "is fine");
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    CHECK(call(requester, "x").result == -EDEADLK);
    CHECK(deadline.remaining_ns() > kSoonNs);
    CHECK(next_request(own, 0).result == -EAGAIN);  // nothing was sent
    SharedBlock<Milestone> ready;
    const ChildProcess other = echo_in_child(daemon.address(), "self", "", *ready);
    REQUIRE(ready->wait(1));
    REQUIRE(ipcbus_wait_responders(requester.get(), 2, kLongNs) == 0);
    for (int i = 0; i < 5; i++) {
        CHECK(call(requester, std::to_string(i)).payload == std::to_string(i));
    }
}

TEST_CASE("a request that is not sent is nobody's fault") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder a = serve(server, "t");
    const Responder b = serve(server, "t");
    const Requester requester = make_requester(client, "t");
    const std::string too_large(ipcbus_request_bytes_max(requester.get()) + 1, 'x');
    const std::string large(ipcbus_request_bytes_max(requester.get()), 'x');
    std::uint64_t number = 0;
    CHECK(ipcbus_ask(requester.get(), too_large.data(), too_large.size(), 0, 0, &number) ==
          -EMSGSIZE);
    std::vector<std::uint64_t> sent;
    while (ipcbus_ask(requester.get(), large.data(), large.size(), 0, 0, &number) == 0) {
        sent.push_back(number);
    }
    REQUIRE(sent.size() >= 2);
    // As many to one as to the other, but for one; whoever was chosen for those that did not go.
    std::size_t to_a = 0;
    std::size_t to_b = 0;
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (to_a + to_b < sent.size() && !deadline.passed()) {
        to_a += next_request(a, kMillisecondNs).result == 0 ? 1 : 0;
        to_b += next_request(b, kMillisecondNs).result == 0 ? 1 : 0;
    }
    REQUIRE(to_a + to_b == sent.size());
    CHECK(std::max(to_a, to_b) - std::min(to_a, to_b) <= 1);
    // Then first who has less to do.
    ask(requester, "1");
    if (to_a != to_b) {
        CHECK(next_request(to_a < to_b ? a : b).result == 0);
    } else {
        ask(requester, "2");
        CHECK(next_request(a).result == 0);
        CHECK(next_request(b).result == 0);
    }
}

TEST_CASE("many requesters of one user that take no replies hold their responder as one does") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "flood", kSecondNs);
    ipcbus_requester_options options = IPCBUS_INIT(options);
    options.reply_bytes_max = 1024;
    const std::string block(1024, 'b');
    std::vector<Requester> all;
    const sys::Deadline deadline = sys::Deadline::after(100 * kSecondNs);
    for (int i = 0; i < 8; i++) {
        all.push_back(make_requester(client, "flood", options));
        ask(all.back(), "all of it");
        const Request request = next_request(responder);
        REQUIRE(request.result == 0);
        int result = 0;
        for (int n = 0; n < 10 && result == 0; n++) {
            result = respond(responder, request, block, 0, IPCBUS_REPLY_MORE);
        }
        CHECK((result == -ETIMEDOUT || result == -EAGAIN));
    }
    // One second, and a tenth of the time that has passed since; not eight.
    CHECK(100 * kSecondNs - deadline.remaining_ns() < 5 * kSecondNs * patience());
}
