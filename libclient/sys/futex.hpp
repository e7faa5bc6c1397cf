// SPDX-License-Identifier: Apache-2.0
// Sleeping on a word of shared memory, and waking who sleeps there. The plain futex call (kernel
// 6.1 has no futex2), and always its shared form: waiter and waker are different processes with
// different mappings. That is also why std::atomic::wait is of no use here: libstdc++ passes
// FUTEX_PRIVATE_FLAG, and would never find the other side. Waiting works on read-only mappings.
// Any thread may call both.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

namespace ipcbus::sys {

enum class FutexWait {
    woken,          // somebody called wake, or the kernel had reasons of its own: look again
    value_changed,  // the word was not `expected` any more: look again
    timed_out,
    interrupted,  // a signal handler ran
};

/// Sleeps while `word` is `expected`, at most `timeout_ns` from now (negative or kForeverNs: no
/// limit). Whatever it says, the caller looks at its own condition again: anybody who may map the
/// word can wake for no reason.
FutexWait futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                     std::int64_t timeout_ns);

struct FutexWord {
    const std::atomic<std::uint32_t>* word;
    std::uint32_t expected;
};
/// The same for two words, until `at_ns` of CLOCK_MONOTONIC: ends with whichever is first not as
/// expected, or woken. nullopt: refused, or a kernel before 5.16, which cannot.
std::optional<FutexWait> futex_wait_either(const FutexWord& one, const FutexWord& other,
                                           std::int64_t at_ns);

/// Wakes every thread that sleeps on `word`. Errors are ignored: a waker has nothing to do about
/// a page that is gone.
void futex_wake_all(std::atomic<std::uint32_t>& word);

}  // namespace ipcbus::sys
