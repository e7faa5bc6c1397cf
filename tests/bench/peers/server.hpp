// SPDX-License-Identifier: Apache-2.0
// Server: a program that a peer needs beside A and B (a broker), in a process of its own, which
// ends with the object, or with the process that made it. Its output goes to a file. Made in the
// parent, before it forks; the copy in a forked child does not end it.
#pragma once

#include "sys/unique_fd.hpp"

#include <functional>
#include <string>
#include <sys/types.h>
#include <vector>

namespace ipcbus::bench {

class Server {
public:
    Server() = default;
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;
    ~Server();

    /// Starts argv[0], looked for in PATH and the sbin folders, and waits until `ready` is true:
    /// 10 s at most, asked every millisecond. Returns "" or why it is not there.
    [[nodiscard]] std::string start(const std::vector<std::string>& argv,
                                    const std::string& log_file,
                                    const std::function<bool()>& ready);
    [[nodiscard]] pid_t pid() const { return pid_; }

    /// Whether somebody accepts connections on this Unix socket, or this TCP port of localhost.
    [[nodiscard]] static bool answers(const std::string& unix_path);
    [[nodiscard]] static bool answers(int tcp_port);
    /// A TCP port of localhost that nobody uses at the moment.
    [[nodiscard]] static int free_port();
    /// The program's path, or "".
    [[nodiscard]] static std::string find(const std::string& program);

private:
    [[nodiscard]] bool ended_within(int timeout_ms);

    pid_t pid_ = 0;
    pid_t owner_ = 0;
    sys::UniqueFd end_;  ///< a pidfd
};

}  // namespace ipcbus::bench
