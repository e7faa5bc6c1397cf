// SPDX-License-Identifier: Apache-2.0
// Attacks on what a client gets of others: every way to write or to resize memory that is read-only
// to it, by the descriptors that came with frames, by what can be opened anew through them, and by
// the mappings of the library. Each must fail; must_be() says what worked. They end the process
// that they run in, so each runs in one of its own: a forked child, or a container. One thread.
#pragma once

#include <string>

namespace ipcbus::test {

/// The descriptor itself, and every other that can be made of it.
void attack_fd(int fd, const std::string& what);

/// As a raw client that subscribes to `topic`, which somebody publishes: the publisher's ring and
/// doorbell.
void attack_as_reader(const std::string& socket_path, const std::string& topic);
/// As a raw client that advertises `topic`, to which somebody is subscribed: the reader's cursor
/// page and doorbell, and its own ring once it is sealed.
void attack_as_publisher(const std::string& socket_path, const std::string& topic);
/// By the library, subscribed to `topic`: whatever it has mapped read-only.
void attack_mappings(const std::string& address, const std::string& topic);

}  // namespace ipcbus::test
