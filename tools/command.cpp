// SPDX-License-Identifier: Apache-2.0
// --exec; see command.hpp. The payload goes to the command in a memfd instead of a pipe: there is
// nobody to be fed meanwhile, a command that does not read its stdin is no error, and it may seek.
#include "command.hpp"

#include "cli.hpp"
#include "stop_signal.hpp"
#include "sys/clock.hpp"
#include "sys/unique_fd.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace ipcbus::tools {

using sys::fail;
using sys::fail_errno;
using sys::Result;
using sys::UniqueFd;

namespace {

/// What a command that takes too long has for ending in good order.
constexpr std::int64_t kGraceNs = 1'000'000'000;

/// For poll: until then.
int milliseconds(const sys::Deadline& deadline) {
    constexpr std::int64_t kMost = 1'000'000;
    return deadline.never() ? -1
                            : static_cast<int>(std::min(deadline.remaining_ns() / 1'000'000 + 1,
                                                        kMost));
}

constexpr std::array<std::string_view, 6> kNamesOfMessage = {
    "IPCBUS_TOPIC=", "IPCBUS_SEQUENCE=", "IPCBUS_PUBLICATION=",
    "IPCBUS_SIZE=",  "IPCBUS_LOST=",     "IPCBUS_UID="};

bool is_replaced(std::string_view variable, bool address_given) {
    for (const std::string_view name : kNamesOfMessage) {
        if (variable.starts_with(name)) {
            return true;
        }
    }
    return address_given && variable.starts_with("IPCBUS_ADDRESS=");
}

Result<UniqueFd> payload_file(std::string_view payload) {
    UniqueFd file(::memfd_create("ipcbus-payload", MFD_CLOEXEC));
    if (!file) {
        return fail_errno("memfd_create");
    }
    while (!payload.empty()) {
        const ssize_t written = ::write(file.get(), payload.data(), payload.size());
        if (written < 0 && errno != EINTR) {
            return fail_errno("write");
        }
        payload.remove_prefix(written > 0 ? static_cast<std::size_t>(written) : 0);
    }
    if (::lseek(file.get(), 0, SEEK_SET) != 0) {
        return fail_errno("lseek");
    }
    return file;
}

/// Starts `sh -c text`. posix_spawn does not fork: no handler of fork runs, and nothing of the
/// rings is touched. What this process ignores is not ignored there. With a `stdout_fd` it is a
/// process group of its own, which can be ended as a whole.
Result<pid_t> start(const std::string& text, int stdin_fd, int stdout_fd,
                    char* const* environment) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    (void)::posix_spawn_file_actions_init(&actions);
    (void)::posix_spawn_file_actions_adddup2(&actions, stdin_fd, STDIN_FILENO);
    if (stdout_fd >= 0) {
        (void)::posix_spawn_file_actions_adddup2(&actions, stdout_fd, STDOUT_FILENO);
    }
    (void)::posix_spawnattr_init(&attributes);
    sigset_t defaults;
    (void)::sigemptyset(&defaults);
    (void)::sigaddset(&defaults, SIGPIPE);
    (void)::posix_spawnattr_setsigdefault(&attributes, &defaults);
    (void)::posix_spawnattr_setpgroup(&attributes, 0);
    (void)::posix_spawnattr_setflags(
        &attributes, static_cast<short>(POSIX_SPAWN_SETSIGDEF |
                                        (stdout_fd >= 0 ? POSIX_SPAWN_SETPGROUP : 0)));

    std::array<std::string, 4> words = {"sh", "-c", "--", text};
    std::array<char*, 5> argv = {words[0].data(), words[1].data(), words[2].data(),
                                 words[3].data(), nullptr};
    pid_t child = -1;
    const int error =
        ::posix_spawn(&child, "/bin/sh", &actions, &attributes, argv.data(), environment);
    (void)::posix_spawnattr_destroy(&attributes);
    (void)::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        return fail(error, std::string("/bin/sh: ") + std::strerror(error));
    }
    return child;
}

/// A stop signal that has come is passed on to the child, or (negative) to its group, once.
void pass_on_stop(pid_t target, bool& passed_on) {
    if (stop_signal() != 0 && !std::exchange(passed_on, true)) {
        (void)::kill(target, stop_signal());
    }
}

/// What waitpid tells of it, once it has ended.
Result<int> wait_for(pid_t child, pid_t target, bool passed_on) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return fail_errno("waitpid");
        }
        pass_on_stop(target, passed_on);
    }
    return status;
}

/// Takes a piece of what is in the pipe, `bytes` at most. What was there, 0: nobody will write any
/// more; negative: nothing now.
ssize_t take_piece(int fd, std::size_t bytes, std::size_t bytes_max, std::string& output) {
    std::array<char, 65536> piece;
    const ssize_t got = ::read(fd, piece.data(), std::min(bytes, piece.size()));
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR ? -1 : 0;
    }
    // One byte more than it may be tells that it was more.
    output.append(piece.data(),
                  std::min(static_cast<std::size_t>(got), bytes_max + 1 - output.size()));
    return got;
}

/// What is in the pipe at this moment, and not what others go on writing.
void take_rest(int fd, std::size_t bytes_max, std::string& output) {
    int left = 0;
    if (::ioctl(fd, FIONREAD, &left) != 0) {
        return;
    }
    while (left > 0 && output.size() <= bytes_max) {
        const ssize_t got = take_piece(fd, static_cast<std::size_t>(left), bytes_max, output);
        if (got <= 0) {
            return;
        }
        left -= static_cast<int>(got);
    }
}

/// The child and what it has started, as far as it is in its group: asked to end, then made to.
void end_group(pid_t child, int pidfd) {
    (void)::kill(-child, SIGTERM);
    pollfd ended{pidfd, POLLIN, 0};
    const sys::Deadline deadline = sys::Deadline::after(kGraceNs);
    while (ended.revents == 0 && !deadline.passed()) {
        (void)::poll(&ended, 1, milliseconds(deadline));
    }
    (void)::kill(-child, SIGKILL);
}

/// Reads until the child has ended. Since a stop signal, every wait ends after 10 ms.
Result<void> read_output(pid_t child, UniqueFd reading, const Command::Bounds& bounds,
                         std::string& output, bool& passed_on) {
    const UniqueFd ended(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
    if (!ended) {
        const sys::Error error = fail_errno("pidfd_open");
        (void)::kill(-child, SIGKILL);  // nobody could tell when it ends
        return error;
    }
    const sys::Deadline deadline = sys::Deadline::after(bounds.timeout_ns);
    std::array<pollfd, 2> waited = {pollfd{ended.get(), POLLIN, 0},
                                    pollfd{reading.get(), POLLIN, 0}};
    while (waited[0].revents == 0) {
        (void)::poll(waited.data(), waited.size(), milliseconds(deadline));
        pass_on_stop(-child, passed_on);
        if (waited[0].revents == 0 && deadline.passed()) {
            end_group(child, ended.get());
            return fail(ETIMEDOUT, "it did not end within " + show_duration(bounds.timeout_ns));
        }
        if (waited[1].revents == 0) {
            continue;
        }
        const ssize_t got =
            take_piece(reading.get(), SIZE_MAX, bounds.bytes_max, output);
        if (got == 0 || output.size() > bounds.bytes_max) {
            reading.reset();  // who goes on writing gets SIGPIPE
            waited[1] = {-1, 0, 0};
        }
    }
    if (reading) {
        take_rest(reading.get(), bounds.bytes_max, output);
    }
    return {};
}

}  // namespace

Command::Command(std::string text, const std::string& address) : text_(std::move(text)) {
    for (char** variable = environ; *variable != nullptr; ++variable) {
        if (!is_replaced(*variable, !address.empty())) {
            environment_.emplace_back(*variable);
        }
    }
    if (!address.empty()) {
        environment_.push_back("IPCBUS_ADDRESS=" + address);
    }
}

Result<pid_t> Command::begin(const Variables& variables, std::string_view payload,
                             int stdout_fd) const {
    const UniqueFd input = IPCBUS_TRY(payload_file(payload));
    std::vector<std::string> own;
    own.reserve(variables.size());
    std::vector<char*> environment;
    environment.reserve(environment_.size() + variables.size() + 1);
    for (const std::string& variable : environment_) {
        environment.push_back(const_cast<char*>(variable.c_str()));  // as execve has it
    }
    for (const auto& [name, value] : variables) {
        own.push_back(std::string(name) + value);
        environment.push_back(own.back().data());
    }
    environment.push_back(nullptr);
    return start(text_, input.get(), stdout_fd, environment.data());
}

Result<void> Command::run(const MessageView& message) const {
    const Variables variables = {{"IPCBUS_TOPIC=", std::string(message.topic)},
                                 {"IPCBUS_SEQUENCE=", std::to_string(message.sequence)},
                                 {"IPCBUS_PUBLICATION=", std::to_string(message.publication)},
                                 {"IPCBUS_SIZE=", std::to_string(message.payload.size())},
                                 {"IPCBUS_LOST=", std::to_string(message.lost)}};
    const pid_t child = IPCBUS_TRY(begin(variables, message.payload, -1));
    const int status = IPCBUS_TRY(wait_for(child, child, false));
    if (WIFSIGNALED(status)) {
        return fail(EINTR, "ended by signal " + std::to_string(WTERMSIG(status)));
    }
    if (WEXITSTATUS(status) != 0) {
        return fail(ECHILD, "exit status " + std::to_string(WEXITSTATUS(status)));
    }
    return {};
}

Result<int> Command::answer(const MessageView& request, std::uint32_t uid, const Bounds& bounds,
                            std::string& ret_output) const {
    const Variables variables = {{"IPCBUS_TOPIC=", std::string(request.topic)},
                                 {"IPCBUS_SEQUENCE=", std::to_string(request.sequence)},
                                 {"IPCBUS_SIZE=", std::to_string(request.payload.size())},
                                 {"IPCBUS_UID=", std::to_string(uid)}};
    std::array<int, 2> ends = {-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return fail_errno("pipe2");
    }
    UniqueFd reading(ends[0]);
    UniqueFd writing(ends[1]);
    // Only our end: the command's must not be one that answers "not now".
    (void)::fcntl(reading.get(), F_SETFL, O_NONBLOCK);
    const pid_t child = IPCBUS_TRY(begin(variables, request.payload, writing.get()));
    writing.reset();
    ret_output.clear();
    bool passed_on = false;
    const Result<void> read =
        read_output(child, std::move(reading), bounds, ret_output, passed_on);
    const int status = IPCBUS_TRY(wait_for(child, -child, passed_on));
    IPCBUS_TRY(read);
    if (ret_output.size() > bounds.bytes_max) {
        return fail(EMSGSIZE,
                    "it has written more than " + std::to_string(bounds.bytes_max) + " bytes");
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace ipcbus::tools
