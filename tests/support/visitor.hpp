// SPDX-License-Identifier: Apache-2.0
// Two raw clients for tests of what one session may do to another: a Neighbour, which has
// everything that a client can have, and keeps its side of the protocol; and a Visitor, one
// connection, brought into a state, which is then sent one frame. Owned by one test, one thread.
#pragma once

#include "bus_client.hpp"
#include "raw_client.hpp"

#include "sys/clock.hpp"

#include <cerrno>
#include <optional>
#include <string>

namespace ipcbus::test {

enum class State {
    connected,  ///< has said nothing
    greeted,    ///< WELCOME is here, MAPPED is due
    ready,      ///< may ask
    offered,    ///< has been given a ring, MAPPED of that is due
    joined,     ///< publishes, with a reader, MEMBERS untaken; subscribes, with an attachment
    resumed,    ///< took the place of an earlier connection
    refused,    ///< was malformed once
};
inline constexpr State kStates[] = {State::connected, State::greeted, State::ready,  State::offered,
                                    State::joined,    State::resumed, State::refused};
inline std::string name(State state) {
    constexpr const char* kNames[] = {"connected", "greeted", "ready",  "offered",
                                      "joined",    "resumed", "refused"};
    return kNames[static_cast<int>(state)];
}

enum class Reaction {
    answered,  ///< by what is no ERROR
    refused,   ///< by an ERROR, and the session goes on
    ignored,   ///< the session goes on
    ended,     ///< by an ERROR, then the hang-up
    hung_up,   ///< the session had ended before
};
inline std::string name(Reaction reaction) {
    constexpr const char* kNames[] = {"answered", "refused", "ignored", "ended", "hung up"};
    return kNames[static_cast<int>(reaction)];
}

struct Objects {
    protocol::u64 client = ~protocol::u64{0};
    protocol::Id128 token{};
    protocol::u64 publication = ~protocol::u64{0};
    protocol::u64 subscription = ~protocol::u64{0};
    protocol::u64 attachment = ~protocol::u64{0};  ///< where it reads
    protocol::u64 reader =
        ~protocol::u64{0};     ///< the attachment by which somebody reads its publication
    protocol::u64 number = 0;  ///< of the MEMBERS
};

/// Takes what it is told, as a good client does.
class Neighbour {
public:
    explicit Neighbour(const std::string& socket_path)
        : client_(RawClient::on_bus(socket_path, "neighbour")) {
        objects_.client = client_.welcome.client;
        objects_.token = client_.welcome.token;
        client_.subscribe("visitor/#");
        objects_.subscription = client_.subscribe("neighbour").subscription;
        objects_.publication = client_.advertise("neighbour", 4096).publication;
        client_.mapped(objects_.publication);
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        while (objects_.attachment == ~protocol::u64{0} || objects_.reader == ~protocol::u64{0}) {
            REQUIRE(!deadline.passed());
            settle();
        }
    }
    /// Until nothing more comes.
    void settle() {
        for (const Incoming& incoming : client_.drain()) {
            if (incoming.header.type == protocol::FrameType::members) {
                const auto members = decoded<protocol::Members>(incoming);
                if (!members.attach.empty() && objects_.reader == ~protocol::u64{0}) {
                    objects_.reader = members.attach[0].attachment;
                    objects_.number = members.number;
                }
                client_.taken(members);
            } else if (incoming.header.type == protocol::FrameType::ended) {
                const auto ended = decoded<protocol::Ended>(incoming);
                CHECK(ended.attachment != objects_.attachment);
                client_.send_with(protocol::Detached{ended.attachment}, 0);
            } else if (incoming.header.type == protocol::FrameType::attached &&
                       objects_.attachment == ~protocol::u64{0}) {
                const auto attached = decoded<protocol::Attached>(incoming);
                objects_.attachment = attached.attachment;
            }
        }
    }
    /// It still has all it had.
    void expect_intact() {
        settle();
        client_.unadvertise(objects_.publication);
        (void)client_.answer<protocol::Done>(
            client_.send(protocol::Unsubscribe{objects_.subscription}));
    }
    [[nodiscard]] const Objects& objects() const { return objects_; }
    [[nodiscard]] RawClient& client() { return client_; }

private:
    RawClient client_;
    Objects objects_;
};

/// One session, brought into a state.
class Visitor {
public:
    static constexpr protocol::u64 kAsked = 1'000'000;  ///< number of the request that is tried

    Visitor(const std::string& socket_path, State state, Neighbour& neighbour)
        : state_(state), client_(socket_path) {
        if (state == State::connected) {
            return;
        }
        if (state == State::refused) {
            client_.send(protocol::Stopping{});
            client_.expect_error(EPROTO);
            return;
        }
        client_.hello("visitor");
        own_.client = client_.welcome.client;
        own_.token = client_.welcome.token;
        if (state == State::greeted) {
            return;
        }
        client_.mapped(0);
        if (state == State::resumed) {
            RawClient next(socket_path);
            next.send(protocol::Resume{.client = own_.client, .token = own_.token});
            CHECK(next.expect<protocol::Welcome>().resumed == 1);
            std::swap(client_, next);
        } else if (state == State::offered || state == State::joined) {
            own_.publication = client_.advertise("visitor/1", 4096).publication;
            if (state == State::joined) {
                join(neighbour);
            }
        }
    }

    [[nodiscard]] const Objects& own() const { return own_; }
    void send(std::span<const std::byte> bytes) { client_.send_bytes(bytes); }
    [[nodiscard]] int socket() const { return client_.socket(); }

    /// What became of a frame of that type, which has been sent.
    Reaction reaction(bool wants_answer, bool says_hello) {
        // Then what a good client would say now, and a question that is always refused.
        if (state_ == State::connected && !says_hello) {
            client_.send(protocol::Hello{});
        }
        if (state_ == State::connected || state_ == State::greeted) {
            client_.mapped(0);
        }
        client_.send_with(protocol::Unsubscribe{~protocol::u64{0}}, kProbe);
        // Answers may come in another order than requests; that to the probe comes in any case.
        std::optional<Reaction> found;
        bool goes_on = false;
        while (!goes_on || (!found && wants_answer)) {
            const auto incoming = client_.next();
            if (!incoming.has_value()) {
                return found ? Reaction::ended : Reaction::hung_up;
            }
            const bool error = incoming->header.type == protocol::FrameType::error;
            if (incoming->header.request == kProbe) {
                CHECK(decoded<protocol::ErrorFrame>(*incoming).code == ENOENT);
                goes_on = true;
            } else if (error || incoming->header.request == kAsked) {
                found = error ? Reaction::refused : Reaction::answered;
            }
        }
        return found.value_or(Reaction::ignored);
    }

private:
    static constexpr protocol::u64 kProbe = 2'000'000;

    /// The neighbour reads it, and it reads the neighbour.
    void join(Neighbour& neighbour) {
        client_.mapped(own_.publication);
        own_.subscription = client_.subscribe("neighbour").subscription;
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        while (own_.reader == ~protocol::u64{0} || own_.attachment == ~protocol::u64{0}) {
            REQUIRE(!deadline.passed());
            for (const Incoming& incoming : client_.drain()) {
                if (incoming.header.type == protocol::FrameType::members) {
                    const auto members = decoded<protocol::Members>(incoming);
                    own_.number = members.number;
                    own_.reader = members.attach.at(0).attachment;
                } else if (incoming.header.type == protocol::FrameType::attached) {
                    own_.attachment = decoded<protocol::Attached>(incoming).attachment;
                }
            }
        }
        neighbour.settle();
    }

    State state_;
    RawClient client_;
    Objects own_;
};

}  // namespace ipcbus::test
