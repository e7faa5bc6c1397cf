// SPDX-License-Identifier: Apache-2.0
// Scene: what all processes of one round of torture share, and what the oracle goes by: for each
// sender, how many of its publishes have begun and how many have returned. A publisher stores the
// first before the call and the second after it, so a kill leaves at most one call in doubt, and
// whoever subscribes knows from two looks what it must get and what it may not.
// Made by the conductor before it forks; each word has one writer but the counts.
#pragma once

#include "checked_message.hpp"
#include "shared_block.hpp"

#include <array>
#include <atomic>
#include <string>

namespace ipcbus::torture {

inline constexpr std::uint64_t kSendersMax = 4096;  ///< of one round; a sender is a publication
inline constexpr std::uint64_t kGroups = 3;
inline constexpr std::uint64_t kForms = 4;  ///< topics of one publication under a filter

/// How a sender's publication is named. G: its group, N: the sender, F: 0 to kForms - 1.
enum class Kind : std::uint32_t {
    plain,   ///< t/G/sN
    shared,  ///< t/G/s0: several publications of one topic
    filter,  ///< t/G/wN/+, each message to t/G/wN/fF
};

struct Sender {
    std::atomic<std::uint64_t> begun{0};      ///< number of the last message that was tried
    std::atomic<std::uint64_t> published{0};  ///< of the last one whose publish has returned
    std::atomic<std::uint32_t> ended{0};      ///< it has ended by itself
    std::atomic<std::uint64_t> final{0};      ///< the last message, as the first reader found, + 1
    Kind kind = Kind::plain;
    std::uint64_t group = 0;
};

/// Of the whole round, for the summary.
struct Counts {
    std::atomic<std::uint64_t> published{0};
    std::atomic<std::uint64_t> received{0};
    std::atomic<std::uint64_t> lost{0};           ///< and told so
    std::atomic<std::uint64_t> lost_reliably{0};  ///< of these, by reliable readers
    std::atomic<std::uint64_t> overwritten{0};    ///< loans
    std::atomic<std::uint64_t> refused{0};        ///< publishes that found the ring full
    std::atomic<std::uint64_t> aborted{0};        ///< claims
    std::atomic<std::uint64_t> subscriptions{0};
    std::atomic<std::uint64_t> publications{0};
    std::atomic<std::uint64_t> wraps{0};    ///< publications that have come to position 2^32
    std::atomic<std::uint64_t> excused{0};  ///< senders that a stopped reader never heard
    std::atomic<std::uint64_t> longest_publish_ns{0};
};

struct Scene {
    test::Milestone started;                   ///< clients that have begun
    test::Milestone over;                      ///< publishers end
    test::Milestone publishing;                ///< publisher roles that have ended
    test::Milestone ended;                     ///< all of them have: readers may end, too
    std::atomic<std::uint32_t> publishers{0};  ///< publisher roles of clients that are not victims
    std::atomic<std::uint32_t> senders{0};
    std::array<Sender, kSendersMax> sender;
    Counts counts;
    bool patient = true;  ///< no reader is ever stopped for long: a reliable one loses nothing
    bool verbose = false;

    /// A new sender's number: 1 and more; 0: there are no more.
    [[nodiscard]] std::uint64_t new_sender() {
        const std::uint64_t number = senders.fetch_add(1) + 1;
        return number < kSendersMax ? number : 0;
    }
    [[nodiscard]] std::uint64_t senders_end() const {
        return std::min<std::uint64_t>(senders.load() + 1, kSendersMax);
    }
};

/// The topic of a sender's message; 0: its publication's topic or filter.
[[nodiscard]] inline std::string topic_of(const Sender& sender, std::uint64_t of,
                                          std::uint64_t number) {
    const std::string group = "t/" + std::to_string(sender.group) + "/";
    switch (sender.kind) {
    case Kind::plain:
        return group + "s" + std::to_string(of);
    case Kind::shared:
        return group + "s0";
    case Kind::filter:
        break;
    }
    const std::string under = group + "w" + std::to_string(of) + "/";
    return number == 0 ? under + "+" : under + "f" + std::to_string(test::mixed(number) % kForms);
}

inline void raise_to(std::atomic<std::uint64_t>& most, std::uint64_t value) {
    std::uint64_t known = most.load();
    while (known < value && !most.compare_exchange_weak(known, value)) {}
}

// Messages of which only the head is filled, for rings that are to get far in little time.

inline constexpr std::uint64_t kHollow = 0x486f6c6c6f77;

inline void fill_hollow(void* message, std::size_t bytes, std::uint64_t sender,
                        std::uint64_t number) {
    test::CheckedHeader header{sender, number, bytes, 0};
    header.checksum = test::seed_of(header) + kHollow;
    std::memcpy(message, &header, sizeof(header));
}

/// As test::read_checked, for both kinds.
[[nodiscard]] inline std::optional<test::CheckedHeader> read_message(const void* message,
                                                                     std::size_t bytes) {
    test::CheckedHeader header;
    if (bytes < sizeof(header)) {
        return {};
    }
    std::memcpy(&header, message, sizeof(header));
    if (header.bytes == bytes && header.checksum == test::seed_of(header) + kHollow) {
        return header;
    }
    return test::read_checked(message, bytes);
}

}  // namespace ipcbus::torture
