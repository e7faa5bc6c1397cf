// SPDX-License-Identifier: Apache-2.0
// How ipcbus-cat writes a message, and ipcbus-req a reply: as it is, in hexadecimal, as JSON,
// framed, or by a format. Pure functions that append to a string; any thread. Binary-safe: a
// payload is bytes until it has been looked at. The views must not change meanwhile: bytes that
// are lent from a ring are copied first where more than one pass is made over them
// (needs_stable_bytes).
#pragma once

#include "sys/result.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::tools {

/// What is known of a message when it is written.
struct MessageView {
    std::string_view topic;
    std::string_view payload;
    std::uint64_t sequence = 0;
    std::uint64_t publication = 0;
    std::uint64_t lost = 0;         // by this program, so far
    std::int64_t received_ns = 0;   // since 1970, UTC
    // Of a reply, whose sequence is that of its request.
    bool is_reply = false;
    std::uint32_t status = 0;
    std::uint64_t responder = 0;
    std::uint32_t uid = 0;
};

void append_hex(std::string_view bytes, std::string& out);
void append_base64(std::string_view bytes, std::string& out);
/// As RFC 3629 has it: no surrogates, nothing overlong, nothing above U+10FFFF.
[[nodiscard]] bool valid_utf8(std::string_view bytes);
/// A JSON string with its quotes. `text` must be valid UTF-8.
void append_json_string(std::string_view text, std::string& out);
/// One JSON object, without a newline: {"topic":"a/b","publication":3,"sequence":7,"lost":0,
/// "time":"...","size":5,"payload":"hello"}. A payload that is not UTF-8 is base64, and
/// "base64":true follows; so with the topic and "topic_base64". A reply: {"topic":"a/b",
/// "request":7,"responder":3,"uid":1000,"status":0,"time":"...","size":5,"payload":"hello"}.
void append_json(const MessageView& message, std::string& out);
/// 2026-11-23T07:11:00.123456789Z
void append_iso_time(std::int64_t since_1970_ns, std::string& out);
/// 1795417860.123456789
void append_unix_time(std::int64_t since_1970_ns, std::string& out);

/// A parsed -F format.
class Format {
public:
    /// %t topic, %p payload, %x payload in hexadecimal, %l its length, %s sequence, %L lost so far,
    /// %I time of receipt, ISO, %U the same in seconds since 1970, %j JSON, %%; \n \t \r \0 \\.
    /// Of replies: %t %p %x %l %I %U %j as these; %s number of the request, %S status, %r who, %u
    /// its uid.
    /// Anything else after % or \ is an error that names it.
    enum class Of { messages, replies };
    [[nodiscard]] static sys::Result<Format> parse(std::string_view text, Of of = Of::messages);

    void append(const MessageView& message, std::string& out) const;

private:
    struct Piece {
        char token = '\0';  // '\0': the literal
        std::string literal;
    };
    std::vector<Piece> pieces_;
};

/// All that the options say about the output.
struct OutputStyle {
    enum class Content { payload, hex, json, format, framed };
    enum class End { newline, nothing, nul };
    Content content = Content::payload;
    End end = End::newline;
    bool with_topic = false;  // "TOPIC ", before payload and hex
    Format format = {};       // for Content::format

    /// Whether append_message makes more than one pass over the message.
    [[nodiscard]] bool needs_stable_bytes() const {
        return content == Content::json || content == Content::format;
    }
    /// Whether MessageView::lost and received_ns are looked at.
    [[nodiscard]] bool needs_circumstances() const { return needs_stable_bytes(); }
};

/// One message as it goes to stdout. A framed one has its length before it, u32, little-endian.
void append_message(const OutputStyle& style, const MessageView& message, std::string& out);

}  // namespace ipcbus::tools
