// SPDX-License-Identifier: Apache-2.0
// What the peers of the kernel's own have in common: writing all of a message to a descriptor that
// knows only bytes, and cutting messages of one size out of what is read. Each side's one thread.
#pragma once

#include "peers/peer.hpp"
#include "sys/unique_fd.hpp"

#include <vector>

namespace ipcbus::bench {

/// Writes all, waiting for room.
void write_all(int fd, const void* data, std::size_t bytes, const char* who);
/// Writes all messages, in as few calls as the kernel lets.
void writev_all(int fd, const Message* messages, std::size_t count, const char* who);
/// Makes reads of this descriptor answer at once, or wait.
void set_nonblocking(int fd, bool nonblocking);

/// Reads messages of one size from a stream of bytes; as much as is there at a time, at most a
/// block.
class ByteStreamReader {
public:
    void open(int fd) { fd_ = fd; }
    /// What to expect; nothing of the slice before is left.
    void prepare(const Slice& slice);
    /// The next message, valid until the next call.
    const void* next(std::size_t& ret_bytes, const char* who) {
        if (end_ - begin_ < message_bytes_) {
            fill(who);
        }
        const void* message = block_.data() + begin_;
        begin_ += message_bytes_;
        ret_bytes = message_bytes_;
        return message;
    }

private:
    void fill(const char* who);

    int fd_ = -1;
    std::vector<char> block_;
    std::size_t message_bytes_ = 0;
    std::size_t read_bytes_ = 0;  // asked for at a time
    std::size_t begin_ = 0;       // what is read and not yet given out
    std::size_t end_ = 0;
};

}  // namespace ipcbus::bench
