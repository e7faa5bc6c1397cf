// SPDX-License-Identifier: Apache-2.0
// A terminal that is redrawn from its top, as top(1) does it: no alternate screen and no state, so
// that nothing is left behind however the tool ends. One thread.
#pragma once

#include <string>
#include <string_view>

namespace ipcbus::stats {

struct ScreenSize {
    std::size_t rows = 0;
    std::size_t columns = 0;
};

/// Whether `fd` is a terminal that can be redrawn.
[[nodiscard]] bool can_redraw(int fd);
/// Of that terminal now; 24 x 80 if it does not say.
[[nodiscard]] ScreenSize screen_size(int fd);

/// `text` as it is to be written: lines cut to the screen's width, and those that do not fit left
/// out, with a last line that says how many. The cursor stays in the last line.
[[nodiscard]] std::string redrawn(std::string_view text, const ScreenSize& size, bool first);

}  // namespace ipcbus::stats
