// SPDX-License-Identifier: Apache-2.0
// --exec: runs a shell command for each message, or for each request, whose reply it writes. Owned
// by the one thread of ipcbus-cat or ipcbus-reply.
#pragma once

#include "format.hpp"
#include "sys/result.hpp"

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ipcbus::tools {

class Command {
public:
    /// `text` is for `sh -c`. `address`: what the command finds in IPCBUS_ADDRESS; empty: whatever
    /// this process has there.
    Command(std::string text, const std::string& address);

    /// Runs it with the payload on its stdin and what is known of the message in its environment:
    /// IPCBUS_TOPIC, IPCBUS_SEQUENCE, IPCBUS_PUBLICATION, IPCBUS_SIZE, IPCBUS_LOST. Waits until it
    /// has ended; a stop signal that comes meanwhile is passed on to it, once. An Error if it could
    /// not be started, or did not exit with 0.
    [[nodiscard]] sys::Result<void> run(const MessageView& message) const;

    /// What a command may take.
    struct Bounds {
        std::size_t bytes_max = 0;
        std::int64_t timeout_ns = -1;  // negative: none
    };
    /// Runs it for a request, of the process of that uid: the same with IPCBUS_UID beside, and
    /// without IPCBUS_LOST and IPCBUS_PUBLICATION, and in a process group of its own. What it
    /// writes to stdout comes into `ret_output`. Returns its exit status, 128 + n if signal n has
    /// ended it; an Error if it could not be started, or went beyond its bounds: after the timeout
    /// the group is ended; who has written too much gets SIGPIPE. What it has left running in the
    /// background is not waited for, though it may hold stdout.
    [[nodiscard]] sys::Result<int> answer(const MessageView& request, std::uint32_t uid,
                                          const Bounds& bounds, std::string& ret_output) const;

private:
    using Variables = std::vector<std::pair<std::string_view, std::string>>;
    [[nodiscard]] sys::Result<pid_t> begin(const Variables& variables, std::string_view payload,
                                           int stdout_fd) const;

    std::string text_;
    std::vector<std::string> environment_;  // inherited, without the names set for each message
};

}  // namespace ipcbus::tools
