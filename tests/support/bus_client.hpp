// SPDX-License-Identifier: Apache-2.0
// The C API of libipcbus for tests: owned handles, and must(), which ends the test (in a forked
// child: the child) with the library's own words when a call fails that may not. Every result that
// passes through here is checked against the closed table of ipcbus.h. Rules of threads: ipcbus.h.
#pragma once

#include "child_process.hpp"

#include <ipcbus/ipcbus.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::test {

inline constexpr std::int64_t kMillisecondNs = 1'000'000;
inline constexpr std::int64_t kSecondNs = 1'000 * kMillisecondNs;
/// For what should take milliseconds, and fails the test when it does not come.
inline const std::int64_t kLongNs = kTimeoutMs * kMillisecondNs;

struct HandleCloser {
    void operator()(ipcbus_bus* bus) const { ipcbus_close(bus); }
    void operator()(ipcbus_publisher* publisher) const { ipcbus_unadvertise(publisher); }
    void operator()(ipcbus_subscriber* subscriber) const { ipcbus_unsubscribe(subscriber); }
    void operator()(ipcbus_set* set) const { ipcbus_set_free(set); }
    void operator()(ipcbus_requester* requester) const { ipcbus_requester_free(requester); }
    void operator()(ipcbus_responder* responder) const { ipcbus_responder_free(responder); }
};
using Bus = std::unique_ptr<ipcbus_bus, HandleCloser>;
using Publisher = std::unique_ptr<ipcbus_publisher, HandleCloser>;
using Subscriber = std::unique_ptr<ipcbus_subscriber, HandleCloser>;
using Set = std::unique_ptr<ipcbus_set, HandleCloser>;
using Requester = std::unique_ptr<ipcbus_requester, HandleCloser>;
using Responder = std::unique_ptr<ipcbus_responder, HandleCloser>;

/// Whether it is a result that ipcbus.h allows: not negative, or an errno of its table.
[[nodiscard]] bool is_documented(std::int64_t result);
/// Ends the test, or the forked child with exit code 90, unless `result` >= 0. Returns it.
std::int64_t must(std::int64_t result, std::string_view what);
/// Same, for what is not a result of the library.
void must_be(bool condition, std::string_view what);
/// The exit code of a child whose must() failed.
inline constexpr int kMustFailed = 90;

[[nodiscard]] Bus connect(const std::string& address, const char* name = nullptr,
                          std::uint32_t flags = 0);
[[nodiscard]] Publisher advertise(const Bus& bus, const std::string& topic,
                                  std::uint64_t ring_bytes = 65536, std::int64_t max_block_ns = 0);
[[nodiscard]] Subscriber subscribe(const Bus& bus, const std::string& filter,
                                   std::uint32_t mode = IPCBUS_RELIABLE, std::int64_t spin_ns = 0);

/// Publishes and insists; the result of ipcbus_publish is for tests of failures.
void publish(const Publisher& publisher, std::string_view text);
void publish_to(const Publisher& publisher, const std::string& topic, std::string_view text);

/// What a receive gave.
struct Received {
    int result = 0;
    std::string payload;
    std::string topic;
    ipcbus_message message{};

    [[nodiscard]] bool ok() const { return result == 0; }
};
/// Receives with room for any message of a 16 MiB ring.
[[nodiscard]] Received receive(const Subscriber& subscriber, std::int64_t timeout_ns = kLongNs);
/// Until it is attached to so many publications; no message may come meanwhile.
void wait_for_publications(const Subscriber& subscriber, std::uint32_t count);
/// The payload, insisting that a message comes.
[[nodiscard]] std::string received_text(const Subscriber& subscriber);

// ------------------------------------------------------------------------- requests, replies

inline constexpr std::size_t kReplyBytesMax = 1 << 20;

[[nodiscard]] Requester make_requester(const Bus& bus, const std::string& topic,
                                       const ipcbus_requester_options& options =
                                           ipcbus_init<ipcbus_requester_options>());
[[nodiscard]] Responder serve(const Bus& bus, const std::string& filter,
                              std::int64_t max_block_ns = 0);

/// What a call or the next reply gave.
struct Reply {
    int result = 0;
    std::string payload;
    ipcbus_reply info{};
};
[[nodiscard]] Reply call(const Requester& requester, std::string_view request,
                         std::int64_t timeout_ns = kLongNs);
[[nodiscard]] Reply next_reply(const Requester& requester, std::int64_t timeout_ns = kLongNs);
/// Insists that it is sent; its number.
std::uint64_t ask(const Requester& requester, std::string_view request, std::uint32_t flags = 0);

struct Request {
    int result = 0;
    std::string payload;
    std::string topic;
    ipcbus_request info{};
};
[[nodiscard]] Request next_request(const Responder& responder,
                                   std::int64_t timeout_ns = kLongNs);
int respond(const Responder& responder, const Request& to, std::string_view reply,
            std::uint32_t status = 0, std::uint32_t flags = 0);

}  // namespace ipcbus::test
