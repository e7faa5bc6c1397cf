// SPDX-License-Identifier: Apache-2.0
// Topics and filters: their grammar and when they match. Used by daemon, library and tools; pure
// functions over views, no allocation, any thread.
//
// A topic is levels separated by `/`: `plant/7/temp`. 1 to kTopicBytesMax bytes, at most
// kTopicLevelsMax levels, no level empty, no control characters, no `+` and no `#`; UTF-8 is the
// caller's business. Topics whose first level begins with `$` belong to the bus.
// A filter may have `+` for one whole level and, as its last level, `#` for all the rest, none
// included (`plant/#` matches `plant`). Neither matches a first level that begins with `$`.
#pragma once

#include <string_view>

namespace ipcbus::protocol {

[[nodiscard]] bool valid_topic(std::string_view topic);
/// True for every valid topic, too: a filter without wildcards.
[[nodiscard]] bool valid_filter(std::string_view filter);
[[nodiscard]] bool has_wildcards(std::string_view filter);
[[nodiscard]] bool is_bus_topic(std::string_view topic);

/// Whether `topic` (valid, no wildcards) is named by `filter` (valid).
[[nodiscard]] bool topic_matches(std::string_view filter, std::string_view topic);
/// Whether there is a topic that both filters match: a subscription is attached to a publication
/// under a filter if they have one in common.
[[nodiscard]] bool filters_intersect(std::string_view a, std::string_view b);
/// Whether every topic that `inner` matches is matched by `outer`.
[[nodiscard]] bool filter_covers(std::string_view outer, std::string_view inner);

/// What is wrong with `filter` as a filter (or as a topic), for an error message; "" if nothing.
[[nodiscard]] const char* filter_fault(std::string_view filter);
[[nodiscard]] const char* topic_fault(std::string_view topic);

}  // namespace ipcbus::protocol
