// SPDX-License-Identifier: Apache-2.0
// The workloads that all peers share, and which of them a peer can do.
#include "peers/task.hpp"

namespace ipcbus::bench {
namespace {

constexpr std::size_t kKiB = 1024;

class PeerTask : public Task {
public:
    PeerTask(const Workload& what, Peer& of)
        : Task(what.name, of.traits().name), slice_(what.slice), peer_(of) {
        ping_pong = !slice_.stream;
        if (of.traits().has_server) {
            pinned = of.traits().pin_threads;
            slice_factor = 8;
            every = 4;
        }
    }
    void prepare(int) override { peer_.prepare(slice_); }
    void write(Turn& turn) override {
        turn.slice = slice_;
        slice_.stream ? peer_.write(turn) : peer_.ping(turn);
    }
    void read(Turn& turn, int) override {
        turn.slice = slice_;
        slice_.stream ? peer_.read(turn) : peer_.pong(turn);
    }

private:
    Slice slice_;
    Peer& peer_;
};

bool can(const Traits& traits, const Workload& workload) {
    const Slice& slice = workload.slice;
    if (workload.tcp ? !traits.tcp : !traits.local) {
        return false;
    }
    if (slice.message_bytes < traits.message_bytes_min ||
        slice.message_bytes > traits.message_bytes_max) {
        return false;
    }
    if ((slice.batch > 1 && !traits.batches) || (slice.in_place && !traits.in_place)) {
        return false;
    }
    if (slice.stream) {
        return traits.stream;
    }
    if (workload.tcp) {
        return traits.ping_pong;
    }
    return traits.ping_pong && (slice.waiting == Waiting::spin    ? traits.spins
                                : slice.waiting == Waiting::sleep ? traits.sleeps
                                                                  : traits.adapts);
}

}  // namespace

const std::vector<Workload>& peer_workloads() {
    static const std::vector<Workload> all = {
        {"latency-spin", {.waiting = Waiting::spin, .touch = false}},
        {"latency-adaptive", {.waiting = Waiting::best, .touch = false}},
        {"latency-sleep", {.waiting = Waiting::sleep, .touch = false}},
        {"latency-in-place-1MiB",
         {.message_bytes = kKiB * kKiB,
          .waiting = Waiting::spin,
          .touch = false,
          .in_place = true}},
        {"stream-64", {.stream = true}},
        {"batch-64", {.batch = 16, .stream = true}},
        {"stream-1KiB", {.message_bytes = kKiB, .stream = true}},
        {"stream-64KiB", {.message_bytes = 64 * kKiB, .stream = true}},
        {"stream-1MiB", {.message_bytes = kKiB * kKiB, .stream = true}},
        {"tcp-latency", {.touch = false}, true},
        {"tcp-stream-64", {.stream = true}, true},
        {"tcp-stream-16KiB", {.message_bytes = 16 * kKiB, .stream = true}, true},
    };
    return all;
}

void add_peer_tasks(Peer& peer, Tasks& tasks) {
    for (const Workload& workload : peer_workloads()) {
        if (can(peer.traits(), workload)) {
            tasks.push_back(std::make_unique<PeerTask>(workload, peer));
        }
    }
}

}  // namespace ipcbus::bench
