// SPDX-License-Identifier: Apache-2.0
// Messages between rings and a remote client's connection, and the sleep of a client that may not
// sleep: it is woken by its socket, by the bus, by its bell (a futex that io_uring waits for), or
// by the clock. A turn does what there is to do, bounded by one chunk; whatever ends one comes back
// here. See remote_session.hpp; waiter.hpp has the tags.
//
// The bell is read, [S1], and waited for before anything is looked at in a turn: so whoever rings
// after a look brings another turn. Each wait for it begins with a look at all that waits for room,
// also at what has asked meanwhile: whoever rang in between was not heard. No turn ends without a
// wait for the bell but for a nap, whose end brings the next one: work that ends the count of what
// was in vain brings another turn. When nothing is left to do, everything is parked (lie_down).
//
// WHAT WOULD BREAK IT: the count ended in a turn that did not listen, and no further turn
//     R  16th ring in vain: a turn that does not listen; all that waited finds room: count = 0
//     R  no nap, for the count is 0; more messages come, no room: asks, and waits
//     W  (a reader) makes room, rings: nobody hears it, until some timer is over
#include "log.hpp"
#include "remote_hub.hpp"
#include "remote_streams.hpp"
#include "sys/clock.hpp"

#include <poll.h>

#include <algorithm>

namespace ipcbus::daemon {

using protocol::StreamReceiver;
using protocol::StreamSender;
using protocol::u64;

namespace {

/// Of messages, what is handed to the socket at once.
constexpr std::size_t kChunkBytes = 64 * 1024;
constexpr std::int64_t kFirstSweepNs = 16'000'000;
constexpr std::int64_t kLastSweepNs = 10'000'000'000;
/// Rings and looks in a row that bring nothing; then there is a nap, whatever bell and summary say.
constexpr unsigned kFruitlessMax = 16;
constexpr std::int64_t kNapNs = 4'000'000;
constexpr unsigned kNapDoublingsMax = 4;
/// As long as nobody rings, for ever would do.
constexpr std::int64_t kAlarmNs = 3'600'000'000'000;
/// A sixteenth of the stall timeout is what a writer counts in.
constexpr std::int64_t kStallSlices = 16;
constexpr std::int64_t kWaitingMinNs = 1'000'000;

}  // namespace

RemoteSession::Incoming::Incoming(sys::RingMapping mapped, const protocol::Advertised& told,
                                  const client::ClientPages& pages, protocol::i64 stall_ns,
                                  protocol::Control& control)
    : memory(std::move(mapped)),
      id(told.publication),
      index(told.index),
      begin(told.start),
      ring(protocol::RingWriter(
               protocol::WritableRing{reinterpret_cast<protocol::RingHeader*>(memory.header()),
                                      memory.data(), told.ring_bytes},
               told.start, told.first_sequence, told.record_bytes_max),
           protocol::RingPublisher::Words{&pages.mail(told.index), &pages.publication(told.index),
                                          &pages.waiter(0).bell, &pages.asleep(0)},
           stall_ns, control),
      receiver(ring, false) {}

RemoteSession::Outgoing::Outgoing(const protocol::Attached& told, RemoteMemory::SharedRing ring,
                                  RemoteMemory::SharedPeer writer,
                                  std::unique_ptr<protocol::WriterWords> writer_words,
                                  protocol::CursorSlot& slot, protocol::Source& source)
    : protocol::Attachment(
          protocol::ReadableRing{
              reinterpret_cast<const protocol::RingHeader*>(ring->mapped.header()),
              ring->mapped.data(), told.ring_bytes, told.record_bytes_max},
          told.start, told.start_sequence,
          Words{&slot, writer_words.get(), told.slot % protocol::kActivityBits}, &source),
      words(std::move(writer_words)),
      memory(std::move(ring)),
      pages(std::move(writer)),
      id(told.attachment),
      subscription(told.subscription),
      sender(told.attachment, *this,
             told.mode == static_cast<protocol::u8>(protocol::ReaderMode::latest)) {}

// --------------------------------------------------------------------------------------- turns

void RemoteSession::later() {
    if (state_ != State::gone && !std::exchange(turn_deferred_, true)) {
        loop_.defer(scope_, [this] { turn(); });
    }
}

void RemoteSession::turn() {
    turn_deferred_ = false;
    if (state_ == State::gone) {
        return;
    }
    if (state_ == State::active || state_ == State::draining) {
        get_up(false);
        listen();
        digest_waiting();
        if (state_ == State::draining && waiting_.empty()) {
            finish();
            return;
        }
    }
    if (!bus_queue_.empty() && bus_ && !bus_send_.submitted()) {
        bus_send_.start(bus_.get(), std::exchange(bus_queue_, {}));
    }
    if (state_ != State::draining) {
        send_some();
    }
    if (state_ == State::closing || state_ == State::gone) {
        return;
    }
    if (queue_.size() > hub_.unread_bytes_max() + kQueueBytesMax) {
        if (hub_.bus().may_log()) {
            log_warning("{}: has not read {} of answers ({}), closing its connection", describe(),
                        format_bytes(queue_.size()), key::kUnreadReplyBytes);
        }
        finish();
        return;
    }
    if (!recv_.submitted() && bus_queue_.size() <= kQueueBytesMax && !remote_ended_) {
        recv_.start(tcp_.get(), RecvBuffers::bulk);
    }
    if (bus_ && !bus_poll_.submitted() && queue_.size() <= kQueueBytesMax) {
        bus_poll_.start(bus_.get(), POLLIN);
    }
    set_timer();
}

/// To the bell, unless it has been rung too often for nothing.
void RemoteSession::listen() {
    if (bell_.submitted() || bell_poll_.submitted() || fruitless_ >= kFruitlessMax) {
        return;
    }
    auto& bell = pages_.waiter(0).bell;
    digest_due_ = true;  // who has asked since the last ring has been rung, perhaps
    if (alarm_) {
        alarm_->call_off();  // it has signalled: so at once
    }
    // [S1] acquire: before every look. Pairs with ring_bell.
    const protocol::u32 seen = bell.load(std::memory_order_acquire);
    if (!alarm_) {
        bell_.start(bell, seen);
    } else if (alarm_->arm(&bell, seen, kAlarmNs).ok()) {
        bell_poll_.start(alarm_->fd(), POLLIN);
    } else {
        wake_in(kNapNs);  // no memory: by the clock, until there is
    }
}

/// The bell has been rung, perhaps for sport.
void RemoteSession::rung() {
    if (!waiter_) {
        return;
    }
    // What the bus has to say comes with a ring, too, and by the socket: that is no sport.
    // acquire: as everybody reads it
    const u64 frames = pages_.mail().frames.load(std::memory_order_acquire);
    fruitless_ += std::exchange(frames_heard_, frames) == frames ? 1 : 0;
    digest_due_ = true;
    get_up(false);
    if (source_.active_count() == 0) {
        // No bit says why: somebody may have cleared it.
        waiter_->sweep_if_due(sys::coarse_ns());
    }
    later();
}

void RemoteSession::wake_in(std::int64_t ns) {
    const std::int64_t due_ns = sys::monotonic_ns() + ns;
    if (!timer_.running() || due_ns < timer_due_ns_) {
        timer_due_ns_ = due_ns;
        timer_.start(ns);
    }
}

void RemoteSession::set_timer() {
    if (state_ != State::active && state_ != State::draining) {
        return;
    }
    if (fruitless_ >= kFruitlessMax) {
        wake_in(kNapNs << std::min(naps_, kNapDoublingsMax));
    }
    if (!waiting_.empty()) {
        wake_in(std::max(stall_ns_ / kStallSlices, kWaitingMinNs));
    }
    if (lying_ && polled_) {
        wake_in(protocol::Waiter::kPolledSliceNs);
    }
    if (state_ == State::draining) {
        wake_in(std::max<std::int64_t>(drained_by_ns_ - sys::monotonic_ns(), 1));
    } else if (!outgoing_.empty() && !timer_.running()) {
        sweep_ns_ = std::clamp(sweep_ns_ * 4, kFirstSweepNs, kLastSweepNs);
        wake_in(sweep_ns_);
    }
}

// ------------------------------------------------------------------------------- into the rings

void RemoteSession::settle(Incoming& incoming, StreamReceiver::State state) {
    if (incoming.receiver.waiting()) {
        waiting_.insert(incoming.id);
        set_timer();
    } else {
        waiting_.erase(incoming.id);
    }
    // Also in a ring that stays full: each of its readers' rings brings a part of what waits.
    const u64 digested = incoming.receiver.digested();
    if (std::exchange(incoming.digested, digested) != digested) {
        fruitful();
    }
    if (state == StreamReceiver::State::broken) {
        fail(0, EPROTO, std::string("DATA: ") + incoming.receiver.why());
        return;
    }
    if (incoming.receiver.grants()) {
        const u64 bytes = incoming.receiver.grant();
        if (state_ == State::active) {
            say(protocol::Credit{incoming.id, bytes});
        }
    }
    if (incoming.leaving != 0 && !incoming.receiver.waiting()) {
        unadvertise(incoming);
    }
}

void RemoteSession::digest(Incoming& incoming) {
    if (incoming.receiver.waiting()) {
        complaining_ = &incoming;
        settle(incoming, incoming.receiver.digest());
    }
}

/// Those whose readers may have made room: somebody has rung, or it is time to look.
void RemoteSession::digest_waiting() {
    if (!std::exchange(digest_due_, false)) {
        return;
    }
    const std::vector<u64> waiting(waiting_.begin(), waiting_.end());  // they may go
    for (const u64 id : waiting) {
        if (const auto found = incoming_.find(id); found != incoming_.end()) {
            digest(*found->second);
        }
        if (state_ != State::active && state_ != State::draining) {
            return;
        }
    }
}

/// All that was sent is in the ring.
void RemoteSession::unadvertise(Incoming& incoming) {
    if (!incoming.receiver.closed()) {
        incoming.ring.close();
    }
    tell_bus(protocol::Unadvertise{incoming.id}, incoming.leaving);
    if (complaining_ == &incoming) {
        complaining_ = nullptr;
    }
    waiting_.erase(incoming.id);
    incoming_.erase(incoming.id);
}

void RemoteSession::tell_readers(const Incoming& incoming) {
    // relaxed: a figure for people
    const protocol::u32 count = pages_.mail(incoming.index).readers.load(std::memory_order_relaxed);
    say(protocol::Readers{incoming.id, count});
}

/// A requester chooses whom it asks, and asks nobody before it knows who was there from the start.
void RemoteSession::tell_responders(const Incoming& incoming, const protocol::Members& members) {
    protocol::Responders frame;
    frame.publication = incoming.id;
    frame.complete = incoming.ring.behind() ? 0 : 1;
    for (const protocol::Member& member : members.attach) {
        frame.attach.push_back(member.attachment);
    }
    frame.detach = members.detach;
    say(frame);
}

void RemoteSession::complain(const protocol::ReaderTable::Fault& fault) {
    if (complaining_ != nullptr) {
        tell_bus(protocol::Complain{complaining_->id, fault.attachment,
                                    static_cast<protocol::u8>(fault.complaint)},
                 0);
    }
}

/// A requester learns what may be lost where: in its own stream.
void RemoteSession::overtaken(u64 attachment, u64 from, u64 to) {
    if (complaining_ != nullptr) {
        const u64 begin = complaining_->begin;
        say(protocol::Overtaken{complaining_->id, attachment, from - begin, to - begin});
    }
}

// ----------------------------------------------------------------------------- out of the rings

void RemoteSession::list(Outgoing& outgoing) {
    if (!outgoing.listed && !outgoing.done && outgoing.sender.has_credit()) {
        outgoing.listed = true;
        if (outgoing.ended) {
            outgoing.set_polled();
        }
        waiter_->attach(source_, outgoing);
        later();
    }
}

/// Neither polled nor parked: until it has credit again, or for ever.
void RemoteSession::unlist(Outgoing& outgoing) {
    if (outgoing.listed) {
        outgoing.listed = false;
        waiter_->activate(outgoing);
        waiter_->detach(outgoing);
        outgoing.store_cursor();
    }
}

/// Nothing more comes from it: says so, behind what came.
void RemoteSession::drained(Outgoing& outgoing, std::vector<std::byte>& out,
                            protocol::EndReason reason) {
    outgoing.done = true;
    unlist(outgoing);
    protocol::Ended frame;
    frame.attachment = outgoing.id;
    frame.reason = static_cast<protocol::u8>(reason);
    protocol::encode(out, frame, 0);
    caught_up(outgoing);
}

/// What its ring held when it was attached has been sent, or will not be.
void RemoteSession::caught_up(Outgoing& outgoing) {
    if (!std::exchange(outgoing.awaited, false)) {
        return;
    }
    const auto found = subscriptions_.find(outgoing.subscription);
    if (found != subscriptions_.end() && --found->second.awaited == 0 &&
        found->second.all_attached) {
        say(protocol::CaughtUp{outgoing.subscription});
    }
}

/// Messages, up to a chunk, of each ring in turn. True: look again soon, a writer was faster.
bool RemoteSession::fill(std::vector<std::byte>& out) {
    bool again = false;
    std::size_t idle = 0;
    while (out.size() < kChunkBytes && idle < source_.active_count()) {
        auto& outgoing = static_cast<Outgoing&>(*source_.turn());
        const StreamSender::State state = outgoing.sender.fill(out);
        switch (state) {
        case StreamSender::State::more:
            source_.took(64);  // the next ring's turn
            fruitful();
            sweep_ns_ = 0;
            idle = 0;
            break;
        case StreamSender::State::empty:
            if (outgoing.ended) {
                drained(outgoing, out, protocol::EndReason::publisher_gone);
            } else {
                source_.fruitless(outgoing);
                idle++;
            }
            break;
        case StreamSender::State::no_credit:
            unlist(outgoing);
            break;
        case StreamSender::State::passing:
            again = true;
            source_.skipped(outgoing);
            fruitful();
            idle++;
            break;
        case StreamSender::State::again:
            again = true;
            source_.fruitless(outgoing);
            idle++;
            break;
        case StreamSender::State::closed:
            outgoing.done = true;  // it has been told so in the stream
            unlist(outgoing);
            break;
        case StreamSender::State::corrupt:
            if (hub_.bus().may_log()) {
                log_info("{}: a publisher breaks the protocol: nothing more is read from it",
                         describe());
            }
            drained(outgoing, out, protocol::EndReason::detached);
            break;
        }
        if (outgoing.done || state == StreamSender::State::empty || outgoing.sender.caught_up()) {
            caught_up(outgoing);
        }
    }
    return again;
}

/// What waits, then messages; one send at a time. With nothing left, everything is parked.
void RemoteSession::send_some() {
    if (send_.submitted()) {
        return;
    }
    // A buffer goes round as long as there is something to send, and is let go of with the last.
    std::vector<std::byte> chunk = send_.take_buffer();
    if (!queue_.empty()) {
        chunk = std::exchange(queue_, {});
    }
    const bool again = state_ == State::active && fill(chunk);
    if (tls_) {
        seal(chunk);
    }
    if (!chunk.empty()) {
        send_.start(tcp_.get(), std::move(chunk));
    } else if (state_ == State::closing) {
        finish();
    } else if (state_ == State::active) {
        if (stopping_ && waiting_.empty()) {
            say(protocol::Stopping{});
            end_when_sent();
        } else if ((again || !lie_down()) && !in_vain()) {
            later();
        }
    }
}

/// What goes out over TLS: what that has to say, the chunk, and at the end that it is the end.
void RemoteSession::seal(std::vector<std::byte>& chunk) {
    if (!tls_->ready()) {
        chunk.clear();  // nothing is said before it is known to whom
    }
    chunk = tls_->seal(chunk);
    if (state_ == State::closing) {
        tls_->close();
        const std::vector<std::byte> end = tls_->seal({});
        chunk.insert(chunk.end(), end.begin(), end.end());
    } else if (tls_->error()) {
        log_warning("{}: {}", describe(), tls_->error()->what);
        end_when_sent();
    }
}

/// There has been work: who rings has a reason. Whoever did not listen does, from the next turn on.
void RemoteSession::fruitful() {
    naps_ = 0;
    if (std::exchange(fruitless_, 0) >= kFruitlessMax) {
        later();
    }
}

/// A look that brought nothing, and yet one may not lie down. True: so often that it is malice, of
/// whoever writes to our summary or to his ring without a pause: after a nap (set_timer).
bool RemoteSession::in_vain() { return ++fruitless_ >= kFruitlessMax; }

/// False: there is news.
bool RemoteSession::lie_down() {
    if (!lying_) {
        lying_ = waiter_->lie_down(polled_);
        return lying_;
    }
    return true;
}

void RemoteSession::get_up(bool swept) {
    if (swept) {
        naps_ += fruitless_ >= kFruitlessMax ? 1 : 0;
        fruitless_ = 0;
    }
    if (std::exchange(lying_, false)) {
        waiter_->get_up(false);
    } else if (waiter_) {
        waiter_->take_activity();
    }
    if (swept && waiter_) {
        // All of its rings: so much of the loop's time and no more, whoever rings, however often.
        waiter_->sweep_if_due(sys::coarse_ns());
    }
}

}  // namespace ipcbus::daemon
