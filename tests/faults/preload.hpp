// SPDX-License-Identifier: Apache-2.0
// What the files of the preloaded library share: the rules, and the functions behind ours. In the
// daemon's process, all of its threads.
#pragma once

#include "fault_block.hpp"

#include <dlfcn.h>

namespace ipcbus::test {

/// Whether this call is to fail; then errno is set.
[[nodiscard]] bool fails(Call call);
/// The same for a call on a socket.
[[nodiscard]] bool fails_on(Call call, int socket);
/// Null: the process runs without faults.
[[nodiscard]] FaultBlock* fault_block();
/// One more turn of the loop: those who wait for it are woken.
void count_turn();

/// The function of that name that would have been called without us.
template <class Function>
Function* next_function(const char* name) {
    return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

// Ours has another name in C++, so that it collides with no declaration of the system's headers;
// `symbol` is what the linker calls it. `next` is the one behind it.
#define IPCBUS_FAULT_WRAP(result, symbol, parameters)                                              \
    extern "C"                                                                                     \
        __attribute__((visibility("default"))) result faulty_##symbol parameters __asm__(#symbol); \
    result faulty_##symbol parameters

#define IPCBUS_FAULT_NEXT(symbol, ...) static auto* const next = next_function<__VA_ARGS__>(#symbol)

}  // namespace ipcbus::test
