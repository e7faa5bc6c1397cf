// SPDX-License-Identifier: Apache-2.0
// Goal: who reads reliably loses nothing while it moves, and delays its publisher; one that stands
// still delays it for stall_timeout, once, and then learns exactly what it lost; one that reads
// lossily never delays anybody and learns exactly what it lost, also if nothing follows.
// Method: a private ipcbusd with a short stall_timeout; readers that are stopped by SIGSTOP.
#include "bus_client.hpp"
#include "checked_message.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <sys/wait.h>

#include <algorithm>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

constexpr std::uint64_t kRing = 65536;
constexpr const char* kShortStall = "[publications]\nstall_timeout = \"300ms\"\n";
constexpr std::int64_t kStallNs = 300 * kMillisecondNs;

/// What a reader in a process of its own tells the test.
struct Told {
    Milestone attached;
    Milestone received;
    Milestone go;     ///< the test lets it read on
    Milestone total;  ///< set by the test when it has published: how many
    std::uint64_t lost = 0;
    std::uint64_t losses = 0;
};

/// Reads until `total` messages are accounted for.
int account(const Subscriber& subscriber, Told& told) {
    std::uint64_t accounted = 0;
    std::vector<char> buffer(kRing);
    for (;;) {
        if (const std::uint32_t total = told.total.value(); total != 0 && accounted >= total) {
            must_be(accounted == total, "more than was published");
            must_be(ipcbus_lost(subscriber.get()) == told.lost, "ipcbus_lost is something else");
            return 0;
        }
        ipcbus_message message;
        const int result = ipcbus_receive(subscriber.get(), buffer.data(), buffer.size(),
                                          20 * kMillisecondNs, &message);
        if (result == -ETIMEDOUT) {
            continue;  // the publisher waits for somebody else, or the total is on its way
        }
        if (result == -ESTALE) {
            accounted += message.lost;
            told.lost += message.lost;
            told.losses++;
            continue;
        }
        (void)must(result, "receive");
        const auto header = read_checked(message.data, message.size);
        must_be(header.has_value(), "a torn message");
        must_be(header->number == ++accounted, "not the message that follows");
        must_be(message.sequence == accounted, "not the sequence that follows");
        told.received.raise();
    }
}

ChildProcess reader(const std::string& address, std::uint32_t mode, Told& told) {
    ChildProcess child = ChildProcess::fork([&] {
        const Bus bus = connect(address);
        const Subscriber subscriber = subscribe(bus, "loss", mode);
        told.attached.raise();
        return account(subscriber, told);
    });
    REQUIRE(told.attached.wait(1));
    return child;
}

/// SIGSTOP, and waits until it has stopped.
void stop(const ChildProcess& child) {
    child.signal(SIGSTOP);
    int status = 0;
    REQUIRE(::waitpid(child.pid(), &status, WUNTRACED) == child.pid());
    REQUIRE(WIFSTOPPED(status));
}

class Sender {
public:
    explicit Sender(const DaemonFixture& daemon)
        : bus_(connect(daemon.address())), publisher_(advertise(bus_, "loss", kRing)) {}

    /// How long it took, ns.
    std::int64_t send(std::size_t bytes = 600) {
        message_.resize(bytes);
        fill_checked(message_.data(), bytes, 1, ++sent_);
        const std::int64_t began_ns = sys::monotonic_ns();
        (void)must(ipcbus_publish(publisher_.get(), message_.data(), bytes), "publish");
        const std::int64_t took_ns = sys::monotonic_ns() - began_ns;
        longest_ns_ = std::max(longest_ns_, took_ns);
        return took_ns;
    }
    [[nodiscard]] std::int64_t longest_ns() const { return longest_ns_; }
    [[nodiscard]] std::uint32_t sent() const { return sent_; }
    [[nodiscard]] const Publisher& publisher() const { return publisher_; }

private:
    Bus bus_;
    Publisher publisher_;
    std::vector<char> message_;
    std::uint32_t sent_ = 0;
    std::int64_t longest_ns_ = 0;
};

}  // namespace

TEST_CASE("a slow reliable reader delays the publisher, and nothing is lost") {
    const DaemonFixture daemon(kShortStall);
    const SharedBlock<Told> told;
    ChildProcess child = ChildProcess::fork([&] {
        const Bus bus = connect(daemon.address());
        const Subscriber subscriber = subscribe(bus, "loss");
        told->attached.raise();
        for (std::uint64_t i = 1;; i++) {
            if (told->total.value() != 0 && i > told->total.value()) {
                return receive(subscriber, 0).result == -EAGAIN ? 0 : 1;
            }
            const Received got = receive(subscriber);
            (void)must(got.result, "receive");
            const auto header = read_checked(got.payload.data(), got.payload.size());
            must_be(header && header->number == i, "not the message that follows");
            told->received.raise();
            // Slow, but never still for the stall timeout.
            if (i % 32 == 0) {
                (void)told->go.wait(~0u, 20);
            }
        }
    });
    REQUIRE(told->attached.wait(1));
    Sender sender(daemon);
    std::uint32_t furthest = 0;
    for (int i = 0; i < 600; i++) {
        sender.send();
        furthest = std::max(furthest, sender.sent() - told->received.value());
    }
    CHECK(furthest <= kRing / 624 + 2);
    told->total.raise(sender.sent());
    CHECK(child.wait() == 0);
    CHECK(sender.longest_ns() >= 5 * kMillisecondNs);
}

TEST_CASE("a reader that needs long for each message has not stopped") {
    const DaemonFixture daemon("[publications]\nstall_timeout = \"1s\"\n");
    const SharedBlock<Told> told;
    constexpr std::uint64_t kMessages = 250;  // twice the ring
    ChildProcess child = ChildProcess::fork([&] {
        const Bus bus = connect(daemon.address());
        const Subscriber subscriber = subscribe(bus, "loss");
        told->attached.raise();
        for (std::uint64_t i = 1; i <= kMessages; i++) {
            const Received got = receive(subscriber);
            (void)must(got.result, "receive");
            const auto header = read_checked(got.payload.data(), got.payload.size());
            must_be(header && header->number == i, "not the message that follows");
            // A tenth of the stall timeout for each: longer than that before an eighth of the ring
            // has been read, after which a cursor is stored in any case.
            if (i <= 16) {
                (void)told->go.wait(~0u, 100);
            }
        }
        return 0;
    });
    REQUIRE(told->attached.wait(1));
    Sender sender(daemon);
    while (sender.sent() < kMessages) {
        sender.send();
    }
    CHECK(child.wait() == 0);
    CHECK(sender.longest_ns() >= 100 * kMillisecondNs);
}

TEST_CASE("a stopped reader delays the publisher for stall_timeout, once, and learns its loss") {
    const DaemonFixture daemon(kShortStall);
    const SharedBlock<Told> stopped_told;
    const SharedBlock<Told> healthy_told;
    ChildProcess stopped = reader(daemon.address(), IPCBUS_RELIABLE, *stopped_told);
    ChildProcess healthy = reader(daemon.address(), IPCBUS_RELIABLE, *healthy_told);
    Sender sender(daemon);
    for (int i = 0; i < 50; i++) {
        sender.send();
    }
    REQUIRE(stopped_told->received.wait(50));
    REQUIRE(healthy_told->received.wait(50));
    stop(stopped);
    int delays = 0;
    for (int i = 0; i < 2000; i++) {
        const std::int64_t took_ns = sender.send();
        delays += took_ns >= kStallNs / 2 ? 1 : 0;
        CHECK(took_ns < 3 * kStallNs);
    }
    CHECK(delays == 1);
    // The others have lost nothing by it.
    healthy_told->total.raise(sender.sent());
    CHECK(healthy.wait() == 0);
    CHECK(healthy_told->lost == 0);
    CHECK(healthy_told->received.value() == sender.sent());
    SUBCASE("nothing more is published") {}
    SUBCASE("and more is published while it runs again") {
        stopped.signal(SIGCONT);
        for (int i = 0; i < 3000; i++) {
            sender.send();
        }
    }
    // It learns of it, to the last message.
    stopped.signal(SIGCONT);
    stopped_told->total.raise(sender.sent());
    CHECK(stopped.wait() == 0);
    CHECK(stopped_told->lost + stopped_told->received.value() == sender.sent());
    CHECK(stopped_told->lost > 1500);
}

TEST_CASE("a publisher that does not wait gets EAGAIN for stall_timeout, then goes on") {
    const DaemonFixture daemon(kShortStall);
    const SharedBlock<Told> told;
    ChildProcess stopped = reader(daemon.address(), IPCBUS_RELIABLE, *told);
    Sender sender(daemon);
    sender.send();
    REQUIRE(told->received.wait(1));
    stop(stopped);
    REQUIRE(ipcbus_set_max_block(sender.publisher().get(), 0) == 0);
    std::vector<char> message(600);
    std::uint32_t sent = sender.sent();
    const auto try_next = [&] {
        fill_checked(message.data(), message.size(), 1, sent + 1);
        const int result = ipcbus_publish(sender.publisher().get(), message.data(), 600);
        sent += result == 0 ? 1 : 0;
        return result;
    };
    while (try_next() == 0) {
    }
    const std::int64_t began_ns = sys::monotonic_ns();
    int result = -EAGAIN;
    while (result == -EAGAIN && sys::monotonic_ns() - began_ns < 20 * kSecondNs) {
        result = try_next();
    }
    CHECK(result == 0);
    const std::int64_t took_ns = sys::monotonic_ns() - began_ns;
    CHECK(took_ns > kStallNs / 2);
    CHECK(took_ns < 4 * kStallNs);
    for (int i = 0; i < 1000; i++) {
        REQUIRE(try_next() == 0);
    }
    stopped.signal(SIGCONT);
    told->total.raise(sent);
    CHECK(stopped.wait() == 0);
    CHECK(told->lost > 500);
}

TEST_CASE("who stalls and subscribes again is lossy for a while: it cannot throttle for ever") {
    const DaemonFixture daemon(kShortStall);
    Sender sender(daemon);
    const Bus bus = connect(daemon.address());
    {
        const Subscriber stalls = subscribe(bus, "loss");
        const std::int64_t began_ns = sys::monotonic_ns();
        for (int i = 0; i < 300; i++) {
            sender.send();
        }
        CHECK(sys::monotonic_ns() - began_ns >= kStallNs / 2);
    }
    for (int again = 0; again < 5; again++) {
        const Subscriber stalls = subscribe(bus, "loss");
        for (int i = 0; i < 300; i++) {
            CHECK(sender.send() < kStallNs / 2);
        }
    }
}

TEST_CASE("a stopped lossy reader delays nobody, and learns its exact loss") {
    const DaemonFixture daemon(kShortStall);
    const SharedBlock<Told> told;
    ChildProcess child = reader(daemon.address(), IPCBUS_LOSSY, *told);
    Sender sender(daemon);
    for (int i = 0; i < 20; i++) {
        sender.send();
    }
    REQUIRE(told->received.wait(20));
    stop(child);
    for (int i = 0; i < 5000; i++) {
        sender.send();
    }
    CHECK(sender.longest_ns() < kStallNs / 2);
    child.signal(SIGCONT);
    told->total.raise(sender.sent());
    CHECK(child.wait() == 0);
    CHECK(told->lost + told->received.value() == sender.sent());
    CHECK(told->lost > 4000);
    CHECK(told->losses == 1);
}

TEST_CASE("lapped in the midst of zeroes, and nothing more is published: told at once") {
    const DaemonFixture daemon(kShortStall);
    const Bus writers = connect(daemon.address());
    const Bus readers = connect(daemon.address());
    const Subscriber asleep = subscribe(readers, "zeroes", IPCBUS_LOSSY, -1);
    const Subscriber latest = subscribe(readers, "zeroes", IPCBUS_LATEST, -1);
    const Publisher publisher = advertise(writers, "zeroes", kRing);
    publish(publisher, "first");
    CHECK(received_text(asleep) == "first");
    // Records of another size than the reader's position fits: it stands within a payload.
    const std::string zeroes(10'000, '\0');
    constexpr std::uint64_t kMessages = 40;
    for (std::uint64_t i = 0; i < kMessages; i++) {
        publish(publisher, zeroes);
    }
    Received got = receive(asleep, 5 * kSecondNs);
    REQUIRE(got.result == -ESTALE);
    std::uint64_t accounted = 1 + got.message.lost;
    CHECK(got.message.lost >= kMessages - 6);
    while (accounted < 1 + kMessages) {
        got = receive(asleep, 5 * kSecondNs);
        REQUIRE(got.result == 0);
        CHECK(got.payload == zeroes);
        CHECK(got.message.sequence == ++accounted);
    }
    CHECK(receive(asleep, 0).result == -EAGAIN);
    CHECK(receive(latest).message.sequence == 1 + kMessages);
    CHECK(ipcbus_lost(latest.get()) == kMessages);
}

TEST_CASE("a lossy reader in a race with its publisher accounts for every message") {
    const DaemonFixture daemon;
    const SharedBlock<Told> told;
    ChildProcess child = reader(daemon.address(), IPCBUS_LOSSY, *told);
    Sender sender(daemon);
    for (int i = 0; i < 150'000; i++) {
        sender.send(32 + mixed(static_cast<std::uint64_t>(i)) % (i % 100 == 0 ? 16'000 : 300));
    }
    told->total.raise(sender.sent());
    CHECK(child.wait() == 0);
    CHECK(told->lost + told->received.value() == sender.sent());
}
