// SPDX-License-Identifier: Apache-2.0
// Both ends of a stream over TCP. See stream.hpp.
#include "protocol/stream.hpp"

#include "protocol/exchange.hpp"
#include "protocol/fence.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ipcbus::protocol {

namespace {

constexpr u32 kResyncsInVainMax = 100;
/// Of what is older than is wanted, before others have their turn.
constexpr u64 kPassedAtOnce = 1024;
constexpr u64 kEndWord = record_word(0, 0, kRecordClosed);
/// Sums of bytes stay below it, and so can be added to.
constexpr u64 kStreamBytesMax = u64{1} << 62;
/// Records that are begun and not gone on with, in what waits: a sender begins them when it is
/// overtaken in the middle of one, which is longer than a frame.
constexpr std::size_t kPendingMax = 64;
/// In such steps what waits is made longer, and let go of.
constexpr std::size_t kKeepStep = 64 * 1024;

u64 word_bytes(u64 word) { return record_bytes(word_topic_bytes(word), word_payload_bytes(word)); }

void store_little(std::byte* to, u64 value) {
    for (std::size_t i = 0; i < sizeof value; i++) {
        to[i] = static_cast<std::byte>(value >> (8 * i));
    }
}

u64 load_little(const std::byte* from) {
    u64 value = 0;
    for (std::size_t i = 0; i < sizeof value; i++) {
        value |= static_cast<u64>(from[i]) << (8 * i);
    }
    return value;
}

void write_header(std::byte* to, u64 word, u64 sequence) {
    store_little(to, word);
    store_little(to + sizeof(u64), sequence);
}

/// A DATA frame that grows at the end of `out`: its length is known when it is full.
class Frame {
public:
    Frame(std::vector<std::byte>& out, u64 stream, u64 offset) : out_(out), begin_(out.size()) {
        encode_data_head(out_, {stream, static_cast<u32>(offset)}, 0);
    }
    std::byte* add(std::size_t bytes) {
        out_.resize(out_.size() + bytes);
        return out_.data() + out_.size() - bytes;
    }
    void drop() { out_.resize(begin_); }
    void end() { end_frame(out_, begin_); }

private:
    std::vector<std::byte>& out_;
    std::size_t begin_;
};

}  // namespace

// ----------------------------------------------------------------------------------- sending

StreamSender::StreamSender(u64 stream, Attachment& attachment, bool latest)
    : stream_(stream), attachment_(attachment), latest_(latest) {
    const RingReader& reader = attachment.reader();
    // acquire: as [R8]. A place to compare with, and no further than a ring reaches.
    const u64 newest_untrusted = reader.ring().header->newest.load(std::memory_order_acquire);
    const u64 ahead = newest_untrusted - reader.position();
    caught_up_at_ = reader.position() + (ahead < reader.ring().capacity ? ahead + 1 : 0);
}

StreamSender::State StreamSender::fill(std::vector<std::byte>& out) {
    if (ended_) {
        return State::closed;
    }
    if (done_ != 0) {
        return go_on(out);
    }
    if (behind_) {
        if (const State state = begin(); state != State::more) {
            return state;
        }
    }
    if (latest_) {
        u64 passed = 0;
        if (attachment_.reader().go_to_newest(passed) == RingReader::Resync::done) {
            attachment_.count_lost(passed);
            attachment_.moved();
        }
    }
    Record record;
    switch (attachment_.reader().look(record)) {
    case RingReader::Look::record:
        return room() == 0 ? State::no_credit : send_records(out, record);
    case RingReader::Look::empty:
        attachment_.store_cursor();
        return State::empty;
    case RingReader::Look::lapped:
        return skip_lost();
    case RingReader::Look::closed:
        return room() == 0 ? State::no_credit : send_end(out);
    case RingReader::Look::corrupt:
        break;
    }
    return State::corrupt;
}

/// [R9] Where there is history, the reader was told to begin before what is wanted of it.
StreamSender::State StreamSender::begin() {
    u64 lost = 0;
    switch (attachment_.reader().pass_to_expected(kPassedAtOnce, lost)) {
    case RingReader::Resync::done:
        behind_ = false;
        in_vain_ = 0;
        attachment_.count_lost(lost);
        attachment_.moved();
        return State::more;
    case RingReader::Resync::on_the_way:
        attachment_.moved();
        return State::passing;
    case RingReader::Resync::again:
        return ++in_vain_ < kResyncsInVainMax ? State::again : State::corrupt;
    case RingReader::Resync::corrupt:
        break;
    }
    return State::corrupt;
}

/// The reader goes to what is still there; the next record tells what is not.
StreamSender::State StreamSender::skip_lost() {
    if (done_ != 0) {
        sent_ += record_.next - record_.position - done_;
        done_ = 0;
    }
    u64 lost = 0;
    switch (attachment_.reader().resync(lost)) {
    case RingReader::Resync::done:
        in_vain_ = 0;
        attachment_.count_lost(lost);
        attachment_.moved();
        return State::again;
    case RingReader::Resync::again:
        return ++in_vain_ < kResyncsInVainMax ? State::again : State::corrupt;
    case RingReader::Resync::on_the_way:  // only of begin()
    case RingReader::Resync::corrupt:
        break;
    }
    return State::corrupt;
}

StreamSender::State StreamSender::send_end(std::vector<std::byte>& out) {
    Frame frame(out, stream_, 0);
    write_header(frame.add(kRecordHeaderBytes), kEndWord, attachment_.reader().expected());
    frame.end();
    sent_ += kRecordHeaderBytes;
    ended_ = true;
    return State::more;
}

/// What is left of a record that does not fit a frame.
StreamSender::State StreamSender::go_on(std::vector<std::byte>& out) {
    const u64 left = record_.next - record_.position - done_;
    const u64 bytes = std::min<u64>({left, room(), kDataBytesMax});
    if (bytes == 0) {
        return attachment_.reader().intact(record_.position) ? State::no_credit : skip_lost();
    }
    Frame frame(out, stream_, done_);
    copy_untrusted(frame.add(bytes), record_.topic + (done_ - kRecordHeaderBytes), bytes);
    if (!attachment_.reader().intact(record_.position)) {
        frame.drop();
        return skip_lost();
    }
    frame.end();
    sent_ += bytes;
    done_ += bytes;
    if (bytes == left) {
        done_ = 0;
        attachment_.reader().advance(record_);
        attachment_.moved();
        attachment_.count_received(1);
    }
    return State::more;
}

/// As many records as fit a frame, and of the last one a part. `first` is what a look has found:
/// its word is not loaded again, for its publisher may have changed it.
StreamSender::State StreamSender::send_records(std::vector<std::byte>& out, const Record& first) {
    RingReader& reader = attachment_.reader();
    u64 position = first.position;
    u64 sequence = first.sequence;
    u64 left = std::min<u64>(room(), kDataBytesMax);
    const u64 most = left;
    u64 records = 0;
    u64 part = 0;
    record_ = first;
    Frame frame(out, stream_, 0);
    do {
        if (record_.topic_bytes > kTopicBytesMax) {
            break;  // no receiver believes it; what came before goes out first
        }
        const u64 total = record_.next - record_.position;
        const u64 bytes = std::min(total, left);
        std::byte* const to = frame.add(bytes);
        write_header(to, record_word(record_.payload_bytes, record_.topic_bytes, 0), sequence);
        copy_untrusted(to + kRecordHeaderBytes, record_.topic, bytes - kRecordHeaderBytes);
        left -= bytes;
        if (bytes < total) {
            part = bytes;
        } else {
            position = record_.next;
            sequence++;
            records++;
        }
    } while (left >= kRecordHeaderBytes && part == 0 &&
             reader.look_at(position, sequence, record_) == RingReader::Look::record);
    if (!reader.intact(first.position)) {
        frame.drop();
        return skip_lost();
    }
    if (left == most) {
        frame.drop();
        return State::corrupt;
    }
    frame.end();
    in_vain_ = 0;
    sent_ += most - left;
    done_ = part;
    reader.advance_to(position, records);
    attachment_.moved();
    attachment_.count_received(records);
    return State::more;
}

// --------------------------------------------------------------------------------- receiving

StreamReceiver::State StreamReceiver::receive(u32 offset, std::span<const std::byte> bytes) {
    if (closed_) {
        return broken("goes on after its end");
    }
    if (bytes.empty() || bytes.size() % kRecordAlignment != 0) {
        return broken("a piece that is not whole units of 16 bytes");
    }
    received_ += bytes.size();
    if (received_ > granted_) {
        return broken("more than the credit");
    }
    if (!pending_.empty()) {
        // Whoever waits has asked to be told of room, and tries again then: not for each frame.
        return keep(offset, bytes);
    }
    if (begin_at(offset) == State::broken) {
        return State::broken;
    }
    state_ = announce(consume(bytes));
    if (bytes.empty() || state_ == State::broken) {
        return state_;
    }
    if (state_ == State::closed) {
        return broken("goes on after its end");
    }
    // At the beginning of a record: one that has its place takes all of its bytes.
    tail_total_ = 0;
    tail_have_ = 0;
    pending_.push_back({0, {}});
    return keep(0, bytes) == State::broken ? State::broken : digest();
}

/// Behind what waits already. An offset of 0 in the middle of a record abandons that: the only
/// thing that is kept by itself.
StreamReceiver::State StreamReceiver::keep(u32 offset, std::span<const std::byte> bytes) {
    if (offset != tail_have_) {
        if (offset != 0) {
            return broken("goes on where nothing was begun");
        }
        if (pending_.size() >= kPendingMax) {
            return broken("too many records that are not gone on with");
        }
        pending_.push_back({0, {}});
        tail_total_ = 0;
        tail_have_ = 0;
    }
    for (std::span<const std::byte> left = bytes; !left.empty();) {
        if (tail_total_ == 0) {
            const u64 word = load_little(left.data());
            if (!possible(word)) {
                return broken("a record that cannot be");
            }
            tail_total_ = word_bytes(word);
        }
        const std::size_t part = std::min<std::size_t>(left.size(), tail_total_ - tail_have_);
        tail_have_ += part;
        left = left.subspan(part);
        if (tail_have_ == tail_total_) {
            tail_total_ = 0;
            tail_have_ = 0;
        }
    }
    std::vector<std::byte>& kept = pending_.back().bytes;
    if (const std::size_t needed = kept.size() + bytes.size();
        needed > kKeepStep && needed > kept.capacity()) {
        kept.reserve((needed + kKeepStep - 1) / kKeepStep * kKeepStep);  // not twice as much
    }
    kept.insert(kept.end(), bytes.begin(), bytes.end());
    return state_;
}

StreamReceiver::State StreamReceiver::digest() {
    State state{};
    do {
        state = digest_some();
        // There may be room by now, whenever it was asked for.
    } while (state == State::full && ring_.ask(asked_for_));
    return state_ = state;
}

StreamReceiver::State StreamReceiver::digest_some() {
    State state = closed_ ? State::closed : State::digested;
    while (!pending_.empty() && state == State::digested) {
        Pending& front = pending_.front();
        if (front.done == 0) {
            state = begin_at(front.offset);
        }
        if (state != State::digested) {
            break;
        }
        std::span<const std::byte> left =
            std::span<const std::byte>(front.bytes).subspan(front.done);
        state = consume(left);
        front.done = front.bytes.size() - left.size();
        if (left.empty()) {
            pending_.pop_front();
        } else if (front.done >= kKeepStep) {
            front.bytes.erase(front.bytes.begin(),
                              front.bytes.begin() + static_cast<std::ptrdiff_t>(front.done));
            front.offset = 0;  // as above
            front.done = 0;
        }
    }
    if (state == State::closed && !pending_.empty()) {
        return broken("goes on after its end");
    }
    return announce(state);
}

/// What was committed becomes known.
StreamReceiver::State StreamReceiver::announce(State state) {
    if (std::exchange(committed_, false)) {
        (void)ring_.finish();
    }
    return state;
}

/// A frame begins a record, and abandons one that was begun, or goes on with that one.
StreamReceiver::State StreamReceiver::begin_at(u32 offset) {
    if (offset == have_) {
        return State::digested;
    }
    if (offset != 0) {
        return broken("goes on where nothing was begun");
    }
    received_ += total_ - have_;
    digested_ += total_ - have_;
    total_ = 0;
    have_ = 0;
    // Costs its sender 16 bytes, and counts as up to 4 GiB.
    return received_ < kStreamBytesMax ? State::digested : broken("more than a stream may have");
}

StreamReceiver::State StreamReceiver::consume(std::span<const std::byte>& bytes) {
    while (!bytes.empty()) {
        if (total_ == 0) {
            if (const State state = begin_record(bytes); state != State::digested) {
                return state;
            }
        }
        const std::size_t part = std::min<std::size_t>(bytes.size(), total_ - have_);
        if (part != 0) {
            copy_into_ring(ring_.writer().topic() + (have_ - kRecordHeaderBytes), bytes.data(),
                           part);
            have_ += part;
            digested_ += part;
            bytes = bytes.subspan(part);
        }
        if (have_ == total_) {
            commit();
            total_ = 0;
            have_ = 0;
        }
    }
    return State::digested;
}

/// Of a request, who is asked: a record without a head is to nobody, and is passed over.
void StreamReceiver::commit() {
    committed_ = true;
    if (topic_bytes_ == kHeadBytes && ring_.readers().addressed()) {
        Head head;
        std::memcpy(&head, ring_.writer().topic(), sizeof head);
        ring_.commit_headed(head.number, payload_bytes_);
    } else {
        ring_.commit(topic_bytes_, payload_bytes_);
    }
}

/// A record of this ring, or the end of it.
bool StreamReceiver::possible(u64 word) const {
    return word == kEndWord ||
           (word_flags(word) == kRecordPresent && word_topic_bytes(word) <= kTopicBytesMax &&
            word_bytes(word) <= ring_.writer().record_bytes_limit());
}

/// Reads a header and claims the record's place. The header is taken only when there is room.
StreamReceiver::State StreamReceiver::begin_record(std::span<const std::byte>& bytes) {
    const u64 word = load_little(bytes.data());
    const u64 sequence = load_little(bytes.data() + sizeof(u64));
    const u64 total = word_bytes(word);
    const i64 missing = distance(sequence, ring_.writer().sequence());
    if (!possible(word)) {
        return broken("a record that cannot be");
    }
    if (missing < 0 || (missing > 0 && !gaps_)) {
        return broken("a record of another sequence");
    }
    if (ring_.behind()) {
        return State::behind;
    }
    if (missing > 0) {
        asked_for_ = kGapBytes;
        if (ring_.reserve(kGapBytes, 0) != RingPublisher::Status::ok) {
            return State::full;
        }
        ring_.writer().skip_to(sequence);
        committed_ = true;
    }
    if (word == kEndWord) {
        digested_ += kRecordHeaderBytes;
        bytes = bytes.subspan(kRecordHeaderBytes);
        committed_ = false;
        closed_ = true;
        ring_.close();
        return State::closed;
    }
    asked_for_ = total;
    if (ring_.reserve(total, 0) != RingPublisher::Status::ok) {
        return State::full;
    }
    digested_ += kRecordHeaderBytes;
    bytes = bytes.subspan(kRecordHeaderBytes);
    total_ = total;
    have_ = kRecordHeaderBytes;
    topic_bytes_ = word_topic_bytes(word);
    payload_bytes_ = word_payload_bytes(word);
    return State::digested;
}

}  // namespace ipcbus::protocol
