// SPDX-License-Identifier: Apache-2.0
// Inquiry: a connection that asks the daemon for the state of the bus, page by page. Not through
// libipcbus, which has no call for it: it is a client that maps no memory, attaches to nothing and
// only says LOOK. The daemon is trusted; what it says is bounded all the same. One thread.
#pragma once

#include "protocol/frame_reader.hpp"
#include "stat/state.hpp"
#include "sys/clock.hpp"
#include "sys/result.hpp"
#include "sys/unique_fd.hpp"

#include <string>

namespace ipcbus::stats {

class Inquiry {
public:
    /// Connects and says HELLO. `address` empty: where libipcbus looks. Errors: those of
    /// connecting; EPROTONOSUPPORT: a daemon that does not tell its state.
    [[nodiscard]] static sys::Result<Inquiry> open(const std::string& address,
                                                   const std::string& name, i64 timeout_ns);

    /// All pages. `filter`: only what has a topic in common with it; empty: everything. EINTR: a
    /// stop signal came; any other error ends the connection.
    [[nodiscard]] sys::Result<State> look(const std::string& filter);

private:
    Inquiry() = default;
    [[nodiscard]] sys::Result<void> greet(const std::string& name);
    template <class Frame>
    [[nodiscard]] sys::Result<void> send(const Frame& frame);
    template <class Frame>
    [[nodiscard]] sys::Result<Frame> answer();
    [[nodiscard]] sys::Result<void> receive(const sys::Deadline& deadline);
    template <class Page, class Entry>
    [[nodiscard]] sys::Result<void> ask(protocol::LookAt at, const std::string& filter,
                                        std::vector<Timed<Entry>>& ret_entries, bool& ret_all);

    sys::UniqueFd socket_;
    protocol::FrameReader reader_;
    protocol::Welcome welcome_;
    u64 request_ = 0;
    protocol::u32 fds_received_ = 0;  ///< and closed: the pages that it does not map
};

}  // namespace ipcbus::stats
