// SPDX-License-Identifier: Apache-2.0
// Task: one workload on one peer, which is what slices are made of. A writes, one or several
// readers read. PeerTask is a ping-pong or a stream over any Peer; other tasks measure what only
// ipcbus and its limit have. Made in the parent before it forks; write() runs in A, read() in the
// readers.
#pragma once

#include "peers/control.hpp"
#include "peers/peer.hpp"

#include <memory>
#include <string>
#include <vector>

namespace ipcbus::bench {

class Task {
public:
    Task(std::string workload_name, std::string peer_name)
        : workload(std::move(workload_name)), peer(std::move(peer_name)) {}
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    virtual ~Task() = default;

    const std::string workload;
    const std::string peer;
    int readers = 1;
    bool pinned = true;
    bool ping_pong = false;   // its value is the median of turn.latency, not time / count
    bool own_value = false;   // its value is what value() says
    double slice_factor = 1;  // slices so many times as long as others
    unsigned every = 1;       // takes part in each so manieth round
    std::uint64_t count_max = UINT64_MAX;  // of a turn

    /// In A (reader -1) and in each reader, once, at the same time.
    virtual void open(int /*reader*/) {}
    /// In A (-1) and the readers, before each slice.
    virtual void prepare(int /*reader*/) {}
    virtual void write(Turn& turn) = 0;
    virtual void read(Turn& turn, int reader) = 0;
    /// In A, after write(): ns per message, for own_value.
    [[nodiscard]] virtual double value() const { return 0; }
};

using Tasks = std::vector<std::unique_ptr<Task>>;

/// What the script's table is made of: the workloads that any peer may take part in, by name.
struct Workload {
    const char* name;
    Slice slice;
    bool tcp = false;  ///< between remote clients of one broker, over TCP
};
[[nodiscard]] const std::vector<Workload>& peer_workloads();

/// A task for each of the workloads that the peer can do. The peer must outlive them.
void add_peer_tasks(Peer& peer, Tasks& tasks);

}  // namespace ipcbus::bench
