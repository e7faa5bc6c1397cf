// SPDX-License-Identifier: Apache-2.0
// ipcbus-pub: publishes what the command line or stdin says to one topic. One thread; signals as in
// stop_signal.hpp. Exit codes: cli.hpp.
#include "cli.hpp"
#include "connection.hpp"
#include "message_source.hpp"
#include "pacer.hpp"
#include "progress.hpp"
#include "pub_options.hpp"
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
#include <span>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace ipcbus::tools {
namespace {

constexpr std::string_view kTool = "ipcbus-pub";
constexpr std::size_t kBatch = 1024;
constexpr std::int64_t kWarningEveryNs = 1'000'000'000;
constexpr std::int64_t kCatchUpNs = 100'000'000;
/// What fits any ring that an administrator is likely to configure.
constexpr std::uint64_t kUsualBytes = 4096;
/// "No exit code: go on."
constexpr int kGoOn = -1;

Pacer make_pacer(const PubOptions& options) {
    if (options.rate_hz > 0) {
        return Pacer(1e9 / options.rate_hz, kCatchUpNs);
    }
    return Pacer(static_cast<double>(options.repeat_delay_ns), 0);
}

/// One run of the tool: what there is to publish, to a publication that is open.
class Publishing {
public:
    Publishing(const PubOptions& options, ipcbus_publisher* publisher, sys::Deadline deadline)
        : options_(options),
          publisher_(publisher),
          deadline_(deadline),
          pacer_(make_pacer(options)) {}

    /// Waits for subscribers and publishes all there is; returns the exit code. `input`: stdin, or
    /// the file.
    int run(int input) {
        int code = wait_subscribers();
        if (code == kGoOn && options_.progress && !progress_.start()) {
            report(kTool, std::string("cannot show progress: ") + std::strerror(errno));
            return kExitFailed;
        }
        if (code == kGoOn) {
            code = options_.streams() ? publish_stream(input) : publish_one(input);
        }
        progress_.stop();
        if (options_.common.debug) {
            report(kTool, "published " + plural(published_, "message"));
        }
        return stop_signal() != 0 ? 128 + stop_signal() : code;
    }

private:
    int wait_subscribers() {
        while (options_.wait_subscribers > 0 && stop_signal() == 0) {
            const std::int64_t left_ns = deadline_.never() ? -1 : deadline_.remaining_ns();
            const int result =
                ipcbus_wait_subscribers(publisher_, options_.wait_subscribers, left_ns);
            if (result == 0) {
                break;
            }
            if (result == -ETIMEDOUT || result == -EAGAIN) {
                const std::uint32_t there = ipcbus_subscriber_count(publisher_);
                report(kTool, "cannot publish: " + std::to_string(there) + " of " +
                                  plural(options_.wait_subscribers, "subscriber") +
                                  " came within " + show_duration(options_.timeout_ns));
                return kExitTimedOut;
            }
            if (result != -EINTR) {
                return report_failure(kTool, "wait for subscribers", result);
            }
        }
        return kGoOn;
    }

    int publish_stream(int input) {
        using Framing = MessageSource::Framing;
        using Payload = PubOptions::Payload;
        const Framing framing = options_.payload == Payload::lines   ? Framing::lines
                                : options_.payload == Payload::nul   ? Framing::nul
                                : options_.payload == Payload::whole ? Framing::whole
                                                                     : Framing::length_prefixed;
        MessageSource source(input, framing, ipcbus_message_bytes_max(publisher_), options_.fifo);
        std::vector<ipcbus_buffer> messages;
        messages.reserve(kBatch);
        while (published_ < options_.count_max && stop_signal() == 0) {
            const auto room = std::min<std::uint64_t>(kBatch, options_.count_max - published_);
            const auto step = source.next(messages, static_cast<std::size_t>(room), deadline_);
            const int code = step == MessageSource::Step::messages ? send(messages)
                                                                   : after(step, source);
            if (code != kGoOn) {
                return code;
            }
        }
        return kExitDone;
    }

    /// One message, as often as --repeat says.
    int publish_one(int input) {
        using Payload = PubOptions::Payload;
        std::vector<ipcbus_buffer> message = {{options_.text.data(), options_.text.size()}};
        MessageSource source(input, MessageSource::Framing::whole,
                             ipcbus_message_bytes_max(publisher_));
        if (options_.payload == Payload::empty) {
            message = {{nullptr, 0}};
        } else if (options_.payload != Payload::text) {
            auto step = MessageSource::Step::interrupted;
            while (step == MessageSource::Step::interrupted && stop_signal() == 0) {
                step = source.next(message, 1, deadline_);
            }
            if (step != MessageSource::Step::messages) {
                return after(step, source);
            }
        }
        if (message[0].size > ipcbus_message_bytes_max(publisher_)) {
            return too_long("the message", message[0].size);
        }
        if (options_.on_signal != 0) {
            return publish_on_signals(message);
        }
        const std::uint64_t count = std::min(options_.repeat, options_.count_max);
        message.resize(std::min<std::uint64_t>(count, kBatch), message[0]);
        int code = kGoOn;
        while (code == kGoOn && published_ < count && stop_signal() == 0) {
            const auto next = std::min<std::uint64_t>(count - published_, message.size());
            code = send(std::span(message).first(static_cast<std::size_t>(next)));
        }
        return code == kGoOn ? kExitDone : code;
    }

    /// The signal is blocked since the start. What stops the tool ends the wait (stop_signal.hpp).
    int publish_on_signals(std::span<const ipcbus_buffer> message) {
        sigset_t awaited;
        (void)::sigemptyset(&awaited);
        (void)::sigaddset(&awaited, options_.on_signal);
        while (published_ < options_.count_max && stop_signal() == 0) {
            const std::int64_t left_ns = deadline_.remaining_ns();
            timespec left{};
            left.tv_sec = left_ns / 1'000'000'000;
            left.tv_nsec = left_ns % 1'000'000'000;
            if (::sigtimedwait(&awaited, nullptr, deadline_.never() ? nullptr : &left) > 0) {
                if (const int code = send(message); code != kGoOn) {
                    return code;
                }
            } else if (errno == EAGAIN) {
                return timed_out(-ETIMEDOUT);
            }
        }
        return kExitDone;
    }

    /// Publishes all of `messages`, as fast as the pace allows.
    int send(std::span<const ipcbus_buffer> messages) {
        while (!messages.empty() && stop_signal() == 0) {
            const std::int64_t now_ns = paced() || !deadline_.never() ? sys::monotonic_ns() : 0;
            if (!deadline_.never()) {
                if (now_ns >= deadline_.at_ns) {
                    return timed_out(-ETIMEDOUT);
                }
                bound_block(deadline_.at_ns - now_ns);
            }
            const std::size_t due = pacer_.due(now_ns, messages.size());
            if (due == 0) {
                sleep_until(std::min(pacer_.next_ns(), deadline_.at_ns));
                continue;
            }
            const std::int64_t result = ipcbus_publish_many(publisher_, messages.data(), due);
            if (result >= 0) {
                const auto count = static_cast<std::size_t>(result);
                published_ += count;
                progress_.total(published_);
                pacer_.took(count);
                messages = messages.subspan(count);
            } else if (result == -ETIMEDOUT || result == -EAGAIN) {
                return timed_out(result);
            } else if (result != -EINTR) {
                return report_failure(kTool, "publish", result);
            }
        }
        return kGoOn;
    }

    [[nodiscard]] bool paced() const {
        return options_.rate_hz > 0 || options_.repeat_delay_ns > 0;
    }

    /// No publish may wait longer than the rest of -W.
    void bound_block(std::int64_t left_ns) {
        const std::int64_t asked_ns = options_.max_block_ns;
        (void)ipcbus_set_max_block(publisher_,
                                   asked_ns < 0 ? left_ns : std::min(asked_ns, left_ns));
    }

    static void sleep_until(std::int64_t at_ns) {
        timespec at{};
        at.tv_sec = at_ns / 1'000'000'000;
        at.tv_nsec = at_ns % 1'000'000'000;
        (void)::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
    }

    /// Why a publish did not get room in time.
    int timed_out(std::int64_t result) {
        std::string text = "cannot publish: ";
        if (deadline_.passed()) {
            text += "not done within " + show_duration(options_.timeout_ns);
        } else if (result == -EAGAIN) {
            text += "the ring is full: a subscriber is too slow";
        } else {
            text += "the ring has been full for " + show_duration(options_.max_block_ns) +
                    ": a subscriber is too slow";
        }
        report(kTool, text + " (" + plural(published_, "message") + " published)");
        return kExitTimedOut;
    }

    int too_long(const std::string& what, std::uint64_t bytes) {
        report(kTool, "cannot publish " + what + ": " + std::to_string(bytes) +
                          " bytes or more, but the largest here is " +
                          std::to_string(ipcbus_message_bytes_max(publisher_)) +
                          "; a larger --ring-size allows more");
        return kExitFailed;
    }

    /// Of what its writers do wrong, whom it does not trust to do so rarely.
    bool may_warn() {
        if (options_.common.quiet || !next_warning_.passed()) {
            return false;
        }
        next_warning_ = sys::Deadline::after(kWarningEveryNs);
        return true;
    }

    /// What follows from there being no next message.
    int after(MessageSource::Step step, MessageSource& source) {
        using Step = MessageSource::Step;
        const std::string input = !options_.fifo.empty() ? quoted(options_.fifo)
                                  : options_.payload == PubOptions::Payload::file
                                      ? quoted(options_.text)
                                      : "stdin";
        switch (step) {
            case Step::messages:
            case Step::interrupted: return kGoOn;
            case Step::end: return kExitDone;
            case Step::timed_out: return timed_out(-ETIMEDOUT);
            case Step::too_long: {
                if (options_.fifo.empty() || may_warn()) {
                    (void)too_long("message " + std::to_string(source.count() + 1),
                                   source.long_bytes());
                }
                if (options_.fifo.empty()) {
                    return kExitFailed;
                }
                source.drop_long();  // those of other writers go on
                return kGoOn;
            }
            case Step::cut_short:
                if (!options_.fifo.empty()) {
                    if (may_warn()) {
                        report(kTool, "a writer of " + input + " ended inside a message");
                    }
                    return kGoOn;  // its next one begins anew
                }
                report(kTool, "cannot read " + input + ": it ends inside a message");
                return kExitFailed;
            case Step::no_fifo:
                report(kTool, "cannot follow " + input + " any more: it is no FIFO");
                return kExitFailed;
            case Step::failed:
                report(kTool, "cannot read " + input + ": " + std::strerror(errno));
                return kExitFailed;
        }
        return kExitFailed;
    }

    const PubOptions& options_;
    ipcbus_publisher* const publisher_;  // borrowed
    const sys::Deadline deadline_;
    Pacer pacer_;
    sys::Deadline next_warning_{0};
    std::uint64_t published_ = 0;
    Progress progress_{kTool};
};

/// Bytes of the one message that will be published, as far as that is known before it is read.
std::uint64_t known_bytes(const PubOptions& options, int input) {
    if (options.payload == PubOptions::Payload::text) {
        return options.text.size();
    }
    struct stat status{};
    const bool is_known = !options.streams() && ::fstat(input, &status) == 0 &&
                          S_ISREG(status.st_mode) && status.st_size > 0;
    return is_known ? static_cast<std::uint64_t>(status.st_size) : 0;
}

int advertise(const PubOptions& options, int input, ipcbus_bus* bus,
              PublisherPtr& ret_publisher) {
    ipcbus_publisher_options publisher_options = IPCBUS_INIT(publisher_options);
    publisher_options.ring_bytes = options.ring_bytes;
    if (const std::uint64_t bytes = known_bytes(options, input);
        bytes > kUsualBytes && options.ring_bytes == 0) {
        publisher_options.message_bytes_max = bytes;  // the daemon chooses a ring that fits
    }
    publisher_options.max_block_ns = std::max<std::int64_t>(options.max_block_ns, 0);
    ipcbus_publisher* publisher = nullptr;
    const int result =
        ipcbus_advertise(bus, options.topic.c_str(), &publisher_options, &publisher);
    if (result != 0) {
        return report_failure(kTool, "publish to " + quoted(options.topic), result);
    }
    ret_publisher.reset(publisher);
    if (options.max_block_ns == 0) {
        (void)ipcbus_set_max_block(publisher, 0);  // a 0 in the options means for ever
    }
    if (options.common.debug) {
        report(kTool, "publishing to " + quoted(options.topic) + " through a ring of " +
                          std::to_string(ipcbus_ring_bytes(publisher)) + " bytes, " +
                          plural(ipcbus_subscriber_count(publisher), "subscriber") + " there");
    }
    return kGoOn;
}

/// Opens a FIFO that is to be followed, without waiting for a writer. False: said why not.
bool open_fifo(const std::string& path, sys::UniqueFd& ret_fd) {
    sys::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    struct stat status{};
    if (!fd || ::fstat(fd.get(), &status) != 0) {
        report(kTool, "cannot open " + quoted(path) + ": " + std::strerror(errno));
        return false;
    }
    if (!S_ISFIFO(status.st_mode)) {
        report(kTool, "cannot follow " + quoted(path) + ": it is no FIFO (mkfifo makes one)");
        return false;
    }
    ret_fd = std::move(fd);
    return true;
}

/// From here on it is kept until it is asked for, also while we connect. What was inherited as
/// ignored is not.
void block_signal(int number) {
    sigset_t awaited;
    (void)::sigemptyset(&awaited);
    (void)::sigaddset(&awaited, number);
    (void)::sigprocmask(SIG_BLOCK, &awaited, nullptr);
    (void)::signal(number, SIG_DFL);
}

int run(const PubOptions& options) {
    const sys::Deadline deadline = sys::Deadline::after(options.timeout_ns);
    if (options.on_signal != 0) {
        block_signal(options.on_signal);
    }
    if (const auto installed = install_stop_signals(); !installed.ok()) {
        report(kTool, "cannot catch signals: " + installed.error().what);
        return kExitFailed;
    }
    sys::UniqueFd file;
    int input = STDIN_FILENO;
    if (options.payload == PubOptions::Payload::file && options.text != "-") {
        file.reset(::open(options.text.c_str(), O_RDONLY | O_CLOEXEC));
        if (!file) {
            report(kTool, "cannot open " + quoted(options.text) + ": " + std::strerror(errno));
            return kExitFailed;
        }
        input = file.get();
    }
    if (!options.fifo.empty()) {
        if (!open_fifo(options.fifo, file)) {
            return kExitFailed;
        }
        input = file.get();
    }
    BusPtr bus;
    if (const int code = connect_bus(kTool, options.common, bus); code != kExitDone) {
        return code;
    }
    PublisherPtr publisher;
    if (const int code = advertise(options, input, bus.get(), publisher); code != kGoOn) {
        return code;
    }
    finish_messages_on_stop();
    const int code = Publishing(options, publisher.get(), deadline).run(input);
    exit_at_once_on_stop();
    return code;
}

}  // namespace
}  // namespace ipcbus::tools

int main(int argc, char** argv) {
    using namespace ipcbus::tools;
    return tool_main(kTool, argc, argv, parse_pub_options, pub_help, run);
}
