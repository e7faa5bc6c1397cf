// SPDX-License-Identifier: Apache-2.0
// The control side of a client. See bus.hpp. MEMBERS stored and answered: tests/model/join.pml.
#include "bus.hpp"

#include "attached.hpp"
#include "sys/address.hpp"
#include "sys/room.hpp"

#include <poll.h>
#include <time.h>

#include <algorithm>
#include <chrono>

namespace ipcbus::client {

using protocol::FrameHeader;
using protocol::FrameReader;
using protocol::FrameType;
using sys::fail;
using sys::Result;

namespace {

constexpr i64 kReconnectAnswerNs = 1'000'000'000;
constexpr i64 kTryAgainNs = 100'000'000;
constexpr i64 kDefaultTryNs = 50'000'000;
/// A host that does not answer is given up; looked for again like a daemon that is gone.
constexpr i64 kDialNs = 5'000'000'000;
constexpr long kRedialNs = 20'000'000;

/// Another host that is not up, nor is the way there, nor its name known: nobody listens there yet.
sys::Error as_refused(sys::Error error) {
    switch (error.code) {
        case EHOSTUNREACH:
        case ENETUNREACH:
        case EHOSTDOWN:
        case ENETDOWN:
        case ECONNRESET:
        case EPIPE:
        case EAGAIN: error.code = ECONNREFUSED; break;
        default: break;
    }
    return error;
}

bool is_before(const Attached* attached, u64 id) { return attached->id < id; }

}  // namespace

Result<std::unique_ptr<Bus>> Bus::connect(const BusOptions& options) {
    std::unique_ptr<Bus> bus(new Bus(options));
    bus->fork_ = IPCBUS_TRY(sys::WipeOnFork::create());
    const sys::Deadline deadline = sys::Deadline::after(options.timeout_ns);
    for (;;) {
        // Without an address there are two places where a daemon may come up: each is looked at
        // again and again.
        const bool given = !options.address.empty();
        const std::string text = given ? options.address : sys::default_address();
        bus->where_ = IPCBUS_TRY(sys::parse_address(text));
        const i64 left_ns = deadline.remaining_ns();
        if (!bus->where_.tls && options.tls != TlsOptions{}) {
            return fail(EINVAL, "a CA, a certificate, a key and the name of a server are for "
                                "tls:HOST:PORT, and the address is " + bus->where_.text());
        }
        const bool remote = bus->where_.kind == sys::Address::Kind::tcp;
        const i64 try_ns = given || remote ? left_ns : std::min(left_ns, kDefaultTryNs);
        Result<void> opened = bus->open_link(try_ns, kAnswerTimeoutNs);
        if (opened.ok()) {
            return bus;
        }
        const bool may_come =
            opened.error().code == ECONNREFUSED || (remote && opened.error().code == ETIMEDOUT);
        if (!may_come || deadline.passed()) {
            return std::move(opened.error());
        }
        if (remote) {
            const i64 pause_ns = std::min<i64>(kRedialNs, deadline.remaining_ns());
            const timespec pause{0, pause_ns};  // refused at once, not after having waited
            (void)::nanosleep(&pause, nullptr);
            if (deadline.passed()) {
                return std::move(opened.error());
            }
        }
    }
}

Result<void> Bus::open_link(i64 connect_timeout_ns, i64 answer_timeout_ns) {
    Result<std::shared_ptr<Link>> opened =
        where_.kind == sys::Address::Kind::tcp
            ? open_bridged(connect_timeout_ns, answer_timeout_ns)
            : Link::open(where_.path, options_.name, sys::Deadline::after(connect_timeout_ns),
                         answer_timeout_ns);
    if (!opened.ok()) {
        return std::move(opened.error());
    }
    link_ = std::move(opened).value();
    session_error_.clear();
    publications_.clear();
    subscriptions_.clear();
    // release: pairs with lost(). Who sees it before the new generation goes on with the old link,
    // on which every request fails.
    lost_.store(false, std::memory_order_release);
    // release: link_ is there. Pairs with generation(), though link_ is read under the lock.
    generation_.fetch_add(1, std::memory_order_release);
    return {};
}

/// The daemon of another host is dialled by a thread: with a time of 0, as when a lost connection
/// is made again, this only looks how far that has come.
Result<std::shared_ptr<Link>> Bus::open_bridged(i64 connect_timeout_ns, i64 answer_timeout_ns) {
    if (!dialled_) {
        BridgeOptions options;
        options.endpoint = {where_.host, where_.port};
        options.name = options_.name;
        options.token = IPCBUS_TRY(token_from_environment());
        if (link_ != nullptr) {
            options.earlier = {link_->welcome().client, link_->welcome().token};
        }
        if (where_.tls) {
            const TlsOptions tls = with_environment(options_.tls);
            options.tls = IPCBUS_TRY(load_credentials(tls));
            options.server_name = tls.server_name.empty() ? where_.host : tls.server_name;
        }
        options.connect_timeout_ns = kDialNs;
        options.answer_timeout_ns = kAnswerTimeoutNs;
        dialled_ = IPCBUS_TRY(Bridge::dial(std::move(options)));
    }
    const bool first = link_ == nullptr;
    // Once, if no time is given: a connection cannot be there at once.
    const i64 wait_ns = first && options_.timeout_ns == 0 ? kDialNs : connect_timeout_ns;
    Bridge::State state = dialled_->wait(Bridge::State::dialling, wait_ns);
    if (first && state == Bridge::State::greeting) {
        state = dialled_->wait(Bridge::State::greeting, answer_timeout_ns);
    }
    switch (state) {
        case Bridge::State::dialling:
        case Bridge::State::greeting: {
            sys::Error error = fail(
                ETIMEDOUT, where_.text() + ": no answer yet");
            if (first) {
                dialled_.reset();
            }
            return error;
        }
        case Bridge::State::ready:
            return Link::open(std::exchange(dialled_, nullptr), options_.name, answer_timeout_ns);
        case Bridge::State::failed:
        case Bridge::State::ended: break;
    }
    return as_refused(std::exchange(dialled_, nullptr)->why());
}

Bus::State Bus::state() {
    hear();
    if (!lost()) {
        return State::connected;
    }
    if (!options_.reconnect) {
        return State::closed;
    }
    return reconnect() ? State::connected : State::orphaned;
}

// ------------------------------------------------------------------------------------ frames

void Bus::hear() {
    Lock guard = lock();
    if (reader_busy_ || lost()) {
        return;  // the reader of the moment hands out what comes, and rings
    }
    read_frames(guard, *link_);
}

bool Bus::wait_for_frames(Lock& guard, const std::shared_ptr<Link>& link, i64 timeout_ns) {
    if (link_ != link || lost()) {
        return false;
    }
    if (reader_busy_) {
        if (timeout_ns < 0) {
            read_.wait(guard);
        } else {
            (void)read_.wait_for(guard, std::chrono::nanoseconds(timeout_ns));
        }
        return link_ == link && !lost();
    }
    reader_busy_ = true;
    guard.unlock();
    pollfd wait{link->socket(), POLLIN, 0};
    const int timeout_ms = timeout_ns < 0 ? -1 : static_cast<int>(timeout_ns / 1'000'000) + 1;
    (void)::poll(&wait, 1, timeout_ms);
    guard.lock();
    reader_busy_ = false;
    read_frames(guard, *link);
    read_.notify_all();
    return link_ == link && !lost();
}

void Bus::read_frames(const Lock& guard, Link& link) {
    try {
        (void)link.read_available();
        dispatch(guard);
    } catch (const std::bad_alloc&) {
        // What was half read is lost, for whatever handle it was. A new connection tells all of it
        // again.
        link.give_up(ENOMEM, "out of memory");
        note_hang_up();
    }
}

void Bus::dispatch(const Lock& guard) {
    take_frames(guard);
    link_->acknowledge_fds();
    if (link_->hung_up()) {
        take_frames(guard);  // what the daemon said last may have been read by a send that failed
        note_hang_up();
    }
}

void Bus::take_frames(const Lock& guard) {
    FrameHeader header;
    std::span<const std::byte> fields;
    for (;;) {
        const FrameReader::Status status = link_->next(header, fields);
        if (status == FrameReader::Status::need_more) {
            break;
        }
        if (status == FrameReader::Status::malformed) {
            link_->give_up(EPROTO, "the daemon sent a malformed frame");
            break;
        }
        dispatch_frame(guard, header, fields);
    }
}

void Bus::dispatch_frame(const Lock& guard, const FrameHeader& header,
                         std::span<const std::byte> fields) {
    const auto first_id = [&fields] {
        protocol::FieldReader reader(fields);
        u64 id = 0;
        reader(id);
        return id;
    };
    switch (header.type) {
    case FrameType::peer: {
        protocol::Peer frame;
        if (protocol::decode(fields, frame) && frame.geometry.valid()) {
            link_->add_peer(frame);
        } else {
            link_->give_up(EPROTO, "the daemon sent a malformed PEER");
        }
        return;
    }
    case FrameType::peer_gone:
        link_->drop_peer(first_id());
        return;
    case FrameType::members: {
        // Acknowledged here, for whatever handle it is: a writer that waits for the frame of
        // one publication must not hold up those of another.
        protocol::Members frame;
        if (!protocol::decode(fields, frame)) {
            link_->give_up(EPROTO, "the daemon sent malformed MEMBERS");
            return;
        }
        hand_over(publications_, frame.publication, header, fields);
        link_->send(protocol::Taken{frame.publication, frame.number}, Link::next_request());
        return;
    }
    case FrameType::refused:
    case FrameType::overtaken:
    case FrameType::move:
    case FrameType::revoked:
        hand_over(publications_, first_id(), header, fields);
        return;
    case FrameType::attached:
    case FrameType::caught_up:
        hand_over(subscriptions_, first_id(), header, fields);
        return;
    case FrameType::ended:
        if (FrameSink* sink = reader_of(*link_, first_id(), guard); sink != nullptr) {
            sink->frame(*link_, header, fields);
            sink->wake();
        }
        return;
    case FrameType::stopping:
        // Rings need no daemon: hang up at once, so that it need not wait for us, and look for
        // its successor from now on. It may have hung up itself by now: that is not why.
        session_error_ = "the daemon is stopping";
        link_->give_up(0, session_error_);
        return;
    case FrameType::error:
        if (header.request == 0) {
            protocol::ErrorFrame frame;
            session_error_ = protocol::decode(fields, frame) ? frame.text : "";
            return;
        }
        [[fallthrough]];
    default:
        answer(header, fields);
    }
}

void Bus::hand_over(std::unordered_map<u64, FrameSink*>& sinks, u64 id, const FrameHeader& header,
                    std::span<const std::byte> fields) {
    const auto found = sinks.find(id);
    if (found != sinks.end()) {
        found->second->frame(*link_, header, fields);
        found->second->wake();
    } else if (header.type == FrameType::attached) {
        // Of a subscription that is being given up: its descriptor is ours all the same.
        const sys::UniqueFd unused = link_->take_fd();
    }
}

void Bus::answer(const FrameHeader& header, std::span<const std::byte> fields) {
    sys::UniqueFd fd = header.type == FrameType::advertised ? link_->take_fd() : sys::UniqueFd();
    const auto found = pending_.find(header.request);
    if (found == pending_.end()) {
        return;
    }
    Pending& pending = *found->second;
    pending.answer.type = header.type;
    pending.answer.fields.assign(fields.begin(), fields.end());  // may be out of memory
    pending.answer.fd = std::move(fd);
    pending.done = true;
    if (pending.sink != nullptr && fields.size() >= sizeof(u64)) {
        protocol::FieldReader reader(fields);
        u64 id = 0;
        reader(id);
        if (header.type == FrameType::advertised) {
            publications_[id] = pending.sink;
        } else if (header.type == FrameType::subscribed) {
            subscriptions_[id] = pending.sink;
        }
    }
}

Result<Answer> Bus::await(Lock& guard, const std::shared_ptr<Link>& link, Pending& pending) {
    bool connected = true;
    if (!reader_busy_) {
        read_frames(guard, *link);
    }
    const sys::Deadline deadline = sys::Deadline::after(kAnswerTimeoutNs);
    while (!pending.done && connected) {
        connected = wait_for_frames(guard, link, kAnswerSliceNs);
        if (connected && deadline.passed() && !pending.done) {
            link->give_up(ETIMEDOUT, "the daemon does not answer");
            note_hang_up();
        }
    }
    if (!pending.done) {
        return fail(ESHUTDOWN, why_lost(guard));
    }
    if (pending.answer.type == FrameType::error) {
        protocol::ErrorFrame error;
        if (!protocol::decode(std::span<const std::byte>(pending.answer.fields), error)) {
            return fail(EPROTO, "the daemon's refusal is malformed");
        }
        return refusal(error);
    }
    return std::move(pending.answer);
}

// -------------------------------------------------------------------------------- connection

void Bus::note_hang_up() {
    // release: pairs with lost(); why is read under the lock.
    lost_.store(true, std::memory_order_release);
    read_.notify_all();
    // Those who sleep are told by their bounded look; those who are awake, by lost().
    for (const auto* sinks : {&publications_, &subscriptions_}) {
        for (const auto& [id, sink] : *sinks) {
            sink->wake();
        }
    }
}

bool Bus::reconnect() {
    if (!lost()) {
        return true;
    }
    if (!options_.reconnect) {
        return false;
    }
    Lock guard = lock();
    if (!lost()) {
        return true;
    }
    const i64 now_ns = sys::monotonic_ns();
    if (now_ns < next_try_ns_ || reader_busy_) {
        return false;
    }
    next_try_ns_ = now_ns + kTryAgainNs;
    return open_link(0, kReconnectAnswerNs).ok();
}

Result<void> Bus::require_connection() {
    hear();
    if (!lost() || reconnect()) {
        return {};
    }
    return fail(ESHUTDOWN, why_lost());
}

std::string Bus::why_lost(const Lock&) const {
    const std::string& why = session_error_.empty() ? link_->why().what : session_error_;
    return "the connection to the daemon is lost" + (why.empty() ? "" : ": " + why);
}

// ----------------------------------------------------------------------------------- handles

void Bus::forget(FrameSink* sink, const Lock&) {
    for (auto* sinks : {&publications_, &subscriptions_}) {
        std::erase_if(*sinks, [sink](const auto& entry) { return entry.second == sink; });
    }
    std::erase_if(attachments_,
                  [sink](const Attached* attached) { return &attached->sink() == sink; });
    sys::give_back_room(attachments_);
}

void Bus::forget_publication(u64 publication, const Link& link, const Lock&) {
    if (link_.get() == &link) {
        publications_.erase(publication);  // else it is another's, of the daemon of now
    }
}

void Bus::route_attachment(Attached& attached) {
    sys::make_room(attachments_);
    attachments_.insert(
        std::lower_bound(attachments_.begin(), attachments_.end(), attached.id, is_before),
        &attached);
}

void Bus::unroute_attachment(const Attached& attached) {
    auto place = std::lower_bound(attachments_.begin(), attachments_.end(), attached.id, is_before);
    // One of another link may have the same id.
    while (place != attachments_.end() && (*place)->id == attached.id && *place != &attached) {
        ++place;
    }
    if (place != attachments_.end() && *place == &attached) {
        attachments_.erase(place);
        sys::give_back_room(attachments_);
    }
}

FrameSink* Bus::reader_of(const Link& link, u64 attachment, const Lock&) const {
    auto found = std::lower_bound(attachments_.begin(), attachments_.end(), attachment, is_before);
    for (; found != attachments_.end() && (*found)->id == attachment; ++found) {
        if (&(*found)->ring().link() == &link) {
            return &(*found)->sink();
        }
    }
    return nullptr;
}

void Bus::adopt(const void* handle, std::function<void()> close) {
    const std::lock_guard guard(handles_mutex_);
    handles_.emplace(handle, std::move(close));
}

void Bus::disown(const void* handle) {
    const std::lock_guard guard(handles_mutex_);
    handles_.erase(handle);
}

void Bus::close_handles() {
    for (;;) {
        std::function<void()> close;
        {
            const std::lock_guard guard(handles_mutex_);
            if (handles_.empty()) {
                return;
            }
            close = handles_.begin()->second;
            handles_.erase(handles_.begin());
        }
        close();
    }
}

}  // namespace ipcbus::client
