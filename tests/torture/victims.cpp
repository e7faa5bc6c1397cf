// SPDX-License-Identifier: Apache-2.0
// See victims.hpp.
#include "victims.hpp"

#include "tracer.hpp"

#include <sched.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace ipcbus::torture {

using test::must;
using test::must_be;

namespace {

/// Published by the victim before the mark.
constexpr std::uint64_t kBefore = 2;
constexpr std::size_t kBatch = 4;

/// One message, by ipcbus_publish or ipcbus_publish_to.
int try_publish(Victim& victim, const char* topic, std::size_t bytes) {
    std::array<char, kMessage> message;
    const std::uint64_t number = victim.stage.published + 1;
    test::fill_checked(message.data(), bytes, victim.sender, number);
    victim.stage.begun = number;
    const int result =
        topic == nullptr ? ipcbus_publish(victim.publisher.get(), message.data(), bytes)
                         : ipcbus_publish_to(victim.publisher.get(), topic, message.data(), bytes);
    if (result == 0) {
        victim.stage.published = number;
    }
    return result;
}

void advertise(Victim& victim) {
    victim.publisher = test::advertise(victim.bus, "aim/victim", kRing);
}

/// Leaves garbage where the next records will stand, as a lap of the ring would: a reader that
/// looks behind the last record too soon finds it.
void scribble(Victim& victim, const char* topic) {
    void* room = nullptr;
    (void)must(topic == nullptr ? ipcbus_claim(victim.publisher.get(), kRing / 4, &room)
                                : ipcbus_claim_to(victim.publisher.get(), topic, kRing / 4, &room),
               "claim");
    std::memset(room, 0xa5, kRing / 4);
    (void)must(ipcbus_abort(victim.publisher.get()), "abort");
}

void begin_publishing(Victim& victim) {
    advertise(victim);
    scribble(victim, nullptr);
    for (std::uint64_t i = 0; i < kBefore; i++) {
        (void)must(try_publish(victim, nullptr, 100), "publish");
    }
}

void begin_publishing_to(Victim& victim) {
    victim.publisher = test::advertise(victim.bus, "aim/victim/+", kRing);
    scribble(victim, "aim/victim/one");
    for (std::uint64_t i = 0; i < kBefore; i++) {
        (void)must(try_publish(victim, "aim/victim/one", 100), "publish_to");
    }
}

void fill_ring(Victim& victim) {
    advertise(victim);
    (void)must(ipcbus_set_max_block(victim.publisher.get(), 0), "set_max_block");
    while (try_publish(victim, nullptr, kMessage) == 0) {}
    (void)must(ipcbus_set_max_block(victim.publisher.get(), IPCBUS_FOREVER), "set_max_block");
}

void publish(Victim& victim) { (void)must(try_publish(victim, nullptr, 100), "publish"); }

void publish_large(Victim& victim) {
    (void)must(try_publish(victim, nullptr, kMessage), "publish");
}

void publish_to(Victim& victim) {
    (void)must(try_publish(victim, "aim/victim/two", 100), "publish_to");
}

void publish_many(Victim& victim) {
    std::array<std::array<char, 64>, kBatch> messages;
    std::array<ipcbus_buffer, kBatch> batch;
    const std::uint64_t first = victim.stage.published + 1;
    for (std::size_t i = 0; i < kBatch; i++) {
        test::fill_checked(messages[i].data(), 64, victim.sender, first + i);
        batch[i] = {messages[i].data(), 64};
    }
    victim.stage.begun = first + kBatch - 1;
    must_be(ipcbus_publish_many(victim.publisher.get(), batch.data(), kBatch) == kBatch,
            "publish_many");
    victim.stage.published = first + kBatch - 1;
}

/// `claimed` so large that `announced` has to be raised.
void claim(Victim& victim, std::size_t claimed, bool commit) {
    const std::uint64_t number = victim.stage.published + 1;
    void* room = nullptr;
    (void)must(ipcbus_claim(victim.publisher.get(), claimed, &room), "claim");
    test::fill_checked(room, 64, victim.sender, number);
    if (!commit) {
        (void)must(ipcbus_abort(victim.publisher.get()), "abort");
        return;
    }
    victim.stage.begun = number;
    (void)must(ipcbus_commit(victim.publisher.get(), 64), "commit");
    victim.stage.published = number;
}

void claim_and_commit(Victim& victim) { claim(victim, 64, true); }
void claim_much_and_commit(Victim& victim) { claim(victim, kRing / 8, true); }
void claim_and_abort(Victim& victim) { claim(victim, kRing / 8, false); }

// ----------------------------------------------------------------------------------- reading

void subscribe(Victim& victim) {
    victim.subscriber = test::subscribe(victim.bus, kOwnTopic, IPCBUS_RELIABLE, -1);
}

void begin_everything(Victim& victim) {
    victim.subscriber = test::subscribe(victim.bus, "aim/victim", IPCBUS_RELIABLE, -1);
    begin_publishing(victim);
    publish(victim);
}

void receive(Victim& victim) {
    std::array<char, kMessage> buffer;
    ipcbus_message message;
    (void)must(ipcbus_receive(victim.subscriber.get(), buffer.data(), buffer.size(), test::kLongNs,
                              &message),
               "receive");
}

void borrow_and_release(Victim& victim) {
    std::array<ipcbus_message, 8> messages;
    (void)must(ipcbus_borrow_many(victim.subscriber.get(), test::kLongNs, messages.data(), 8),
               "borrow_many");
    (void)must(ipcbus_release(victim.subscriber.get()), "release");
}

void receive_until_empty(Victim& victim) {
    std::array<char, kMessage> buffer;
    ipcbus_message message;
    while (ipcbus_receive(victim.subscriber.get(), buffer.data(), buffer.size(), 0, &message) ==
           0) {}
}

void subscribe_to_writer(Victim& victim) {
    victim.subscriber = test::subscribe(victim.bus, kWriterTopic, IPCBUS_RELIABLE, -1);
    // Until its ring is full. There is no event for that: only the writer knows.
    while (victim.stage.writer_published < kRing / (kMessage + 40) - 3) {
        ::sched_yield();
    }
}

/// More than an eighth of the ring: the cursor is stored, and the writer woken.
void receive_many(Victim& victim) {
    for (std::uint64_t i = 0; i < kRing / 8 / kMessage + 2; i++) {
        receive(victim);
    }
}

void make_set(Victim& victim) {
    subscribe(victim);
    ipcbus_set* set = nullptr;
    (void)must(ipcbus_set_create(victim.bus.get(), &set), "set_create");
    victim.set.reset(set);
    (void)must(ipcbus_set_add(set, victim.subscriber.get()), "set_add");
}

void set_wait(Victim& victim) {
    ipcbus_subscriber* ready = nullptr;
    (void)must(ipcbus_set_wait(victim.set.get(), test::kLongNs, &ready), "set_wait");
}

// ------------------------------------------------------------------------- coming and going

void nothing(Victim&) {}
void disconnect(Victim& victim) { victim.bus.reset(); }
void connect(Victim& victim) { victim.bus = test::connect(victim.address, "victim"); }
void unsubscribe(Victim& victim) { victim.subscriber.reset(); }
void unadvertise(Victim& victim) { victim.publisher.reset(); }
void close_all(Victim& victim) {
    (void)victim.publisher.release();
    (void)victim.subscriber.release();
    victim.bus.reset();
}

void help_publish(const Helpers& helpers) { helpers.publish(); }
void help_read(const Helpers& helpers) { helpers.read(); }

constexpr Operation kOperations[] = {
    {.name = "publish", .prepare = begin_publishing, .act = publish},
    {.name = "publish-wake", .prepare = begin_publishing, .act = publish, .sleeper_sleeps = true},
    {.name = "publish-to", .prepare = begin_publishing_to, .act = publish_to},
    {.name = "publish-many", .prepare = begin_publishing, .act = publish_many},
    {.name = "publish-full", .prepare = fill_ring, .act = publish_large, .help = help_read},
    {.name = "claim-commit", .prepare = begin_publishing, .act = claim_and_commit},
    {.name = "claim-raise", .prepare = begin_publishing, .act = claim_much_and_commit},
    {.name = "claim-abort", .prepare = begin_publishing, .act = claim_and_abort},
    {.name = "receive", .prepare = subscribe, .act = receive, .news = true},
    {.name = "receive-empty", .prepare = subscribe, .act = receive_until_empty, .news = true},
    {.name = "receive-park", .prepare = subscribe, .act = receive, .help = help_publish},
    {.name = "receive-wake",
     .prepare = subscribe_to_writer,
     .act = receive_many,
     .needs_writer = true},
    {.name = "borrow-release", .prepare = subscribe, .act = borrow_and_release, .news = true},
    {.name = "set-wait", .prepare = make_set, .act = set_wait, .help = help_publish},
    {.name = "subscribe", .prepare = nothing, .act = subscribe},
    {.name = "unsubscribe", .prepare = subscribe, .act = unsubscribe},
    {.name = "advertise", .prepare = nothing, .act = advertise},
    {.name = "unadvertise", .prepare = begin_publishing, .act = unadvertise},
    {.name = "connect", .prepare = disconnect, .act = connect},
    {.name = "close", .prepare = begin_everything, .act = close_all},
};

}  // namespace

std::span<const Operation> operations() { return kOperations; }

void play_victim(const Operation& operation, const std::string& address, Stage& stage,
                 std::uint64_t sender) {
    Victim victim{address, stage, sender, nullptr, nullptr, nullptr, nullptr};
    connect(victim);
    operation.prepare(victim);
    be_traced();
    mark();
    operation.act(victim);
    stage.returned = 1;
    mark();
    for (;;) {
        (void)::pause();
    }
}

}  // namespace ipcbus::torture
