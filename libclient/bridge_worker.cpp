// SPDX-License-Identifier: Apache-2.0
// The bridge's loop: waiting, reading and writing both sockets, moving messages. See bridge.hpp,
// bridge_worker.hpp; waiter.hpp has the tags. Frames are in bridge_frames.cpp.
#include "bridge_worker.hpp"

#include "sys/clock.hpp"
#include "sys/fd_passing.hpp"
#include "sys/memfd.hpp"
#include "sys/tcp.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>

namespace ipcbus::client {

using protocol::FrameHeader;
using protocol::FrameReader;
using protocol::StreamReceiver;
using protocol::StreamSender;
using sys::Result;

namespace {

/// Of messages, what is made ready to be sent at once.
constexpr std::size_t kChunkBytes = 64 * 1024;
constexpr std::size_t kReadBytes = 64 * 1024;
/// Reads of a socket in a row before other things get a turn.
constexpr int kReadsMax = 8;
/// Frames that the library has not taken, before no more are read from the daemon.
constexpr std::size_t kLibraryFramesMax = 1024;
/// All rings and pages are this process's own: a look by the clock is for what is not known.
constexpr int kLookMs = 1000;
/// As long as nobody rings, for ever would do.
constexpr protocol::i64 kAlarmNs = 3'600'000'000'000;
/// The writer of an attachment's ring is the bridge, which never waits: nobody is demoted.
constexpr protocol::i64 kNeverNs = protocol::i64{1} << 61;
/// When the daemon is lost, who does not read keeps what has come from others' rings so long.
constexpr u64 kLetGoMaxNs = 10'000'000'000;

}  // namespace

BridgeWorker::Leaving::Leaving(const protocol::Advertised& told, sys::RingMapping mapped,
                               std::unique_ptr<protocol::WriterWords> writer_words,
                               protocol::CursorSlot& slot, protocol::Source& source)
    : protocol::Attachment(
          protocol::ReadableRing{reinterpret_cast<const protocol::RingHeader*>(mapped.header()),
                                 mapped.data(), told.ring_bytes, told.record_bytes_max},
          told.ring_bytes, told.first_sequence,
          Words{&slot, writer_words.get(), told.index % protocol::kActivityBits}, &source),
      words(std::move(writer_words)),
      memory(std::move(mapped)),
      id(told.publication),
      index(told.index),
      sender(told.publication, *this, false) {}

BridgeWorker::Arriving::Arriving(const protocol::Attached& told, sys::RingMapping mapped, u64 bytes,
                                 const ClientPages& own, protocol::Control& control)
    : memory(std::move(mapped)),
      id(told.attachment),
      subscription(told.subscription),
      slot(told.slot),
      ring(protocol::RingWriter(
               protocol::WritableRing{reinterpret_cast<protocol::RingHeader*>(memory.header()),
                                      memory.data(), bytes},
               bytes, told.start_sequence, told.record_bytes_max),
           protocol::RingPublisher::Words{&nobody, &own.publication(told.slot), &own.waiter(0).bell,
                                          &own.asleep(0)},
           kNeverNs, control),
      receiver(ring, true) {}

BridgeWorker::BridgeWorker(int tcp, int library, int kick, const protocol::Welcome& welcome,
                           FrameReader frames, protocol::i64 dead_ns,
                           std::unique_ptr<sys::TlsStream> tls)
    : tcp_(tcp),
      library_(library),
      kick_(kick),
      welcome_(welcome),
      stall_ns_(static_cast<protocol::i64>(std::min(welcome.stall_timeout_ns, kLetGoMaxNs))),
      dead_ns_(dead_ns),
      daemon_frames_(std::move(frames)),
      tls_(std::move(tls)) {
    // The bridge's cursor may stand still for as long as the daemon's readers do, who are judged
    // there: nobody demotes the bridge.
    welcome_.stall_timeout_ns = static_cast<u64>(kNeverNs);
    for (const int socket : {tcp_, library_}) {
        (void)::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
    }
}

/// The library's pages, as the daemon's geometry has them: so its numbers of slots and publications
/// are good here. Our own have a slot for each publication, and a place for each attachment.
Result<void> BridgeWorker::make_pages() {
    const protocol::Geometry& geometry = welcome_.geometry;
    const protocol::Geometry own{1, geometry.attachments_max, geometry.publications_max};
    const auto make = [](const char* name, u64 bytes) { return sys::create_memfd(name, bytes); };
    app_fds_.push_back(IPCBUS_TRY(make("ipcbus-cursor", protocol::cursor_bytes(geometry))));
    app_fds_.push_back(IPCBUS_TRY(make("ipcbus-doorbell", protocol::doorbell_bytes(geometry))));
    app_fds_.push_back(IPCBUS_TRY(make("ipcbus-mailbox", protocol::mailbox_bytes(geometry))));
    own_fds_.push_back(IPCBUS_TRY(make("ipcbus-cursor", protocol::cursor_bytes(own))));
    own_fds_.push_back(IPCBUS_TRY(make("ipcbus-doorbell", protocol::doorbell_bytes(own))));
    app_ = IPCBUS_TRY(
        ClientPages::map(geometry, app_fds_[0].get(), app_fds_[1].get(), app_fds_[2].get()));
    own_ = IPCBUS_TRY(ClientPages::map(own, own_fds_[0].get(), own_fds_[1].get(), -1));
    app_waiters_ = {&app_.asleep(0), &app_.waiter(0), geometry.waiters_max};
    alarm_ = IPCBUS_TRY(sys::Alarm::create());
    waiter_ = std::make_unique<protocol::Waiter>(
        protocol::Waiter::Words{&own_.waiter(0), &own_.asleep(0), 0});
    waiter_->add(source_);
    return {};
}

// ---------------------------------------------------------------------------------------- loop

void BridgeWorker::run() {
    for (;;) {
        alarm_->call_off();
        // [S1] acquire: before every look. Pairs with ring_bell.
        const u32 bell_seen = own_.waiter(0).bell.load(std::memory_order_acquire);
        waiter_->take_activity();
        if (library_speaks_) {
            read_library();
        }
        if (daemon_speaks_) {
            (void)read_daemon();  // if there is more, poll() says so
        }
        digest_all();
        const bool more = fill();
        write_daemon();
        const bool again = more && all_sent();  // else there is room to wait for
        if (lost_ && !let_go_ && (all_digested() || sys::monotonic_ns() >= let_go_at_ns_)) {
            let_go();
        }
        look_whether_dead();
        write_library();
        library_speaks_ = daemon_speaks_ = true;  // perhaps
        if (through() || (!again && !wait(bell_seen))) {
            break;
        }
    }
    if (!lost_) {
        // Behind frames that are cut off, a close would be a lie; nothing can be sealed after it.
        if (tls_ && all_sent()) {
            tls_->close();
            write_daemon();
        }
        (void)::shutdown(tcp_, SHUT_RDWR);
    }
}

bool BridgeWorker::all_sent() const {
    return lost_ || (daemon_out_.empty() && wire_.empty() && (!tls_ || !tls_->due()));
}

bool BridgeWorker::through() const {
    if (lost_) {
        return let_go_ && (library_gone_ || library_out_.empty());
    }
    return library_gone_ && leaving_.empty() && all_sent();
}

/// False: it is over, whatever is left.
bool BridgeWorker::wait(u32 bell_seen) {
    const bool idle = all_sent();
    if (idle && !waiter_->lie_down(polled_)) {
        return true;
    }
    const auto events = [](bool in, bool out) {
        return static_cast<short>((in ? POLLIN : 0) | (out ? POLLOUT : 0));
    };
    const bool hear = library_out_.size() < kLibraryFramesMax;
    const bool tell = !library_out_.empty() &&
                      fds_out_ + library_out_.front().fds.size() <= protocol::kFdsUnacknowledgedMax;
    const bool armed = alarm_->arm(&own_.waiter(0).bell, bell_seen, kAlarmNs).ok();
    pollfd waits[4] = {{lost_ ? -1 : tcp_, events(hear, !idle), 0},
                       {library_gone_ ? -1 : library_, events(true, tell), 0},
                       {armed ? alarm_->fd() : -1, POLLIN, 0},
                       {kick_, POLLIN, 0}};
    constexpr int kPolledMs = protocol::Waiter::kPolledSliceNs / 1'000'000;
    const bool soon = (idle && polled_) || (lost_ && !let_go_) || !armed;
    const int ready = ::poll(waits, 4, soon ? kPolledMs : kLookMs);
    if (ready > 0) {
        daemon_speaks_ = (waits[0].revents & ~POLLOUT) != 0;
        library_speaks_ = (waits[1].revents & ~POLLOUT) != 0;
    }
    if (idle) {
        waiter_->get_up(ready <= 0 || (waits[2].revents != 0 && source_.active_count() == 0));
    }
    return waits[3].revents == 0;
}

/// The kernel tells of a host that is dead only while nothing is on its way there.
void BridgeWorker::look_whether_dead() {
    const protocol::i64 now_ns = sys::coarse_ns();
    if (lost_ || now_ns < next_look_ns_) {
        return;
    }
    next_look_ns_ = now_ns + dead_ns_ / 8;
    if (sys::peer_is_dead(tcp_, dead_ns_)) {
        daemon_lost(ETIMEDOUT, std::strerror(ETIMEDOUT));
    }
}

/// True: it has had its share, and there may be more.
bool BridgeWorker::read_daemon() {
    std::array<std::byte, kReadBytes> bytes;
    for (int reads = 0; !lost_ && library_out_.size() < kLibraryFramesMax; reads++) {
        if (reads == kReadsMax) {
            return true;
        }
        const ssize_t got = ::recv(tcp_, bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            break;
        }
        if (got <= 0) {
            daemon_lost(got == 0 ? 0 : errno,
                        got == 0 ? "the daemon closed the connection" : std::strerror(errno));
            break;
        }
        const auto said = std::span<const std::byte>(bytes).first(static_cast<std::size_t>(got));
        if (tls_) {
            hear_sealed(said);
        } else {
            hear_daemon(said);
        }
        if (!beginning_.empty()) {
            announce();  // whoever waits for history waits as long as it comes
        }
    }
    return false;
}

void BridgeWorker::hear_sealed(std::span<const std::byte> bytes) {
    std::vector<std::byte> plain;
    const Result<void> fed = tls_->feed(bytes, plain);
    hear_daemon(plain);
    if (!fed.ok()) {
        // The alert, for as far as the socket has room: it says why to the daemon.
        const std::vector<std::byte> alert = tls_->seal({});
        if (wire_.empty()) {
            (void)!::send(tcp_, alert.data(), alert.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        daemon_lost(fed.error().code, fed.error().what);
    } else if (tls_->ended()) {
        daemon_lost(0, "the daemon closed the connection");
    }
}

void BridgeWorker::hear_daemon(std::span<const std::byte> bytes) {
    daemon_frames_.lend(bytes);
    FrameHeader header;
    std::span<const std::byte> fields;
    FrameReader::Status status{};
    while (!lost_ && (status = daemon_frames_.next(header, fields)) == FrameReader::Status::frame) {
        daemon_frame(header, fields);
    }
    daemon_frames_.keep();
    if (status == FrameReader::Status::malformed) {
        daemon_lost(EPROTO, std::string("the daemon sent a ") + daemon_frames_.why());
    }
}

void BridgeWorker::read_library() {
    std::array<std::byte, protocol::kFrameBytesMax> bytes;
    while (!library_gone_) {
        const ssize_t got = ::recv(library_, bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return;
        }
        if (got <= 0) {
            library_gone();
            return;
        }
        library_frames_.add(std::span(bytes).first(static_cast<std::size_t>(got)));
        FrameHeader header;
        std::span<const std::byte> fields;
        while (library_frames_.next(header, fields) == FrameReader::Status::frame) {
            library_frame(header, fields);
        }
    }
}

void BridgeWorker::write_daemon() {
    while (!all_sent() && !lost_) {
        if (wire_.empty() && tls_) {
            wire_ = tls_->seal(daemon_out_);
            daemon_out_.clear();
            if (tls_->error()) {
                daemon_lost(tls_->error()->code, tls_->error()->what);
                return;
            }
        } else if (wire_.empty()) {
            wire_.swap(daemon_out_);
        }
        const ssize_t sent =
            ::send(tcp_, wire_.data() + wire_sent_, wire_.size() - wire_sent_, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                // What the daemon said last is still to be read, and says more.
                const int code = errno;
                while (read_daemon()) {}
                daemon_lost(code, std::strerror(code));
            }
            return;
        }
        wire_sent_ += static_cast<std::size_t>(sent);
        if (wire_sent_ == wire_.size()) {
            wire_.clear();
            wire_sent_ = 0;
        }
    }
}

void BridgeWorker::write_library() {
    bool told = false;
    while (!library_out_.empty() && !library_gone_) {
        ToLibrary& out = library_out_.front();
        std::vector<int> fds;
        if (library_sent_ == 0) {
            for (const sys::UniqueFd& fd : out.fds) {
                fds.push_back(fd.get());
            }
            if (fds_out_ + fds.size() > protocol::kFdsUnacknowledgedMax) {
                break;
            }
        }
        const Result<std::size_t> sent = sys::send_with_fds(
            library_, std::span<const std::byte>(out.bytes).subspan(library_sent_), fds);
        if (!sent.ok()) {
            if (sent.error().code != EAGAIN && sent.error().code != EINTR) {
                library_gone();
            }
            break;
        }
        told = true;
        fds_out_ += static_cast<unsigned>(fds.size());
        library_sent_ += sent.value();
        if (library_sent_ == out.bytes.size()) {
            library_out_.pop_front();
            library_sent_ = 0;
        }
    }
    if (told) {
        announce();
    }
}

/// Frames have been sent, or a number in the mailbox is another: whoever sleeps is rung.
void BridgeWorker::announce() {
    // release: the frames are in the socket before they are counted.
    app_.mail().frames.fetch_add(1, std::memory_order_release);
    // Either a waiter's last look at `frames` before it sleeps sees this, or we see it asleep.
    protocol::full_fence();
    // relaxed: only a bound; who comes into use later looks before it sleeps.
    const u32 used = std::min(app_.header().waiters_used.load(std::memory_order_relaxed),
                              app_.geometry.waiters_max);
    for (u32 waiter = 0; waiter < used; waiter++) {
        // relaxed: the full fence orders it after `frames`
        if ((app_.asleep(waiter).load(std::memory_order_relaxed) & 1) != 0) {
            protocol::ring_bell(app_.waiter(waiter).bell);
        }
    }
}

// ------------------------------------------------------------------------------------- the ends

void BridgeWorker::daemon_lost(int code, std::string text) {
    if (std::exchange(lost_, true)) {
        return;
    }
    (void)::shutdown(tcp_, SHUT_RDWR);
    daemon_out_.clear();
    wire_.clear();
    wire_sent_ = 0;
    let_go_at_ns_ = sys::monotonic_ns() + stall_ns_;
    detach_publications();
    if (code != 0) {
        protocol::ErrorFrame frame;
        frame.code = static_cast<u32>(code);
        frame.text = text.substr(0, protocol::kErrorTextBytesMax);
        to_library(frame, 0);
    }
}

bool BridgeWorker::all_digested() const {
    return library_gone_ || std::none_of(arriving_.begin(), arriving_.end(), [](const auto& entry) {
               return entry.second->receiver.waiting() && !entry.second->broken;
           });
}

/// Publishers do not wait for a reader that is no more.
void BridgeWorker::detach_publications() {
    for (auto& [id, leaving] : leaving_) {
        unlist(*leaving);
        // relaxed: a figure
        app_.mail(leaving->index).readers.store(0, std::memory_order_relaxed);
        std::set<u64> gone = std::exchange(leaving->responders, {});
        gone.insert(id);
        while (!gone.empty()) {
            protocol::Members members;
            while (!gone.empty() && members.detach.size() < protocol::kMembersPerFrameMax) {
                members.detach.push_back(gone.extract(gone.begin()).value());
            }
            change(*leaving, std::move(members));
        }
    }
}

/// After the daemon: readers go on in the next ring, whenever there is one. Who has not read by
/// now misses what did not fit his: the next ring's first sequence tells how much.
void BridgeWorker::let_go() {
    let_go_ = true;
    for (auto& [id, arriving] : arriving_) {
        if (!arriving->receiver.closed()) {
            arriving->ring.close();
        }
    }
}

/// What it published goes out all the same.
void BridgeWorker::library_gone() {
    if (std::exchange(library_gone_, true)) {
        return;
    }
    library_out_.clear();
    while (!arriving_.empty()) {
        erase(arriving_.begin()->first);
    }
    for (auto& [id, leaving] : leaving_) {
        if (!std::exchange(leaving->over, true) && leaving->sender.ended()) {
            sent_all(*leaving);
        }
    }
}

// ------------------------------------------------------------------------------------- messages

void BridgeWorker::settle(Arriving& arriving, StreamReceiver::State state) {
    if (state == StreamReceiver::State::broken) {
        // Perhaps its publisher's doing: nobody else suffers for it.
        arriving.broken = true;
        to_library(
            protocol::Ended{arriving.id, static_cast<protocol::u8>(protocol::EndReason::detached)},
            0);
        return;
    }
    if (arriving.receiver.grants()) {
        to_daemon(protocol::Credit{arriving.id, arriving.receiver.grant()});
    }
    if (arriving.ended != 0 && !arriving.receiver.waiting()) {
        to_library(protocol::Ended{arriving.id, std::exchange(arriving.ended, protocol::u8{0})}, 0);
    }
}

void BridgeWorker::digest_all() {
    for (auto& [id, arriving] : arriving_) {
        if (arriving->receiver.waiting() && !arriving->broken) {
            settle(*arriving, arriving->receiver.digest());
        }
    }
}

void BridgeWorker::list(Leaving& leaving) {
    if (!leaving.listed && !leaving.sender.ended() && leaving.sender.has_credit()) {
        leaving.listed = true;
        waiter_->attach(source_, leaving);
    }
}

/// Neither polled nor parked: until there is credit again, or for ever.
void BridgeWorker::unlist(Leaving& leaving) {
    if (leaving.listed) {
        leaving.listed = false;
        waiter_->activate(leaving);
        waiter_->detach(leaving);
        leaving.store_cursor();
    }
}

/// All of it is with the daemon, or on the way before this.
void BridgeWorker::sent_all(Leaving& leaving) {
    unlist(leaving);
    if (leaving.unadvertised == 0) {
        leaving.unadvertised = ++own_request_;
        to_daemon(protocol::Unadvertise{leaving.id}, leaving.unadvertised);
    }
}

/// Messages, up to a chunk, of each ring in turn. True: look again soon.
bool BridgeWorker::fill() {
    bool again = false;
    std::size_t idle = 0;
    while (!lost_ && daemon_out_.size() < kChunkBytes && idle < source_.active_count()) {
        auto& leaving = static_cast<Leaving&>(*source_.turn());
        switch (leaving.sender.fill(daemon_out_)) {
        case StreamSender::State::more:
            source_.took(64);  // the next ring's turn
            idle = 0;
            break;
        case StreamSender::State::empty:
            if (leaving.over) {
                sent_all(leaving);
            } else {
                source_.fruitless(leaving);
                idle++;
            }
            break;
        case StreamSender::State::no_credit:
            unlist(leaving);
            break;
        case StreamSender::State::passing:  // nobody publishes with history
        case StreamSender::State::again:
            source_.fruitless(leaving);
            again = true;
            idle++;
            break;
        case StreamSender::State::closed:
            unlist(leaving);
            if (leaving.over) {
                sent_all(leaving);
            }
            break;
        case StreamSender::State::corrupt:
            daemon_lost(EPROTO, "a publication of this process has been overwritten");
            break;
        }
    }
    return again || (daemon_out_.size() >= kChunkBytes && idle < source_.active_count());
}

}  // namespace ipcbus::client
