// SPDX-License-Identifier: Apache-2.0
// Who publishes and who subscribes what: two tries over the levels of names, one for publications
// and one for subscriptions, and the ids of everything. Pure data, no I/O: what becomes of a match
// is the bus's business. Owned by the bus, the daemon's one thread. Names are valid filters;
// whoever calls has checked them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::daemon {

/// Ids of clients, publications, subscriptions and attachments; never 0, never used again.
using Id = std::uint64_t;

/// What goes through a publication, and what a subscription gets: the same of both. Requests have a
/// registry of their own; replies are in none (protocol/exchange.hpp).
enum class Kind : std::uint8_t { messages, requests, replies };

/// A set of (filter, id), asked for the filters that have a topic in common with another one. An
/// answer costs what it says, not what is there: a level that is not a wildcard is looked up, and
/// below `#` every branch ends in a match. (A `+` walks the names of its own level.)
class FilterTrie {
public:
    FilterTrie();
    ~FilterTrie();
    FilterTrie(const FilterTrie&) = delete;
    FilterTrie& operator=(const FilterTrie&) = delete;

    void add(std::string_view filter, Id id);
    /// It must be there.
    void remove(std::string_view filter, Id id);
    /// Ids whose filter intersects `filter` (protocol::filters_intersect), ascending.
    [[nodiscard]] std::vector<Id> intersecting(std::string_view filter) const;
    [[nodiscard]] bool empty() const { return root_.ids.empty() && root_.children.empty(); }

private:
    struct Node {
        std::vector<Id> ids;  ///< ascending
        std::map<std::string, std::unique_ptr<Node>, std::less<>> children;
    };

    static bool remove_below(Node& node, std::string_view rest, bool more, Id id);
    static void match(const Node& node, std::string_view rest, bool more, bool first,
                      std::vector<Id>& ids);
    static void take_child(const Node& node, std::string_view level, std::string_view rest,
                           bool more, std::vector<Id>& ids);
    static void take_all(const Node& node, bool first, std::vector<Id>& ids);

    Node root_;
};

class Registry {
public:
    /// One counter for all kinds: an id says nothing about how many of a kind there are.
    [[nodiscard]] Id next_id() { return next_id_++; }

    void add_publication(std::string_view topic, Id id) { publications_.add(topic, id); }
    void remove_publication(std::string_view topic, Id id) { publications_.remove(topic, id); }
    void add_subscription(std::string_view filter, Id id) { subscriptions_.add(filter, id); }
    void remove_subscription(std::string_view filter, Id id) { subscriptions_.remove(filter, id); }

    [[nodiscard]] std::vector<Id> publications_matching(std::string_view filter) const {
        return publications_.intersecting(filter);
    }
    [[nodiscard]] std::vector<Id> subscriptions_matching(std::string_view topic) const {
        return subscriptions_.intersecting(topic);
    }

private:
    FilterTrie publications_;
    FilterTrie subscriptions_;
    Id next_id_ = 1;
};

}  // namespace ipcbus::daemon
