// SPDX-License-Identifier: Apache-2.0
// Incremental frame splitter. See frame_reader.hpp.
#include "protocol/frame_reader.hpp"

#include <algorithm>
#include <utility>

namespace ipcbus::protocol {

namespace {

template <class T>
T little_endian(const std::byte* bytes) {
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); i++) {
        value = static_cast<T>(value | static_cast<T>(static_cast<T>(bytes[i]) << (8 * i)));
    }
    return value;
}

}  // namespace

void FrameReader::add(std::span<const std::byte> bytes) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
    begin_ = 0;
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

void FrameReader::keep() {
    if (!lent_.empty()) {
        add(std::exchange(lent_, {}));
    }
}

/// The next frame, as far as it is there: where it lies, or put together from what was kept and the
/// beginning of what was lent.
std::span<const std::byte> FrameReader::first() {
    if (begin_ == buffer_.size()) {
        return lent_;
    }
    for (std::size_t needed = sizeof(u32); !lent_.empty();) {
        const std::size_t there = buffer_.size() - begin_;
        if (there >= sizeof(u32)) {
            needed = little_endian<u32>(buffer_.data() + begin_);
            if (needed > kFrameBytesMax) {
                break;
            }
        }
        if (there >= needed) {
            break;
        }
        const auto more = lent_.first(std::min(needed - there, lent_.size()));
        buffer_.insert(buffer_.end(), more.begin(), more.end());
        lent_ = lent_.subspan(more.size());
    }
    return std::span(buffer_).subspan(begin_);
}

FrameReader::Status FrameReader::malformed(const char* why) {
    keep();
    why_ = why;
    return Status::malformed;
}

FrameReader::Status FrameReader::next(FrameHeader& ret_header,
                                      std::span<const std::byte>& ret_fields) {
    const std::span<const std::byte> there = first();
    const std::byte* const frame = there.data();
    if (there.size() < sizeof(u32)) {
        keep();
        return Status::need_more;
    }
    // The length is judged as soon as it is there: no buffer grows towards a length that is a lie.
    const u32 bytes = little_endian<u32>(frame);
    if (bytes < kFrameHeaderBytes) {
        return malformed("frame shorter than its header");
    }
    if (bytes > kFrameBytesMax) {
        return malformed("frame longer than the protocol allows");
    }
    if (there.size() < bytes) {
        keep();
        return Status::need_more;
    }
    if (little_endian<u16>(frame + 6) != 0) {
        return malformed("frame with reserved flags set");
    }
    ret_header = FrameHeader{bytes, static_cast<FrameType>(little_endian<u16>(frame + 4)),
                             little_endian<u64>(frame + 8)};
    ret_fields = {frame + kFrameHeaderBytes, bytes - kFrameHeaderBytes};
    if (begin_ == buffer_.size()) {
        lent_ = lent_.subspan(bytes);
    } else {
        begin_ += bytes;
    }
    consumed_ += bytes;
    return Status::frame;
}

void FrameReader::reset() {
    buffer_.clear();
    lent_ = {};
    begin_ = 0;
    consumed_ = 0;
}

}  // namespace ipcbus::protocol
