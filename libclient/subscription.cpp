// SPDX-License-Identifier: Apache-2.0
// The control side of a Subscriber: subscribing, being attached and detached, going on under
// another daemon. Receiving is in subscriber.cpp.
#include "subscriber.hpp"

#include "protocol/topic.hpp"
#include "set.hpp"

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

}  // namespace

Attached::Attached(const protocol::Attached& told, sys::RingMapping&& mapped,
                   std::shared_ptr<Link> on_link, std::shared_ptr<PeerPages> pages)
    : Attachment(readable(mapped, told), told.start, told.start_sequence,
                 Words{&on_link->slot(told.slot), pages->publication(told.index),
                       &pages->waiters()[told.waiter].bell,
                       told.slot % protocol::kActivityBits}),
      id(told.attachment),
      publication(told.publication),
      lineage(told.lineage),
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
    const u64 generation = bus_.generation();
    {
        const Bus::Lock guard = bus_.lock();
        if (const std::shared_ptr<Link> link = bus_.link(guard); link != link_) {
            IPCBUS_TRY(move_to(link));
        }
        inbox_.clear();
        generation_ = generation;
        subscription_ = 0;
        frames_seen_ = link_->frames().load(std::memory_order_acquire);
    }
    const Answer answer = IPCBUS_TRY(bus_.request(
        protocol::Subscribe{filter_, static_cast<protocol::u8>(options_.mode)}, this));
    protocol::Subscribed subscribed;
    if (answer.type != FrameType::subscribed ||
        !protocol::decode(std::span<const std::byte>(answer.fields), subscribed)) {
        return fail(EPROTO, "the daemon's answer to SUBSCRIBE cannot be true");
    }
    subscription_ = subscribed.subscription;
    // relaxed: our own hint; the inbox is read under the lock.
    news_.store(true, std::memory_order_relaxed);
    return {};
}

void Subscriber::resubscribe() {
    const i64 now_ns = sys::monotonic_ns();
    for (const auto& attached : attachments_) {
        attached->orphaned_ns = attached->orphaned_ns == 0 ? now_ns : attached->orphaned_ns;
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
        (void)bus_.request(protocol::Unsubscribe{subscription_});
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
        Result<sys::RingMapping> ring = sys::map_ring(fd.get(), protocol::kRingDataOffset,
                                                      told.ring_bytes, sys::Access::read_only);
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
    frames_seen_ = link_->frames().load(std::memory_order_acquire);
    news_.store(false, std::memory_order_relaxed);
    protocol::full_fence();  // news_ is cleared before the inbox is read; pairs with wake()
    bus_.hear();
    if (bus_.lost() && !bus_.reconnect()) {
        waiter().limit_slice(kLookNs);
    }
    if (generation_ != bus_.generation() && !bus_.lost()) {
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
    if (!deliveries.empty()) {
        waiter().fruitful();  // the daemon's frames are no fruitless wake
    }
    for (Delivery& delivery : deliveries) {
        if (delivery.ended == 0) {
            attach(delivery);
            continue;
        }
        for (const auto& attached : attachments_) {
            if (attached->id != delivery.ended) {
                continue;
            }
            attached->ended = true;
            waiter().activate(*attached);  // it may have news that nobody rang for
            if (delivery.reason == static_cast<protocol::u8>(protocol::EndReason::detached) &&
                loan_ != attached.get()) {
                let_go(*attached);
            }
            break;
        }
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
            untold_ = fail(code, "cannot attach to '" + told.topic + "': " +
                                     (delivery.error.what.empty()
                                          ? std::string("its publisher's pages cannot be mapped")
                                          : delivery.error.what));
            bus_.unroute_attachment(told.attachment);
            link_->send(protocol::Detached{told.attachment}, link_->next_request());
            return;
        }
    }
    auto attached =
        std::make_unique<Attached>(told, std::move(delivery.ring), link_, std::move(pages));
    const auto before = [&](const auto& other) {
        return other->lineage == attached->lineage && other->orphaned_ns != 0;
    };
    if (std::any_of(attachments_.begin(), attachments_.end(), before)) {
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
    const protocol::Id128 lineage = attached.lineage;
    if (expected_.size() >= kExpectedMax) {
        expected_.erase(expected_.begin());
    }
    expected_[lineage] = attached.reader().expected();
    waiter().detach(attached);
    attached.clear_slot();
    {
        const Bus::Lock guard = bus_.lock();
        bus_.unroute_attachment(attached.id);
        attached.ring.reset();
        if (attached.link == link_ && !bus_.lost()) {
            link_->send(protocol::Detached{attached.id}, link_->next_request());
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
        }
    }
}

}  // namespace ipcbus::client
