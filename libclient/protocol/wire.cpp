// SPDX-License-Identifier: Apache-2.0
// What of the control protocol is not a template: names, strings, frame headers. See wire.hpp.
#include "protocol/wire.hpp"

namespace ipcbus::protocol {

const char* frame_name(FrameType type) {
    switch (type) {
        case FrameType::hello: return "HELLO";
        case FrameType::resume: return "RESUME";
        case FrameType::advertise: return "ADVERTISE";
        case FrameType::mapped: return "MAPPED";
        case FrameType::unadvertise: return "UNADVERTISE";
        case FrameType::subscribe: return "SUBSCRIBE";
        case FrameType::unsubscribe: return "UNSUBSCRIBE";
        case FrameType::detached: return "DETACHED";
        case FrameType::taken: return "TAKEN";
        case FrameType::received: return "RECEIVED";
        case FrameType::complain: return "COMPLAIN";
        case FrameType::subscribe_from: return "SUBSCRIBE_FROM";
        case FrameType::ask: return "ASK";
        case FrameType::serve: return "SERVE";
        case FrameType::collect: return "COLLECT";
        case FrameType::respond: return "RESPOND";
        case FrameType::welcome: return "WELCOME";
        case FrameType::error: return "ERROR";
        case FrameType::done: return "DONE";
        case FrameType::advertised: return "ADVERTISED";
        case FrameType::subscribed: return "SUBSCRIBED";
        case FrameType::peer: return "PEER";
        case FrameType::peer_gone: return "PEER_GONE";
        case FrameType::members: return "MEMBERS";
        case FrameType::attached: return "ATTACHED";
        case FrameType::ended: return "ENDED";
        case FrameType::caught_up: return "CAUGHT_UP";
        case FrameType::stopping: return "STOPPING";
        case FrameType::refused: return "REFUSED";
        case FrameType::move: return "MOVE";
        case FrameType::revoked: return "REVOKED";
        case FrameType::login: return "LOGIN";
        case FrameType::replaces: return "REPLACES";
        case FrameType::data: return "DATA";
        case FrameType::credit: return "CREDIT";
        case FrameType::readers: return "READERS";
        case FrameType::responders:
            return "RESPONDERS";
        case FrameType::overtaken:
            return "OVERTAKEN";
        case FrameType::look: return "LOOK";
        case FrameType::clients_page: return "CLIENTS_PAGE";
        case FrameType::publications_page: return "PUBLICATIONS_PAGE";
        case FrameType::subscriptions_page: return "SUBSCRIPTIONS_PAGE";
        case FrameType::attachments_page: return "ATTACHMENTS_PAGE";
    }
    return "unknown frame";
}

void FieldWriter::text(const std::string& value, std::size_t bytes_max) {
    IPCBUS_ASSERT(value.size() <= bytes_max);
    put(static_cast<u16>(value.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(value.data());
    out_.insert(out_.end(), bytes, bytes + value.size());
}

void FieldReader::text(std::string& ret_value, std::size_t bytes_max) {
    u16 bytes = 0;
    get(bytes);
    if (!good_ || bytes > bytes_max || bytes > in_.size()) {
        good_ = false;
        return;
    }
    ret_value.assign(reinterpret_cast<const char*>(in_.data()), bytes);
    in_ = in_.subspan(bytes);
}

std::size_t begin_frame(std::vector<std::byte>& out, FrameType type, u64 request) {
    const std::size_t begin = out.size();
    FieldWriter header(out);
    header(u32{0}, static_cast<u16>(type), u16{0}, request);
    return begin;
}

void end_frame(std::vector<std::byte>& out, std::size_t begin) {
    const std::size_t bytes = out.size() - begin;
    IPCBUS_ASSERT(bytes <= kFrameBytesMax);
    for (std::size_t i = 0; i < sizeof(u32); i++) {
        out[begin + i] = static_cast<std::byte>(bytes >> (8 * i));
    }
}

void encode_data_head(std::vector<std::byte>& out, const DataHead& head, std::size_t bytes) {
    IPCBUS_ASSERT(bytes <= kDataBytesMax);
    FieldWriter writer(out);
    writer(static_cast<u32>(kFrameHeaderBytes + kDataHeadBytes + bytes),
           static_cast<u16>(FrameType::data), u16{0}, u64{0});
    DataHead::fields(head, writer);
}

bool decode_data(std::span<const std::byte> fields, DataHead& ret_head,
                 std::span<const std::byte>& ret_bytes) {
    if (fields.size() < kDataHeadBytes) {
        return false;
    }
    FieldReader reader(fields.first(kDataHeadBytes));
    DataHead::fields(ret_head, reader);
    ret_bytes = fields.subspan(kDataHeadBytes);
    return reader.complete();
}

}  // namespace ipcbus::protocol
