// SPDX-License-Identifier: Apache-2.0
// A View as text: tables for people, JSON, and the text exposition format of Prometheus. Names come
// from other processes and may hold anything: none of them reaches a terminal, or ends a string,
// as it is. Pure functions, appending to a string. One thread.
#pragma once

#include "stat/view.hpp"

#include <string>
#include <string_view>

namespace ipcbus::stats {

struct TextStyle {
    Sort sort = Sort::topic;
    bool attachments = false;  ///< each of them, and not only by subscription
};

void append_text(const View& view, const TextStyle& style, std::string& out);
/// One line.
void append_json(const View& view, std::string& out);
void append_prometheus(const View& view, std::string& out);

/// 999, 12.3k, 4.56M ...; nothing: "-".
[[nodiscard]] std::string short_number(const std::optional<double>& number);
/// 999, 12.3K, 4.56M ... of 1024.
[[nodiscard]] std::string short_bytes(const std::optional<double>& bytes);
/// For a terminal: control characters, also those above 0x7f, and what is no UTF-8 become '?'.
[[nodiscard]] std::string printable(std::string_view text);
/// Between the quotes of a label: \\, \" and \n escaped, what is no UTF-8 replaced.
void append_label_value(std::string_view text, std::string& out);

/// How many characters of UTF-8 that is.
[[nodiscard]] std::size_t width_of(std::string_view text);
/// At most so many characters of it.
[[nodiscard]] std::string_view cut(std::string_view text, std::size_t width);

}  // namespace ipcbus::stats
