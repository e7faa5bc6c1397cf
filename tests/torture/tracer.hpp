// SPDX-License-Identifier: Apache-2.0
// Tracer: takes a child process through one call under ptrace, so that it can be killed, or left
// standing, before any one of its instructions; nothing in the product knows of it. First one child
// is taken through an instruction at a time, which gives a list of addresses; later ones, forks of
// the same parent and so at the same addresses, run at full speed to a breakpoint. The child says
// be_traced() and mark(), calls, and says mark() again. Used by the thread that forked the child.
#pragma once

#include "child_process.hpp"

#include <cstdint>
#include <vector>

namespace ipcbus::torture {

// ------------------------------------------------------------------------------ in the child
void be_traced();
/// Stops here until the tracer lets it go on.
inline void mark() { asm volatile("int3" ::: "memory"); }

// ------------------------------------------------------------------------------ in the parent

/// Whether this process may trace its children. Containers can refuse it.
[[nodiscard]] bool can_trace();

class Tracer {
public:
    explicit Tracer(const test::ChildProcess& child);
    ~Tracer();
    Tracer(const Tracer&) = delete;
    Tracer& operator=(const Tracer&) = delete;

    /// Waits for the first mark. False: it does not come; see the child's exit code.
    [[nodiscard]] bool reach_mark();

    enum class State {
        there,     ///< one instruction further, or before the one aimed at
        returned,  ///< the call has: at the second mark
        blocked,   ///< it waits in the kernel for a while (20 ms at the least): go on as before
        gone,
    };
    /// One instruction, or one system call.
    [[nodiscard]] State step();
    /// Where it stands.
    [[nodiscard]] std::uint64_t address() const;

    /// For go(): to the instruction at `address` when it comes there for the `times`-th time.
    /// 0: to the second mark.
    void aim(std::uint64_t target, std::uint64_t times);
    [[nodiscard]] State go();

private:
    enum class Stop { stopped, blocked, gone };
    [[nodiscard]] Stop wait(int ticks_max);
    [[nodiscard]] bool set_breakpoint(bool there) const;
    [[nodiscard]] bool set_off();

    const pid_t pid_;
    bool under_way_ = false;  ///< it runs, as far as we know
    bool over_ = false;       ///< over the instruction at the target
    std::uint64_t target_ = 0;
    std::uint64_t left_ = 0;  ///< times that it has to come there
    long text_ = 0;           ///< what stands there
};

}  // namespace ipcbus::torture
