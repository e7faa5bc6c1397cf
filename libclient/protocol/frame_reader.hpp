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
    /// The same, and what is whole is not copied: until keep() is called, `bytes` must stay.
    void lend(std::span<const std::byte> bytes) { lent_ = bytes; }
    /// Takes what next() has not returned of what was lent; most often nothing, or a piece.
    void keep();

    /// The next whole frame: its header and fields, valid until add() or next() is called again.
    /// malformed: the stream cannot be cut any further; `why()` says why, for an ERROR frame.
    Status next(FrameHeader& ret_header, std::span<const std::byte>& ret_fields);

    [[nodiscard]] const char* why() const { return why_; }
    /// What is there and has not been returned; after `malformed`, what cannot be cut.
    [[nodiscard]] std::span<const std::byte> unread() const {
        return begin_ == buffer_.size() ? lent_ : std::span(buffer_).subspan(begin_);
    }
    /// Position in the stream of the first byte that next() has not consumed yet: descriptors that
    /// came with bytes up to there belong to frames already returned.
    [[nodiscard]] u64 consumed() const { return consumed_; }
    void reset();

private:
    [[nodiscard]] std::span<const std::byte> first();
    Status malformed(const char* why);

    std::vector<std::byte> buffer_;
    std::span<const std::byte> lent_;  ///< behind what is in the buffer
    std::size_t begin_ = 0;
    u64 consumed_ = 0;
    const char* why_ = "";
};

}  // namespace ipcbus::protocol
