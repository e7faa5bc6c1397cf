// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-reply; see reply_options.hpp.
#include "reply_options.hpp"

#include "protocol/topic.hpp"

#include <array>
#include <cerrno>
#include <vector>

namespace ipcbus::tools {

using sys::fail;
using sys::Result;

namespace {

enum Id : int {
    kTopic = kFirstOfTool,
    kExec,
    kExecTimeout,
    kEcho,
    kMessage,
    kCount,
    kTimeout,
    kReadyFd,
};

constexpr std::array kSpecs = {
    OptionSpec{kTopic, 't', "topic", true},
    OptionSpec{kExec, '\0', "exec", true},
    OptionSpec{kExecTimeout, '\0', "exec-timeout", true},
    OptionSpec{kEcho, '\0', "echo", false},
    OptionSpec{kMessage, 'm', "message", true},
    OptionSpec{kCount, 'C', "count", true},
    OptionSpec{kTimeout, 'W', "timeout", true},
    OptionSpec{kReadyFd, '\0', "ready-fd", true},
};

struct Seen {
    std::vector<std::string_view> filters;
    std::string answer;  // the option that chose it; empty: none
};

Result<void> take_answer(const Option& option, ReplyOptions::Answer answer, ReplyOptions& options,
                         Seen& seen) {
    if (!seen.answer.empty()) {
        return fail(EINVAL, "both " + seen.answer + " and " + option.shown +
                                " were given: a request is answered once");
    }
    seen.answer = option.shown;
    options.answer = answer;
    options.text = option.value;
    return {};
}

Result<void> take_option(const Option& option, ReplyOptions& options, Seen& seen) {
    using Answer = ReplyOptions::Answer;
    switch (option.id) {
        case kTopic: seen.filters.push_back(option.value); return {};
        case kExec:
            if (option.value.empty()) {
                return fail(EINVAL, "--exec needs a command");
            }
            return take_answer(option, Answer::command, options, seen);
        case kExecTimeout:
            options.exec_timeout_ns = IPCBUS_TRY(duration_option(option));
            return {};
        case kEcho: return take_answer(option, Answer::echo, options, seen);
        case kMessage: return take_answer(option, Answer::text, options, seen);
        case kCount: options.count_max = IPCBUS_TRY(count_option(option)); return {};
        case kTimeout: options.timeout_ns = IPCBUS_TRY(duration_option(option)); return {};
        case kReadyFd: options.ready_fd = IPCBUS_TRY(ready_fd_option(option)); return {};
        default: IPCBUS_ASSERT(!"an option of the table"); return {};
    }
}

}  // namespace

Result<ReplyOptions> parse_reply_options(std::span<char* const> arguments) {
    ReplyOptions options;
    Seen seen;
    const auto take = [&](const Option& option) { return take_option(option, options, seen); };
    const auto operands = IPCBUS_TRY(read_options(arguments, kSpecs, take, options.common));
    if (options.common.help || options.common.version) {
        return options;
    }
    seen.filters.insert(seen.filters.end(), operands.begin(), operands.end());
    if (seen.filters.empty()) {
        return fail(EINVAL, "no topic was given");
    }
    if (seen.filters.size() > 1) {
        return fail(EINVAL, "one topic is needed, but " + quoted(seen.filters[1]) +
                                " was given, too (a command goes with --exec)");
    }
    options.filter = seen.filters.front();
    if (const char* fault = protocol::filter_fault(options.filter); *fault != '\0') {
        return fail(EINVAL, "cannot serve " + quoted(options.filter) + ": " + fault);
    }
    if (seen.answer.empty()) {
        return fail(EINVAL, "nothing was given to answer with: --exec CMD, --echo or -m TEXT");
    }
    if (options.exec_timeout_ns >= 0 && options.answer != ReplyOptions::Answer::command) {
        return fail(EINVAL, "--exec-timeout goes with --exec");
    }
    return options;
}

std::string reply_help() {
    return std::string(
               "ipcbus-reply [OPTION]... [-t] TOPIC --exec CMD    answer requests to topics\n"
               "  -t, --topic TOPIC      the topic, as an option; with wildcards: + is one\n"
               "                         level, # all the rest ('calc/+')\n"
               "How to answer, one of:\n"
               "      --exec CMD         run CMD in a shell for each request: request on its\n"
               "                         stdin, $IPCBUS_TOPIC, $IPCBUS_UID and more in its\n"
               "                         environment; the reply is what it writes to stdout,\n"
               "                         with its exit status\n"
               "      --exec-timeout D   end a CMD that takes longer than D: status 125\n"
               "      --echo             with the request itself\n"
               "  -m, --message TEXT     with TEXT\n"
               "How many, how long (D: 500ms, 2s, 1.5):\n"
               "  -C, --count N          end after N requests\n"
               "  -W, --timeout D        give up after D: exit 124\n"
               "      --ready-fd FD      write a line to FD once requests come, and close it\n")
        .append(common_help())
        .append("Exit: 0 done, 1 error, 2 usage, 3 no connection, 4 denied, 124 timed out\n");
}

}  // namespace ipcbus::tools
