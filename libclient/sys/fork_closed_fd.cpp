// SPDX-License-Identifier: Apache-2.0
// The descriptors that forked children close. See fork_closed_fd.hpp.
#include "sys/fork_closed_fd.hpp"

#include <pthread.h>

#include <mutex>
#include <set>
#include <utility>

namespace ipcbus::sys {

namespace {

/// Any thread; the handlers of pthread_atfork.
struct OpenFds {
    std::mutex mutex;
    std::set<UniqueFd*> fds;
};
OpenFds& open_fds() {
    static OpenFds* const open = [] {
        auto* made = new OpenFds;  // never freed: handlers of a fork cannot be taken back
        (void)::pthread_atfork([] { open_fds().mutex.lock(); }, [] { open_fds().mutex.unlock(); },
                               [] {
                                   for (UniqueFd* fd : open_fds().fds) {
                                       fd->reset();
                                   }
                                   open_fds().fds.clear();
                                   open_fds().mutex.unlock();
                               });
        return made;
    }();
    return *open;
}

}  // namespace

ForkClosedFd::ForkClosedFd() {
    const std::lock_guard guard(open_fds().mutex);
    open_fds().fds.insert(&fd_);
}

ForkClosedFd::~ForkClosedFd() {
    const std::lock_guard guard(open_fds().mutex);
    open_fds().fds.erase(&fd_);
    fd_.reset();
}

void ForkClosedFd::reset(UniqueFd fd) {
    const std::lock_guard guard(open_fds().mutex);
    std::swap(fd_, fd);
}

}  // namespace ipcbus::sys
