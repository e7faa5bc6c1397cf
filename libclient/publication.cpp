// SPDX-License-Identifier: Apache-2.0
// The control side of a Publisher: getting a ring, taking membership in, noticing a lost daemon and
// going on under another. Publishing is in publisher.cpp.
// take_in: tests/model/join.pml. advertise, move: tests/model/succession.pml.
#include "bridge.hpp"
#include "error_text.hpp"
#include "protocol/topic.hpp"
#include "publisher.hpp"
#include "subscriber.hpp"
#include "sys/room.hpp"

#include <sys/random.h>

#include <algorithm>

namespace ipcbus::client {

using protocol::RingPublisher;
using sys::fail;
using sys::Result;

namespace {

/// A publisher that nobody stops for notices a lost daemon by looking at its socket: every so many
/// publishes, and at once when readers were asleep or missing, which is when publishes are rare or
/// nobody is there to be slowed down.
constexpr u32 kPublishesPerLook = 64;
constexpr i64 kLookNs = 100'000'000;
/// Readers look at their connection ten times a second, if they are awake or woken.
constexpr i64 kMoveNs = 400'000'000;
/// wait_subscribers: rings that bring nothing, before it naps.
constexpr u32 kRoundsPerNap = 16;
constexpr i64 kNapNs = 1'000'000;

}  // namespace

Publisher::Publisher(Bus& bus, std::string topic, const PublisherOptions& options)
    : bus_(bus),
      topic_(std::move(topic)),
      filter_(protocol::has_wildcards(topic_)),
      options_(options) {}

Result<std::unique_ptr<Publisher>> Publisher::create(Bus& bus, const std::string& topic,
                                                     const PublisherOptions& options) {
    if (const char* fault = protocol::filter_fault(topic); *fault != '\0') {
        return fail(EINVAL, "the topic '" + topic + "' cannot be published: " + fault);
    }
    std::unique_ptr<Publisher> publisher(new Publisher(bus, topic, options));
    if (::getrandom(publisher->lineage_.data(), publisher->lineage_.size(), 0) !=
        static_cast<ssize_t>(publisher->lineage_.size())) {
        return sys::fail_errno("getrandom");
    }
    IPCBUS_TRY(bus.require_connection());
    IPCBUS_TRY(publisher->advertise());
    return publisher;
}

Result<std::unique_ptr<Publisher>> Publisher::create_requests(Bus& bus, const std::string& topic,
                                                              const PublisherOptions& options,
                                                              const RequestsOptions& requests) {
    std::unique_ptr<Publisher> publisher(new Publisher(bus, topic, options));
    publisher->lineage_ = requests.lineage;
    publisher->requests_ = requests;
    IPCBUS_TRY(bus.require_connection());
    IPCBUS_TRY(publisher->advertise());
    return publisher;
}

Result<std::unique_ptr<Publisher>> Publisher::create_replies(Bus& bus, const std::string& topic,
                                                             const RepliesOptions& replies) {
    std::unique_ptr<Publisher> publisher(new Publisher(bus, topic, {}));
    publisher->replies_ = replies;
    IPCBUS_TRY(publisher->advertise());
    return publisher;
}

/// ADVERTISE, as far as it is known before there is a waiter.
Result<protocol::Advertise> Publisher::request() const {
    protocol::Advertise request;
    request.topic = topic_;
    request.ring_bytes = options_.ring_bytes;
    request.lineage = lineage_;
    request.first_sequence = ring_ == nullptr ? 1 : ring_->writer().sequence();
    if (const u64 bytes = options_.message_bytes_max; bytes != 0) {
        const u64 topic_bytes = filter_    ? protocol::kTopicBytesMax
                                : headed() ? protocol::kHeadBytes
                                           : 0;
        if (bytes > protocol::payload_bytes_max(protocol::kRingBytesMax)) {
            return fail(EMSGSIZE,
                        "no ring can hold messages of " + std::to_string(bytes) + " bytes");
        }
        request.record_bytes_max = static_cast<u32>(protocol::record_bytes(topic_bytes, bytes));
    }
    return request;
}

/// What has been got from a daemon for the next ring, and goes back to it unless it is kept: also
/// when memory runs out before it is of use.
class Publisher::Tentative {
public:
    Tentative(Publisher& publisher, Home& home) : publisher_(publisher), home_(home) {}
    ~Tentative() {
        if (kept_) {
            return;
        }
        Bus& bus = publisher_.bus_;
        if (home_.publication != 0) {
            bus.request_unheard(home_.link, protocol::Unadvertise{home_.publication});
        }
        const Bus::Lock guard = bus.lock();
        if (home_.publication != 0) {
            bus.forget_publication(home_.publication, *home_.link, guard);
            std::erase_if(publisher_.inbox_, [this](const Delivery& delivery) {
                return delivery.members.publication == home_.publication;
            });
        }
        if (publisher_.give_back_waiter()) {
            home_.link->give_waiter(home_.waiter);
        }
    }
    Tentative(const Tentative&) = delete;
    Tentative& operator=(const Tentative&) = delete;
    void keep() { kept_ = true; }

private:
    Publisher& publisher_;
    Home& home_;
    bool kept_ = false;
};

/// Gets a ring from the present daemon. A ring that is there already is closed: its readers drain
/// it and find its successor by its lineage.
Result<void> Publisher::advertise() {
    protocol::Advertise request = IPCBUS_TRY(this->request());
    Home home;
    u64 generation = 0;
    {
        const Bus::Lock guard = bus_.lock();
        generation = bus_.generation();
        home.link = bus_.link(guard);
        if (replies_ && replies_->link != home.link) {
            return fail(ESHUTDOWN, "the connection through which the request came is lost");
        }
        if (headed() && home.link->welcome().protocol_minor < protocol::kMinorRequests) {
            return fail(EPROTONOSUPPORT,
                        "this bus is of an older version and knows no requests: update ipcbusd");
        }
        home.waiter = replies_ ? replies_->waiter : IPCBUS_TRY(home.link->take_waiter());
    }
    Tentative tentative(*this, home);
    request.waiter = home.waiter;
    const protocol::Advertised granted = IPCBUS_TRY(ask_for_ring(request, home));
    std::unique_ptr<RingPublisher> next = make_ring(granted, home);
    tentative.keep();
    if (ring_ != nullptr) {
        ring_->close();
    }
    const Bus::Lock guard = bus_.lock();
    ring_ = std::move(next);
    publishes_until_look_ = 0;
    plain_bytes_ = 0;  // of the ring before
    peers_.clear();
    home_ = std::move(home);
    generation_ = generation;
    leaving_ = false;
    revoked_.clear();
    if (requests_) {
        requests_->audience->moved();
    }
    home_.link->send(protocol::Mapped{home_.publication}, Link::next_request());
    return {};
}

Result<protocol::Advertised> Publisher::ask_for_ring(const protocol::Advertise& request,
                                                     Home& home) {
    if (requests_) {
        return obtain(protocol::Ask{request, requests_->reply_ring_bytes}, home);
    }
    if (replies_) {
        return obtain(protocol::Respond{replies_->attachment, home.waiter, replies_->sequence},
                      home);
    }
    return obtain(request, home);
}

/// Asks for the ring and maps it into `home`, which has its number as soon as it is granted.
template <class Request>
Result<protocol::Advertised> Publisher::obtain(const Request& request, Home& home) {
    const Answer answer = IPCBUS_TRY(bus_.request(home.link, request, this));
    protocol::Advertised granted;
    if (answer.type != protocol::FrameType::advertised ||
        !protocol::decode(std::span<const std::byte>(answer.fields), granted) ||
        granted.ring_bytes > protocol::kRingBytesMax ||
        granted.record_bytes_max > protocol::record_bytes_max(granted.ring_bytes) ||
        granted.index >= home.link->welcome().geometry.publications_max) {
        return fail(EPROTO, "the daemon's answer to ADVERTISE cannot be true");
    }
    home.publication = granted.publication;
    home.index = granted.index;
    home.memory = IPCBUS_TRY(sys::map_ring(answer.fd.get(), protocol::kRingDataOffset,
                                           granted.ring_bytes, sys::Access::read_write));
    return granted;
}

std::unique_ptr<RingPublisher> Publisher::make_ring(const protocol::Advertised& granted,
                                                    const Home& home) {
    const protocol::WritableRing ring{reinterpret_cast<protocol::RingHeader*>(home.memory.header()),
                                      home.memory.data(), granted.ring_bytes};
    const RingPublisher::Words words{
        &home.link->mailbox(home.index), &home.link->publication(home.index),
        &home.link->waiter(home.waiter).bell, &home.link->asleep(home.waiter)};
    protocol::Control& control = *this;
    auto made = std::make_unique<RingPublisher>(
        protocol::RingWriter(ring, granted.start, granted.first_sequence, granted.record_bytes_max),
        words, static_cast<i64>(home.link->welcome().stall_timeout_ns), control);
    if (requests_ && !home.link->bridged()) {
        made->readers().set_addressed();  // else the bridge reads all of it
    }
    return made;
}

Publisher::~Publisher() {
    if (bus_.in_child()) {
        return;
    }
    if (claimed_) {
        (void)abort();
    }
    if (ring_ != nullptr) {
        ring_->close();
    }
    {
        const Bus::Lock guard = bus_.lock();
        bus_.forget(this, guard);
    }
    if (ring_ != nullptr && generation_ == bus_.generation() && !bus_.lost()) {
        try {
            (void)bus_.request(home_.link, protocol::Unadvertise{home_.publication});
        } catch (const std::exception&) {
            bus_.request_unheard(home_.link, protocol::Unadvertise{home_.publication});
        }
    }
    if (home_.link != nullptr && give_back_waiter()) {
        const Bus::Lock guard = bus_.lock();
        home_.link->give_waiter(home_.waiter);
    }
}

// -------------------------------------------------------------------------------- membership

void Publisher::frame(Link& link, const protocol::FrameHeader& header,
                      std::span<const std::byte> fields) {
    Delivery delivery;
    if (header.type == protocol::FrameType::refused) {
        if (requests_ && protocol::decode(fields, delivery.refused) &&
            delivery.refused.code != 0) {
            inbox_.push_back(std::move(delivery));
            failures_.store(true, std::memory_order_relaxed);  // a hint; wake() has the order
        }
        return;
    }
    if (header.type == protocol::FrameType::move || header.type == protocol::FrameType::revoked) {
        if (header.type == protocol::FrameType::move
                ? protocol::decode(fields, delivery.move)
                : protocol::decode(fields, delivery.revoked)) {
            inbox_.push_back(std::move(delivery));
            failures_.store(true, std::memory_order_relaxed);  // as above
        }
        return;
    }
    if (header.type == protocol::FrameType::overtaken) {
        if (requests_ && protocol::decode(fields, delivery.overtaken)) {
            inbox_.push_back(std::move(delivery));
            failures_.store(true, std::memory_order_relaxed);  // as above
        }
        return;
    }
    if (!protocol::decode(fields, delivery.members)) {
        return;
    }
    for (const protocol::Member& member : delivery.members.attach) {
        delivery.peers.push_back(link.peer(member.peer));
    }
    inbox_.push_back(std::move(delivery));
}

void Publisher::wake() {
    if (requests_) {
        requests_->replies->wake();  // its requester waits there
    }
    if (home_.link == nullptr) {
        return;
    }
    protocol::full_fence();
    if ((home_.link->asleep(home_.waiter).load(std::memory_order_relaxed) & 1) != 0) {
        protocol::ring_bell(home_.link->waiter(home_.waiter).bell);
    }
}

/// Under the lock. MEMBERS of the present ring into its ReaderTable.
protocol::Control::Heard Publisher::take_in(u64 number) {
    Bus::Lock guard = bus_.lock();
    for (;;) {
        take_in_inbox();
        if (protocol::distance(ring_->taken(), number) >= 0) {
            return Heard::something;
        }
        if (!bus_.wait_for_frames(guard, home_.link, -1) && inbox_.empty()) {
            return Heard::hung_up;
        }
    }
}

/// Under the lock.
void Publisher::take_in_inbox() {
    for (const Delivery& delivery : inbox_) {
        if (const protocol::Refused& refused = delivery.refused;
            refused.code != 0 && refused.publication == home_.publication) {
            requests_->audience->refused(refused);
        }
        if (const u64 moved = delivery.move.publication;
            moved != 0 && moved == home_.publication) {
            leaving_ = true;
            publishes_until_look_ = 0;
        }
        if (const u64 ended = delivery.revoked.publication;
            ended != 0 && ended == home_.publication) {
            revoked_ = delivery.revoked.text;
            publishes_until_look_ = 0;
        }
        if (const protocol::Overtaken& overtaken = delivery.overtaken;
            overtaken.publication != 0 && overtaken.publication == home_.publication) {
            requests_->audience->overtaken(overtaken.attachment, overtaken.from, overtaken.to);
        }
        if (delivery.members.publication != home_.publication) {
            continue;  // of a ring that we have left
        }
        for (const u64 attachment : delivery.members.detach) {
            remove_reader(attachment);
        }
        for (std::size_t i = 0; i < delivery.peers.size(); i++) {
            add_reader(delivery.members.attach[i], delivery.peers[i]);
        }
        ring_->set_taken(delivery.members.number);
    }
    std::vector<Delivery>().swap(inbox_);  // and its room, which grows with the readers
    failures_.store(false, std::memory_order_relaxed);  // under the lock, as all that is stored
}

int Publisher::settle() {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (publishes_until_look_ == 0) {
        if (const int error = look_if_due(); error != 0) {
            return error;
        }
    }
    // [M1] acquire: pairs with [J1]. Before the publish instead of behind it.
    const u64 number = ring_->words().mailbox->attention.load(std::memory_order_acquire);
    if (number != ring_->taken()) {
        (void)take_in(number);  // hung up: the audience is the one that there was
    }
    return 0;
}

bool Publisher::attend() {
    // [M1] acquire: as above; what is not here yet is heard of later.
    if (ring_->words().mailbox->attention.load(std::memory_order_acquire) != ring_->taken() ||
        failures_.load(std::memory_order_relaxed)) {
        const Bus::Lock guard = bus_.lock();
        take_in_inbox();
    }
    if (generation_ == bus_.generation()) {
        return false;
    }
    look_at_daemon();
    return generation_ != bus_.generation();
}

void Publisher::add_reader(const protocol::Member& member, const sys::Ref<PeerPages>& pages) {
    if (!pages || !pages->has_cursor() || !pages->has_doorbell() ||
        member.slot >= pages->geometry().attachments_max) {
        return;  // its pages could not be mapped: it can be neither heard nor rung
    }
    if (!ring_->readers().knows(pages->waiters())) {
        sys::make_room(peers_);
        peers_.push_back(pages);
    }
    if (requests_ && member.attachment != home_.publication) {
        requests_->audience->joined(
            home_.link, member.attachment,
            member.peer == home_.link->welcome().client || member.peer == kBridgeClient);
        if (member.peer == kBridgeClient) {
            return;  // the bridge reads for all of them
        }
    }
    ring_->readers().add(protocol::ReaderEntry{
        member.attachment, pages->slot(member.slot), &pages->waiters(),
        member.slot % protocol::kActivityBits, member.start, member.reliable != 0});
}

void Publisher::remove_reader(u64 attachment) {
    const protocol::PeerWaiters* const waiters = ring_->readers().remove(attachment);
    if (waiters != nullptr && !ring_->readers().knows(*waiters)) {
        std::erase_if(peers_, [waiters](const sys::Ref<PeerPages>& pages) {
            return &pages->waiters() == waiters;
        });
        sys::give_back_room(peers_);
    }
    if (requests_) {
        requests_->audience->left(attachment);
    }
}

protocol::Control::Heard Publisher::look() {
    bus_.hear();
    return bus_.lost() ? Heard::hung_up : Heard::something;
}

void Publisher::complain(const protocol::ReaderTable::Fault& fault) {
    const Bus::Lock guard = bus_.lock();
    home_.link->send(protocol::Complain{home_.publication, fault.attachment,
                                        static_cast<protocol::u8>(fault.complaint)},
                     Link::next_request());
}

void Publisher::overtaken(u64 attachment, u64 from, u64 to) {
    requests_->audience->overtaken(attachment, from, to);
}

bool Publisher::is_own(u64 attachment) {
    const Bus::Lock guard = bus_.lock();
    const auto* subscriber =
        dynamic_cast<Subscriber*>(bus_.reader_of(*home_.link, attachment, guard));
    return subscriber != nullptr && subscriber->used_by_this_thread();
}

// ------------------------------------------------------------------ the daemon, gone and back

void Publisher::look_at_daemon() {
    publishes_until_look_ = kPublishesPerLook;
    if (claimed_ || replies_) {
        return;  // the ring must stay where it is; or its reader is nowhere else
    }
    const i64 now_ns = sys::coarse_ns();
    if (now_ns - last_look_ns_ < kLookNs) {
        return;
    }
    last_look_ns_ = now_ns;
    bus_.hear();
    if (bus_.lost()) {
        (void)bus_.reconnect();
    }
    if (generation_ != bus_.generation() && !bus_.lost()) {
        move(now_ns);
    }
}

/// Somebody has lost the right to read what is published from now on, and has this ring. Without
/// another one nothing may be published.
int Publisher::leave_ring() {
    const std::shared_ptr<Link> link = home_.link;
    const u64 left = home_.publication;
    const u32 waiter = home_.waiter;
    if (auto moved = advertise(); !moved.ok()) {
        publishes_until_look_ = 0;
        return failed(moved.error().code, "a reader has lost its right, and there is no other "
                                          "ring to go on in: " +
                                              moved.error().what);
    }
    bus_.request_unheard(link, protocol::Unadvertise{left});
    const Bus::Lock guard = bus_.lock();
    bus_.forget_publication(left, *link, guard);
    link->give_waiter(waiter);
    return 0;
}

/// What the rules of the bus have changed; 0: nothing that keeps it from publishing.
int Publisher::heed_rules() {
    if (failures_.load(std::memory_order_relaxed)) {
        const Bus::Lock guard = bus_.lock();
        take_in_inbox();
    }
    if (!revoked_.empty()) {
        publishes_until_look_ = 0;
        return failed(EACCES, "may not be published any more: " + revoked_);
    }
    return leaving_ && !claimed_ && !bus_.lost() ? leave_ring() : 0;
}

/// Under another daemon: to a ring of its own, but not before the readers of the present one have
/// had time to come, too. The daemon then attaches them with the first record as their start, and
/// nobody misses anything; until then the present ring goes on.
void Publisher::move(i64 now_ns) {
    if (const u64 generation = bus_.generation(); moving_to_ != generation) {
        moving_to_ = generation;
        move_at_ns_ = now_ns + kMoveNs;
        ring_->call_readers();  // whoever sleeps looks at its connection when it is woken
    }
    if (now_ns >= move_at_ns_ || ring_->readers().size() == 0) {
        // A refusal (a quota, say) leaves us with the ring we have; the next look tries again.
        (void)advertise();
    }
}

int Publisher::wait_subscribers(u32 count, i64 timeout_ns) {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (claimed_) {
        return failed(EBUSY, "a claim is open: commit or abort it first");
    }
    const sys::Deadline deadline = sys::Deadline::after(timeout_ns);
    for (u32 rounds = 1;; rounds++) {
        look_at_daemon();
        if (bus_.closed()) {
            return failed(ESHUTDOWN, bus_.why_lost());
        }
        const i64 left_ns = deadline.remaining_ns();
        const sys::FutexWait ended = wait_for_members(count, left_ns);
        if (!bus_.lost() && generation_ == bus_.generation() && subscriber_count() >= count) {
            return 0;
        }
        if (ended == sys::FutexWait::interrupted) {
            return failed(EINTR, "interrupted by a signal");
        }
        if (left_ns == 0) {
            return failed(timeout_ns == 0 ? EAGAIN : ETIMEDOUT, "fewer subscribers than asked for");
        }
        if (ended == sys::FutexWait::woken && rounds % kRoundsPerNap == 0) {
            const std::atomic<u32> never{0};  // somebody may be ringing for sport
            (void)sys::futex_wait(never, 0, std::min(kNapNs, left_ns));
        }
    }
}

/// One wait for the daemon to tell of members: the order of [B1] to [B5] in ring_publisher.hpp.
sys::FutexWait Publisher::wait_for_members(u32 count, i64 timeout_ns) {
    const RingPublisher::Words& words = ring_->words();
    // [B1] acquire: before every look. Pairs with the daemon's ring.
    const u32 bell = words.bell->load(std::memory_order_acquire);
    // [B2] release: nothing depends on it but the fence. Odd is all that the daemon looks for.
    words.asleep->store(1, std::memory_order_release);
    protocol::full_fence();  // pairs with the daemon's, before it looks at `asleep`
    bus_.hear();
    sys::FutexWait ended = sys::FutexWait::value_changed;
    if (subscriber_count() < count && timeout_ns != 0) {
        ended = sys::futex_wait(*words.bell, bell, std::min(timeout_ns, kLookNs));
    }
    // [B6] release: a ring that still comes is in vain.
    words.asleep->store(0, std::memory_order_release);
    return ended;
}

}  // namespace ipcbus::client
