// SPDX-License-Identifier: Apache-2.0
// Stage: the run. Makes peers and tasks, forks the readers, opens everything on all sides, and runs
// slice after slice: a bare ping-pong before and after each says how far apart the processes were.
// In the parent, A; what a reader does with an order is here as well.
#pragma once

#include "peers/control.hpp"
#include "peers/results.hpp"
#include "peers/task.hpp"

#include <string>
#include <vector>

namespace ipcbus::bench {

struct StageOptions {
    std::string directory;               // for the peers, a folder each
    std::string build_directory;         // where ipcbusd is
    std::vector<std::string> peers;      // beside the limits; empty: all
    std::vector<std::string> workloads;  // by name, or the part before a '-'; empty: all
    int cpu_a = 0;
    int cpu_b = 1;
    std::int64_t slice_ns = 3'000'000;
    unsigned rounds = 50;
    double seconds_max = 0;  // no new round begins after that; 0: no limit
    bool progress = false;   // a line for each task that is slow to start, on stderr
};

class Stage {
public:
    explicit Stage(StageOptions options);

    /// Makes the peers and the tasks that were asked for. Before run().
    void build();
    [[nodiscard]] const Tasks& tasks() const { return tasks_; }
    /// Forks, opens, measures, ends.
    void run();
    void write_json(std::FILE* file) const;

private:
    struct Pace {
        std::uint64_t count = 1;  // messages of a turn
        unsigned settled = 0;     // slices that took about as long as they should
    };

    [[nodiscard]] Tasks tasks_of(Peer& peer) const;
    void start_peers();
    void open_all();
    void obey(const Order& order, int reader);
    void follow_as(int reader);
    std::int64_t turn(std::size_t task, std::uint64_t count, SliceResult* ret_slice);
    void slice(std::size_t task, unsigned round);
    void pin(int reader, bool pinned);
    [[nodiscard]] std::int64_t server_cpu_ns(const Task& task) const;

    StageOptions options_;
    Control* control_ = nullptr;
    std::vector<std::unique_ptr<Peer>> peers_;
    Tasks tasks_;
    std::vector<Pace> paces_;
    std::unique_ptr<Leader> leader_;
    int readers_ = 1;
    bool pinned_ = false;  // this process, at the moment
    measure::Histogram latency_;
    Results results_;
    std::vector<Results::LeftOut> left_out_;
};

}  // namespace ipcbus::bench
