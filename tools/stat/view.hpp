// SPDX-License-Identifier: Apache-2.0
// View: a state of the bus as it is to be shown: who belongs to whom, rates since the look before,
// how full each ring is, and who holds whom back. What cannot be known is nothing, not 0. Pure but
// for Commands, which reads /proc. Refers to the State it was made from. One thread.
#pragma once

#include "stat/state.hpp"

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace ipcbus::stats {

/// Per second. Nothing: there was no look before, or a counter ran backwards, which an honest
/// process's does not.
using Rate = std::optional<double>;

/// What processes are called, by /proc/PID/comm: the tool reads it and not the daemon, which would
/// have to wait for a file system in its one thread, and may not be allowed to see /proc. Only if
/// the tool sees the same processes as the daemon: else a number is somebody else's. A client is
/// looked up once: its connection ends with exec.
class Commands {
public:
    /// To be called with each state before name().
    void learn(const State& state);
    /// Empty: unknown.
    [[nodiscard]] std::string_view name(u64 client) const;

private:
    std::map<u64, std::string> names_;
};

struct ClientRow {
    const protocol::ClientEntry* entry = nullptr;
    std::string_view command;
    Rate sleeps;
};

struct PublicationRow {
    const protocol::PublicationEntry* entry = nullptr;
    const ClientRow* publisher = nullptr;  ///< null: not shown to us, or gone
    std::optional<double> use;             ///< part of the ring that reliable readers have not read
    Rate messages;
    Rate bytes;
};

struct SubscriptionRow {
    const protocol::SubscriptionEntry* entry = nullptr;
    const ClientRow* reader = nullptr;
    // Of all its attachments.
    std::optional<u64> lag_bytes;     ///< of the one that is furthest behind
    std::optional<u64> lag_messages;  ///< of all together
    u64 received = 0;
    u64 lost = 0;
    u64 sleeps = 0;
    Rate received_rate;
    Rate lost_rate;
    Rate sleep_rate;
    bool holds = false;
    bool overtaken = false;
    bool demoted = false;  ///< it asked for reliable, and is lossy somewhere
    bool asleep = false;   ///< all are parked
};

struct AttachmentRow {
    const protocol::AttachmentEntry* entry = nullptr;
    const PublicationRow* publication = nullptr;  ///< these: null if not shown to us
    const SubscriptionRow* subscription = nullptr;
    const ClientRow* reader = nullptr;
    const ClientRow* writer = nullptr;
    Rate received;
    Rate lost;
    Rate sleeps;

    [[nodiscard]] bool has(protocol::u8 flag) const { return (entry->flags & flag) != 0; }
};

enum class Sort { topic, rate, lag, lost };

struct View {
    const State* state = nullptr;
    bool has_rates = false;
    std::vector<ClientRow> clients;
    std::vector<PublicationRow> publications;
    std::vector<SubscriptionRow> subscriptions;
    std::vector<AttachmentRow> attachments;
};

/// `before` null: no rates. Rows come in the order of their ids. `state` outlives the view.
[[nodiscard]] View make_view(const State& state, const State* before, const Commands& commands);

/// LookKind, in a word.
[[nodiscard]] std::string_view name_of_kind(protocol::u8 kind);

/// Takes away what has no topic in common with any of `filters`; none: nothing. Clients that have
/// nothing left go, too.
void keep_matching(const std::vector<std::string>& filters, State& state);

/// Pointers to rows of the view, sorted.
[[nodiscard]] std::vector<const PublicationRow*> sorted_publications(const View& view, Sort by);
[[nodiscard]] std::vector<const SubscriptionRow*> sorted_subscriptions(const View& view, Sort by);
[[nodiscard]] std::vector<const AttachmentRow*> sorted_attachments(const View& view, Sort by);

}  // namespace ipcbus::stats
