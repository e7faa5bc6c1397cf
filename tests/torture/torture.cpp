// SPDX-License-Identifier: Apache-2.0
// Goal: whatever clients do, and whatever happens to them, every reader gets every message that it
// must get, in order, once, whole, or is told how many it lost; nobody hangs; nothing is left.
// Method: rounds of chance (round.hpp), each from a seed of its own that plays it again, judged by
// an oracle (account.hpp), on one private ipcbusd. See --help.
#define DOCTEST_CONFIG_IMPLEMENT
#include "options.hpp"
#include "round.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <random>

using namespace ipcbus;
using namespace ipcbus::torture;

namespace {

constexpr const char* kUsage =
    R"(Usage: torture [--seed N] [--seconds N | --rounds N] [--calm] [--verbose]

Tortures a private ipcbusd and the library with processes that publish and read
at random, are killed, stopped and continued, and checks each message and each
loss. Exits with 1 at the first fault, and says how to play its round again: the
same seed draws the same clients and disturbances, though not the same instants.

  --seed N     of the first round; the next ones count on (default: by chance)
  --seconds N  begin rounds for N seconds (default 5); 28800 for a night
  --rounds N   play N rounds instead
  --calm       nobody is killed, nobody stopped for long
  --verbose    say what each client does
  -h, --help   this text

IPCBUS_TEST_DAEMON names another ipcbusd than the one of the build.
)";

constexpr std::size_t kLogTail = 3000;

struct Settings {
    std::uint64_t seed = 0;
    bool seed_given = false;
    std::uint64_t seconds = 5;
    std::uint64_t rounds = 0;
    bool calm = false;
    bool verbose = false;
};
Settings settings;

struct Sums {
    std::uint64_t rounds = 0;
    std::uint64_t kills = 0;
    std::uint64_t stops = 0;
    Counts counts;

    void add(const Round& round) {
        const Counts& more = round.counts();
        rounds++;
        kills += round.kills();
        stops += round.stops();
        counts.published += more.published;
        counts.received += more.received;
        counts.lost += more.lost;
        counts.lost_reliably += more.lost_reliably;
        counts.overwritten += more.overwritten;
        counts.refused += more.refused;
        counts.aborted += more.aborted;
        counts.subscriptions += more.subscriptions;
        counts.publications += more.publications;
        counts.wraps += more.wraps;
        counts.excused += more.excused;
        raise_to(counts.longest_publish_ns, more.longest_publish_ns);
    }
    void print() const {
        std::printf("torture: %" PRIu64 " rounds, %" PRIu64 " kills, %" PRIu64 " stops\n", rounds,
                    kills, stops);
        std::printf("  published %" PRIu64 " (by those who lived) in %" PRIu64
                    " publications, %" PRIu64 " of which came to position 2^32\n",
                    counts.published.load(), counts.publications.load(), counts.wraps.load());
        std::printf("  found the ring full %" PRIu64 " times, claims aborted %" PRIu64
                    ", longest publish %" PRIu64 " ms\n",
                    counts.refused.load(), counts.aborted.load(),
                    counts.longest_publish_ns / 1'000'000);
        std::printf("  received %" PRIu64 " by %" PRIu64 " subscriptions, told lost %" PRIu64
                    " (%" PRIu64 " by reliable ones that were stopped), loans overwritten %" PRIu64
                    ", publications missed while stopped %" PRIu64 "\n",
                    counts.received.load(), counts.subscriptions.load(), counts.lost.load(),
                    counts.lost_reliably.load(), counts.overwritten.load(), counts.excused.load());
    }
};

/// The daemon's descriptors once it has come down to `limit`, or what they are after a while. It
/// hears of the dead before it answers the living.
std::size_t settled_descriptors(test::DaemonFixture& daemon, const test::Bus& observer,
                                std::size_t limit) {
    const sys::Deadline deadline = sys::Deadline::after(10 * test::kSecondNs);
    for (;;) {
        {
            const test::Subscriber request = test::subscribe(observer, "settle");
        }
        const std::size_t now = daemon.process().descriptor_count();
        if (now <= limit || deadline.passed()) {
            return now;
        }
    }
}

bool play_round(test::DaemonFixture& daemon, const test::Bus& observer, std::size_t descriptors,
                std::uint64_t seed, Sums& sums) {
    if (settings.verbose) {
        (void)std::fprintf(stderr, "round of seed %" PRIu64 "\n", seed);
    }
    Round round(daemon, seed, settings.calm, settings.verbose);
    std::string fault = round.play();
    sums.add(round);
    if (fault.empty()) {
        const std::size_t now = settled_descriptors(daemon, observer, descriptors);
        if (now > descriptors) {
            fault = "the daemon has " + std::to_string(now) + " descriptors, not " +
                    std::to_string(descriptors);
        }
    }
    const std::string calm = settings.calm ? " --calm" : "";
    INFO("play it again: torture --rounds 1 --seed ", seed, calm);
    const std::string& log = fault.empty() ? fault : daemon.process().output();
    INFO("the end of the daemon's log:\n", log.substr(log.size() - std::min(log.size(), kLogTail)));
    CHECK(fault == "");
    return fault.empty();
}

}  // namespace

TEST_CASE("torture") {
    test::DaemonFixture daemon("[publications]\nrings_ready = 0\n");
    const test::Bus observer = test::connect(daemon.address(), "observer");
    { const test::Subscriber request = test::subscribe(observer, "settle"); }
    const std::size_t descriptors = daemon.process().descriptor_count();
    std::uint64_t seed = settings.seed_given ? settings.seed : std::random_device()();
    std::printf("torture: seed %" PRIu64 "\n", seed);
    (void)std::fflush(stdout);
    const sys::Deadline deadline =
        sys::Deadline::after(static_cast<std::int64_t>(settings.seconds) * test::kSecondNs);
    Sums sums;
    const auto more = [&] {
        return settings.rounds != 0 ? sums.rounds < settings.rounds : !deadline.passed();
    };
    while (more() && play_round(daemon, observer, descriptors, seed, sums)) {
        seed++;
    }
    sums.print();
    CHECK(sums.counts.received > 0);
}

int main(int argc, char** argv) {
    const Option options[] = {
        {.name = "--seed", .number = &settings.seed, .given = &settings.seed_given},
        {.name = "--seconds", .number = &settings.seconds},
        {.name = "--rounds", .number = &settings.rounds},
        {.name = "--calm", .flag = &settings.calm},
        {.name = "--verbose", .flag = &settings.verbose},
    };
    read_options(argc, argv, options, kUsage);
    doctest::Context context;
    context.setOption("no-path-filenames", true);
    context.setOption("no-version", true);
    return context.run();
}
