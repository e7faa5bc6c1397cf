// SPDX-License-Identifier: Apache-2.0
// How ipcbus-cat writes messages. Goal: whatever bytes come, plain and framed output is the bytes,
// JSON is valid JSON, and no byte is taken for a terminator. Method: known texts, and every byte.
#include "format.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

using namespace ipcbus::tools;
using namespace std::string_view_literals;

namespace {

constexpr std::int64_t kTimeNs = 1'795'417'860'000'000'789;

std::string all_bytes() {
    std::string bytes;
    for (int i = 0; i < 256; ++i) {
        bytes += static_cast<char>(i);
    }
    return bytes;
}

std::string json_string(std::string_view text) {
    std::string out;
    append_json_string(text, out);
    return out;
}

std::string base64(std::string_view bytes) {
    std::string out;
    append_base64(bytes, out);
    return out;
}

MessageView message(std::string_view topic, std::string_view payload) {
    return MessageView{topic, payload, 7, 3, 2, kTimeNs};
}

std::string formatted(std::string_view format, const MessageView& view) {
    auto parsed = Format::parse(format);
    REQUIRE(parsed.ok());
    std::string out;
    parsed.value().append(view, out);
    return out;
}

std::string styled(OutputStyle style, std::string_view topic, std::string_view payload) {
    std::string out;
    append_message(style, message(topic, payload), out);
    return out;
}

}  // namespace

TEST_SUITE("format") {
    TEST_CASE("hexadecimal of every byte") {
        std::string out = "kept ";
        append_hex("\x00\x7f\x80\xff"sv, out);
        CHECK(out == "kept 007f80ff");
        out.clear();
        append_hex(all_bytes(), out);
        CHECK(out.size() == 512);
        CHECK(out.substr(0x5a * 2, 4) == "5a5b");
        out.clear();
        append_hex("", out);
        CHECK(out.empty());
    }

    TEST_CASE("base64, the test vectors of RFC 4648 and what is not text") {
        CHECK(base64("") == "");
        CHECK(base64("f") == "Zg==");
        CHECK(base64("fo") == "Zm8=");
        CHECK(base64("foo") == "Zm9v");
        CHECK(base64("foob") == "Zm9vYg==");
        CHECK(base64("fooba") == "Zm9vYmE=");
        CHECK(base64("foobar") == "Zm9vYmFy");
        CHECK(base64("\xff\xff\xff\x00"sv) == "////AA==");
    }

    TEST_CASE("UTF-8 is checked as RFC 3629 has it") {
        for (const auto good : {""sv, "ascii"sv, "\0"sv, "\x7f"sv, "\xc2\x80"sv, "\xdf\xbf"sv,
                                "\xe0\xa0\x80"sv, "\xed\x9f\xbf"sv, "\xee\x80\x80"sv,
                                "\xef\xbf\xbf"sv, "\xf0\x90\x80\x80"sv, "\xf4\x8f\xbf\xbf"sv,
                                "gr\xc3\xbc\xc3\x9f"sv}) {
            CAPTURE(good);
            CHECK(valid_utf8(good));
        }
        for (const auto bad : {"\x80"sv,              // a continuation alone
                               "\xc0\x80"sv,          // overlong
                               "\xc1\xbf"sv,          // overlong
                               "\xe0\x9f\xbf"sv,      // overlong
                               "\xf0\x8f\xbf\xbf"sv,  // overlong
                               "\xed\xa0\x80"sv,      // a surrogate
                               "\xf4\x90\x80\x80"sv,  // above U+10FFFF
                               "\xf5\x80\x80\x80"sv, "\xff"sv,
                               "\xc3"sv,              // cut short
                               "\xe2\x82"sv, "\xf0\x9f\x98"sv,
                               "ok\xc3"sv, "\xc3(ok"sv, "\xe2\x82("sv}) {
            CAPTURE(bad);
            CHECK_FALSE(valid_utf8(bad));
        }
    }

    TEST_CASE("JSON strings escape what JSON forbids and nothing else") {
        CHECK(json_string("plain") == "\"plain\"");
        CHECK(json_string("q\"b\\s/") == "\"q\\\"b\\\\s/\"");
        CHECK(json_string("\n\t\r\b\x01\x1f\x7f"sv) == "\"\\n\\t\\r\\u0008\\u0001\\u001f\x7f\"");
        CHECK(json_string("a\0b"sv) == "\"a\\u0000b\"");
        CHECK(json_string("\xc3\xbc") == "\"\xc3\xbc\"");
    }

    TEST_CASE("JSON of a message: text as text, bytes as base64 with a flag") {
        std::string out;
        append_json(message("plant/7", "hello"), out);
        CHECK(out ==
              "{\"topic\":\"plant/7\",\"publication\":3,\"sequence\":7,\"lost\":2,"
              "\"time\":\"2026-11-23T07:11:00.000000789Z\",\"size\":5,\"payload\":\"hello\"}");
        out.clear();
        append_json(message("plant/7", "\xff\x00"sv), out);
        CHECK(out.ends_with("\"size\":2,\"payload\":\"/wA=\",\"base64\":true}"));
        out.clear();
        append_json(message("plant/\xff", ""), out);
        CHECK(out.starts_with("{\"topic\":\"cGxhbnQv/w==\",\"topic_base64\":true,"));
        CHECK(out.ends_with("\"size\":0,\"payload\":\"\"}"));
    }

    TEST_CASE("times") {
        std::string out;
        append_iso_time(0, out);
        CHECK(out == "1970-01-01T00:00:00.000000000Z");
        out.clear();
        append_iso_time(kTimeNs, out);
        CHECK(out == "2026-11-23T07:11:00.000000789Z");
        out.clear();
        append_unix_time(kTimeNs, out);
        CHECK(out == "1795417860.000000789");
    }

    TEST_CASE("every token of a format") {
        const MessageView view = message("plant/7", "hi");
        CHECK(formatted("", view).empty());
        CHECK(formatted("%t", view) == "plant/7");
        CHECK(formatted("%p%x%l", view) == "hi68692");
        CHECK(formatted("%s %L", view) == "7 2");
        CHECK(formatted("%U %I", view) == "1795417860.000000789 2026-11-23T07:11:00.000000789Z");
        CHECK(formatted("100%% of %t: [%p]\\n", view) == "100% of plant/7: [hi]\n");
        CHECK(formatted("\\t\\r\\0\\\\\\n", view) == "\t\r\0\\\n"sv);
        std::string json;
        append_json(view, json);
        CHECK(formatted("<%j>", view) == "<" + json + ">");
        CHECK(formatted("%p", message("t", all_bytes())) == all_bytes());
    }

    TEST_CASE("a wrong format is an error that names what is wrong") {
        for (const auto& [format, named] : {std::pair{"%q", "%q"}, std::pair{"ab%", "'%'"},
                                            std::pair{"\\x", "\\x"}, std::pair{"x\\", "'\\'"}}) {
            CAPTURE(format);
            const auto parsed = Format::parse(format);
            REQUIRE_FALSE(parsed.ok());
            CHECK(parsed.error().what.find(named) != std::string::npos);
        }
    }

    TEST_CASE("styles: content, topic before it, and how a message ends") {
        using Content = OutputStyle::Content;
        using End = OutputStyle::End;
        const std::string bytes = all_bytes();
        CHECK(styled({}, "t", "x") == "x\n");
        CHECK(styled({}, "t", "") == "\n");
        CHECK(styled({}, "t", bytes) == bytes + "\n");
        CHECK(styled({.end = End::nothing}, "t", bytes) == bytes);
        CHECK(styled({.end = End::nul}, "t", "x") == "x\0"sv);
        CHECK(styled({.with_topic = true}, "a/b", "x y") == "a/b x y\n");
        CHECK(styled({.content = Content::hex}, "t", "\xff\n") == "ff0a\n");
        CHECK(styled({.content = Content::hex, .with_topic = true}, "t", "\x01") == "t 01\n");
        CHECK(styled({.content = Content::framed, .end = End::nothing}, "t", "x\n") ==
              "\x02\x00\x00\x00x\n"sv);
        const std::string big(0x010203, 'b');
        CHECK(styled({.content = Content::framed, .end = End::nothing}, "t", big) ==
              std::string("\x03\x02\x01\x00"sv).append(big));
    }

    TEST_CASE("only single-pass styles may read bytes that could change meanwhile") {
        using Content = OutputStyle::Content;
        CHECK_FALSE(OutputStyle{}.needs_stable_bytes());
        CHECK_FALSE(OutputStyle{.content = Content::framed}.needs_stable_bytes());
        CHECK(OutputStyle{.content = Content::json}.needs_stable_bytes());
        CHECK(OutputStyle{.content = Content::format}.needs_stable_bytes());
    }
}
