// SPDX-License-Identifier: Apache-2.0
// ForkClosedFd: a descriptor that a forked child closes at once. It would keep the parent's
// connection or io_uring open, or share its eventfd, and has no use for any of them. O_CLOEXEC is
// too late: many children never exec. Owned by one object; changed under a lock of the process,
// which a fork takes, too.
#pragma once

#include "sys/unique_fd.hpp"

namespace ipcbus::sys {

class ForkClosedFd {
public:
    ForkClosedFd();
    ~ForkClosedFd();
    ForkClosedFd(const ForkClosedFd&) = delete;
    ForkClosedFd& operator=(const ForkClosedFd&) = delete;

    [[nodiscard]] int get() const { return fd_.get(); }
    explicit operator bool() const { return fd_.valid(); }
    /// Closes what it has, and takes `fd`.
    void reset(UniqueFd fd = {});

private:
    UniqueFd fd_;
};

}  // namespace ipcbus::sys
