// SPDX-License-Identifier: Apache-2.0
// spdlog with a sink of our own. spdlog's file and console sinks block on a full pipe and throw
// when a disk is full; this one asks poll() first, writes one line with one write(2), and counts
// what it cannot write. One per process; the daemon's one thread.
#include "log.hpp"

#include "notify.hpp"

#include <spdlog/details/null_mutex.h>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace ipcbus::daemon {

namespace {

/// A pipe that poll() calls writable has room for this much without blocking (PIPE_BUF).
constexpr std::size_t kLineBytesMax = 4096;

constexpr const char* kPlainPattern = "%Y-%m-%dT%H:%M:%S.%e%z %l: %v";
/// The journal knows the time, and reads the level from the prefix.
constexpr const char* kJournalPattern = "%v";

struct Target {
    sys::UniqueFd owned;
    int fd = STDERR_FILENO;
    bool journal = false;
};

char journal_priority(spdlog::level::level_enum level) {
    switch (level) {
    case spdlog::level::critical:
    case spdlog::level::err:
        return '3';
    case spdlog::level::warn:
        return '4';
    case spdlog::level::info:
        return '6';
    default:
        return '7';
    }
}

class LineSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
public:
    LineSink() { redirect(Target{}); }

    void redirect(Target target) {
        target_ = std::move(target);
        // %l is "warning", "error": our own names
        set_formatter(std::make_unique<spdlog::pattern_formatter>(
            target_.journal ? kJournalPattern : kPlainPattern, spdlog::pattern_time_type::local,
            "\n"));
    }

    [[nodiscard]] std::uint64_t dropped() const { return dropped_; }

protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        if (unreported_ > 0) {
            const std::string text = fmt::format(
                "{} lines were lost here, the log's target was "
                "full or gone",
                unreported_);
            if (!write_line(
                    spdlog::details::log_msg(message.logger_name, spdlog::level::warn, text))) {
                lost();
                return;
            }
            unreported_ = 0;
        }
        if (!write_line(message)) {
            lost();
        }
    }
    void flush_() override {}

private:
    void lost() {
        ++dropped_;
        ++unreported_;
    }

    bool write_line(const spdlog::details::log_msg& message) {
        spdlog::memory_buf_t line;
        if (target_.journal) {
            line.push_back('<');
            line.push_back(journal_priority(message.level));
            line.push_back('>');
        }
        formatter_->format(message, line);
        if (line.size() > kLineBytesMax) {
            line.resize(kLineBytesMax);
            line[kLineBytesMax - 1] = '\n';
        }
        pollfd ready{target_.fd, POLLOUT, 0};
        if (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) {
            return false;
        }
        return ::write(target_.fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
    }

    Target target_;
    std::uint64_t dropped_ = 0;
    std::uint64_t unreported_ = 0;
};

struct Log {
    std::shared_ptr<LineSink> sink = std::make_shared<LineSink>();
    spdlog::logger logger{"ipcbusd", sink};
    LogLevel level = LogLevel::info;
};

Log& the_log() {
    static Log log;
    return log;
}

spdlog::level::level_enum spdlog_level(LogLevel level) {
    switch (level) {
    case LogLevel::error:
        return spdlog::level::err;
    case LogLevel::warning:
        return spdlog::level::warn;
    case LogLevel::info:
        return spdlog::level::info;
    case LogLevel::debug:
        break;
    }
    return spdlog::level::debug;
}

/// systemd.exec(5): JOURNAL_STREAM is "device:inode" of the stream; a redirected stderr differs.
bool stderr_is_journal() {
    const char* const stream = std::getenv("JOURNAL_STREAM");
    struct stat status{};
    if (stream == nullptr || ::fstat(STDERR_FILENO, &status) != 0) {
        return false;
    }
    return fmt::format("{}:{}", status.st_dev, status.st_ino) == stream;
}

sys::Result<Target> open_target(const std::string& name) {
    Target target;
    if (name == "stderr") {
        target.journal = stderr_is_journal();
        return target;
    }
    if (name == "journal") {
        target.owned = IPCBUS_TRY(open_journal_stream());
        target.journal = true;
    } else {
        // O_NONBLOCK: opening a FIFO that nobody reads must not stop us.
        target.owned.reset(::open(
            name.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640));
        if (!target.owned) {
            const int code = errno;
            return sys::fail(
                code, fmt::format("cannot open log.target {}: {}", name, std::strerror(code)));
        }
    }
    target.fd = target.owned.get();
    return target;
}

/// Texts of clients go into the log: no line breaks to forge lines with, no escapes for terminals.
std::string harmless(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            c = '?';
        }
    }
    return result;
}

}  // namespace

sys::Result<void> log_open(const LogConfig& config) {
    Log& log = the_log();
    log.level = config.level;
    log.logger.set_level(spdlog_level(config.level));
    log.sink->redirect(IPCBUS_TRY(open_target(config.target)));
    return {};
}

bool log_enabled(LogLevel level) { return level <= the_log().level; }

void log_text(LogLevel level, std::string_view text) {
    // The view overload: a text is never taken for a format.
    the_log().logger.log(spdlog_level(level), spdlog::string_view_t(harmless(text)));
}

std::uint64_t log_lines_dropped() { return the_log().sink->dropped(); }

}  // namespace ipcbus::daemon
