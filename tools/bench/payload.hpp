// SPDX-License-Identifier: Apache-2.0
// Messages that prove themselves, cheaply enough to be made and checked while measuring. The
// publisher's processes have a Source, the subscribers' check(); both know size and salt.
//
// A message is the first `size` bytes of the words
//     W[0] = its number    W[1] = mixed(number, salt)    W[i] = start(salt) + (shift + i) * kStep
// where the top six bits of W[1] choose the shift, in lines of eight words. So every byte follows
// from the number, and all of one message differ from those of another (but for one shift in 64,
// at random, behind the first 16 bytes): a torn, mixed, misplaced, repeated or forged message is
// found. A message of fewer than 8 bytes has the low bytes of its number and is checked as far as
// it goes. As a shifted message lies in one long sequence, nothing but 16 bytes need be written
// to make the next one of a megabyte, and checking it is one pass over it and no other memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace ipcbus::bench {

inline constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15u;
inline constexpr std::size_t kWord = sizeof(std::uint64_t);
inline constexpr std::size_t kLine = 64;
inline constexpr std::size_t kShifts = 64;
/// The number, and what is mixed from it.
inline constexpr std::size_t kHeadBytes = 2 * kWord;

[[nodiscard]] constexpr std::uint64_t mixed(std::uint64_t number, std::uint64_t salt) {
    std::uint64_t value = (number ^ salt) * 0xbf58476d1ce4e5b9u;
    value ^= value >> 31;
    value *= 0x94d049bb133111ebu;
    return value ^ value >> 29;
}

/// What W[i], from i = 2 on, has beside i * kStep, in the message whose W[1] is `head`.
[[nodiscard]] constexpr std::uint64_t start_of(std::uint64_t head, std::uint64_t salt) {
    return ~salt + (head >> 58) * (kLine / kWord * kStep);
}

/// Writes message `number` at `out`, `size` bytes. Stores only, eight words at a time.
void fill(void* out, std::size_t size, std::uint64_t number, std::uint64_t salt);

/// Whether `message` is message `number`, to the last byte. Reads each byte once: it may lie in
/// memory that somebody else can write.
[[nodiscard]] bool check(const void* message, std::size_t size, std::uint64_t number,
                         std::uint64_t salt);
/// The same for its first 16 bytes alone, of a message that was not filled further.
[[nodiscard]] bool check_head(const void* message, std::size_t size, std::uint64_t number,
                              std::uint64_t salt);
/// What is wrong with it, for people: "byte 17 is 0x3f instead of 0x20".
[[nodiscard]] std::string explain(const void* message, std::size_t size, std::uint64_t number,
                                  std::uint64_t salt);

/// Where messages come from that are copied into a ring: `slots` of them at a time. Making the next
/// one costs the same for every size from 1 KiB on. One thread.
class Source {
public:
    Source(std::size_t size, std::uint64_t salt, std::size_t slots = 1);

    /// Message `number`; valid until the same slot is used again.
    [[nodiscard]] const void* make(std::size_t slot, std::uint64_t number);
    [[nodiscard]] std::size_t size() const { return size_; }

private:
    /// Up to here a message is written anew, which is as cheap; from here on it is shifted.
    static constexpr std::size_t kWrittenMax = 512;

    struct Slot {
        std::byte* base = nullptr;      // in bytes_, on a line
        std::uint64_t* head = nullptr;  // of the message that is made; null: none
        std::uint64_t saved[2] = {};    // what it stands on
    };

    [[nodiscard]] bool shifted() const { return size_ > kWrittenMax; }

    std::size_t size_;
    std::uint64_t salt_;
    std::vector<std::byte> bytes_;
    std::vector<Slot> slots_;
};

}  // namespace ipcbus::bench
