// SPDX-License-Identifier: Apache-2.0
// For the session fuzzer: a client that does all it should, beside those that do what they like,
// and checks what it is told: answers to its requests, and no others; peers introduced before they
// are named and not taken back while they are used; attachments that begin once and end once. One
// thread.
#pragma once

#include "bus_peer.hpp"

#include <map>
#include <optional>
#include <set>

namespace ipcbus::fuzz {

class Bystander {
public:
    Bystander(daemon::Bus& bus, uid_t uid) : peer_(bus, uid, 0, false) {
        const auto welcome = answer<protocol::Welcome>(ask(protocol::Hello{}));
        FUZZ_CHECK(welcome && welcome->geometry.valid() && welcome->resumed == 0);
        client_ = welcome->client;
        token_ = welcome->token;
        send(protocol::Mapped{0});
    }

    [[nodiscard]] u64 client() const { return client_; }
    [[nodiscard]] const protocol::Id128& token() const { return token_; }
    [[nodiscard]] std::size_t attachment_count() const { return attachments_.size(); }
    [[nodiscard]] std::size_t member_count() const { return members_.size(); }

    template <class Frame>
    u64 ask(const Frame& frame) {
        peer_.put(frame, ++request_);
        peer_.flush();
        return request_;
    }

    template <class Frame>
    void send(const Frame& frame) {
        peer_.put(frame, 0);
        peer_.flush();
    }

    /// Whether the answer to a request is there, or has been.
    bool answered(u64 request) {
        listen();
        return answered_.contains(request);
    }
    /// The answer to a request; nothing if it was refused.
    template <class Frame>
    std::optional<Frame> answer(u64 request) {
        turn_until([&] {
            listen();
            return answers_.contains(request);
        });
        const Incoming incoming = std::move(answers_.at(request));
        answers_.erase(request);
        if (incoming.header.type == FrameType::error) {
            return std::nullopt;
        }
        return incoming.as<Frame>();
    }

    std::optional<protocol::Advertised> advertise(const std::string& topic, u64 ring_bytes) {
        protocol::Advertise frame;
        frame.topic = topic;
        frame.ring_bytes = ring_bytes;
        auto advertised = answer<protocol::Advertised>(ask(frame));
        if (advertised) {
            send(protocol::Mapped{advertised->publication});
        }
        return advertised;
    }
    std::optional<protocol::Subscribed> subscribe(const std::string& filter) {
        return answer<protocol::Subscribed>(ask(protocol::Subscribe{filter, 0}));
    }

    /// Forgets their attachments first: with an answer may come that the peer is gone. (None of its
    /// publications may end meanwhile.)
    void unsubscribe(const std::vector<u64>& subscriptions) {
        std::vector<u64> requests;
        for (const u64 id : subscriptions) {
            forget(id);
            requests.push_back(ask(protocol::Unsubscribe{id}));
            turns(requests.size() % 64 == 0 ? 1 : 0);  // the socket takes so many at once
            listen();
        }
        for (const u64 request : requests) {
            FUZZ_CHECK(answer<protocol::Done>(request));
        }
    }

    /// The publications that a subscription reads, in the order in which it was attached to them.
    std::vector<u64> publications_of(u64 subscription) {
        std::vector<u64> publications;
        for (const u64 id : of_subscription_[subscription]) {
            publications.push_back(publication_of_.at(id));
        }
        return publications;
    }
    /// How many publications a subscription read when CAUGHT_UP came; nothing if it has not.
    [[nodiscard]] std::optional<std::size_t> caught_up(u64 subscription) {
        listen();
        const auto found = caught_up_.find(subscription);
        return found == caught_up_.end() ? std::nullopt : std::optional(found->second);
    }
    /// Lets go of all that a subscription reads. (None of it may end meanwhile.)
    void let_go(u64 subscription) {
        for (const u64 id : of_subscription_[subscription]) {
            send(protocol::Detached{id});
        }
        forget(subscription);
    }

    /// Takes what has come, and does what the protocol wants of it.
    void listen() {
        for (Incoming& incoming : peer_.receive()) {
            if (!incoming.fds.empty()) {
                send(protocol::Received{static_cast<u32>(incoming.fds.size())});
            }
            if (incoming.header.request != 0) {
                FUZZ_CHECK(incoming.header.request <= request_);
                FUZZ_CHECK(answered_.insert(incoming.header.request).second);
                answers_.emplace(incoming.header.request, std::move(incoming));
            } else {
                told(incoming);
            }
        }
        FUZZ_CHECK(!peer_.hung_up());
    }

private:
    void forget(u64 subscription) {
        for (const u64 id : of_subscription_[subscription]) {
            attachments_.erase(id);
            publication_of_.erase(id);
        }
        of_subscription_.erase(subscription);
    }

    void told(const Incoming& incoming) {
        switch (incoming.header.type) {
        case FrameType::peer:
            introduced(incoming.as<protocol::Peer>());
            return;
        case FrameType::peer_gone: {
            const u64 gone = incoming.as<protocol::PeerGone>().client;
            FUZZ_CHECK(pages_.erase(gone) == 1);
            for (const auto& [id, peer] : attachments_) {
                FUZZ_CHECK(peer != gone);
            }
            for (const auto& [id, peer] : members_) {
                FUZZ_CHECK(peer != gone);
            }
            return;
        }
        case FrameType::attached: {
            const auto frame = incoming.as<protocol::Attached>();
            FUZZ_CHECK((pages_[frame.peer] & protocol::kPeerDoorbell) != 0);
            FUZZ_CHECK(attachments_.emplace(frame.attachment, frame.peer).second);
            of_subscription_[frame.subscription].push_back(frame.attachment);
            publication_of_[frame.attachment] = frame.publication;
            FUZZ_CHECK(ever_attached_.insert(frame.attachment).second);
            FUZZ_CHECK(frame.start % protocol::kRecordAlignment == 0);
            return;
        }
        case FrameType::ended: {
            const auto frame = incoming.as<protocol::Ended>();
            FUZZ_CHECK(attachments_.erase(frame.attachment) == 1);
            send(protocol::Detached{frame.attachment});
            return;
        }
        case FrameType::members:
            changed(incoming.as<protocol::Members>());
            return;
        case FrameType::caught_up: {
            const u64 id = incoming.as<protocol::CaughtUp>().subscription;
            FUZZ_CHECK(caught_up_.emplace(id, of_subscription_[id].size()).second);
            return;
        }
        case FrameType::stopping:
            return;
        default:
            FUZZ_CHECK(!"a frame that nobody asked for");
        }
    }
    void introduced(const protocol::Peer& frame) {
        FUZZ_CHECK(frame.geometry.valid() && frame.pages != 0);
        FUZZ_CHECK((pages_[frame.client] & frame.pages) == 0);
        pages_[frame.client] |= frame.pages;
    }
    void changed(const protocol::Members& frame) {
        for (const protocol::Member& member : frame.attach) {
            FUZZ_CHECK(pages_[member.peer] == (protocol::kPeerCursor | protocol::kPeerDoorbell));
            FUZZ_CHECK(members_.emplace(member.attachment, member.peer).second);
        }
        for (const u64 gone : frame.detach) {
            FUZZ_CHECK(members_.erase(gone) == 1);
        }
        send(protocol::Taken{frame.publication, frame.number});
    }

    Peer peer_;
    u64 client_ = 0;
    protocol::Id128 token_{};
    u64 request_ = 0;
    std::map<u64, Incoming> answers_;
    std::set<u64> answered_;
    std::map<u64, u8> pages_;         ///< of each peer, what was introduced
    std::map<u64, u64> attachments_;  ///< and the writer's client
    std::map<u64, std::vector<u64>> of_subscription_;
    std::map<u64, u64> publication_of_;  ///< of each attachment there ever was, but those let go of
    std::set<u64> ever_attached_;
    std::map<u64, std::size_t> caught_up_;
    std::map<u64, u64> members_;  ///< attachments of readers, and the reader's client
};

}  // namespace ipcbus::fuzz
