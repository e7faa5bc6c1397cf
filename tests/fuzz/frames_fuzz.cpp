// SPDX-License-Identifier: Apache-2.0
// Control frames and the splitter. What must hold: a stream cut anywhere gives the same frames, in
// the same places, and is malformed at the same place, as a splitter says that is written here a
// second time; what decodes encodes to the same bytes, and neither less nor more of it decodes.
// Input: a byte of how to go on, then a stream, or a row of (type, length, fields) to make one of.
#include "fuzz.hpp"

#include "protocol/frame_reader.hpp"
#include "protocol/wire_look.hpp"

#include <algorithm>

using namespace ipcbus::protocol;
using ipcbus::fuzz::Input;

namespace {

using Bytes = std::vector<std::byte>;
using Status = FrameReader::Status;

/// All that a splitter says of a stream.
struct Cut {
    std::vector<Bytes> frames;  ///< whole, with their headers
    bool malformed = false;
    bool operator==(const Cut&) const = default;
};

u64 little_endian(std::span<const std::byte> bytes) {
    u64 value = 0;
    for (std::size_t i = bytes.size(); i > 0; i--) {
        value = value << 8 | static_cast<u64>(bytes[i - 1]);
    }
    return value;
}

/// The protocol's words, once more: u32 length, u16 type, u16 flags, u64 request.
Cut cut_naively(std::span<const std::byte> stream) {
    Cut cut;
    while (stream.size() >= 4 && !cut.malformed) {
        const u64 length = little_endian(stream.first(4));
        if (length < 16 || length > 16384) {
            cut.malformed = true;
        } else if (stream.size() < length) {
            break;
        } else if (little_endian(stream.subspan(6, 2)) != 0) {
            cut.malformed = true;
        } else {
            cut.frames.emplace_back(stream.begin(),
                                    stream.begin() + static_cast<std::ptrdiff_t>(length));
            stream = stream.subspan(length);
        }
    }
    return cut;
}

/// Takes all frames that are there. False: the stream cannot be cut any further.
bool take_all(FrameReader& reader, Cut& ret_cut) {
    FrameHeader header;
    std::span<const std::byte> fields;
    for (;;) {
        const u64 before = reader.consumed();
        const Status status = reader.next(header, fields);
        if (status != Status::frame) {
            FUZZ_CHECK(reader.consumed() == before);
            if (status == Status::malformed) {
                FUZZ_CHECK(*reader.why() != '\0');
                FUZZ_CHECK(reader.next(header, fields) == Status::malformed);
            }
            ret_cut.malformed = status == Status::malformed;
            return !ret_cut.malformed;
        }
        FUZZ_CHECK(header.bytes == kFrameHeaderBytes + fields.size());
        FUZZ_CHECK(reader.consumed() == before + header.bytes);
        Bytes frame;
        const std::size_t begin = begin_frame(frame, header.type, header.request);
        frame.insert(frame.end(), fields.begin(), fields.end());
        end_frame(frame, begin);
        ret_cut.frames.push_back(std::move(frame));
    }
}

/// Cuts a stream that comes in pieces: the first of `first` bytes, then of `each`; `lent` ones are
/// gone when the next comes.
Cut cut_in_pieces(std::span<const std::byte> stream, std::size_t first, std::size_t each,
                  bool lent) {
    FrameReader reader;
    Cut cut;
    bool more = true;
    for (std::size_t size = first; !stream.empty() && more; size = each) {
        size = std::min(size, stream.size());
        Bytes piece(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(size));
        if (lent) {
            reader.lend(piece);
        } else {
            reader.add(piece);
        }
        stream = stream.subspan(size);
        more = take_all(reader, cut);
        reader.keep();
    }
    return cut;
}

/// Whether the bytes are the fields of such a frame: then they are exactly those.
template <class Frame>
bool decodes(std::span<const std::byte> fields) {
    Frame frame;
    if (!decode(fields, frame)) {
        return false;
    }
    Bytes encoded;
    encode(encoded, frame, 7);
    FUZZ_CHECK(encoded.size() == kFrameHeaderBytes + fields.size());
    FUZZ_CHECK(std::equal(fields.begin(), fields.end(), encoded.begin() + kFrameHeaderBytes));
    if (!fields.empty()) {
        Frame shorter;
        FUZZ_CHECK(!decode(fields.first(fields.size() - 1), shorter));
    }
    encoded.push_back(std::byte{0});
    Frame longer;
    FUZZ_CHECK(!decode(std::span(encoded).subspan(kFrameHeaderBytes), longer));
    return true;
}

template <class... Frames>
void decode_as_any(std::span<const std::byte> fields) {
    (decodes<Frames>(fields), ...);
    for (unsigned type = 0; type < 128; type++) {
        FUZZ_CHECK(*frame_name(static_cast<FrameType>(type)) != '\0');
    }
}

void decode_all(std::span<const std::byte> fields) {
    if (fields.size() > kFrameBytesMax - kFrameHeaderBytes) {
        return;  // no frame is that long
    }
    decode_as_any<Hello, Resume, Advertise, Mapped, Unadvertise, Subscribe, Unsubscribe, Detached,
                  Taken, Received, Complain, Welcome, ErrorFrame, Done, Advertised, Subscribed,
                  Peer, PeerGone, Members, Attached, Ended, Stopping, Look, ClientsPage,
                  PublicationsPage, SubscriptionsPage, AttachmentsPage>(fields);
}

/// Well-formed headers, but for what the input says.
Bytes make_stream(Input& input) {
    Bytes stream;
    while (!input.empty()) {
        const std::uint8_t type = input.byte();
        const std::uint8_t odd = input.byte();
        const std::uint8_t count = input.byte();
        // Small, or about as large as a frame may be.
        const std::size_t size =
            (odd & 1) != 0 ? kFrameBytesMax - kFrameHeaderBytes - 8 + count % 16 : count;
        const auto fields = std::as_bytes(input.bytes(size));
        const u64 bytes = kFrameHeaderBytes + ((odd & 2) != 0 ? size : fields.size());
        FieldWriter header(stream);
        header(static_cast<u32>(bytes), static_cast<u16>(type),
               static_cast<u16>((odd & 0xfc) == 0xfc ? 1 : 0), u64{odd});
        stream.insert(stream.end(), fields.begin(), fields.end());
    }
    return stream;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    const std::uint8_t how = input.byte();
    Bytes stream;
    if ((how & 1) != 0) {
        stream = make_stream(input);
    } else {
        const auto rest = std::as_bytes(input.bytes(size));
        stream.assign(rest.begin(), rest.end());
        decode_all(stream);
    }
    const Cut cut = cut_naively(stream);
    FUZZ_CHECK(cut_in_pieces(stream, stream.size(), 1, false) == cut);
    FUZZ_CHECK(cut_in_pieces(stream, stream.size(), 1, true) == cut);
    FUZZ_CHECK(cut_in_pieces(stream, 1, 1 + std::size_t{how} / 2, true) == cut);
    if (stream.size() <= 256) {
        for (std::size_t first = 1; first < stream.size(); first++) {
            FUZZ_CHECK(cut_in_pieces(stream, first, stream.size(), first % 2 == 0) == cut);
        }
    }
    for (const Bytes& frame : cut.frames) {
        decode_all(std::span(frame).subspan(kFrameHeaderBytes));
    }
    return 0;
}
