// SPDX-License-Identifier: Apache-2.0
// ipcbus-bench: measures a bus. This process parses, forks the processes that are measured (see
// team.hpp) and prints what came out; it has no connection of its own while they run. Signals as in
// stop_signal.hpp. Exit codes: cli.hpp.
#include "bench/clock.hpp"
#include "bench/private_bus.hpp"
#include "bench/report.hpp"
#include "bench_options.hpp"
#include "cli.hpp"
#include "stop_signal.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <string>
#include <vector>

namespace ipcbus::bench {
namespace {

using tools::report;

void write_head(const Run& run, Json& json) {
    json.open('{').member("tool", kTool).member("version", IPCBUS_VERSION);
    json.member("mode", tools::mode_name(run.options.mode));
    write_circumstances(run, this_machine(), json);
}

template <class Result>
std::string as_json(const Run& run, const std::vector<Result>& runs) {
    Json json;
    write_head(run, json);
    json.key("runs").open('[');
    for (const Result& one : runs) {
        write_result(run, one, json);
    }
    json.close(']').key("all");
    write_result(run, together(runs), json);
    json.close('}');
    return json.text() + "\n";
}

/// All repeats of a mode, and what to print of them. Returns an exit code.
template <class Result, class Text>
int repeat(const Run& run, int (*once)(const Run&, Result&), Text&& text, std::string& ret_text,
           std::vector<Result>& ret_runs) {
    for (std::uint32_t i = 0; i < run.options.repeat; ++i) {
        Result result;
        if (const int code = once(run, result); code != tools::kExitDone) {
            return code;
        }
        if (run.options.common.debug) {
            report(kTool, "run " + std::to_string(i + 1) + " of " +
                              std::to_string(run.options.repeat) + " is done");
        }
        ret_runs.push_back(std::move(result));
    }
    ret_text =
        run.options.json ? as_json(run, ret_runs) : heading(run, this_machine()) + text(ret_runs);
    return tools::kExitDone;
}

int measure_streams(const Run& run, std::string& ret_text) {
    std::vector<StreamResult> runs;
    const auto text = [&](const auto& all) { return stream_text(run, all); };
    if (const int code = repeat(run, run_stream, text, ret_text, runs); code != tools::kExitDone) {
        return code;
    }
    const std::uint64_t lost = together(runs).lost;
    if (lost == 0) {
        return tools::kExitDone;
    }
    if (run.options.strict || !run.options.common.quiet) {
        report(kTool, tools::plural(lost, "message") + " lost by subscribers of mode " +
                          std::string(tools::delivery_name(run.options.delivery)));
    }
    return run.options.strict ? tools::kExitLost : tools::kExitDone;
}

int measure_mode(const Run& run, std::string& ret_text) {
    switch (run.options.mode) {
        case BenchOptions::Mode::latency: {
            std::vector<LatencyResult> runs;
            const auto text = [&](const auto& all) { return latency_text(run, all); };
            return repeat(run, run_latency, text, ret_text, runs);
        }
        case BenchOptions::Mode::request: {
            std::vector<RequestResult> runs;
            const auto text = [&](const auto& all) { return request_text(run, all); };
            return repeat(run, run_request, text, ret_text, runs);
        }
        case BenchOptions::Mode::connect: {
            std::vector<ConnectResult> runs;
            return repeat(run, run_connect, connect_text, ret_text, runs);
        }
        case BenchOptions::Mode::control: {
            std::vector<ControlResult> runs;
            return repeat(run, run_control, control_text, ret_text, runs);
        }
        case BenchOptions::Mode::throughput:
        case BenchOptions::Mode::fanout: break;
    }
    return measure_streams(run, ret_text);
}

/// Whether there is a bus, told in the words of all tools, before anything is forked.
int try_bus(const Run& run) {
    tools::CommonOptions common = run.options.common;
    common.address = run.address;
    tools::BusPtr bus;
    return tools::connect_bus(kTool, common, bus);
}

int run(const BenchOptions& options) {
    if (const auto installed = tools::install_stop_signals(); !installed.ok()) {
        report(kTool, "cannot catch signals: " + installed.error().what);
        return tools::kExitFailed;
    }
    (void)measure::TickClock::get();  // calibrated here, once for all processes
    tools::finish_messages_on_stop();
    PrivateBus bus;
    Run run{options, options.topic, 0, options.common.address, 0};
    if (options.private_bus) {
        if (const auto started = bus.start(options.daemon_path); !started.ok()) {
            report(kTool, "cannot start ipcbusd: " + started.error().what);
            return tools::stop_signal() != 0 ? 128 + tools::stop_signal()
                                             : tools::kExitNoConnection;
        }
        run.address = bus.address();
    }
    if (run.topic.empty()) {
        run.topic = "ipcbus-bench/" + std::to_string(::getpid());
    }
    if (::getrandom(&run.salt, sizeof(run.salt), 0) != sizeof(run.salt)) {
        report(kTool, "cannot get random numbers");
        return tools::kExitFailed;
    }
    int code = try_bus(run);
    if (code == tools::kExitDone) {
        run.daemon = options.private_bus ? bus.pid() : daemon_at(run.address);
        std::string text;
        code = measure_mode(run, text);
        if (!text.empty()) {
            const int printed = tools::print_to_stdout(kTool, text);
            code = code == tools::kExitDone ? printed : code;
        }
    }
    return tools::stop_signal() != 0 ? 128 + tools::stop_signal() : code;
}

}  // namespace
}  // namespace ipcbus::bench

int main(int argc, char** argv) {
    using namespace ipcbus;
    return tools::tool_main(bench::kTool, argc, argv, tools::parse_bench_options, tools::bench_help,
                            bench::run);
}
