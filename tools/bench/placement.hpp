// SPDX-License-Identifier: Apache-2.0
// Where two processes run, and how far apart that is. Pinning; and the bare cache-line ping-pong:
// two processes hand one word of shared memory back and forth as fast as the hardware does it. On a
// virtual machine the hypervisor moves virtual CPUs about every few seconds, and whatever goes
// through shared memory becomes 2 to 10 times faster or slower with it. So each timed slice of a
// few milliseconds is bracketed by ping-pongs between the very two processes that are measured, the
// slice is classed by them, and only slices of one class are compared.
#pragma once

#include "bench/histogram.hpp"
#include "sys/result.hpp"

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::measure {

/// "0,2-5": the CPUs named, in that order, each one that the process may run on.
[[nodiscard]] sys::Result<std::vector<int>> parse_cpus(std::string_view text);
/// The CPUs that the process may run on.
[[nodiscard]] std::vector<int> allowed_cpus();
/// The calling thread, and what it forks, runs on this CPU only.
[[nodiscard]] sys::Result<void> pin_to(int cpu);

/// How far apart two processes ran. By the one-way time of a ping-pong: threads of one core answer
/// within 32 ns; cores that share a cache within 150; others later. `one_cpu`: the two take turns
/// on one, and each hand-over is a change of process (or somebody else keeps them from running).
/// `mixed`: the two ends of a slice do not say the same.
enum class Distance : std::uint8_t { sibling, near, far, one_cpu, mixed };
inline constexpr std::size_t kDistances = 5;
inline constexpr double kSiblingNsMax = 32;
inline constexpr double kNearNsMax = 150;
inline constexpr double kFarNsMax = 1'000;

[[nodiscard]] Distance distance_of(double one_way_ns);
/// Of a slice between two ping-pongs.
[[nodiscard]] Distance distance_of(double before_ns, double after_ns);
/// "sibling", "near", "far", "one-cpu", "mixed".
[[nodiscard]] std::string_view distance_name(Distance distance);

/// The word and what is needed around it: lies in memory that both processes share (mmap with
/// MAP_SHARED before fork, zeroed), each on lines of its own.
struct PingPongPage {
    alignas(128) std::atomic<std::uint64_t> turn{0};
    alignas(128) std::atomic<std::uint32_t> given_up{0};
};

/// One end of a ping-pong. Both ends call measure() and answer(), respectively, equally often, and
/// record() and answer() with as many rounds. A call waits 10 s for the other end; then, and from
/// then on at both ends, it fails with ETIMEDOUT. Spins; after a while it yields, so that two ends
/// on one CPU get through as well.
class PingPong {
public:
    /// Of one call of measure(), and the default of answer(): 9 blocks of 64 round trips, 70 us in
    /// all when near.
    static constexpr std::uint32_t kBlocks = 9;
    static constexpr std::uint32_t kBlockRounds = 64;
    static constexpr std::uint32_t kRounds = kBlocks * kBlockRounds;

    /// Does not own `page`, which must outlive it.
    explicit PingPong(PingPongPage& page) : page_(page) {}

    /// The one-way time, ns: the median of the blocks, each half the mean round trip in it; so an
    /// interrupt spoils one block and not the result.
    [[nodiscard]] sys::Result<double> measure();
    /// Records half of each of `rounds` round trips, ns: what a latency is compared with.
    [[nodiscard]] sys::Result<void> record(std::uint32_t rounds, Histogram& histogram);
    /// The other end.
    [[nodiscard]] sys::Result<void> answer(std::uint32_t rounds = kRounds);

private:
    [[nodiscard]] bool wait_for(std::uint64_t turn);
    [[nodiscard]] bool round_trip();
    [[nodiscard]] sys::Error gave_up() const;

    PingPongPage& page_;
    std::uint64_t turn_ = 0;  // the last that was given or taken here
};

}  // namespace ipcbus::measure
