// SPDX-License-Identifier: Apache-2.0
// Starting and ending a server; is anybody listening.
#include "peers/server.hpp"

#include "sys/clock.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <sstream>

namespace ipcbus::bench {
namespace {

constexpr std::int64_t kReadyNs = 10'000'000'000;
constexpr int kAskMs = 1;
constexpr int kEndMs = 3'000;

sockaddr_in localhost(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

}  // namespace

std::string Server::find(const std::string& program) {
    if (program.find('/') != std::string::npos) {
        return ::access(program.c_str(), X_OK) == 0 ? program : "";
    }
    const char* path = std::getenv("PATH");
    std::istringstream folders(std::string(path != nullptr ? path : "") + ":/usr/sbin:/sbin");
    for (std::string folder; std::getline(folders, folder, ':');) {
        std::string candidate = folder + "/" + program;
        if (!folder.empty() && ::access(candidate.c_str(), X_OK) == 0) {
            return candidate;
        }
    }
    return "";
}

std::string Server::start(const std::vector<std::string>& argv, const std::string& log_file,
                          const std::function<bool()>& ready) {
    const std::string program = find(argv.front());
    if (program.empty()) {
        return argv.front() + " is not installed";
    }
    owner_ = ::getpid();
    pid_ = ::fork();
    if (pid_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (::getppid() != owner_) {
            ::_exit(1);
        }
        const int log = ::open(log_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        ::dup2(log, STDOUT_FILENO);
        ::dup2(log, STDERR_FILENO);
        std::vector<char*> arguments;
        for (const std::string& argument : argv) {
            arguments.push_back(const_cast<char*>(argument.c_str()));
        }
        arguments.push_back(nullptr);
        ::execv(program.c_str(), arguments.data());
        ::_exit(127);
    }
    if (pid_ < 0) {
        pid_ = 0;
        return "cannot fork";
    }
    end_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    // Its end is waited for; that it is ready each says in another way, if at all: that is asked.
    const sys::Deadline deadline = sys::Deadline::after(kReadyNs);
    while (!deadline.passed()) {
        if (ready()) {
            return {};
        }
        if (ended_within(kAskMs)) {
            return argv.front() + " ended at once";
        }
    }
    return argv.front() + " is not ready after 10 s";
}

Server::~Server() {
    if (pid_ == 0 || owner_ != ::getpid()) {
        return;
    }
    ::kill(pid_, SIGTERM);
    if (!ended_within(kEndMs)) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
}

bool Server::ended_within(int timeout_ms) {
    pollfd end{end_.get(), POLLIN, 0};
    (void)::poll(&end, 1, timeout_ms);
    if (::waitpid(pid_, nullptr, WNOHANG) != pid_) {
        return false;
    }
    pid_ = 0;
    return true;
}

bool Server::answers(const std::string& unix_path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (unix_path.size() >= sizeof address.sun_path) {
        return false;
    }
    std::memcpy(address.sun_path, unix_path.c_str(), unix_path.size() + 1);
    const sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

bool Server::answers(int tcp_port) {
    const sockaddr_in address = localhost(tcp_port);
    const sys::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

int Server::free_port() {
    sockaddr_in address = localhost(0);
    const sys::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    socklen_t size = sizeof address;
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
        return 0;
    }
    return ntohs(address.sin_port);
}

}  // namespace ipcbus::bench
