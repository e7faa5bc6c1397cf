// SPDX-License-Identifier: Apache-2.0
// ipcbus-cat: writes the messages of topics to stdout, or runs a command or sends a signal for
// each. One thread; signals as in stop_signal.hpp. Exit codes: cli.hpp.
//
// Messages are lent from the ring in batches, appended to a big buffer, given back, and only then
// written: a batch that was overwritten while it was lent is cut off the buffer again. The buffer
// is written when it is full and whenever there is nothing to read: no message waits for another.
#include "cat_options.hpp"
#include "cli.hpp"
#include "command.hpp"
#include "connection.hpp"
#include "format.hpp"
#include "output.hpp"
#include "progress.hpp"
#include "signal_name.hpp"
#include "signal_target.hpp"
#include "stop_signal.hpp"
#include "sys/clock.hpp"

#include <ipcbus/ipcbus.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

namespace ipcbus::tools {
namespace {

constexpr std::string_view kTool = "ipcbus-cat";
constexpr std::size_t kBatchMax = 1024;
constexpr std::size_t kBatchBytes = 256 * 1024;
constexpr std::int64_t kLossReportEveryNs = 1'000'000'000;
constexpr std::int64_t kWarningEveryNs = 1'000'000'000;
/// "No exit code: go on."
constexpr int kGoOn = -1;

std::int64_t since_1970_ns() {
    timespec now{};
    (void)::clock_gettime(CLOCK_REALTIME, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

/// One run of the tool: its subscriptions, and what has come through them.
class Reading {
public:
    Reading(const CatOptions& options, ipcbus_bus* bus)
        : options_(options), bus_(bus), output_(STDOUT_FILENO) {
        if (!options.command.empty()) {
            command_.emplace(options.command, options.common.address);
        }
        if (options.signal != 0) {
            target_.emplace(options.pidfile, options.signal);
        }
    }

    /// Returns an exit code, or kGoOn.
    int subscribe() {
        ipcbus_subscriber_options subscriber_options = IPCBUS_INIT(subscriber_options);
        subscriber_options.mode = options_.mode;
        subscriber_options.history = options_.history;
        for (const std::string& filter : options_.filters) {
            ipcbus_subscriber* subscriber = nullptr;
            const int result =
                ipcbus_subscribe(bus_, filter.c_str(), &subscriber_options, &subscriber);
            if (result != 0) {
                return report_failure(kTool, "subscribe to " + quoted(filter), result);
            }
            subscribers_.emplace_back(subscriber);
            debug("subscribed to " + quoted(filter) + ", published by " +
                  std::to_string(ipcbus_publication_count(subscriber)));
        }
        return subscribers_.size() > 1 ? join_subscribers() : kGoOn;
    }

    int run() {
        if (options_.progress && !progress_.start()) {
            report(kTool, std::string("cannot show progress: ") + std::strerror(errno));
            return kExitFailed;
        }
        int code = announce_ready(kTool, options_.ready_fd) ? read_messages() : kExitFailed;
        if (const int flushed = flush(); flushed != kGoOn && code <= kExitDone) {
            code = flushed;
        }
        progress_.stop();
        report_loss(true);
        if (unsent_ > 1) {
            report(kTool, plural(unsent_, "signal") + " could not be sent");
        }
        debug("received " + plural(received_, "message"));
        if (stop_signal() != 0) {
            return 128 + stop_signal();
        }
        return code == kExitDone && failures_ > 0 ? kExitFailed : code;
    }

private:
    int join_subscribers() {
        ipcbus_set* set = nullptr;
        int result = ipcbus_set_create(bus_, &set);
        set_.reset(set);
        for (const SubscriberPtr& subscriber : subscribers_) {
            result = result == 0 ? ipcbus_set_add(set, subscriber.get()) : result;
        }
        return result == 0 ? kGoOn : report_failure(kTool, "wait for several topics", result);
    }

    int read_messages() {
        deadline_ = sys::Deadline::after(options_.timeout_ns);
        restart_idle();
        for (int code = kGoOn;;) {
            if (stop_signal() != 0 || received_ >= options_.count_max) {
                return kExitDone;
            }
            if (deadline_.passed()) {
                return timed_out();
            }
            bool empty = false;
            code = receive(0, empty);
            if (code == kGoOn && !empty) {
                code = output_.full() ? flush() : kGoOn;
            } else if (code == kGoOn) {
                code = wait();
            }
            if (code != kGoOn) {
                return code;
            }
        }
    }

    /// There is nothing to read: write what there is to write, and wait.
    int wait() {
        if (const int code = flush(); code != kGoOn) {
            return code;
        }
        if (options_.end || idle_.passed()) {
            return kExitDone;
        }
        report_loss(false);
        std::int64_t left_ns = std::min(deadline_.remaining_ns(), idle_.remaining_ns());
        if (loss_is_pending()) {
            left_ns = std::min(left_ns, next_loss_report_.remaining_ns());
        }
        if (options_.common.debug && ipcbus_reconnects(bus_) != reconnects_) {
            reconnects_ = ipcbus_reconnects(bus_);
            debug("connected again");
        }
        bool empty = false;
        return receive(left_ns == sys::kForeverNs ? IPCBUS_FOREVER : left_ns, empty);
    }

    /// Receives one batch; `ret_empty` tells whether there was nothing. Returns an exit code, or
    /// kGoOn.
    int receive(std::int64_t timeout_ns, bool& ret_empty) {
        ipcbus_subscriber* subscriber = subscribers_.front().get();
        if (set_) {
            const int result = ipcbus_set_wait(set_.get(), timeout_ns, &subscriber);
            if (result != 0) {
                return after(result, ret_empty);
            }
            timeout_ns = 0;
        }
        // One by one: what stops the tool finds nothing taken that was not done.
        const std::size_t count_max = command_ || target_ ? 1 : batch_;
        const auto count = static_cast<std::size_t>(
            std::min<std::uint64_t>(count_max, options_.count_max - received_));
        const std::int64_t result =
            ipcbus_borrow_many(subscriber, timeout_ns, messages_.data(), count);
        if (result < 0) {
            return after(result, ret_empty);
        }
        return take(subscriber, std::span(messages_).first(static_cast<std::size_t>(result)));
    }

    /// What follows from a call that returned an error.
    int after(std::int64_t result, bool& ret_empty) {
        switch (result) {
            case -EAGAIN:
            case -ETIMEDOUT: ret_empty = true; return kGoOn;
            case -EINTR: return kGoOn;  // a stop signal is looked at by the caller
            case -ESTALE: return note_loss();
            // One publication cannot be read (its publisher broke the protocol, or there is no
            // memory or descriptor for its ring); the others go on.
            case -EPROTO:
            case -ENOMEM:
            case -EMFILE: return options_.strict ? report_failure(kTool, "receive", result)
                                                 : warn_of_publication(result);
            default: return report_failure(kTool, "receive", result);
        }
    }

    int warn_of_publication(std::int64_t result) {
        if (!options_.common.quiet && next_warning_.passed()) {
            report(kTool, "cannot receive from one publisher: " + library_error(result));
            next_warning_ = sys::Deadline::after(kWarningEveryNs);
        }
        return kGoOn;
    }

    /// Messages that are lent: to the output or the command, and back.
    int take(ipcbus_subscriber* subscriber, std::span<const ipcbus_message> messages) {
        int code = kGoOn;
        const std::size_t kept_bytes = output_.buffer().size();
        std::size_t payload_bytes = 0;
        std::size_t taken = 0;
        const std::int64_t received_ns =
            command_ || options_.style.needs_circumstances() ? since_1970_ns() : 0;
        for (const ipcbus_message& message : messages) {
            if (message.lost > 0 && (code = note_loss()) != kGoOn) {
                break;
            }
            payload_bytes += message.size;
            if (!target_) {
                append(message, received_ns);
            }
            ++taken;
        }
        if (ipcbus_release(subscriber) == -ESTALE) {
            output_.buffer().resize(kept_bytes);  // overwritten meanwhile: worth nothing
            return note_loss();
        }
        received_ += taken;
        progress_.total(received_);
        batch_ = std::clamp<std::size_t>(kBatchBytes * messages.size() / (payload_bytes + 1), 1,
                                         kBatchMax);
        restart_idle();
        if (command_ && taken > 0) {
            run_command(messages.front(), received_ns);
        }
        if (target_ && taken > 0) {
            send_signal(messages.front().sequence);
            restart_idle();
        }
        return code;
    }

    /// Appends one message to the output, or keeps a copy for the command.
    void append(const ipcbus_message& message, std::int64_t received_ns) {
        MessageView view{{message.topic, message.topic_size},
                         {static_cast<const char*>(message.data), message.size},
                         message.sequence,
                         message.publication,
                         lost_,
                         received_ns};
        if (command_ || options_.style.needs_stable_bytes()) {
            copy_.assign(view.topic).append(view.payload);
            view.topic = std::string_view(copy_).substr(0, message.topic_size);
            view.payload = std::string_view(copy_).substr(message.topic_size);
        }
        if (!command_) {
            append_message(options_.style, view, output_.buffer());
        }
    }

    /// `message` has been given back: only its numbers count, its bytes are in copy_.
    void run_command(const ipcbus_message& message, std::int64_t received_ns) {
        const std::string_view copy = copy_;
        const MessageView view{copy.substr(0, message.topic_size),
                               copy.substr(message.topic_size),
                               message.sequence,
                               message.publication,
                               lost_,
                               received_ns};
        const auto done = command_->run(view);
        if (!done.ok() && stop_signal() == 0) {
            ++failures_;
            report(kTool, "cannot run " + quoted(options_.command) + " for message " +
                              std::to_string(message.sequence) + " of " + quoted(view.topic) +
                              ": " + done.error().what);
        }
        restart_idle();
    }

    /// A process that takes its real-time signals slowly is waited for, as a slow reader is.
    void send_signal(std::uint64_t sequence) {
        constexpr timespec kPause{0, 10'000'000};
        auto sent = target_->send();
        while (!sent.ok() && sent.error().code == EAGAIN && stop_signal() == 0 &&
               !deadline_.passed()) {
            (void)::nanosleep(&kPause, nullptr);
            sent = target_->send();
        }
        if (sent.ok()) {
            return;
        }
        ++failures_;
        ++unsent_;
        if (next_unsent_report_.passed()) {
            report(kTool, "cannot send " + signal_name(options_.signal) + " for message " +
                              std::to_string(sequence) + ": " + sent.error().what);
            next_unsent_report_ = sys::Deadline::after(kWarningEveryNs);
        }
    }

    int note_loss() {
        lost_ = 0;
        for (const SubscriberPtr& subscriber : subscribers_) {
            lost_ += ipcbus_lost(subscriber.get());
        }
        if (options_.strict && lost_ > 0) {
            report(kTool, "cannot go on: " + plural(lost_, "message") + " lost (--strict)");
            return kExitLost;
        }
        report_loss(false);
        return kGoOn;
    }

    [[nodiscard]] bool loss_is_pending() const {
        return lost_ > lost_reported_ && !options_.common.quiet && !options_.strict &&
               options_.mode != IPCBUS_LATEST;  // which is to lose what is not the latest
    }

    /// One line for what was lost since the last one, at most one a second but for the last.
    void report_loss(bool at_end) {
        if (!loss_is_pending() || (!at_end && !next_loss_report_.passed() && lost_reported_ > 0)) {
            return;
        }
        report(kTool, "lost " + plural(lost_ - lost_reported_, "message") + " (" +
                          std::to_string(lost_) + " in all)");
        lost_reported_ = lost_;
        next_loss_report_ = sys::Deadline::after(kLossReportEveryNs);
    }

    int timed_out() {
        if (options_.count_max != UINT64_MAX) {
            report(kTool, "cannot receive " + plural(options_.count_max, "message") + ": " +
                              std::to_string(received_) + " came within " +
                              show_duration(options_.timeout_ns));
        }
        return kExitTimedOut;
    }

    int flush() {
        switch (output_.flush()) {
            case Output::Flush::done: return kGoOn;
            case Output::Flush::reader_gone: return kExitDone;
            case Output::Flush::given_up: return 128 + stop_signal();
            case Output::Flush::failed: break;
        }
        report(kTool, std::string("cannot write to standard output: ") + std::strerror(errno));
        output_.buffer().clear();
        return kExitFailed;
    }

    void restart_idle() {
        if (options_.idle_ns >= 0) {
            idle_ = sys::Deadline::after(options_.idle_ns);
        }
    }

    void debug(std::string_view text) const {
        if (options_.common.debug) {
            report(kTool, text);
        }
    }

    const CatOptions& options_;
    ipcbus_bus* const bus_;  // borrowed
    std::vector<SubscriberPtr> subscribers_;
    SetPtr set_;  // none for one subscriber; goes before them
    Output output_;
    std::optional<Command> command_;
    std::optional<SignalTarget> target_;
    std::string copy_;  // topic and payload of one message
    std::array<ipcbus_message, kBatchMax> messages_;
    std::size_t batch_ = 16;  // messages to borrow at once, so that it is about kBatchBytes
    std::uint64_t received_ = 0;
    Progress progress_{kTool};
    std::uint64_t failures_ = 0;  // of commands and signals
    std::uint64_t unsent_ = 0;    // of these, signals
    std::uint64_t reconnects_ = 0;
    std::uint64_t lost_ = 0;
    std::uint64_t lost_reported_ = 0;
    sys::Deadline next_loss_report_;
    sys::Deadline next_warning_{0};
    sys::Deadline next_unsent_report_{0};
    sys::Deadline deadline_;
    sys::Deadline idle_;
};

int run(const CatOptions& options) {
    if (const auto installed = install_stop_signals(); !installed.ok()) {
        report(kTool, "cannot catch signals: " + installed.error().what);
        return kExitFailed;
    }
    (void)std::signal(SIGPIPE, SIG_IGN);  // EPIPE says the same, at a better time
    if (options.ready_fd >= 0) {
        (void)::fcntl(options.ready_fd, F_SETFD, FD_CLOEXEC);
    }
    BusPtr bus;
    if (const int code = connect_bus(kTool, options.common, bus); code != kExitDone) {
        return code;
    }
    Reading reading(options, bus.get());
    if (const int code = reading.subscribe(); code != kGoOn) {
        return code;
    }
    finish_messages_on_stop();
    const int code = reading.run();
    exit_at_once_on_stop();
    return code;
}

}  // namespace
}  // namespace ipcbus::tools

int main(int argc, char** argv) {
    using namespace ipcbus::tools;
    return tool_main(kTool, argc, argv, parse_cat_options, cat_help, run);
}
