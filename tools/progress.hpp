// SPDX-License-Identifier: Apache-2.0
// -P, --progress: how many messages a long run has done, and how many a second, on stderr once a
// second, and once more at its end. The tool's one thread counts; a thread of this object's own
// writes, so that it tells also of a tool that waits, and no wait has to end for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <thread>

namespace ipcbus::tools {

class Progress {
public:
    /// `tool` must outlive this.
    explicit Progress(std::string_view tool) : tool_(tool) {}
    ~Progress() { stop(); }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// Begins to count time, and to write if it can have a thread; false: it cannot, and errno says
    /// why. Signals go to the thread that calls, not to this one.
    [[nodiscard]] bool start();
    /// So many messages were done since the start.
    void total(std::uint64_t messages) {
        // relaxed: a number to show, which nothing else depends on.
        messages_.store(messages, std::memory_order_relaxed);
    }
    /// Writes the last line, if it was started, and ends the thread.
    void stop();

private:
    void run();

    const std::string_view tool_;
    std::atomic<std::uint64_t> messages_{0};
    std::int64_t started_ns_ = 0;
    std::mutex mutex_;
    std::condition_variable stopping_changed_;
    bool stopping_ = false;  // under the mutex
    std::thread thread_;
};

}  // namespace ipcbus::tools
