// SPDX-License-Identifier: Apache-2.0
// Pinning and the bare ping-pong; see placement.hpp.
#include "bench/placement.hpp"

#include "bench/clock.hpp"
#include "sys/clock.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <sched.h>

namespace ipcbus::measure {

using sys::fail;
using sys::fail_errno;
using sys::Result;

namespace {

constexpr std::int64_t kPatienceNs = 10'000'000'000;
/// About 20 us of looking; an answer that takes longer will not come while this CPU is kept.
constexpr std::uint32_t kLooksBeforeYield = 20'000;

bool read_number(std::string_view text, int& ret_number) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ret_number);
    return error == std::errc{} && end == text.data() + text.size() && ret_number >= 0;
}

}  // namespace

Result<std::vector<int>> parse_cpus(std::string_view text) {
    const std::vector<int> allowed = allowed_cpus();
    std::vector<int> cpus;
    while (true) {
        const std::size_t comma = text.find(',');
        const std::string_view part = text.substr(0, comma);
        const std::size_t dash = part.find('-');
        int first = 0;
        int last = 0;
        if (!read_number(part.substr(0, dash), first) ||
            !read_number(dash == std::string_view::npos ? part : part.substr(dash + 1), last) ||
            last < first) {
            return fail(EINVAL, "not a list of CPUs (like 0,1 or 2-5)");
        }
        for (int cpu = first; cpu <= last; ++cpu) {
            if (std::find(allowed.begin(), allowed.end(), cpu) == allowed.end()) {
                return fail(EINVAL,
                            "CPU " + std::to_string(cpu) + " is not there for this process");
            }
            cpus.push_back(cpu);
        }
        if (comma == std::string_view::npos) {
            return cpus;
        }
        text.remove_prefix(comma + 1);
    }
}

std::vector<int> allowed_cpus() {
    std::vector<int> cpus;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (::sched_getaffinity(0, sizeof(set), &set) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (CPU_ISSET(cpu, &set)) {
                cpus.push_back(cpu);
            }
        }
    }
    return cpus;
}

Result<void> pin_to(int cpu) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) {
        return fail(EINVAL, "there is no CPU " + std::to_string(cpu));
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (::sched_setaffinity(0, sizeof(set), &set) != 0) {
        return fail_errno("sched_setaffinity");
    }
    return {};
}

Distance distance_of(double one_way_ns) {
    return one_way_ns <= 0               ? Distance::mixed  // not measured
           : one_way_ns <= kSiblingNsMax ? Distance::sibling
           : one_way_ns <= kNearNsMax    ? Distance::near
           : one_way_ns <= kFarNsMax     ? Distance::far
                                         : Distance::one_cpu;
}

Distance distance_of(double before_ns, double after_ns) {
    const Distance before = distance_of(before_ns);
    return before == distance_of(after_ns) ? before : Distance::mixed;
}

std::string_view distance_name(Distance distance) {
    switch (distance) {
        case Distance::sibling: return "sibling";
        case Distance::near: return "near";
        case Distance::far: return "far";
        case Distance::one_cpu: return "one-cpu";
        case Distance::mixed: break;
    }
    return "mixed";
}

bool PingPong::wait_for(std::uint64_t turn) {
    std::uint32_t looks = 0;
    std::int64_t give_up_ns = 0;
    // acquire: a lap of the ping-pong hands over as a message does. No pause in the loop: the bare
    // time is what is wanted, and a pause is half as long as that.
    while (page_.turn.load(std::memory_order_acquire) != turn) {
        if (++looks % kLooksBeforeYield != 0) {
            continue;
        }
        const std::int64_t now_ns = sys::monotonic_ns();
        give_up_ns = give_up_ns == 0 ? now_ns + kPatienceNs : give_up_ns;
        // relaxed: it only says to stop
        if (now_ns > give_up_ns || page_.given_up.load(std::memory_order_relaxed) != 0) {
            page_.given_up.store(1, std::memory_order_relaxed);
            return false;
        }
        (void)::sched_yield();
    }
    turn_ = turn;
    return true;
}

bool PingPong::round_trip() {
    page_.turn.store(turn_ + 1, std::memory_order_release);
    return wait_for(turn_ + 2);
}

sys::Error PingPong::gave_up() const {
    return fail(ETIMEDOUT, "the other process of a ping-pong did not answer");
}

Result<double> PingPong::measure() {
    const TickClock& clock = TickClock::get();
    std::array<double, kBlocks> times{};
    for (double& time : times) {
        const std::uint64_t began = clock.now();
        for (std::uint32_t i = 0; i < kBlockRounds; ++i) {
            if (!round_trip()) {
                return gave_up();
            }
        }
        time = clock.ns_exact(static_cast<double>(clock.now() - began)) / (2.0 * kBlockRounds);
    }
    std::nth_element(times.begin(), times.begin() + kBlocks / 2, times.end());
    return times[kBlocks / 2];
}

Result<void> PingPong::record(std::uint32_t rounds, Histogram& histogram) {
    const TickClock& clock = TickClock::get();
    std::uint64_t before = clock.now();
    for (std::uint32_t i = 0; i < rounds; ++i) {
        if (!round_trip()) {
            return gave_up();
        }
        const std::uint64_t now = clock.now();
        histogram.record(clock.ns(now - before) / 2);
        before = now;
    }
    return {};
}

Result<void> PingPong::answer(std::uint32_t rounds) {
    for (std::uint32_t i = 0; i < rounds; ++i) {
        if (!wait_for(turn_ + 1)) {
            return gave_up();
        }
        page_.turn.store(++turn_, std::memory_order_release);
    }
    return {};
}

}  // namespace ipcbus::measure
