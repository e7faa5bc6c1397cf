// SPDX-License-Identifier: Apache-2.0
// What the bus does at the end of a turn of the loop, in pieces that keep the turn short: frames
// are worked off in turn of their uids, then who has something to send sends, then sleepers are
// rung. Part of the bus (bus.hpp), the daemon's one thread.
#include "bus.hpp"

#include "log.hpp"
#include "sys/clock.hpp"

#include <algorithm>

namespace ipcbus::daemon {

namespace {

/// For frames, in one turn: what others wait at most before their sends and receives go on.
constexpr std::int64_t kWorkPerTurnNs = 5'000'000;
/// Sleeping waiters that are rung in one turn, two system calls each: of one client, and of all.
constexpr unsigned kRingsPerClientMax = 64;
constexpr unsigned kRingsPerTurnMax = 256;
/// Lines about clients in one second; a hostile one could fill a disk otherwise.
constexpr unsigned kLogLinesMax = 20;
constexpr std::int64_t kLogWindowNs = 1'000'000'000;

}  // namespace

void Bus::schedule() {
    if (!std::exchange(turn_scheduled_, true)) {
        loop_.defer(scope_, [this] { turn(); });
    }
}

void Bus::turn() {
    // Still `scheduled`: what comes up meanwhile is seen to below.
    work_some();
    const bool more_to_check = check_some();
    if (fd_budget_.take_relief()) {
        for (const auto& [id, client] : clients_) {
            client->session->touch();
        }
    }
    pump_all();
    ring_some();
    turn_scheduled_ = false;
    if (more_to_check || !to_work_.empty() || !to_pump_.empty() || !to_ring_.empty()) {
        schedule();
    }
}

void Bus::session_closed(Session& session) {
    to_work_.remove(session.uid(), session);
    std::replace(to_pump_.begin(), to_pump_.end(), &session, static_cast<Session*>(nullptr));
    session.on_closed([this, &session] {
        sessions_.erase(&session);
        nothing_left();
    });
}

void Bus::work_later(Session& session) {
    to_work_.add(session.uid(), session);
    schedule();
}

void Bus::work_some() {
    const std::int64_t until_ns = sys::monotonic_ns() + kWorkPerTurnNs;
    while (Session* session = to_work_.take()) {
        if (!session->work()) {
            to_work_.add(session->uid(), *session);
        }
        if (sys::monotonic_ns() >= until_ns) {
            return;
        }
    }
}

void Bus::pump_later(Session& session) {
    to_pump_.push_back(&session);
    schedule();
}

void Bus::pump_all() {
    // A pump may close a session, which touches others: they come at the end of the list.
    for (std::size_t i = 0; i < to_pump_.size(); i++) {
        if (Session* session = std::exchange(to_pump_[i], nullptr)) {
            session->pump();
        }
    }
    to_pump_.clear();
}

void Bus::descriptors_came_back() { schedule(); }

void Bus::announce_frames(Client& client) {
    client.memory.announce_frames();
    if (!std::exchange(client.to_ring, true)) {
        to_ring_.push_back(client.id);
        schedule();
    }
}

void Bus::ring_some() {
    unsigned left = kRingsPerTurnMax;
    for (std::size_t count = to_ring_.size(); count > 0 && left > 0; count--) {
        const Id id = to_ring_.front();
        to_ring_.pop_front();
        if (Client* client = find_client(id)) {
            unsigned rung = 0;
            if (client->memory.ring_sleepers(std::min(left, kRingsPerClientMax), rung)) {
                client->to_ring = false;
            } else {
                to_ring_.push_back(id);  // the rest after what others want
            }
            left -= rung;
        }
    }
}

bool Bus::may_log() {
    const std::int64_t now_ns = sys::coarse_ns();
    if (now_ns - log_window_ns_ >= kLogWindowNs) {
        log_window_ns_ = now_ns;
        log_lines_ = 0;
        if (const std::uint64_t count = std::exchange(log_lines_left_out_, 0); count > 0) {
            log_warning("{} more lines about clients were left out", count);
        }
    }
    if (log_lines_ >= kLogLinesMax) {
        log_lines_left_out_++;
        return false;
    }
    log_lines_++;
    return true;
}

}  // namespace ipcbus::daemon
