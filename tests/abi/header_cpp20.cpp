// SPDX-License-Identifier: Apache-2.0
// ipcbus.hpp must compile alone as C++20 with all warnings; its handles must be movable and nothing
// else, and what is on the hot path must not throw. Compiled, linked with the library, and run
// without a daemon.
#include <ipcbus/ipcbus.hpp>

#include <csignal>
#include <cstdio>
#include <type_traits>

namespace {

template <class T>
constexpr bool kMoveOnly = std::is_nothrow_move_constructible_v<T> &&
                           std::is_nothrow_move_assignable_v<T> &&
                           !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

static_assert(kMoveOnly<ipcbus::Bus>);
static_assert(kMoveOnly<ipcbus::Publisher>);
static_assert(kMoveOnly<ipcbus::Subscriber>);
static_assert(kMoveOnly<ipcbus::Set>);
static_assert(kMoveOnly<ipcbus::Requester>);
static_assert(kMoveOnly<ipcbus::Responder>);
static_assert(kMoveOnly<ipcbus::Claim>);
static_assert(kMoveOnly<ipcbus::Loan>);
static_assert(kMoveOnly<ipcbus::Batch>);

// Every inline function is instantiated, though never called without a bus.
ipcbus::Status use_publisher(ipcbus::Bus& bus) {
    ipcbus::Publisher publisher =
        bus.advertise("abi/topic", {.ring_bytes = 65536, .max_block = std::chrono::seconds(1)});
    const ipcbus::Buffer several[] = {{"one", 3}, {"two", 3}};
    std::size_t published = 0;
    ipcbus::Claim claim;
    static_assert(noexcept(publisher.publish("text")));
    static_assert(noexcept(publisher.publish_many(several, published)));
    static_assert(noexcept(publisher.claim(16, claim)));
    if (!ok(publisher.wait_subscribers(1, std::chrono::milliseconds(5))) ||
        !ok(publisher.publish("text")) || !ok(publisher.publish_to("abi/topic", "text")) ||
        !ok(publisher.publish_many(several, published)) || !ok(publisher.claim(16, claim))) {
        return ipcbus::Status::again;
    }
    claim.room()[0] = std::byte{1};
    if (ok(claim.commit(1)) && ok(publisher.claim_to("abi/topic", 8, claim))) {
        return claim.commit();
    }
    return publisher.set_max_block(ipcbus::forever);
}

ipcbus::Status use_subscriber(ipcbus::Bus& bus) {
    ipcbus::Subscriber subscriber = bus.subscribe("abi/#", {.mode = ipcbus::Mode::lossy});
    ipcbus::Set set = bus.make_set();
    set.add(subscriber);
    ipcbus::SubscriberView ready;
    static_assert(noexcept(set.wait(ready)));
    if (set.fd() < 0 || !ok(set.wait(ready, std::chrono::nanoseconds(0))) ||
        ready != subscriber || ready.fd() < 0) {
        return ipcbus::Status::again;
    }
    set.remove(subscriber);
    subscriber.notify(SIGRTMIN + 1);
    std::byte room[64];
    ipcbus::Message message{};
    ipcbus::Loan loan;
    ipcbus::Message several[8];
    ipcbus::Batch batch;
    static_assert(noexcept(ready.receive(room, message)));
    static_assert(noexcept(ready.borrow(loan)));
    static_assert(noexcept(ready.borrow_many(several, batch)));
    if (!ok(ready.receive(room, message)) || !ok(ready.borrow(loan)) ||
        ipcbus::text(loan.message()).empty() || !ok(loan.release()) ||
        !ok(ready.borrow_many(several, batch))) {
        return ipcbus::Status::lost;
    }
    for (const ipcbus::Message& each : batch.messages()) {
        if (ipcbus::topic(each).empty() || ipcbus::payload(each).empty()) {
            return ipcbus::Status::none;
        }
    }
    return batch.release();
}

ipcbus::Status use_exchange(ipcbus::Bus& bus) {
    ipcbus::Responder responder = bus.serve("abi/#", {.max_block = std::chrono::seconds(0)});
    ipcbus::Requester requester = bus.make_requester("abi/topic", {.reply_bytes_max = 1024});
    std::byte room[64];
    ipcbus::Request request{};
    ipcbus::Reply reply{};
    std::uint64_t number = 0;
    static_assert(noexcept(requester.call("text", room, reply)));
    static_assert(noexcept(requester.next_reply(room, reply)));
    static_assert(noexcept(responder.next_request(room, request)));
    static_assert(noexcept(responder.respond(request, "text")));
    if (!ok(requester.wait_responders(1)) || requester.responder_count() == 0 ||
        requester.request_bytes_max() == 0 || !ok(requester.ask("text", number)) ||
        !ok(responder.next_request(room, request)) || ipcbus::text(request).empty() ||
        ipcbus::payload(request).empty() || ipcbus::topic(request).empty() ||
        responder.requester_count() == 0 || !ok(responder.respond(request, "text", 1, true)) ||
        !ok(requester.next_reply(room, reply)) || ipcbus::text(reply).empty() ||
        ipcbus::payload(reply).empty() || !ok(requester.abandon(number)) ||
        !ok(requester.ask_all("text", number))) {
        return ipcbus::Status::nobody;
    }
    return requester.call("text", room, reply, std::chrono::milliseconds(5));
}

bool connect_throws() {
    try {
        ipcbus::Bus bus({.address = "unix:/nonexistent/ipcbus-abi-test.sock", .name = "abi"});
        return use_publisher(bus) == ipcbus::Status::ok &&
               use_subscriber(bus) == ipcbus::Status::ok &&
               use_exchange(bus) == ipcbus::Status::ok;
    } catch (const std::system_error& error) {
        return error.code() == std::errc::connection_refused &&
               std::string_view(error.what()).find("ipcbus-abi-test") != std::string_view::npos;
    }
}

}  // namespace

int main() {
    if (!connect_throws()) {
        std::fprintf(stderr, "header_cpp20: no std::system_error that names the address\n");
        return 1;
    }
    ipcbus::Loan loan;
    ipcbus::Claim claim;
    claim.abort();
    return loan.release() == ipcbus::Status::none && claim.commit() == ipcbus::Status::none ? 0 : 1;
}
