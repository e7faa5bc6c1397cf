// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-req; see req_options.hpp.
#include "req_options.hpp"

#include "protocol/limits.hpp"
#include "protocol/topic.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <vector>

namespace ipcbus::tools {

using sys::fail;
using sys::Result;

namespace {

enum Id : int {
    kTopic = kFirstOfTool,
    kMessage,
    kFile,
    kLines,
    kStdin,
    kEmpty,
    kNul,
    kAll,
    kCount,
    kTimeout,
    kWaitResponders,
    kMaxRequest,
    kMaxReply,
    kNoNewline,
    kFormat,
    kJson,
    kHex,
};

constexpr std::array kSpecs = {
    OptionSpec{kTopic, 't', "topic", true},
    OptionSpec{kMessage, 'm', "message", true},
    OptionSpec{kFile, 'f', "file", true},
    OptionSpec{kLines, 'l', "lines", false},
    OptionSpec{kStdin, 's', "stdin", false},
    OptionSpec{kEmpty, 'n', "empty", false},
    OptionSpec{kNul, '0', "null", false},
    OptionSpec{kAll, 'a', "all", false},
    OptionSpec{kCount, 'C', "count", true},
    OptionSpec{kTimeout, 'W', "timeout", true},
    OptionSpec{kWaitResponders, '\0', "wait-responders", true},
    OptionSpec{kMaxRequest, '\0', "max-request", true},
    OptionSpec{kMaxReply, '\0', "max-reply", true},
    OptionSpec{kNoNewline, 'N', "no-newline", false},
    OptionSpec{kFormat, 'F', "format", true},
    OptionSpec{kJson, 'j', "json", false},
    OptionSpec{kHex, 'x', "hex", false},
};

/// What has been seen while the options are read, for what must not be given twice or together.
struct Seen {
    std::vector<std::string_view> topics;
    std::string payload;  // the option that chose it; empty: none
    std::string content;  // the same for the output
    std::string end;
};

Result<void> take_payload(const Option& option, ReqOptions::Payload payload, ReqOptions& options,
                          Seen& seen) {
    if (!seen.payload.empty()) {
        return fail(EINVAL, "both " + seen.payload + " and " + option.shown +
                                " were given: a request has one source");
    }
    seen.payload = option.shown;
    options.payload = payload;
    options.text = option.value;
    return {};
}

Result<void> take_content(const Option& option, OutputStyle::Content content, ReqOptions& options,
                          Seen& seen) {
    if (!seen.content.empty() && seen.content != option.shown) {
        return fail(EINVAL, seen.content + " and " + option.shown + " do not go together");
    }
    seen.content = option.shown;
    options.style.content = content;
    return {};
}

Result<void> take_format(const Option& option, ReqOptions& options, Seen& seen) {
    IPCBUS_TRY(take_content(option, OutputStyle::Content::format, options, seen));
    auto format = Format::parse(option.value, Format::Of::replies);
    if (!format.ok()) {
        return fail(EINVAL, option.shown + " " + quoted(option.value) + ": " + format.error().what);
    }
    options.style.format = std::move(format).value();
    return {};
}

/// So many bytes as some ring takes.
Result<std::uint64_t> bytes_option(const Option& option) {
    constexpr std::uint64_t kMost = protocol::kRingBytesMax / protocol::kPayloadPart;
    const std::uint64_t bytes = IPCBUS_TRY(size_option(option));
    if (bytes == 0 || bytes > kMost) {
        return fail(EINVAL, option.shown + " " + quoted(option.value) +
                                ": from 1 byte to " + std::to_string(kMost >> 20) + "MiB");
    }
    return bytes;
}

Result<void> take_option(const Option& option, ReqOptions& options, Seen& seen) {
    using Payload = ReqOptions::Payload;
    using Content = OutputStyle::Content;
    switch (option.id) {
        case kTopic: seen.topics.push_back(option.value); return {};
        case kMessage: return take_payload(option, Payload::text, options, seen);
        case kFile: return take_payload(option, Payload::file, options, seen);
        case kLines: return take_payload(option, Payload::lines, options, seen);
        case kStdin: return take_payload(option, Payload::whole, options, seen);
        case kEmpty: return take_payload(option, Payload::empty, options, seen);
        case kNul: return take_payload(option, Payload::nul, options, seen);
        case kAll: options.all = true; return {};
        case kCount:
            options.count = IPCBUS_TRY(count_option(option));
            options.all = true;
            return {};
        case kTimeout: options.timeout_ns = IPCBUS_TRY(duration_option(option)); return {};
        case kWaitResponders: {
            const std::uint64_t count = IPCBUS_TRY(count_option(option));
            options.wait_responders = static_cast<std::uint32_t>(
                std::min<std::uint64_t>(count, std::numeric_limits<std::uint32_t>::max()));
            return {};
        }
        case kMaxRequest: options.request_bytes_max = IPCBUS_TRY(bytes_option(option)); return {};
        case kMaxReply: options.reply_bytes_max = IPCBUS_TRY(bytes_option(option)); return {};
        case kNoNewline:
            options.style.end = OutputStyle::End::nothing;
            seen.end = option.shown;
            return {};
        case kFormat: return take_format(option, options, seen);
        case kJson: return take_content(option, Content::json, options, seen);
        case kHex: return take_content(option, Content::hex, options, seen);
        default: IPCBUS_ASSERT(!"an option of the table"); return {};
    }
}

}  // namespace

Result<ReqOptions> parse_req_options(std::span<char* const> arguments) {
    ReqOptions options;
    Seen seen;
    const auto take = [&](const Option& option) { return take_option(option, options, seen); };
    const auto operands = IPCBUS_TRY(read_options(arguments, kSpecs, take, options.common));
    if (options.common.help || options.common.version) {
        return options;
    }
    seen.topics.insert(seen.topics.end(), operands.begin(), operands.end());
    if (seen.topics.empty()) {
        return fail(EINVAL, "no topic was given");
    }
    if (seen.topics.size() > 1) {
        return fail(EINVAL, "one topic is needed, but " + quoted(seen.topics[1]) +
                                " was given, too (a request goes with -m)");
    }
    options.topic = seen.topics.front();
    if (const char* fault = protocol::topic_fault(options.topic); *fault != '\0') {
        return fail(EINVAL, "cannot send requests to " + quoted(options.topic) + ": " + fault);
    }
    if (options.style.content == OutputStyle::Content::format && seen.end.empty()) {
        options.style.end = OutputStyle::End::nothing;  // a format says itself where lines end
    }
    return options;
}

std::string req_help() {
    return std::string(
               "ipcbus-req [OPTION]... [-t] TOPIC    send requests, write the replies to stdout\n"
               "  -t, --topic TOPIC the topic, as an option\n"
               "What to ask, one of:\n"
               "  -l, --lines       a request a line of stdin, one after the other (the default)\n"
               "  -0, --null        the same, ended by NUL bytes instead\n"
               "  -s, --stdin       all of stdin is one request    -n, --empty  an empty request\n"
               "  -f, --file FILE   the contents of FILE   -m, --message TEXT   TEXT itself\n"
               "Whom, how long (D: 500ms, 2s, 1.5); without -a and -C: one of those who serve\n"
               "  -a, --all         everyone who serves the topic; each answers\n"
               "  -C, --count N     the same, but the first N replies are enough\n"
               "  -W, --timeout D   give up on a request after D (10s): exit 124\n"
               "      --wait-responders N  first wait until N serve the topic\n"
               "      --max-request BYTES, --max-reply BYTES   the largest of each (256KiB)\n"
               "Output; without any of these: the reply and a newline\n"
               "  -N, --no-newline  no newline  -x, --hex  hexadecimal  -j, --json  a line each\n"
               "  -F, --format FMT  %t topic %p reply %x hex %l length %s number of the request\n"
               "                    %S status %r responder %u its uid, %I ISO time and %U\n"
               "                    unix time of receipt, %j JSON, %%, \\n \\t \\0\n")
        .append(common_help())
        .append("Exit: 0 done, 1 error (also: the responder has gone), 2 usage, 3 no connection,\n"
                "      4 denied, 6 a status is not 0, 7 nobody serves the topic, 124 timed out\n");
}

}  // namespace ipcbus::tools
