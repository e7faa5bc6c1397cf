// SPDX-License-Identifier: Apache-2.0
// ipcbus-req: sends requests to one topic, one after the other, and writes the replies to stdout.
// One thread; signals as in stop_signal.hpp. Exit codes: cli.hpp.
#include "cli.hpp"
#include "connection.hpp"
#include "format.hpp"
#include "message_source.hpp"
#include "output.hpp"
#include "req_options.hpp"
#include "stop_signal.hpp"
#include "sys/clock.hpp"
#include "sys/unique_fd.hpp"

#include <ipcbus/ipcbus.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace ipcbus::tools {
namespace {

constexpr std::string_view kTool = "ipcbus-req";
constexpr std::uint64_t kUsualBytes = 256 * 1024;
/// "No exit code: go on."
constexpr int kGoOn = -1;

std::int64_t since_1970_ns() {
    timespec now{};
    (void)::clock_gettime(CLOCK_REALTIME, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

/// One run of the tool: its requests, and what comes back.
class Requesting {
public:
    Requesting(const ReqOptions& options, ipcbus_requester* requester)
        : options_(options), requester_(requester), output_(STDOUT_FILENO), buffer_(4096) {}

    /// Returns the exit code. `input`: stdin, or the file.
    int run(int input) {
        int code = wait_responders();
        if (code == kGoOn) {
            code = ask_all(input);
        }
        if (const int flushed = flush(); flushed != kGoOn && code <= kExitDone) {
            code = flushed;
        }
        if (stop_signal() != 0) {
            return 128 + stop_signal();
        }
        return code == kExitDone && bad_status_ ? kExitStatus : code;
    }

private:
    int wait_responders() {
        const sys::Deadline deadline = sys::Deadline::after(options_.timeout_ns);
        while (options_.wait_responders > 0 && stop_signal() == 0) {
            const int result = ipcbus_wait_responders(requester_, options_.wait_responders,
                                                      deadline.remaining_ns());
            if (result == 0) {
                break;
            }
            if (result == -ETIMEDOUT || result == -EAGAIN) {
                report(kTool, "cannot ask: " +
                                  std::to_string(ipcbus_responder_count(requester_)) + " of " +
                                  plural(options_.wait_responders, "responder") +
                                  " came within " + show_duration(options_.timeout_ns));
                return kExitTimedOut;
            }
            if (result != -EINTR) {
                return report_failure(kTool, "wait for responders", result);
            }
        }
        return kGoOn;
    }

    /// Every request there is.
    int ask_all(int input) {
        using Payload = ReqOptions::Payload;
        if (options_.payload == Payload::text || options_.payload == Payload::empty) {
            const int code = ask_one({options_.text.data(), options_.text.size()});
            return code == kGoOn ? kExitDone : code;
        }
        const auto framing = options_.payload == Payload::lines ? MessageSource::Framing::lines
                             : options_.payload == Payload::nul ? MessageSource::Framing::nul
                                                                : MessageSource::Framing::whole;
        MessageSource source(input, framing, ipcbus_request_bytes_max(requester_));
        std::vector<ipcbus_buffer> request;
        while (stop_signal() == 0) {
            const auto step = source.next(request, 1, {});
            const int code = step == MessageSource::Step::messages ? ask_one(request.front())
                                                                   : after(step, source);
            if (code != kGoOn) {
                return code;
            }
        }
        return kExitDone;
    }

    /// One request and all its replies, as many as are wanted.
    int ask_one(const ipcbus_buffer& request) {
        const sys::Deadline deadline = sys::Deadline::after(options_.timeout_ns);
        const std::uint32_t flags = options_.all ? IPCBUS_ASK_ALL : 0;
        std::uint64_t number = 0;
        int result = -EINTR;
        while (result == -EINTR && stop_signal() == 0) {
            result = ipcbus_ask(requester_, request.data, request.size, flags,
                                deadline.remaining_ns(), &number);
        }
        if (result == -EMSGSIZE) {
            return too_long("the request", request.size);
        }
        if (result == -ETIMEDOUT || result == -EAGAIN) {
            return timed_out("those who serve do not read");
        }
        if (result != 0) {
            return result == -EINTR ? kGoOn : report_failure(kTool, "ask", result);
        }
        int code = kGoOn;
        std::uint64_t replies = 0;
        bool over = false;
        while (!over && stop_signal() == 0) {
            const int one = take_reply(deadline, replies, over);
            code = one != kGoOn ? one : code;
            over = over || (options_.count != 0 && replies == options_.count);
        }
        (void)ipcbus_abandon(requester_, number);
        if (code == kGoOn && stop_signal() == 0 && replies < options_.count) {
            report(kTool, "cannot get as many replies as -C wants: " + std::to_string(replies) +
                              " of " + std::to_string(options_.count) +
                              ", and everyone has answered");
            code = kExitFailed;
        }
        const int flushed = flush();
        return code == kGoOn ? flushed : code;
    }

    /// Waits for one reply. kGoOn, or the exit code of what went wrong; `ret_over`: there will be
    /// no other.
    int take_reply(const sys::Deadline& deadline, std::uint64_t& replies, bool& ret_over) {
        ipcbus_reply reply{};
        const int result = ipcbus_next_reply(requester_, buffer_.data(), buffer_.size(),
                                             deadline.remaining_ns(), &reply);
        switch (result) {
            case 0: replies++; return write(reply);
            case -ENOENT: ret_over = true; return kGoOn;
            case -EINTR: return kGoOn;
            case -EMSGSIZE: buffer_.resize(reply.size); return kGoOn;
            case -EPIPE: return report_failure(kTool, "get a reply", result);
            case -EDQUOT:
            case -ENOSPC:
            case -EMFILE:
            case -ENOMEM:  // of one responder, if it names the request: others may answer
                ret_over = reply.request == 0;
                return report_failure(kTool, "get a reply", result);
            case -ESTALE:
                report(kTool, "cannot get a reply: lost " + std::to_string(reply.lost) +
                                  " that had come");
                ret_over = true;
                return kExitLost;
            case -ETIMEDOUT:
            case -EAGAIN:
                ret_over = true;
                return timed_out(std::to_string(replies) + " came");
            default: ret_over = true; return report_failure(kTool, "get a reply", result);
        }
    }

    int write(const ipcbus_reply& reply) {
        MessageView view{options_.topic, {buffer_.data(), reply.size}};
        view.sequence = reply.request;
        view.is_reply = true;
        view.status = reply.status;
        view.responder = reply.responder;
        view.uid = reply.uid;
        view.received_ns = options_.style.needs_circumstances() ? since_1970_ns() : 0;
        append_message(options_.style, view, output_.buffer());
        if (reply.status != 0) {
            bad_status_ = true;
            if (!options_.common.quiet) {
                report(kTool, "the responder reports status " + std::to_string(reply.status));
            }
        }
        return output_.full() || (reply.flags & IPCBUS_REPLY_MORE) != 0 ? flush() : kGoOn;
    }

    int timed_out(const std::string& why) const {
        report(kTool, "cannot get all replies within " + show_duration(options_.timeout_ns) +
                          ": " + why);
        return kExitTimedOut;
    }

    int too_long(const std::string& what, std::uint64_t bytes) const {
        report(kTool, "cannot send " + what + ": " + std::to_string(bytes) +
                          " bytes or more, but the largest here is " +
                          std::to_string(ipcbus_request_bytes_max(requester_)) +
                          "; a larger --max-request allows more");
        return kExitFailed;
    }

    /// What follows from there being no next request.
    int after(MessageSource::Step step, const MessageSource& source) const {
        using Step = MessageSource::Step;
        const std::string input =
            options_.payload == ReqOptions::Payload::file ? quoted(options_.text) : "stdin";
        switch (step) {
            case Step::messages:
            case Step::interrupted: return kGoOn;
            case Step::end: return kExitDone;
            case Step::too_long:
                return too_long("request " + std::to_string(source.count() + 1),
                                source.long_bytes());
            case Step::timed_out:
            case Step::no_fifo:
            case Step::cut_short:
            case Step::failed: break;
        }
        report(kTool, "cannot read " + input + ": " + std::strerror(errno));
        return kExitFailed;
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

    const ReqOptions& options_;
    ipcbus_requester* const requester_;  // borrowed
    Output output_;
    std::vector<char> buffer_;
    bool bad_status_ = false;
};

/// The largest request, as far as it is known before it is read.
std::uint64_t request_bytes_max(const ReqOptions& options, int input) {
    if (options.request_bytes_max != 0) {
        return options.request_bytes_max;
    }
    if (options.payload == ReqOptions::Payload::text ||
        options.payload == ReqOptions::Payload::empty) {
        return std::max<std::uint64_t>(options.text.size(), 1);
    }
    struct stat status{};
    const bool is_known = !options.streams() && ::fstat(input, &status) == 0 &&
                          S_ISREG(status.st_mode) && status.st_size > 0;
    return is_known ? static_cast<std::uint64_t>(status.st_size) : kUsualBytes;
}

int run(const ReqOptions& options) {
    if (const auto installed = install_stop_signals(); !installed.ok()) {
        report(kTool, "cannot catch signals: " + installed.error().what);
        return kExitFailed;
    }
    (void)std::signal(SIGPIPE, SIG_IGN);  // EPIPE says the same, at a better time
    sys::UniqueFd file;
    int input = STDIN_FILENO;
    if (options.payload == ReqOptions::Payload::file && options.text != "-") {
        file.reset(::open(options.text.c_str(), O_RDONLY | O_CLOEXEC));
        if (!file) {
            report(kTool, "cannot open " + quoted(options.text) + ": " + std::strerror(errno));
            return kExitFailed;
        }
        input = file.get();
    }
    BusPtr bus;
    if (const int code = connect_bus(kTool, options.common, bus); code != kExitDone) {
        return code;
    }
    ipcbus_requester_options requester_options = IPCBUS_INIT(requester_options);
    requester_options.request_bytes_max = request_bytes_max(options, input);
    requester_options.reply_bytes_max = options.reply_bytes_max;
    ipcbus_requester* handle = nullptr;
    const int result =
        ipcbus_requester_create(bus.get(), options.topic.c_str(), &requester_options, &handle);
    if (result != 0) {
        return report_failure(kTool, "send requests to " + quoted(options.topic), result);
    }
    const RequesterPtr requester(handle);
    finish_messages_on_stop();
    const int code = Requesting(options, handle).run(input);
    exit_at_once_on_stop();
    return code;
}

}  // namespace
}  // namespace ipcbus::tools

int main(int argc, char** argv) {
    using namespace ipcbus::tools;
    return tool_main(kTool, argc, argv, parse_req_options, req_help, run);
}
