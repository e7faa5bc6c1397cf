// SPDX-License-Identifier: Apache-2.0
// A strict reader of one flat JSON object (RFC 8259): strings and whole numbers, nothing nested,
// no white space, no key twice; strings are UTF-8 and have no control characters. What ipcbus-cat
// writes must be that. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace ipcbus::fuzz {

class Json {
public:
    /// False: it is none, or not only one.
    bool parse(std::string_view text) {
        rest_ = text;
        if (!take('{')) {
            return false;
        }
        do {
            std::string key;
            if (!string(key) || !take(':') || has(key) || !value(key)) {
                return false;
            }
        } while (take(','));
        return take('}') && rest_.empty();
    }

    [[nodiscard]] bool has(const std::string& key) const {
        return strings_.contains(key) || others_.contains(key);
    }
    /// Null: there is none, or it is no string.
    [[nodiscard]] const std::string* text(const std::string& key) const {
        const auto found = strings_.find(key);
        return found == strings_.end() ? nullptr : &found->second;
    }
    [[nodiscard]] std::string number(const std::string& key) const {
        const auto found = others_.find(key);
        return found == others_.end() ? std::string() : found->second;
    }

private:
    bool take(char c) {
        const bool there = rest_.starts_with(c);
        rest_.remove_prefix(there ? 1 : 0);
        return there;
    }

    bool value(const std::string& key) {
        if (rest_.starts_with('"')) {
            return string(strings_[key]);
        }
        if (rest_.starts_with("true")) {
            others_[key] = "true";
            rest_.remove_prefix(4);
            return true;
        }
        const std::size_t end = rest_.find_first_not_of("0123456789");
        const std::string_view digits = rest_.substr(0, end);
        others_[key] = digits;
        rest_.remove_prefix(digits.size());
        return !digits.empty() && (digits == "0" || digits[0] != '0');
    }

    bool string(std::string& ret_text) {
        if (!take('"')) {
            return false;
        }
        while (!rest_.empty() && rest_[0] != '"') {
            if (static_cast<unsigned char>(rest_[0]) < 0x20 ||
                !(rest_[0] == '\\' ? escape(ret_text) : character(ret_text))) {
                return false;
            }
        }
        return take('"');
    }

    bool escape(std::string& ret_text) {
        static constexpr std::string_view kNames = "\"\\/bfnrt";
        static constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
        rest_.remove_prefix(1);
        if (const std::size_t found = rest_.empty() ? kNames.npos : kNames.find(rest_[0]);
            found != kNames.npos) {
            ret_text += kMeant[found];
            rest_.remove_prefix(1);
            return true;
        }
        // Nothing but control characters needs the long form.
        if (rest_.size() < 5 || rest_.substr(0, 3) != "u00") {
            return false;
        }
        static constexpr std::string_view kDigits = "0123456789abcdef";
        const std::size_t high = kDigits.find(rest_[3]);
        const std::size_t low = kDigits.find(rest_[4]);
        if (high > 1 || low == kDigits.npos) {
            return false;
        }
        ret_text += static_cast<char>(high * 16 + low);
        rest_.remove_prefix(5);
        return true;
    }

    /// One character of UTF-8: decoded, so that what is overlong, a surrogate or too large is seen.
    bool character(std::string& ret_text) {
        const auto byte = [this](std::size_t i) {
            return static_cast<std::uint32_t>(static_cast<unsigned char>(rest_[i]));
        };
        const std::uint32_t lead = byte(0);
        const std::size_t size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        static constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
        if (rest_.size() < size || (lead >= 0x80 && lead < 0xc0) || lead >= 0xf8) {
            return false;
        }
        std::uint32_t code = size == 1 ? lead : lead & (0x7fu >> size);
        for (std::size_t i = 1; i < size; i++) {
            if ((byte(i) & 0xc0) != 0x80) {
                return false;
            }
            code = code << 6 | (byte(i) & 0x3f);
        }
        if (code < kLeast[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
            return false;
        }
        ret_text += rest_.substr(0, size);
        rest_.remove_prefix(size);
        return true;
    }

    std::string_view rest_;
    std::map<std::string, std::string> strings_;
    std::map<std::string, std::string> others_;
};

}  // namespace ipcbus::fuzz
