// SPDX-License-Identifier: Apache-2.0
// What the tools read and write. A format is taken or refused with a reason, and writes what its
// tokens say; JSON is JSON, by a strict reader that is written here, and says what the message was;
// what --framed, --null and lines write is read again as the same messages, in whatever pieces the
// input comes. Input: numbers, a message, a format, then bytes that are a stream.
#include "fuzz.hpp"

#include "format.hpp"
#include "json.hpp"
#include "message_source.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

using namespace ipcbus::tools;
using ipcbus::fuzz::Input;
using Framing = MessageSource::Framing;
using Step = MessageSource::Step;

namespace {

std::string from_base64(std::string_view text) {
    static constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    FUZZ_CHECK(text.size() % 4 == 0);
    std::string bytes;
    for (std::size_t i = 0; i < text.size(); i += 4) {
        std::uint32_t group = 0;
        std::size_t filling = 0;
        for (std::size_t k = 0; k < 4; k++) {
            const std::size_t digit = kDigits.find(text[i + k]);
            FUZZ_CHECK(digit != std::string_view::npos || (text[i + k] == '=' && k >= 2));
            FUZZ_CHECK(digit == std::string_view::npos || filling == 0);
            filling += digit == std::string_view::npos ? 1 : 0;
            group = group << 6 | (digit == std::string_view::npos ? 0 : digit & 63);
        }
        FUZZ_CHECK(filling == 0 || i + 4 == text.size());
        for (std::size_t k = 0; k < 3 - filling; k++) {
            bytes += static_cast<char>(group >> (16 - 8 * k) & 255);
        }
    }
    return bytes;
}

/// A string of the message: as it is if it is UTF-8, or in base64 with a flag that says so.
void check_bytes(const ipcbus::fuzz::Json& object, const char* name, const char* flag,
                 std::string_view bytes) {
    const std::string* text = object.text(name);
    FUZZ_CHECK(text != nullptr);
    FUZZ_CHECK(object.has(flag) != valid_utf8(bytes));
    FUZZ_CHECK((object.has(flag) ? from_base64(*text) : *text) == bytes);
}

void check_json(const MessageView& message, std::string_view json) {
    ipcbus::fuzz::Json object;
    FUZZ_CHECK(object.parse(json));
    check_bytes(object, "topic", "topic_base64", message.topic);
    check_bytes(object, "payload", "base64", message.payload);
    FUZZ_CHECK(object.number("publication") == std::to_string(message.publication));
    FUZZ_CHECK(object.number("sequence") == std::to_string(message.sequence));
    FUZZ_CHECK(object.number("lost") == std::to_string(message.lost));
    FUZZ_CHECK(object.number("size") == std::to_string(message.payload.size()));
    FUZZ_CHECK(object.text("time")->size() >= 30);
    FUZZ_CHECK(object.text("time")->ends_with("Z"));
}

/// What the format must write, piece by piece.
void check_format(std::string_view text, const MessageView& message) {
    const auto format = Format::parse(text);
    if (!format.ok()) {
        FUZZ_CHECK(format.error().code == EINVAL && !format.error().what.empty());
        FUZZ_CHECK(text.find_first_of("%\\") != std::string_view::npos);
        return;
    }
    std::string expected;
    for (std::size_t i = 0; i < text.size(); i++) {
        if (text[i] == '\\') {
            const char c = text[++i];
            expected += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c == '0' ? '\0' : c;
            FUZZ_CHECK(c != '\0' && std::strchr("ntr0\\", c) != nullptr);
        } else if (text[i] != '%') {
            expected += text[i];
        } else {
            switch (text[++i]) {
            case '%':
                expected += '%';
                break;
            case 't':
                expected += message.topic;
                break;
            case 'p':
                expected += message.payload;
                break;
            case 'x':
                append_hex(message.payload, expected);
                break;
            case 'l':
                expected += std::to_string(message.payload.size());
                break;
            case 's':
                expected += std::to_string(message.sequence);
                break;
            case 'L':
                expected += std::to_string(message.lost);
                break;
            case 'I':
                append_iso_time(message.received_ns, expected);
                break;
            case 'U':
                append_unix_time(message.received_ns, expected);
                break;
            case 'j':
                append_json(message, expected);
                break;
            default:
                FUZZ_CHECK(!"a token that nobody documented");
            }
        }
    }
    std::string out;
    format.value().append(message, out);
    FUZZ_CHECK(out == expected);
}

/// All that a source says of a stream: the messages, and how it ended.
struct Heard {
    std::vector<std::string> messages;
    Step end = Step::end;
    bool operator==(const Heard&) const = default;
};

/// The stream comes through a pipe, `piece` bytes at a time; each time, what is complete must come.
Heard hear(std::string_view stream, Framing framing, std::size_t bytes_max, std::size_t piece,
           std::size_t count_max) {
    int ends[2];
    FUZZ_CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    MessageSource source(ends[0], framing, bytes_max);
    const auto now = ipcbus::sys::Deadline::after(0);
    Heard heard;
    std::vector<ipcbus_buffer> messages;
    bool open = true;
    for (;;) {
        heard.end = source.next(messages, count_max, now);
        if (heard.end == Step::messages) {
            FUZZ_CHECK(!messages.empty() && messages.size() <= count_max);
            for (const ipcbus_buffer& message : messages) {
                FUZZ_CHECK(message.size <= bytes_max);
                heard.messages.emplace_back(static_cast<const char*>(message.data), message.size);
            }
        } else if (heard.end == Step::interrupted) {
            continue;  // libFuzzer has a timer
        } else if (heard.end != Step::timed_out) {
            break;
        } else if (!stream.empty()) {
            const std::string_view part = stream.substr(0, piece);
            FUZZ_CHECK(::write(ends[1], part.data(), part.size()) ==
                       static_cast<ssize_t>(part.size()));
            stream.remove_prefix(part.size());
        } else {
            FUZZ_CHECK(std::exchange(open, false));
            (void)::close(ends[1]);
        }
    }
    FUZZ_CHECK(source.count() == heard.messages.size());
    FUZZ_CHECK((heard.end == Step::too_long) == (source.long_bytes() > bytes_max));
    (void)::close(ends[0]);
    if (open) {
        (void)::close(ends[1]);
    }
    return heard;
}

/// The same stream, cut by the rules of the manual, at once.
Heard hear_naively(std::string_view stream, Framing framing, std::size_t bytes_max) {
    Heard heard;
    const char terminator = framing == Framing::nul ? '\0' : '\n';
    const auto take = [&](std::string_view message, std::size_t behind) {
        heard.end = message.size() > bytes_max ? Step::too_long : Step::end;
        if (heard.end == Step::end) {
            heard.messages.emplace_back(message);
            stream.remove_prefix(message.size() + behind);
        }
    };
    if (framing == Framing::whole) {
        take(stream, 0);
        return heard;
    }
    while (!stream.empty() && heard.end == Step::end) {
        if (framing != Framing::length_prefixed) {
            const std::size_t end = stream.find(terminator);
            take(stream.substr(0, end), end == std::string_view::npos ? 0 : 1);
            continue;
        }
        std::uint32_t length = 0;
        if (stream.size() >= 4) {
            std::memcpy(&length, stream.data(), 4);
        }
        if (length > bytes_max) {
            heard.end = Step::too_long;
        } else if (stream.size() < 4 || stream.size() - 4 < length) {
            heard.end = Step::cut_short;
        } else {
            stream.remove_prefix(4);
            take(stream.substr(0, length), 0);
        }
    }
    return heard;
}

void check_stream(std::string_view stream, std::size_t bytes_max, std::size_t piece,
                  std::size_t count_max) {
    for (const Framing framing :
         {Framing::lines, Framing::nul, Framing::length_prefixed, Framing::whole}) {
        const Heard expected = hear_naively(stream, framing, bytes_max);
        FUZZ_CHECK(hear(stream, framing, bytes_max, stream.size() + 1, count_max) == expected);
        FUZZ_CHECK(hear(stream, framing, bytes_max, piece, count_max) == expected);
    }
}

/// What ipcbus-cat writes, ipcbus-pub reads.
void check_round(const MessageView& message, std::size_t piece) {
    OutputStyle style;
    style.content = OutputStyle::Content::framed;
    style.end = OutputStyle::End::nothing;
    std::string out;
    append_message(style, message, out);
    append_message(style, message, out);
    const std::string payload(message.payload);
    const Heard twice{{payload, payload}, Step::end};
    FUZZ_CHECK(hear(out, Framing::length_prefixed, payload.size(), piece, 8) == twice);
    for (const bool nul : {false, true}) {
        style.content = OutputStyle::Content::payload;
        style.end = nul ? OutputStyle::End::nul : OutputStyle::End::newline;
        out.clear();
        append_message(style, message, out);
        append_message(style, message, out);
        if (payload.find(nul ? '\0' : '\n') == std::string::npos) {
            FUZZ_CHECK(hear(out, nul ? Framing::nul : Framing::lines, payload.size(), piece, 1) ==
                       twice);
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    MessageView message;
    message.sequence = input.u64();
    message.publication = input.u16();
    message.lost = input.u16();
    message.received_ns = static_cast<std::int64_t>(input.u64() >> 1);
    const std::size_t bytes_max = input.byte();
    const std::size_t piece = 1 + input.below(64);
    const std::size_t count_max = 1 + input.below(4);
    message.topic = input.text(input.byte());
    message.payload = input.text(input.byte());
    const std::string_view format = input.text(input.byte());
    const std::string_view stream = input.text(1024);

    check_format(format, message);
    std::string json;
    append_json(message, json);
    check_json(message, json);
    check_round(message, piece);
    check_stream(stream, bytes_max, piece, count_max);
    return 0;
}
