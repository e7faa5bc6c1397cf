// SPDX-License-Identifier: Apache-2.0
// A bus for one run of ipcbus-bench: an ipcbusd that listens in a temporary directory, with room
// for any number of clients. Owned by the parent; ends, and takes its directory with it, in the
// destructor. It ends also when the parent is killed.
#pragma once

#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <sys/types.h>

#include <string>

namespace ipcbus::bench {

class PrivateBus {
public:
    PrivateBus() = default;
    ~PrivateBus() { stop(); }
    PrivateBus(const PrivateBus&) = delete;
    PrivateBus& operator=(const PrivateBus&) = delete;

    /// Starts `program` (empty: beside this executable, in the build tree's ../daemon, or in PATH)
    /// and waits until it can be connected to. The text of an Error has what it said.
    [[nodiscard]] sys::Result<void> start(const std::string& program);
    [[nodiscard]] std::string address() const { return "unix:" + socket_path(); }
    [[nodiscard]] pid_t pid() const { return pid_; }

private:
    [[nodiscard]] std::string socket_path() const { return directory_ + "/bus.sock"; }
    [[nodiscard]] std::string log_path() const { return directory_ + "/log"; }
    [[nodiscard]] std::string config_path() const { return directory_ + "/ipcbusd.toml"; }
    [[nodiscard]] std::string notify_path() const { return directory_ + "/notify"; }
    [[nodiscard]] sys::Result<void> wait_until_ready(int notifications, const std::string& program);
    [[noreturn]] void become(const std::string& program, pid_t parent) const;
    [[nodiscard]] std::string last_words() const;
    [[nodiscard]] bool reap(std::int64_t timeout_ns);
    void stop();

    std::string directory_;  // empty: not started
    pid_t pid_ = -1;
    sys::UniqueFd pidfd_;
};

}  // namespace ipcbus::bench
