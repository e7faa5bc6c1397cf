// SPDX-License-Identifier: Apache-2.0
// The control side of a Subscriber: subscribing, what the daemon's frames bring, going on under
// another daemon. What becomes of each attachment is in attached.cpp, receiving in subscriber.cpp.
#include "subscriber.hpp"

#include "protocol/topic.hpp"
#include "set.hpp"
#include "sys/room.hpp"

#include <algorithm>
#include <csignal>
#include <cstring>

namespace ipcbus::client {

using protocol::FrameHeader;
using protocol::FrameType;
using sys::fail;
using sys::Result;

namespace {

constexpr i64 kLookNs = 100'000'000;

}  // namespace

Subscriber::Subscriber(Bus& bus, std::string filter, const SubscriberOptions& options)
    : bus_(bus),
      filter_(std::move(filter)),
      mode_(options.mode),
      // Of the latest: what is older would be passed over at once, and counted as lost.
      history_(mode_ == protocol::ReaderMode::latest ? std::min<u64>(options.history, 1)
                                                     : options.history),
      patience_(options.spin_ns) {}

Result<std::unique_ptr<Subscriber>> Subscriber::create(Bus& bus, const std::string& filter,
                                                       const SubscriberOptions& options) {
    if (const char* fault = protocol::filter_fault(filter); *fault != '\0') {
        return fail(EINVAL, "the filter '" + filter + "' cannot be subscribed to: " + fault);
    }
    std::unique_ptr<Subscriber> subscriber(new Subscriber(bus, filter, options));
    subscriber->note_thread();
    IPCBUS_TRY(bus.require_connection());
    IPCBUS_TRY(subscriber->subscribe(subscriber->history_));
    return subscriber;
}

/// Its thread is who has received from it: a handle may be made for another one, and that one be
/// asked before it has come to receive.
Result<std::unique_ptr<Subscriber>> Subscriber::create_headed(Bus& bus, const std::string& filter,
                                                              const SubscriberOptions& options,
                                                              const HeadedOptions& headed) {
    std::unique_ptr<Subscriber> subscriber(new Subscriber(bus, filter, options));
    subscriber->headed_ = headed;
    subscriber->source_.headed = true;
    IPCBUS_TRY(bus.require_connection());
    IPCBUS_TRY(subscriber->subscribe(0));
    return subscriber;
}

/// What stands for SUBSCRIBE, and its answer.
Result<Answer> Subscriber::ask_headed() {
    if (link_->welcome().protocol_minor < protocol::kMinorRequests) {
        return fail(EPROTONOSUPPORT,
                    "this bus is of an older version and knows no requests: update ipcbusd");
    }
    if (headed_->replies) {
        return bus_.request(link_, protocol::Collect{headed_->lineage}, this);
    }
    return bus_.request(link_, protocol::Serve{filter_}, this);
}

/// The own waiter moves to the pages of `link`. Under the control lock.
Result<void> Subscriber::move_to(const std::shared_ptr<Link>& link) {
    const u32 number = IPCBUS_TRY(link->take_waiter());
    Link::TakenWaiter taken(*link, number);
    const protocol::Waiter::Words words{&link->waiter(number), &link->asleep(number), number};
    if (waiter_ == nullptr) {
        auto made = std::make_unique<protocol::Waiter>(words);
        made->add(source_);
        waiter_ = std::move(made);
    } else {
        if (readiness_ != nullptr) {
            readiness_->let_go();
        }
        waiter_->rebind(words);
    }
    taken.keep();
    waiter_number_ = number;
    link_ = link;
    if (set_ == nullptr) {
        ring_at(*link, number);
    }
    return {};
}

Result<Answer> Subscriber::ask_for(u64 history) {
    const auto mode = static_cast<protocol::u8>(mode_);
    if (history == 0) {
        return bus_.request(link_, protocol::Subscribe{filter_, mode}, this);
    }
    if (link_->welcome().protocol_minor < protocol::kMinorHistory) {
        return fail(EPROTONOSUPPORT, "this daemon knows no history: it is older than the library");
    }
    return bus_.request(link_, protocol::SubscribeFrom{filter_, mode, history}, this);
}

/// Subscribes with the present daemon.
Result<void> Subscriber::subscribe(u64 history) {
    u64 generation = 0;
    generation_ = 0;  // until the daemon has agreed
    {
        const Bus::Lock guard = bus_.lock();
        generation = bus_.generation();
        unroute(inbox_, guard);
        inbox_.clear();
        unroute(taken_, guard);
        taken_.clear();
        applied_ = 0;
        if (const std::shared_ptr<Link> link = bus_.link(guard); link != link_) {
            IPCBUS_TRY(move_to(link));
        }
        subscription_ = 0;
        caught_up_ = history == 0;
        // acquire: pairs with the daemon's count after each send; later frames are heard later.
        frames_seen_ = link_->frames().load(std::memory_order_acquire);
    }
    const Answer answer = IPCBUS_TRY(headed_ ? ask_headed() : ask_for(history));
    protocol::Subscribed subscribed;
    if (answer.type != FrameType::subscribed ||
        !protocol::decode(std::span<const std::byte>(answer.fields), subscribed)) {
        return fail(EPROTO, "the daemon's answer to SUBSCRIBE cannot be true");
    }
    subscription_ = subscribed.subscription;
    generation_ = generation;
    IPCBUS_TRY(await_history());
    take_inbox();  // the attachments that came with the answer
    return {};
}

/// Whoever asks for what was published before expects it to be there when it has subscribed. Only
/// the daemon is waited for; that of another host as long as anything comes from it.
Result<void> Subscriber::await_history() {
    Bus::Lock guard = bus_.lock();
    sys::Deadline deadline = sys::Deadline::after(Bus::kAnswerTimeoutNs);
    u64 frames = frames_seen_;
    bool connected = true;
    while (!caught_up_) {
        if (!connected) {
            return fail(ESHUTDOWN, bus_.why_lost(guard));
        }
        if (deadline.passed()) {
            return fail(ETIMEDOUT, "the daemon has not told in time of all there is to read");
        }
        connected = bus_.wait_for_frames(guard, link_, Bus::kAnswerSliceNs);
        // relaxed: only whether it is another
        if (const u64 now = link_->frames().load(std::memory_order_relaxed);
            std::exchange(frames, now) != now) {
            deadline = sys::Deadline::after(Bus::kAnswerTimeoutNs);
        }
    }
    return {};
}

void Subscriber::resubscribe() {
    sys::make_room(orphaned_links_);  // out of memory: before anything has changed
    const std::size_t orphans_before = orphans_;
    const auto orphan = [this](Attached& attached) {
        orphans_ += attached.orphaned ? 0 : 1;
        attached.orphaned = true;
    };
    for (protocol::Attachment* attachment : source_.attachments()) {
        orphan(static_cast<Attached&>(*attachment));
    }
    for (const auto& attached : held_) {
        orphan(*attached);
    }
    if (orphans_ != orphans_before) {
        orphaned_links_.emplace_back(link_.get(), sys::monotonic_ns());
    }
    // A refusal leaves us with the rings we have; the next look at the connection tries again.
    // No history: what this subscription has read would come again.
    (void)subscribe(0);
}

Subscriber::~Subscriber() {
    if (!bus_.in_child()) {
        leave();
    }
    for (protocol::Attachment* attachment : source_.attachments()) {
        delete static_cast<Attached*>(attachment);
    }
}

/// Unsubscribes, and gives back what is in the client's pages.
void Subscriber::leave() {
    if (set_ != nullptr) {
        set_->remove(*this);
    }
    readiness_.reset();  // before its bell goes
    {
        const Bus::Lock guard = bus_.lock();
        bus_.forget(this, guard);
    }
    if (waiter_ != nullptr) {
        waiter_->remove(source_);  // before the slots are cleared: it unparks
    }
    for (protocol::Attachment* attachment : source_.attachments()) {
        attachment->clear_slot();
    }
    if (subscription_ != 0 && generation_ == bus_.generation() && !bus_.lost()) {
        try {
            (void)bus_.request(link_, protocol::Unsubscribe{subscription_});
        } catch (const std::exception&) {
            bus_.request_unheard(link_, protocol::Unsubscribe{subscription_});
        }
    }
    if (waiter_ != nullptr) {
        const Bus::Lock guard = bus_.lock();
        link_->give_waiter(waiter_number_);
    }
}

int Subscriber::fd() {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (set_ != nullptr) {
        return failed(EBUSY, "the subscriber is in a set: ask for the set's descriptor");
    }
    if (readiness_ == nullptr) {
        auto made = Readiness::create();
        if (!made.ok()) {
            return failed(made.error());
        }
        readiness_ = std::move(made).value();
    }
    return readiness_->fd();
}

int Subscriber::notify(int signal, void* value) {
    // Some below SIGRTMIN are the C library's own.
    const bool known = signal == 0 || ::sigabbrev_np(signal) != nullptr || signal >= SIGRTMIN;
    if (!known || signal < 0 || signal > SIGRTMAX || signal == SIGKILL || signal == SIGSTOP) {
        return failed(EINVAL, "there is no such signal, or none that a program can wait for");
    }
    if (const int descriptor = fd(); descriptor < 0) {
        return descriptor;
    }
    disarm();
    const Result<void> done = readiness_->notify(signal, value);
    return done.ok() ? 0 : failed(done.error());
}

void Subscriber::rest() {
    rests_ = true;
    if (set_ != nullptr) {
        set_->rest();
    } else if (readiness_ != nullptr) {
        readiness_->rest(waiter());
    }
}

void Subscriber::disarm() {
    if (set_ != nullptr) {
        set_->disarm();
    } else if (readiness_ != nullptr) {
        readiness_->disarm(waiter());
    }
}

// ------------------------------------------------------------------------------ frames, stored

void Subscriber::frame(Link& link, const FrameHeader& header, std::span<const std::byte> fields) {
    if (header.type == FrameType::caught_up) {
        caught_up_ = true;
        return;
    }
    sys::make_room(inbox_);
    Delivery delivery;
    if (header.type == FrameType::attached) {
        if (!receive_attached(link, fields, delivery)) {
            return;
        }
    } else {
        protocol::Ended ended;
        if (!protocol::decode(fields, ended)) {
            return;
        }
        delivery.ended = ended.attachment;
        delivery.link = &link;
        delivery.reason = ended.reason;
    }
    inbox_.push_back(std::move(delivery));
}

/// False: the frame cannot be true.
bool Subscriber::receive_attached(Link& link, std::span<const std::byte> fields,
                                  Delivery& ret_delivery) {
    const sys::UniqueFd fd = link.take_fd();
    protocol::Attached told;
    if (!protocol::decode(fields, told) || told.ring_bytes > protocol::kRingBytesMax ||
        told.slot >= link.welcome().geometry.attachments_max) {
        return false;
    }
    Result<CountedRing> ring =
        link.rings().take(link.shared_from_this(), told, fd.get(), link.peer(told.peer));
    if (!ring.ok()) {
        // The slot still is zero.
        ret_delivery.code = ring.error().code;
        ret_delivery.fault = "cannot attach to '" + told.topic + "': " + ring.error().what;
        link.send(protocol::Detached{told.attachment}, Link::next_request());
        return true;
    }
    ret_delivery.attached = std::make_unique<Attached>(told, std::move(ring).value(), source_);
    bus_.route_attachment(*ret_delivery.attached);
    return true;
}

void Subscriber::ring_at(Link& link, u32 waiter) {
    bell_ = &link.waiter(waiter).bell;
    asleep_ = &link.asleep(waiter);
}

void Subscriber::wake() {
    // release: what was stored. Pairs with the acquire in look(), after [S5].
    news_.store(true, std::memory_order_release);
    protocol::full_fence();
    if (asleep_ != nullptr && (asleep_->load(std::memory_order_relaxed) & 1) != 0) {
        protocol::ring_bell(*bell_);
    }
}

// ----------------------------------------------------------------------------- frames, applied

bool Subscriber::look() {
    if (sys::coarse_ns() - last_look_ns_ >= kLookNs) {
        look_at_connection();
    }
    // acquire: pairs with wake(), and with the daemon's store before it rings.
    return link_->frames().load(std::memory_order_acquire) != frames_seen_ ||
           news_.load(std::memory_order_acquire);
}

/// Notices a daemon that has gone, and one that has come. Some system calls: rarely.
void Subscriber::look_at_connection() {
    const i64 now_ns = sys::coarse_ns();
    if (now_ns - last_look_ns_ < kLookNs) {
        return;
    }
    last_look_ns_ = now_ns;
    bus_.hear();
    if (bus_.lost() && !bus_.reconnect()) {
        waiter().limit_slice(kLookNs);
    }
    drop_orphans(sys::monotonic_ns());
    if (generation_ != bus_.generation()) {
        news_.store(true, std::memory_order_relaxed);  // own thread: attend() comes next
    }
}

void Subscriber::hear_control() {
    // acquire: the frames that it counts have been sent. Before they are read, so that one that
    // comes in between is looked for again.
    if (const u64 frames = link_->frames().load(std::memory_order_acquire);
        frames != frames_seen_) {
        frames_seen_ = frames;
        waiter().fruitful();  // the daemon's frames, whoever they are for, are no fruitless wake
    }
    news_.store(false, std::memory_order_relaxed);
    protocol::full_fence();  // news_ is cleared before the inbox is read; pairs with wake()
    bus_.hear();
    if (bus_.lost() && !bus_.reconnect()) {
        waiter().limit_slice(kLookNs);
    }
    if (generation_ != bus_.generation() && !bus_.lost()) {
        take_inbox();  // what the last daemon told, before its successor is asked
        if (set_ != nullptr) {
            set_->rebind();
        }
        resubscribe();
    }
    take_inbox();
}

/// Out of memory it throws, and goes on the next time where it was.
void Subscriber::take_inbox() {
    while (applied_ != taken_.size() || take_deliveries()) {
        try {
            for (; applied_ != taken_.size(); applied_++) {
                apply(taken_[applied_]);
            }
        } catch (...) {
            news_.store(true, std::memory_order_relaxed);  // own thread: attend() comes again
            throw;
        }
    }
    std::vector<Delivery>().swap(taken_);
    applied_ = 0;
}

/// False: there are none.
bool Subscriber::take_deliveries() {
    taken_.clear();
    applied_ = 0;
    const Bus::Lock guard = bus_.lock();
    taken_.swap(inbox_);
    return !taken_.empty();
}

void Subscriber::apply(Delivery& delivery) {
    if (delivery.attached != nullptr) {
        attach(delivery.attached);
    } else if (delivery.ended != 0) {
        end(delivery.link, delivery.ended, static_cast<protocol::EndReason>(delivery.reason));
    } else {
        sys::make_room(untold_);
        Untold& untold = untold_.emplace_back();
        untold.result = -delivery.code;
        untold.text = std::move(delivery.fault);
    }
}

const Link& Subscriber::slept_on() const { return set_ != nullptr ? set_->link() : *link_; }

/// Of attachments that will not be read no frame is awaited.
void Subscriber::unroute(const std::vector<Delivery>& deliveries, const Bus::Lock&) {
    for (const Delivery& delivery : deliveries) {
        if (delivery.attached != nullptr) {
            bus_.unroute_attachment(*delivery.attached);
        }
    }
}

}  // namespace ipcbus::client
