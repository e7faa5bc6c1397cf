// SPDX-License-Identifier: Apache-2.0
// FaultyDaemon: a private ipcbusd like DaemonFixture's, with the library of faults preloaded; arm()
// and disarm() say what fails. And what it holds: descriptors and shared memory, counted by the
// kernel, to see whether it lets go of what a failed request had. Owned by one test, one thread.
#pragma once

#include "child_process.hpp"
#include "fault_block.hpp"
#include "temp_dir.hpp"

#include "sys/mapping.hpp"

#include <limits>
#include <map>
#include <string>

namespace ipcbus::test {

inline constexpr std::uint64_t kAlways = std::numeric_limits<std::uint64_t>::max() / 2;

/// What a process holds, by /proc.
struct Holdings {
    /// "socket", "anon_inode:[pidfd]", "/memfd:ipcbus-ring": how many descriptors.
    std::map<std::string, unsigned> descriptors;
    std::uint64_t memfd_bytes = 0;  ///< of those descriptors
    unsigned memfd_mappings = 0;

    bool operator==(const Holdings&) const = default;
    [[nodiscard]] std::string text() const;
    /// Descriptors of that kind.
    [[nodiscard]] unsigned count(const std::string& kind) const;
};
[[nodiscard]] Holdings holdings_of(pid_t pid);

class FaultyDaemon {
public:
    /// `descriptors_max`: its RLIMIT_NOFILE, 0 for this process's.
    explicit FaultyDaemon(const std::string& config = "", unsigned descriptors_max = 0);
    ~FaultyDaemon();

    /// Starts it, waits until its loop turns or it has ended. True: it has not ended. Again after
    /// its end.
    bool start();
    /// start(), which must go well.
    void must_start();
    /// SIGTERM, and waits for its end. The exit code.
    std::optional<int> stop();

    /// From the `from`-th call from now on, `count` of them fail so; its counts begin anew. What
    /// was armed before, stays so.
    void arm(Call call, int error, std::uint64_t from = 1, std::uint64_t count = 1);
    void disarm();
    [[nodiscard]] std::uint64_t failed(Call call) { return (*block())[call].failed.load(); }
    [[nodiscard]] std::uint64_t calls(Call call) { return (*block())[call].calls.load(); }

    /// Waits until the predicate is true, asked again after each turn of the daemon's loop.
    template <class Predicate>
    bool wait_until(Predicate predicate, int timeout_ms = kTimeoutMs) {
        const std::int64_t until_ns = now_ns() + std::int64_t{timeout_ms} * 1'000'000;
        for (;;) {
            const std::uint32_t turns = block()->turns.load();
            if (predicate()) {
                return true;
            }
            if (now_ns() >= until_ns) {
                return false;
            }
            wait_for_turn(turns);
        }
    }

    [[nodiscard]] FaultBlock* block() { return reinterpret_cast<FaultBlock*>(memory_.data()); }
    [[nodiscard]] Holdings holdings() const { return holdings_of(process_.pid()); }
    [[nodiscard]] ChildProcess& process() { return process_; }
    [[nodiscard]] const TempDir& directory() const { return directory_; }
    [[nodiscard]] const std::string& socket_path() const { return socket_path_; }
    [[nodiscard]] std::string address() const { return "unix:" + socket_path_; }

private:
    static std::int64_t now_ns();
    void wait_for_turn(std::uint32_t seen);

    TempDir directory_;
    unsigned descriptors_max_;
    std::string socket_path_;
    sys::Mapping memory_;
    ChildProcess process_;
};

}  // namespace ipcbus::test
