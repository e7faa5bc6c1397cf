// SPDX-License-Identifier: Apache-2.0
// The command line of the tools; see cli.hpp. One thread, no state.
#include "cli.hpp"

#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <limits>
#include <unistd.h>

namespace ipcbus::tools {

using sys::Error;
using sys::fail;
using sys::Result;

namespace {

const OptionSpec* find_short(std::span<const OptionSpec> specs, char name) {
    for (const OptionSpec& spec : specs) {
        if (spec.short_name == name) {
            return &spec;
        }
    }
    return nullptr;
}

const OptionSpec* find_long(std::span<const OptionSpec> specs, std::string_view name) {
    for (const OptionSpec& spec : specs) {
        if (!spec.long_name.empty() && spec.long_name == name) {
            return &spec;
        }
    }
    return nullptr;
}

/// `word` is "--name" or "--name=value"; `next` is the word after it, taken if it is the value.
Result<Option> parse_long(std::string_view word, const char* next, bool& next_taken,
                          std::span<const OptionSpec> specs) {
    const std::size_t equals = word.find('=');
    const std::string_view shown = word.substr(0, equals);
    const OptionSpec* spec = find_long(specs, shown.substr(2));
    if (spec == nullptr) {
        return fail(EINVAL, "unknown option " + quoted(shown));
    }
    Option option{spec->id, std::string(shown), {}};
    if (spec->may_take_duration && equals == std::string_view::npos) {
        if (next != nullptr && parse_duration_ns(next).ok()) {
            option.value = next;
            next_taken = true;
        }
        return option;
    }
    if (!spec->takes_value && !spec->may_take_duration) {
        if (equals != std::string_view::npos) {
            return fail(EINVAL, option.shown + " takes no value");
        }
        return option;
    }
    if (equals != std::string_view::npos) {
        option.value = word.substr(equals + 1);
        return option;
    }
    if (next == nullptr) {
        return fail(EINVAL, option.shown + " needs a value");
    }
    option.value = next;
    next_taken = true;
    return option;
}

/// `word` is "-abc": options without a value, and perhaps, last, one with a value.
Result<void> parse_short(std::string_view word, const char* next, bool& next_taken,
                         std::span<const OptionSpec> specs, std::vector<Option>& ret_options) {
    for (std::size_t i = 1; i < word.size(); ++i) {
        const std::string shown{'-', word[i]};
        const OptionSpec* spec = find_short(specs, word[i]);
        if (spec == nullptr) {
            return fail(EINVAL, "unknown option " + quoted(shown));
        }
        Option option{spec->id, shown, {}};
        if (!spec->takes_value) {
            ret_options.push_back(std::move(option));
            continue;
        }
        if (i + 1 < word.size()) {
            option.value = word.substr(i + 1);
        } else if (next != nullptr) {
            option.value = next;
            next_taken = true;
        } else {
            return fail(EINVAL, shown + " needs a value");
        }
        ret_options.push_back(std::move(option));
        break;
    }
    return {};
}

struct Unit {
    std::string_view name;
    std::uint64_t factor;
};

constexpr std::array kDurationUnits = {
    Unit{"", 1'000'000'000},  Unit{"s", 1'000'000'000},   Unit{"ms", 1'000'000},
    Unit{"us", 1'000},        Unit{"ns", 1},              Unit{"m", 60'000'000'000},
    Unit{"min", 60'000'000'000}, Unit{"h", 3'600'000'000'000},
};

constexpr std::array kSizeUnits = {
    Unit{"", 1},          Unit{"B", 1},           Unit{"K", 1ull << 10},
    Unit{"KiB", 1ull << 10}, Unit{"M", 1ull << 20},  Unit{"MiB", 1ull << 20},
    Unit{"G", 1ull << 30},   Unit{"GiB", 1ull << 30}, Unit{"kB", 1'000},
    Unit{"MB", 1'000'000},   Unit{"GB", 1'000'000'000},
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// DIGITS[.DIGITS]UNIT, times the unit's factor, rounded down. False if it is not of that form or
/// larger than an int64.
bool parse_scaled(std::string_view text, std::span<const Unit> units, std::uint64_t& ret_value) {
    constexpr std::uint64_t kWholeMax = 1'000'000'000'000'000'000;
    constexpr std::size_t kFractionDigitsMax = 18;
    std::size_t i = 0;
    std::uint64_t whole = 0;
    for (; i < text.size() && is_digit(text[i]); ++i) {
        whole = whole * 10 + static_cast<std::uint64_t>(text[i] - '0');
        if (whole > kWholeMax) {
            return false;
        }
    }
    if (i == 0) {
        return false;
    }
    std::uint64_t fraction = 0;
    std::uint64_t fraction_unit = 1;
    if (i < text.size() && text[i] == '.') {
        const std::size_t first = ++i;
        for (; i < text.size() && is_digit(text[i]); ++i) {
            if (i - first >= kFractionDigitsMax) {
                return false;
            }
            fraction = fraction * 10 + static_cast<std::uint64_t>(text[i] - '0');
            fraction_unit *= 10;
        }
        if (i == first) {
            return false;
        }
    }
    __extension__ using Wide = unsigned __int128;
    for (const Unit& unit : units) {
        if (unit.name == text.substr(i)) {
            const Wide value =
                Wide{whole} * unit.factor + Wide{fraction} * unit.factor / fraction_unit;
            if (value > static_cast<Wide>(std::numeric_limits<std::int64_t>::max())) {
                return false;
            }
            ret_value = static_cast<std::uint64_t>(value);
            return true;
        }
    }
    return false;
}

/// Names option and value before what is wrong with it.
template <class T>
Result<T> name_option(const Option& option, Result<T> result) {
    if (!result.ok()) {
        return fail(EINVAL, option.shown + " " + quoted(option.value) + ": " + result.error().what);
    }
    return result;
}

void write_whole(int fd, std::string_view text, bool& ret_failed) {
    ret_failed = false;
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            ret_failed = true;
            return;
        }
        text.remove_prefix(static_cast<std::size_t>(written));
    }
}

}  // namespace

Result<Arguments> parse_arguments(std::span<char* const> arguments,
                                  std::span<const OptionSpec> specs) {
    Arguments parsed;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string_view word = arguments[i];
        const char* next = i + 1 < arguments.size() ? arguments[i + 1] : nullptr;
        bool next_taken = false;
        if (word == "--") {
            parsed.positionals.insert(parsed.positionals.end(), arguments.begin() + i + 1,
                                      arguments.end());
            break;
        }
        if (word.starts_with("--")) {
            parsed.options.push_back(IPCBUS_TRY(parse_long(word, next, next_taken, specs)));
        } else if (word.starts_with('-') && word.size() > 1) {
            IPCBUS_TRY(parse_short(word, next, next_taken, specs, parsed.options));
        } else {
            parsed.positionals.push_back(word);
        }
        i += next_taken ? 1 : 0;
    }
    return parsed;
}

Result<std::int64_t> parse_duration_ns(std::string_view text) {
    std::uint64_t value = 0;
    if (!parse_scaled(text, kDurationUnits, value)) {
        return fail(EINVAL, "not a duration (like 500ms, 2s, 1.5)");
    }
    return static_cast<std::int64_t>(value);
}

Result<std::uint64_t> parse_size(std::string_view text) {
    std::uint64_t value = 0;
    if (!parse_scaled(text, kSizeUnits, value)) {
        return fail(EINVAL, "not a size (like 65536, 64KiB, 1MiB)");
    }
    return value;
}

Result<std::uint64_t> parse_count(std::string_view text, std::uint64_t least) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value < least) {
        return fail(EINVAL, "not a number of " + std::to_string(least) + " or more");
    }
    return value;
}

Result<double> parse_rate(std::string_view text) {
    constexpr double kRateMax = 1e9;
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value) ||
        value <= 0 || value > kRateMax) {
        return fail(EINVAL, "not a rate (messages a second, like 1000 or 0.5)");
    }
    return value;
}

Result<std::int64_t> duration_option(const Option& option) {
    return name_option(option, parse_duration_ns(option.value));
}

Result<std::uint64_t> size_option(const Option& option) {
    return name_option(option, parse_size(option.value));
}

Result<std::uint64_t> count_option(const Option& option, std::uint64_t least) {
    return name_option(option, parse_count(option.value, least));
}

Result<double> rate_option(const Option& option) {
    return name_option(option, parse_rate(option.value));
}

std::string show_duration(std::int64_t duration_ns) {
    std::uint64_t factor = 1'000'000'000;
    const char* unit = "s";
    if (duration_ns != 0 && duration_ns < 1'000) {
        factor = 1, unit = "ns";
    } else if (duration_ns != 0 && duration_ns < 1'000'000) {
        factor = 1'000, unit = "us";
    } else if (duration_ns != 0 && duration_ns < 1'000'000'000) {
        factor = 1'000'000, unit = "ms";
    }
    const auto value = static_cast<std::uint64_t>(duration_ns);
    std::string shown = std::to_string(value / factor);
    if (std::uint64_t rest = value % factor; rest != 0) {
        shown += '.';
        for (std::uint64_t digit = factor / 10; rest != 0; digit /= 10) {
            shown += static_cast<char>('0' + rest / digit);
            rest %= digit;
        }
    }
    return shown + unit;
}

std::string plural(std::uint64_t count, std::string_view what) {
    return std::to_string(count).append(" ").append(what).append(count == 1 ? "" : "s");
}

std::string quoted(std::string_view text) {
    constexpr std::size_t kShownMax = 80;
    return "'" + std::string(text.substr(0, kShownMax)) +
           (text.size() > kShownMax ? "...'" : "'");
}

void report(std::string_view tool, std::string_view text) {
    std::string line;
    line.reserve(tool.size() + text.size() + 3);
    line.append(tool).append(": ").append(text);
    for (char& c : line) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            c = '?';
        }
    }
    line += '\n';
    bool failed = false;
    write_whole(STDERR_FILENO, line, failed);  // there is nobody left to tell
}

int report_usage(std::string_view tool, std::string_view text) {
    report(tool, std::string(text) + "; see " + std::string(tool) + " --help");
    return kExitUsage;
}

int print_to_stdout(std::string_view tool, std::string_view text) {
    bool failed = false;
    write_whole(STDOUT_FILENO, text, failed);
    if (failed) {
        report(tool, std::string("cannot write to standard output: ") + std::strerror(errno));
        return kExitFailed;
    }
    return kExitDone;
}

bool reserve_standard_descriptors() {
    for (int fd = 0; fd <= 2; ++fd) {
        if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) {
            continue;
        }
        // The wrong way round on purpose: reading 0 or writing 1 fails with EBADF, as it should.
        if (::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) {
            return false;
        }
    }
    return true;
}

}  // namespace ipcbus::tools
