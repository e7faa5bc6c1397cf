// SPDX-License-Identifier: Apache-2.0
// See account.hpp.
#include "account.hpp"

#include "protocol/topic.hpp"

namespace ipcbus::torture {

using std::to_string;

Snapshot::Snapshot(const Scene& scene, Of what) : numbers_(scene.senders_end()) {
    for (std::uint64_t i = 1; i < numbers_.size(); i++) {
        const Sender& sender = scene.sender[i];
        numbers_[i] = what == Of::published ? sender.published.load() : sender.begun.load();
    }
}

Account::Account(Scene& scene, std::string filter, std::uint32_t mode, Snapshot before,
                 Snapshot after)
    : scene_(scene),
      filter_(std::move(filter)),
      latest_(mode == IPCBUS_LATEST),
      whole_(filter_.find("/f") == std::string::npos),
      before_(std::move(before)),
      after_(std::move(after)) {}

bool Account::matches(std::uint64_t sender, std::uint64_t number) const {
    return protocol::topic_matches(filter_, topic_of(scene_.sender[sender], sender, number));
}

std::uint64_t Account::first_match(std::uint64_t sender, std::uint64_t from,
                                   std::uint64_t to) const {
    if (from < to && whole_) {
        return matches(sender, from) ? from : to;
    }
    while (from < to && !matches(sender, from)) {
        from++;
    }
    return std::min(from, to);
}

std::string Account::about(std::uint64_t sender) const {
    const Sender& one = scene_.sender[sender];
    return " [sender " + to_string(sender) + " of " + topic_of(one, sender, 0) + ": " +
           to_string(one.published) + " published, " + to_string(one.begun) + " begun" +
           (one.ended != 0 ? ", ended" : "") + "; subscribed '" + filter_ + "' between " +
           to_string(before_[sender]) + " and " + to_string(after_[sender]) + ", received " +
           to_string(received_) + ", lost " + to_string(lost_) + "]";
}

/// The first number that a publication accounts for: was it right to begin there?
std::string Account::begin(Track& track, std::uint64_t first) {
    track.first = first;
    if (first <= before_[track.sender]) {
        return "message " + to_string(first) + " is of before the subscription" +
               about(track.sender);
    }
    const std::uint64_t due = after_[track.sender] + 1;
    if (const std::uint64_t missed = first_match(track.sender, due, first); missed < first) {
        return "it begins with message " + to_string(first) + ", but " + to_string(missed) +
               " was published after the subscription" + about(track.sender);
    }
    return {};
}

/// What comes next is `number`: nothing between it and what is expected may match.
std::string Account::go_on(Track& track, std::uint64_t number) {
    if (number < track.next) {
        return "message " + to_string(number) + " comes twice, or is counted twice: expected " +
               to_string(track.next) + about(track.sender);
    }
    if (track.sender == 0) {
        return whole_ && number != track.next ? "losses do not add up: " + to_string(number) +
                                                    " after " + to_string(track.next)
                                              : "";
    }
    if (const std::uint64_t hole = first_match(track.sender, track.next, number); hole < number) {
        return "message " + to_string(hole) + " is missing; " + to_string(number) + " came" +
               about(track.sender);
    }
    return {};
}

std::string Account::topic_fault(const test::CheckedHeader& header,
                                 const ipcbus_message& message) const {
    const std::string topic = topic_of(scene_.sender[header.sender], header.sender, header.number);
    if (std::string_view(message.topic, message.topic_size) != topic) {
        return "a message of " + topic + " came as one of " +
               std::string(message.topic, message.topic_size);
    }
    return protocol::topic_matches(filter_, topic) ? "" : topic + " does not match " + filter_;
}

std::string Account::received(const test::CheckedHeader& header, const ipcbus_message& message) {
    if (header.sender == 0 || header.sender >= scene_.senders_end()) {
        return "a message of nobody";
    }
    if (header.number != message.sequence) {
        return "message " + to_string(header.number) + " came with sequence " +
               to_string(message.sequence) + about(header.sender);
    }
    Track& track = tracks_[message.publication];
    const bool known = track.sender != 0;
    if (known && track.sender != header.sender) {
        return "one publication has messages of two senders" + about(header.sender);
    }
    if (!known && !publications_.emplace(header.sender, message.publication).second) {
        return "one sender has two publications" + about(header.sender);
    }
    track.sender = header.sender;
    const std::uint64_t from = header.number - message.lost;
    std::string fault;
    if (track.first == 0) {
        fault = begin(track, from - track.untaken);
    } else {
        if (!known) {
            fault = begin(track, track.first);
        }
        if (fault.empty()) {
            fault = go_on(track, from);
        }
    }
    track.next = header.number + 1;
    received_++;
    lost_ += message.lost;
    return fault;
}

std::string Account::lost(const ipcbus_message& message) {
    if (message.lost == 0) {
        return "-ESTALE, but nothing lost";
    }
    Track& track = tracks_[message.publication];
    lost_ += message.lost;
    if (latest_) {
        // What it has passed over before comes with its next message: the sum is right then.
        if (track.first == 0) {
            track.untaken += message.lost;
            return {};
        }
        track.next += message.lost;
        return track.next <= message.sequence ? "" : "it lost what it has" + about(track.sender);
    }
    const std::uint64_t from = message.sequence - message.lost;
    std::string fault;
    if (track.first == 0) {
        track.first = from;  // checked when the sender is known
    } else {
        fault = go_on(track, from);
    }
    track.next = message.sequence;
    return fault;
}

std::string Account::overwritten(const ipcbus_message& message) {
    if (message.lost == 0) {
        return {};
    }
    // Only of mode latest, in which what was passed over comes with a message.
    Track& track = tracks_[message.publication];
    lost_ += message.lost;
    if (track.first == 0) {
        track.untaken += message.lost;
        return {};
    }
    track.next += message.lost;
    return track.next <= message.sequence ? "" : "it passed over what it has" + about(track.sender);
}

const Account::Track* Account::track_of(std::uint64_t sender) const {
    const auto publication = publications_.find(sender);
    return publication == publications_.end() ? nullptr : &tracks_.at(publication->second);
}

bool Account::complete() const {
    for (std::uint64_t i = 1; i < scene_.senders_end(); i++) {
        const Track* track = track_of(i);
        const std::uint64_t from = track != nullptr ? track->next : after_[i] + 1;
        const std::uint64_t end = scene_.sender[i].published + 1;
        if (first_match(i, from, end) < end) {
            return false;
        }
    }
    return true;
}

std::string Account::finish_sender(std::uint64_t sender, const Track* track, bool may_miss) {
    Sender& one = scene_.sender[sender];
    const std::uint64_t end = one.published + 1;
    const std::uint64_t from = track != nullptr ? track->next : after_[sender] + 1;
    if (const std::uint64_t missed = first_match(sender, from, end); missed < end) {
        if (track == nullptr && may_miss) {
            scene_.counts.excused++;
            return {};
        }
        return "message " + to_string(missed) + " never came" + about(sender);
    }
    if (track == nullptr || !whole_) {
        return {};
    }
    const std::uint64_t most = (one.ended != 0 ? one.published : one.begun) + 1;
    if (track->next > most) {
        return "more messages than were published" + about(sender);
    }
    // What was in doubt is there for all, or for none.
    std::uint64_t others = 0;
    if (!one.final.compare_exchange_strong(others, track->next) && others != track->next) {
        return "readers do not agree on the last message: " + to_string(track->next - 1) +
               " here, elsewhere " + to_string(others - 1) + about(sender);
    }
    return {};
}

std::string Account::finish(bool may_miss) {
    for (std::uint64_t i = 1; i < scene_.senders_end(); i++) {
        if (std::string fault = finish_sender(i, track_of(i), may_miss); !fault.empty()) {
            return fault;
        }
    }
    return {};
}

}  // namespace ipcbus::torture
