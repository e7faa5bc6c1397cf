// SPDX-License-Identifier: Apache-2.0
// stdout with a big buffer: messages are appended, and written when the tool would otherwise wait,
// or when there is much. Owned by ipcbus-cat's one thread.
#pragma once

#include <cstddef>
#include <string>

namespace ipcbus::tools {

class Output {
public:
    enum class Flush {
        done,
        reader_gone,  // EPIPE: nobody reads any more, which is no error
        given_up,     // after a stop signal: nobody has read for a second
        failed,       // errno
    };

    explicit Output(int fd) : fd_(fd) {}

    /// To append to, and to cut back what turned out to be worth nothing.
    [[nodiscard]] std::string& buffer() { return buffer_; }
    /// Whether there is so much that it should be written now.
    [[nodiscard]] bool full() const { return buffer_.size() >= kFullBytes; }
    /// Writes all there is. After a stop signal it waits no longer than a second for a reader that
    /// takes nothing: a tool that is told to end must end.
    [[nodiscard]] Flush flush();

private:
    static constexpr std::size_t kFullBytes = 256 * 1024;
    static constexpr std::size_t kKeptBytesMax = 8 * 1024 * 1024;

    const int fd_;
    std::string buffer_;
};

}  // namespace ipcbus::tools
