// SPDX-License-Identifier: Apache-2.0
// --signal and --pidfile: the process that a pidfile names, signalled through a pidfd. Owned by
// ipcbus-cat's one thread.
//
// A number in a file may have become another process's: its own has ended, without removing it, and
// the number was given out again. So the process must be older than the file's last change: whoever
// writes a pidfile has been started before. (Both by the clock of the wall: set forward meanwhile,
// it lets an honest process look too young, which is said; set back, the other way round.) Of one
// that is held by its pidfd no number can be reused: what is sent reaches it, or nobody. The file
// is looked at before each signal: a service that was restarted has written another one.
//
// Whoever can write the file, or put another one in its place, chooses who is signalled. So it must
// belong to root, to us or to whom it names, and nobody else may write it: else a service could aim
// root's signals. It must have one name, and be no link; and so must each directory on the way be
// root's or ours, or file and process be of the user whose it is; and others must not be able to
// write it, or remove from it what is not theirs (the sticky bit).
#pragma once

#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <sys/stat.h>

#include <string>

namespace ipcbus::tools {

class SignalTarget {
public:
    SignalTarget(std::string pidfile, int number);

    /// Sends the signal. An Error: the file cannot be read, names no process, or an old one's
    /// number, or is not to be trusted; or it may not be sent. EAGAIN: too many of these real-time
    /// signals are pending with the process.
    [[nodiscard]] sys::Result<void> send();

private:
    sys::Result<void> find();
    sys::Result<void> find_again();

    const std::string pidfile_;
    const int number_;
    sys::UniqueFd process_;
    struct stat file_{};  ///< as it was when process_ was found
};

}  // namespace ipcbus::tools
