// SPDX-License-Identifier: Apache-2.0
// Grammar and matching of topics and filters. See topic.hpp.
#include "protocol/topic.hpp"

#include "protocol/limits.hpp"

namespace ipcbus::protocol {

namespace {

/// Takes levels off the front of a name.
class Levels {
public:
    explicit Levels(std::string_view name) : rest_(name) {}

    [[nodiscard]] bool more() const { return more_; }
    std::string_view next() {
        const std::size_t slash = rest_.find('/');
        const std::string_view level = rest_.substr(0, slash);
        more_ = slash != std::string_view::npos;
        rest_.remove_prefix(more_ ? slash + 1 : rest_.size());
        return level;
    }

private:
    std::string_view rest_;
    bool more_ = true;
};

bool is_wildcard(std::string_view level) { return level == "+" || level == "#"; }

const char* level_fault(std::string_view level, bool last, bool wildcards) {
    if (level.empty()) {
        return "a level is empty";
    }
    if (wildcards && level == "#") {
        return last ? "" : "# must be the last level";
    }
    if (wildcards && level == "+") {
        return "";
    }
    for (const char c : level) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            return "control characters are not allowed";
        }
        if (c == '+' || c == '#') {
            return wildcards ? "a wildcard must be a whole level"
                             : "wildcards are not allowed here";
        }
    }
    return "";
}

const char* name_fault(std::string_view name, bool wildcards) {
    if (name.empty()) {
        return "it is empty";
    }
    if (name.size() > kTopicBytesMax) {
        return "it is longer than 255 bytes";
    }
    std::size_t count = 0;
    for (Levels levels(name); levels.more();) {
        const std::string_view level = levels.next();
        if (++count > kTopicLevelsMax) {
            return "it has more than 32 levels";
        }
        if (const char* fault = level_fault(level, !levels.more(), wildcards); *fault != '\0') {
            return fault;
        }
    }
    return "";
}

/// `+` and `#` do not reach a first level that begins with `$`.
bool hidden_from_wildcard(std::string_view wildcard_side, std::string_view other, bool first) {
    return first && is_wildcard(wildcard_side) && !other.empty() && other.front() == '$';
}

}  // namespace

const char* filter_fault(std::string_view filter) { return name_fault(filter, true); }
const char* topic_fault(std::string_view topic) { return name_fault(topic, false); }
bool valid_topic(std::string_view topic) { return *topic_fault(topic) == '\0'; }
bool valid_filter(std::string_view filter) { return *filter_fault(filter) == '\0'; }

bool has_wildcards(std::string_view filter) {
    return filter.find_first_of("+#") != std::string_view::npos;
}

bool is_bus_topic(std::string_view topic) { return !topic.empty() && topic.front() == '$'; }

bool topic_matches(std::string_view filter, std::string_view topic) {
    return filters_intersect(filter, topic);
}

bool filters_intersect(std::string_view a, std::string_view b) {
    Levels as(a);
    Levels bs(b);
    for (bool first = true;; first = false) {
        if (!as.more() || !bs.more()) {
            // One ended: the other may still say `#`, which matches no further level, too.
            return (!as.more() || as.next() == "#") && (!bs.more() || bs.next() == "#");
        }
        const std::string_view x = as.next();
        const std::string_view y = bs.next();
        if (hidden_from_wildcard(x, y, first) || hidden_from_wildcard(y, x, first)) {
            return false;
        }
        if (x == "#" || y == "#") {
            return true;
        }
        if (x != y && x != "+" && y != "+") {
            return false;
        }
    }
}

bool filter_covers(std::string_view outer, std::string_view inner) {
    Levels outers(outer);
    Levels inners(inner);
    for (bool first = true;; first = false) {
        if (!outers.more()) {
            return !inners.more();
        }
        const std::string_view x = outers.next();
        if (!inners.more()) {
            return x == "#";
        }
        const std::string_view y = inners.next();
        if (hidden_from_wildcard(x, y, first)) {
            return false;
        }
        if (x == "#") {
            return true;
        }
        if (y == "#") {
            // Stands for any rest, none included; but a topic has at least one level.
            return first && x == "+" && outers.more() && outers.next() == "#";
        }
        if (x != y && x != "+") {
            return false;
        }
    }
}

}  // namespace ipcbus::protocol
