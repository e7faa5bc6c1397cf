// SPDX-License-Identifier: Apache-2.0
// One control connection. See session.hpp.
#include "session.hpp"

#include "bus.hpp"
#include "log.hpp"
#include "sys/clock.hpp"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace ipcbus::daemon {

using protocol::FrameHeader;
using protocol::FrameReader;
using protocol::FrameType;

namespace {

sys::Error malformed(const FrameHeader& header, const char* why) {
    return sys::fail(EPROTO, fmt::format("{}: {}", protocol::frame_name(header.type), why));
}

bool wants_answer(FrameType type) {
    switch (type) {
    case FrameType::hello:
    case FrameType::resume:
    case FrameType::advertise:
    case FrameType::unadvertise:
    case FrameType::subscribe:
    case FrameType::subscribe_from:
    case FrameType::unsubscribe:
    case FrameType::ask:
    case FrameType::serve:
    case FrameType::collect:
    case FrameType::respond:
    case FrameType::look:
        return true;
    default:
        return false;
    }
}

protocol::ErrorFrame error_frame(const sys::Error& error) {
    protocol::ErrorFrame frame;
    frame.code = static_cast<protocol::u32>(error.code);
    frame.text = error.what.substr(0, protocol::kErrorTextBytesMax);
    return frame;
}

}  // namespace

Session::Session(Bus& bus, EventLoop& loop, FdBudget& budget, sys::UniqueFd socket,
                 PeerIdentity peer)
    : bus_(bus),
      socket_(std::move(socket)),
      pidfd_(peer.pidfd ? share(std::move(peer.pidfd)) : SharedFd()),
      peer_(std::move(peer)),
      outbox_(budget, peer_.uid),
      scope_(loop),
      recv_(
          scope_, [this](std::span<const std::byte> bytes) { received(bytes); },
          [this](int error) { receive_ended(error); }),
      send_(scope_, [this](int error) { sent(error); }),
      death_(scope_, [this](int error) { watch_ended(error); }),
      timer_(scope_, [this] { time_is_over(); }) {}

void Session::start(Charge charge) {
    charge_ = std::move(charge);
    recv_.start(socket_.get());
    if (pidfd_) {
        death_.start(pidfd_->get(), POLLIN);
    }
    timer_.start(kSilenceNs);
}

Identity Session::identity() const {
    Identity who{peer_.remote, peer_.uid, {peer_.gid}, peer_.subject, peer_.token};
    who.gids.insert(who.gids.end(), peer_.groups.begin(), peer_.groups.end());
    return who;
}

std::string Session::describe() const {
    return client_ != nullptr ? client_->describe()
                              : fmt::format("connection of pid {} (uid {})", peer_.pid, peer_.uid);
}

void Session::serve(Client& client) {
    IPCBUS_ASSERT(state_ == State::awaiting_hello);
    state_ = State::active;
    client_ = &client;
    client.session = this;
    timer_.stop();
}

// ------------------------------------------------------------------------------------- frames in

void Session::received(std::span<const std::byte> bytes) {
    if (state_ == State::closing || state_ == State::closed) {
        return;
    }
    reader_.add(bytes);
    received_bytes_ += bytes.size();
    if (backlog_bytes() > kBacklogBytesMax) {
        recv_.cancel();  // taken up again when that is worked off; the socket holds the rest back
    }
    work_later();
}

void Session::receive_ended(int error) {
    if (state_ == State::closed) {
        return;
    }
    const bool hung_up = error == 0 || error == ECONNRESET || error == EPIPE;
    if (hung_up || state_ == State::closing) {
        peer_ended_ = error != ECANCELED;
    } else if (error != ECANCELED) {
        receive_error_ = error;
    }
    work_later();  // first what came before
}

void Session::work_later() {
    if (!std::exchange(work_queued_, true)) {
        bus_.work_later(*this);
    }
}

bool Session::work() {
    work_queued_ = false;
    if (state_ == State::closed) {
        return true;
    }
    if (!work_off()) {
        return std::exchange(work_queued_, true);  // what was done may have queued it already
    }
    if (receive_error_ != 0) {
        const int error = std::exchange(receive_error_, 0);
        fail(0, sys::fail(error, fmt::format("receiving: {}", std::strerror(error))));
    } else if (peer_ended_) {
        close();
    } else if (state_ != State::closed && !recv_.submitted()) {
        recv_.start(socket_.get());
    }
    return true;
}

bool Session::work_off() {
    const std::int64_t until_ns = sys::monotonic_ns() + kSliceNs;
    FrameHeader header;
    std::span<const std::byte> fields;
    while (state_ == State::awaiting_hello || state_ == State::active) {
        if (client_ != nullptr && client_->has_job()) {
            if (!bus_.go_on(*client_)) {
                return false;
            }
        } else {
            switch (reader_.next(header, fields)) {
            case FrameReader::Status::need_more:
                if (client_ == nullptr || !client_->retry_after) {
                    return true;
                }
                if (!bus_.go_on(*client_)) {
                    return false;
                }
                break;
            case FrameReader::Status::malformed:
                fail(0, sys::fail(EPROTO, reader_.why()));
                return true;
            case FrameReader::Status::frame:
                dispatch(header, fields);
                break;
            }
        }
        if (sys::monotonic_ns() >= until_ns) {
            return false;
        }
    }
    return true;
}

template <class Frame>
bool Session::decoded(const FrameHeader& header, std::span<const std::byte> fields,
                      Frame& ret_frame) {
    if (!protocol::decode(fields, ret_frame)) {
        fail(header.request, malformed(header,
                                       "malformed: too short, too long, or a string or "
                                       "list beyond its bound"));
        return false;
    }
    return true;
}

void Session::dispatch(const FrameHeader& header, std::span<const std::byte> fields) {
    if (header.request == 0 && wants_answer(header.type)) {
        fail(0, malformed(header, "a request needs a number"));
        return;
    }
    if (state_ == State::active) {
        dispatch_active(header, fields);
        return;
    }
    if (header.type == FrameType::hello) {
        protocol::Hello hello;
        if (decoded(header, fields, hello)) {
            bus_.hello(*this, header.request, hello);
        }
    } else if (header.type == FrameType::resume) {
        protocol::Resume resume;
        if (decoded(header, fields, resume)) {
            bus_.resume(*this, header.request, resume);
        }
    } else {
        fail(header.request, malformed(header, "the first frame must be HELLO or RESUME"));
    }
}

void Session::dispatch_active(const FrameHeader& header, std::span<const std::byte> fields) {
    // Decodes, checks that it may come now, and hands over.
    const auto hand_over = [&]<class Frame>(Frame frame, bool needs_memory, auto handle) {
        if (!decoded(header, fields, frame)) {
            return;
        }
        if (needs_memory && !client_->memory.pages()) {
            fail(header.request, malformed(header,
                                           "MAPPED, for the client's own pages, must come "
                                           "before it"));
            return;
        }
        handle(frame);
    };
    Client& client = *client_;
    const std::uint64_t request = header.request;
    switch (header.type) {
    case FrameType::advertise:
        hand_over(protocol::Advertise{}, true,
                  [&](const auto& frame) { bus_.advertise(client, request, frame); });
        return;
    case FrameType::mapped:
        hand_over(protocol::Mapped{}, false,
                  [&](const auto& frame) { bus_.mapped(client, frame.publication); });
        return;
    case FrameType::unadvertise:
        hand_over(protocol::Unadvertise{}, true,
                  [&](const auto& frame) { bus_.unadvertise(client, request, frame.publication); });
        return;
    case FrameType::subscribe:
        hand_over(protocol::Subscribe{}, true, [&](const auto& frame) {
            bus_.subscribe(client, request, {frame.filter, frame.mode, 0});
        });
        return;
    case FrameType::subscribe_from:
        hand_over(protocol::SubscribeFrom{}, true,
                  [&](const auto& frame) { bus_.subscribe(client, request, frame); });
        return;
    case FrameType::unsubscribe:
        hand_over(protocol::Unsubscribe{}, true, [&](const auto& frame) {
            bus_.unsubscribe(client, request, frame.subscription);
        });
        return;
    case FrameType::detached:
        hand_over(protocol::Detached{}, true,
                  [&](const auto& frame) { bus_.detached(client, frame.attachment); });
        return;
    case FrameType::taken:
        hand_over(protocol::Taken{}, true, [&](const auto& frame) { bus_.taken(client, frame); });
        return;
    case FrameType::received:
        hand_over(protocol::Received{}, false,
                  [&](const auto& frame) { acknowledge(header, frame); });
        return;
    case FrameType::complain:
        hand_over(protocol::Complain{}, true,
                  [&](const auto& frame) { bus_.complain(client, frame); });
        return;
    case FrameType::look:
        hand_over(protocol::Look{}, false,
                  [&](const auto& frame) { bus_.look(client, request, frame); });
        return;
    default:
        dispatch_exchange(header, hand_over);
        return;
    }
}

/// Frames of requests and replies.
void Session::dispatch_exchange(const FrameHeader& header, const auto& hand_over) {
    Client& client = *client_;
    const std::uint64_t request = header.request;
    switch (header.type) {
    case FrameType::ask:
        hand_over(protocol::Ask{}, true,
                  [&](const auto& frame) { bus_.ask(client, request, frame); });
        return;
    case FrameType::serve:
        hand_over(protocol::Serve{}, true,
                  [&](const auto& frame) { bus_.serve(client, request, frame); });
        return;
    case FrameType::collect:
        hand_over(protocol::Collect{}, true,
                  [&](const auto& frame) { bus_.collect(client, request, frame); });
        return;
    case FrameType::respond:
        hand_over(protocol::Respond{}, true,
                  [&](const auto& frame) { bus_.respond(client, request, frame); });
        return;
    default:
        fail(request, malformed(header, "not allowed here"));
        return;
    }
}

// ------------------------------------------------------------------------------------ frames out

void Session::refuse(std::uint64_t request, const sys::Error& error) {
    log_debug("{}: refused: {}", describe(), error.what);
    reply(error_frame(error), request);
}

void Session::fail(std::uint64_t request, const sys::Error& error) {
    if (state_ == State::closing || state_ == State::closed) {
        return;
    }
    if (bus_.may_log()) {
        log_warning("{}: {}, closing its connection", describe(), error.what);
    }
    // What is still to be sent goes out first: it may be the answers to good requests.
    outbox_.add(error_frame(error), request);
    state_ = State::closing;
    if (std::exchange(resend_, false)) {
        outbox_.sent();
    }
    timer_.stop();
    bus_.client_gone(*this);
    timer_.start(kSilenceNs);
    touch();
}

void Session::touch() {
    if (!touched_ && state_ != State::closed) {
        touched_ = true;
        bus_.pump_later(*this);
    }
}

void Session::acknowledge(const FrameHeader& header, const protocol::Received& frame) {
    const bool begun = !resend_ && (!send_.submitted() || send_.bytes_sent() > 0);
    if (!outbox_.received(frame.fds, begun)) {
        fail(header.request, malformed(header, "more descriptors than were sent"));
        return;
    }
    (void)all_read();
    touch();
}

bool Session::all_read() {
    int unread = 0;
    if (outbox_.on_the_way() > 0 && ::ioctl(socket_.get(), SIOCOUTQ, &unread) == 0 && unread > 0) {
        return false;
    }
    outbox_.all_read();
    bus_.descriptors_came_back();
    retry_ns_ = kRetryMinNs;
    return true;
}

void Session::pump() {
    touched_ = false;
    if (state_ == State::closed) {
        return;
    }
    if (state_ == State::active) {
        bus_.tell(*client_, outbox_);
        if (outbox_.bytes() > bus_.unread_bytes_max()) {
            if (bus_.may_log()) {
                log_warning("{}: has not read {} of answers ({}), closing its connection",
                            describe(), format_bytes(outbox_.bytes()), key::kUnreadReplyBytes);
            }
            close();
            return;
        }
        if (outbox_.doubted() && outbox_.credit() < protocol::kFdsPerFrameMax &&
            client_->something_to_tell()) {
            if (all_read()) {
                bus_.tell(*client_, outbox_);
            } else {
                retry_later();
            }
        }
    }
    if (send_.submitted() || resend_) {
        return;
    }
    if (outbox_.empty()) {
        if (state_ == State::closing) {
            close();
        }
        return;
    }
    send(outbox_.take());
}

void Session::send(Outbox::Chunk chunk) {
    with_fds_ = chunk.fds.empty() ? Outbox::Chunk{} : chunk;
    send_.start(socket_.get(), std::move(chunk.bytes), std::move(chunk.fds));
}

void Session::sent(int error) {
    if (error == ETOOMANYREFS && state_ == State::active && send_.bytes_sent() == 0 &&
        !with_fds_.bytes.empty()) {
        // Too many descriptors of our uid are on the way. Others than ours, or FdBudget would have
        // kept us from it: not this client's fault.
        resend_ = true;
        retry_later();
        return;
    }
    outbox_.sent();
    with_fds_ = Outbox::Chunk{};
    if (state_ == State::closed) {
        return;
    }
    if (error != 0) {
        // A hang-up (EPIPE) is told by the receive, once what came before it has been processed.
        if (error != EPIPE && error != ECONNRESET) {
            if (bus_.may_log()) {
                log_warning("{}: sending: {}, closing its connection", describe(),
                            std::strerror(error));
            }
            close();
        }
        return;
    }
    if (state_ == State::active) {
        bus_.announce_frames(*client_);
    }
    touch();
}

void Session::retry_later() {
    if (!timer_.running()) {
        timer_.start(retry_ns_);
        retry_ns_ = std::min(2 * retry_ns_, kRetryMaxNs);
    }
}

void Session::time_is_over() {
    switch (state_) {
    case State::active:
        if (std::exchange(resend_, false)) {
            send(std::exchange(with_fds_, Outbox::Chunk{}));
        } else {
            touch();
        }
        return;
    case State::closed:
        if (all_read()) {
            finish_close();
        } else {
            retry_later();
        }
        return;
    case State::awaiting_hello:
    case State::closing:
        if (bus_.may_log()) {
            log_info(
                "{}: {}, closing", describe(),
                state_ == State::closing ? "does not read why it was refused" : "has said nothing");
        }
        close();
        return;
    }
}

// --------------------------------------------------------------------------------------- its end

/// The process has died. What it sent before is still in the socket: shut down, the socket gives
/// that first, then the end, also if a forked child keeps the other end open.
void Session::watch_ended(int error) {
    if (error != 0) {
        fail(0, sys::fail(error,
                          fmt::format("the process cannot be watched: {}", std::strerror(error))));
        return;
    }
    process_dead_ = true;
    (void)::shutdown(socket_.get(), SHUT_RDWR);
}

void Session::close() {
    if (state_ == State::closed) {
        return;
    }
    bus_.client_gone(*this);
    state_ = State::closed;
    (void)::shutdown(socket_.get(), SHUT_RDWR);
    timer_.stop();
    recv_.cancel();
    death_.cancel();
    outbox_.drop_unsent();
    outbox_.sent();
    if (bus_.stopping() || all_read()) {
        finish_close();
    } else {
        retry_later();
    }
}

void Session::abandon() {
    close();
    finish_close();
}

void Session::finish_close() {
    if (!std::exchange(finished_, true)) {
        bus_.session_closed(*this);
    }
}

}  // namespace ipcbus::daemon
