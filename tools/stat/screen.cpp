// SPDX-License-Identifier: Apache-2.0
// Redrawing a terminal with what every one of them knows (ECMA-48). See screen.hpp. One thread.
#include "stat/screen.hpp"

#include "stat/report.hpp"

#include <algorithm>
#include <cstdlib>
#include <sys/ioctl.h>
#include <unistd.h>

namespace ipcbus::stats {

namespace {

constexpr std::string_view kHome = "\x1b[H";
constexpr std::string_view kClearAll = "\x1b[2J";
constexpr std::string_view kClearLine = "\x1b[K";
constexpr std::string_view kClearBelow = "\x1b[J";

}  // namespace

bool can_redraw(int fd) {
    const char* const kind = std::getenv("TERM");
    return ::isatty(fd) == 1 && kind != nullptr && *kind != '\0' &&
           std::string_view(kind) != "dumb";
}

ScreenSize screen_size(int fd) {
    winsize size{};
    if (::ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) {
        return {24, 80};
    }
    return {size.ws_row, size.ws_col};
}

std::string redrawn(std::string_view text, const ScreenSize& size, bool first) {
    std::string out(kHome);
    out += first ? kClearAll : "";
    const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
    const std::size_t fit = size.rows < 2 ? 1 : size.rows - 1;  // the last one is the cursor's
    const std::size_t shown = lines <= fit ? lines : fit - 1;
    for (std::size_t i = 0; i < shown; i++) {
        const std::size_t end = text.find('\n');
        // First: behind a line of the whole width it would take the last character away.
        out.append(kClearLine).append(cut(text.substr(0, end), size.columns)).append("\n");
        text.remove_prefix(end + 1);
    }
    if (shown < lines) {
        const std::string more = "(" + std::to_string(lines - shown) +
                                 " more lines; --sort, or a "
                                 "topic, for others)";
        out.append(kClearLine).append(cut(more, size.columns)).append("\n");
    }
    return out.append(kClearBelow);
}

}  // namespace ipcbus::stats
