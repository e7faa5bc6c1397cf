// SPDX-License-Identifier: Apache-2.0
// Reading and writing streams of bytes; see kernel.hpp.
#include "peers/kernel.hpp"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace ipcbus::bench {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{64} << 10;
constexpr std::size_t kPartsMax = 64;

}  // namespace

void write_all(int fd, const void* data, std::size_t bytes, const char* who) {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
        const ssize_t written = ::write(fd, from, bytes);
        if (written < 0) {
            if (errno == EAGAIN || errno == EINTR) {
                continue;
            }
            fail(who, std::strerror(errno));
        }
        from += written;
        bytes -= static_cast<std::size_t>(written);
    }
}

void writev_all(int fd, const Message* messages, std::size_t count, const char* who) {
    while (count > 0) {
        std::array<iovec, kPartsMax> parts;
        const std::size_t now = std::min(count, kPartsMax);
        std::size_t bytes = 0;
        for (std::size_t i = 0; i < now; i++) {
            parts[i] = {const_cast<void*>(messages[i].data()), messages[i].bytes()};
            bytes += messages[i].bytes();
        }
        const ssize_t result = ::writev(fd, parts.data(), static_cast<int>(now));
        std::size_t written = result < 0 ? 0 : static_cast<std::size_t>(result);
        if (result < 0 && errno != EAGAIN && errno != EINTR) {
            fail(who, std::strerror(errno));
        }
        for (std::size_t i = 0; written < bytes && i < now; i++) {  // rare: the rest one by one
            const std::size_t part = std::min(written, parts[i].iov_len);
            write_all(fd, static_cast<const char*>(parts[i].iov_base) + part,
                      parts[i].iov_len - part, who);
            written -= part;
            bytes -= parts[i].iov_len;
        }
        messages += now;
        count -= now;
    }
}

void set_nonblocking(int fd, bool nonblocking) {
    const int flags = ::fcntl(fd, F_GETFL);
    (void)::fcntl(fd, F_SETFL, nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

void ByteStreamReader::prepare(const Slice& slice) {
    message_bytes_ = slice.message_bytes;
    read_bytes_ = slice.stream ? std::max(kBlockBytes, message_bytes_) : message_bytes_;
    block_.resize(read_bytes_ + message_bytes_);
    begin_ = end_ = 0;
    set_nonblocking(fd_, slice.waiting == Waiting::spin);
}

void ByteStreamReader::fill(const char* who) {
    std::copy(block_.begin() + static_cast<std::ptrdiff_t>(begin_),
              block_.begin() + static_cast<std::ptrdiff_t>(end_), block_.begin());
    end_ -= begin_;
    begin_ = 0;
    while (end_ < message_bytes_) {
        const std::size_t room = std::min(read_bytes_, block_.size() - end_);
        const ssize_t got = ::read(fd_, block_.data() + end_, room);
        if (got > 0) {
            end_ += static_cast<std::size_t>(got);
        } else if (got == 0) {
            fail(who, "the other side is gone");
        } else if (errno != EAGAIN && errno != EINTR) {
            fail(who, std::strerror(errno));
        }
    }
}

}  // namespace ipcbus::bench
