// SPDX-License-Identifier: Apache-2.0
// Lending: messages are given where they lie in the ring, and the cursor stays where it is until
// they are released. How a message is found is in subscriber.cpp. See subscriber.hpp.
// borrow and release: checked by tests/model/ring.pml.
#include "subscriber.hpp"

namespace ipcbus::client {

using protocol::Record;
using protocol::RingReader;

i64 Subscriber::try_borrow(ipcbus_message* ret_messages, std::size_t count) {
    Found found;
    if (const int result = find(found, ret_messages); result != 0) {
        return result;
    }
    Attached& attached = *found.attached;
    if (const i64 taken = lend(attached, found.record, ret_messages, count); taken != 0) {
        if (attached.has_aside) {
            forget_passed_over(attached);
        }
        note_plain(attached);
        return taken;
    }
    return lapped(attached, ret_messages);
}

/// Lends `first` and what follows it. 0: it was overtaken meanwhile.
i64 Subscriber::lend(Attached& attached, const Record& first, ipcbus_message* ret_messages,
                     std::size_t count) {
    describe(attached, first, ret_messages);
    if (attached.filter && count > 1) {
        ret_messages[0].topic = reinterpret_cast<const char*>(first.topic);
    }
    // The whole batch stands in one piece of the ring: cursors are kept back until release, so it
    // ends where a batch of cursors would.
    const u64 batch_end =
        first.position + attached.reader().ring().capacity / protocol::kCursorPart;
    const Lent lent = attached.filter
                          ? lend_accepted(attached, first, batch_end, ret_messages, count)
                          : lend_all(attached, first, batch_end, ret_messages, count);
    if (!attached.reader().intact(first.position)) {
        return 0;
    }
    loan_ = &attached;
    loan_position_ = first.position;
    loan_next_ = lent.next;
    loan_count_ = lent.count;
    return static_cast<i64>(lent.count);
}

/// What follows `first` in the ring of a topic; a batch's first message is told already. Everything
/// it needs is in registers: half the time of a loop that asks the attachment each time.
Subscriber::Lent Subscriber::lend_all(const Attached& attached, const Record& first, u64 batch_end,
                                      ipcbus_message* ret_messages, std::size_t count) {
    const RingReader reader = attached.reader();
    ipcbus_message message = ret_messages[0];
    message.lost = 0;
    Lent lent{first.next, 1};
    RingReader::Stride stride;
    Record record;
    while (lent.count < count && protocol::distance(batch_end, lent.next) > 0 &&
           reader.record_at(lent.next, first.sequence + lent.count, record)) {
        message.data = record.payload;
        message.size = record.payload_bytes;
        message.sequence = record.sequence;
        ret_messages[lent.count++] = message;
        lent.next += stride.predicted(record.next - lent.next);
    }
    return lent;
}

/// The same in the ring of a filter, as far as the messages are wanted.
Subscriber::Lent Subscriber::lend_accepted(const Attached& attached, const Record& first,
                                           u64 batch_end, ipcbus_message* ret_messages,
                                           std::size_t count) {
    const RingReader& reader = attached.reader();
    ipcbus_message message = ret_messages[0];
    message.lost = 0;
    Lent lent{first.next, 1};
    Record record;
    while (lent.count < count && protocol::distance(batch_end, lent.next) > 0 &&
           reader.record_at(lent.next, first.sequence + lent.count, record) &&
           accepts(attached, record)) {
        message.topic = reinterpret_cast<const char*>(record.topic);
        message.topic_size = record.topic_bytes;
        message.data = record.payload;
        message.size = record.payload_bytes;
        message.sequence = record.sequence;
        ret_messages[lent.count++] = message;
        lent.next = record.next;
    }
    return lent;
}

/// The short way, as receive_plainly(). 0: no.
i64 Subscriber::borrow_plainly(ipcbus_message* ret_messages, std::size_t count) {
    plain_left_--;
    plain_taken_++;
    note_thread();
    Record record;
    return plain_->reader().look(record) == RingReader::Look::record
               ? lend(*plain_, record, ret_messages, count)
               : 0;
}

int Subscriber::borrow(i64 timeout_ns, ipcbus_message* ret_message) {
    const i64 count = borrow_many(timeout_ns, ret_message, 1);
    return count == 1 ? 0 : static_cast<int>(count);
}

i64 Subscriber::borrow_many(i64 timeout_ns, ipcbus_message* ret_messages, std::size_t count) {
    if (plain()) {
        if (const i64 taken = borrow_plainly(ret_messages, count); taken != 0) {
            return taken;
        }
    }
    if (const int error = begin_use(); error != 0) {
        return error;
    }
    const auto try_once = [&] {
        return static_cast<int>(std::min<i64>(try_borrow(ret_messages, count), 1));
    };
    const auto wait = [&](i64 for_ns) {
        return wait_until(waiter(), &source_, patience_, *this, for_ns, try_once,
                          [&] { return rounds_to_newest(); },
                          [&] { return only_active(); },
                          [&] {
                              return only_plain() && borrow_plainly(ret_messages, count) != 0
                                         ? 1
                                         : -EAGAIN;
                          });
    };
    const int result = wait_or_arm(readiness_.get(), waiter(), *this, timeout_ns, wait,
                                   [this] { note_armed(); });
    if (result == 1) {
        waiter().fruitful();
        return static_cast<i64>(loan_count_);
    }
    return waited(result);
}

int Subscriber::release() {
    if (bus_.in_child()) {
        return used_after_fork();
    }
    if (loan_ == nullptr) {
        return failed(ENOENT, "nothing is borrowed");
    }
    Attached& attached = *std::exchange(loan_, nullptr);
    if (rests_) {
        rests_ = false;
        disarm();
    }
    if (!attached.reader().intact(loan_position_)) {
        // Not advanced: the next look finds itself lapped, and counts these as lost, too.
        return failed(ESTALE, "what was lent has been overwritten meanwhile");
    }
    attached.reader().advance_to(loan_next_, loan_count_);
    attached.moved();
    attached.count_received(loan_count_);
    patience_.distance.received(loan_count_);
    source_.fruitful(attached);
    return 0;
}

}  // namespace ipcbus::client
