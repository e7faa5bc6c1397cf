// SPDX-License-Identifier: Apache-2.0
// The publisher role of the torture: one publication, or one after the other, drawn from a seed:
// topics and filters, rings from 64 KiB to 64 MiB, positions that pass 2^32, messages of all sizes
// by all calls there are, bursts and pauses. Runs in a thread of its own in a client's process.
#pragma once

#include "bus_client.hpp"
#include "dice.hpp"
#include "scene.hpp"

namespace ipcbus::torture {

/// How a publication behaves; drawn by the role.
struct PublisherPlan {
    std::uint64_t ring_bytes = 65536;
    std::uint64_t usual_bytes = 400;  ///< of a message: up to it, and rarely up to the largest
    std::uint64_t burst = 64;         ///< messages between pauses
    int pause_ms = 0;
    std::int64_t max_block_ns = IPCBUS_FOREVER;
    std::uint64_t messages = 0;  ///< 0: until the round is over
    bool wraps = false;          ///< begins shortly below position 2^32
};

class PublisherRole {
public:
    /// `alone`: nobody else in the process needs the connection for longer.
    PublisherRole(const test::Bus& bus, Scene& scene, std::uint64_t seed, bool alone)
        : bus_(bus), scene_(scene), dice_(seed), alone_(alone) {}

    /// Until the round is over, the process is killed, or no sender's number is left.
    void play();

private:
    PublisherPlan draw_plan();
    bool play_publication();
    void fast_forward();
    void publish_some();
    void publish_claimed();
    void publish_many();
    std::uint64_t draw_bytes();
    void returned(std::int64_t result, std::int64_t began_ns);
    [[nodiscard]] const char* topic_of_next();

    const test::Bus& bus_;
    Scene& scene_;
    Dice dice_;
    const bool alone_;
    PublisherPlan plan_;
    test::Publisher publisher_;
    std::uint64_t number_ = 0;  ///< of the sender
    Sender* sender_ = nullptr;
    std::uint64_t next_ = 1;
    std::uint64_t bytes_max_ = 0;
    std::string topic_;
    std::vector<char> message_;
};

}  // namespace ipcbus::torture
