// SPDX-License-Identifier: Apache-2.0
// What the victims of aimed_kills do: for each operation, what comes before the mark, the call
// itself, and what the others have to do when it blocks. A victim is a process of its own, one
// thread.
#pragma once

#include "bus_client.hpp"
#include "scene.hpp"

#include <functional>
#include <span>

namespace ipcbus::torture {

inline constexpr std::uint64_t kOwn = 1;  ///< the sender that lives; victims count on from 2
inline constexpr std::uint64_t kRing = 65536;
inline constexpr std::size_t kMessage = 1000;
inline constexpr const char* kOwnTopic = "aim/own";
inline constexpr const char* kAll = "aim/#";
inline constexpr const char* kWriterTopic = "other/w";

/// What all processes of an operation share.
struct Stage {
    // of the victim
    std::atomic<std::uint64_t> begun{0};
    std::atomic<std::uint64_t> published{0};
    std::atomic<std::uint32_t> returned{0};  ///< its call has
    // of the sleeper
    test::Milestone sleeper_ready;
    test::Milestone sleeper_read;                  ///< messages
    std::atomic<std::uint64_t> sleeper_own{0};     ///< number of the last one of kOwn
    std::atomic<std::uint64_t> sleeper_victim{0};  ///< the last victim it has heard,
    std::atomic<std::uint64_t> sleeper_number{0};  ///< and its last message
    // of the writer
    test::Milestone writer_ready;
    test::Milestone writer_free;  ///< how often it has found that nobody reads any more
    std::atomic<std::uint64_t> writer_published{0};  ///< since then
};

struct Victim {
    const std::string& address;
    Stage& stage;
    std::uint64_t sender;
    test::Bus bus;
    test::Publisher publisher;
    test::Subscriber subscriber;
    test::Set set;
};

/// What those who live can do for a victim that waits.
struct Helpers {
    std::function<void()> publish;  ///< a message of kOwnTopic
    std::function<void()> read;     ///< half a ring of the victim's messages
};

struct Operation {
    const char* name;
    void (*prepare)(Victim&);
    void (*act)(Victim&);
    void (*help)(const Helpers&) = nullptr;  ///< when it blocks
    bool sleeper_sleeps = false;             ///< before the call
    bool needs_writer = false;
    bool news = false;  ///< messages of kOwnTopic are published before the call
};

[[nodiscard]] std::span<const Operation> operations();

/// Prepares, stops at the mark, acts, stops at the second mark, and waits for its end.
[[noreturn]] void play_victim(const Operation& operation, const std::string& address, Stage& stage,
                              std::uint64_t sender);

}  // namespace ipcbus::torture
