// SPDX-License-Identifier: Apache-2.0
// Goal: whoever is killed at any instruction costs nobody else a message, a torn one, or more than
// an instant; and the daemon keeps nothing of the dead.
// Method: publishers and subscribers under load, killed at random (IPCBUS_TEST_KILLS of them, 60;
// IPCBUS_TEST_SEED), beside two publishers and two reliable subscribers that live and account for
// every message: theirs, and those that the dead had published when they died.
#include "bus_client.hpp"
#include "checked_message.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include <doctest/doctest.h>

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <random>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

constexpr std::uint64_t kSendersMax = 16384;
constexpr std::uint64_t kLiving = 2;  ///< publishers that live are senders 1 and 2; so many readers
constexpr std::size_t kMessageMax = 12'000;

/// What all processes of the torture see.
struct Scene {
    Milestone ready;  ///< those who live have begun
    Milestone over;
    std::array<Milestone, kSendersMax> progress;  ///< of each victim
    /// Messages of each sender whose publish has returned, and of those that live: all.
    std::array<std::atomic<std::uint64_t>, kSendersMax> published;
    std::atomic<std::uint32_t> victims;
};

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

std::size_t bytes_of(std::uint64_t number) {
    const std::uint64_t dice = mixed(number);
    return sizeof(CheckedHeader) + (dice % 16 == 0 ? dice / 16 % kMessageMax : dice / 16 % 400);
}

/// One publish, by one of the ways there are.
void publish_one(const Publisher& publisher, const char* topic, std::uint64_t sender,
                 std::uint64_t number) {
    const std::size_t bytes = bytes_of(number);
    std::array<char, sizeof(CheckedHeader) + kMessageMax> message;
    if (number % 3 == 0) {
        void* room = nullptr;
        (void)must(topic == nullptr
                       ? ipcbus_claim(publisher.get(), bytes + 100, &room)
                       : ipcbus_claim_to(publisher.get(), topic, bytes + 100, &room),
                   "claim");
        fill_checked(room, bytes, sender, number);
        (void)must(ipcbus_commit(publisher.get(), bytes), "commit");
        return;
    }
    fill_checked(message.data(), bytes, sender, number);
    (void)must(topic == nullptr
                   ? ipcbus_publish(publisher.get(), message.data(), bytes)
                   : ipcbus_publish_to(publisher.get(), topic, message.data(), bytes),
               "publish");
}

/// What a reader has seen of each sender.
class Account {
public:
    /// `from_the_first`: it was there before every sender.
    explicit Account(bool from_the_first = false) : from_the_first_(from_the_first) {}
    void take(const ipcbus_message& message, bool lossless) {
        const auto header = read_checked(message.data, message.size);
        must_be(header.has_value(), "a torn message");
        must_be(header->sender < kSendersMax, "a message of nobody");
        must_be(header->number == message.sequence, "a message of another number");
        std::uint64_t& last = last_[header->sender];
        must_be(header->number > last, "out of order, or twice");
        must_be(!lossless || last == 0 || header->number == last + 1, "a hole");
        must_be(!from_the_first_ || last != 0 || header->number == 1, "not from the first on");
        last = header->number;
    }
    [[nodiscard]] std::uint64_t last(std::uint64_t sender) const { return last_[sender]; }

private:
    const bool from_the_first_;
    std::vector<std::uint64_t> last_ = std::vector<std::uint64_t>(kSendersMax);
};

int living_publisher(const std::string& address, std::uint64_t sender, Scene& scene) {
    const Bus bus = connect(address, "living publisher");
    const Publisher publisher = advertise(bus, "load/" + std::to_string(sender));
    (void)must(ipcbus_wait_subscribers(publisher.get(), kLiving, kLongNs), "wait_subscribers");
    scene.ready.raise();
    std::uint64_t number = 0;
    while (scene.over.value() == 0) {
        publish_one(publisher, nullptr, sender, ++number);
        scene.published[sender] = number;
    }
    scene.over.raise();
    // Its readers are to be there until they have read everything.
    must_be(scene.over.wait(1 + 2 * kLiving), "the readers hang");
    return 0;
}

int living_reader(const std::string& address, Scene& scene) {
    const Bus bus = connect(address, "living reader");
    const Subscriber subscriber = subscribe(bus, "load/#");
    scene.ready.raise();
    Account account(true);
    std::vector<char> buffer(sizeof(CheckedHeader) + kMessageMax);
    const auto complete = [&] {
        for (std::uint64_t i = 1; i < 1 + kLiving + scene.victims; i++) {
            if (account.last(i) < scene.published[i]) {
                return false;
            }
        }
        return true;
    };
    for (;;) {
        ipcbus_message message;
        const int result = ipcbus_receive(subscriber.get(), buffer.data(), buffer.size(),
                                          20 * kMillisecondNs, &message);
        if (result == -ETIMEDOUT) {
            if (scene.over.value() > kLiving && complete()) {
                break;
            }
            continue;
        }
        (void)must(result, "receive");
        account.take(message, true);
    }
    must_be(ipcbus_lost(subscriber.get()) == 0, "a loss");
    scene.over.raise();
    return 0;
}

// ----------------------------------------------------------------------------------- victims

void victim_publisher(const Bus& bus, std::uint64_t sender, bool filter, Scene& scene) {
    const std::string topic = "load/" + std::to_string(sender);
    const Publisher publisher = advertise(bus, filter ? "load/+" : topic);
    for (std::uint64_t number = 1;; number++) {
        publish_one(publisher, filter ? topic.c_str() : nullptr, sender, number);
        scene.published[sender] = number;
        scene.progress[sender].raise();
    }
}

void victim_reader(const Bus& bus, std::uint64_t sender, std::uint32_t mode, Scene& scene) {
    const Subscriber subscriber = subscribe(bus, mode == IPCBUS_LOSSY ? "load/+" : "load/#", mode);
    Account account;
    std::vector<char> buffer(sizeof(CheckedHeader) + kMessageMax);
    ipcbus_message messages[8];
    for (std::uint64_t turn = 0;; turn++) {
        std::int64_t count = 1;
        const bool lend = turn % 2 == 0 && mode == IPCBUS_RELIABLE;
        if (lend) {
            count = ipcbus_borrow_many(subscriber.get(), kLongNs, messages, 8);
        } else {
            const int result = ipcbus_receive(subscriber.get(), buffer.data(), buffer.size(),
                                              kLongNs, messages);
            count = result == 0 ? 1 : result;
        }
        if (count == -ESTALE && mode != IPCBUS_RELIABLE) {
            continue;
        }
        (void)must(count, "receive");
        for (std::int64_t i = 0; i < count; i++) {
            account.take(messages[i], mode == IPCBUS_RELIABLE);
        }
        if (lend) {
            (void)must(ipcbus_release(subscriber.get()), "release");
        }
        scene.progress[sender].raise();
    }
}

/// Comes and goes: what dies is often in the middle of a request.
void victim_restless(const Bus& bus, std::uint64_t sender, Scene& scene) {
    for (;;) {
        const Subscriber subscriber = subscribe(bus, "load/1", IPCBUS_RELIABLE);
        const Publisher publisher = advertise(bus, "elsewhere");
        publish(publisher, "x");
        const Subscriber another = subscribe(bus, "#", IPCBUS_LATEST);
        scene.progress[sender].raise();
    }
}

int victim(const std::string& address, std::uint64_t sender, unsigned kind, Scene& scene) {
    const Bus bus = connect(address, "victim");
    switch (kind) {
        case 0: victim_publisher(bus, sender, false, scene); break;
        case 1: victim_publisher(bus, sender, true, scene); break;
        case 2: victim_reader(bus, sender, IPCBUS_RELIABLE, scene); break;
        case 3: victim_reader(bus, sender, IPCBUS_LOSSY, scene); break;
        case 4: victim_reader(bus, sender, IPCBUS_LATEST, scene); break;
        default: victim_restless(bus, sender, scene); break;
    }
    return 0;
}

// ------------------------------------------------------------------------------- the daemon

std::size_t resident_kib(pid_t pid) {
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmRSS:", 0) == 0) {
            return std::strtoull(line.c_str() + 6, nullptr, 10);
        }
    }
    return 0;
}

struct Usage {
    explicit Usage(const ChildProcess& daemon)
        : descriptors(daemon.descriptor_count()),
          mappings(daemon.mapping_count()),
          resident(resident_kib(daemon.pid())) {}
    std::size_t descriptors;
    std::size_t mappings;
    std::size_t resident;
};

/// The daemon's usage, once it has come down to `limit` (it lets go of the dead when it hears of
/// them), or after a while what it is. Before each look it has answered `observer`.
Usage settled_usage(DaemonFixture& daemon, const Bus& observer, const Usage& limit) {
    const sys::Deadline deadline = sys::Deadline::after(10 * kSecondNs);
    for (;;) {
        { const Subscriber request = subscribe(observer, "settle"); }
        const Usage now(daemon.process());
        const bool mappings_fit = kSanitized || now.mappings <= limit.mappings;
        if (deadline.passed() || (now.descriptors <= limit.descriptors && mappings_fit)) {
            return now;
        }
    }
}

/// One of each kind, to warm up what the daemon allocates once.
void warm_up(const DaemonFixture& daemon) {
    for (int i = 0; i < 20; i++) {
        const Bus bus = connect(daemon.address());
        const Subscriber subscriber = subscribe(bus, "warm/#");
        const Publisher publisher = advertise(bus, "warm/up");
        publish(publisher, "x");
        CHECK(received_text(subscriber) == "x");
    }
}

}  // namespace

TEST_CASE("clients killed at random under load harm nobody and leave nothing") {
    DaemonFixture daemon;
    const std::size_t descriptors = daemon.process().descriptor_count();
    warm_up(daemon);
    const Bus observer = connect(daemon.address(), "observer");
    Usage before(daemon.process());
    before.descriptors = descriptors + 4;  // of the observer: socket, pidfd, cursors, doorbell
    before = settled_usage(daemon, observer, before);
    REQUIRE(before.descriptors == descriptors + 4);

    const SharedBlock<Scene> scene;
    std::vector<ChildProcess> living;
    for (std::uint64_t i = 1; i <= kLiving; i++) {
        living.push_back(
            ChildProcess::fork([&] { return living_reader(daemon.address(), *scene); }));
        living.push_back(
            ChildProcess::fork([&, i] { return living_publisher(daemon.address(), i, *scene); }));
    }
    REQUIRE(scene->ready.wait(2 * kLiving));

    const std::uint64_t kills = from_environment("IPCBUS_TEST_KILLS", 60);
    const std::uint64_t seed = from_environment("IPCBUS_TEST_SEED", std::random_device()());
    INFO("IPCBUS_TEST_SEED=", seed);
    std::mt19937_64 random(seed);
    struct Victim {
        ChildProcess process;
        std::uint64_t sender = 0;
    };
    std::vector<Victim> victims(4);
    const auto replace = [&](Victim& one) {
        one.sender = 1 + kLiving + scene->victims++;
        REQUIRE(one.sender < kSendersMax);
        const auto kind = static_cast<unsigned>(random() % 6);
        one.process = ChildProcess::fork(
            [&, kind] { return victim(daemon.address(), one.sender, kind, *scene); });
    };
    for (Victim& one : victims) {
        replace(one);
    }
    for (std::uint64_t i = 0; i < kills; i++) {
        Victim& one = victims[random() % victims.size()];
        // At a random moment, counted in what it does; some before they have done anything.
        const auto moment = static_cast<std::uint32_t>(random() % 8 == 0 ? 0 : random() % 300);
        REQUIRE(scene->progress[one.sender].wait(moment));
        one.process.signal(SIGKILL);
        REQUIRE(one.process.wait() == 128 + SIGKILL);
        replace(one);
        for (const ChildProcess& child : living) {
            REQUIRE(child.running());
        }
    }
    for (Victim& one : victims) {
        one.process.signal(SIGKILL);
        CHECK(one.process.wait() == 128 + SIGKILL);
    }
    scene->over.raise();
    for (ChildProcess& child : living) {
        CHECK(child.wait(3 * kTimeoutMs) == 0);
    }
    CHECK(scene->published[1] > 100);
    CHECK(scene->published[2] > 100);

    const Usage after = settled_usage(daemon, observer, before);
    CHECK(after.descriptors <= before.descriptors);
    if (!kSanitized) {  // their allocators keep what they have, and more
        CHECK(after.mappings <= before.mappings);
        CHECK(after.resident <= before.resident + 2048);
    }
}

// -------------------------------------------------------------------------------------- forks

namespace {

/// Forks behind the C library's back: the child keeps the socket, as one would that some other
/// runtime has made.
pid_t fork_unseen() { return static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); }

struct Family {
    Milestone ready;
    Milestone over;
    std::atomic<pid_t> grandchild;
};

/// Becomes the parent of a process that waits.
void have_a_child(Family& family, bool unseen) {
    const pid_t pid = unseen ? fork_unseen() : ::fork();
    must_be(pid >= 0, "fork");
    if (pid == 0) {
        (void)family.over.wait(1);
        ::_exit(0);
    }
    family.grandchild = pid;
    family.ready.raise();
}

}  // namespace

TEST_CASE("a client that has forked and is killed is gone, though its child lives") {
    const DaemonFixture daemon("[publications]\nstall_timeout = \"100s\"\n");
    bool unseen = false;
    SUBCASE("forked by the C library") {}
    SUBCASE("forked behind its back") { unseen = true; }
    const Bus bus = connect(daemon.address());
    const Publisher publisher = advertise(bus, "to/the/dead", 65536, 15 * kSecondNs);
    const Subscriber subscriber = subscribe(bus, "from/the/dead");
    const SharedBlock<Family> family;
    ChildProcess child = ChildProcess::fork([&] {
        const Bus own = connect(daemon.address());
        const Subscriber reader = subscribe(own, "to/the/dead");
        const Publisher writer = advertise(own, "from/the/dead");
        publish(writer, "last words");
        have_a_child(*family, unseen);
        must_be(family->over.wait(1), "nobody kills me");
        return 0;
    });
    REQUIRE(family->ready.wait(1));
    CHECK(ipcbus_subscriber_count(publisher.get()) == 1);
    child.signal(SIGKILL);
    CHECK(child.wait() == 128 + SIGKILL);
    // Nobody waits for it: the ring takes more than it holds, long before any stall timeout.
    const std::string text(1000, 'x');
    for (int i = 0; i < 200; i++) {
        REQUIRE(ipcbus_publish(publisher.get(), text.data(), text.size()) == 0);
    }
    CHECK(ipcbus_subscriber_count(publisher.get()) == 0);
    CHECK(received_text(subscriber) == "last words");
    CHECK(receive(subscriber, 100 * kMillisecondNs).result == -ETIMEDOUT);
    CHECK(ipcbus_publication_count(subscriber.get()) == 0);
    CHECK(::kill(family->grandchild, 0) == 0);
    family->over.raise();
}
