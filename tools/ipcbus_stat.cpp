// SPDX-License-Identifier: Apache-2.0
// ipcbus-stat: tells what is on a bus. Asks the daemon, which looks at words that publishers and
// readers keep anyway: so it slows nobody. See ipcbus-stat(1). One thread.
#include "output.hpp"
#include "stat/inquiry.hpp"
#include "stat/screen.hpp"
#include "stat_options.hpp"
#include "stop_signal.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <unistd.h>

namespace ipcbus::tools {
namespace {

constexpr std::string_view kTool = "ipcbus-stat";
constexpr int kGoOn = -1;
constexpr std::int64_t kLookAgainNs = 1'000'000'000;  // without --watch

int exit_code_of(const sys::Error& error) {
    switch (error.code) {
    case EACCES:
        return kExitDenied;
    case EINVAL:
    case ENAMETOOLONG:
        return kExitUsage;
    default:
        return kExitNoConnection;
    }
}

/// One run of the tool: its connection, and what was told last.
class Watching {
public:
    explicit Watching(const StatOptions& options)
        : options_(options),
          redraws_(options.watch && options.form == StatOptions::Form::text &&
                   stats::can_redraw(STDOUT_FILENO)),
          output_(STDOUT_FILENO) {}

    /// Returns an exit code, or kGoOn.
    int connect(std::int64_t timeout_ns) {
        const CommonOptions& common = options_.common;
        auto opened = stats::Inquiry::open(
            common.address, common.name.empty() ? std::string(kTool) : common.name, timeout_ns);
        if (!opened.ok()) {
            return failed("connect", opened.error());
        }
        inquiry_.emplace(std::move(opened).value());
        lost_ = false;
        if (common.debug) {
            report(kTool, "connected");
        }
        return kGoOn;
    }

    int run() {
        int code = kGoOn;
        std::uint64_t reports = 0;
        bool report_due = options_.once || options_.watch;
        for (sys::Deadline next = sys::Deadline::after(0); code == kGoOn;) {
            code = inquiry_ ? look() : reconnect();
            if (code == kGoOn && inquiry_ && report_due) {
                code = show();
                reports++;
            }
            if (code == kGoOn && reports == (options_.watch ? options_.count_max : 1)) {
                code = kExitDone;
            }
            report_due = true;
            if (code == kGoOn) {
                code = sleep_until(next);
            }
        }
        return stop_signal() != 0 ? 128 + stop_signal() : code;
    }

private:
    int look() {
        // With several filters the daemon is asked for everything: it takes one.
        auto state = inquiry_->look(options_.filters.size() == 1 ? options_.filters.front() : "");
        if (!state.ok()) {
            inquiry_.reset();
            if (stop_signal() != 0) {
                return kExitDone;
            }
            if (!options_.watch || !options_.common.reconnect) {
                return failed("look at the bus", state.error());
            }
            lost(state.error());
            return kGoOn;
        }
        before_ = std::move(now_);
        now_.emplace(std::move(state).value());
        commands_.learn(*now_);
        stats::keep_matching(options_.filters, *now_);
        return kGoOn;
    }

    int reconnect() {
        now_.reset();  // rates begin anew
        const CommonOptions& common = options_.common;
        auto opened = stats::Inquiry::open(
            common.address, common.name.empty() ? std::string(kTool) : common.name, 0);
        if (!opened.ok()) {
            return kGoOn;  // at the next turn again
        }
        inquiry_.emplace(std::move(opened).value());
        if (std::exchange(lost_, false) && !options_.common.quiet) {
            report(kTool, "connected again");
        }
        return look();
    }

    void lost(const sys::Error& error) {
        lost_ = true;
        if (!options_.common.quiet) {
            report(kTool, "lost the connection, trying again: " + error.what);
        }
    }

    int show() {
        const stats::View view = stats::make_view(*now_, before_ ? &*before_ : nullptr, commands_);
        std::string& out = output_.buffer();
        switch (options_.form) {
        case StatOptions::Form::json:
            stats::append_json(view, out);
            break;
        case StatOptions::Form::prometheus:
            stats::append_prometheus(view, out);
            break;
        case StatOptions::Form::text:
            show_text(view, out);
            break;
        }
        switch (output_.flush()) {
        case Output::Flush::done:
            return kGoOn;
        case Output::Flush::reader_gone:
            return kExitDone;
        case Output::Flush::given_up:
            return 128 + stop_signal();
        case Output::Flush::failed:
            break;
        }
        report(kTool, std::string("cannot write to standard output: ") + std::strerror(errno));
        return kExitFailed;
    }

    void show_text(const stats::View& view, std::string& out) {
        if (redraws_) {
            std::string text;
            stats::append_text(view, options_.style, text);
            out += stats::redrawn(text, stats::screen_size(STDOUT_FILENO), first_);
        } else {
            out += first_ ? "" : "\n";
            stats::append_text(view, options_.style, out);
        }
        first_ = false;
    }

    /// The next look is due an interval after this one was, or at once if that has passed.
    int sleep_until(sys::Deadline& due) {
        const std::int64_t now_ns = sys::monotonic_ns();
        due.at_ns =
            std::max(due.at_ns + (options_.watch ? options_.interval_ns : kLookAgainNs), now_ns);
        while (!due.passed()) {
            if (stop_signal() != 0) {
                return kExitDone;
            }
            const std::int64_t left_ns = due.remaining_ns();
            const timespec pause{left_ns / 1'000'000'000, left_ns % 1'000'000'000};
            (void)::nanosleep(&pause, nullptr);
        }
        return stop_signal() != 0 ? kExitDone : kGoOn;
    }

    int failed(std::string_view what, const sys::Error& error) const {
        report(kTool, "cannot " + std::string(what) + ": " + error.what);
        return exit_code_of(error);
    }

    const StatOptions& options_;
    const bool redraws_;
    Output output_;
    std::optional<stats::Inquiry> inquiry_;
    std::optional<stats::State> before_;
    std::optional<stats::State> now_;
    stats::Commands commands_;
    bool first_ = true;
    bool lost_ = false;
};

int run(const StatOptions& options) {
    if (const auto installed = install_stop_signals(); !installed.ok()) {
        report(kTool, "cannot catch signals: " + installed.error().what);
        return kExitFailed;
    }
    (void)std::signal(SIGPIPE, SIG_IGN);  // EPIPE says the same, at a better time
    Watching watching(options);
    if (const int code = watching.connect(options.common.connect_timeout_ns); code != kGoOn) {
        return code;
    }
    finish_messages_on_stop();
    return watching.run();
}

}  // namespace
}  // namespace ipcbus::tools

int main(int argc, char** argv) {
    using namespace ipcbus::tools;
    return tool_main(kTool, argc, argv, parse_stat_options, stat_help, run);
}
