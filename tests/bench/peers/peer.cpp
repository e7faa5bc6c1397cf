// SPDX-License-Identifier: Apache-2.0
// The list of peers: filled by static objects of the peers' own files, before main().
#include "peers/peer.hpp"

#include <map>

namespace ipcbus::bench {
namespace {

std::multimap<int, Registered::Make>& makers() {
    static std::multimap<int, Registered::Make> all;
    return all;
}

}  // namespace

Registered::Registered(int order, Make make) { makers().emplace(order, std::move(make)); }

std::vector<Message>& Messages::of(const Slice& slice) {
    if (messages_.size() != slice.batch || messages_[0].bytes() != slice.message_bytes) {
        messages_.assign(slice.batch, Message(slice.message_bytes));
        sum_ = messages_[0].sum();
    }
    return messages_;
}

Checker Messages::checker(std::string_view who, const Slice& slice) {
    (void)of(slice);
    return {who, slice.message_bytes, slice.touch, sum_};
}

std::vector<std::unique_ptr<Peer>> make_all_peers() {
    std::vector<std::unique_ptr<Peer>> peers;
    for (const auto& [order, make] : makers()) {
        peers.push_back(make());
    }
    return peers;
}

}  // namespace ipcbus::bench
