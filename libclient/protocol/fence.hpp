// SPDX-License-Identifier: Apache-2.0
// The full fence, the pause of a spinning loop, and the one place where bytes are copied that
// another process may be changing. Any thread of any process.
#pragma once

#include "protocol/layout.hpp"

#include <cstring>

#if defined(__SANITIZE_THREAD__)
#define IPCBUS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IPCBUS_TSAN 1
#endif
#endif

namespace ipcbus::protocol {

/// Orders every load and store before it against every load and store after it, for all threads.
/// On x86-64 a locked operation on our own stack: next to free between stores that have to drain
/// anyway, while the mfence that some compilers emit for a seq_cst fence halved the throughput.
inline void full_fence() {
#if defined(__x86_64__)
    __asm__ __volatile__("lock; orq $0, (%%rsp)" ::: "memory", "cc");
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

/// Orders earlier loads before later loads and stores. Free on x86-64. (ThreadSanitizer does not
/// model fences: what it must see is also ordered by the atomics themselves.)
inline void acquire_fence() {
#if defined(IPCBUS_TSAN)
    __asm__ __volatile__("" ::: "memory");
#else
    std::atomic_thread_fence(std::memory_order_acquire);
#endif
}

inline void cpu_relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield" ::: "memory");
#endif
}

/// Copies `bytes` out of a ring while its publisher may be overwriting them: a deliberate data
/// race, here and nowhere else. What arrives may be torn; the caller looks at `announced` after an
/// acquire fence and throws it away if it was overtaken. The copy is opaque to the optimiser (it
/// cannot be moved across the fence or be done twice), and to ThreadSanitizer.
void copy_untrusted(void* to, const void* from, std::size_t bytes);

/// Copies a message into the ring. A lapped reader may be looking at those bytes: it will find out
/// by `announced`, but ThreadSanitizer would not.
inline void copy_into_ring(void* to, const void* from, std::size_t bytes) {
#if defined(IPCBUS_TSAN)
    copy_untrusted(to, from, bytes);
#else
    std::memcpy(to, from, bytes);
#endif
}

}  // namespace ipcbus::protocol
