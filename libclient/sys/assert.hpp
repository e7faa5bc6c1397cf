// SPDX-License-Identifier: Apache-2.0
// IPCBUS_ASSERT: an assumption about our own code, checked in every build. Never about what came
// from a socket, a file or another process's memory: that is hostile input, and gets an error.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace ipcbus::sys {

[[noreturn]] inline void assertion_failed(const char* text, const char* file, int line) {
    std::fprintf(stderr, "ipcbus: %s:%d: assertion failed: %s\n", file, line, text);
    std::abort();
}

}  // namespace ipcbus::sys

#define IPCBUS_ASSERT(condition)                                                     \
    (__builtin_expect(!!(condition), 1)                                              \
         ? static_cast<void>(0)                                                      \
         : ::ipcbus::sys::assertion_failed(#condition, __FILE__, __LINE__))
