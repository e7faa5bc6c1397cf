// SPDX-License-Identifier: Apache-2.0
// What a remote client says: most of it passes on to the bus as it is, but nothing that is about
// memory. All of it is hostile. See remote_session.hpp.
#include "log.hpp"
#include "remote_hub.hpp"
#include "remote_streams.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace ipcbus::daemon {

using protocol::FrameHeader;
using protocol::FrameReader;
using protocol::FrameType;
using protocol::u64;

namespace {

/// An ASK that is said again is answered once, and leaves a number behind.
constexpr std::size_t kAsksMax = 1024;

constexpr std::string_view kHttpAnswer =
    "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    "This is ipcbusd, a message bus, and no web server.\n";

bool is_http(std::span<const std::byte> bytes) {
    constexpr std::string_view kMethods[] = {"GET ",     "HEAD ",    "POST ",  "PUT ",   "DELETE ",
                                             "OPTIONS ", "CONNECT ", "TRACE ", "PATCH ", "PRI "};
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return std::any_of(std::begin(kMethods), std::end(kMethods),
                       [&](std::string_view method) { return text.starts_with(method); });
}

}  // namespace

template <class Frame>
bool RemoteSession::decoded(const FrameHeader& header, std::span<const std::byte> fields,
                            Frame& ret_frame) {
    if (protocol::decode(fields, ret_frame)) {
        return true;
    }
    fail(header.request, EPROTO, fmt::format("{}: malformed", protocol::frame_name(header.type)));
    return false;
}

void RemoteSession::take_remote_frames() {
    FrameHeader header;
    std::span<const std::byte> fields;
    while (state_ == State::awaiting_hello || state_ == State::opening || state_ == State::active) {
        switch (remote_frames_.next(header, fields)) {
        case FrameReader::Status::need_more:
            return;
        case FrameReader::Status::malformed:
            if (remote_frames_.consumed() == 0) {
                misunderstood(remote_frames_.unread(), remote_frames_.why());
            } else {
                fail(0, EPROTO, remote_frames_.why());
            }
            return;
        case FrameReader::Status::frame:
            remote_frame(header, fields);
            break;
        }
    }
}

/// The first that it says is none of our frames: it is answered as what it is, if we know that.
void RemoteSession::misunderstood(std::span<const std::byte> bytes, const std::string& why) {
    if (is_http(bytes)) {
        if (hub_.bus().may_log()) {
            log_warning("{}: an HTTP request, and this is no web server: closing its connection",
                        describe());
        }
        const auto answer = std::as_bytes(std::span(kHttpAnswer));
        queue_.insert(queue_.end(), answer.begin(), answer.end());
        end_when_sent();
    } else if (!tls_ && sys::may_be_tls(bytes)) {
        fail(0, EPROTO,
             "this port is for plain text, and what came is TLS: the address is tcp:HOST:PORT, "
             "or another port (tcp.listen_tls)");
    } else {
        fail(0, EPROTO, why);
    }
}

void RemoteSession::remote_frame(const FrameHeader& header, std::span<const std::byte> fields) {
    if ((header.request & kOwnRequestBit) != 0) {
        fail(0, EPROTO, "a request number of 2^63 or more");
        return;
    }
    if (state_ != State::active) {
        greeting(header, fields);
        return;
    }
    switch (header.type) {
    case FrameType::data:
        data(fields);
        return;
    case FrameType::credit: {
        protocol::Credit credit;
        if (decoded(header, fields, credit)) {
            // Of a stream that is gone: it has crossed with that.
            if (const auto found = outgoing_.find(credit.stream); found != outgoing_.end()) {
                found->second->sender.allow(credit.bytes);
                list(*found->second);
            }
        }
        return;
    }
    case FrameType::advertise: {
        protocol::Advertise advertise;
        if (decoded(header, fields, advertise)) {
            advertise.waiter = 0;
            tell_bus(advertise, header.request);
        }
        return;
    }
    case FrameType::unadvertise: {
        protocol::Unadvertise frame;
        if (decoded(header, fields, frame)) {
            leave(header, frame.publication);
        }
        return;
    }
    case FrameType::subscribe: {
        protocol::Subscribe frame;
        if (decoded(header, fields, frame)) {
            tell_bus(frame, header.request);
        }
        return;
    }
    case FrameType::subscribe_from: {
        protocol::SubscribeFrom frame;
        if (decoded(header, fields, frame)) {
            tell_bus(frame, header.request);
        }
        return;
    }
    case FrameType::ask:
    case FrameType::serve:
    case FrameType::collect:
    case FrameType::respond:
        exchange(header, fields);
        return;
    case FrameType::unsubscribe: {
        protocol::Unsubscribe frame;
        if (decoded(header, fields, frame)) {
            unsubscribe(header, frame.subscription);
        }
        return;
    }
    case FrameType::detached: {
        protocol::Detached frame;
        if (decoded(header, fields, frame)) {
            detached(frame.attachment);
        }
        return;
    }
    default:
        other_frame(header);
        return;
    }
}

/// Requests and replies: publications and subscriptions as others.
void RemoteSession::exchange(const FrameHeader& header, std::span<const std::byte> fields) {
    protocol::Ask ask;
    protocol::Serve serve;
    protocol::Collect collect;
    protocol::Respond respond;
    if (header.type == FrameType::ask && decoded(header, fields, ask)) {
        if (asks_.size() >= kAsksMax) {
            fail(header.request, EPROTO, "ASK: too many that are not answered yet, or said again");
            return;
        }
        ask.publication.waiter = 0;
        asks_.insert(header.request);
        tell_bus(ask, header.request);
    } else if (header.type == FrameType::serve && decoded(header, fields, serve)) {
        tell_bus(serve, header.request);
    } else if (header.type == FrameType::collect && decoded(header, fields, collect)) {
        tell_bus(collect, header.request);
    } else if (header.type == FrameType::respond && decoded(header, fields, respond)) {
        respond.waiter = 0;
        tell_bus(respond, header.request);
    }
}

/// What is about memory has no business here; what newer clients ask for is refused by its name.
void RemoteSession::other_frame(const FrameHeader& header) {
    constexpr FrameType kNotHere[] = {
        FrameType::hello,    FrameType::resume,   FrameType::login,      FrameType::mapped,
        FrameType::taken,    FrameType::received, FrameType::complain,   FrameType::readers,
        FrameType::replaces, FrameType::refused,  FrameType::responders, FrameType::overtaken,
        FrameType::move,     FrameType::revoked};
    const bool from_daemon = header.type >= FrameType::welcome && header.type < FrameType::login;
    if (from_daemon || header.request == 0 ||
        std::find(std::begin(kNotHere), std::end(kNotHere), header.type) != std::end(kNotHere)) {
        fail(header.request, EPROTO,
             fmt::format("{}: not allowed here", protocol::frame_name(header.type)));
        return;
    }
    protocol::ErrorFrame frame;
    frame.code = EPROTONOSUPPORT;
    frame.text = fmt::format("{}: not for remote clients: this bus does not carry it over TCP",
                             protocol::frame_name(header.type));
    say(frame, header.request);
}

/// The remote knows a subscription from SUBSCRIBED, which has passed here. Another's number, or one
/// that is still on its way, would leave rings mapped that nobody accounts for.
void RemoteSession::unsubscribe(const FrameHeader& header, u64 subscription) {
    if (subscriptions_.erase(subscription) == 0) {
        protocol::ErrorFrame frame;
        frame.code = ENOENT;
        frame.text = fmt::format("UNSUBSCRIBE: no subscription {}", subscription);
        say(frame, header.request);
        return;
    }
    std::erase_if(refused_, [&](const auto& entry) { return entry.second == subscription; });
    std::erase_if(outgoing_, [&](auto& entry) {
        Outgoing& outgoing = *entry.second;
        if (outgoing.subscription != subscription) {
            return false;
        }
        unlist(outgoing);
        outgoing.clear_slot();
        return true;
    });
    tell_bus(protocol::Unsubscribe{subscription}, header.request);
}

/// LOGIN, if one is wanted, and HELLO.
void RemoteSession::greeting(const FrameHeader& header, std::span<const std::byte> fields) {
    if (state_ == State::awaiting_hello && header.type == FrameType::login) {
        login(header, fields);
        return;
    }
    if (state_ == State::awaiting_hello && header.type == FrameType::replaces) {
        (void)decoded(header, fields, earlier_);
        return;
    }
    if (state_ != State::awaiting_hello || header.type != FrameType::hello || header.request == 0) {
        fail(header.request, EPROTO,
             fmt::format(
                 "{}: the first frame must be LOGIN, REPLACES or HELLO, and what follows waits for "
                 "WELCOME",
                 protocol::frame_name(header.type)));
        return;
    }
    protocol::Hello hello;
    if (!decoded(header, fields, hello)) {
        return;
    }
    if (hub_.tokens().wanted() && !logged_in_ && !certified_) {
        fail(header.request, EACCES,
             "login refused: this bus wants a token (LOGIN; --token-file, IPCBUS_TOKEN_FILE)");
        return;
    }
    if (hub_.bus().stopping()) {
        fail(header.request, ESHUTDOWN, "the bus is stopping: nothing new is begun");
        return;
    }
    if (earlier_.client != 0) {
        hub_.replace(earlier_);
    }
    auto joined = hub_.room_for_one();
    if (joined.ok()) {
        joined = join_bus();
    }
    if (!joined.ok()) {
        fail(header.request, joined.error().code, joined.error().what);
        return;
    }
    state_ = State::opening;
    tell_bus(hello, header.request);
}

void RemoteSession::login(const FrameHeader& header, std::span<const std::byte> fields) {
    protocol::Login login;
    if (!decoded(header, fields, login) || !hub_.tokens().wanted() || certified_) {
        return;  // a certificate says who it is, whatever a token may say
    }
    const std::string owner = hub_.tokens().owner(login.token);
    if (owner.empty() || logged_in_) {
        fail(header.request, EACCES, "login refused: the token is not known here");
        return;
    }
    identity_ = owner;
    logged_in_ = true;
}

void RemoteSession::data(std::span<const std::byte> fields) {
    protocol::DataHead head;
    std::span<const std::byte> bytes;
    if (!protocol::decode_data(fields, head, bytes)) {
        fail(0, EPROTO, "DATA: malformed");
        return;
    }
    const auto found = incoming_.find(head.stream);
    if (found == incoming_.end() || found->second->leaving != 0) {
        fail(0, EPROTO, fmt::format("DATA: no publication {}", head.stream));
        return;
    }
    Incoming& incoming = *found->second;
    complaining_ = &incoming;
    settle(incoming, incoming.receiver.receive(head.offset, bytes));
}

/// UNADVERTISE: once all that was sent before has found room.
void RemoteSession::leave(const FrameHeader& header, u64 publication) {
    const auto found = incoming_.find(publication);
    if (found == incoming_.end() || found->second->leaving != 0) {
        tell_bus(protocol::Unadvertise{publication},
                 header.request);  // which knows none, and says so
        return;
    }
    if (header.request == 0) {
        fail(0, EPROTO, "UNADVERTISE: a request needs a number");
        return;
    }
    found->second->leaving = header.request;
    if (!found->second->receiver.waiting()) {
        unadvertise(*found->second);
    }
}

void RemoteSession::detached(u64 id) {
    const auto found = outgoing_.find(id);
    if (found == outgoing_.end()) {
        if (refused_.erase(id) != 0) {
            tell_bus(protocol::Detached{id}, 0);
        }
        return;
    }
    unlist(*found->second);
    caught_up(*found->second);
    found->second->clear_slot();
    outgoing_.erase(found);
    tell_bus(protocol::Detached{id}, 0);
}

}  // namespace ipcbus::daemon
