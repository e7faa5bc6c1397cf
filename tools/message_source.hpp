// SPDX-License-Identifier: Apache-2.0
// Splits what comes through a descriptor (stdin, a file, a FIFO) into messages: lines, pieces that
// end with NUL, pieces with their length before them, or all of it as one. Reads in big chunks, but
// hands out at once what is complete. Owned by ipcbus-pub's one thread; the descriptor is borrowed.
#pragma once

#include "sys/clock.hpp"

#include <ipcbus/ipcbus.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ipcbus::tools {

class MessageSource {
public:
    enum class Framing { lines, nul, length_prefixed, whole };
    enum class Step {
        messages,     // there are some
        end,          // the input has ended, and all of it has been handed out
        interrupted,  // a signal handler ran
        timed_out,    // the deadline passed
        too_long,     // the next message is larger than a message may be
        cut_short,    // the input ended inside a message with a length before it
        failed,       // read failed: errno
    };

    MessageSource(int fd, Framing framing, std::size_t message_bytes_max);

    /// Fills `messages` with at most `count_max` complete messages, which stay where they are until
    /// the next call. Reads only when there is none, and then once: no message waits for another.
    [[nodiscard]] Step next(std::vector<ipcbus_buffer>& messages, std::size_t count_max,
                            const sys::Deadline& deadline);

    /// Messages handed out so far.
    [[nodiscard]] std::uint64_t count() const { return count_; }
    /// After too_long: its size as far as it is known.
    [[nodiscard]] std::uint64_t long_bytes() const { return long_bytes_; }

private:
    [[nodiscard]] bool take_terminated(char terminator, ipcbus_buffer& ret_message);
    [[nodiscard]] bool take_length_prefixed(ipcbus_buffer& ret_message);
    [[nodiscard]] bool take(ipcbus_buffer& ret_message);
    /// What is left when the input has ended.
    [[nodiscard]] Step take_last(std::vector<ipcbus_buffer>& messages);
    void make_room();
    [[nodiscard]] Step read_once(const sys::Deadline& deadline);
    [[nodiscard]] std::size_t pending() const { return end_ - begin_; }

    const int fd_;
    const Framing framing_;
    const std::size_t message_bytes_max_;
    // begin_..end_ of buffer_ is read and not handed out; up to scanned_ there is no terminator.
    std::unique_ptr<char[]> buffer_;
    std::size_t capacity_ = 0;
    std::size_t begin_ = 0;
    std::size_t scanned_ = 0;
    std::size_t end_ = 0;
    bool ended_ = false;
    bool whole_taken_ = false;
    std::uint64_t count_ = 0;
    std::uint64_t long_bytes_ = 0;
};

}  // namespace ipcbus::tools
