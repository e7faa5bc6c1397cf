// SPDX-License-Identifier: Apache-2.0
// The books of one client. See client.hpp.
#include "client.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace ipcbus::daemon {

protocol::u32 NumberPool::take() {
    IPCBUS_ASSERT(free() > 0);
    if (returned_.empty()) {
        return next_++;
    }
    const protocol::u32 number = returned_.back();
    returned_.pop_back();
    return number;
}

void NumberPool::give_back(protocol::u32 number) {
    IPCBUS_ASSERT(number < next_);
    returned_.push_back(number);
    if (returned_.size() == next_) {  // none is out: begin anew, with the lowest first
        returned_.clear();
        next_ = 0;
    }
}

Client::Client(Id client_id, uid_t client_uid, std::string client_name, ClientMemory client_memory)
    : id(client_id),
      uid(client_uid),
      name(std::move(client_name)),
      memory(std::move(client_memory)),
      slots(memory.geometry().attachments_max),
      indices(memory.geometry().publications_max) {}

std::string Client::describe() const {
    return fmt::format("client {} '{}' (uid {})", id, name, uid);
}

void Client::use_peer(const SharedPages& pages) {
    IPCBUS_ASSERT(pages);
    PeerLink& link = peers_[pages->client];
    link.pages = pages;
    link.uses++;
    peers_to_drop.erase(pages->client);
}

void Client::release_peer(Id peer_id) {
    const auto found = peers_.find(peer_id);
    IPCBUS_ASSERT(found != peers_.end() && found->second.uses > 0);
    if (--found->second.uses > 0) {
        return;
    }
    if (found->second.told == 0) {
        peers_.erase(found);
    } else {
        peers_to_drop.insert(peer_id);
    }
}

PeerLink& Client::peer(Id peer_id) {
    const auto found = peers_.find(peer_id);
    IPCBUS_ASSERT(found != peers_.end());
    return found->second;
}

void Client::forget_peer(Id peer_id) {
    IPCBUS_ASSERT(peer(peer_id).uses == 0);
    peers_.erase(peer_id);
    peers_to_drop.erase(peer_id);
}

void Client::untell_peer(Id peer_id, std::uint8_t pages) {
    const auto found = peers_.find(peer_id);
    if (found != peers_.end()) {
        // `told` of a link that nobody uses stays: it is what PEER_GONE is owed for.
        if (found->second.uses > 0) {
            found->second.told &= static_cast<std::uint8_t>(~pages);
        }
    }
}

}  // namespace ipcbus::daemon
