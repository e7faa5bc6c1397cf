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

/// Asks for the line at `at` as a writer needs it: no other processor's cache keeps it.
inline void prefetch_for_write(const void* at) {
#if defined(__x86_64__)
    __asm__ __volatile__("prefetchw %0" ::"m"(*static_cast<const char*>(at)));
#else
    __builtin_prefetch(at, 1);
#endif
}

/// Copies `bytes` out of a ring while its publisher may be overwriting them: a deliberate data
/// race, here and nowhere else. What arrives may be torn; the caller looks at `announced` after an
/// acquire fence and throws it away if it was overtaken. The copy is opaque to the optimiser (it
/// cannot be moved across the fence or be done twice), and to ThreadSanitizer.
void copy_untrusted_out_of_line(void* to, const void* from, std::size_t bytes);

#if !defined(IPCBUS_TSAN)
/// Up to here a copy in place, 16 bytes at a time, beats the call of memcpy; above, memcpy beats
/// loops of 16, 32 and 64 bytes, also across processes (at 4 KiB twice; at 1 KiB by a fifth).
inline constexpr std::size_t kCopyInPlaceMax = 128;

/// For up to kCopyInPlaceMax bytes. The last piece overlaps the one before it.
inline void copy_in_place(void* to, const void* from, std::size_t bytes) {
    auto* out = static_cast<char*>(to);
    const auto* in = static_cast<const char*>(from);
    const auto piece = [&](std::size_t at, auto&& whole) {
        __builtin_memcpy(&whole, in + at, sizeof whole);
        __builtin_memcpy(out + at, &whole, sizeof whole);
        __asm__ __volatile__("" ::: "memory");  // no loop for the compiler to call memcpy for
    };
    struct Sixteen {
        u64 words[2];
    };
    if (bytes >= sizeof(Sixteen)) {
        for (std::size_t at = 0; at + sizeof(Sixteen) < bytes; at += sizeof(Sixteen)) {
            piece(at, Sixteen{});
        }
        piece(bytes - sizeof(Sixteen), Sixteen{});
    } else if (bytes >= 8) {
        piece(0, u64{});
        piece(bytes - 8, u64{});
    } else if (bytes >= 4) {
        piece(0, u32{});
        piece(bytes - 4, u32{});
    } else {
        for (std::size_t at = 0; at < bytes; at++) {
            piece(at, char{});
        }
    }
}
#endif

inline void copy_untrusted(void* to, const void* from, std::size_t bytes) {
#if !defined(IPCBUS_TSAN)
    if (bytes <= kCopyInPlaceMax) {
        copy_in_place(to, from, bytes);
        return;
    }
#endif
    copy_untrusted_out_of_line(to, from, bytes);
}

/// Copies a message into the ring. A lapped reader may be looking at those bytes: it will find out
/// by `announced`, but ThreadSanitizer would not.
inline void copy_into_ring(void* to, const void* from, std::size_t bytes) {
#if defined(IPCBUS_TSAN)
    copy_untrusted(to, from, bytes);
#else
    if (bytes <= kCopyInPlaceMax) {
        copy_in_place(to, from, bytes);
    } else {
        std::memcpy(to, from, bytes);
    }
#endif
}

}  // namespace ipcbus::protocol
