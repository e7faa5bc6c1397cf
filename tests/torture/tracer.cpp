// SPDX-License-Identifier: Apache-2.0
// See tracer.hpp.
#include "tracer.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

namespace ipcbus::torture {

namespace {

constexpr int kTickMicroseconds = 20'000;
const int kTicksMax = 1'000 * test::patience();  ///< 20 s: longer than anything may take
constexpr int kTicksBlocked = 2;  ///< the first may come at once
constexpr long kBreakpoint = 0xcc;
constexpr long kByte = 0xff;

/// Ticks interrupt waitpid: it has no timeout of its own.
void tick(int microseconds) {
    const itimerval timer{{0, microseconds}, {0, microseconds}};
    REQUIRE(::setitimer(ITIMER_REAL, &timer, nullptr) == 0);
}

void on_tick(int) {}

void* at(std::uint64_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

void be_traced() {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) {
        ::_exit(91);
    }
}

bool can_trace() {
    const pid_t pid = ::fork();
    if (pid == 0) {
        be_traced();
        mark();
        ::_exit(0);
    }
    int status = 0;
    bool traced =
        ::waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
    if (traced) {
        traced = ::ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) == 0 &&
                 ::waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
        (void)::kill(pid, SIGKILL);
        (void)::waitpid(pid, &status, 0);
    }
    return traced;
}

Tracer::Tracer(const test::ChildProcess& child) : pid_(child.pid()) {
    struct sigaction action{};
    action.sa_handler = on_tick;  // without SA_RESTART: waitpid answers EINTR
    REQUIRE(::sigaction(SIGALRM, &action, nullptr) == 0);
    tick(kTickMicroseconds);
}

Tracer::~Tracer() { tick(0); }

Tracer::Stop Tracer::wait(int ticks_max) {
    for (int ticks = 0; ticks < ticks_max;) {
        int status = 0;
        const pid_t got = ::waitpid(pid_, &status, 0);
        if (got < 0 && errno == EINTR) {
            ticks++;
            continue;
        }
        under_way_ = false;
        return got == pid_ && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP ? Stop::stopped
                                                                                : Stop::gone;
    }
    return Stop::blocked;
}

bool Tracer::reach_mark() { return wait(kTicksMax) == Stop::stopped; }

std::uint64_t Tracer::address() const {
    errno = 0;
    const long address = ::ptrace(PTRACE_PEEKUSER, pid_, offsetof(user, regs.rip), nullptr);
    REQUIRE(errno == 0);
    return static_cast<std::uint64_t>(address);
}

Tracer::State Tracer::step() {
    if (!under_way_) {
        if (::ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr) != 0) {
            return State::gone;
        }
        under_way_ = true;
    }
    switch (wait(kTicksBlocked)) {
    case Stop::stopped:
        return State::there;
    case Stop::blocked:
        return State::blocked;
    case Stop::gone:
        break;
    }
    return State::gone;
}

void Tracer::aim(std::uint64_t target, std::uint64_t times) {
    target_ = target;
    left_ = times;
    if (target == 0) {
        return;
    }
    errno = 0;
    text_ = ::ptrace(PTRACE_PEEKTEXT, pid_, at(target), nullptr);
    REQUIRE(errno == 0);
    over_ = address() == target;
    left_ -= over_ ? 1 : 0;
}

bool Tracer::set_breakpoint(bool there) const {
    const long text = there ? (text_ & ~kByte) | kBreakpoint : text_;
    return target_ == 0 || ::ptrace(PTRACE_POKETEXT, pid_, at(target_), text) == 0;
}

bool Tracer::set_off() {
    // The instruction at the target is stepped over without its breakpoint.
    under_way_ = (over_ || set_breakpoint(true)) &&
                 ::ptrace(over_ ? PTRACE_SINGLESTEP : PTRACE_CONT, pid_, nullptr, nullptr) == 0;
    return under_way_;
}

Tracer::State Tracer::go() {
    while (target_ == 0 || left_ != 0) {
        if (!under_way_ && !set_off()) {
            return State::gone;
        }
        switch (wait(kTicksBlocked)) {
        case Stop::gone:
            return State::gone;
        case Stop::blocked:
            return State::blocked;
        case Stop::stopped:
            break;
        }
        if (over_) {
            over_ = false;
            continue;
        }
        if (target_ == 0 || address() != target_ + 1) {
            return State::returned;
        }
        if (!set_breakpoint(false) ||
            ::ptrace(PTRACE_POKEUSER, pid_, offsetof(user, regs.rip), target_) != 0) {
            return State::gone;
        }
        over_ = true;
        left_--;
    }
    return State::there;
}

}  // namespace ipcbus::torture
