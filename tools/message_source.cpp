// SPDX-License-Identifier: Apache-2.0
// Splits an input into messages; see message_source.hpp. One thread.
#include "message_source.hpp"

#include "sys/assert.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <limits>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace ipcbus::tools {

namespace {

constexpr std::size_t kChunkBytes = 256 * 1024;  // four times what a pipe holds
constexpr std::size_t kLengthBytes = 4;

/// Waits until `fd` can be read. False: the deadline passed, or (errno EINTR) a handler ran.
bool wait_readable(int fd, const sys::Deadline& deadline) {
    int timeout_ms = -1;
    if (!deadline.never()) {
        const std::int64_t left_ms = (deadline.remaining_ns() + 999'999) / 1'000'000;
        timeout_ms = static_cast<int>(
            std::min<std::int64_t>(left_ms, std::numeric_limits<int>::max()));
    }
    pollfd waited{fd, POLLIN, 0};
    errno = 0;
    return ::poll(&waited, 1, timeout_ms) > 0;
}

}  // namespace

MessageSource::MessageSource(int fd, Framing framing, std::size_t message_bytes_max,
                             std::string fifo)
    : fd_(fd),
      fifo_(std::move(fifo)),
      framing_(framing),
      message_bytes_max_(message_bytes_max) {}

MessageSource::Step MessageSource::next(std::vector<ipcbus_buffer>& messages,
                                        std::size_t count_max, const sys::Deadline& deadline) {
    IPCBUS_ASSERT(count_max > 0);
    messages.clear();
    for (;;) {
        ipcbus_buffer message{};
        while (messages.size() < count_max && long_bytes_ == 0 && take(message)) {
            messages.push_back(message);
        }
        count_ += messages.size();
        if (!messages.empty()) {
            return Step::messages;  // one that is too long is told with the next call
        }
        if (long_bytes_ > 0) {
            return Step::too_long;
        }
        if (ended_ && fifo_.empty()) {
            return take_last(messages);
        }
        if (ended_) {
            if (const Step step = go_on(messages); step != Step::end) {
                return step;
            }
        }
        make_room();
        if (const Step step = read_once(deadline); step != Step::messages) {
            return step;
        }
    }
}

bool MessageSource::take(ipcbus_buffer& ret_message) {
    if (dropping_ && !drop()) {
        return false;
    }
    switch (framing_) {
        case Framing::lines: return take_terminated('\n', ret_message);
        case Framing::nul: return take_terminated('\0', ret_message);
        case Framing::length_prefixed: return take_length_prefixed(ret_message);
        case Framing::whole:
            if (pending() > message_bytes_max_) {
                long_bytes_ = pending();
            }
            return false;
    }
    return false;
}

void MessageSource::drop_long() {
    IPCBUS_ASSERT(!fifo_.empty());
    const std::uint64_t bytes = std::exchange(long_bytes_, 0);
    if (framing_ == Framing::length_prefixed) {
        drop_bytes_ = kLengthBytes + bytes;
    }
    dropping_ = true;
}

/// True: what is pending now is the next message, or the beginning of it.
bool MessageSource::drop() {
    if (framing_ == Framing::length_prefixed) {
        const std::uint64_t bytes = std::min<std::uint64_t>(drop_bytes_, pending());
        drop_bytes_ -= bytes;
        begin_ = scanned_ = begin_ + static_cast<std::size_t>(bytes);
        dropping_ = drop_bytes_ != 0;
        return !dropping_;
    }
    const bool terminated = framing_ == Framing::lines || framing_ == Framing::nul;
    scanned_ = begin_;
    const char* found = terminated ? find(framing_ == Framing::lines ? '\n' : '\0') : nullptr;
    dropping_ = found == nullptr;
    begin_ = dropping_ ? end_ : static_cast<std::size_t>(found - buffer_.get()) + 1;
    scanned_ = begin_;
    return !dropping_;
}

/// The next one that has not been looked at, or nullptr.
const char* MessageSource::find(char terminator) const {
    return scanned_ < end_ ? static_cast<const char*>(std::memchr(buffer_.get() + scanned_,
                                                                  terminator, end_ - scanned_))
                           : nullptr;
}

bool MessageSource::take_terminated(char terminator, ipcbus_buffer& ret_message) {
    const char* found = find(terminator);
    const std::size_t stop =
        found != nullptr ? static_cast<std::size_t>(found - buffer_.get()) : end_;
    scanned_ = stop;
    if (stop - begin_ > message_bytes_max_) {
        long_bytes_ = stop - begin_;
        return false;
    }
    if (found == nullptr) {
        return false;
    }
    ret_message = {buffer_.get() + begin_, stop - begin_};
    begin_ = scanned_ = stop + 1;
    return true;
}

bool MessageSource::take_length_prefixed(ipcbus_buffer& ret_message) {
    if (pending() < kLengthBytes) {
        return false;
    }
    std::uint32_t size_untrusted = 0;
    for (std::size_t i = 0; i < kLengthBytes; ++i) {
        const auto byte = static_cast<std::uint8_t>(buffer_[begin_ + i]);
        size_untrusted |= static_cast<std::uint32_t>(byte) << 8 * i;
    }
    if (size_untrusted > message_bytes_max_) {
        long_bytes_ = size_untrusted;
        return false;
    }
    if (pending() - kLengthBytes < size_untrusted) {
        return false;
    }
    ret_message = {buffer_.get() + begin_ + kLengthBytes, size_untrusted};
    begin_ += kLengthBytes + size_untrusted;
    return true;
}

MessageSource::Step MessageSource::take_last(std::vector<ipcbus_buffer>& messages) {
    if (framing_ == Framing::whole) {
        if (std::exchange(whole_taken_, true)) {
            return Step::end;  // an empty input is one empty message, once
        }
    } else if (pending() == 0) {
        return Step::end;
    } else if (framing_ == Framing::length_prefixed) {
        return Step::cut_short;
    }
    messages.push_back({buffer_.get() + begin_, pending()});  // the last needs no terminator
    begin_ = scanned_ = end_;
    ++count_;
    return Step::messages;
}

/// A writer of the FIFO has gone: what it left, then whoever comes next. end: to be read from.
MessageSource::Step MessageSource::go_on(std::vector<ipcbus_buffer>& messages) {
    if (pending() > 0) {
        const ipcbus_buffer left{buffer_.get() + begin_, pending()};
        begin_ = scanned_ = end_;
        if (framing_ == Framing::length_prefixed) {
            return Step::cut_short;
        }
        messages.push_back(left);
        ++count_;
        return Step::messages;
    }
    sys::UniqueFd next(::open(fifo_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (!next) {
        return errno == EINTR ? Step::interrupted : Step::failed;
    }
    // A shell makes a file of a path whose FIFO was removed: it would be published for ever.
    struct stat status{};
    if (::fstat(next.get(), &status) != 0 || !S_ISFIFO(status.st_mode)) {
        return Step::no_fifo;
    }
    dropping_ = false;
    reopened_ = std::move(next);
    fd_ = reopened_.get();
    ended_ = false;
    return Step::end;
}

/// Room for a chunk after what is pending. What is pending is at most one incomplete message, so
/// the buffer stays below message_bytes_max_ and a few chunks.
void MessageSource::make_room() {
    if (capacity_ - end_ >= kChunkBytes) {
        return;
    }
    const std::size_t kept = pending();
    if (kept + kChunkBytes <= capacity_) {
        std::memmove(buffer_.get(), buffer_.get() + begin_, kept);
    } else {
        const std::size_t grown = std::max(2 * kept, kept + 2 * kChunkBytes);
        auto bigger = std::make_unique_for_overwrite<char[]>(grown);
        if (kept > 0) {
            std::memcpy(bigger.get(), buffer_.get() + begin_, kept);
        }
        buffer_ = std::move(bigger);
        capacity_ = grown;
    }
    scanned_ -= std::min(scanned_, begin_);
    begin_ = 0;
    end_ = kept;
}

/// Step::messages: something was read, or the input has ended.
MessageSource::Step MessageSource::read_once(const sys::Deadline& deadline) {
    // A FIFO without a writer is at its end when it is read, so poll() is asked first. But of a
    // writer that had gone before the FIFO was opened anew it does not say so: when what it left is
    // unfinished, a read tells (it does not block).
    bool must_wait = fifo_.empty() ? !deadline.never() : pending() == 0 && !dropping_;
    for (;;) {
        if (must_wait && !wait_readable(fd_, deadline)) {
            return errno == EINTR ? Step::interrupted
                   : errno == 0   ? Step::timed_out
                                  : Step::failed;
        }
        const ssize_t got = ::read(fd_, buffer_.get() + end_, capacity_ - end_);
        if (got >= 0) {
            end_ += static_cast<std::size_t>(got);
            ended_ = got == 0;
            return Step::messages;
        }
        if (errno == EINTR) {
            return Step::interrupted;
        }
        if (errno != EAGAIN) {
            return Step::failed;
        }
        must_wait = true;  // somebody made it non-blocking
    }
}

}  // namespace ipcbus::tools
