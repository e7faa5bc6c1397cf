// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-cat; see cat_options.hpp.
#include "cat_options.hpp"

#include "protocol/topic.hpp"
#include "signal_name.hpp"

#include <array>
#include <cerrno>

namespace ipcbus::tools {

using sys::fail;
using sys::Result;

namespace {

enum Id : int {
    kTopic = kFirstOfTool,
    kCount,
    kTimeout,
    kEnd,
    kIdle,
    kNoNewline,
    kVerbose,
    kFormat,
    kJson,
    kHex,
    kNul,
    kFramed,
    kMode,
    kFrom,
    kStrict,
    kProgress,
    kReadyFd,
    kExec,
    kSignal,
    kPidfile,
};

constexpr std::array kSpecs = {
    OptionSpec{kTopic, 't', "topic", true},
    OptionSpec{kCount, 'C', "count", true},
    OptionSpec{kTimeout, 'W', "timeout", true},
    OptionSpec{kEnd, '\0', "end", false},
    OptionSpec{kIdle, '\0', "idle", true},
    OptionSpec{kNoNewline, 'N', "no-newline", false},
    OptionSpec{kVerbose, 'v', "verbose", false},
    OptionSpec{kFormat, 'F', "format", true},
    OptionSpec{kJson, 'j', "json", false},
    OptionSpec{kHex, 'x', "hex", false},
    OptionSpec{kNul, '0', "null", false},
    OptionSpec{kFramed, '\0', "framed", false},
    OptionSpec{kMode, '\0', "mode", true},
    OptionSpec{kFrom, '\0', "from", true},
    OptionSpec{kStrict, '\0', "strict", false},
    OptionSpec{kProgress, 'P', "progress", false},
    OptionSpec{kReadyFd, '\0', "ready-fd", true},
    OptionSpec{kExec, '\0', "exec", true},
    OptionSpec{kSignal, '\0', "signal", true},
    OptionSpec{kPidfile, '\0', "pidfile", true},
};

/// Which options have chosen the output, as they were written; empty: none.
struct Seen {
    std::string content;
    std::string end;
    std::string topic;
};

Result<void> both(const std::string& a, const std::string& b) {
    return fail(EINVAL, a + " and " + b + " do not go together");
}

Result<void> take_content(const Option& option, OutputStyle::Content content, CatOptions& options,
                          Seen& seen) {
    if (!seen.content.empty() && seen.content != option.shown) {
        return both(seen.content, option.shown);
    }
    seen.content = option.shown;
    options.style.content = content;
    return {};
}

Result<void> take_end(const Option& option, OutputStyle::End end, CatOptions& options, Seen& seen) {
    if (!seen.end.empty() && seen.end != option.shown) {
        return both(seen.end, option.shown);
    }
    seen.end = option.shown;
    options.style.end = end;
    return {};
}

Result<void> take_format(const Option& option, CatOptions& options, Seen& seen) {
    IPCBUS_TRY(take_content(option, OutputStyle::Content::format, options, seen));
    auto format = Format::parse(option.value);
    if (!format.ok()) {
        return fail(EINVAL, option.shown + " " + quoted(option.value) + ": " + format.error().what);
    }
    options.style.format = std::move(format).value();
    return {};
}

Result<void> take_mode(const Option& option, CatOptions& options) {
    if (option.value == "reliable") {
        options.mode = IPCBUS_RELIABLE;
    } else if (option.value == "lossy") {
        options.mode = IPCBUS_LOSSY;
    } else if (option.value == "latest") {
        options.mode = IPCBUS_LATEST;
    } else {
        return fail(EINVAL, option.shown + " " + quoted(option.value) +
                                ": not one of reliable, lossy, latest");
    }
    return {};
}

Result<void> take_from(const Option& option, CatOptions& options) {
    constexpr std::string_view kLast = "last:";
    if (option.value == "new") {
        options.history = 0;
        return {};
    }
    if (option.value == "oldest") {
        options.history = IPCBUS_OLDEST;
        return {};
    }
    if (option.value.starts_with(kLast)) {
        if (const auto count = parse_count(option.value.substr(kLast.size()), 1); count.ok()) {
            options.history = count.value();
            return {};
        }
    }
    return fail(EINVAL, option.shown + " " + quoted(option.value) +
                            ": not one of new, oldest, last:N (N at least 1)");
}

Result<void> take_option(const Option& option, CatOptions& options, Seen& seen) {
    using Content = OutputStyle::Content;
    using End = OutputStyle::End;
    switch (option.id) {
        case kTopic: options.filters.emplace_back(option.value); return {};
        case kCount: options.count_max = IPCBUS_TRY(count_option(option)); return {};
        case kTimeout: options.timeout_ns = IPCBUS_TRY(duration_option(option)); return {};
        case kEnd: options.end = true; return {};
        case kIdle: options.idle_ns = IPCBUS_TRY(duration_option(option)); return {};
        case kNoNewline: return take_end(option, End::nothing, options, seen);
        case kNul: return take_end(option, End::nul, options, seen);
        case kVerbose:
            options.style.with_topic = true;
            seen.topic = option.shown;
            return {};
        case kFormat: return take_format(option, options, seen);
        case kJson: return take_content(option, Content::json, options, seen);
        case kHex: return take_content(option, Content::hex, options, seen);
        case kFramed: return take_content(option, Content::framed, options, seen);
        case kMode: return take_mode(option, options);
        case kFrom: return take_from(option, options);
        case kStrict: options.strict = true; return {};
        case kProgress: options.progress = true; return {};
        case kReadyFd: options.ready_fd = IPCBUS_TRY(ready_fd_option(option)); return {};
        case kExec:
            if (option.value.empty()) {
                return fail(EINVAL, "--exec needs a command");
            }
            options.command = option.value;
            return {};
        case kSignal: options.signal = IPCBUS_TRY(signal_option(option)); return {};
        case kPidfile:
            if (option.value.empty()) {
                return fail(EINVAL, "--pidfile needs the path of a file");
            }
            options.pidfile = option.value;
            return {};
        default: IPCBUS_ASSERT(!"an option of the table"); return {};
    }
}

Result<void> check_output(const Seen& seen, CatOptions& options) {
    using Content = OutputStyle::Content;
    const Content content = options.style.content;
    if ((options.signal != 0) != !options.pidfile.empty()) {
        return fail(EINVAL, "--signal and --pidfile go together: what to send, and to whom");
    }
    const std::string instead = !options.command.empty() ? "--exec"
                                : options.signal != 0    ? "--signal"
                                                         : "";
    if (!instead.empty()) {
        for (const std::string& other : {seen.content, seen.end, seen.topic}) {
            if (!other.empty()) {
                return both(instead, other);
            }
        }
    }
    if (!options.command.empty() && options.signal != 0) {
        return both("--exec", "--signal");
    }
    if (options.style.with_topic && content != Content::payload && content != Content::hex) {
        return both(seen.topic, seen.content);
    }
    if (content == Content::framed && !seen.end.empty()) {
        return both(seen.content, seen.end);
    }
    if (seen.end.empty() && (content == Content::framed || content == Content::format)) {
        options.style.end = OutputStyle::End::nothing;  // a format says itself where lines end
    }
    if (options.strict && options.mode == IPCBUS_LATEST) {
        return both("--strict", "--mode latest");  // which loses messages on purpose
    }
    return {};
}

}  // namespace

Result<CatOptions> parse_cat_options(std::span<char* const> arguments) {
    CatOptions options;
    Seen seen;
    const auto take = [&](const Option& option) { return take_option(option, options, seen); };
    const auto operands = IPCBUS_TRY(read_options(arguments, kSpecs, take, options.common));
    if (options.common.help || options.common.version) {
        return options;
    }
    options.filters.insert(options.filters.end(), operands.begin(), operands.end());
    if (options.filters.empty()) {
        return fail(EINVAL, "no topic was given");
    }
    for (const std::string& filter : options.filters) {
        if (const char* fault = protocol::filter_fault(filter); *fault != '\0') {
            return fail(EINVAL, "cannot subscribe to " + quoted(filter) + ": " + fault);
        }
    }
    IPCBUS_TRY(check_output(seen, options));
    return options;
}

std::string cat_help() {
    return std::string(
               "ipcbus-cat [OPTION]... [-t] TOPIC...    write messages of topics to stdout\n"
               "  -t, --topic TOPIC    with wildcards: + is a level, # all the rest ('a/+/c')\n"
               "How many, how long (D: 500ms, 2s, 1.5):\n"
               "  -C, --count N        end after N messages   --idle D  D without a message\n"
               "  -W, --timeout D      give up: exit 124      --end     nothing is to be read\n"
               "Output; without any of these: the payload and a newline\n"
               "  -N, --no-newline     no newline         -0, --null  a NUL byte instead of it\n"
               "  -v, --verbose        topic, space, payload\n"
               "  -x, --hex            payload in hexadecimal; also with -v\n"
               "  -j, --json           a JSON object a line   -P, --progress  rate, on stderr\n"
               "      --framed         length (u32, little-endian), payload\n"
               "  -F, --format FMT     %t topic %p payload %x hex %l length %s sequence %L lost\n"
               "                       %I ISO time %U unix time of receipt %j JSON %% \\n \\t \\0\n"
               "      --exec CMD       run CMD for each: payload on stdin, $IPCBUS_TOPIC...\n"
               "      --signal SIG --pidfile FILE   send SIG (HUP) for each to whom FILE names\n"
               "Delivery:\n"
               "      --mode MODE      reliable (the default), lossy, latest\n"
               "      --from FROM      new (the default), oldest, last:N of what was published\n"
               "      --strict         exit 5 if one is lost  --ready-fd FD  say: subscribed\n")
        .append(common_help())
        .append("Exit: 0 done, 1 error, 2 usage, 3 no connection, 4 denied, 5 lost, 124 late\n");
}

}  // namespace ipcbus::tools
