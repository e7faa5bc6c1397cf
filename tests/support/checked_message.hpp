// SPDX-License-Identifier: Apache-2.0
// Messages that prove themselves: sender, number, length, checksum, and bytes that follow from the
// first three. A torn, mixed, repeated or misplaced one is found out. No state, any thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>

namespace ipcbus::test {

struct CheckedHeader {
    std::uint64_t sender = 0;
    std::uint64_t number = 0;
    std::uint64_t bytes = 0;  ///< of the whole message
    std::uint64_t checksum = 0;
};

constexpr std::uint64_t mixed(std::uint64_t value) {
    value ^= value >> 31;
    value *= 0x9e3779b97f4a7c15u;
    value ^= value >> 29;
    value *= 0xbf58476d1ce4e5b9u;
    return value ^ value >> 32;
}

inline std::uint64_t seed_of(const CheckedHeader& header) {
    return mixed(header.sender * 3 + mixed(header.number) + header.bytes);
}

/// Fills `bytes` (at least the header's) at `message`.
inline void fill_checked(void* message, std::size_t bytes, std::uint64_t sender,
                         std::uint64_t number) {
    CheckedHeader header{sender, number, bytes, 0};
    std::uint64_t word = seed_of(header);
    header.checksum = ~word;
    auto* out = static_cast<unsigned char*>(message);
    std::memcpy(out, &header, sizeof(header));
    std::size_t at = sizeof(header);
    for (; at + sizeof(word) <= bytes; at += sizeof(word)) {
        std::memcpy(out + at, &word, sizeof(word));
        word += 0x9e3779b97f4a7c15u;
    }
    std::memcpy(out + at, &word, bytes - at);
}

/// The header, if every byte of the message is as fill_checked() made it.
inline std::optional<CheckedHeader> read_checked(const void* message, std::size_t bytes) {
    CheckedHeader header;
    if (bytes < sizeof(header)) {
        return {};
    }
    const auto* in = static_cast<const unsigned char*>(message);
    std::memcpy(&header, in, sizeof(header));
    std::uint64_t word = seed_of(header);
    if (header.bytes != bytes || header.checksum != ~word) {
        return {};
    }
    std::size_t at = sizeof(header);
    for (; at + sizeof(word) <= bytes; at += sizeof(word)) {
        if (std::memcmp(in + at, &word, sizeof(word)) != 0) {
            return {};
        }
        word += 0x9e3779b97f4a7c15u;
    }
    if (std::memcmp(in + at, &word, bytes - at) != 0) {
        return {};
    }
    return header;
}

}  // namespace ipcbus::test
