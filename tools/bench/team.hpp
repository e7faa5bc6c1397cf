// SPDX-License-Identifier: Apache-2.0
// The processes that are measured. The tool itself is their parent and does nothing but wait: it
// forks one process for each role, hears from them through memory that was mapped before the fork,
// and when one fails ends the others and tells why. A role is a function that is called in its
// process; it ends by returning (all is well) or by Member::fail.
#pragma once

#include "sys/result.hpp"

#include <sys/mman.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace ipcbus::bench {

/// How long a process waits for another, or for a message, before it calls that a failure.
inline constexpr std::int64_t kPatienceNs = 10'000'000'000;

/// A T that the parent and all members share; zeroed memory, then T's initialisers. T holds no
/// pointers of its own. Owned by the parent.
template <class T>
class Shared {
public:
    Shared() {
        void* memory = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        IPCBUS_ASSERT(memory != MAP_FAILED);
        value_ = new (memory) T;
    }
    ~Shared() { (void)::munmap(value_, sizeof(T)); }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;

    T* operator->() const { return value_; }
    T& operator*() const { return *value_; }

private:
    static_assert(std::is_trivially_destructible_v<T>);
    T* value_;
};

/// Where processes wait for each other: arrive() returns when `count` have come, again and again.
class Meeting {
public:
    /// False: the others did not come in time.
    [[nodiscard]] bool arrive(std::uint32_t count, std::int64_t patience_ns = kPatienceNs);

private:
    std::atomic<std::uint32_t> here_{0};
    std::atomic<std::uint32_t> round_{0};
};

/// What the first member that failed has to say.
struct Failure {
    std::atomic<std::uint32_t> taken{0};
    int code = 0;
    char text[768] = {};
};

/// A process of the team, to itself.
class Member {
public:
    Member(Failure& failure, unsigned number) : failure_(failure), number_(number) {}

    /// In the order of Team::add, from 0.
    [[nodiscard]] unsigned number() const { return number_; }
    /// Ends the process, and with it the run. The exit code of the tool, one line for its stderr.
    [[noreturn]] void fail(int code, const std::string& text) const;
    /// "cannot WHAT: reason", with the exit code for what a call of libipcbus returned.
    [[noreturn]] void fail_library(std::string_view what, std::int64_t result) const;
    /// Meets the others or fails.
    void meet(Meeting& meeting, std::uint32_t count, std::int64_t patience_ns = kPatienceNs) const;

private:
    Failure& failure_;
    unsigned number_;
};

class Team {
public:
    using Role = std::function<void(const Member&)>;

    /// `name` is what ps and top show. `cpu` negative: not pinned.
    void add(std::string name, int cpu, Role role);
    /// Forks them all and waits until they have ended. Returns an exit code; whatever went wrong
    /// has been reported as `tool`'s. A stop signal (stop_signal.hpp) ends them: 128 + n.
    [[nodiscard]] int run(std::string_view tool);

private:
    struct Process {
        std::string name;
        int cpu = -1;
        Role role;
        pid_t pid = -1;
        int pidfd = -1;
    };

    [[noreturn]] void become(const Process& process, unsigned number, pid_t parent);
    [[nodiscard]] bool start(Process& process, unsigned number);
    [[nodiscard]] bool wait_for_all();
    [[nodiscard]] int end_of(Process& process, std::string& ret_text) const;
    void end_all();

    std::vector<Process> processes_;
    Shared<Failure> failure_;
};

/// The CPU of process `number` of a team, by --pin: the first has the first; the others share the
/// rest, in turn. -1: not pinned.
[[nodiscard]] int cpu_for(const std::vector<int>& pin, unsigned number);

}  // namespace ipcbus::bench
