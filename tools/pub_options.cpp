// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-pub; see pub_options.hpp.
#include "pub_options.hpp"

#include "protocol/limits.hpp"
#include "protocol/topic.hpp"
#include "signal_name.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <csignal>
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
    kFramed,
    kCount,
    kProgress,
    kTimeout,
    kRepeat,
    kRepeatDelay,
    kRate,
    kWaitSubs,
    kMaxBlock,
    kRingSize,
    kOnSignal,
    kFollow,
};

constexpr std::array kSpecs = {
    OptionSpec{kTopic, 't', "topic", true},
    OptionSpec{kMessage, 'm', "message", true},
    OptionSpec{kFile, 'f', "file", true},
    OptionSpec{kLines, 'l', "lines", false},
    OptionSpec{kStdin, 's', "stdin", false},
    OptionSpec{kEmpty, 'n', "empty", false},
    OptionSpec{kNul, '0', "null", false},
    OptionSpec{kFramed, '\0', "framed", false},
    OptionSpec{kCount, 'C', "count", true},
    OptionSpec{kProgress, 'P', "progress", false},
    OptionSpec{kTimeout, 'W', "timeout", true},
    OptionSpec{kRepeat, '\0', "repeat", true},
    OptionSpec{kRepeatDelay, '\0', "repeat-delay", true},
    OptionSpec{kRate, '\0', "rate", true},
    OptionSpec{kWaitSubs, '\0', "wait-subs", true},
    OptionSpec{kMaxBlock, '\0', "max-block", true},
    OptionSpec{kRingSize, '\0', "ring-size", true},
    OptionSpec{kFollow, '\0', "follow", true},
    OptionSpec{kOnSignal, '\0', "on-signal", true},
};

/// The smallest ring of at least so many bytes: rings are powers of two.
Result<std::uint64_t> ring_size_option(const Option& option) {
    const std::uint64_t bytes = IPCBUS_TRY(size_option(option));
    if (bytes == 0 || bytes > protocol::kRingBytesMax) {
        return fail(EINVAL, option.shown + " " + quoted(option.value) +
                                ": a ring has from 1 byte (rounded up to a power of two) to " +
                                std::to_string(protocol::kRingBytesMax >> 20) + "MiB");
    }
    return std::max(std::bit_ceil(bytes), protocol::kRingBytesMin);
}

/// What has been seen while the options are read, for what must not be given twice or together.
struct Seen {
    std::vector<std::string_view> topics;
    std::string payload;  // the option that chose it; empty: none
    std::string pace;     // --rate or --repeat-delay
    std::string repeat;   // --repeat or --repeat-delay
};

Result<void> take_payload(const Option& option, PubOptions::Payload payload, PubOptions& options,
                          Seen& seen) {
    if (!seen.payload.empty()) {
        return fail(EINVAL, "both " + seen.payload + " and " + option.shown +
                                " were given: a message has one source");
    }
    seen.payload = option.shown;
    options.payload = payload;
    options.text = option.value;
    return {};
}

Result<void> take_pace(const Option& option, Seen& seen) {
    if (!seen.pace.empty() && seen.pace != option.shown) {
        return fail(EINVAL, "both " + seen.pace + " and " + option.shown + " were given");
    }
    seen.pace = option.shown;
    return {};
}

Result<void> take_on_signal(const Option& option, PubOptions& options) {
    options.on_signal = IPCBUS_TRY(signal_option(option));
    if (options.on_signal == SIGKILL || options.on_signal == SIGSTOP ||
        options.on_signal == SIGALRM) {
        return fail(EINVAL, option.shown + " " + quoted(option.value) +
                                ": this one cannot be waited for here");
    }
    return {};
}

Result<void> take_option(const Option& option, PubOptions& options, Seen& seen) {
    using Payload = PubOptions::Payload;
    switch (option.id) {
        case kTopic: seen.topics.push_back(option.value); return {};
        case kMessage: return take_payload(option, Payload::text, options, seen);
        case kFile: return take_payload(option, Payload::file, options, seen);
        case kLines: return take_payload(option, Payload::lines, options, seen);
        case kStdin: return take_payload(option, Payload::whole, options, seen);
        case kEmpty: return take_payload(option, Payload::empty, options, seen);
        case kNul: return take_payload(option, Payload::nul, options, seen);
        case kFramed: return take_payload(option, Payload::framed, options, seen);
        case kProgress: options.progress = true; return {};
        case kCount: options.count_max = IPCBUS_TRY(count_option(option)); return {};
        case kTimeout: options.timeout_ns = IPCBUS_TRY(duration_option(option)); return {};
        case kRepeat:
            options.repeat = IPCBUS_TRY(count_option(option));
            seen.repeat = option.shown;
            return {};
        case kRepeatDelay:
            options.repeat_delay_ns = IPCBUS_TRY(duration_option(option));
            seen.repeat = option.shown;
            return take_pace(option, seen);
        case kRate:
            options.rate_hz = IPCBUS_TRY(rate_option(option));
            return take_pace(option, seen);
        case kWaitSubs: {
            const std::uint64_t count = IPCBUS_TRY(count_option(option));
            options.wait_subscribers = static_cast<std::uint32_t>(
                std::min<std::uint64_t>(count, std::numeric_limits<std::uint32_t>::max()));
            return {};
        }
        case kMaxBlock: options.max_block_ns = IPCBUS_TRY(duration_option(option)); return {};
        case kFollow:
            if (option.value.empty()) {
                return fail(EINVAL, "--follow needs the path of a FIFO");
            }
            options.fifo = option.value;
            return {};
        case kOnSignal: return take_on_signal(option, options);
        case kRingSize: options.ring_bytes = IPCBUS_TRY(ring_size_option(option)); return {};
        default: IPCBUS_ASSERT(!"an option of the table"); return {};
    }
}

Result<void> check_topic(const Seen& seen, PubOptions& options) {
    if (seen.topics.empty()) {
        return fail(EINVAL, "no topic was given");
    }
    if (seen.topics.size() > 1) {
        return fail(EINVAL, "one topic is needed, but " + quoted(seen.topics[1]) +
                                " was given, too (a payload goes with -m)");
    }
    options.topic = seen.topics.front();
    if (protocol::valid_filter(options.topic) && protocol::has_wildcards(options.topic)) {
        return fail(EINVAL, "cannot publish to " + quoted(options.topic) +
                                ": a topic to publish has no wildcards");
    }
    if (const char* fault = protocol::topic_fault(options.topic); *fault != '\0') {
        return fail(EINVAL, "cannot publish to " + quoted(options.topic) + ": " + fault);
    }
    return {};
}

}  // namespace

Result<PubOptions> parse_pub_options(std::span<char* const> arguments) {
    PubOptions options;
    Seen seen;
    const auto take = [&](const Option& option) { return take_option(option, options, seen); };
    const auto operands = IPCBUS_TRY(read_options(arguments, kSpecs, take, options.common));
    if (options.common.help || options.common.version) {
        return options;
    }
    seen.topics.insert(seen.topics.end(), operands.begin(), operands.end());
    IPCBUS_TRY(check_topic(seen, options));
    using Payload = PubOptions::Payload;
    if (!options.fifo.empty() &&
        (options.payload == Payload::text || options.payload == Payload::file ||
         options.payload == Payload::empty || options.on_signal != 0)) {
        return fail(EINVAL, "--follow and " +
                                (options.on_signal != 0 ? "--on-signal" : seen.payload) +
                                " do not go together: a message has one source");
    }
    if (options.on_signal != 0) {
        if (seen.payload.empty()) {
            options.payload = PubOptions::Payload::empty;
        }
        if (options.streams() || !seen.repeat.empty()) {
            return fail(EINVAL, "--on-signal and " +
                                    (options.streams() ? seen.payload : seen.repeat) +
                                    " do not go together: it publishes one message, each time");
        }
    }
    if (!seen.repeat.empty() && options.streams()) {
        return fail(EINVAL, seen.repeat + " repeats one message: it needs -m, -f, -s or -n, and no"
                                          " --follow");
    }
    return options;
}

std::string pub_help() {
    return std::string(
               "ipcbus-pub [OPTION]... [-t] TOPIC    publish messages to a topic of the bus\n"
               "  -t, --topic TOPIC    the topic, as an option\n"
               "What to publish, one of:\n"
               "  -l, --lines          a message a line of stdin (the default)\n"
               "  -0, --null           the same, ended by NUL bytes instead\n"
               "      --framed         the same, each after its length: u32, little-endian\n"
               "      --follow FIFO    the same of these from FIFO, whose writers come and go\n"
               "  -m, --message TEXT   -f, --file FILE   -s, --stdin  all of it   -n, --empty\n"
               "How many, how fast, how long (D: 500ms, 2s, 1.5):\n"
               "  -C, --count N        end after N messages   -P, --progress  rate, on stderr\n"
               "  -W, --timeout D      give up after D: exit 124\n"
               "      --repeat N       publish the message of -m -f -s -n N times\n"
               "      --repeat-delay D   with so much time between two of them\n"
               "      --rate HZ        at most so many messages a second\n"
               "      --on-signal SIG  the message of -m -f -s -n each time SIG (USR1) comes\n"
               "Delivery:\n"
               "      --wait-subs N    first wait until N subscribers are there\n"
               "      --max-block D    wait at most so long for slow subscribers: exit 124\n"
               "      --ring-size BYTES   (like 1MiB); a message is at most a quarter of it\n")
        .append(common_help())
        .append("Exit: 0 done, 1 error, 2 usage, 3 no connection, 4 denied, 124 timed out\n");
}

}  // namespace ipcbus::tools
