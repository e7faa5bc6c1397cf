// SPDX-License-Identifier: Apache-2.0
// The messages that all peers carry, so that all of them are filled, read and checked alike. A
// message of N bytes is N/8 words: the first is its number, the last the complement of it, those
// between never change; so the sum of all words is the same for every message of a size, and a
// reader that adds up all words has touched each byte and checked the content. Header only; each
// process has its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <unistd.h>
#include <vector>

namespace ipcbus::bench {

inline constexpr std::size_t kMessageBytesMin = 16;

/// Says what is wrong and ends the process; the run fails with it.
[[noreturn]] inline void fail(std::string_view who, std::string_view what) {
    std::fprintf(stderr, "compare_run: %.*s: %.*s\n", int(who.size()), who.data(), int(what.size()),
                 what.data());
    ::_exit(1);
}

/// Adds up the words of a long message, as fast as this processor reads.
[[nodiscard]] std::uint64_t sum_long(const void* data, std::size_t bytes);

inline std::uint64_t sum_words(const void* data, std::size_t bytes) {
    if (bytes >= 512) {
        return sum_long(data, bytes);
    }
    std::uint64_t sum = 0;
    for (std::size_t at = 0; at + 8 <= bytes; at += 8) {
        std::uint64_t word;
        std::memcpy(&word, static_cast<const char*>(data) + at, 8);
        sum += word;
    }
    return sum;
}

/// A message between number() calls, in memory of the writer's own.
class Message {
public:
    explicit Message(std::size_t bytes) : words_(bytes / 8) {
        for (std::size_t i = 0; i < words_.size(); i++) {
            words_[i] = i * 0x9e3779b97f4a7c15u;
        }
        number(0);
    }
    void number(std::uint64_t sequence) {
        words_.front() = sequence;
        words_.back() = ~sequence;
    }
    [[nodiscard]] const void* data() const { return words_.data(); }
    [[nodiscard]] std::size_t bytes() const { return words_.size() * 8; }
    [[nodiscard]] std::uint64_t sum() const { return sum_words(data(), bytes()); }

private:
    std::vector<std::uint64_t> words_;
};

/// Checks what arrives: every message once, in order, of the right size, whole by its last word
/// and, with `touch`, by all of its bytes.
class Checker {
public:
    /// `sum`: of all words of a message of that size.
    Checker(std::string_view who, std::size_t bytes, bool touch, std::uint64_t sum)
        : who_(who), bytes_(bytes), touch_(touch), sum_(sum) {}

    void take(const void* data, std::size_t bytes) {
        std::uint64_t number = 0;
        std::uint64_t last = 0;
        if (bytes == bytes_) {
            std::memcpy(&number, data, 8);
            std::memcpy(&last, static_cast<const char*>(data) + bytes - 8, 8);
        }
        if (number != next_ || last != ~number || (touch_ && sum_words(data, bytes) != sum_)) {
            wrong(bytes, number);
        }
        next_++;
    }

private:
    [[noreturn, gnu::cold, gnu::noinline]] void wrong(std::size_t bytes, std::uint64_t number) {
        char text[120];
        std::snprintf(text, sizeof text,
                      "message %llu of %zu bytes came as %llu of %zu, or changed",
                      static_cast<unsigned long long>(next_), bytes_,
                      static_cast<unsigned long long>(number), bytes);
        fail(who_, text);
    }

    std::string_view who_;
    std::size_t bytes_;
    bool touch_;
    std::uint64_t sum_;
    std::uint64_t next_ = 0;
};

}  // namespace ipcbus::bench
