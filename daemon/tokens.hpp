// SPDX-License-Identifier: Apache-2.0
// The tokens by which remote clients log in: lines of "NAME TOKEN" in a file that nobody but its
// owner can read. Tokens are secrets: they are compared in a time that does not depend on them, and
// never appear in a message or a log. Pure but for reading the file; no thread rules.
#pragma once

#include "protocol/limits.hpp"
#include "sys/result.hpp"

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::daemon {

class Tokens {
public:
    Tokens() = default;
    /// Empty `path`: none are wanted. Errors name file and line.
    [[nodiscard]] static sys::Result<Tokens> load(const std::string& path);
    [[nodiscard]] static sys::Result<Tokens> parse(std::string_view text, const std::string& path);

    /// Whether clients have to log in.
    [[nodiscard]] bool wanted() const { return wanted_; }
    /// Whose token that is; empty: nobody's. Compares with all of them, whole.
    [[nodiscard]] std::string owner(std::string_view token) const;
    [[nodiscard]] std::size_t size() const { return entries_.size(); }
    bool operator==(const Tokens&) const = default;

private:
    using Padded = std::array<unsigned char, protocol::kLoginTokenBytesMax + 1>;
    struct Entry {
        std::string name;
        Padded token;
        bool operator==(const Entry&) const = default;
    };
    static Padded pad(std::string_view token);

    bool wanted_ = false;
    std::vector<Entry> entries_;
};

}  // namespace ipcbus::daemon
