// SPDX-License-Identifier: Apache-2.0
// stdout with a big buffer; see output.hpp.
#include "output.hpp"

#include "stop_signal.hpp"
#include "sys/clock.hpp"

#include <cerrno>
#include <poll.h>
#include <unistd.h>

namespace ipcbus::tools {

namespace {
constexpr std::int64_t kPatienceAfterStopNs = 1'000'000'000;
}

Output::Flush Output::flush() {
    std::size_t written = 0;
    sys::Deadline patience;  // none before a stop signal
    while (written < buffer_.size()) {
        const ssize_t result = ::write(fd_, buffer_.data() + written, buffer_.size() - written);
        if (result >= 0) {
            written += static_cast<std::size_t>(result);
            patience = {};
            continue;
        }
        const int error = errno;
        if (error == EPIPE) {
            return Flush::reader_gone;
        }
        if (error != EINTR && error != EAGAIN) {
            return Flush::failed;
        }
        // Since the signal, every wait ends after 10 ms (stop_signal.hpp), so this is looked at.
        if (stop_signal() != 0) {
            if (patience.never()) {
                patience = sys::Deadline::after(kPatienceAfterStopNs);
            } else if (patience.passed()) {
                return Flush::given_up;
            }
        }
        if (error == EAGAIN) {  // somebody made it non-blocking
            pollfd waited{fd_, POLLOUT, 0};
            (void)::poll(&waited, 1, -1);
        }
    }
    buffer_.clear();
    if (buffer_.capacity() > kKeptBytesMax) {
        buffer_.shrink_to_fit();  // a huge message is over
    }
    return Flush::done;
}

}  // namespace ipcbus::tools
