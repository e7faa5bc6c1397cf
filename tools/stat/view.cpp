// SPDX-License-Identifier: Apache-2.0
// From what was told to what is shown. See view.hpp. One thread.
#include "stat/view.hpp"

#include "protocol/topic.hpp"
#include "sys/unique_fd.hpp"

#include <array>
#include <fcntl.h>
#include <set>
#include <unistd.h>

namespace ipcbus::stats {

namespace {

std::string read_command(protocol::u32 pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/comm";
    const sys::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
    std::array<char, 64> text;  // a command has at most 15 bytes there
    const ssize_t bytes = fd ? ::read(fd.get(), text.data(), text.size()) : -1;
    std::string name(text.data(), bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
    return name.substr(0, name.find('\n'));
}

/// By how much a counter grew each second. One that was not there before began at 0.
Rate rate(u64 now, std::optional<u64> before, u64 ns) {
    if (ns == 0 || now < before.value_or(0)) {
        return std::nullopt;
    }
    return static_cast<double>(now - before.value_or(0)) * 1e9 / static_cast<double>(ns);
}

/// Between two looks, of things of one kind.
template <class Entry>
class Between {
public:
    Between(const Timed<Entry>& now, const std::vector<Timed<Entry>>* before) : now_(now) {
        if (before == nullptr) {
            return;
        }
        earlier_ = find(*before, id_of(now.entry));
        // What is new was counted from 0 since any entry of the look before.
        const u64 then_ns = earlier_ != nullptr ? earlier_->time_ns
                            : !before->empty()  ? before->front().time_ns
                                                : 0;
        ns_ = then_ns != 0 && then_ns < now.time_ns ? now.time_ns - then_ns : 0;
    }
    [[nodiscard]] Rate of(u64 Entry::* counter) const {
        return rate(now_.entry.*counter,
                    earlier_ != nullptr ? std::optional(earlier_->entry.*counter) : std::nullopt,
                    ns_);
    }

private:
    const Timed<Entry>& now_;
    const Timed<Entry>* earlier_ = nullptr;
    u64 ns_ = 0;
};

template <class Row>
const Row* row_of(const std::vector<Row>& rows, u64 id) {
    const auto place =
        std::lower_bound(rows.begin(), rows.end(), id,
                         [](const Row& row, u64 wanted) { return id_of(*row.entry) < wanted; });
    return place != rows.end() && id_of(*place->entry) == id ? &*place : nullptr;
}

void add(Rate& sum, const Rate& part) { sum = sum && part ? Rate(*sum + *part) : std::nullopt; }

void add_to_subscription(const AttachmentRow& row, SubscriptionRow& sum) {
    const protocol::AttachmentEntry& entry = *row.entry;
    if (row.has(protocol::kAttachmentDisbelief)) {
        sum.lag_bytes.reset();
    } else if (sum.lag_bytes) {
        sum.lag_bytes = std::max(*sum.lag_bytes, entry.lag_bytes);
    }
    if (row.has(protocol::kAttachmentUncounted)) {
        sum.lag_messages.reset();
    } else if (sum.lag_messages) {
        *sum.lag_messages += entry.lag_messages;
    }
    sum.received += entry.received;
    sum.lost += entry.lost;
    sum.sleeps += entry.sleeps;
    add(sum.received_rate, row.received);
    add(sum.lost_rate, row.lost);
    add(sum.sleep_rate, row.sleeps);
    sum.holds = sum.holds || row.has(protocol::kAttachmentHolds);
    sum.overtaken = sum.overtaken || row.has(protocol::kAttachmentOvertaken);
    sum.demoted = sum.demoted || entry.mode != sum.entry->mode;
    sum.asleep = sum.asleep && row.has(protocol::kAttachmentParked);
}

void add_to_publication(const AttachmentRow& row, PublicationRow& publication) {
    if (row.entry->mode != static_cast<protocol::u8>(protocol::ReaderMode::reliable) ||
        row.has(protocol::kAttachmentDisbelief) || publication.entry->ring_bytes == 0) {
        return;
    }
    const double use = static_cast<double>(row.entry->lag_bytes) /
                       static_cast<double>(publication.entry->ring_bytes);
    publication.use = std::max(publication.use.value_or(0), std::min(use, 1.0));
}

void add_clients(const State* before, const Commands& commands, View& view) {
    for (const auto& timed : view.state->clients) {
        const Between between(timed, before != nullptr ? &before->clients : nullptr);
        view.clients.push_back({&timed.entry, commands.name(timed.entry.client),
                                between.of(&protocol::ClientEntry::sleeps)});
    }
}

void add_publications(const State* before, View& view) {
    for (const auto& timed : view.state->publications) {
        const Between between(timed, before != nullptr ? &before->publications : nullptr);
        PublicationRow row;
        row.entry = &timed.entry;
        row.publisher = row_of(view.clients, timed.entry.client);
        if ((timed.entry.flags & protocol::kPublicationDisbelief) == 0) {
            row.messages = between.of(&protocol::PublicationEntry::messages);
            row.bytes = between.of(&protocol::PublicationEntry::bytes);
        }
        view.publications.push_back(row);
    }
}

void add_subscriptions(bool has_rates, View& view) {
    for (const auto& timed : view.state->subscriptions) {
        SubscriptionRow row;
        row.entry = &timed.entry;
        row.reader = row_of(view.clients, timed.entry.client);
        row.lag_bytes = row.lag_messages = 0;
        row.asleep = timed.entry.attachments != 0;
        if (has_rates) {
            row.received_rate = row.lost_rate = row.sleep_rate = 0;
        }
        view.subscriptions.push_back(row);
    }
}

void add_attachments(const State* before, View& view) {
    for (const auto& timed : view.state->attachments) {
        const Between between(timed, before != nullptr ? &before->attachments : nullptr);
        const protocol::AttachmentEntry& entry = timed.entry;
        AttachmentRow row;
        row.entry = &entry;
        row.publication = row_of(view.publications, entry.publication);
        row.subscription = row_of(view.subscriptions, entry.subscription);
        row.reader = row_of(view.clients, entry.reader);
        row.writer = row_of(view.clients, entry.writer);
        row.received = between.of(&protocol::AttachmentEntry::received);
        row.lost = between.of(&protocol::AttachmentEntry::lost);
        row.sleeps = between.of(&protocol::AttachmentEntry::sleeps);
        view.attachments.push_back(row);
        if (row.subscription != nullptr) {
            add_to_subscription(row, const_cast<SubscriptionRow&>(*row.subscription));
        }
        if (row.publication != nullptr) {
            add_to_publication(row, const_cast<PublicationRow&>(*row.publication));
        }
    }
}

/// Larger ones first; equal ones and unknown ones, which come last, by name and id.
template <class Row, class Value, class Name>
std::vector<const Row*> sorted(const std::vector<Row>& rows, Value value, Name name) {
    std::vector<const Row*> all;
    for (const Row& row : rows) {
        all.push_back(&row);
    }
    std::stable_sort(all.begin(), all.end(), [&](const Row* a, const Row* b) {
        const double of_a = value(*a);
        const double of_b = value(*b);
        return of_a != of_b ? of_a > of_b : name(*a) < name(*b);
    });
    return all;
}

double known(const Rate& value) { return value.value_or(-1); }
double known(const std::optional<u64>& value) { return value ? static_cast<double>(*value) : -1; }

}  // namespace

void Commands::learn(const State& state) {
    const auto* own = find(state.clients, state.own_client);
    if (own == nullptr || own->entry.pid != static_cast<protocol::u32>(::getpid())) {
        names_.clear();
        return;
    }
    std::erase_if(names_,
                  [&](const auto& known) { return find(state.clients, known.first) == nullptr; });
    for (const auto& client : state.clients) {
        if (client.entry.pid != 0 && !names_.contains(client.entry.client)) {
            names_.emplace(client.entry.client, read_command(client.entry.pid));
        }
    }
}

std::string_view Commands::name(u64 client) const {
    const auto found = names_.find(client);
    return found == names_.end() ? std::string_view() : found->second;
}

std::string_view name_of_kind(protocol::u8 kind) {
    constexpr std::array<std::string_view, 3> kNames{"messages", "requests", "replies"};
    return kind < kNames.size() ? kNames[kind] : "?";
}

View make_view(const State& state, const State* before, const Commands& commands) {
    if (before != nullptr && before->bus != state.bus) {
        before = nullptr;  // another daemon: ids and counters begin anew
    }
    View view;
    view.state = &state;
    view.has_rates = before != nullptr;
    add_clients(before, commands, view);
    add_publications(before, view);
    add_subscriptions(view.has_rates, view);
    add_attachments(before, view);
    return view;
}

void keep_matching(const std::vector<std::string>& filters, State& state) {
    if (filters.empty()) {
        return;
    }
    const auto differs = [&](const std::string& topic) {
        return std::none_of(filters.begin(), filters.end(), [&](const std::string& filter) {
            return !topic.empty() && protocol::filters_intersect(filter, topic);
        });
    };
    std::set<u64> clients;
    std::erase_if(state.publications,
                  [&](const auto& publication) { return differs(publication.entry.topic); });
    std::erase_if(state.subscriptions,
                  [&](const auto& subscription) { return differs(subscription.entry.filter); });
    std::erase_if(state.attachments,
                  [&](const auto& attachment) { return differs(attachment.entry.topic); });
    for (const auto& publication : state.publications) {
        clients.insert(publication.entry.client);
    }
    for (const auto& subscription : state.subscriptions) {
        clients.insert(subscription.entry.client);
    }
    std::erase_if(state.clients,
                  [&](const auto& client) { return !clients.contains(client.entry.client); });
}

std::vector<const PublicationRow*> sorted_publications(const View& view, Sort by) {
    const auto value = [by](const PublicationRow& row) {
        return by == Sort::rate ? known(row.messages) : by == Sort::lag ? known(row.use) : 0.0;
    };
    return sorted(view.publications, value,
                  [](const PublicationRow& row) { return std::string_view(row.entry->topic); });
}

std::vector<const SubscriptionRow*> sorted_subscriptions(const View& view, Sort by) {
    const auto value = [by](const SubscriptionRow& row) {
        switch (by) {
        case Sort::rate:
            return known(row.received_rate);
        case Sort::lag:
            return known(row.lag_bytes);
        case Sort::lost:
            return static_cast<double>(row.lost);
        case Sort::topic:
            break;
        }
        return 0.0;
    };
    return sorted(view.subscriptions, value,
                  [](const SubscriptionRow& row) { return std::string_view(row.entry->filter); });
}

std::vector<const AttachmentRow*> sorted_attachments(const View& view, Sort by) {
    const auto value = [by](const AttachmentRow& row) {
        switch (by) {
        case Sort::rate:
            return known(row.received);
        case Sort::lag:
            return static_cast<double>(row.entry->lag_bytes);
        case Sort::lost:
            return static_cast<double>(row.entry->lost);
        case Sort::topic:
            break;
        }
        return 0.0;
    };
    return sorted(view.attachments, value,
                  [](const AttachmentRow& row) { return std::string_view(row.entry->topic); });
}

}  // namespace ipcbus::stats
