// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-stat; see stat_options.hpp.
#include "stat_options.hpp"

#include "protocol/topic.hpp"

#include <array>
#include <cerrno>

namespace ipcbus::tools {

using sys::fail;
using sys::Result;

namespace {

enum Id : int {
    kTopic = kFirstOfTool,
    kWatch,
    kCount,
    kOnce,
    kJson,
    kPrometheus,
    kAttachments,
    kSort,
};

constexpr std::array kSpecs = {
    OptionSpec{kTopic, 't', "topic", true},
    OptionSpec{kWatch, '\0', "watch", false, true},
    OptionSpec{kCount, 'C', "count", true},
    OptionSpec{kOnce, '1', "once", false},
    OptionSpec{kJson, 'j', "json", false},
    OptionSpec{kPrometheus, '\0', "prometheus", false},
    OptionSpec{kAttachments, 'a', "attachments", false},
    OptionSpec{kSort, '\0', "sort", true},
};

constexpr std::int64_t kIntervalMinNs = 10'000'000;
constexpr std::int64_t kIntervalMaxNs = 86'400'000'000'000;

/// What was given, as it was written; empty: not.
struct Seen {
    std::string form;
    std::string count;
    std::string style;
};

Result<void> both(const std::string& a, const std::string& b) {
    return fail(EINVAL, a + " and " + b + " do not go together");
}

Result<void> take_watch(const Option& option, StatOptions& options) {
    options.watch = true;
    if (option.value.data() == nullptr) {
        return {};
    }
    options.interval_ns = IPCBUS_TRY(duration_option(option));
    if (options.interval_ns < kIntervalMinNs || options.interval_ns > kIntervalMaxNs) {
        return fail(EINVAL, option.shown + " " + quoted(option.value) + ": not from 10ms to 24h");
    }
    return {};
}

Result<void> take_form(const Option& option, StatOptions::Form form, StatOptions& options,
                       Seen& seen) {
    if (!seen.form.empty() && seen.form != option.shown) {
        return both(seen.form, option.shown);
    }
    seen.form = option.shown;
    options.form = form;
    return {};
}

Result<void> take_sort(const Option& option, StatOptions& options) {
    for (const auto& [name, key] :
         {std::pair<std::string_view, stats::Sort>{"topic", stats::Sort::topic},
          {"rate", stats::Sort::rate},
          {"lag", stats::Sort::lag},
          {"lost", stats::Sort::lost}}) {
        if (option.value == name) {
            options.style.sort = key;
            return {};
        }
    }
    return fail(EINVAL,
                option.shown + " " + quoted(option.value) + ": not one of topic, rate, lag, lost");
}

Result<void> take_option(const Option& option, StatOptions& options, Seen& seen) {
    switch (option.id) {
    case kTopic:
        options.filters.emplace_back(option.value);
        return {};
    case kWatch:
        return take_watch(option, options);
    case kCount:
        seen.count = option.shown;
        options.count_max = IPCBUS_TRY(count_option(option));
        return {};
    case kOnce:
        options.once = true;
        return {};
    case kJson:
        return take_form(option, StatOptions::Form::json, options, seen);
    case kPrometheus:
        return take_form(option, StatOptions::Form::prometheus, options, seen);
    case kAttachments:
        seen.style = option.shown;
        options.style.attachments = true;
        return {};
    case kSort:
        seen.style = option.shown;
        return take_sort(option, options);
    default:
        IPCBUS_ASSERT(!"an option of the table");
        return {};
    }
}

Result<void> check(const Seen& seen, StatOptions& options) {
    if (!seen.count.empty() && !options.watch) {
        return fail(EINVAL, seen.count + " is for --watch");
    }
    if (options.once && options.watch) {
        return both("--once", "--watch");
    }
    if (options.form == StatOptions::Form::prometheus) {
        if (options.watch) {
            return both("--prometheus", "--watch");
        }
        options.once = true;  // who collects it makes the rates
    }
    if (!seen.form.empty() && !seen.style.empty()) {
        return both(seen.form, seen.style);
    }
    return {};
}

}  // namespace

Result<StatOptions> parse_stat_options(std::span<char* const> arguments) {
    StatOptions options;
    Seen seen;
    const auto take = [&](const Option& option) { return take_option(option, options, seen); };
    const auto operands = IPCBUS_TRY(read_options(arguments, kSpecs, take, options.common));
    if (options.common.help || options.common.version) {
        return options;
    }
    options.filters.insert(options.filters.end(), operands.begin(), operands.end());
    for (const std::string& filter : options.filters) {
        if (const char* fault = protocol::filter_fault(filter); *fault != '\0') {
            return fail(EINVAL, quoted(filter) + " is no topic: " + fault);
        }
    }
    IPCBUS_TRY(check(seen, options));
    return options;
}

std::string stat_help() {
    return std::string(
               "ipcbus-stat [OPTION]... [[-t] TOPIC]...    who publishes and reads what, how\n"
               "                                           fast, and who holds whom back\n"
               "  -t, --topic TOPIC      only what has to do with that topic or filter\n"
               "                         ('plant/#'); more than one: with any of them\n"
               "How often; without any of these: two looks, a second apart, and one report\n"
               "      --watch [D]        a report every D (500ms, 2s; 1s), redrawn on a terminal\n"
               "  -C, --count N          with --watch: end after N reports\n"
               "  -1, --once             one look, at once: no rates\n"
               "Output; without any of these: tables, which ipcbus-stat(1) explains\n"
               "  -a, --attachments      also each publication that each subscription reads\n"
               "      --sort KEY         by topic (the default), rate, lag or lost\n"
               "  -j, --json             a JSON object a line\n"
               "      --prometheus       text format of Prometheus, one look\n")
        .append(common_help())
        .append("Exit: 0 done, 1 error, 2 usage, 3 no connection, 4 denied\n");
}

}  // namespace ipcbus::tools
