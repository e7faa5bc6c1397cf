// SPDX-License-Identifier: Apache-2.0
// How large the rings are that are compared: ipcbus's and the bare loops' must be the same, as a
// ring's size decides in which cache its bytes lie. Constants.
#pragma once

#include <cstddef>

namespace ipcbus::bench {

inline constexpr std::size_t kRingBytes = std::size_t{1} << 20;       // ipcbus's default
inline constexpr std::size_t kLargeRingBytes = std::size_t{8} << 20;  // for messages of 1 MiB
inline constexpr std::size_t kLargeMessageBytes = std::size_t{256} << 10;

constexpr std::size_t ring_bytes_for(std::size_t message_bytes) {
    return message_bytes > kLargeMessageBytes ? kLargeRingBytes : kRingBytes;
}

}  // namespace ipcbus::bench
