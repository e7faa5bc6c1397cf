// SPDX-License-Identifier: Apache-2.0
// The trie over topic levels. See registry.hpp. Recursion is bounded by the levels of a name
// (protocol::kTopicLevelsMax).
#include "registry.hpp"

#include "sys/assert.hpp"

#include <algorithm>

namespace ipcbus::daemon {

namespace {

/// Takes the first level off `rest`; `more` says whether another one follows.
std::string_view take_level(std::string_view& rest, bool& more) {
    const std::size_t slash = rest.find('/');
    const std::string_view level = rest.substr(0, slash);
    more = slash != std::string_view::npos;
    rest.remove_prefix(more ? slash + 1 : rest.size());
    return level;
}

/// Wildcards do not reach a first level that begins with `$`.
bool hidden(std::string_view level, bool first) {
    return first && !level.empty() && level.front() == '$';
}

}  // namespace

FilterTrie::FilterTrie() = default;
FilterTrie::~FilterTrie() = default;

void FilterTrie::add(std::string_view filter, Id id) {
    Node* node = &root_;
    for (bool more = true; more;) {
        const std::string_view level = take_level(filter, more);
        auto child = node->children.find(level);
        if (child == node->children.end()) {
            child = node->children.emplace(std::string(level), std::make_unique<Node>()).first;
        }
        node = child->second.get();
    }
    // Ids grow, so this is nearly always the end.
    node->ids.insert(std::upper_bound(node->ids.begin(), node->ids.end(), id), id);
}

void FilterTrie::remove(std::string_view filter, Id id) {
    (void)remove_below(root_, filter, true, id);
}

/// True: the node is empty now, its parent drops it. So every leaf holds an id.
bool FilterTrie::remove_below(Node& node, std::string_view rest, bool more, Id id) {
    if (!more) {
        const auto place = std::lower_bound(node.ids.begin(), node.ids.end(), id);
        IPCBUS_ASSERT(place != node.ids.end() && *place == id);
        node.ids.erase(place);
    } else {
        const std::string_view level = take_level(rest, more);
        const auto child = node.children.find(level);
        IPCBUS_ASSERT(child != node.children.end());
        if (remove_below(*child->second, rest, more, id)) {
            node.children.erase(child);
        }
    }
    return node.ids.empty() && node.children.empty();
}

std::vector<Id> FilterTrie::intersecting(std::string_view filter) const {
    std::vector<Id> ids;
    match(root_, filter, true, true, ids);
    std::sort(ids.begin(), ids.end());
    return ids;
}

void FilterTrie::match(const Node& node, std::string_view rest, bool more, bool first,
                       std::vector<Id>& ids) {
    if (!more) {
        ids.insert(ids.end(), node.ids.begin(), node.ids.end());
        // `#` matches no further level, too.
        if (const auto hash = node.children.find("#"); hash != node.children.end()) {
            ids.insert(ids.end(), hash->second->ids.begin(), hash->second->ids.end());
        }
        return;
    }
    const std::string_view level = take_level(rest, more);
    if (level == "#") {
        take_all(node, first, ids);
        return;
    }
    if (level == "+") {
        for (const auto& [name, child] : node.children) {
            if (!hidden(name, first)) {
                if (name == "#") {
                    ids.insert(ids.end(), child->ids.begin(), child->ids.end());
                } else {
                    match(*child, rest, more, false, ids);
                }
            }
        }
        return;
    }
    take_child(node, level, rest, more, ids);
    if (!hidden(level, first)) {
        take_child(node, "+", rest, more, ids);
        if (const auto hash = node.children.find("#"); hash != node.children.end()) {
            ids.insert(ids.end(), hash->second->ids.begin(), hash->second->ids.end());
        }
    }
}

void FilterTrie::take_child(const Node& node, std::string_view level, std::string_view rest,
                            bool more, std::vector<Id>& ids) {
    if (const auto child = node.children.find(level); child != node.children.end()) {
        match(*child->second, rest, more, false, ids);
    }
}

void FilterTrie::take_all(const Node& node, bool first, std::vector<Id>& ids) {
    ids.insert(ids.end(), node.ids.begin(), node.ids.end());
    for (const auto& [name, child] : node.children) {
        if (!hidden(name, first)) {
            take_all(*child, false, ids);
        }
    }
}

}  // namespace ipcbus::daemon
