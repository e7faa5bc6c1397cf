// SPDX-License-Identifier: Apache-2.0
// For tests of whatever lives in the daemon's event loop: a loop that runs until something has
// happened, with a limit; socket pairs; a receiver that keeps what it got. Single-threaded.
#pragma once

#include "event_loop.hpp"
#include "operations.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::tests {

inline constexpr std::int64_t kMillisecond_ns = 1'000'000;
inline constexpr std::int64_t kLimit_ns = 10'000 * kMillisecond_ns;

struct Pair {
    sys::UniqueFd ours;
    sys::UniqueFd theirs;
};

inline Pair socket_pair() {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    return Pair{sys::UniqueFd(fds[0]), sys::UniqueFd(fds[1])};
}

inline std::unique_ptr<daemon::EventLoop> make_loop(daemon::EventLoopOptions options = {}) {
    auto loop = daemon::EventLoop::create(options);
    REQUIRE_MESSAGE(loop.ok(), (loop.ok() ? "" : loop.error().what));
    return std::move(loop).value();
}

/// Runs turns until `done`; false if that takes unreasonably long.
template <class Done>
bool run_until(daemon::EventLoop& loop, Done done) {
    daemon::OperationScope scope(loop);
    bool late = false;
    daemon::Timer limit(scope, [&late] { late = true; });
    limit.start(kLimit_ns);
    while (!done() && !late) {
        REQUIRE(loop.run_once().ok());
    }
    return !late;
}

inline void write_all(int fd, std::string_view text) {
    REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

inline std::vector<std::byte> bytes_of(std::string_view text) {
    const auto* const data = reinterpret_cast<const std::byte*>(text.data());
    return {data, data + text.size()};
}

/// A receiving end that keeps what it got.
struct Receiver {
    explicit Receiver(daemon::EventLoop& loop)
        : scope(loop),
          recv(
              scope,
              [this](std::span<const std::byte> bytes) {
                  text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
              },
              [this](int error) { end = error; }) {}

    daemon::OperationScope scope;
    std::string text;
    std::optional<int> end;
    daemon::RecvOperation recv;
};

/// The turns that 100 ms take in which nothing happens: 1, for the end of them.
inline std::uint64_t turns_of_a_while(daemon::EventLoop& loop) {
    daemon::OperationScope scope(loop);
    daemon::Timer end(scope, [&loop] { loop.stop(); });
    REQUIRE(loop.run_once(daemon::EventLoop::Wait::poll).ok());
    end.start(100 * kMillisecond_ns);
    const std::uint64_t before = loop.turns();
    REQUIRE(loop.run().ok());
    return loop.turns() - before;
}

inline std::uint64_t open_descriptors() {
    std::uint64_t count = 0;
    for (int fd = 0; fd < 1024; ++fd) {
        count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    }
    return count;
}

}  // namespace ipcbus::tests
