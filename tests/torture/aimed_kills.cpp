// SPDX-License-Identifier: Apache-2.0
// Goal: a client that is SIGKILLed, or stopped for ever, at ANY instruction of a call harms nobody.
// Method: a first victim is taken through one call an instruction at a time; each later one runs to
// the k-th of these (tracer.hpp) and dies there: for every k, or for as many as asked for, drawn
// from a seed; some are left standing there first. Those who live are then asked whether they are
// whole (survivors.hpp).
#define DOCTEST_CONFIG_IMPLEMENT
#include "dice.hpp"
#include "options.hpp"
#include "survivors.hpp"
#include "tracer.hpp"

#include <doctest/doctest.h>

#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string_view>

using namespace ipcbus;
using namespace ipcbus::torture;

namespace {

constexpr const char* kUsage =
    R"(Usage: aimed_kills [--seed N] [--kills N | --all] [--operation NAME] [--at K] [--list]

Kills clients of a private ipcbusd before the k-th instruction of a call, and
checks after each that everybody else has every message and goes on. Exits with 1
at the first fault, and says how to repeat it; with 77 where ptrace is refused.

  --seed N          of the instructions that are chosen (default: by chance)
  --kills N         of each operation (default 20); half of them in the library's
                    own code
  --all             every instruction of each operation; 4000 chosen by chance where
                    there are more: takes a quarter of an hour
  --operation NAME  this one alone
  --at K            kill before instruction K alone, as often as --kills says
  --list            the operations
  -h, --help        this text

IPCBUS_TEST_DAEMON names another ipcbusd than the one of the build.
)";

constexpr std::uint64_t kAllMax = 4000;

struct Settings {
    std::uint64_t seed = 0;
    bool seed_given = false;
    std::uint64_t kills = 20;
    bool all = false;
    std::string operation;
    std::uint64_t at = 0;
    bool at_given = false;
    bool list = false;
};
Settings settings;

/// What becomes of one victim.
struct Fate {
    std::uint64_t address = 0;  ///< dies before the instruction there, 0: when the call returns,
    std::uint64_t times = 0;    ///< when it comes there so often
    bool stands_first = false;  ///< is left standing there before
    bool when_blocked = false;  ///< dies when it waits
};

struct Outcome {
    std::string fault;
    bool blocked = false;
    bool returned = false;
    /// Of a victim that was stepped through: where each instruction is.
    std::vector<std::uint64_t> path;
};

/// To where the victim is to die; `step` takes it there, or a part of the way.
template <class Step>
void take_through(bool stop_when_blocked, Survivors& others, Outcome& outcome, Step step) {
    for (int waits = 0;;) {
        switch (step()) {
        case Tracer::State::there:
            return;
        case Tracer::State::returned:
            outcome.returned = true;
            return;
        case Tracer::State::gone:
            outcome.fault = "the victim has ended by itself";
            return;
        case Tracer::State::blocked:
            break;
        }
        outcome.blocked = true;
        if (stop_when_blocked) {
            return;
        }
        if (++waits > 300) {
            outcome.fault = "the call does not return";
            return;
        }
        others.help();
    }
}

/// Instruction by instruction to the end of the call.
void step_through(Tracer& tracer, const Stage& stage, Survivors& others, Outcome& outcome) {
    while (outcome.fault.empty() && stage.returned == 0) {
        const std::uint64_t address = tracer.address();
        // A repeated string instruction is one.
        if (outcome.path.empty() || outcome.path.back() != address) {
            outcome.path.push_back(address);
        }
        take_through(false, others, outcome, [&] { return tracer.step(); });
    }
}

/// One victim's life and death. Without a fate it is stepped through.
Outcome play_victim_once(const Operation& operation, const Fate* fate, Stage& stage,
                         Survivors& others) {
    const std::uint64_t sender = others.expect_victim();
    test::ChildProcess victim = test::ChildProcess::fork(
        [&]() -> int { play_victim(operation, others.address(), stage, sender); });
    Outcome outcome;
    {
        Tracer tracer(victim);
        if (!tracer.reach_mark()) {
            outcome.fault = "the victim does not reach its call";
            return outcome;
        }
        others.before_call();
        if (fate == nullptr) {
            step_through(tracer, stage, others, outcome);
        } else {
            tracer.aim(fate->address, fate->times);
            take_through(fate->when_blocked, others, outcome, [&] { return tracer.go(); });
        }
    }
    if (outcome.fault.empty() && fate != nullptr && fate->stands_first && !outcome.blocked) {
        outcome.fault = others.check_beside_stopped();
    }
    victim.signal(SIGKILL);
    if (victim.wait() != 128 + SIGKILL && outcome.fault.empty()) {
        outcome.fault = "the victim has failed";
    }
    if (outcome.fault.empty()) {
        outcome.fault = others.check_after_death();
    }
    return outcome;
}

using Path = std::vector<std::uint64_t>;

/// The instructions of a path that are the library's own: most are of the C library.
std::vector<std::uint64_t> own_instructions(const Path& path) {
    std::vector<std::uint64_t> own;
    for (std::size_t i = 0; i < path.size(); i++) {
        Dl_info where{};
        if (::dladdr(reinterpret_cast<void*>(path[i]), &where) != 0 &&
            std::string_view(where.dli_fname).find("libipcbus") != std::string_view::npos) {
            own.push_back(i);
        }
    }
    return own;
}

/// Before which instructions of a path victims die.
std::vector<std::uint64_t> choose_instructions(const Path& path, Dice& dice) {
    std::vector<std::uint64_t> chosen;
    const std::uint64_t count = (settings.all ? kAllMax : settings.kills) / 2;
    if (settings.at_given) {
        chosen.assign(count, settings.at);
        return chosen;
    }
    if (settings.all && path.size() < count) {
        chosen.resize(path.size() + 1);
        std::iota(chosen.begin(), chosen.end(), 0);
        return chosen;
    }
    const std::vector<std::uint64_t> own = own_instructions(path);
    while (chosen.size() < count) {
        const bool any = own.empty() || dice.one_in(2);
        chosen.push_back(any ? dice.below(path.size() + 1) : own[dice.below(own.size())]);
    }
    return chosen;
}

Fate draw_fate(const Path& path, std::uint64_t at, bool blocks, Dice& dice) {
    Fate fate;
    fate.stands_first = settings.all || dice.one_in(2);
    fate.when_blocked = blocks && dice.one_in(8);
    if (at < path.size() && !fate.when_blocked) {
        fate.address = path[at];
        const auto end = path.begin() + static_cast<std::ptrdiff_t>(at) + 1;
        fate.times = static_cast<std::uint64_t>(std::count(path.begin(), end, fate.address));
    }
    return fate;
}

struct Tally {
    std::uint64_t kills = 0;
    std::uint64_t late = 0;  ///< victims that did not come to where they were to die
    std::uint64_t last_at = 0;
};

/// Kills along one path. The first fault.
std::string kill_along(const Operation& operation, const Path& path, bool blocks, Stage& stage,
                       Survivors& others, Dice& dice, Tally& tally) {
    for (const std::uint64_t at : choose_instructions(path, dice)) {
        tally.last_at = at;
        tally.kills++;
        const Fate fate = draw_fate(path, at, blocks, dice);
        const Outcome outcome = play_victim_once(operation, &fate, stage, others);
        tally.late += outcome.returned && fate.address != 0 ? 1 : 0;
        if (!outcome.fault.empty()) {
            return outcome.fault;
        }
    }
    return {};
}

Tally play_operation(const Operation& operation, Dice& dice) {
    const test::SharedBlock<Stage> stage;
    Survivors others(operation, *stage);
    const std::int64_t began_ns = sys::monotonic_ns();
    // Two, because what a call does now and then (looking at the daemon, say) one of them may show
    // and the other not.
    std::array<Outcome, 2> traced;
    std::string fault;
    Tally tally;
    bool blocks = false;
    for (Outcome& outcome : traced) {
        if (test::kSanitized && &outcome != traced.data()) {
            outcome.path = traced[0].path;
            continue;
        }
        outcome = play_victim_once(operation, nullptr, *stage, others);
        fault = fault.empty() ? outcome.fault : fault;
        blocks = blocks || (outcome.blocked && operation.help != nullptr);
        tally.last_at = outcome.path.size();
    }
    others.note_usage();
    for (std::size_t i = 0; i < traced.size() && fault.empty(); i++) {
        fault = kill_along(operation, traced[i].path, blocks, *stage, others, dice, tally);
    }
    if (fault.empty()) {
        fault = others.check_usage();
    }
    std::printf("%-15s %6zu and %6zu instructions%s, %5" PRIu64 " kills, %4" PRIu64
                " of them after the call, %5" PRIi64 " ms\n",
                operation.name, traced[0].path.size(), traced[1].path.size(),
                blocks ? " and a wait" : "", tally.kills, tally.late,
                (sys::monotonic_ns() - began_ns) / 1'000'000);
    (void)std::fflush(stdout);
    const std::string again = "aimed_kills --operation " + std::string(operation.name) + " --at " +
                              std::to_string(tally.last_at);
    INFO("killed before instruction ", tally.last_at, ". Again: ", again);
    CHECK(fault == "");
    return tally;
}

}  // namespace

TEST_CASE("clients killed at any instruction of a call harm nobody") {
    const std::uint64_t seed = settings.seed_given ? settings.seed : std::random_device()();
    std::printf("aimed_kills: seed %" PRIu64 "\n", seed);
    Dice dice(seed);
    Tally all;
    for (const Operation& operation : operations()) {
        if (settings.operation.empty() || settings.operation == operation.name) {
            const Tally one = play_operation(operation, dice);
            all.kills += one.kills;
            all.late += one.late;
        }
    }
    REQUIRE_MESSAGE(all.kills > 0, "nobody was killed; operation ", settings.operation);
    // Of one operation many may be: it has come by a rare way both times it was traced.
    if (settings.operation.empty() && !settings.at_given) {
        CHECK(all.late * 2 <= all.kills);
    }
}

int main(int argc, char** argv) {
    const Option options[] = {
        {.name = "--seed", .number = &settings.seed, .given = &settings.seed_given},
        {.name = "--kills", .number = &settings.kills},
        {.name = "--all", .flag = &settings.all},
        {.name = "--operation", .text = &settings.operation},
        {.name = "--at", .number = &settings.at, .given = &settings.at_given},
        {.name = "--list", .flag = &settings.list},
    };
    read_options(argc, argv, options, kUsage);
    if (settings.list) {
        for (const Operation& operation : operations()) {
            std::printf("%s\n", operation.name);
        }
        return 0;
    }
    // The loader is to resolve nothing in the middle of a call: that would be most of its path.
    if (::getenv("LD_BIND_NOW") == nullptr) {
        (void)::setenv("LD_BIND_NOW", "1", 1);
        (void)::execv("/proc/self/exe", argv);
    }
    if (!can_trace()) {
        (void)std::fprintf(stderr, "aimed_kills: skipped: ptrace is refused here\n");
        return 77;
    }
    doctest::Context context;
    context.setOption("no-path-filenames", true);
    context.setOption("no-version", true);
    return context.run();
}
