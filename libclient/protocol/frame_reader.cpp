// SPDX-License-Identifier: Apache-2.0
// Incremental frame splitter. See frame_reader.hpp.
#include "protocol/frame_reader.hpp"

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

FrameReader::Status FrameReader::next(FrameHeader& ret_header,
                                      std::span<const std::byte>& ret_fields) {
    const std::size_t there = buffer_.size() - begin_;
    const std::byte* frame = buffer_.data() + begin_;
    if (there < sizeof(u32)) {
        return Status::need_more;
    }
    // The length is judged as soon as it is there: no buffer grows towards a length that is a lie.
    const u32 bytes = little_endian<u32>(frame);
    if (bytes < kFrameHeaderBytes) {
        why_ = "frame shorter than its header";
        return Status::malformed;
    }
    if (bytes > kFrameBytesMax) {
        why_ = "frame longer than the protocol allows";
        return Status::malformed;
    }
    if (there < bytes) {
        return Status::need_more;
    }
    if (little_endian<u16>(frame + 6) != 0) {
        why_ = "frame with reserved flags set";
        return Status::malformed;
    }
    ret_header = FrameHeader{bytes, static_cast<FrameType>(little_endian<u16>(frame + 4)),
                             little_endian<u64>(frame + 8)};
    ret_fields = {frame + kFrameHeaderBytes, bytes - kFrameHeaderBytes};
    begin_ += bytes;
    consumed_ += bytes;
    return Status::frame;
}

void FrameReader::reset() {
    buffer_.clear();
    begin_ = 0;
    consumed_ = 0;
}

}  // namespace ipcbus::protocol
