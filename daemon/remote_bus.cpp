// SPDX-License-Identifier: Apache-2.0
// What the bus says to a remote client: most of it passes on as it is; what is about memory is
// answered here, on the client's behalf. It is our own word. See remote_session.hpp.
#include "log.hpp"
#include "remote_hub.hpp"
#include "remote_streams.hpp"
#include "sys/fd_passing.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>

namespace ipcbus::daemon {

using protocol::FrameHeader;
using protocol::FrameReader;
using protocol::FrameType;
using protocol::u32;
using protocol::u64;

namespace {

constexpr std::uint64_t kIncomingMappings = 2;
/// What waits for room in the ring, and what it is kept in.
constexpr Amounts kIncomingCost{.ring_bytes = protocol::kStreamWindowBytes * 3 / 2};

}  // namespace

void RemoteSession::bus_ready(int error) {
    if (state_ == State::gone || !bus_) {
        return;
    }
    if (error != 0 && error != ECANCELED) {
        fail(0, error, std::string("the bus cannot be heard: ") + std::strerror(error));
        return;
    }
    if (!read_bus()) {
        bus_ended_ = true;
        end_when_sent();
        return;
    }
    if (fds_taken_ != 0) {
        tell_bus(protocol::Received{std::exchange(fds_taken_, 0)}, 0);
    }
    later();  // and listens again, unless too much waits to go out
}

/// One read. False: the bus has hung up.
bool RemoteSession::read_bus() {
    std::array<std::byte, protocol::kFrameBytesMax> bytes;
    std::vector<sys::UniqueFd> fds;
    const auto got = sys::receive_with_fds(bus_.get(), bytes, fds, true);
    for (sys::UniqueFd& fd : fds) {
        fds_.push_back(std::move(fd));
    }
    if (!got.ok()) {
        return got.error().code == EAGAIN || got.error().code == EINTR;
    }
    if (got.value() == 0) {
        return false;
    }
    bus_frames_.add(std::span(bytes).first(got.value()));
    FrameHeader header;
    std::span<const std::byte> fields;
    while (bus_frames_.next(header, fields) == FrameReader::Status::frame &&
           state_ != State::closing && state_ != State::gone) {
        bus_frame(header, fields);
    }
    return true;
}

sys::UniqueFd RemoteSession::take_fd() {
    if (fds_.empty()) {
        return {};
    }
    sys::UniqueFd fd = std::move(fds_.front());
    fds_.pop_front();
    fds_taken_++;
    return fd;
}

void RemoteSession::pass_on(const FrameHeader& header, std::span<const std::byte> fields) {
    if (state_ == State::draining) {
        return;
    }
    const std::size_t begin = protocol::begin_frame(queue_, header.type, header.request);
    queue_.insert(queue_.end(), fields.begin(), fields.end());
    protocol::end_frame(queue_, begin);
    later();
}

void RemoteSession::bus_frame(const FrameHeader& header, std::span<const std::byte> fields) {
    const auto about = [&]<class Frame>(Frame frame, auto handle) {
        IPCBUS_ASSERT(protocol::decode(fields, frame));
        handle(frame);
    };
    switch (header.type) {
    case FrameType::welcome:
        about(protocol::Welcome{}, [&](const auto& frame) { welcomed(header, frame); });
        return;
    case FrameType::advertised:
        about(protocol::Advertised{}, [&](const auto& frame) { advertised(header, frame); });
        return;
    case FrameType::attached:
        about(protocol::Attached{}, [&](const auto& frame) { attached(frame); });
        return;
    case FrameType::subscribed:
        about(protocol::Subscribed{},
              [&](const auto& frame) { subscriptions_.try_emplace(frame.subscription); });
        pass_on(header, fields);
        return;
    case FrameType::caught_up:
        about(protocol::CaughtUp{}, [&](const auto& frame) { all_attached(frame.subscription); });
        return;
    case FrameType::ended:
        about(protocol::Ended{}, [&](const auto& frame) { end(frame.attachment, frame.reason); });
        return;
    case FrameType::members:
        about(protocol::Members{}, [&](const auto& frame) { members(frame); });
        return;
    case FrameType::peer:
        about(protocol::Peer{}, [&](const auto& frame) { peer(frame); });
        return;
    case FrameType::peer_gone:
        about(protocol::PeerGone{}, [&](const auto& frame) { peers_.erase(frame.client); });
        return;
    case FrameType::move:
        // The ring is ours, and in it is what was sent; what follows takes another.
        fail(0, ECONNRESET,
             "the rules have changed, and with them a reader of its publication: connect anew");
        return;
    case FrameType::stopping:
        stopping_ = true;
        return;
    case FrameType::error:
        asks_.erase(header.request);
        [[fallthrough]];
    default:
        if ((header.request & kOwnRequestBit) == 0) {
            pass_on(header, fields);
        }
        return;
    }
}

void RemoteSession::welcomed(const FrameHeader& header, protocol::Welcome frame) {
    const sys::UniqueFd cursor = take_fd();
    const sys::UniqueFd doorbell = take_fd();
    const sys::UniqueFd mailbox = take_fd();
    if (state_ != State::opening) {
        return;
    }
    if (auto mapped = map_pages(frame.geometry, cursor.get(), doorbell.get(), mailbox.get());
        !mapped.ok()) {
        fail(header.request, mapped.error().code, mapped.error().what);
        return;
    }
    stall_ns_ = static_cast<protocol::i64>(frame.stall_timeout_ns);
    tell_bus(protocol::Mapped{}, 0);
    // There is no RESUME on TCP: this is for REPLACES, and not what the bus knows the client by.
    auto token = random_id();
    if (!token.ok()) {
        fail(header.request, token.error().code, token.error().what);
        return;
    }
    frame.token = token.value();
    self_ = {frame.client, frame.token};
    state_ = State::active;
    greeted_ = true;
    hub_.greeted(*this);
    timer_.stop();
    log_debug("{} is client {}", describe(), frame.client);
    say(frame, header.request);
}

void RemoteSession::advertised(const FrameHeader& header, const protocol::Advertised& frame) {
    const sys::UniqueFd fd = take_fd();
    const bool asks = asks_.erase(header.request) != 0;
    const uid_t own = uid();
    auto share = hub_.memory().take(own, kIncomingMappings, "remote publication");
    auto charge = hub_.bus().charge(own, kIncomingCost, "window of a remote publication");
    auto memory = share.ok() ? sys::map_ring(fd.get(), protocol::kRingDataOffset, frame.ring_bytes,
                                             sys::Access::read_write)
                             : sys::Result<sys::RingMapping>(share.error());
    if (!memory.ok() || !charge.ok()) {
        const sys::Error why = memory.ok() ? charge.error() : memory.error();
        tell_bus(protocol::Unadvertise{frame.publication}, kOwnRequestBit | ++own_request_);
        protocol::ErrorFrame error;
        error.code = static_cast<u32>(why.code);
        error.text = why.what.substr(0, protocol::kErrorTextBytesMax);
        say(error, header.request);
        return;
    }
    protocol::Control& control = *this;
    auto made =
        std::make_unique<Incoming>(std::move(memory).value(), frame, pages_, stall_ns_, control);
    Incoming& incoming = *made;
    incoming.charge = std::move(charge).value();
    incoming.share = std::move(share).value();
    incoming.ring.readers().set_guard(hub_.memory().guard());
    if (asks) {
        incoming.ring.readers().set_addressed();
    }
    incoming_.emplace(frame.publication, std::move(made));
    tell_bus(protocol::Mapped{frame.publication}, 0);
    say(frame, header.request);
    say(protocol::Credit{incoming.id, incoming.receiver.grant()});
    if (asks && !incoming.ring.behind()) {
        tell_responders(incoming, {});  // there are none
    }
    tell_readers(incoming);
}

void RemoteSession::peer(const protocol::Peer& frame) {
    const sys::UniqueFd cursor =
        (frame.pages & protocol::kPeerCursor) != 0 ? take_fd() : sys::UniqueFd();
    sys::UniqueFd doorbell =
        (frame.pages & protocol::kPeerDoorbell) != 0 ? take_fd() : sys::UniqueFd();
    auto mapped =
        hub_.memory().peer(uid(), frame.client, frame.geometry, cursor.get(), std::move(doorbell));
    if (mapped.ok()) {
        peers_.insert_or_assign(frame.client, std::move(mapped).value());
    } else {
        peers_.erase(frame.client);  // attachments with it will fail
        if (hub_.bus().may_log()) {
            log_warning("{}: {}", describe(), mapped.error().what);
        }
    }
}

void RemoteSession::attached(const protocol::Attached& frame) {
    const sys::UniqueFd fd = take_fd();
    if (!subscriptions_.contains(frame.subscription)) {
        return;
    }
    say(frame);
    if (auto made = attach(frame, fd.get()); !made.ok()) {
        if (hub_.bus().may_log()) {
            log_warning("{}: cannot be attached to '{}': {}", describe(), frame.topic,
                        made.error().what);
        }
        refused_.emplace(frame.attachment, frame.subscription);
        say(protocol::Ended{frame.attachment,
                            static_cast<protocol::u8>(protocol::EndReason::detached)});
    }
}

sys::Result<void> RemoteSession::attach(const protocol::Attached& frame, int ring) {
    const auto found = peers_.find(frame.peer);
    if (found == peers_.end() || !found->second->has_doorbell()) {
        return sys::fail(ENOMEM, "its publisher's pages could not be mapped");
    }
    RemoteMemory::Peer& peer = *found->second;
    auto memory = IPCBUS_TRY(hub_.memory().ring(uid(), frame.publication, ring, frame.ring_bytes));
    auto words = std::make_unique<protocol::WriterWords>(
        protocol::WriterWords{peer.publication(frame.index), &peer.doorbell[frame.waiter].bell});
    auto made = std::make_unique<Outgoing>(frame, std::move(memory), found->second,
                                           std::move(words), pages_.slot(frame.slot), source_);
    Beginning& beginning = subscriptions_.at(frame.subscription);
    made->awaited = !beginning.all_attached && !made->sender.caught_up();
    beginning.awaited += made->awaited ? 1 : 0;
    outgoing_.emplace(frame.attachment, std::move(made));  // listed when it has credit
    return {};
}

/// CAUGHT_UP: for the remote it is behind the messages themselves.
void RemoteSession::all_attached(u64 subscription) {
    const auto found = subscriptions_.find(subscription);
    if (found == subscriptions_.end()) {
        return;
    }
    found->second.all_attached = true;
    if (found->second.awaited == 0) {
        say(protocol::CaughtUp{subscription});
    }
}

/// ENDED goes out behind the last message.
void RemoteSession::end(u64 id, protocol::u8 reason) {
    const auto found = outgoing_.find(id);
    if (found == outgoing_.end()) {
        return;
    }
    Outgoing& outgoing = *found->second;
    outgoing.ended = true;
    if (outgoing.listed) {
        waiter_->activate(outgoing);  // it may have news that nobody rang for, and nobody will
        outgoing.set_polled();
    }
    if (reason == static_cast<protocol::u8>(protocol::EndReason::detached) && !outgoing.done) {
        if (state_ != State::draining) {
            drained(outgoing, queue_, protocol::EndReason::detached);
        }
        later();
    }
}

void RemoteSession::members(const protocol::Members& frame) {
    tell_bus(protocol::Taken{frame.publication, frame.number}, 0);
    const auto found = incoming_.find(frame.publication);
    if (found == incoming_.end()) {
        return;
    }
    Incoming& incoming = *found->second;
    protocol::ReaderTable& readers = incoming.ring.readers();
    for (const u64 attachment : frame.detach) {
        const protocol::PeerWaiters* const waiters = readers.remove(attachment);
        if (waiters != nullptr && !readers.knows(*waiters)) {
            std::erase_if(incoming.peers, [&](const auto& peer) { return peer.get() == waiters; });
        }
    }
    for (const protocol::Member& member : frame.attach) {
        const auto peer = peers_.find(member.peer);
        if (peer == peers_.end() || !peer->second->has_cursor() || !peer->second->has_doorbell()) {
            // It can be neither heard nor rung, and it is not to pay for that.
            fail(0, ENOSPC,
                 fmt::format(
                     "the pages of a reader of its publication could not be mapped; raise {}",
                     key::kTcpMappings));
            return;
        }
        if (!readers.knows(*peer->second)) {
            incoming.peers.push_back(peer->second);
        }
        readers.add(protocol::ReaderEntry{member.attachment, peer->second->slot(member.slot),
                                          peer->second.get(), member.slot % protocol::kActivityBits,
                                          member.start, member.reliable != 0});
    }
    incoming.ring.set_taken(frame.number);
    complaining_ = &incoming;
    (void)incoming.ring.finish();  // a round is due
    if (readers.addressed()) {
        tell_responders(incoming, frame);
    }
    tell_readers(incoming);
    digest(incoming);
}

}  // namespace ipcbus::daemon
