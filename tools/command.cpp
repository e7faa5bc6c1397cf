// SPDX-License-Identifier: Apache-2.0
// --exec; see command.hpp. The payload goes to the command in a memfd instead of a pipe: there is
// nobody to be fed meanwhile, a command that does not read its stdin is no error, and it may seek.
#include "command.hpp"

#include "cli.hpp"
#include "stop_signal.hpp"
#include "sys/unique_fd.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <spawn.h>
#include <string_view>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace ipcbus::tools {

using sys::fail;
using sys::fail_errno;
using sys::Result;
using sys::UniqueFd;

namespace {

constexpr std::array<std::string_view, 5> kNamesOfMessage = {
    "IPCBUS_TOPIC=", "IPCBUS_SEQUENCE=", "IPCBUS_PUBLICATION=", "IPCBUS_SIZE=", "IPCBUS_LOST="};

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
/// rings is touched. What this process ignores is not ignored there.
Result<pid_t> start(const std::string& text, int stdin_fd, char* const* environment) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    (void)::posix_spawn_file_actions_init(&actions);
    (void)::posix_spawn_file_actions_adddup2(&actions, stdin_fd, STDIN_FILENO);
    (void)::posix_spawnattr_init(&attributes);
    sigset_t defaults;
    (void)::sigemptyset(&defaults);
    (void)::sigaddset(&defaults, SIGPIPE);
    (void)::posix_spawnattr_setsigdefault(&attributes, &defaults);
    (void)::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);

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

Result<void> wait_for(pid_t child) {
    int status = 0;
    bool passed_on = false;
    while (::waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return fail_errno("waitpid");
        }
        if (stop_signal() != 0 && !std::exchange(passed_on, true)) {
            (void)::kill(child, stop_signal());
        }
    }
    if (WIFSIGNALED(status)) {
        return fail(EINTR, "ended by signal " + std::to_string(WTERMSIG(status)));
    }
    if (WEXITSTATUS(status) != 0) {
        return fail(ECHILD, "exit status " + std::to_string(WEXITSTATUS(status)));
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

Result<void> Command::run(const MessageView& message) const {
    const UniqueFd payload = IPCBUS_TRY(payload_file(message.payload));
    std::array<std::string, kNamesOfMessage.size()> variables;
    const std::array<std::string, kNamesOfMessage.size()> values = {
        std::string(message.topic), std::to_string(message.sequence),
        std::to_string(message.publication), std::to_string(message.payload.size()),
        std::to_string(message.lost)};
    std::vector<char*> environment;
    environment.reserve(environment_.size() + variables.size() + 1);
    for (const std::string& variable : environment_) {
        environment.push_back(const_cast<char*>(variable.c_str()));  // as execve has it
    }
    for (std::size_t i = 0; i < variables.size(); ++i) {
        variables[i].append(kNamesOfMessage[i]).append(values[i]);
        environment.push_back(variables[i].data());
    }
    environment.push_back(nullptr);
    const pid_t child = IPCBUS_TRY(start(text_, payload.get(), environment.data()));
    return wait_for(child);
}

}  // namespace ipcbus::tools
