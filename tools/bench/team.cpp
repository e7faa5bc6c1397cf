// SPDX-License-Identifier: Apache-2.0
// Forking, waiting, and ending what was forked; see team.hpp.
#include "bench/team.hpp"

#include "bench/placement.hpp"
#include "cli.hpp"
#include "connection.hpp"
#include "stop_signal.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace ipcbus::bench {

using tools::kExitDone;
using tools::kExitFailed;

bool Meeting::arrive(std::uint32_t count, std::int64_t patience_ns) {
    // acquire before the last one may go on: what others wrote before they came is seen after.
    const std::uint32_t round = round_.load(std::memory_order_acquire);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
        // relaxed: nobody counts before round_ says that the next round has begun
        here_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        sys::futex_wake_all(round_);
        return true;
    }
    const sys::Deadline deadline = sys::Deadline::after(patience_ns);
    while (round_.load(std::memory_order_acquire) == round) {
        if (deadline.passed()) {
            return false;
        }
        (void)sys::futex_wait(round_, round, deadline.remaining_ns());
    }
    return true;
}

void Member::fail(int code, const std::string& text) const {
    // relaxed: the parent reads the rest after this process has ended
    if (failure_.taken.exchange(1, std::memory_order_relaxed) == 0) {
        failure_.code = code;
        std::snprintf(failure_.text, sizeof(failure_.text), "%s", text.c_str());
    }
    ::_exit(code);
}

void Member::fail_library(std::string_view what, std::int64_t result) const {
    fail(tools::exit_code_for(result),
         "cannot " + std::string(what) + ": " + tools::library_error(result));
}

void Member::meet(Meeting& meeting, std::uint32_t count, std::int64_t patience_ns) const {
    if (!meeting.arrive(count, patience_ns)) {
        fail(tools::kExitTimedOut, "the other processes were not ready in time");
    }
}

void Team::add(std::string name, int cpu, Role role) {
    processes_.push_back(Process{std::move(name), cpu, std::move(role), -1, -1});
}

void Team::become(const Process& process, unsigned number, pid_t parent) {
    const Member member(*failure_, number);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        (void)::signal(signal, SIG_DFL);
    }
    (void)::prctl(PR_SET_NAME, process.name.c_str());
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
        ::_exit(kExitFailed);  // it died before prctl
    }
    if (process.cpu >= 0) {
        if (const auto pinned = measure::pin_to(process.cpu); !pinned.ok()) {
            member.fail(kExitFailed, "cannot run on CPU " + std::to_string(process.cpu) + ": " +
                                         pinned.error().what);
        }
    }
    process.role(member);
    ::_exit(kExitDone);
}

bool Team::start(Process& process, unsigned number) {
    const pid_t parent = ::getpid();
    process.pid = ::fork();
    if (process.pid == 0) {
        become(process, number, parent);
    }
    if (process.pid > 0) {
        process.pidfd = static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0));
    }
    return process.pid > 0 && process.pidfd >= 0;
}

/// True: all have ended as they should. Otherwise some may still be running.
bool Team::wait_for_all() {
    while (true) {
        std::vector<pollfd> waited;
        for (const Process& process : processes_) {
            if (process.pidfd >= 0) {
                waited.push_back(pollfd{process.pidfd, POLLIN, 0});
            }
        }
        if (waited.empty()) {
            return true;
        }
        (void)::poll(waited.data(), waited.size(), -1);  // a stop signal: EINTR, sooner or later
        if (tools::stop_signal() != 0) {
            return false;
        }
        for (Process& process : processes_) {
            std::string text;
            if (end_of(process, text) == kExitDone) {
                continue;
            }
            if (failure_->taken.exchange(1, std::memory_order_relaxed) == 0) {
                failure_->code = kExitFailed;
                std::snprintf(failure_->text, sizeof(failure_->text), "%s", text.c_str());
            }
            return false;
        }
    }
}

/// kExitDone: it is running, or has ended well.
int Team::end_of(Process& process, std::string& ret_text) const {
    int status = 0;
    if (process.pid <= 0 || ::waitpid(process.pid, &status, WNOHANG) != process.pid) {
        return kExitDone;
    }
    process.pid = -1;
    (void)::close(process.pidfd);
    process.pidfd = -1;
    if (WIFEXITED(status)) {
        ret_text = process.name + " ended with " + std::to_string(WEXITSTATUS(status));
        return WEXITSTATUS(status);
    }
    ret_text = process.name + " was ended by signal " + std::to_string(WTERMSIG(status));
    return kExitFailed;
}

void Team::end_all() {
    for (Process& process : processes_) {
        if (process.pid > 0) {
            (void)::kill(process.pid, SIGKILL);
            while (::waitpid(process.pid, nullptr, 0) < 0 && errno == EINTR) {}
            process.pid = -1;
        }
        if (process.pidfd >= 0) {
            (void)::close(process.pidfd);
            process.pidfd = -1;
        }
    }
}

int Team::run(std::string_view tool) {
    unsigned number = 0;
    for (Process& process : processes_) {
        if (!start(process, number++)) {
            const std::string why = std::strerror(errno);
            end_all();
            tools::report(tool, "cannot start a process: " + why);
            return kExitFailed;
        }
    }
    const bool is_well = wait_for_all();
    end_all();
    if (tools::stop_signal() != 0) {
        return 128 + tools::stop_signal();
    }
    if (is_well) {
        return kExitDone;
    }
    tools::report(tool, failure_->text);
    return failure_->code;
}

int cpu_for(const std::vector<int>& pin, unsigned number) {
    if (pin.empty()) {
        return -1;
    }
    return number == 0 || pin.size() == 1 ? pin[0] : pin[1 + (number - 1) % (pin.size() - 1)];
}

}  // namespace ipcbus::bench
