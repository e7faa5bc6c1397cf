// SPDX-License-Identifier: Apache-2.0
// The control side of a Subscriber: subscribing, being attached and detached, going on under
// another daemon. Receiving is in subscriber.cpp.
#include "subscriber.hpp"

#include "protocol/topic.hpp"
#include "set.hpp"
#include "sys/memfd.hpp"

namespace ipcbus::client {

using protocol::FrameHeader;
using protocol::FrameType;
using sys::fail;
using sys::Result;

namespace {

constexpr i64 kLookNs = 100'000'000;
/// How long a ring of a daemon that is no more is kept once it is empty: its publisher, if it
/// lives, closes it as soon as it has found the new daemon.
constexpr i64 kOrphanNs = 10'000'000'000;
/// Sequences remembered of rings that were closed, for their successors. Each entry is small; a
/// bus on which publishers come and go must not make it grow for ever.
constexpr std::size_t kExpectedMax = 1024;

protocol::ReadableRing readable(const sys::RingMapping& mapped, const protocol::Attached& told) {
    return {reinterpret_cast<const protocol::RingHeader*>(mapped.header()), mapped.data(),
            mapped.capacity(), told.record_bytes_max};
}

/// A ring as it must be: of a size that nobody can change any more, and written by nobody new.
Result<sys::RingMapping> map_sealed(int fd, u64 ring_bytes) {
    IPCBUS_TRY(sys::expect_seals(fd, sys::kSealsRing));
    return sys::map_ring(fd, protocol::kRingDataOffset, ring_bytes, sys::Access::read_only);
}

}  // namespace

Attached::Attached(const protocol::Attached& told, sys::RingMapping&& mapped,
                   std::shared_ptr<Link> on_link, std::shared_ptr<PeerPages> pages)
    : Attachment(readable(mapped, told), told.start, told.start_sequence,
                 Words{&on_link->slot(told.slot), pages->publication(told.index),
                       &pages->waiters()[told.waiter].bell,
                       told.slot % protocol::kActivityBits}),
      id(told.attachment),
      publication(told.publication),
      lineage{told.uid, told.lineage},
      filter(protocol::has_wildcards(told.topic)),
      lossy(told.mode != static_cast<protocol::u8>(protocol::ReaderMode::reliable)),
      latest(told.mode == static_cast<protocol::u8>(protocol::ReaderMode::latest)),
      topic(told.topic),
      ring(std::move(mapped)),
      link(std::move(on_link)),
      writer(std::move(pages)) {}

Subscriber::Subscriber(Bus& bus, std::string filter, const SubscriberOptions& options)
    : bus_(bus), filter_(std::move(filter)), options_(options), spin_(options.spin_ns) {}

Result<std::unique_ptr<Subscriber>> Subscriber::create(Bus& bus, const std::string& filter,
                                                       const SubscriberOptions& options) {
    if (const char* fault = protocol::filter_fault(filter); *fault != '\0') {
        return fail(EINVAL, "the filter '" + filter + "' cannot be subscribed to: " + fault);
    }
    std::unique_ptr<Subscriber> subscriber(new Subscriber(bus, filter, options));
    subscriber->note_thread();
    IPCBUS_TRY(bus.require_connection());
    IPCBUS_TRY(subscriber->subscribe());
    return subscriber;
}

/// The own waiter moves to the pages of `link`. Under the control lock.
Result<void> Subscriber::move_to(const std::shared_ptr<Link>& link) {
    const u32 number = IPCBUS_TRY(link->take_waiter());
    const protocol::Waiter::Words words{&link->waiter(number), &link->asleep(number), number};
    if (waiter_ == nullptr) {
        waiter_ = std::make_unique<protocol::Waiter>(words);
        waiter_->add(source_);
    } else {
        waiter_->rebind(words);
    }
    waiter_number_ = number;
    link_ = link;
    if (set_ == nullptr) {
        ring_at(*link, number);
    }
    return {};
}

/// Subscribes with the present daemon.
Result<void> Subscriber::subscribe() {
    {
        const Bus::Lock guard = bus_.lock();
        const u64 generation = bus_.generation();
        if (const std::shared_ptr<Link> link = bus_.link(guard); link != link_) {
            IPCBUS_TRY(move_to(link));
        }
        inbox_.clear();
        generation_ = generation;
        subscription_ = 0;
        // acquire: pairs with the daemon's count after each send; later frames are heard later.
        frames_seen_ = link_->frames().load(std::memory_order_acquire);
    }
    const Answer answer = IPCBUS_TRY(bus_.request(
        link_, protocol::Subscribe{filter_, static_cast<protocol::u8>(options_.mode)}, this));
    protocol::Subscribed subscribed;
    if (answer.type != FrameType::subscribed ||
        !protocol::decode(std::span<const std::byte>(answer.fields), subscribed)) {
        return fail(EPROTO, "the daemon's answer to SUBSCRIBE cannot be true");
    }
    subscription_ = subscribed.subscription;
    take_inbox();  // the attachments that came with the answer
    return {};
}

void Subscriber::resubscribe() {
    const i64 now_ns = sys::monotonic_ns();
    for (const auto* attachments : {&attachments_, &held_}) {
        for (const auto& attached : *attachments) {
            attached->orphaned_ns = attached->orphaned_ns == 0 ? now_ns : attached->orphaned_ns;
        }
    }
    // A refusal leaves us with the rings we have; the next look at the connection tries again.
    if (!subscribe().ok()) {
        generation_ = 0;
    }
}

Subscriber::~Subscriber() {
    if (bus_.in_child()) {
        return;
    }
    if (set_ != nullptr) {
        set_->remove(*this);
    }
    {
        const Bus::Lock guard = bus_.lock();
        bus_.forget(this, guard);
        for (const Delivery& delivery : inbox_) {
            bus_.unroute_attachment(delivery.attached.attachment);
        }
    }
    for (const auto& attached : attachments_) {
        waiter_->detach(*attached);
        attached->clear_slot();
    }
    if (subscription_ != 0 && generation_ == bus_.generation() && !bus_.lost()) {
        try {
            (void)bus_.request(link_, protocol::Unsubscribe{subscription_});
        } catch (const std::exception&) {
            // out of memory: the daemon learns it when the connection ends
        }
    }
    if (waiter_ != nullptr) {
        waiter_->remove(source_);
        const Bus::Lock guard = bus_.lock();
        link_->give_waiter(waiter_number_);
    }
}

// ------------------------------------------------------------------------------ frames, stored

void Subscriber::frame(Link& link, const FrameHeader& header, std::span<const std::byte> fields) {
    Delivery delivery;
    if (header.type == FrameType::attached) {
        const sys::UniqueFd fd = link.take_fd();
        protocol::Attached& told = delivery.attached;
        if (!protocol::decode(fields, told) || told.ring_bytes > protocol::kRingBytesMax ||
            told.slot >= link.welcome().geometry.attachments_max) {
            return;
        }
        Result<sys::RingMapping> ring = map_sealed(fd.get(), told.ring_bytes);
        if (ring.ok() && reinterpret_cast<const protocol::RingHeader*>(ring.value().header())
                                 ->incompatible_flags != 0) {
            delivery.error = fail(EPROTONOSUPPORT, "its ring is of a newer version");
        } else if (ring.ok()) {
            delivery.ring = std::move(ring).value();
        } else {
            delivery.error = std::move(ring.error());
        }
        bus_.route_attachment(told.attachment, this);
    } else {
        protocol::Ended ended;
        if (!protocol::decode(fields, ended)) {
            return;
        }
        delivery.ended = ended.attachment;
        delivery.reason = ended.reason;
    }
    inbox_.push_back(std::move(delivery));
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

void Subscriber::take_inbox() {
    std::vector<Delivery> deliveries;
    {
        const Bus::Lock guard = bus_.lock();
        deliveries.swap(inbox_);
    }
    for (Delivery& delivery : deliveries) {
        if (delivery.ended == 0) {
            attach(delivery);
            continue;
        }
        end(delivery.ended, static_cast<protocol::EndReason>(delivery.reason));
    }
}

void Subscriber::end(u64 attachment, protocol::EndReason reason) {
    const auto is_it = [attachment](const auto& attached) { return attached->id == attachment; };
    if (const auto held = std::find_if(held_.begin(), held_.end(), is_it); held != held_.end()) {
        (*held)->ended = true;  // read to its end when its turn has come
        return;
    }
    const auto found = std::find_if(attachments_.begin(), attachments_.end(), is_it);
    if (found == attachments_.end()) {
        return;
    }
    Attached& attached = **found;
    attached.ended = true;
    waiter().activate(attached);  // it may have news that nobody rang for
    if (reason == protocol::EndReason::detached && loan_ != &attached) {
        let_go(attached);
    }
}

void Subscriber::attach(Delivery& delivery) {
    const protocol::Attached& told = delivery.attached;
    std::shared_ptr<PeerPages> pages;
    {
        const Bus::Lock guard = bus_.lock();
        pages = link_->peer(told.peer);
        if (!delivery.ring.valid() || pages == nullptr || !pages->has_doorbell() ||
            told.index >= pages->geometry().publications_max ||
            told.waiter >= pages->geometry().waiters_max ||
            told.record_bytes_max > protocol::record_bytes_max(told.ring_bytes)) {
            // The slot still is zero.
            const int code = delivery.error.code != 0 ? delivery.error.code : ENOMEM;
            untold_.result = -code;
            untold_.text = "cannot attach to '" + told.topic + "': " +
                           (delivery.error.what.empty()
                                ? std::string("its publisher's pages cannot be mapped")
                                : delivery.error.what);
            bus_.unroute_attachment(told.attachment);
            link_->send(protocol::Detached{told.attachment}, Link::next_request());
            return;
        }
    }
    auto attached =
        std::make_unique<Attached>(told, std::move(delivery.ring), link_, std::move(pages));
    // A publication's rings are read one after the other: each ends, closed or given up.
    const auto before = [&](const auto& other) { return other->lineage == attached->lineage; };
    if (std::any_of(attachments_.begin(), attachments_.end(), before) ||
        std::any_of(held_.begin(), held_.end(), before)) {
        held_.push_back(std::move(attached));
    } else {
        admit(std::move(attached));
    }
}

/// Reads it from now on. What lies between the ring before it and this one is lost.
void Subscriber::admit(std::unique_ptr<Attached> attached) {
    if (const auto known = expected_.find(attached->lineage); known != expected_.end()) {
        const i64 missing = protocol::distance(attached->reader().expected(), known->second);
        attached->lost_before_start = missing > 0 ? static_cast<u64>(missing) : 0;
        expected_.erase(known);
    }
    waiter().attach(source_, *attached);
    attachments_.push_back(std::move(attached));
}

/// Ends an attachment: its ring is drained, or no more to be read.
void Subscriber::let_go(Attached& attached) {
    const Lineage lineage = attached.lineage;
    if (expected_.size() >= kExpectedMax) {
        expected_.erase(expected_.begin());
    }
    u64& expected = expected_.try_emplace(lineage, attached.reader().expected()).first->second;
    if (protocol::distance(attached.reader().expected(), expected) > 0) {
        expected = attached.reader().expected();
    }
    waiter().detach(attached);
    attached.clear_slot();
    {
        const Bus::Lock guard = bus_.lock();
        bus_.unroute_attachment(attached.id);
        attached.ring.reset();
        if (attached.link == link_ && !bus_.lost()) {
            link_->send(protocol::Detached{attached.id}, Link::next_request());
        }
    }
    std::erase_if(attachments_, [&](const auto& other) { return other.get() == &attached; });
    for (std::size_t i = 0; i < held_.size(); i++) {
        if (held_[i]->lineage == lineage) {
            std::unique_ptr<Attached> successor = std::move(held_[i]);
            held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(i));
            admit(std::move(successor));
            break;
        }
    }
}

void Subscriber::drop_orphans(i64 now_ns) {
    for (std::size_t i = attachments_.size(); i-- != 0;) {
        Attached& attached = *attachments_[i];
        if (attached.orphaned_ns != 0 && now_ns - attached.orphaned_ns > kOrphanNs &&
            loan_ != &attached && !attached.reader().news()) {
            let_go(attached);
            // Perhaps in the middle of going to sleep: what took its place is to be looked at.
            news_.store(true, std::memory_order_relaxed);
        }
    }
}

}  // namespace ipcbus::client
