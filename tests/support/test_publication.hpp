// SPDX-License-Identifier: Apache-2.0
// A publication and its readers without a daemon, for tests with threads. TestPublication belongs
// to the thread that publishes, and plays the daemon for those that join and leave; TestReader
// belongs to the thread that reads. Both watch for wake-ups that were lost: sleeps are bounded, so
// a lost one is no more than late, and a test that only waits would never see it.
#pragma once

#include "protocol/join.hpp"
#include "test_ring.hpp"

#include <sched.h>

#include <array>
#include <condition_variable>
#include <mutex>

namespace ipcbus::test {

/// What is waited for in a test with threads comes within this time, or never.
inline constexpr i64 kPatienceNs = 10'000'000'000;

class TestPublication : public protocol::Control {
public:
    using Status = protocol::RingPublisher::Status;
    using Start = protocol::Start;
    static constexpr u64 kRemembered = 1 << 16;  ///< more than the records of any ring used

    explicit TestPublication(u64 capacity, u64 origin = 0, u64 first_sequence = 1,
                             i64 stall_timeout_ns = 60'000'000'000)
        : ring_(capacity, origin, first_sequence),
          publisher_(ring_.writer(), pages_.publisher_words(0, 0), stall_timeout_ns, *this),
          finished_(first_sequence - 1),
          begun_(first_sequence - 1) {}
    virtual ~TestPublication() = default;
    TestPublication(const TestPublication&) = delete;
    TestPublication& operator=(const TestPublication&) = delete;

    [[nodiscard]] const TestRing& ring() const { return ring_; }
    [[nodiscard]] const TestClient& pages() const { return pages_; }
    [[nodiscard]] protocol::RingPublisher& publisher() { return publisher_; }

    // ------------------------------------------------------------------ the publisher's thread

    /// Room and record; not yet made known.
    Status prepare(u64 bytes, i64 timeout_ns) {
        const u64 record = protocol::record_bytes(0, bytes);
        const u64 sequence = publisher_.writer().sequence();
        begun_.store(sequence, std::memory_order_seq_cst);
        needed_ = publisher_.writer().cursor_needed(record);
        looks_ = 0;
        const Status status = publisher_.reserve(record, timeout_ns);
        if (status == Status::ok) {
            fill(publisher_.writer().payload(0), sequence, bytes);
            publisher_.commit(0, static_cast<u32>(bytes));
        }
        return status;
    }
    /// Makes what was prepared known: from here on nobody may sleep on it.
    void finish() {
        (void)publisher_.finish();
        const i64 now_ns = sys::monotonic_ns();
        const u64 last = publisher_.writer().sequence() - 1;
        for (u64 sequence = finished_.load(std::memory_order_relaxed) + 1; sequence <= last;
             sequence++) {
            finished_ns_[sequence % kRemembered].store(now_ns, std::memory_order_relaxed);
        }
        finished_.store(last, std::memory_order_seq_cst);
    }
    Status publish(u64 bytes, i64 timeout_ns = kPatienceNs) {
        const Status status = prepare(bytes, timeout_ns);
        finish();
        return status;
    }
    /// How often the publisher slept though its readers had made room and should have rung.
    [[nodiscard]] u64 lost_rings() const { return lost_rings_; }
    [[nodiscard]] u64 blocked_looks() const { return blocked_looks_; }

    Heard take_in(u64 number) override {
        std::unique_lock lock(mutex_);
        came_.wait(lock, [&] { return protocol::distance(number_, number) >= 0; });
        for (const Change& change : changes_) {
            if (change.detach) {
                publisher_.readers().remove(change.entry.attachment);
            } else {
                publisher_.readers().add(change.entry);
            }
        }
        changes_.clear();
        publisher_.set_taken(number_);
        taken_.store(number_, std::memory_order_release);
        return Heard::something;
    }
    Heard look() override {
        // Whoever has stored a cursor that gives room, and come back from it, has rung: since the
        // look before this one, for that found no room.
        bool all = true;
        for (const auto& cursor : stored_) {
            const u64 stored = cursor.load(std::memory_order_acquire);
            all = all && (stored == 0 || protocol::distance(stored, needed_) >= 0);
        }
        const u32 bell = pages_.waiter(0).bell.load(std::memory_order_acquire);
        if (looks_++ != 0 && all && bell == bell_) {
            lost_rings_++;
        }
        bell_ = bell;
        blocked_looks_++;
        return Heard::nothing;
    }
    void complain(const protocol::ReaderTable::Fault& fault) override { faults.push_back(fault); }
    bool is_own(u64) override { return false; }

    std::vector<protocol::ReaderTable::Fault> faults;

    // ------------------------------------------------------------------------- other threads

    /// The daemon's part of attaching (join.hpp). False: the ring cannot be true.
    bool join(protocol::ReaderEntry entry, Start& ret_start) {
        {
            const std::lock_guard lock(mutex_);
            pages_.mailbox(0).attention.fetch_add(1, std::memory_order_release);  // [J1]
            protocol::full_fence();                                               // [J2]
            if (!settle_start(ring_.header(), ring_.data(), ring_.capacity(), ring_.record_max(),
                              {ring_.origin(), ring_.first_sequence()}, 0, ret_start)) {
                return false;
            }
            entry.start = ret_start.position;
            changes_.push_back({entry, false});
            number_++;
        }
        tell();
        return true;
    }
    /// The number from which on the writer does not know the attachment any more.
    u64 leave(u64 attachment) {
        u64 number = 0;
        {
            const std::lock_guard lock(mutex_);
            pages_.mailbox(0).attention.fetch_add(1, std::memory_order_release);
            protocol::ReaderEntry entry;
            entry.attachment = attachment;
            changes_.push_back({entry, true});
            number = ++number_;
        }
        tell();
        return number;
    }
    [[nodiscard]] u64 taken() const { return taken_.load(std::memory_order_acquire); }

    /// The last sequence that has been made known; the last one begun.
    [[nodiscard]] u64 finished() const { return finished_.load(std::memory_order_seq_cst); }
    [[nodiscard]] u64 begun() const { return begun_.load(std::memory_order_seq_cst); }
    [[nodiscard]] i64 finished_ns(u64 sequence) const {
        return finished_ns_[sequence % kRemembered].load(std::memory_order_relaxed);
    }
    /// Reader `number` of this test has stored its cursor, and whatever follows from that is done.
    void cursor_stored(u32 number, u64 cursor) {
        stored_[number].store(cursor, std::memory_order_release);
    }

private:
    struct Change {
        protocol::ReaderEntry entry;
        bool detach;
    };
    /// A frame has been sent: whoever sleeps is rung.
    void tell() {
        came_.notify_all();
        protocol::full_fence();
        if ((pages_.asleep(0).load(std::memory_order_relaxed) & 1) != 0) {
            protocol::ring_bell(pages_.waiter(0).bell);
        }
    }

    TestRing ring_;
    TestClient pages_;
    protocol::RingPublisher publisher_;

    u64 needed_ = 0;
    u32 bell_ = 0;
    u64 looks_ = 0;
    u64 blocked_looks_ = 0;
    u64 lost_rings_ = 0;

    std::array<std::atomic<u64>, 64> stored_{};
    std::array<std::atomic<i64>, kRemembered> finished_ns_{};
    std::atomic<u64> finished_;
    std::atomic<u64> begun_;
    std::atomic<u64> taken_{0};

    std::mutex mutex_;
    std::condition_variable came_;
    std::vector<Change> changes_;
    u64 number_ = 0;
};

class TestReader : public protocol::Elsewhere {
public:
    explicit TestReader(u32 number = 0) : number_(number), waiter_(pages_.waiter_words(0)) {
        waiter_.add(source_);
    }
    virtual ~TestReader() = default;
    TestReader(const TestReader&) = delete;
    TestReader& operator=(const TestReader&) = delete;

    struct Attached {
        Attached(TestPublication& from, u64 number, const protocol::Start& from_start,
                 const protocol::Attachment::Words& words)
            : publication(from),
              id(number),
              start(from_start),
              attachment(from.ring().readable(), from_start.position, from_start.sequence, words) {}

        TestPublication& publication;
        u64 id;
        protocol::Start start;
        u64 received = 0;
        u64 lost = 0;
        bool closed = false;
        std::atomic<u64> last{0};  ///< sequence of the last record received, for the publisher
        protocol::Attachment attachment;
    };

    [[nodiscard]] const TestClient& pages() const { return pages_; }
    [[nodiscard]] protocol::Waiter& waiter() { return waiter_; }
    [[nodiscard]] protocol::Source& source() { return source_; }

    /// Joins a publication, through its "daemon".
    Attached& attach(TestPublication& publication, u64 id, u32 slot, bool reliable = true) {
        protocol::Start start;
        publication.cursor_stored(number_, publication.ring().origin());
        if (!publication.join(pages_.entry(id, slot, 0, reliable), start)) {
            std::abort();
        }
        attached_.push_back(std::make_unique<Attached>(
            publication, id, start, pages_.attachment_words(slot, publication.pages(), 0)));
        waiter_.attach(source_, attached_.back()->attachment);
        return *attached_.back();
    }
    /// Leaves it again; the slot may be used again once the writer has taken in what is returned.
    u64 detach(Attached& attached) {
        waiter_.detach(attached.attachment);
        const u64 number = attached.publication.leave(attached.id);
        attached.attachment.clear_slot();
        std::erase_if(attached_, [&](const auto& other) { return other.get() == &attached; });
        return number;
    }
    [[nodiscard]] const std::vector<std::unique_ptr<Attached>>& attached() const {
        return attached_;
    }

    /// Looks once at all that is active. True if there was anything.
    bool look_around() {
        waiter_.take_activity();
        bool found = false;
        for (std::size_t left = source_.active_count(); left != 0; left--) {
            protocol::Attachment* attachment = source_.turn();
            if (attachment == nullptr) {
                break;
            }
            found = look_at(of(*attachment)) || found;
        }
        if (found) {
            waiter_.fruitful();
            slice_ns_ = kFirstSliceNs;
        }
        note_cursors();
        return found;
    }
    /// Sleeps until there is news, and checks that no wake-up was missed.
    protocol::Waiter::Slept sleep(i64 timeout_ns = 10'000'000'000) {
        looked_ns_ = 0;
        const protocol::Waiter::Slept slept = waiter_.sleep(timeout_ns, *this);
        if (slept == protocol::Waiter::Slept::timed_out) {
            const i64 slept_ns = std::min(slice_ns_, timeout_ns);
            for (const auto& attached : attached_) {
                const u64 unread = attached->attachment.reader().expected();
                if (attached->publication.finished() >= unread &&
                    attached->publication.finished_ns(unread) < looked_ns_ + slept_ns) {
                    missed_++;
                }
            }
            if (slept_ns == slice_ns_) {
                slice_ns_ = std::min<i64>(slice_ns_ * 4, 10'000'000'000);
            }
        }
        return slept;
    }
    /// Reads until all rings are closed; looks up to `looks_max` times more before each sleep.
    void run(u32 looks_max = 0) {
        std::mt19937 random(number_);
        while (open() != 0) {
            bool found = look_around();
            for (u32 looks = looks_max == 0 ? 0 : random() % looks_max; looks != 0 && !found;
                 looks--) {
                found = look_around();
            }
            if (!found) {
                (void)sleep();
            }
        }
    }
    [[nodiscard]] u64 open() const {
        u64 count = 0;
        for (const auto& attached : attached_) {
            count += attached->closed ? 0 : 1;
        }
        return count;
    }

    /// Sleeps that ended by time though a record had been made known before: lost wake-ups.
    [[nodiscard]] u64 missed() const { return missed_; }
    /// Records out of order, twice, or with wrong bytes.
    [[nodiscard]] u64 wrong() const { return wrong_; }

    bool look() override {
        // After [S6] found nothing: what is finished from here on must ring.
        note_cursors();
        looked_ns_ = sys::monotonic_ns();
        return false;
    }

private:
    static constexpr i64 kFirstSliceNs = 1'000'000;

    Attached& of(protocol::Attachment& attachment) {
        for (const auto& attached : attached_) {
            if (&attached->attachment == &attachment) {
                return *attached;
            }
        }
        std::abort();
    }
    bool look_at(Attached& attached) {
        using Look = protocol::RingReader::Look;
        protocol::RingReader& reader = attached.attachment.reader();
        protocol::Record record;
        const u64 expected = reader.expected();
        switch (receive(reader, record, payload_)) {
            case Look::record:
                wrong_ += record.sequence == expected &&
                                  is_filled(payload_.data(), record.sequence, payload_.size())
                              ? 0
                              : 1;
                attached.received++;
                attached.last.store(record.sequence, std::memory_order_release);
                attached.attachment.moved();
                source_.fruitful(attached.attachment);
                return true;
            case Look::empty:
                attached.attachment.store_cursor();
                source_.fruitless(attached.attachment);
                return false;
            case Look::lapped: {
                u64 lost = 0;
                const protocol::RingReader::Resync told = reader.resync(lost);
                wrong_ += told == protocol::RingReader::Resync::corrupt ? 1 : 0;
                attached.lost += lost;
                attached.attachment.moved();
                return true;
            }
            case Look::closed:
                attached.closed = true;
                attached.attachment.store_cursor();
                waiter_.detach(attached.attachment);
                return true;
            case Look::corrupt: break;
        }
        wrong_++;
        attached.closed = true;
        waiter_.detach(attached.attachment);
        return true;
    }
    void note_cursors() {
        for (const auto& attached : attached_) {
            // relaxed: our own word.
            const u64 cursor = pages_.slot(attached->attachment.bit()).cursor.load(
                std::memory_order_relaxed);
            attached->publication.cursor_stored(
                number_, cursor == 0 ? attached->start.position : cursor);
        }
    }

    u32 number_;
    TestClient pages_;
    protocol::Waiter waiter_;
    protocol::Source source_;
    std::vector<std::unique_ptr<Attached>> attached_;
    std::vector<std::byte> payload_;
    i64 slice_ns_ = kFirstSliceNs;
    i64 looked_ns_ = 0;
    u64 missed_ = 0;
    u64 wrong_ = 0;
};

/// Keeps the calling thread on the n-th of the CPUs it may use, while it lives: threads that ring
/// each other are gladly put on one CPU, where nothing ever happens at the same time.
class OnCpu {
public:
    explicit OnCpu(unsigned number) {
        cpu_set_t one;
        CPU_ZERO(&before_);
        CPU_ZERO(&one);
        if (::sched_getaffinity(0, sizeof before_, &before_) != 0) {
            return;
        }
        number %= static_cast<unsigned>(CPU_COUNT(&before_));
        for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (CPU_ISSET(cpu, &before_) && number-- == 0) {
                CPU_SET(cpu, &one);
                break;
            }
        }
        (void)::sched_setaffinity(0, sizeof one, &one);
    }
    ~OnCpu() { (void)::sched_setaffinity(0, sizeof before_, &before_); }
    OnCpu(const OnCpu&) = delete;
    OnCpu& operator=(const OnCpu&) = delete;

private:
    cpu_set_t before_;
};

/// Waits for `condition`; gives the CPU away after a while, since there may be but one, and gives
/// up when it never comes true.
template <class Condition>
bool wait_for(Condition&& condition) {
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    for (unsigned turns = 0; !condition(); turns++) {
        if (turns < 4000) {
            protocol::cpu_relax();
        } else if (deadline.passed()) {
            return false;
        } else {
            (void)::sched_yield();
        }
    }
    return true;
}

}  // namespace ipcbus::test
