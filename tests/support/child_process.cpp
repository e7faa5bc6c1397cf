// SPDX-License-Identifier: Apache-2.0
// See child_process.hpp.
#include "child_process.hpp"

#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>

namespace ipcbus::test {

namespace {

/// True: readable, or hung up. The time is counted in slices that were waited: when the machine
/// itself stands still for a minute, that is one slice, and who is waited for gets the others.
bool wait_readable(int fd, std::int64_t timeout_ms) {
    constexpr std::int64_t kMillisecondNs = 1'000'000;
    constexpr std::int64_t kSliceNs = 100 * kMillisecondNs;
    pollfd entry{fd, POLLIN, 0};
    std::int64_t left_ns = timeout_ms * kMillisecondNs;
    for (;;) {
        const std::int64_t began_ns = sys::monotonic_ns();
        const std::int64_t slice_ns = std::clamp(left_ns, std::int64_t{0}, kSliceNs);
        const int ready =
            ::poll(&entry, 1, static_cast<int>((slice_ns + 999'999) / kMillisecondNs));
        if (ready != 0 && (ready > 0 || errno != EINTR)) {
            return ready > 0;
        }
        left_ns -= std::min(slice_ns, sys::monotonic_ns() - began_ns);
        if (left_ns <= 0) {
            return false;
        }
    }
}

}  // namespace

bool may_be_user(uid_t uid) {
    ChildProcess child = ChildProcess::fork([uid] {
        return ::setgroups(0, nullptr) == 0 && ::setgid(uid) == 0 && ::setuid(uid) == 0 ? 0 : 1;
    });
    return child.wait() == 0;
}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(pidfd_, other.pidfd_);
    std::swap(stderr_, other.stderr_);
    std::swap(output_, other.output_);
    std::swap(status_, other.status_);
    return *this;
}

ChildProcess::~ChildProcess() {
    if (pid_ > 0 && !status_) {
        (void)::kill(pid_, SIGKILL);
        (void)::waitpid(pid_, nullptr, 0);
    }
}

void ChildProcess::adopt(pid_t pid) {
    REQUIRE(pid > 0);
    pid_ = pid;
    pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    REQUIRE(pidfd_.valid());
}

ChildProcess ChildProcess::run(const std::vector<std::string>& argv,
                               const std::vector<std::string>& environment) {
    std::vector<char*> words;
    for (const std::string& word : argv) {
        words.push_back(const_cast<char*>(word.c_str()));
    }
    words.push_back(nullptr);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    ChildProcess child;
    child.stderr_.reset(ends[0]);
    const sys::UniqueFd write_end(ends[1]);
    // Its output is read when somebody asks: let much of it wait.
    (void)::fcntl(ends[0], F_SETPIPE_SZ, 1 << 20);
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid == 0) {
        (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) {
            ::_exit(126);
        }
        for (const std::string& entry : environment) {
            (void)::putenv(const_cast<char*>(entry.c_str()));
        }
        (void)::dup2(write_end.get(), STDERR_FILENO);
        ::execv(words[0], words.data());
        ::_exit(127);
    }
    child.adopt(pid);
    return child;
}

ChildProcess ChildProcess::fork(const std::function<int()>& body) {
    ChildProcess child;
    const pid_t pid = ::fork();
    if (pid == 0) {
        (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::_exit(body());
    }
    child.adopt(pid);
    return child;
}

void ChildProcess::signal(int number) const {
    REQUIRE(pid_ > 0);
    REQUIRE(::kill(pid_, number) == 0);
}

bool ChildProcess::running() const {
    return pid_ > 0 && !status_ && !wait_readable(pidfd_.get(), 0);
}

std::optional<int> ChildProcess::wait(int timeout_ms) {
    if (!status_ && pid_ > 0 && wait_readable(pidfd_.get(), timeout_ms)) {
        int status = 0;
        REQUIRE(::waitpid(pid_, &status, 0) == pid_);
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return status_;
}

bool ChildProcess::read_output(int timeout_ms) {
    if (!stderr_ || !wait_readable(stderr_.get(), timeout_ms)) {
        return false;
    }
    char buffer[4096];
    const ssize_t got = ::read(stderr_.get(), buffer, sizeof(buffer));
    if (got <= 0) {
        stderr_.reset();
        return false;
    }
    output_.append(buffer, static_cast<std::size_t>(got));
    return true;
}

std::size_t ChildProcess::wait_for_output(const std::string& text, std::size_t from,
                                          int timeout_ms) {
    const sys::Deadline deadline = sys::Deadline::after(std::int64_t{timeout_ms} * 1'000'000);
    for (;;) {
        const std::size_t found = output_.find(text, from);
        if (found != std::string::npos) {
            return found + text.size();
        }
        if (!read_output(static_cast<int>(deadline.remaining_ns() / 1'000'000))) {
            return std::string::npos;
        }
    }
}

const std::string& ChildProcess::output() {
    while (read_output(0)) {}
    return output_;
}

std::size_t ChildProcess::descriptor_count() const {
    const std::filesystem::directory_iterator all("/proc/" + std::to_string(pid_) + "/fd");
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

std::size_t ChildProcess::mapping_count() const {
    std::ifstream maps("/proc/" + std::to_string(pid_) + "/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
        count++;
    }
    return count;
}

}  // namespace ipcbus::test
