// SPDX-License-Identifier: Apache-2.0
// What ipcbus-bench prints: each mode's result for people or as JSON, and what was measured where.
// Pure functions; the parent's one thread.
#pragma once

#include "bench/json.hpp"
#include "bench/machine.hpp"
#include "bench/modes.hpp"

#include <string>
#include <vector>

namespace ipcbus::bench {

/// One line or two: what was asked for, and the machine.
[[nodiscard]] std::string heading(const Run& run, const Machine& machine);
/// "options" and "machine", as members of the object that is open.
void write_circumstances(const Run& run, const Machine& machine, Json& json);

/// For people. With several runs: the headline of each, then all of them together.
[[nodiscard]] std::string latency_text(const Run& run, const std::vector<LatencyResult>& runs);
[[nodiscard]] std::string request_text(const Run& run, const std::vector<RequestResult>& runs);
[[nodiscard]] std::string stream_text(const Run& run, const std::vector<StreamResult>& runs);
[[nodiscard]] std::string connect_text(const std::vector<ConnectResult>& runs);
[[nodiscard]] std::string control_text(const std::vector<ControlResult>& runs);

/// One object.
void write_result(const Run& run, const LatencyResult& result, Json& json);
void write_result(const Run& run, const RequestResult& result, Json& json);
void write_result(const Run& run, const StreamResult& result, Json& json);
void write_result(const Run& run, const ConnectResult& result, Json& json);
void write_result(const Run& run, const ControlResult& result, Json& json);

/// All of `runs` in one. Of control runs: each number's median.
[[nodiscard]] LatencyResult together(const std::vector<LatencyResult>& runs);
[[nodiscard]] RequestResult together(const std::vector<RequestResult>& runs);
[[nodiscard]] StreamResult together(const std::vector<StreamResult>& runs);
[[nodiscard]] ConnectResult together(const std::vector<ConnectResult>& runs);
[[nodiscard]] ControlResult together(const std::vector<ControlResult>& runs);

}  // namespace ipcbus::bench
