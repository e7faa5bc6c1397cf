// SPDX-License-Identifier: Apache-2.0
// How SIGINT, SIGTERM and SIGHUP end a tool: finish the message, flush, unsubscribe, exit 128 + n.
// Process-wide; used by a tool's one thread.
//
// The gap. A handler that only sets a flag loses the signal that comes after the tool has looked at
// the flag and before it sleeps: the tool would wait for one message more, or for ever. ppoll() and
// signalfd close that gap for waits on descriptors, but here most waits are futexes inside
// libipcbus, and others are write(2) to a stuck pipe or waitpid(2). So the first signal also starts
// a timer whose own signal, with an empty handler, comes every 10 ms from then on: whichever wait
// the tool has fallen into, it returns with EINTR at the next tick, and the flag is looked at.
// Nothing costs anything before the first signal, and no wait need know of it.
#pragma once

#include "sys/result.hpp"

namespace ipcbus::tools {

/// Installs the handlers, in the phase in which a signal exits at once. A signal that was ignored
/// when the tool was started (nohup, a shell's background job) stays ignored.
[[nodiscard]] sys::Result<void> install_stop_signals();

/// From now on a signal is only noted: there may be a message to finish.
void finish_messages_on_stop();
/// From now on a signal exits with 128 + n in its handler: for what waits inside without messages
/// to lose (connecting, subscribing, and leaving again), which libipcbus does not interrupt. The
/// daemon tidies up after it.
void exit_at_once_on_stop();

/// The first signal that came while it was to be noted; 0: none.
[[nodiscard]] int stop_signal();

}  // namespace ipcbus::tools
