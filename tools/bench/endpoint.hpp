// SPDX-License-Identifier: Apache-2.0
// The two ends of a publication as ipcbus-bench uses them: Writer makes and publishes numbered
// messages, Reader receives them and checks every one. Each belongs to one process of a Team, whose
// Member ends the run when a call fails or a message is not what it should be.
#pragma once

#include "bench/payload.hpp"
#include "bench/team.hpp"
#include "bench_options.hpp"

#include <ipcbus/ipcbus.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ipcbus::bench {

using tools::BenchOptions;

/// What all processes of one run agree on; copied into them by fork.
struct Run {
    const BenchOptions& options;
    std::string topic;       // whose children the run uses
    std::uint64_t salt = 0;  // of the messages
    std::string address;     // empty: where libipcbus looks
    pid_t daemon = 0;        // 0: unknown
};

[[nodiscard]] tools::BusPtr connect(const Member& member, const Run& run);

class Writer {
public:
    /// Advertises `topic` with a ring as the options say.
    Writer(const Member& member, const Run& run, ipcbus_bus* bus, const std::string& topic);

    /// Waits for so many readers, or fails.
    void wait_for(std::uint32_t readers);
    /// Publishes the next `count` messages, waiting for room; in batches and in place as the
    /// options say.
    void publish(std::uint64_t count);
    /// Makes the next message, where making it is not part of publishing it: so that a latency
    /// does not count it.
    void prepare();
    /// The number of the next message.
    [[nodiscard]] std::uint64_t next() const { return next_; }
    [[nodiscard]] std::uint64_t ring_bytes() const { return ipcbus_ring_bytes(handle_.get()); }

private:
    void publish_one();
    void publish_in_place();
    void publish_batches(std::uint64_t count);

    const Member& member_;
    const Run& run_;
    const std::size_t size_;
    tools::PublisherPtr handle_;
    Source source_;
    std::vector<ipcbus_buffer> batch_;
    const void* made_ = nullptr;  // message next_, if it has been made
    std::uint64_t next_ = 0;
};

class Reader {
public:
    Reader(const Member& member, const Run& run, ipcbus_bus* bus, const std::string& topic);
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    /// Receives and checks until message `end` - 1 has been received or lost.
    void read_until(std::uint64_t end);

    /// For ping-pongs, in parts: receives one message, which must be number got(). Read in place,
    /// it is checked here: reading it there is part of receiving it. Copied, it is checked by
    /// finish(), after the reply or the time has been taken.
    void receive_one();
    void finish();

    /// How many were received, and how many the library has told to be lost.
    [[nodiscard]] std::uint64_t got() const { return got_; }
    [[nodiscard]] std::uint64_t lost() const { return lost_; }

private:
    /// Receives what there is, up to `count` messages; 0 if some were lost instead.
    std::size_t receive(std::size_t count);
    void judge(std::size_t count);
    [[nodiscard]] bool is_right(const ipcbus_message& message, std::uint64_t number) const;
    [[nodiscard]] bool says(const ipcbus_message& message, std::uint64_t number) const;
    [[nodiscard]] bool give_back();
    [[noreturn]] void tell_wrong(const ipcbus_message& message);
    void note_loss();

    const Member& member_;
    const Run& run_;
    const std::size_t size_;
    tools::SubscriberPtr handle_;
    std::vector<std::byte> buffer_;
    std::vector<ipcbus_message> messages_;
    std::size_t unfinished_ = 0;  // messages that receive_one took and finish() gives back
    bool is_judged_ = false;      // those have been found right
    std::uint64_t got_ = 0;
    std::uint64_t lost_ = 0;
    std::uint64_t publication_ = 0;  // of the first message
    std::uint64_t sequence_ = 0;     // of message 0
};

}  // namespace ipcbus::bench
