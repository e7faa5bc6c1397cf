// SPDX-License-Identifier: Apache-2.0
// --exec: runs a shell command for each message. Owned by ipcbus-cat's one thread.
#pragma once

#include "format.hpp"
#include "sys/result.hpp"

#include <string>
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

private:
    std::string text_;
    std::vector<std::string> environment_;  // inherited, without the names set for each message
};

}  // namespace ipcbus::tools
