// SPDX-License-Identifier: Apache-2.0
// Receiving: the way of a message from the rings to the caller. What the control side does for a
// subscription is in subscription.cpp. See subscriber.hpp.
// Lending is in loan.cpp. look_at, lapped: checked by tests/model/ring.pml.
#include "subscriber.hpp"

#include "protocol/topic.hpp"
#include "set.hpp"
#include "sys/room.hpp"

#include <algorithm>

namespace ipcbus::client {

using protocol::Record;
using protocol::RingReader;

namespace {

/// Messages in a row that may be taken without looking at anything but the ring they stand in.
constexpr u32 kPlainMax = 63;
/// The same for one that finds nothing, awake.
constexpr u32 kEmptyLooksPerGlance = 16;
/// An honest writer overwrites the mark between two loads now and then, not so often in a row.
constexpr u32 kResyncsInVainMax = 100;

/// Never given to another thread, as gettid() and addresses are. initial-exec: no call gets it.
[[gnu::tls_model("initial-exec")]] thread_local u64 thread_number = 0;

u64 this_thread() {
    static std::atomic<u64> next{1};
    if (thread_number == 0) {
        thread_number = next.fetch_add(1, std::memory_order_relaxed);  // relaxed: only a number
    }
    return thread_number;
}

}  // namespace

bool Subscriber::used_by_this_thread() const {
    // relaxed: only ever compared with the own id, which only the own thread stores.
    return thread_.load(std::memory_order_relaxed) == this_thread();
}

void Subscriber::note_thread() {
    // relaxed: see used_by_this_thread.
    thread_.store(this_thread(), std::memory_order_relaxed);
}

int Subscriber::begin_use() {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    note_thread();
    if (loan_ != nullptr) {
        rest();
        return failed(EBUSY, "a loan is open: release it first");
    }
    const u32 plainly = std::exchange(plain_taken_, 0);
    source_.took(plainly);
    looks_ += 1 + plainly;
    if (looks_ >= kLooksPerGlance) {
        looks_ = 0;
        disarm();
        waiter().sweep_if_due(sys::coarse_ns());
        look_at_connection();
    }
    return 0;
}

u32 Subscriber::publication_count() {
    if (bus_.in_child()) {
        return 0;
    }
    if (has_news()) {
        disarm();  // what is attached now is not parked
        hear_control();
    }
    return static_cast<u32>(source_.attachments().size());
}

/// No message: because there is none, or because there will be none any more.
int Subscriber::nothing() const {
    return bus_.closed() ? failed(ESHUTDOWN, bus_.why_lost()) : -EAGAIN;
}

// ---------------------------------------------------------------------------------- looking

/// One look over what is active, in turn. 0: *ret_found is a record that is whole, as far as it was
/// read. -EAGAIN: nothing. -ESTALE: something was lost, as *ret_message tells. What is not wanted
/// is skipped, but only a few records of each ring: kSkipped, there is more.
int Subscriber::find(Found& ret_found, ipcbus_message* ret_message) {
    plain_left_ = 0;
    attend();
    if (!untold_.empty()) {
        return tell_untold(ret_message);
    }
    waiter().take_activity();
    bool skipped = false;
    for (std::size_t left = source_.active_count(); left != 0; left--) {
        auto* attached = static_cast<Attached*>(source_.turn());
        if (attached == nullptr) {
            break;
        }
        const int result = look_at(*attached, ret_found, ret_message);
        if (result == kSkipped) {
            skipped = true;
        } else if (result != -EAGAIN) {
            return result;
        }
        if (std::exchange(admitted_, false)) {
            left = source_.active_count() + 1;  // before a sleep all have been looked at
        }
    }
    if (++empty_looks_ % kEmptyLooksPerGlance == 0) {
        waiter().sweep_if_due(sys::coarse_ns());
        look_at_connection();
    }
    return skipped ? kSkipped : nothing();
}

/// Calls of find() after which all is skipped that stands in the active rings now.
u64 Subscriber::rounds_to_newest() const {
    u64 most = 0;
    for (const protocol::Attachment* attachment :
         source_.attachments().first(source_.active_count())) {
        most = std::max(most, attachment->reader().records_to_newest());
    }
    return most / kSkipsMax + 1;
}

int Subscriber::look_at(Attached& attached, Found& ret_found, ipcbus_message* ret_message) {
    if (attached.has_aside && lost_before_start(attached) != 0) {
        return report_loss_before_start(attached, ret_message);
    }
    if (attached.behind) {
        if (const int result = begin(attached, ret_message); result != 0) {
            return result;
        }
    }
    RingReader& reader = attached.reader();
    if (attached.latest) {
        u64 passed = 0;
        sys::make_room(asides_);
        if (reader.go_to_newest(passed) == RingReader::Resync::done && passed != 0) {
            lost_ += passed;
            attached.count_lost(passed);
            aside(attached).passed_over += passed;
        }
    }
    for (u32 skips = 0; skips < kSkipsMax; skips++) {
        switch (reader.look(ret_found.record)) {
            case RingReader::Look::record:
                if (attached.filter && !accepts(attached, ret_found.record)) {
                    if (!reader.intact(ret_found.record.position)) {
                        return lapped(attached, ret_message);
                    }
                    reader.advance(ret_found.record);
                    attached.moved();
                    waiter().fruitful();  // somebody else's message, but no fruitless wake
                    continue;
                }
                ret_found.attached = &attached;
                return 0;
            case RingReader::Look::lapped: return lapped(attached, ret_message);
            case RingReader::Look::empty:
                attached.store_cursor();
                if (attached.ended) {
                    let_go(attached);
                } else {
                    source_.fruitless(attached);
                }
                return -EAGAIN;
            case RingReader::Look::closed: let_go(attached, true); return -EAGAIN;
            case RingReader::Look::corrupt: return corrupt(attached);
        }
    }
    source_.skipped(attached);
    return kSkipped;
}

/// [R9] of protocol/ring_reader.hpp: passes over what is older than was asked for. 0: done.
int Subscriber::begin(Attached& attached, ipcbus_message* ret_message) {
    u64 lost = 0;
    const RingReader::Resync how = attached.reader().pass_to_expected(kSkipsMax, lost);
    if (how == RingReader::Resync::on_the_way) {
        attached.moved();
        source_.skipped(attached);
        return kSkipped;
    }
    attached.behind = how == RingReader::Resync::again;
    const int result = moved(attached, how, lost, ret_message);
    return how == RingReader::Resync::done && lost == 0 ? 0 : result;
}

int Subscriber::lapped(Attached& attached, ipcbus_message* ret_message) {
    u64 lost = 0;
    const RingReader::Resync how = attached.reader().resync(lost);
    return moved(attached, how, lost, ret_message);
}

/// What becomes of one whose reader has gone, or was to go, to another record.
int Subscriber::moved(Attached& attached, RingReader::Resync how, u64 lost,
                      ipcbus_message* ret_message) {
    switch (how) {
        case RingReader::Resync::done:
            attached.moved();
            attached.resyncs_in_vain = 0;
            // Of requests a writer passes over those that are to others, or knows what it does.
            return lost == 0 || collects_requests()
                       ? -EAGAIN
                       : report_loss(attached, lost, "the publisher has overtaken this subscriber",
                                     ret_message);
        case RingReader::Resync::again:
            // The writer was faster. A ring that looks overtaken for ever is a lie, which would
            // keep this thread from sleeping and in the end make it nap.
            if (++attached.resyncs_in_vain == kResyncsInVainMax) {
                return corrupt(attached);
            }
            source_.fruitless(attached);
            return -EAGAIN;
        case RingReader::Resync::on_the_way:
        case RingReader::Resync::corrupt: break;
    }
    return corrupt(attached);
}

/// A publisher that breaks the protocol is heard no more; the others are.
int Subscriber::corrupt(Attached& attached) {
    const std::string topic(attached.ring().topic());
    if (headed_) {
        headed_->heads->broken(attached);
    }
    let_go(attached);
    return failed(EPROTO, "a publisher of '" + topic +
                              "' has broken the protocol: nothing more is read from it");
}

int Subscriber::report_loss(Attached& attached, u64 lost, const char* why,
                            ipcbus_message* ret_message) {
    lost_ += lost;
    attached.count_lost(lost);
    waiter().fruitful();
    *ret_message = ipcbus_message{};
    const std::string_view topic = attached.ring().topic();
    std::memcpy(topic_, topic.data(), topic.size() + 1);
    ret_message->topic = topic_;
    ret_message->topic_size = topic.size();
    ret_message->sequence = attached.reader().expected();
    ret_message->publication = attached.ring().publication_number();
    ret_message->lost = lost;
    try {
        return failed(ESTALE,
                      std::to_string(lost) + " messages of '" + topic_ + "' were lost: " + why);
    } catch (const std::bad_alloc&) {
        return failed(ESTALE, "messages lost");  // short enough to need no memory
    }
}

int Subscriber::report_loss_before_start(Attached& attached, ipcbus_message* ret_message) {
    const u64 lost = lost_before_start(attached);
    forget_lost_before_start(attached);
    return report_loss(attached, lost, "it went on in another ring before this one was attached",
                       ret_message);
}

/// For the next receive: what was found out just now. There is room in untold_.
void Subscriber::keep(int result, const ipcbus_message& message) {
    Untold& untold = untold_.emplace_back();
    untold.result = result;
    untold.message = message;
    std::memcpy(untold.topic, topic_, sizeof topic_);
    try {
        untold.text = error_text();
    } catch (const std::bad_alloc&) {
        untold.text = "out of memory";  // short enough to need none
    }
}

int Subscriber::tell_untold(ipcbus_message* ret_message) {
    Untold& untold = untold_.front();
    *ret_message = untold.message;
    std::memcpy(topic_, untold.topic, sizeof topic_);
    const int result = failed(-untold.result, std::move(untold.text));
    untold_.erase(untold_.begin());
    return result;
}

/// Whether the record's topic is one that its publication may name and that was asked for; the
/// topic is then in topic_. What it read may be torn: the caller looks at intact().
bool Subscriber::accepts(const Attached& attached, const Record& record) {
    if (attached.headed) {
        return accepts_head(attached, record);
    }
    if (record.topic_bytes > protocol::kTopicBytesMax) {
        return false;
    }
    protocol::copy_untrusted(topic_, record.topic, record.topic_bytes);
    topic_[record.topic_bytes] = '\0';
    const std::string_view topic(topic_, record.topic_bytes);
    return protocol::valid_topic(topic) &&
           protocol::topic_matches(attached.ring().topic(), topic) &&
           protocol::topic_matches(filter_, topic);
}

bool Subscriber::accepts_head(const Attached& attached, const Record& record) {
    if (record.topic_bytes != protocol::kHeadBytes) {
        return false;
    }
    protocol::copy_untrusted(&head_, record.topic, sizeof head_);
    return headed_->heads->wants(attached, head_);
}

/// The next record has been received: the reader goes behind it.
inline void Subscriber::taken(Attached& attached, u64 next) {
    attached.reader().advance_to(next, 1);
    attached.moved();
    attached.count_received(1);
    patience_.distance.received(1);
}

/// The short way for what comes while this thread spins: takes the next record of the only active
/// ring. -EAGAIN: not this one, or there is more to say of it; nothing has happened.
int Subscriber::try_headed(void* buffer, std::size_t bytes, ipcbus_message* ret_message) {
    Attached& attached = static_cast<Attached&>(*source_.turn());
    Record record;
    const RingReader& reader = attached.reader();
    if (attached.has_aside || !reader.record_at(reader.position(), reader.expected(), record) ||
        record.payload_bytes > bytes || !accepts_head(attached, record)) {
        return -EAGAIN;
    }
    if (record.payload_bytes != 0) {
        protocol::copy_untrusted(buffer, record.payload, record.payload_bytes);
    }
    if (!reader.intact(record.position)) {
        return -EAGAIN;
    }
    describe(attached, record, ret_message);
    ret_message->data = buffer;
    taken(attached, record.next);
    source_.fruitful(attached);
    return 0;
}

bool Subscriber::reads_replies_of(const Link& link, u64 attachment) const {
    const auto is_it = [&](const auto& one) {
        const Ring& ring = static_cast<const Attached&>(*one).ring();
        return &ring.link() == &link &&
               protocol::answered_attachment(ring.lineage().id) == attachment;
    };
    const auto all = source_.attachments();
    return std::any_of(all.begin(), all.end(), is_it);
}

void Subscriber::describe(const Attached& attached, const Record& record,
                          ipcbus_message* ret_message) {
    const bool named = attached.filter && !attached.headed;
    *ret_message = ipcbus_message{record.payload,
                                  record.payload_bytes,
                                  named ? topic_ : attached.ring().topic_text(),
                                  named ? record.topic_bytes : attached.ring().topic().size(),
                                  record.sequence,
                                  attached.ring().publication_number(),
                                  attached.has_aside ? passed_over(attached) : 0};
}

/// For a set: 0: there is something to receive or to report; else -EAGAIN or kSkipped. A loss that
/// the look comes upon is kept for the receive that follows; a message stays where it is.
int Subscriber::ready() {
    if (!untold_.empty()) {
        return 0;
    }
    sys::make_room(untold_);
    Found found;
    ipcbus_message message{};
    const int result = find(found, &message);
    if (result == -EAGAIN || result == kSkipped) {
        return result;
    }
    if (result != 0) {
        keep(result, message);
    }
    return 0;
}

// -------------------------------------------------------------------------------- receiving

int Subscriber::try_receive(void* buffer, std::size_t bytes, ipcbus_message* ret_message) {
    Found found;
    if (const int result = find(found, ret_message); result != 0) {
        return result;
    }
    Attached& attached = *found.attached;
    RingReader& reader = attached.reader();
    const bool fits = found.record.payload_bytes <= bytes;
    if (fits && found.record.payload_bytes != 0) {
        protocol::copy_untrusted(buffer, found.record.payload, found.record.payload_bytes);
    }
    if (!reader.intact(found.record.position)) {
        return lapped(attached, ret_message);
    }
    describe(attached, found.record, ret_message);
    ret_message->data = buffer;
    if (!fits) {
        return failed(EMSGSIZE, "the buffer is smaller than the message");
    }
    if (attached.has_aside) {
        forget_passed_over(attached);
    }
    taken(attached, found.record.next);
    source_.fruitful(attached);
    note_plain(attached);
    return 0;
}

/// The only ring that is looked at just now, if there is only one.
const RingReader* Subscriber::only_active() {
    return source_.active_count() == 1 ? &source_.turn()->reader() : nullptr;
}

/// Whether the next message of the only active ring may be taken the short way.
bool Subscriber::only_plain() {
    note_plain(static_cast<Attached&>(*source_.turn()));
    return plain();
}

/// The next messages may be taken the short way, if they are there.
void Subscriber::note_plain(Attached& attached) {
    if (!attached.filter && !attached.latest && !attached.has_aside && !attached.behind) {
        plain_ = &attached;
        plain_left_ = kPlainMax;
    }
}

/// The short way, for most messages: the one that follows the last in the same ring. False: it is
/// not there, or there is more to say of it, and nothing has happened. Who else may have a message,
/// or what the daemon may have said, is looked at after kPlainMax of them, or when there is none.
[[gnu::always_inline]] inline bool
Subscriber::receive_plainly(void* buffer, std::size_t bytes, ipcbus_message* ret_message) {
    plain_left_--;
    plain_taken_++;
    note_thread();
    Attached& attached = *plain_;
    const RingReader& reader = attached.reader();
    const u64 position = reader.position();
    Record record;
    if (!reader.record_at(position, reader.expected(), record) || record.payload_bytes > bytes) {
        return false;
    }
    if (record.payload_bytes != 0) {
        protocol::copy_untrusted(buffer, record.payload, record.payload_bytes);
    }
    if (!reader.intact(position)) {
        return false;
    }
    if (ret_message != nullptr) {
        describe(attached, record, ret_message);
        ret_message->data = buffer;
    }
    taken(attached, position + stride_.predicted(record.next - position));
    return true;
}

int Subscriber::receive(void* buffer, std::size_t bytes, i64 timeout_ns,
                        ipcbus_message* ret_message) {
    return plain() && receive_plainly(buffer, bytes, ret_message)
               ? 0
               : receive_slowly(buffer, bytes, timeout_ns, ret_message);
}

/// Out of line: what it calls would cost the short way registers.
int Subscriber::receive_slowly(void* buffer, std::size_t bytes, i64 timeout_ns,
                               ipcbus_message* ret_message) {
    if (const int error = begin_use(); error != 0) {
        return error;
    }
    ipcbus_message unwanted;
    ipcbus_message* message = ret_message != nullptr ? ret_message : &unwanted;
    const auto wait = [&](i64 for_ns) {
        return wait_until(waiter(), &source_, patience_, *this, for_ns,
                          [&] { return try_receive(buffer, bytes, message); },
                          [&] { return rounds_to_newest(); },
                          [&] { return only_active(); },
                          [&] {
                              return only_plain() && receive_plainly(buffer, bytes, ret_message)
                                         ? 0
                                         : -EAGAIN;
                          });
    };
    const int result = wait_or_arm(readiness_.get(), waiter(), *this, timeout_ns, wait,
                                   [this] { note_armed(); });
    if (result == 0) {
        waiter().fruitful();
        return 0;
    }
    return waited(result);
}

}  // namespace ipcbus::client
