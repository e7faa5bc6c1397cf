// SPDX-License-Identifier: Apache-2.0
// The command line of ipcbus-bench; see bench_options.hpp.
#include "bench_options.hpp"

#include "bench/placement.hpp"
#include "protocol/limits.hpp"
#include "protocol/topic.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <limits>
#include <string_view>

namespace ipcbus::tools {

using sys::Error;
using sys::fail;
using sys::Result;

namespace {

using Mode = BenchOptions::Mode;
using Wait = BenchOptions::Wait;

enum Id : int {
    kJson = kFirstOfTool,
    kTopic,
    kPrivate,
    kDaemon,
    kSize,
    kMode,
    kStrict,
    kBatch,
    kReadBatch,
    kInPlace,
    kReadInPlace,
    kUntouched,
    kWait,
    kRing,
    kReaders,
    kDuration,
    kWarmup,
    kSlice,
    kRepeat,
    kPin,
    kClients,
    kPublications,
    kSubscriptions,
    kMatches,
    kProcesses,
};

// Which modes an option is for.
constexpr unsigned kLatency = 1u << static_cast<unsigned>(Mode::latency);
constexpr unsigned kRequest = 1u << static_cast<unsigned>(Mode::request);
constexpr unsigned kThroughput = 1u << static_cast<unsigned>(Mode::throughput);
constexpr unsigned kFanout = 1u << static_cast<unsigned>(Mode::fanout);
constexpr unsigned kConnect = 1u << static_cast<unsigned>(Mode::connect);
constexpr unsigned kControl = 1u << static_cast<unsigned>(Mode::control);
constexpr unsigned kStreams = kThroughput | kFanout;
constexpr unsigned kData = kLatency | kStreams;
constexpr unsigned kTimed = kData | kRequest;
constexpr unsigned kAll = kTimed | kConnect | kControl;

struct BenchSpec {
    OptionSpec option;
    unsigned modes;
};

constexpr std::array kSpecs = {
    BenchSpec{{kJson, 'j', "json", false}, kAll},
    BenchSpec{{kTopic, 't', "topic", true}, kAll},
    BenchSpec{{kPrivate, '\0', "private", false}, kAll},
    BenchSpec{{kDaemon, '\0', "daemon", true}, kAll},
    BenchSpec{{kSize, '\0', "size", true}, kTimed},
    BenchSpec{{kMode, '\0', "mode", true}, kData},
    BenchSpec{{kStrict, '\0', "strict", false}, kStreams},
    BenchSpec{{kBatch, '\0', "batch", true}, kStreams},
    BenchSpec{{kReadBatch, '\0', "read-batch", true}, kStreams},
    BenchSpec{{kInPlace, '\0', "in-place", false}, kData},
    BenchSpec{{kReadInPlace, '\0', "read-in-place", false}, kData},
    BenchSpec{{kUntouched, '\0', "untouched", false}, kData},
    BenchSpec{{kWait, '\0', "wait", true}, kTimed},
    BenchSpec{{kRing, '\0', "ring", true}, kAll},
    BenchSpec{{kReaders, '\0', "readers", true}, kFanout},
    BenchSpec{{kDuration, '\0', "duration", true}, kTimed | kConnect},
    BenchSpec{{kWarmup, '\0', "warmup", true}, kTimed | kConnect},
    BenchSpec{{kSlice, '\0', "slice", true}, kTimed},
    BenchSpec{{kRepeat, '\0', "repeat", true}, kAll},
    BenchSpec{{kPin, '\0', "pin", true}, kAll},
    BenchSpec{{kClients, '\0', "clients", true}, kControl},
    BenchSpec{{kPublications, '\0', "publications", true}, kControl},
    BenchSpec{{kSubscriptions, '\0', "subscriptions", true}, kControl},
    BenchSpec{{kMatches, '\0', "matches", true}, kControl},
    BenchSpec{{kProcesses, '\0', "processes", true}, kControl},
};

constexpr std::array kModeNames = {std::string_view("latency"),    std::string_view("request"),
                                   std::string_view("throughput"), std::string_view("fanout"),
                                   std::string_view("connect"),    std::string_view("control")};
constexpr std::array kWaitNames = {std::string_view("spin"), std::string_view("adaptive"),
                                   std::string_view("sleep")};
constexpr std::array kDeliveryNames = {std::string_view("reliable"), std::string_view("lossy"),
                                       std::string_view("latest")};
static_assert(IPCBUS_RELIABLE == 0 && IPCBUS_LOSSY == 1 && IPCBUS_LATEST == 2);

constexpr std::uint32_t kBatchMax = 1024;
constexpr std::uint32_t kReadersMax = 64;
constexpr std::uint32_t kRepeatMax = 1000;
constexpr std::uint32_t kProcessesMax = 64;
constexpr std::uint32_t kHandlesMax = 1'000'000;
constexpr std::int64_t kDurationNsMax = 3'600'000'000'000;
/// Room for the sources of a batch.
constexpr std::uint64_t kBatchBytesMax = 256ull << 20;

Error refuse(const Option& option, const std::string& why) {
    return fail(EINVAL, option.shown + " " + quoted(option.value) + ": " + why);
}

Result<std::uint32_t> number_option(const Option& option, std::uint32_t least, std::uint32_t most) {
    const std::uint64_t count = IPCBUS_TRY(count_option(option, least));
    if (count > most) {
        return refuse(option, std::to_string(most) + " at most");
    }
    return static_cast<std::uint32_t>(count);
}

Result<std::int64_t> time_option(const Option& option, std::int64_t least_ns) {
    const std::int64_t time_ns = IPCBUS_TRY(duration_option(option));
    if (time_ns < least_ns || time_ns > kDurationNsMax) {
        return refuse(option,
                      "from " + show_duration(least_ns) + " to " + show_duration(kDurationNsMax));
    }
    return time_ns;
}

/// Which of `names` it is.
template <std::size_t N>
Result<std::uint32_t> word_option(const Option& option,
                                  const std::array<std::string_view, N>& names) {
    std::string all;
    for (std::uint32_t i = 0; i < N; ++i) {
        if (option.value == names[i]) {
            return i;
        }
        all.append(all.empty() ? "" : ", ").append(names[i]);
    }
    return refuse(option, "not one of " + all);
}

Result<std::uint64_t> bytes_option(const Option& option, std::uint64_t most) {
    const std::uint64_t bytes = IPCBUS_TRY(size_option(option));
    if (bytes > most) {
        return refuse(option, std::to_string(most >> 20) + "MiB at most");
    }
    return bytes;
}

Result<void> take_batch(const Option& option, BenchOptions& options) {
    const std::uint32_t count = IPCBUS_TRY(number_option(option, 1, kBatchMax));
    (option.id == kBatch ? options.write_batch : options.read_batch) = count;
    return {};
}

Result<void> take_pin(const Option& option, BenchOptions& options) {
    auto cpus = measure::parse_cpus(option.value);
    if (!cpus.ok()) {
        return refuse(option, cpus.error().what);
    }
    options.pin = std::move(cpus).value();
    return {};
}

Result<void> take_control(const Option& option, BenchOptions& options) {
    switch (option.id) {
        case kClients:
            options.clients = IPCBUS_TRY(number_option(option, 1, kHandlesMax));
            return {};
        case kPublications:
            options.publications = IPCBUS_TRY(number_option(option, 0, kHandlesMax));
            return {};
        case kSubscriptions:
            options.subscriptions = IPCBUS_TRY(number_option(option, 0, kHandlesMax));
            return {};
        case kMatches:
            options.matches = IPCBUS_TRY(number_option(option, 0, kHandlesMax));
            return {};
        default: options.processes = IPCBUS_TRY(number_option(option, 1, kProcessesMax)); return {};
    }
}

Result<void> take_option(const Option& option, BenchOptions& options) {
    switch (option.id) {
        case kJson: options.json = true; return {};
        case kTopic: options.topic = option.value; return {};
        case kPrivate: options.private_bus = true; return {};
        case kDaemon: options.daemon_path = option.value; return {};
        case kSize:
            options.size =
                IPCBUS_TRY(bytes_option(option, protocol::kRingBytesMax / protocol::kPayloadPart));
            return {};
        case kMode: options.delivery = IPCBUS_TRY(word_option(option, kDeliveryNames)); return {};
        case kStrict: options.strict = true; return {};
        case kBatch:
        case kReadBatch: return take_batch(option, options);
        case kInPlace: options.write_in_place = options.read_in_place = true; return {};
        case kReadInPlace: options.read_in_place = true; return {};
        case kUntouched: options.untouched = true; return {};
        case kWait:
            options.wait = static_cast<Wait>(IPCBUS_TRY(word_option(option, kWaitNames)));
            return {};
        case kRing:
            options.ring_bytes = IPCBUS_TRY(bytes_option(option, protocol::kRingBytesMax));
            options.ring_bytes = std::bit_ceil(std::max<std::uint64_t>(options.ring_bytes, 1));
            return {};
        case kReaders:
            options.readers = IPCBUS_TRY(number_option(option, 1, kReadersMax));
            return {};
        case kDuration: options.duration_ns = IPCBUS_TRY(time_option(option, 1'000'000)); return {};
        case kWarmup: options.warmup_ns = IPCBUS_TRY(time_option(option, 0)); return {};
        case kSlice: options.slice_ns = IPCBUS_TRY(time_option(option, 100'000)); return {};
        case kRepeat: options.repeat = IPCBUS_TRY(number_option(option, 1, kRepeatMax)); return {};
        case kPin: return take_pin(option, options);
        default: return take_control(option, options);
    }
}

/// The first operand is the mode; an option that the mode has no use for is a mistake.
Result<void> check_mode(const std::vector<std::string_view>& operands,
                        const std::vector<Option>& given, BenchOptions& options) {
    if (operands.empty()) {
        return fail(EINVAL, "no mode was given (latency, request, throughput, fanout, "
                            "connect, control)");
    }
    const Option mode{0, "mode", operands[0]};
    options.mode = static_cast<Mode>(IPCBUS_TRY(word_option(mode, kModeNames)));
    if (operands.size() > 1) {
        return fail(EINVAL, "one mode is enough, but " + quoted(operands[1]) + " was given, too");
    }
    for (const Option& option : given) {
        const auto spec = std::find_if(kSpecs.begin(), kSpecs.end(), [&](const BenchSpec& one) {
            return one.option.id == option.id;
        });
        IPCBUS_ASSERT(spec != kSpecs.end());
        if ((spec->modes >> static_cast<unsigned>(options.mode) & 1) == 0) {
            return fail(EINVAL,
                        option.shown + " says nothing to " + std::string(mode_name(options.mode)));
        }
    }
    return {};
}

Result<void> check_together(const BenchOptions& options) {
    if (options.write_batch > 1 && options.write_in_place) {
        return fail(EINVAL,
                    "--batch and --in-place do not go together: one message is claimed at "
                    "a time (--read-in-place does)");
    }
    if (options.untouched && !options.write_in_place) {
        return fail(EINVAL, "--untouched needs --in-place: what is copied is touched");
    }
    if (options.write_batch * options.size > kBatchBytesMax) {
        return fail(EINVAL, "--batch times --size is more than " +
                                std::to_string(kBatchBytesMax >> 20) + "MiB");
    }
    if (options.private_bus && !options.common.address.empty()) {
        return fail(EINVAL, "--private and --address do not go together");
    }
    if (!options.daemon_path.empty() && !options.private_bus) {
        return fail(EINVAL, "--daemon needs --private");
    }
    if (options.matches > options.publications) {
        return fail(EINVAL, "--matches is more than --publications");
    }
    constexpr std::size_t kRestMax = 32;  // of a topic, below what is given
    const std::string_view topic = options.topic;
    if (const char* fault = protocol::topic_fault(topic); !topic.empty() && *fault != '\0') {
        return fail(EINVAL, "cannot use topic " + quoted(topic) + ": " + fault);
    }
    if (topic.size() + kRestMax > protocol::kTopicBytesMax) {
        return fail(EINVAL, "topic " + quoted(topic) + " leaves no room for what goes below it");
    }
    return {};
}

}  // namespace

std::int64_t BenchOptions::spin_ns() const {
    switch (wait) {
        case Wait::spin: return std::numeric_limits<std::int64_t>::max();
        case Wait::adaptive: return 0;
        case Wait::sleep: break;
    }
    return -1;
}

std::string_view mode_name(Mode mode) { return kModeNames[static_cast<std::size_t>(mode)]; }
std::string_view wait_name(Wait wait) { return kWaitNames[static_cast<std::size_t>(wait)]; }
std::string_view delivery_name(std::uint32_t delivery) { return kDeliveryNames[delivery]; }

Result<BenchOptions> parse_bench_options(std::span<char* const> arguments) {
    BenchOptions options;
    std::vector<OptionSpec> specs;
    for (const BenchSpec& spec : kSpecs) {
        specs.push_back(spec.option);
    }
    std::vector<Option> given;
    const auto take = [&](const Option& option) {
        given.push_back(option);
        return take_option(option, options);
    };
    const auto operands =
        IPCBUS_TRY(read_options(arguments, specs, take, options.common, kModeNames));
    if (options.common.help || options.common.version) {
        return options;
    }
    IPCBUS_TRY(check_mode(operands, given, options));
    IPCBUS_TRY(check_together(options));
    if (options.read_batch == 0) {
        options.read_batch = options.write_batch;
    }
    return options;
}

std::string bench_help() {
    return std::string(
               "ipcbus-bench [OPTION]... MODE    measure the ipcbus message bus\n"
               "  latency       one way, of a ping-pong between two processes\n"
               "  request       the same in turn with requests and replies, and how they compare\n"
               "  throughput    one publisher, one subscriber, as fast as it goes\n"
               "  fanout        one publisher, --readers subscribers; what a publish costs it\n"
               "  connect       from connecting to the first message\n"
               "  control       setting up thousands of clients, publications, subscriptions\n"
               "Messages (latency, throughput, fanout; request takes --size and --wait):\n"
               "  --size BYTES (64) --mode reliable|lossy|latest --wait spin|adaptive|sleep\n"
               "  --in-place          filled and read where they lie\n"
               "  --read-in-place     copied in, read where they lie\n"
               "  --untouched         with --in-place: handed over, not filled or read\n"
               "  --batch N, --read-batch N   publish and read N a call, read up to N a call\n"
               "  --readers N         of fanout, 1 to 64    --strict  exit 5 if one was lost\n"
               "Setting up (control): --clients N --publications N --subscriptions N\n"
               "  --matches N         of each subscription  --processes N  of the clients (4)\n"
               "How long: --duration D (3s) --warmup D (300ms) --slice D (5ms) --repeat N\n"
               "  --ring BYTES        of each ring       --pin CPUS  publisher's, subscribers'\n"
               "  -j, --json   -t, --topic TOPIC   --private  on its own bus   --daemon PATH\n")
        .append(common_help())
        .append("Exit: 0 done, 1 error, 2 usage, 3 no connection, 4 denied, 5 lost, 124 late\n");
}

}  // namespace ipcbus::tools
