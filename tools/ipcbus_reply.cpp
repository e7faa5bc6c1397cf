// SPDX-License-Identifier: Apache-2.0
// ipcbus-reply: serves topics, and answers each request with what a command writes, with the
// request itself, or with a text; one after the other. One thread; signals as in stop_signal.hpp.
// Exit codes: cli.hpp.
#include "cli.hpp"
#include "command.hpp"
#include "connection.hpp"
#include "reply_options.hpp"
#include "stop_signal.hpp"
#include "sys/clock.hpp"

#include <ipcbus/ipcbus.h>

#include <cerrno>
#include <fcntl.h>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::tools {
namespace {

constexpr std::string_view kTool = "ipcbus-reply";
/// The status of a reply that says that there is none, as other programs that run commands have it.
constexpr std::uint32_t kStatusNone = 125;
/// What a command may write; whoever asks takes less.
constexpr std::size_t kOutputBytesMax = 64 * 1024 * 1024;
/// What is kept of the room for it, and for a request, until the next one.
constexpr std::size_t kBytesKept = 1024 * 1024;
constexpr std::size_t kRequestBytesFirst = 4096;
constexpr std::int64_t kWarningEveryNs = 1'000'000'000;
/// "No exit code: go on."
constexpr int kGoOn = -1;

/// One run of the tool.
class Replying {
public:
    Replying(const ReplyOptions& options, ipcbus_responder* responder)
        : options_(options), responder_(responder), buffer_(kRequestBytesFirst) {
        if (options.answer == ReplyOptions::Answer::command) {
            command_.emplace(options.text, options.common.address);
        }
    }

    /// Returns the exit code.
    int run() {
        const sys::Deadline deadline = sys::Deadline::after(options_.timeout_ns);
        int code = kGoOn;
        while (code == kGoOn && stop_signal() == 0) {
            code = answered_ == options_.count_max ? kExitDone : next(deadline);
        }
        return stop_signal() != 0 ? 128 + stop_signal() : code;
    }

private:
    int next(const sys::Deadline& deadline) {
        ipcbus_request request{};
        const std::int64_t left_ns = deadline.never() ? IPCBUS_FOREVER : deadline.remaining_ns();
        const int result = ipcbus_next_request(responder_, buffer_.data(), buffer_.size(), left_ns,
                                               &request);
        switch (result) {
            case 0: answer(request); give_back_room(); return kGoOn;
            case -EMSGSIZE: buffer_.resize(request.size); return kGoOn;
            case -EINTR: return kGoOn;  // a stop signal is looked at by the caller
            case -ETIMEDOUT:
            case -EAGAIN: return timed_out();
            // One requester cannot be read; the others go on.
            case -EPROTO:
            case -ENOMEM:
            case -EMFILE: warn("cannot hear one requester: " + library_error(result)); return kGoOn;
            default: return report_failure(kTool, "get a request", result);
        }
    }

    void answer(const ipcbus_request& request) {
        answered_++;
        const std::string_view payload(buffer_.data(), request.size);
        switch (options_.answer) {
            case ReplyOptions::Answer::echo: respond(request, payload, 0); return;
            case ReplyOptions::Answer::text: respond(request, options_.text, 0); return;
            case ReplyOptions::Answer::command: run_command(request, payload); return;
        }
    }

    void run_command(const ipcbus_request& request, std::string_view payload) {
        MessageView view{{request.topic, request.topic_size}, payload};
        view.sequence = request.sequence;
        const auto status = command_->answer(
            view, request.uid, {kOutputBytesMax, options_.exec_timeout_ns}, output_);
        if (!status.ok()) {
            const std::string text =
                "cannot run " + quoted(options_.text) + ": " + status.error().what;
            report(kTool, text);
            apologize(request, text);
            return;
        }
        if (status.value() != 0 && options_.common.debug) {
            report(kTool, "status " + std::to_string(status.value()) + " of request " +
                              std::to_string(request.sequence) + " of " +
                              quoted({request.topic, request.topic_size}));
        }
        respond(request, output_, static_cast<std::uint32_t>(status.value()));
    }

    /// The largest request of any requester does not stay for good.
    void give_back_room() {
        if (output_.capacity() > kBytesKept) {
            std::string().swap(output_);
        }
        if (buffer_.capacity() > kBytesKept) {
            std::vector<char>(kRequestBytesFirst).swap(buffer_);
        }
    }

    int give(const ipcbus_request& request, std::string_view reply, std::uint32_t status) {
        int result = -EINTR;
        // A stop signal ends this when the requester does not take its replies either.
        for (int tries = 0; result == -EINTR && tries < 100; tries++) {
            result = ipcbus_respond(responder_, &request, reply.data(), reply.size(), status, 0);
        }
        return result;
    }

    void respond(const ipcbus_request& request, std::string_view reply, std::uint32_t status) {
        const int result = give(request, reply, status);
        if (result == -EMSGSIZE) {
            const std::string text = library_error(result);
            warn("cannot answer: " + text);
            apologize(request, text);
        } else {
            report_unanswered(result);
        }
    }

    /// That there is no proper reply, and why.
    void apologize(const ipcbus_request& request, std::string_view text) {
        report_unanswered(give(request, text.substr(0, 1024), kStatusNone));
    }

    void report_unanswered(int result) {
        if (result == -EPIPE) {
            if (options_.common.debug) {
                report(kTool, "the requester has gone before it was answered");
            }
        } else if (result != 0) {
            warn("cannot answer: " + library_error(result));
        }
    }

    void warn(const std::string& text) {
        if (!options_.common.quiet && next_warning_.passed()) {
            report(kTool, text);
            next_warning_ = sys::Deadline::after(kWarningEveryNs);
        }
    }

    int timed_out() const {
        if (options_.count_max != UINT64_MAX) {
            report(kTool, "cannot answer " + plural(options_.count_max, "request") + ": " +
                              std::to_string(answered_) + " came within " +
                              show_duration(options_.timeout_ns));
        }
        return kExitTimedOut;
    }

    const ReplyOptions& options_;
    ipcbus_responder* const responder_;  // borrowed
    std::optional<Command> command_;
    std::vector<char> buffer_;
    std::string output_;
    std::uint64_t answered_ = 0;
    sys::Deadline next_warning_{0};
};

int run(const ReplyOptions& options) {
    if (const auto installed = install_stop_signals(); !installed.ok()) {
        report(kTool, "cannot catch signals: " + installed.error().what);
        return kExitFailed;
    }
    if (options.ready_fd >= 0) {
        (void)::fcntl(options.ready_fd, F_SETFD, FD_CLOEXEC);
    }
    BusPtr bus;
    if (const int code = connect_bus(kTool, options.common, bus); code != kExitDone) {
        return code;
    }
    ipcbus_responder* handle = nullptr;
    const int result = ipcbus_serve(bus.get(), options.filter.c_str(), nullptr, &handle);
    if (result != 0) {
        return report_failure(kTool, "serve " + quoted(options.filter), result);
    }
    const ResponderPtr responder(handle);
    finish_messages_on_stop();
    if (!announce_ready(kTool, options.ready_fd)) {
        return kExitFailed;
    }
    const int code = Replying(options, handle).run();
    exit_at_once_on_stop();
    return code;
}

}  // namespace
}  // namespace ipcbus::tools

int main(int argc, char** argv) {
    using namespace ipcbus::tools;
    return tool_main(kTool, argc, argv, parse_reply_options, reply_help, run);
}
