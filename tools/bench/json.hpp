// SPDX-License-Identifier: Apache-2.0
// Writes one JSON value, piece by piece, commas included. No check that it is closed in the order
// it was opened. One thread.
#pragma once

#include "format.hpp"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace ipcbus::bench {

class Json {
public:
    Json& open(char bracket) {
        separate();
        text_ += bracket;
        is_first_ = true;
        return *this;
    }
    Json& close(char bracket) {
        text_ += bracket;
        is_first_ = false;
        return *this;
    }
    Json& key(std::string_view name) {
        separate();
        tools::append_json_string(name, text_);
        text_ += ':';
        is_first_ = true;  // no comma between it and its value
        return *this;
    }
    Json& value(std::string_view text) {
        separate();
        tools::append_json_string(tools::valid_utf8(text) ? text : "?", text_);
        return *this;
    }
    Json& value(const char* text) { return value(std::string_view(text)); }
    Json& value(bool is_true) { return raw(is_true ? "true" : "false"); }
    Json& value(std::uint64_t number) { return raw(std::to_string(number)); }
    Json& value(std::int64_t number) { return raw(std::to_string(number)); }
    Json& value(std::uint32_t number) { return raw(std::to_string(number)); }
    Json& value(int number) { return raw(std::to_string(number)); }
    Json& value(double number) {
        char text[64];
        std::snprintf(text, sizeof(text), "%.6g", std::isfinite(number) ? number : 0);
        return raw(text);
    }
    template <class T>
    Json& member(std::string_view name, const T& content) {
        return key(name).value(content);
    }
    [[nodiscard]] const std::string& text() const { return text_; }

private:
    Json& raw(std::string_view text) {
        separate();
        text_ += text;
        return *this;
    }
    void separate() {
        if (!is_first_) {
            text_ += ',';
        }
        is_first_ = false;
    }

    std::string text_;
    bool is_first_ = true;
};

}  // namespace ipcbus::bench
