// SPDX-License-Identifier: Apache-2.0
// Making ipcbus's handles for compare_run: each call succeeds or ends the run. Used in the process
// that uses the handles, after the fork.
#pragma once

#include "peers/message.hpp"
#include "peers/peer.hpp"
#include "peers/ring_bytes.hpp"
#include "peers/server.hpp"

#include <ipcbus/ipcbus.h>

#include <string>

namespace ipcbus::bench {

template <class T>
T check(T result, const char* what) {
    if (result < 0) [[unlikely]] {
        fail("ipcbus", std::string(what) + ": " + ipcbus_last_error());
    }
    return result;
}

/// Starts a private ipcbusd in the setup's directory; its address, or "". `tcp`: for remote
/// clients.
[[nodiscard]] std::string start_ipcbusd(Server& server, const Setup& setup, bool tcp = false);
/// The address of the daemon that was started last.
[[nodiscard]] const std::string& bus_address();

[[nodiscard]] ipcbus_bus* connect_bus(const std::string& address);
/// `ring_bytes` 0: the default.
[[nodiscard]] ipcbus_publisher* advertise(ipcbus_bus* bus, const std::string& topic,
                                          std::size_t ring_bytes = 0);
[[nodiscard]] ipcbus_subscriber* subscribe(ipcbus_bus* bus, const std::string& filter,
                                           Waiting waiting);

}  // namespace ipcbus::bench
