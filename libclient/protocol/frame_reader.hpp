// SPDX-License-Identifier: Apache-2.0
// FrameReader: cuts a byte stream that another process sends into frames. One per connection, used
// by whoever reads that connection: the daemon's thread, or the library under its control lock.
// Holds at most one unfinished frame: a peer that drips bytes costs kFrameBytesMax.
#pragma once

#include "protocol/wire.hpp"

namespace ipcbus::protocol {

class FrameReader {
public:
    enum class Status { frame, need_more, malformed };

    /// Adds received bytes. Call next() until it says need_more before adding more.
    void add(std::span<const std::byte> bytes);

    /// The next whole frame: its header and fields, valid until add() or next() is called again.
    /// malformed: the stream cannot be cut any further; `why()` says why, for an ERROR frame.
    Status next(FrameHeader& ret_header, std::span<const std::byte>& ret_fields);

    [[nodiscard]] const char* why() const { return why_; }
    /// What is there and has not been returned; after `malformed`, what cannot be cut.
    [[nodiscard]] std::span<const std::byte> unread() const {
        return std::span(buffer_).subspan(begin_);
    }
    /// Position in the stream of the first byte that next() has not consumed yet: descriptors that
    /// came with bytes up to there belong to frames already returned.
    [[nodiscard]] u64 consumed() const { return consumed_; }
    void reset();

private:
    std::vector<std::byte> buffer_;
    std::size_t begin_ = 0;
    u64 consumed_ = 0;
    const char* why_ = "";
};

}  // namespace ipcbus::protocol
