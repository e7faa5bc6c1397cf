// SPDX-License-Identifier: Apache-2.0
// The end of the bus. Clients are told, and most hang up at once: they go on in the rings they
// have. Who is not in the library just then, or does not know STOPPING, is not waited for, unless
// it has something to read: then its reader may want to be through with it first. Part of the bus
// (bus.hpp), the daemon's one thread.
#include "bus.hpp"

#include <algorithm>

namespace ipcbus::daemon {

namespace {

/// For clients to be woken and to hang up, whatever there is to read.
constexpr std::int64_t kGraceNs = 200'000'000;
/// How often we look whether readers are through.
constexpr std::int64_t kLookNs = 50'000'000;

}  // namespace

void Bus::stop(std::function<void()> on_empty) {
    on_empty_ = std::move(on_empty);
    stopping_ = true;
    std::vector<Session*> all;
    for (const auto& [session, owner] : sessions_) {
        all.push_back(session);
    }
    for (Session* session : all) {
        if (session->state() == Session::State::active) {
            session->reply(protocol::Stopping{}, 0);
        } else if (session->state() != Session::State::closing) {
            session->abandon();
        }
    }
    drain_timer_.start(kGraceNs);
    loop_.defer(scope_, [this] { nothing_left(); });
}

void Bus::nothing_left() {
    if (sessions_.empty() && on_empty_) {
        std::exchange(on_empty_, nullptr)();
    }
}

/// Readers and writers go on meanwhile, and may lie: to wait longer, but not beyond
/// limits.drain_timeout.
bool Bus::drained() const {
    for (const auto& [id, publication] : publications_) {
        const std::vector<Attachment*>& readers = publication->attachments.all();
        if (std::any_of(readers.begin(), readers.end(),
                        [this](const Attachment* one) { return has_unread(*one); })) {
            return false;
        }
    }
    return true;
}

bool Bus::has_unread(const Attachment& attachment) const {
    const auto reader = clients_.find(attachment.reader);
    if (reader == clients_.end() || attachment.reader_end != Attachment::Reader::told) {
        return false;
    }
    const std::uint64_t cursor_untrusted = reader->second->memory.cursor(attachment.slot);
    const std::uint64_t position = cursor_untrusted == 0 ? attachment.start : cursor_untrusted;
    const std::uint64_t newest_untrusted = attachment.publication->newest();
    return newest_untrusted != 0 && static_cast<std::int64_t>(position - newest_untrusted) <= 0;
}

void Bus::look_whether_drained() {
    if (!drained()) {
        drain_timer_.start(kLookNs);
    } else if (on_empty_) {
        std::exchange(on_empty_, nullptr)();
    }
}

void Bus::close() {
    on_empty_ = nullptr;
    stopping_ = true;
    std::vector<Session*> all;
    for (const auto& [session, owner] : sessions_) {
        all.push_back(session);
    }
    for (Session* session : all) {
        session->abandon();
    }
    for (const auto& [id, publication] : publications_) {
        publication->close([] {});
    }
    lingering_.close();
    while (give_way()) {}
    pool_.close();
    scope_.close([] {});
}

}  // namespace ipcbus::daemon
