// SPDX-License-Identifier: Apache-2.0
// Every maximum that is part of the protocol, with its reason. What an administrator may choose is
// not here but in the configuration (daemon/config.hpp); clients learn those from WELCOME.
// Constants only: any thread, any process.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ipcbus::protocol {

/// The unit of sharing between CPUs. Written out, because a cross-process layout must not depend
/// on a compiler's flags (std::hardware_destructive_interference_size does).
inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kPageBytes = 4096;

/// A ring's data, bytes; a power of two. The lower bound is one page.
inline constexpr std::uint64_t kRingBytesMin = 4096;
inline constexpr std::uint64_t kRingBytesMax = std::uint64_t{1} << 30;

/// The largest payload is a quarter of its ring: with cursors stored every eighth, a reader that
/// has read everything can never hold its writer.
inline constexpr std::uint64_t kPayloadPart = 4;
inline constexpr std::uint64_t kCursorPart = 8;
/// `announced` is raised by a sixteenth of the ring, and there are sixteen marks.
inline constexpr std::uint64_t kStridePart = 16;
inline constexpr unsigned kMarks = 16;

/// Topics and filters, bytes, without a terminating zero. Fits a record header's u16 with room,
/// and is longer than any sane name.
inline constexpr std::size_t kTopicBytesMax = 255;
/// Levels of a topic: bounds the depth of the matcher.
inline constexpr std::size_t kTopicLevelsMax = 32;
/// A client's name for itself (-i NAME), bytes.
inline constexpr std::size_t kClientNameBytesMax = 64;
/// The text of an ERROR frame, bytes.
inline constexpr std::size_t kErrorTextBytesMax = 512;

/// A frame, header included, bytes. Control only: on the Unix socket no payload ever crosses.
inline constexpr std::size_t kFrameBytesMax = 16384;
/// A token of LOGIN, bytes.
inline constexpr std::size_t kLoginTokenBytesMax = 256;
/// Of a stream over TCP, bytes that its receiver keeps at most when its ring is full. Less than the
/// smallest rings that are worth while, more than a link of 10 Mbit/s has under way in 100 ms.
inline constexpr std::size_t kStreamWindowBytes = 256 * 1024;

/// Attachments (and detachments) that one MEMBERS frame may carry: 256 x 37 bytes fit the frame.
inline constexpr std::size_t kMembersPerFrameMax = 256;

/// Descriptors a session may have sent to it and not yet acknowledged. In-flight descriptors are
/// charged to the sender: one client that does not read would stop fd passing for everybody.
inline constexpr unsigned kFdsUnacknowledgedMax = 64;
/// Descriptors with one frame.
inline constexpr unsigned kFdsPerFrameMax = 4;

/// A waiter's activity bitmap: 64 words of 64 bits under one summary word. An attachment's bit is
/// its slot modulo this; two that share a bit cost each other a look, nothing else.
inline constexpr unsigned kActivityWords = 64;
inline constexpr unsigned kActivityBits = kActivityWords * 64;

/// Upper bounds of what WELCOME may offer: the `parked` word has 16 bits for the waiter.
inline constexpr std::uint32_t kWaitersMax = 65535;
inline constexpr std::uint32_t kPublicationsMax = 1u << 20;
inline constexpr std::uint32_t kAttachmentsMax = 1u << 20;

}  // namespace ipcbus::protocol
