// SPDX-License-Identifier: Apache-2.0
// The text behind ipcbus_last_error(): one a thread. Set by whatever fails, for people to read.
// Never touched on a path that succeeds.
#pragma once

#include "sys/result.hpp"

namespace ipcbus::client {

/// Remembers `text` for this thread; returns -code, so that `return failed(EAGAIN, "...")` works.
int failed(int code, std::string text);
int failed(const sys::Error& error);
[[nodiscard]] const char* error_text();
/// What every handle says in a forked child.
int used_after_fork();

}  // namespace ipcbus::client
