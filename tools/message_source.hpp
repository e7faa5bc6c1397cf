// SPDX-License-Identifier: Apache-2.0
// Splits what comes through a descriptor (stdin, a file, a FIFO) into messages: lines, pieces that
// end with NUL, pieces with their length before them, or all of it as one. Reads in big chunks, but
// hands out at once what is complete. Owned by ipcbus-pub's one thread; the descriptor is borrowed.
//
// A FIFO can be followed: its end is that of its last writer, and another one may come. It is then
// opened anew, without waiting: a descriptor on which a writer's end was read says "hung up" to
// poll() for ever, a new one not before a writer has come and gone. The old one is closed after it:
// what a writer has left in between stays in the FIFO as long as somebody has it open.
#pragma once

#include "sys/clock.hpp"
#include "sys/unique_fd.hpp"

#include <ipcbus/ipcbus.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
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
        cut_short,    // the input, or a writer that was followed, ended inside a message with a
                      // length before it; what there is of it is dropped
        no_fifo,      // what was followed is gone, and something else stands at its path
        failed,       // read failed: errno
    };

    /// `fifo`: the path of a FIFO that is to be followed, of which `fd` is a non-blocking
    /// descriptor; empty: the input ends where it ends. What each of its writers leaves unfinished
    /// is a message, too, unless it is nothing.
    MessageSource(int fd, Framing framing, std::size_t message_bytes_max, std::string fifo = {});

    /// Fills `messages` with at most `count_max` complete messages, which stay where they are until
    /// the next call. Reads only when there is none, and then once: no message waits for another.
    [[nodiscard]] Step next(std::vector<ipcbus_buffer>& messages, std::size_t count_max,
                            const sys::Deadline& deadline);

    /// After too_long, of a FIFO that is followed: goes on behind that message. Lines and the like
    /// end with their terminator, what has its length before it after so many bytes, and each of
    /// them with its writer, as does what is one message as a whole.
    void drop_long();

    /// Messages handed out so far.
    [[nodiscard]] std::uint64_t count() const { return count_; }
    /// After too_long: its size as far as it is known.
    [[nodiscard]] std::uint64_t long_bytes() const { return long_bytes_; }

private:
    [[nodiscard]] bool take_terminated(char terminator, ipcbus_buffer& ret_message);
    [[nodiscard]] bool take_length_prefixed(ipcbus_buffer& ret_message);
    [[nodiscard]] bool take(ipcbus_buffer& ret_message);
    [[nodiscard]] bool drop();
    [[nodiscard]] const char* find(char terminator) const;
    /// What is left when the input has ended.
    [[nodiscard]] Step take_last(std::vector<ipcbus_buffer>& messages);
    [[nodiscard]] Step go_on(std::vector<ipcbus_buffer>& messages);
    void make_room();
    [[nodiscard]] Step read_once(const sys::Deadline& deadline);
    [[nodiscard]] std::size_t pending() const { return end_ - begin_; }

    int fd_;
    const std::string fifo_;
    sys::UniqueFd reopened_;  ///< fd_, once a writer has gone
    const Framing framing_;
    const std::size_t message_bytes_max_;
    // begin_..end_ of buffer_ is read and not handed out; up to scanned_ there is no terminator.
    std::unique_ptr<char[]> buffer_;
    std::size_t capacity_ = 0;
    std::size_t begin_ = 0;
    std::size_t scanned_ = 0;
    std::size_t end_ = 0;
    bool ended_ = false;  ///< of a followed one: a writer has gone
    bool dropping_ = false;  ///< what comes is the rest of a message that was too long
    std::uint64_t drop_bytes_ = 0;  ///< of that, if its length is known
    bool whole_taken_ = false;
    std::uint64_t count_ = 0;
    std::uint64_t long_bytes_ = 0;
};

}  // namespace ipcbus::tools
