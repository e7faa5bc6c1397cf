// SPDX-License-Identifier: Apache-2.0
// Goal: each call of the library does what ipcbus.h says, and fails as it says: in place, in
// batches, with small buffers, full rings, deadlines, signals and loans.
// Method: a private ipcbusd, small rings, one process.
#include "bus_client.hpp"
#include "checked_message.hpp"
#include "daemon_fixture.hpp"

#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <sys/time.h>

#include <cstring>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

constexpr std::uint64_t kRing = 65536;

/// A signal handler that runs every few milliseconds while this lives: sooner or later during a
/// wait, whatever the machine does otherwise.
class Interrupter {
public:
    explicit Interrupter(int flags) {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        action.sa_flags = flags;
        REQUIRE(::sigaction(SIGALRM, &action, &before_) == 0);
        set(5'000);
    }
    ~Interrupter() {
        set(0);
        (void)::sigaction(SIGALRM, &before_, nullptr);
    }

private:
    static void set(suseconds_t us) {
        const itimerval timer{{0, us}, {0, us}};
        REQUIRE(::setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    }
    struct sigaction before_ {};
};

struct Pair {
    explicit Pair(const std::string& config = "", std::uint32_t mode = IPCBUS_RELIABLE)
        : daemon(config),
          writers(connect(daemon.address(), "writers")),
          readers(connect(daemon.address(), "readers")),
          subscriber(subscribe(readers, "pair", mode)),
          publisher(advertise(writers, "pair", kRing)) {}

    /// Fills the ring; how many messages it took.
    std::uint64_t fill(std::string_view text) {
        CHECK(ipcbus_set_max_block(publisher.get(), 0) == 0);
        std::uint64_t count = 0;
        int result = 0;
        while ((result = ipcbus_publish(publisher.get(), text.data(), text.size())) == 0) {
            count++;
        }
        CHECK(result == -EAGAIN);
        return count;
    }

    DaemonFixture daemon;
    Bus writers;
    Bus readers;
    Subscriber subscriber;
    Publisher publisher;
};

}  // namespace

TEST_CASE("claim, fill, commit: whole, in part, not at all") {
    Pair pair;
    ipcbus_publisher* publisher = pair.publisher.get();
    void* room = nullptr;
    REQUIRE(ipcbus_claim(publisher, 100, &room) == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(room) % 16 == 0);
    std::memset(room, 'a', 100);
    CHECK(receive(pair.subscriber, 0).result == -EAGAIN);
    CHECK(ipcbus_commit(publisher, 100) == 0);
    CHECK(received_text(pair.subscriber) == std::string(100, 'a'));

    // Less than was claimed; what was scribbled behind it is not seen.
    REQUIRE(ipcbus_claim(publisher, 5000, &room) == 0);
    std::memset(room, 'b', 5000);
    CHECK(ipcbus_commit(publisher, 5001) == -EINVAL);  // still open
    CHECK(ipcbus_commit(publisher, 3) == 0);
    CHECK(received_text(pair.subscriber) == "bbb");
    CHECK(receive(pair.subscriber, 0).result == -EAGAIN);
    REQUIRE(ipcbus_claim(publisher, 5000, &room) == 0);
    std::memset(room, 'c', 5000);
    CHECK(ipcbus_commit(publisher, 0) == 0);
    CHECK(received_text(pair.subscriber).empty());

    REQUIRE(ipcbus_claim(publisher, 5000, &room) == 0);
    std::memset(room, 'd', 5000);
    CHECK(ipcbus_abort(publisher) == 0);
    CHECK(receive(pair.subscriber, 0).result == -EAGAIN);
    publish(pair.publisher, "after");
    const Received after = receive(pair.subscriber);
    CHECK(after.payload == "after");
    CHECK(after.message.sequence == 4);

    // One at a time.
    CHECK(ipcbus_commit(publisher, 0) == -ENOENT);
    CHECK(ipcbus_abort(publisher) == -ENOENT);
    REQUIRE(ipcbus_claim(publisher, 10, &room) == 0);
    void* const same = room;
    CHECK(ipcbus_claim(publisher, 10, &room) == -EBUSY);
    CHECK(room == same);
    CHECK(ipcbus_publish(publisher, "x", 1) == -EBUSY);
    const ipcbus_buffer one{"x", 1};
    CHECK(ipcbus_publish_many(publisher, &one, 1) == -EBUSY);
    CHECK(ipcbus_abort(publisher) == 0);
    const std::size_t largest = ipcbus_message_bytes_max(publisher);
    CHECK(ipcbus_claim(publisher, largest + 1, &room) == -EMSGSIZE);
    REQUIRE(ipcbus_claim(publisher, largest, &room) == 0);
    std::memset(room, 'e', largest);
    CHECK(ipcbus_commit(publisher, largest) == 0);
    CHECK(received_text(pair.subscriber) == std::string(largest, 'e'));
    // An open claim ends with its publication.
    REQUIRE(ipcbus_claim(publisher, 10, &room) == 0);
}

TEST_CASE("publish_many: in order, as many as fit, the error of the next one with the next call") {
    Pair pair;
    std::vector<std::string> texts;
    for (int i = 0; i < 300; i++) {
        texts.push_back(std::to_string(i));
    }
    std::vector<ipcbus_buffer> messages;
    for (const std::string& text : texts) {
        messages.push_back({text.data(), text.size()});
    }
    CHECK(ipcbus_publish_many(pair.publisher.get(), messages.data(), 0) == 0);
    CHECK(ipcbus_publish_many(pair.publisher.get(), messages.data(), messages.size()) == 300);
    for (const std::string& text : texts) {
        REQUIRE(received_text(pair.subscriber) == text);
    }
    const std::string larger(kRing, 'x');
    messages[7] = {larger.data(), larger.size()};
    CHECK(ipcbus_publish_many(pair.publisher.get(), messages.data(), messages.size()) == 7);
    CHECK(ipcbus_publish_many(pair.publisher.get(), &messages[7], 1) == -EMSGSIZE);
    for (std::size_t i = 0; i < 7; i++) {
        REQUIRE(received_text(pair.subscriber) == texts[i]);
    }
    CHECK(receive(pair.subscriber, 0).result == -EAGAIN);

    CHECK(ipcbus_set_max_block(pair.publisher.get(), 0) == 0);
    const std::string large(10'000, 'y');
    std::fill(messages.begin(), messages.end(), ipcbus_buffer{large.data(), large.size()});
    const std::int64_t fitted =
        ipcbus_publish_many(pair.publisher.get(), messages.data(), messages.size());
    CHECK(fitted >= 5);
    CHECK(fitted <= 6);
    CHECK(ipcbus_publish_many(pair.publisher.get(), messages.data(), messages.size()) == -EAGAIN);
    for (std::int64_t i = 0; i < fitted; i++) {
        REQUIRE(received_text(pair.subscriber) == large);
    }
    CHECK(receive(pair.subscriber, 0).result == -EAGAIN);
}

TEST_CASE("a buffer that is too small: the message stays") {
    Pair pair;
    publish(pair.publisher, "0123456789");
    publish(pair.publisher, "");
    char buffer[10] = {};
    ipcbus_message message{};
    for (const std::size_t room : {0u, 1u, 9u}) {
        CHECK(ipcbus_receive(pair.subscriber.get(), room == 0 ? nullptr : buffer, room, kLongNs,
                             &message) == -EMSGSIZE);
        CHECK(message.size == 10);
        CHECK(message.sequence == 1);
    }
    CHECK(ipcbus_receive(pair.subscriber.get(), buffer, 9, 0, nullptr) == -EMSGSIZE);
    CHECK(ipcbus_receive(pair.subscriber.get(), buffer, 10, 0, &message) == 0);
    CHECK(message.data == buffer);
    CHECK(std::string(buffer, 10) == "0123456789");
    CHECK(ipcbus_receive(pair.subscriber.get(), nullptr, 0, kLongNs, &message) == 0);
    CHECK(message.size == 0);
    CHECK(message.sequence == 2);
    publish(pair.publisher, "x");
    CHECK(ipcbus_receive(pair.subscriber.get(), buffer, 10, kLongNs, nullptr) == 0);
    CHECK(buffer[0] == 'x');
}

TEST_CASE("nothing there, nothing in time; nothing that ret_ points to is touched") {
    Pair pair;
    ipcbus_message message;
    std::memset(&message, 0x55, sizeof(message));
    ipcbus_message before = message;
    char buffer[8];
    const auto untouched = [&] {
        return std::memcmp(&message, &before, sizeof(message)) == 0;
    };
    CHECK(ipcbus_receive(pair.subscriber.get(), buffer, 8, 0, &message) == -EAGAIN);
    CHECK(untouched());
    const std::int64_t began_ns = sys::monotonic_ns();
    CHECK(ipcbus_receive(pair.subscriber.get(), buffer, 8, 30 * kMillisecondNs, &message) ==
          -ETIMEDOUT);
    CHECK(untouched());
    CHECK(sys::monotonic_ns() - began_ns >= 30 * kMillisecondNs);
    CHECK(sys::monotonic_ns() - began_ns < 10 * kSecondNs);
    CHECK(ipcbus_borrow(pair.subscriber.get(), 0, &message) == -EAGAIN);
    CHECK(ipcbus_borrow(pair.subscriber.get(), kMillisecondNs, &message) == -ETIMEDOUT);
    CHECK(ipcbus_borrow_many(pair.subscriber.get(), 0, &message, 1) == -EAGAIN);
    CHECK(untouched());
    CHECK(ipcbus_release(pair.subscriber.get()) == -ENOENT);
    CHECK(std::string(ipcbus_last_error()) != "");
}

TEST_CASE("a full ring: EAGAIN, ETIMEDOUT, and room again once the reader has read") {
    Pair pair;
    const std::uint64_t count = pair.fill("some text");
    CHECK(count > kRing / 32 - 100);
    CHECK(count <= kRing / 32);
    CHECK(ipcbus_set_max_block(pair.publisher.get(), 20 * kMillisecondNs) == 0);
    const std::int64_t began_ns = sys::monotonic_ns();
    CHECK(ipcbus_publish(pair.publisher.get(), "x", 1) == -ETIMEDOUT);
    CHECK(sys::monotonic_ns() - began_ns >= 20 * kMillisecondNs);
    void* room = nullptr;
    CHECK(ipcbus_claim(pair.publisher.get(), 1, &room) == -ETIMEDOUT);
    CHECK(ipcbus_set_max_block(pair.publisher.get(), 0) == 0);
    CHECK(ipcbus_claim(pair.publisher.get(), 1, &room) == -EAGAIN);
    for (std::uint64_t i = 1; i <= count; i++) {
        const Received got = receive(pair.subscriber);
        REQUIRE(got.payload == "some text");
        REQUIRE(got.message.sequence == i);
    }
    CHECK(receive(pair.subscriber, 0).result == -EAGAIN);
    CHECK(pair.fill("y") == count + 0);
    CHECK(receive(pair.subscriber, 0).message.sequence == count + 1);
}

TEST_CASE("a signal handler ends the waits for data, and nothing is received or published") {
    Pair pair;
    int flags = 0;
    SUBCASE("without SA_RESTART") { flags = 0; }
    SUBCASE("with SA_RESTART") { flags = SA_RESTART; }
    char buffer[8];
    ipcbus_message message;
    {
        const Interrupter interrupter(flags);
        CHECK(ipcbus_receive(pair.subscriber.get(), buffer, 8, kLongNs, nullptr) == -EINTR);
        CHECK(ipcbus_borrow(pair.subscriber.get(), IPCBUS_FOREVER, &message) == -EINTR);
        CHECK(ipcbus_wait_subscribers(pair.publisher.get(), 2, kLongNs) == -EINTR);
        ipcbus_set* made = nullptr;
        REQUIRE(ipcbus_set_create(pair.readers.get(), &made) == 0);
        const Set set(made);
        REQUIRE(ipcbus_set_add(set.get(), pair.subscriber.get()) == 0);
        ipcbus_subscriber* ready = nullptr;
        CHECK(ipcbus_set_wait(set.get(), kLongNs, &ready) == -EINTR);
    }
    const std::uint64_t count = pair.fill("text");
    {
        const Interrupter interrupter(flags);
        CHECK(ipcbus_set_max_block(pair.publisher.get(), IPCBUS_FOREVER) == 0);
        CHECK(ipcbus_publish(pair.publisher.get(), "never", 5) == -EINTR);
        void* room = nullptr;
        CHECK(ipcbus_claim(pair.publisher.get(), 5, &room) == -EINTR);
        // Requests to the daemon are not disturbed.
        const Bus another = connect(pair.daemon.address());
        for (int i = 0; i < 20; i++) {
            const Subscriber extra = subscribe(another, "other");
            const Publisher more = advertise(another, "other");
            publish(more, "x");
        }
    }
    for (std::uint64_t i = 1; i <= count; i++) {
        REQUIRE(received_text(pair.subscriber) == "text");
    }
    CHECK(receive(pair.subscriber, 0).result == -EAGAIN);
}

TEST_CASE("waiting for oneself is refused") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "self");
    const Publisher publisher = advertise(bus, "self", kRing);
    std::uint64_t received = 0;
    SUBCASE("by a reader that has read") {
        publish(publisher, "text");
        CHECK(received_text(subscriber) == "text");
        received = 1;
    }
    SUBCASE("by a reader that never has") {}
    std::uint64_t published = received;
    int result = 0;
    while (published < kRing && (result = ipcbus_publish(publisher.get(), "text", 4)) == 0) {
        published++;
    }
    REQUIRE(result == -EDEADLK);
    while (received < published) {
        REQUIRE(receive(subscriber).message.sequence == ++received);
    }
    publish(publisher, "goes on");
    CHECK(received_text(subscriber) == "goes on");
}

TEST_CASE("the words of an error name its remedy; a result is one of the table") {
    Pair pair;
    char buffer[1];
    publish(pair.publisher, "x");
    CHECK(ipcbus_receive(pair.subscriber.get(), buffer, 1, kLongNs, nullptr) == 0);
    CHECK(ipcbus_publish(pair.publisher.get(), buffer, kRing) == -EMSGSIZE);
    CHECK(std::string(ipcbus_last_error()).find("larger ring") != std::string::npos);
    ipcbus_publisher_options options = IPCBUS_INIT(options);
    options.ring_bytes = std::uint64_t{1} << 29;
    ipcbus_publisher* publisher = nullptr;
    const int refused = ipcbus_advertise(pair.writers.get(), "big", &options, &publisher);
    CHECK(refused < 0);
    CHECK(is_documented(refused));
    CHECK(std::string(ipcbus_last_error()).find("ring_bytes_max") != std::string::npos);
    // No power of two, or too small: as large as asked for, at least.
    for (const std::uint64_t bytes : {65537u, 1u, 64u}) {
        INFO("ring of ", bytes);
        const Publisher odd = advertise(pair.writers, "odd", bytes);
        CHECK(ipcbus_ring_bytes(odd.get()) >= bytes);
        publish(odd, "x");
    }
    for (const std::uint64_t bytes : {~std::uint64_t{0}, (std::uint64_t{1} << 63) + 1}) {
        INFO("ring of ", bytes);
        options.ring_bytes = bytes;
        const int result = ipcbus_advertise(pair.writers.get(), "odd", &options, &publisher);
        CHECK(result < 0);
        CHECK(is_documented(result));
        CHECK(std::string(ipcbus_last_error()) != "");
    }
    options.ring_bytes = 0;
    for (const std::uint64_t bytes :
         {~std::uint64_t{0}, std::uint64_t{1} << 40, (std::uint64_t{1} << 32) + 5}) {
        INFO("messages of ", bytes);
        options.message_bytes_max = bytes;
        const int result = ipcbus_advertise(pair.writers.get(), "odd", &options, &publisher);
        CHECK(result < 0);
        CHECK(is_documented(result));
    }
    CHECK(publisher == nullptr);
}
