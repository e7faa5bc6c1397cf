// SPDX-License-Identifier: Apache-2.0
// Reading a small file as a whole: tokens, certificates, keys. A free function, any thread; it
// never waits for anybody who writes (a FIFO is refused).
#pragma once

#include "sys/result.hpp"

#include <cstddef>
#include <string>

namespace ipcbus::sys {

enum class Secrecy { open, secret };

/// All of it. `name` begins the text of an error: "tcp.key: /etc/ipcbus/key.pem". EINVAL: no
/// regular file of at most `bytes_max`. EACCES: it is a secret, and others than its owner can get
/// at it.
[[nodiscard]] Result<std::string> read_small_file(const std::string& path, const std::string& name,
                                                  std::size_t bytes_max, Secrecy secrecy);

}  // namespace ipcbus::sys
