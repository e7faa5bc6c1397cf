// SPDX-License-Identifier: Apache-2.0
// Results for people; see report.hpp.
#include "bench/clock.hpp"
#include "bench/report.hpp"
#include "bench/samples.hpp"
#include "cli.hpp"

#include <array>
#include <cstdarg>
#include <cstdio>

namespace ipcbus::bench {

using measure::Distance;
using measure::Histogram;
using measure::median;
using measure::show_ns;
using measure::show_number;

namespace {

constexpr std::array kPercents = {50.0, 90.0, 99.0, 99.9, 99.99};

[[gnu::format(printf, 1, 2)]] std::string print(const char* format, ...) {
    std::array<char, 512> line{};
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(line.data(), line.size(), format, arguments);
    va_end(arguments);
    return line.data();
}

std::string show_bytes(std::uint64_t bytes) {
    constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB"};
    std::size_t unit = 0;
    while (unit + 1 < kUnits.size() && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        ++unit;
    }
    return std::to_string(bytes) + " " + kUnits[unit];
}

std::string percentiles_heading() {
    return print("%10s %10s %10s %10s %10s %10s\n", "p50", "p90", "p99", "p99.9", "p99.99", "max");
}

std::string percentiles(const Histogram& histogram) {
    std::string text;
    for (const double percent : kPercents) {
        text += print("%10s ", show_ns(static_cast<double>(histogram.percentile(percent))).c_str());
    }
    return text + print("%10s\n", show_ns(static_cast<double>(histogram.max())).c_str());
}

/// The first columns of a class's line.
std::string class_columns(std::string_view name, const DistanceResult& at, double all_ns) {
    return print("  %-8s %7llu %5.0f %% %9s ", std::string(name).c_str(),
                 static_cast<unsigned long long>(at.slices),
                 all_ns > 0 ? 100 * at.wall_ns / all_ns : 0, show_ns(median(at.ping_ns)).c_str());
}

/// What is worth saying about where the processes ran.
std::string advice(const std::array<double, measure::kDistances>& wall_ns) {
    double all_ns = 0;
    for (const double one_ns : wall_ns) {
        all_ns += one_ns;
    }
    unsigned often = 0;
    for (const double one_ns : wall_ns) {
        often += one_ns > 0.05 * all_ns ? 1 : 0;
    }
    std::string text;
    if (often > 1) {
        text +=
            "The processes were not equally far apart all the time (ping-pong: a bare cache "
            "line,\none way): compare results of one class only.\n";
    }
    if (wall_ns[static_cast<std::size_t>(Distance::one_cpu)] > 0.05 * all_ns) {
        text += "For some time they took turns on one CPU: --pin 0,1 keeps them apart.\n";
    }
    return text;
}

std::string daemon_line(double cpu_ns) {
    return cpu_ns < 0 ? std::string()
                      : "CPU time of the daemon meanwhile: " + show_ns(cpu_ns) + "\n";
}

std::string what_was_checked(const Run& run) {
    return run.options.untouched ? "size, sequence and first 16 bytes"
                                 : "size, sequence and every byte";
}

}  // namespace

std::string heading(const Run& run, const Machine& machine) {
    const BenchOptions& options = run.options;
    using Mode = BenchOptions::Mode;
    std::string text(tools::mode_name(options.mode));
    if (options.mode == Mode::control) {
        text += ": " + tools::plural(options.clients, "client") + ", " +
                tools::plural(options.publications, "publication") + ", " +
                tools::plural(options.subscriptions, "subscription") + " matching " +
                std::to_string(options.matches) + " each, " + std::to_string(options.processes) +
                (options.processes == 1 ? " process" : " processes");
    } else if (options.mode == Mode::connect) {
        text += ": connect, advertise, subscribe, one message";
    } else {
        text += ": " + std::to_string(options.size) + " B, " +
                std::string(tools::delivery_name(options.delivery)) +
                ", waiting: " + std::string(tools::wait_name(options.wait));
        text += options.untouched        ? ", in place, untouched"
                : options.write_in_place ? ", in place"
                : options.read_in_place  ? ", copied in, read in place"
                                         : ", copied in";
        if (options.write_batch > 1 || options.read_batch > 1) {
            text += ", in batches of " + std::to_string(options.write_batch) + ", read in " +
                    std::to_string(options.read_batch);
        }
        if (options.mode == Mode::fanout) {
            text += ", " + tools::plural(options.readers, "reader");
        }
    }
    text += "\n" + (machine.processor.empty() ? "processor unknown" : machine.processor) + ", " +
            tools::plural(machine.cpus, "CPU") + (machine.is_virtual ? " (virtual)" : "") +
            ", Linux " + machine.kernel + ", clock " + measure::TickClock::get().name() + "\n";
    return text;
}

std::string latency_text(const Run& run, const std::vector<LatencyResult>& runs) {
    const LatencyResult all = together(runs);
    std::string text = "ring " + show_bytes(all.ring_bytes) + "; one way, half of a round trip\n\n";
    if (runs.size() > 1) {
        text += "  run                               " + percentiles_heading();
        for (std::size_t i = 0; i < runs.size(); ++i) {
            text += print("  %-34zu", i + 1) + percentiles(runs[i].all);
        }
        text += "\n";
    }
    text += "  class     slices   time ping-pong " + percentiles_heading();
    std::array<double, measure::kDistances> wall_ns{};
    DistanceResult every;
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        wall_ns[i] = all.at[i].wall_ns;
        every.merge(all.at[i]);
    }
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        if (all.at[i].slices > 0) {
            text += class_columns(measure::distance_name(static_cast<Distance>(i)), all.at[i],
                                  every.wall_ns) +
                    percentiles(all.at[i].one_way);
        }
    }
    text += class_columns("all", every, every.wall_ns) + percentiles(all.all) + "\n" +
            all.all.picture() + "\n" + advice(wall_ns);
    text += tools::plural(all.all.count(), "round trip") + ": " + what_was_checked(run) +
            " of both messages checked, none lost\n" + daemon_line(all.daemon_cpu_ns);
    return text;
}

std::string request_text(const Run& run, const std::vector<RequestResult>& runs) {
    const RequestResult all = together(runs);
    std::string text = "ring " + show_bytes(all.messages.ring_bytes) +
                       "; messages: one way, half of a round trip; requests: the round trip\n\n" +
                       "  class     slices   time ping-pong " + percentiles_heading();
    std::array<double, measure::kDistances> wall_ns{};
    double all_ns = 0;
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        wall_ns[i] = all.messages.at[i].wall_ns + all.requests.at[i].wall_ns;
        all_ns += wall_ns[i];
    }
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        const LatencyResult::At& messages = all.messages.at[i];
        const LatencyResult::At& requests = all.requests.at[i];
        if (messages.slices == 0 || requests.slices == 0) {
            continue;
        }
        const std::string name(measure::distance_name(static_cast<Distance>(i)));
        text += class_columns(name, messages, all_ns) + percentiles(messages.one_way);
        text += class_columns("request", requests, all_ns) + percentiles(requests.one_way);
        text += print("  %-34s %.2f x one way\n", "",
                      RequestResult::ratio(requests.one_way, messages.one_way));
    }
    text += print("\nA request and its reply take %.2f times as long as a message one way (medians "
                  "of all slices)\n",
                  RequestResult::ratio(all.requests.all, all.messages.all)) +
            advice(wall_ns);
    text += tools::plural(all.requests.all.count(), "request") + ", " +
            tools::plural(all.messages.all.count(), "round trip") + " of messages: " +
            what_was_checked(run) + " of all checked, none lost\n" +
            daemon_line(all.messages.daemon_cpu_ns);
    return text;
}

namespace {

std::string stream_columns(const Run& run, const StreamResult::At& at, double rate) {
    std::string text = print("%10s/s %4.0f %% %10sB/s %11s", show_number(rate).c_str(),
                             100 * measure::spread(at.rates),
                             show_number(rate * static_cast<double>(run.options.size)).c_str(),
                             show_ns(median(at.writer_cpu_ns)).c_str());
    if (!at.burst_cpu_ns.empty()) {
        text += print(" %11s", show_ns(median(at.burst_cpu_ns)).c_str());
    }
    return text + "\n";
}

std::string loss_line(const Run& run, const StreamResult& all) {
    std::string text =
        tools::plural(all.checked, "message") + " received: " + what_was_checked(run) + " checked";
    if (all.lost == 0) {
        return text + ", none lost\n";
    }
    const double share =
        100 * static_cast<double>(all.lost) / static_cast<double>(all.lost + all.checked);
    return text + "; " + std::to_string(all.lost) + " lost" + print(" (%.2f %%)", share) +
           ", as told by the bus\n";
}

}  // namespace

std::string stream_text(const Run& run, const std::vector<StreamResult>& runs) {
    const StreamResult all = together(runs);
    const bool has_bursts = !all.all.burst_cpu_ns.empty();
    std::string text = "ring " + show_bytes(all.ring_bytes) +
                       "; rates are medians of slices, of all: messages by time\n\n";
    const std::string columns = print("%12s %6s %13s %11s %s\n", "messages", "+-", "bytes",
                                      "writer CPU", has_bursts ? "  in bursts" : "");
    if (runs.size() > 1) {
        text += "  run                                " + columns;
        for (std::size_t i = 0; i < runs.size(); ++i) {
            text += print("  %-34zu", i + 1) + stream_columns(run, runs[i].all, runs[i].rate());
        }
        text += "\n";
    }
    text += "  class     slices   time ping-pong " + columns;
    std::array<double, measure::kDistances> wall_ns{};
    for (std::size_t i = 0; i < measure::kDistances; ++i) {
        wall_ns[i] = all.at[i].wall_ns;
        if (all.at[i].slices > 0) {
            text += class_columns(measure::distance_name(static_cast<Distance>(i)), all.at[i],
                                  all.all.wall_ns) +
                    stream_columns(run, all.at[i], median(all.at[i].rates));
        }
    }
    text += class_columns("all", all.all, all.all.wall_ns) +
            stream_columns(run, all.all, all.rate()) + "\n" + advice(wall_ns);
    if (has_bursts) {
        text += "in bursts: CPU time of a publish while the ring is not full\n";
    }
    return text + loss_line(run, all) + daemon_line(all.daemon_cpu_ns);
}

std::string connect_text(const std::vector<ConnectResult>& runs) {
    const ConnectResult all = together(runs);
    constexpr std::size_t kTotal = 4;
    std::string text = "ring " + show_bytes(all.ring_bytes) + "\n\n";
    if (runs.size() > 1) {
        text += "  run         " + percentiles_heading();
        for (std::size_t i = 0; i < runs.size(); ++i) {
            text += print("  %-12zu", i + 1) + percentiles(runs[i].phase[kTotal]);
        }
        text += "\n";
    }
    text += "  phase       " + percentiles_heading();
    for (std::size_t i = 0; i < ConnectResult::kPhases; ++i) {
        text += print("  %-12s", std::string(ConnectResult::kNames[i]).c_str()) +
                percentiles(all.phase[i]);
    }
    return text + "\ntotal: from nothing to the first message\n\n" + all.phase[kTotal].picture() +
           "\n" + tools::plural(all.phase[kTotal].count(), "connection") +
           ", the message of each checked\n";
}

std::string control_text(const std::vector<ControlResult>& runs) {
    const ControlResult all = together(runs);
    std::string text =
        "ring " + show_bytes(all.ring_bytes) +
        (runs.size() > 1 ? "; medians of the runs\n\n" : "\n\n") +
        print("  %-12s %10s %10s %12s %12s\n", "phase", "number", "time", "for each", "daemon CPU");
    for (const ControlResult::Phase& phase : all.phases) {
        const double each_ns =
            phase.operations > 0 ? phase.wall_ns / static_cast<double>(phase.operations) : 0;
        text += print("  %-12s %10llu %10s %12s %12s\n", std::string(phase.name).c_str(),
                      static_cast<unsigned long long>(phase.operations),
                      show_ns(phase.wall_ns).c_str(), show_ns(each_ns).c_str(),
                      phase.daemon_cpu_ns < 0 ? "-" : show_ns(phase.daemon_cpu_ns).c_str());
    }
    text += "\nset up (all before the messages) in " + show_ns(all.set_up_ns) + "; " +
            std::to_string(all.attachments) + " attachments\n";
    if (all.daemon_known) {
        text += print("daemon: %.1f MiB of its own, %.1f MiB shared\n",
                      static_cast<double>(all.daemon_rss_bytes) / (1 << 20),
                      static_cast<double>(all.daemon_shared_bytes) / (1 << 20));
    }
    return text + tools::plural(all.checked, "message") + " received and checked, none lost\n";
}

}  // namespace ipcbus::bench
