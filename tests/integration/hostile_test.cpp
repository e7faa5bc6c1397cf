// SPDX-License-Identifier: Apache-2.0
// Goal: a client that writes garbage over all the memory it can write (its rings, cursors, mailbox,
// its own doorbell and those of its peers) harms itself. Honest publishers and readers beside it,
// and the daemon, go on without a loss, a torn message, a hang or a crash.
// Method: the hostile client is the library's, which then scribbles over every writable mapping of
// the bus that it finds in its address space; for a while (IPCBUS_TEST_SECONDS, 1). Meant to be run
// with sanitizers, too.
#include "bus_client.hpp"
#include "checked_message.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include "protocol/layout.hpp"

#include <doctest/doctest.h>

#include <signal.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <random>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

struct Scene {
    Milestone ready;
    Milestone hostile;  ///< rounds of scribbling
    Milestone over;
    std::atomic<std::uint64_t> published{0};
    std::atomic<std::uint64_t> received{0};
    std::atomic<std::uint64_t> of_the_hostile{0};
};

std::int64_t test_seconds() {
    const char* text = std::getenv("IPCBUS_TEST_SECONDS");
    return text != nullptr ? std::strtol(text, nullptr, 10) : 1;
}

std::uint64_t test_seed() {
    const char* text = std::getenv("IPCBUS_TEST_SEED");
    return text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device()();
}

/// Memory of the bus that this process may write.
struct Area {
    std::uint64_t* words;
    std::size_t count;
    bool ring;
};
std::vector<Area> writable_areas() {
    std::vector<Area> areas;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        std::uintptr_t begin = 0;
        std::uintptr_t end = 0;
        if (line.find("rw-s") == std::string::npos || line.find("/memfd:ipcbus-") == line.npos ||
            std::sscanf(line.c_str(), "%zx-%zx", &begin, &end) != 2) {
            continue;
        }
        // The pages of a client are sparse and large: their beginnings are what is used.
        const std::size_t bytes = std::min<std::size_t>(end - begin, 1 << 20);
        areas.push_back({reinterpret_cast<std::uint64_t*>(begin), bytes / 8,
                         line.find("ipcbus-ring") != line.npos});
    }
    return areas;
}

constexpr std::uint64_t kRing = 65536;
/// No record of such a ring is larger, whatever it says.
constexpr std::uint64_t kLargest = protocol::record_bytes_max(kRing);

/// Messages in good order, before the garbage.
constexpr std::uint64_t kGood = 100;
constexpr std::uint64_t kGoodBytes = protocol::record_bytes(0, 4);

/// Garbage of all kinds: noise, edges, and what nearly is right.
class Garbage {
public:
    explicit Garbage(std::uint64_t seed) : random_(seed) {}

    std::uint64_t next() {
        const std::uint64_t dice = random_();
        const auto small = static_cast<std::uint32_t>(random_() % 70'000);
        switch (dice % 10) {
            case 0: return 0;
            case 1: return ~std::uint64_t{0};
            case 2: return dice;
            case 3: return 65536 + small / 16 * 16;  // a position
            case 4: return std::uint64_t{65536} * (dice >> 16 & 0xffff) + small;
            case 5: return protocol::record_word(small, 0, 0);
            case 6: return protocol::record_word(any_length(dice), 0, 0);
            case 7: return protocol::record_word(small % 64, static_cast<std::uint16_t>(dice >> 20),
                                                 static_cast<std::uint16_t>(dice >> 40));
            case 8: return kGood + small % 20;  // a sequence
            default: return std::uint64_t{1} << (dice >> 8 & 63);
        }
    }
    void scribble(const Area& area, std::size_t words) {
        for (std::size_t i = 0; i < words; i++) {
            // Half of it where the important words are.
            const std::uint64_t dice = random_();
            const std::size_t at = (dice >> 32) % (dice % 2 == 0 ? std::min(area.count, kHead)
                                                                 : area.count);
            store(area, at, next());
            // Often with a sequence behind it that may be the one that is expected.
            if (dice % 3 == 0) {
                store(area, at | 1, kGood + dice / 8 % 4);
            }
        }
    }
    /// Behind the good records of 'hostile/one': some that are as they should be, and a liar.
    void forge(const Area& ring) {
        std::size_t at = (protocol::kRingDataOffset + kGood * kGoodBytes) / 8;
        std::uint64_t sequence = kGood + 1;
        for (std::uint64_t left = random_() % 20; left != 0; left--) {
            const auto bytes = static_cast<std::uint32_t>(random_() % 100);
            const std::size_t next = at + protocol::record_bytes(0, bytes) / 8;
            store(ring, next, 0);
            store(ring, next + 1, ++sequence);
            __atomic_store_n(&ring.words[at], protocol::record_word(bytes, 0, 0), __ATOMIC_RELEASE);
            at = next;
        }
        const std::uint64_t dice = random_();
        const auto topic_bytes = static_cast<std::uint16_t>(dice % 3 == 0 ? dice >> 40 : 0);
        __atomic_store_n(&ring.words[at], protocol::record_word(any_length(dice), topic_bytes, 0),
                         __ATOMIC_RELEASE);
    }
    std::uint64_t dice() { return random_(); }

private:
    /// Of any order of magnitude.
    static std::uint32_t any_length(std::uint64_t dice) {
        return static_cast<std::uint32_t>(dice >> 8) >> (dice >> 40) % 32;
    }
    static void store(const Area& area, std::size_t at, std::uint64_t word) {
        __atomic_store_n(&area.words[at], word, __ATOMIC_RELAXED);
    }
    static constexpr std::size_t kHead = 1024;  ///< of a ring, also where its readers are
    std::mt19937_64 random_;
};

/// What the hostile one writes.
enum class Target { everything, rings, pages, records };

/// Attaches in both directions, then scribbles until it is killed.
int hostile(const std::string& address, Target target, std::uint64_t seed, Scene& scene) {
    const Bus bus = connect(address, "hostile");
    const Subscriber reader = subscribe(bus, "honest/#");
    const Publisher one = advertise(bus, "hostile/one", kRing);
    const Publisher filter = advertise(bus, "hostile/+", kRing);
    // In good order first, so that everybody has begun to read.
    for (std::uint64_t i = 0; i < kGood; i++) {
        (void)must(ipcbus_publish(one.get(), "good", 4), "publish");
        (void)must(ipcbus_publish_to(filter.get(), "hostile/two", "good", 4), "publish_to");
        (void)receive(reader, 0);
    }
    Garbage garbage(seed);
    const std::vector<Area> areas = writable_areas();
    must_be(areas.size() >= 6, "found no memory to write");
    for (const Area& area : areas) {
        if (target == Target::records && area.ring) {
            garbage.forge(area);
        }
    }
    for (;;) {
        for (const Area& area : areas) {
            if (target == Target::everything ||
                target == (area.ring ? Target::rings : Target::pages)) {
                garbage.scribble(area, 1 + garbage.dice() % 200);
            }
        }
        scene.hostile.raise();
    }
}

/// Publishes all the time, reliably: a reader that never makes way ends its progress.
int honest_publisher(const std::string& address, Scene& scene) {
    const Bus bus = connect(address, "honest publisher");
    const Publisher publisher = advertise(bus, "honest/topic", kRing);
    (void)must(ipcbus_wait_subscribers(publisher.get(), 2, kLongNs), "wait_subscribers");
    scene.ready.raise();
    std::vector<char> message(2000);
    std::uint64_t number = 0;
    while (scene.over.value() == 0) {
        const std::size_t bytes = 32 + mixed(++number) % 1900;
        fill_checked(message.data(), bytes, 1, number);
        (void)must(ipcbus_publish(publisher.get(), message.data(), bytes), "publish");
        scene.published = number;
    }
    scene.over.raise();
    must_be(scene.over.wait(3), "the reader hangs");
    return 0;
}

/// Reads everything, by all ways; believes nothing of the hostile ones.
int honest_reader(const std::string& address, Scene& scene) {
    const Bus bus = connect(address, "honest reader");
    const Subscriber honest = subscribe(bus, "honest/#");
    const Subscriber all = subscribe(bus, "#");
    const Subscriber lossy = subscribe(bus, "hostile/#", IPCBUS_LOSSY);
    const Subscriber latest = subscribe(bus, "hostile/two", IPCBUS_LATEST);
    scene.ready.raise();
    std::uint64_t numbers[2] = {0, 0};
    const Subscriber* const readers[2] = {&honest, &all};
    volatile char sink = 0;
    std::int64_t longest_ns = 0;
    std::int64_t last_ns = sys::monotonic_ns();
    for (;;) {
        const std::int64_t now_ns = sys::monotonic_ns();
        longest_ns = std::max(longest_ns, now_ns - last_ns);
        last_ns = now_ns;
        bool idle = true;
        for (int i = 0; i < 2; i++) {
            const Received got = receive(*readers[i], i == 0 || !idle ? 0 : kMillisecondNs);
            idle = i == 0 ? !got.ok() : idle;
            if (got.ok() && got.topic == "honest/topic") {
                const auto header = read_checked(got.payload.data(), got.payload.size());
                must_be(header.has_value(), "a torn message");
                must_be(header->number == ++numbers[i], "a hole, or not in order");
            } else {
                must_be(got.result != -ESTALE || got.topic != "honest/topic",
                        "reader " + std::to_string(i) + " lost " +
                            std::to_string(got.message.lost) +
                            " honest messages; it has been away for " +
                            std::to_string(longest_ns / kMillisecondNs) +
                            " ms at the most, and has connected anew " +
                            std::to_string(ipcbus_reconnects(bus.get())) + " times");
                scene.of_the_hostile += got.ok() ? 1 : 0;
                must_be(!got.ok() || got.payload.size() <= kLargest, "a message that cannot be");
                must_be(got.ok() || got.result == -ETIMEDOUT || got.result == -EAGAIN ||
                            got.result == -ESTALE || got.result == -EPROTO ||
                            got.result == -EPROTONOSUPPORT,
                        "receive: " + std::to_string(got.result) + " " + ipcbus_last_error());
            }
        }
        ipcbus_message messages[16];
        for (const Subscriber* subscriber : {&lossy, &latest}) {
            const std::int64_t count = ipcbus_borrow_many(subscriber->get(), 0, messages, 16);
            must_be(is_documented(count), "borrow_many");
            for (std::int64_t i = 0; i < count; i++) {
                must_be(messages[i].size <= kLargest, "a loan that cannot be");
                // Every byte and every topic that is lent can be read.
                for (std::size_t at = 0; at < messages[i].size; at += 64) {
                    sink = sink + static_cast<const volatile char*>(messages[i].data)[at];
                }
                for (std::size_t at = 0; at < messages[i].topic_size; at++) {
                    sink = sink + static_cast<const volatile char*>(messages[i].topic)[at];
                }
            }
            if (count > 0) {
                must_be(is_documented(ipcbus_release(subscriber->get())), "release");
            }
        }
        scene.received = numbers[0];
        if (scene.over.value() >= 2 && numbers[0] == scene.published &&
            numbers[1] == scene.published) {
            scene.over.raise();
            return 0;
        }
    }
}

/// Comes and goes, so that the daemon has to look into the hostile rings.
int honest_restless(const std::string& address, Scene& scene) {
    const Bus bus = connect(address, "restless");
    while (scene.over.value() == 0) {
        const Subscriber subscriber = subscribe(bus, "hostile/#");
        (void)receive(subscriber, 0);
    }
    return 0;
}

}  // namespace

TEST_CASE("a client that writes garbage wherever it can harms itself only") {
    Target target = Target::everything;
    SUBCASE("into its rings") { target = Target::rings; }
    SUBCASE("as records that lie") { target = Target::records; }
    SUBCASE("into pages and doorbells") { target = Target::pages; }
    SUBCASE("everywhere") {}
    const DaemonFixture daemon("[publications]\nstall_timeout = \"2s\"\n");
    const SharedBlock<Scene> scene;
    ChildProcess reader =
        ChildProcess::fork([&] { return honest_reader(daemon.address(), *scene); });
    REQUIRE(scene->ready.wait(1));
    ChildProcess publisher =
        ChildProcess::fork([&] { return honest_publisher(daemon.address(), *scene); });
    REQUIRE(scene->ready.wait(2));
    ChildProcess restless =
        ChildProcess::fork([&] { return honest_restless(daemon.address(), *scene); });
    std::uint64_t seed = test_seed();
    INFO("IPCBUS_TEST_SEED=", seed);
    const sys::Deadline deadline = sys::Deadline::after(test_seconds() * kSecondNs);
    int attackers = 0;
    while (!deadline.passed()) {
        ChildProcess attacker = ChildProcess::fork(
            [&] { return hostile(daemon.address(), target, seed, *scene); });
        seed++;
        attackers++;
        const std::uint32_t rounds = scene->hostile.value();
        REQUIRE(scene->hostile.wait(rounds + 500));
        const std::uint64_t before = scene->received;
        // Beside it, the honest ones go on.
        const sys::Deadline patience = sys::Deadline::after(10 * kSecondNs);
        while (scene->received < before + 100 && !patience.passed()) {
            REQUIRE(scene->hostile.wait(scene->hostile.value() + 100));
        }
        CHECK(scene->received >= before + 100);
        CHECK(attacker.running());
        attacker.signal(SIGKILL);
        CHECK(attacker.wait() == 128 + SIGKILL);
        REQUIRE(reader.running());
        REQUIRE(publisher.running());
        REQUIRE(restless.running());
    }
    scene->over.raise();
    CHECK(publisher.wait() == 0);
    CHECK(reader.wait() == 0);
    CHECK(restless.wait() == 0);
    CHECK(scene->published > 100);
    MESSAGE(attackers, " attackers, ", scene->published.load(), " messages, ",
            scene->of_the_hostile.load(), " of the hostile");
}
