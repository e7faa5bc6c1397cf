// SPDX-License-Identifier: Apache-2.0
// Reading every byte of a long message as fast as the processor can: with 32-byte loads where it
// has them, eight sums at a time, so that memory is what limits. Pure functions.
#include "peers/message.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ipcbus::bench {
namespace {

std::uint64_t sum_plain(const void* data, std::size_t bytes) {
    std::uint64_t sums[8] = {};
    const auto* at = static_cast<const char*>(data);
    for (; bytes >= 64; at += 64, bytes -= 64) {
        std::uint64_t words[8];
        std::memcpy(words, at, sizeof words);
        for (int i = 0; i < 8; i++) {
            sums[i] += words[i];
        }
    }
    std::uint64_t sum = 0;
    for (const std::uint64_t part : sums) {
        sum += part;
    }
    for (; bytes >= 8; at += 8, bytes -= 8) {
        std::uint64_t word;
        std::memcpy(&word, at, 8);
        sum += word;
    }
    return sum;
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] std::uint64_t sum_avx2(const void* data, std::size_t bytes) {
    __m256i sums[4] = {};
    const auto* at = static_cast<const char*>(data);
    for (; bytes >= 128; at += 128, bytes -= 128) {
        for (int i = 0; i < 4; i++) {
            const auto* from = reinterpret_cast<const __m256i*>(at + 32 * i);
            sums[i] = _mm256_add_epi64(sums[i], _mm256_loadu_si256(from));
        }
    }
    const __m256i all =
        _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
    std::uint64_t words[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), all);
    return words[0] + words[1] + words[2] + words[3] + sum_plain(at, bytes);
}
#endif

using Sum = std::uint64_t (*)(const void*, std::size_t);

Sum choose_sum() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return sum_avx2;
    }
#endif
    return sum_plain;
}

const Sum chosen_sum = choose_sum();

}  // namespace

std::uint64_t sum_long(const void* data, std::size_t bytes) { return chosen_sum(data, bytes); }

}  // namespace ipcbus::bench
