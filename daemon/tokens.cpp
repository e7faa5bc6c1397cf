// SPDX-License-Identifier: Apache-2.0
// Reading and comparing tokens. See tokens.hpp.
#include "tokens.hpp"

#include "sys/unique_fd.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace ipcbus::daemon {

namespace {

constexpr std::size_t kFileBytesMax = 1 << 20;
constexpr std::size_t kTokenBytesMin = 16;
constexpr std::size_t kNameBytesMax = 64;
constexpr std::string_view kBlank = " \t\r";

std::string_view word(std::string_view& line) {
    line.remove_prefix(std::min(line.find_first_not_of(kBlank), line.size()));
    const std::string_view found =
        line.substr(0, std::min(line.find_first_of(kBlank), line.size()));
    line.remove_prefix(found.size());
    return found;
}

}  // namespace

/// With its length, so that no token is the beginning of another.
Tokens::Padded Tokens::pad(std::string_view token) {
    Padded padded{};
    const std::size_t bytes = std::min(token.size(), padded.size() - 1);
    std::memcpy(padded.data(), token.data(), bytes);
    padded.back() = static_cast<unsigned char>(token.size() % 251 + 1);
    return padded;
}

sys::Result<Tokens> Tokens::parse(std::string_view text, const std::string& path) {
    Tokens tokens;
    tokens.wanted_ = true;
    for (std::size_t number = 1; !text.empty(); number++) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        const std::string_view name = word(line);
        if (name.empty() || name.front() == '#') {
            continue;
        }
        const std::string_view token = word(line);
        const auto wrong = [&](std::string_view why) {
            return sys::fail(EINVAL, fmt::format("{}:{}: {}", path, number, why));
        };
        if (token.empty() || !word(line).empty()) {
            return wrong("a line is NAME TOKEN");
        }
        if (name.size() > kNameBytesMax) {
            return wrong("a name has at most 64 bytes");
        }
        if (token.size() < kTokenBytesMin || token.size() > protocol::kLoginTokenBytesMax) {
            return wrong("a token has 16 to 256 bytes");
        }
        if (std::any_of(tokens.entries_.begin(), tokens.entries_.end(),
                        [&](const Entry& entry) { return entry.name == name; })) {
            return wrong(fmt::format("'{}' has a token already", name));
        }
        if (!tokens.owner(token).empty()) {
            return wrong(fmt::format("the token of '{}' is another's, too", name));
        }
        tokens.entries_.push_back({std::string(name), pad(token)});
    }
    if (tokens.entries_.empty()) {
        return sys::fail(EINVAL,
                         fmt::format("{}: there is no token in it: nobody could log in", path));
    }
    return tokens;
}

sys::Result<Tokens> Tokens::load(const std::string& path) {
    if (path.empty()) {
        return Tokens();
    }
    const sys::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status{};
    if (!fd || ::fstat(fd.get(), &status) != 0) {
        return sys::fail(errno, fmt::format("{}: {}", path, std::strerror(errno)));
    }
    if (!S_ISREG(status.st_mode) || status.st_size > static_cast<off_t>(kFileBytesMax)) {
        return sys::fail(EINVAL, path + ": it is no regular file of at most 1 MiB");
    }
    if ((status.st_mode & 077) != 0) {
        return sys::fail(
            EACCES, fmt::format("{0}: others than its owner can get at it: chmod 600 {0}", path));
    }
    std::string text(static_cast<std::size_t>(status.st_size), '\0');
    std::size_t have = 0;
    while (have < text.size()) {
        const ssize_t got = ::read(fd.get(), text.data() + have, text.size() - have);
        if (got < 0 && errno != EINTR) {
            return sys::fail(errno, fmt::format("{}: {}", path, std::strerror(errno)));
        }
        if (got == 0) {
            break;
        }
        have += got > 0 ? static_cast<std::size_t>(got) : 0;
    }
    text.resize(have);
    return parse(text, path);
}

std::string Tokens::owner(std::string_view token) const {
    if (token.size() > protocol::kLoginTokenBytesMax) {
        return {};
    }
    const Padded asked = pad(token);
    std::size_t found = entries_.size();
    for (std::size_t i = 0; i < entries_.size(); i++) {
        unsigned difference = 0;
        for (std::size_t byte = 0; byte < asked.size(); byte++) {
            difference |= static_cast<unsigned>(asked[byte] ^ entries_[i].token[byte]);
        }
        found = difference == 0 ? i : found;
    }
    return found == entries_.size() ? std::string() : entries_[found].name;
}

}  // namespace ipcbus::daemon
