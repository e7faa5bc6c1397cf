// SPDX-License-Identifier: Apache-2.0
// See bus_client.hpp.
#include "bus_client.hpp"

#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace ipcbus::test {

namespace {

/// Of the process that runs the tests: a forked child must not go on as a second one.
const pid_t test_process = ::getpid();

[[noreturn]] void give_up(const std::string& text) {
    if (::getpid() != test_process) {
        (void)std::fprintf(stderr, "child %d: %s\n", ::getpid(), text.c_str());
        ::_exit(kMustFailed);
    }
    FAIL(text);
    ::_exit(kMustFailed);  // FAIL does not return
}

}  // namespace

bool is_documented(std::int64_t result) {
    static constexpr int kTable[] = {
        EAGAIN, ETIMEDOUT, EINTR,  ESTALE,  EMSGSIZE, ESHUTDOWN,    ECONNREFUSED,
        EACCES, EDQUOT,    ENOSPC, EMFILE,  ENOMEM,   EDEADLK,      EBUSY,
        ECHILD, EINVAL,    ENOENT, EPROTO,  ENAMETOOLONG,           EPROTONOSUPPORT,
        EPIPE,  EHOSTUNREACH};
    return result >= 0 || std::any_of(std::begin(kTable), std::end(kTable),
                                      [result](int code) { return result == -code; });
}

std::int64_t must(std::int64_t result, std::string_view what) {
    if (result < 0) {
        give_up(std::string(what) + ": " + std::to_string(result) + ": " + ipcbus_last_error());
    }
    return result;
}

void must_be(bool condition, std::string_view what) {
    if (!condition) {
        give_up(std::string(what));
    }
}

Bus connect(const std::string& address, const char* name, std::uint32_t flags) {
    ipcbus_connect_options options = IPCBUS_INIT(options);
    options.address = address.c_str();
    options.name = name;
    options.timeout_ns = kLongNs;
    options.flags = flags;
    ipcbus_bus* bus = nullptr;
    (void)must(ipcbus_connect(&options, &bus), "connect");
    return Bus(bus);
}

Publisher advertise(const Bus& bus, const std::string& topic, std::uint64_t ring_bytes,
                    std::int64_t max_block_ns) {
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = ring_bytes;
    options.max_block_ns = max_block_ns;
    ipcbus_publisher* publisher = nullptr;
    (void)must(ipcbus_advertise(bus.get(), topic.c_str(), &options, &publisher), "advertise");
    return Publisher(publisher);
}

Subscriber subscribe(const Bus& bus, const std::string& filter, std::uint32_t mode,
                     std::int64_t spin_ns) {
    ipcbus_subscriber_options options = IPCBUS_INIT(options);
    options.mode = mode;
    options.spin_ns = spin_ns;
    ipcbus_subscriber* subscriber = nullptr;
    (void)must(ipcbus_subscribe(bus.get(), filter.c_str(), &options, &subscriber), "subscribe");
    return Subscriber(subscriber);
}

void publish(const Publisher& publisher, std::string_view text) {
    (void)must(ipcbus_publish(publisher.get(), text.data(), text.size()), "publish");
}

void publish_to(const Publisher& publisher, const std::string& topic, std::string_view text) {
    (void)must(ipcbus_publish_to(publisher.get(), topic.c_str(), text.data(), text.size()),
               "publish_to");
}

Received receive(const Subscriber& subscriber, std::int64_t timeout_ns) {
    thread_local std::vector<char> buffer(5 << 20);
    Received received;
    received.result = ipcbus_receive(subscriber.get(), buffer.data(), buffer.size(), timeout_ns,
                                     &received.message);
    must_be(is_documented(received.result), "receive: an errno that is not in the table");
    if (received.result == 0) {
        must_be(received.message.data == buffer.data(), "receive: data is not the buffer");
        received.payload.assign(buffer.data(), received.message.size);
    }
    if (received.result == 0 || received.result == -ESTALE) {
        received.topic.assign(received.message.topic, received.message.topic_size);
        must_be(received.message.topic[received.message.topic_size] == '\0',
                "receive: the topic is not zero-terminated");
    }
    return received;
}

void wait_for_publications(const Subscriber& subscriber, std::uint32_t count) {
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (ipcbus_publication_count(subscriber.get()) != count && !deadline.passed()) {
        REQUIRE(receive(subscriber, kMillisecondNs).result == -ETIMEDOUT);
    }
    REQUIRE(ipcbus_publication_count(subscriber.get()) == count);
}

std::string received_text(const Subscriber& subscriber) {
    Received received = receive(subscriber);
    (void)must(received.result, "receive");
    return received.payload;
}

/// One for each thread: to have it made anew for each call is what sanitizers take longest for.
static std::vector<char>& large_buffer() {
    static thread_local std::vector<char> buffer(kReplyBytesMax);
    return buffer;
}

Requester make_requester(const Bus& bus, const std::string& topic,
                         const ipcbus_requester_options& options) {
    ipcbus_requester* requester = nullptr;
    must(ipcbus_requester_create(bus.get(), topic.c_str(), &options, &requester),
         "make a requester of " + topic);
    return Requester(requester);
}

Responder serve(const Bus& bus, const std::string& filter, std::int64_t max_block_ns) {
    ipcbus_responder_options options = IPCBUS_INIT(options);
    options.max_block_ns = max_block_ns;
    ipcbus_responder* responder = nullptr;
    must(ipcbus_serve(bus.get(), filter.c_str(), &options, &responder), "serve " + filter);
    return Responder(responder);
}

Reply call(const Requester& requester, std::string_view request, std::int64_t timeout_ns) {
    Reply reply;
    std::vector<char>& buffer = large_buffer();
    reply.result = ipcbus_call(requester.get(), request.data(), request.size(), buffer.data(),
                               buffer.size(), timeout_ns, &reply.info);
    must_be(is_documented(reply.result), "call: an errno that is not in the table");
    if (reply.result == 0) {
        reply.payload.assign(buffer.data(), reply.info.size);
    }
    return reply;
}

Reply next_reply(const Requester& requester, std::int64_t timeout_ns) {
    Reply reply;
    std::vector<char>& buffer = large_buffer();
    reply.result = ipcbus_next_reply(requester.get(), buffer.data(), buffer.size(), timeout_ns,
                                     &reply.info);
    must_be(is_documented(reply.result), "next_reply: an errno that is not in the table");
    if (reply.result == 0) {
        reply.payload.assign(buffer.data(), reply.info.size);
    }
    return reply;
}

std::uint64_t ask(const Requester& requester, std::string_view request, std::uint32_t flags) {
    std::uint64_t number = 0;
    must(ipcbus_ask(requester.get(), request.data(), request.size(), flags, kLongNs, &number),
         "ask");
    return number;
}

Request next_request(const Responder& responder, std::int64_t timeout_ns) {
    Request request;
    std::vector<char>& buffer = large_buffer();
    request.result = ipcbus_next_request(responder.get(), buffer.data(), buffer.size(), timeout_ns,
                                         &request.info);
    must_be(is_documented(request.result), "next_request: an errno that is not in the table");
    if (request.result == 0) {
        request.payload.assign(buffer.data(), request.info.size);
        request.topic.assign(request.info.topic, request.info.topic_size);
    }
    return request;
}

int respond(const Responder& responder, const Request& to, std::string_view reply,
            std::uint32_t status, std::uint32_t flags) {
    const int result =
        ipcbus_respond(responder.get(), &to.info, reply.data(), reply.size(), status, flags);
    must_be(is_documented(result), "respond: an errno that is not in the table");
    return result;
}

}  // namespace ipcbus::test
