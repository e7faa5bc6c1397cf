// SPDX-License-Identifier: Apache-2.0
// Bystanders: two honest processes that send each other messages, one at a time, there and back,
// while a test is hostile to the bus beside them. Every message must arrive, whole, once and in
// order, and both must be woken for each; they never reconnect. Since each waits asleep for the
// other's answer, a wake-up that is lost ends the trips, and is seen. Owned by one test, one
// thread.
#pragma once

#include "child_process.hpp"
#include "shared_block.hpp"

#include <atomic>
#include <cstdint>
#include <string>

namespace ipcbus::test {

class Bystanders {
public:
    /// Ready when it returns. `others`: they also subscribe to `others`, and read what comes there
    /// without believing it.
    explicit Bystanders(const std::string& address, const std::string& others = "");
    ~Bystanders();

    /// That many trips there and back from now on.
    void expect_trips(std::uint64_t trips = 20);
    /// Ends them and checks that nothing was lost. Called by the destructor at the latest.
    void finish();

    [[nodiscard]] std::uint64_t trips() const { return scene_->trips; }
    /// The longest trip so far. A figure, nothing to be asserted: it is a time of a machine that
    /// others use, too.
    [[nodiscard]] std::int64_t longest_trip_ns() const { return scene_->longest_ns; }

private:
    struct Scene {
        Milestone ready;
        Milestone progress;  ///< trips
        std::atomic<std::uint32_t> over{0};
        std::atomic<std::uint64_t> trips{0};
        std::atomic<std::int64_t> longest_ns{0};
    };
    static int caller(const std::string& address, const std::string& others, Scene& scene);
    static int answerer(const std::string& address, const std::string& others, Scene& scene);

    SharedBlock<Scene> scene_;
    ChildProcess answerer_;
    ChildProcess caller_;
    bool finished_ = false;
};

}  // namespace ipcbus::test
