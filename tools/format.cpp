// SPDX-License-Identifier: Apache-2.0
// How ipcbus-cat writes a message; see format.hpp. Pure functions.
#include "format.hpp"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <ctime>

namespace ipcbus::tools {

using sys::fail;
using sys::Result;

namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr std::string_view kBase64Digits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::int64_t kSecondNs = 1'000'000'000;

std::uint8_t byte_at(std::string_view bytes, std::size_t i) {
    return static_cast<std::uint8_t>(bytes[i]);
}

void append_number(std::uint64_t value, std::string& out) {
    std::array<char, 20> digits;
    const auto result = std::to_chars(digits.data(), digits.data() + digits.size(), value);
    out.append(digits.data(), result.ptr);
}

/// `value` with leading zeros up to `width` digits.
void append_padded(std::uint64_t value, std::size_t width, std::string& out) {
    const std::size_t first = out.size();
    append_number(value, out);
    if (const std::size_t written = out.size() - first; written < width) {
        out.insert(first, width - written, '0');
    }
}

/// Bytes of the UTF-8 sequence at `i`; 0 if there is none.
std::size_t utf8_sequence(std::string_view bytes, std::size_t i) {
    const std::uint8_t lead = byte_at(bytes, i);
    if (lead < 0x80) {
        return 1;
    }
    std::size_t size = 0;
    std::uint8_t second_min = 0x80;
    std::uint8_t second_max = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) {
        size = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        size = 3;
        second_min = lead == 0xe0 ? 0xa0 : 0x80;  // shorter forms exist below
        second_max = lead == 0xed ? 0x9f : 0xbf;  // surrogates above
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        size = 4;
        second_min = lead == 0xf0 ? 0x90 : 0x80;  // shorter forms exist below
        second_max = lead == 0xf4 ? 0x8f : 0xbf;  // above U+10FFFF
    }
    if (size == 0 || size > bytes.size() - i || byte_at(bytes, i + 1) < second_min ||
        byte_at(bytes, i + 1) > second_max) {
        return 0;
    }
    for (std::size_t k = 2; k < size; ++k) {
        if ((byte_at(bytes, i + k) & 0xc0) != 0x80) {
            return 0;
        }
    }
    return size;
}

/// `name` with quotes, then a string if it is UTF-8, else base64 and `flag`:true.
void append_json_bytes(std::string_view name, std::string_view flag, std::string_view bytes,
                       std::string& out) {
    out.append(name).append(":");
    if (valid_utf8(bytes)) {
        append_json_string(bytes, out);
        return;
    }
    out += '"';
    append_base64(bytes, out);
    out.append("\",").append(flag).append(":true");
}

void append_member(std::string_view name, std::uint64_t value, std::string& out) {
    out += name;
    append_number(value, out);
}

void append_token(char token, const MessageView& message, std::string& out) {
    switch (token) {
        case 't': out.append(message.topic); break;
        case 'p': out.append(message.payload); break;
        case 'x': append_hex(message.payload, out); break;
        case 'l': append_number(message.payload.size(), out); break;
        case 's': append_number(message.sequence, out); break;
        case 'L': append_number(message.lost, out); break;
        case 'I': append_iso_time(message.received_ns, out); break;
        case 'U': append_unix_time(message.received_ns, out); break;
        case 'j': append_json(message, out); break;
        case 'S': append_number(message.status, out); break;
        case 'r': append_number(message.responder, out); break;
        case 'u': append_number(message.uid, out); break;
        default: IPCBUS_ASSERT(!"a token that parse() let through"); break;
    }
}

}  // namespace

void append_hex(std::string_view bytes, std::string& out) {
    const std::size_t first = out.size();
    out.resize(first + bytes.size() * 2);
    char* to = out.data() + first;
    for (const char c : bytes) {
        const auto value = static_cast<std::uint8_t>(c);
        *to++ = kHexDigits[value >> 4];
        *to++ = kHexDigits[value & 15];
    }
}

void append_base64(std::string_view bytes, std::string& out) {
    std::size_t i = 0;
    for (; bytes.size() - i >= 3; i += 3) {
        const std::uint32_t group = static_cast<std::uint32_t>(byte_at(bytes, i)) << 16 |
                                    static_cast<std::uint32_t>(byte_at(bytes, i + 1)) << 8 |
                                    byte_at(bytes, i + 2);
        for (const unsigned shift : {18u, 12u, 6u, 0u}) {
            out += kBase64Digits[group >> shift & 63];
        }
    }
    if (const std::size_t rest = bytes.size() - i; rest > 0) {
        std::uint32_t group = static_cast<std::uint32_t>(byte_at(bytes, i)) << 16;
        group |= rest == 2 ? static_cast<std::uint32_t>(byte_at(bytes, i + 1)) << 8 : 0;
        out += kBase64Digits[group >> 18 & 63];
        out += kBase64Digits[group >> 12 & 63];
        out += rest == 2 ? kBase64Digits[group >> 6 & 63] : '=';
        out += '=';
    }
}

bool valid_utf8(std::string_view bytes) {
    for (std::size_t i = 0; i < bytes.size();) {
        const std::size_t size = utf8_sequence(bytes, i);
        if (size == 0) {
            return false;
        }
        i += size;
    }
    return true;
}

void append_json_string(std::string_view text, std::string& out) {
    out += '"';
    for (const char c : text) {
        const auto value = static_cast<std::uint8_t>(c);
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (value >= 0x20) {
            out += c;
        } else if (c == '\n') {
            out += "\\n";
        } else if (c == '\t') {
            out += "\\t";
        } else if (c == '\r') {
            out += "\\r";
        } else {
            out += "\\u00";
            out += kHexDigits[value >> 4];
            out += kHexDigits[value & 15];
        }
    }
    out += '"';
}

void append_json(const MessageView& message, std::string& out) {
    out += '{';
    append_json_bytes("\"topic\"", "\"topic_base64\"", message.topic, out);
    if (message.is_reply) {
        append_member(",\"request\":", message.sequence, out);
        append_member(",\"responder\":", message.responder, out);
        append_member(",\"uid\":", message.uid, out);
        append_member(",\"status\":", message.status, out);
    } else {
        append_member(",\"publication\":", message.publication, out);
        append_member(",\"sequence\":", message.sequence, out);
        append_member(",\"lost\":", message.lost, out);
    }
    out += ",\"time\":\"";
    append_iso_time(message.received_ns, out);
    out += "\",\"size\":";
    append_number(message.payload.size(), out);
    out += ',';
    append_json_bytes("\"payload\"", "\"base64\"", message.payload, out);
    out += '}';
}

void append_iso_time(std::int64_t since_1970_ns, std::string& out) {
    const std::time_t seconds = since_1970_ns / kSecondNs;
    std::tm utc{};
    (void)::gmtime_r(&seconds, &utc);
    std::array<char, 32> text;
    out.append(text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S.", &utc));
    append_padded(static_cast<std::uint64_t>(since_1970_ns % kSecondNs), 9, out);
    out += 'Z';
}

void append_unix_time(std::int64_t since_1970_ns, std::string& out) {
    append_number(static_cast<std::uint64_t>(since_1970_ns / kSecondNs), out);
    out += '.';
    append_padded(static_cast<std::uint64_t>(since_1970_ns % kSecondNs), 9, out);
}

Result<Format> Format::parse(std::string_view text, Of of) {
    const std::string_view tokens = of == Of::messages ? "tpxlsLIUj" : "tpxlsIUjSru";
    constexpr std::string_view kEscapes = "ntr0\\";
    constexpr std::string_view kEscaped("\n\t\r\0\\", 5);
    Format format;
    std::string literal;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c != '%' && c != '\\') {
            literal += c;
            continue;
        }
        if (++i == text.size()) {
            return fail(EINVAL, std::string("a '") + c + "' with nothing after it");
        }
        if (c == '\\') {
            const std::size_t escape = kEscapes.find(text[i]);
            if (escape == std::string_view::npos) {
                return fail(EINVAL, std::string("unknown escape '\\") + text[i] + "'");
            }
            literal += kEscaped[escape];
        } else if (text[i] == '%') {
            literal += '%';
        } else if (tokens.find(text[i]) == std::string_view::npos) {
            return fail(EINVAL, std::string("unknown token '%") + text[i] + "'");
        } else {
            if (!literal.empty()) {
                format.pieces_.push_back({'\0', std::exchange(literal, {})});
            }
            format.pieces_.push_back({text[i], {}});
        }
    }
    if (!literal.empty()) {
        format.pieces_.push_back({'\0', std::move(literal)});
    }
    return format;
}

void Format::append(const MessageView& message, std::string& out) const {
    for (const Piece& piece : pieces_) {
        if (piece.token == '\0') {
            out += piece.literal;
        } else {
            append_token(piece.token, message, out);
        }
    }
}

void append_message(const OutputStyle& style, const MessageView& message, std::string& out) {
    if (style.with_topic) {
        out.append(message.topic) += ' ';
    }
    switch (style.content) {
        case OutputStyle::Content::payload: out.append(message.payload); break;
        case OutputStyle::Content::hex: append_hex(message.payload, out); break;
        case OutputStyle::Content::json: append_json(message, out); break;
        case OutputStyle::Content::format: style.format.append(message, out); break;
        case OutputStyle::Content::framed: {
            const auto size = static_cast<std::uint32_t>(message.payload.size());
            for (const unsigned shift : {0u, 8u, 16u, 24u}) {
                out += static_cast<char>(size >> shift & 255);
            }
            out.append(message.payload);
            break;
        }
    }
    switch (style.end) {
        case OutputStyle::End::newline: out += '\n'; break;
        case OutputStyle::End::nul: out += '\0'; break;
        case OutputStyle::End::nothing: break;
    }
}

}  // namespace ipcbus::tools
