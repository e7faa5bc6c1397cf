// SPDX-License-Identifier: Apache-2.0
// ChildProcess: a program, or a function of this one, in a process of its own, which is killed with
// the object at the latest. Waiting is for its pidfd, its output for a pipe: nothing polls or
// sleeps. Owned by one test, one thread.
#pragma once

#include "sys/unique_fd.hpp"

#include <sys/types.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace ipcbus::test {

/// How many times slower than usual this machine may be (an emulated one, valgrind):
/// IPCBUS_TEST_PATIENCE, else 1.
[[nodiscard]] inline int patience() {
    const char* const text = std::getenv("IPCBUS_TEST_PATIENCE");
    return text == nullptr ? 1 : std::clamp(std::atoi(text), 1, 1000);
}
inline const int kTimeoutMs = 20'000 * patience();  ///< for what should take milliseconds

/// Sanitizers keep memory, and make a call ten times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

/// Whether a process of this test can become that user for good: root may, but for a root that has
/// been left without CAP_SETUID or CAP_SETGID. Forks to see.
[[nodiscard]] bool may_be_user(uid_t uid);

class ChildProcess {
public:
    ChildProcess() = default;
    ~ChildProcess();
    ChildProcess(ChildProcess&& other) noexcept { *this = std::move(other); }
    ChildProcess& operator=(ChildProcess&& other) noexcept;

    /// Runs argv[0] (a path); its stderr goes to a pipe, see wait_for_output(). `environment`
    /// entries ("NAME=VALUE") are added to this process's.
    [[nodiscard]] static ChildProcess run(const std::vector<std::string>& argv,
                                          const std::vector<std::string>& environment = {});
    /// Forks; the child runs `body` and exits with its value, without destructors or exit handlers.
    [[nodiscard]] static ChildProcess fork(const std::function<int()>& body);

    [[nodiscard]] pid_t pid() const { return pid_; }
    void signal(int number) const;
    /// The exit code, or 128 + the signal; nothing: it still runs.
    std::optional<int> wait(int timeout_ms = kTimeoutMs);
    [[nodiscard]] bool running() const;

    /// Waits until its stderr, from `from` on, has `text`. Where that ends, or npos: not in time.
    std::size_t wait_for_output(const std::string& text, std::size_t from = 0,
                                int timeout_ms = kTimeoutMs);
    /// Its stderr so far.
    const std::string& output();

    /// Of /proc: open descriptors, and mappings.
    [[nodiscard]] std::size_t descriptor_count() const;
    [[nodiscard]] std::size_t mapping_count() const;

private:
    void adopt(pid_t pid);
    bool read_output(int timeout_ms);

    pid_t pid_ = -1;
    sys::UniqueFd pidfd_;
    sys::UniqueFd stderr_;
    std::string output_;
    std::optional<int> status_;
};

}  // namespace ipcbus::test
