// SPDX-License-Identifier: Apache-2.0
// Subscriber: one subscription of this client. Reads the rings it is attached to in turn, keeps
// count of what it lost, lends and copies. Used by one thread at a time; ATTACHED and ENDED are
// stored by whichever thread reads the socket.
#pragma once

#include "attached.hpp"
#include "bus.hpp"
#include "protocol/exchange.hpp"
#include "readiness.hpp"
#include "wait_loop.hpp"

#include <ipcbus/ipcbus.h>

#include <optional>

namespace ipcbus::client {

class Subscriber;

class Set;

struct SubscriberOptions {
    protocol::ReaderMode mode = protocol::ReaderMode::reliable;
    i64 spin_ns = 0;
    u64 history = 0;  ///< messages of each publication to begin with; protocol::kHistoryAll: all
};

/// Whose records have heads (protocol/exchange.hpp): decides by them what is received.
class HeadFilter {
public:
    /// Called for each record before it is known to be whole: must only look. What it returned true
    /// for last is what a receive that then succeeds is about.
    virtual bool wants(const Attached& attached, const protocol::Head& head) = 0;
    /// That attachment is read no more; before, if so, that its writer has broken the protocol.
    virtual void gone(const Attached& /*attached*/) {}
    virtual void broken(const Attached& /*attached*/) {}

protected:
    ~HeadFilter() = default;
};

/// What a subscription to requests or to replies needs beside its options.
struct HeadedOptions {
    bool replies = false;
    protocol::Id128 lineage{};        ///< of the requests whose replies it gets
    HeadFilter* heads = nullptr;      ///< outlives it
};

class Subscriber final : public FrameSink, private protocol::Elsewhere {
public:
    /// What the C API gave out for it: the C API's, nothing else looks at it.
    ipcbus_subscriber* handle = nullptr;

    [[nodiscard]] static sys::Result<std::unique_ptr<Subscriber>>
    create(Bus& bus, const std::string& filter, const SubscriberOptions& options);
    [[nodiscard]] static sys::Result<std::unique_ptr<Subscriber>>
    create_headed(Bus& bus, const std::string& filter, const SubscriberOptions& options,
                  const HeadedOptions& headed);
    ~Subscriber();
    Subscriber(const Subscriber&) = delete;
    Subscriber& operator=(const Subscriber&) = delete;

    // All return 0 (a count) or -errno; the text is left in last_error (error_text.hpp).
    int receive(void* buffer, std::size_t bytes, i64 timeout_ns, ipcbus_message* ret_message);
    int borrow(i64 timeout_ns, ipcbus_message* ret_message);
    i64 borrow_many(i64 timeout_ns, ipcbus_message* ret_messages, std::size_t count);
    int release();
    /// The descriptor for event loops (readiness.hpp), made by the first call.
    int fd();
    /// A signal with it; 0: none any more.
    int notify(int signal, void* value);

    // Of requests and replies.
    /// As receive; when there is nothing, `otherwise` is asked: what is not -EAGAIN ends the wait.
    /// That a ring of replies has broken the protocol is told to the HeadFilter alone.
    template <class Otherwise>
    int receive_or(void* buffer, std::size_t bytes, i64 timeout_ns, ipcbus_message& ret_message,
                   Otherwise&& otherwise);
    /// The head of what was received last.
    [[nodiscard]] const protocol::Head& head() const { return head_; }
    /// What the daemon has told, and another daemon: as each receive does.
    void attend_now() {
        if (generation_ != bus_.generation()) {
            news_.store(true, std::memory_order_relaxed);  // own thread: attend() is next
        }
        attend();
    }
    /// Lets go of rings that have ended and have nothing in them for us, before their turn comes.
    void drop_ended();
    /// The next sleep is a short one: somebody waits for a time that nobody rings for.
    void look_soon() { waiter().limit_slice(100'000'000); }
    /// Whether a ring that answers that attachment's requests is read, or will be.
    [[nodiscard]] bool reads_replies_of(const Link& link, u64 attachment) const;
    /// Tells the writer at once what has been read: what is received next may be long in coming.
    static void pass(const Attached& attached) { const_cast<Attached&>(attached).store_cursor(); }

    [[nodiscard]] u64 lost() const { return lost_; }
    [[nodiscard]] u32 publication_count();
    [[nodiscard]] Bus& bus() const { return bus_; }
    /// Whether the calling thread is the one that last used this handle.
    [[nodiscard]] bool used_by_this_thread() const;

    void frame(Link& link, const protocol::FrameHeader& header,
               std::span<const std::byte> fields) override;
    void wake() override;

private:
    friend class Set;
    /// Looks between two glances at the clock by a reader that never sleeps.
    static constexpr u32 kLooksPerGlance = 64;
    /// Records of other topics that one look skips in a filter publication before others get a
    /// turn, and records before those that were asked for.
    static constexpr u32 kSkipsMax = 64;

    Subscriber(Bus& bus, std::string filter, const SubscriberOptions& options);

    /// Stored under the control lock by any thread, applied by ours.
    struct Delivery {
        std::unique_ptr<Attached> attached;
        u64 ended = 0;               ///< the attachment that has,
        const Link* link = nullptr;  ///< of that daemon: each numbers its own; to be compared
        u8 reason = 0;
        int code = 0;       ///< an attachment could not be made;
        std::string fault;  ///< why
    };

    // protocol::Elsewhere
    bool look() override;

    /// What a look over the rings found.
    struct Found {
        Attached* attached = nullptr;
        protocol::Record record;
    };
    int find(Found& ret_found, ipcbus_message* ret_message);
    int look_at(Attached& attached, Found& ret_found, ipcbus_message* ret_message);
    int begin(Attached& attached, ipcbus_message* ret_message);
    int lapped(Attached& attached, ipcbus_message* ret_message);
    int moved(Attached& attached, protocol::RingReader::Resync how, u64 lost,
              ipcbus_message* ret_message);
    int report_loss(Attached& attached, u64 lost, const char* why, ipcbus_message* ret_message);
    int report_loss_before_start(Attached& attached, ipcbus_message* ret_message);
    void keep(int result, const ipcbus_message& message);
    int tell_untold(ipcbus_message* ret_message);
    bool accepts(const Attached& attached, const protocol::Record& record);
    bool accepts_head(const Attached& attached, const protocol::Record& record);
    int try_headed(void* buffer, std::size_t bytes, ipcbus_message* ret_message);
    [[nodiscard]] sys::Result<Answer> ask_headed();
    int corrupt(Attached& attached);
    int nothing() const;
    int try_receive(void* buffer, std::size_t bytes, ipcbus_message* ret_message);
    i64 lend(Attached& attached, const protocol::Record& first, ipcbus_message* ret_messages,
             std::size_t count);
    struct Lent {
        u64 next = 0;  ///< position behind the last
        std::size_t count = 0;
    };
    static Lent lend_all(const Attached& attached, const protocol::Record& first, u64 batch_end,
                         ipcbus_message* ret_messages, std::size_t count);
    Lent lend_accepted(const Attached& attached, const protocol::Record& first, u64 batch_end,
                       ipcbus_message* ret_messages, std::size_t count);
    [[nodiscard]] bool plain() const {
        return plain_left_ != 0 && loan_ == nullptr && !bus_.in_child();
    }
    void note_plain(Attached& attached);
    const protocol::RingReader* only_active();
    bool only_plain();
    bool receive_plainly(void* buffer, std::size_t bytes, ipcbus_message* ret_message);
    [[gnu::noinline]] int receive_slowly(void* buffer, std::size_t bytes, i64 timeout_ns,
                                         ipcbus_message* ret_message);
    i64 borrow_plainly(ipcbus_message* ret_messages, std::size_t count);
    void taken(Attached& attached, u64 next);
    i64 try_borrow(ipcbus_message* ret_messages, std::size_t count);
    void describe(const Attached& attached, const protocol::Record& record,
                  ipcbus_message* ret_message);
    int ready();
    [[nodiscard]] u64 rounds_to_newest() const;
    /// Whatever is armed with this subscriber's rings, is no more.
    void disarm();
    /// The next call is to take the long way, and disarm.
    void note_armed() { looks_ = kLooksPerGlance; }

    /// A loan is open: nothing can be received, and who waits in an event loop is to wait until it
    /// is released.
    void rest();

    /// What the control side has for us: frames, a lost connection, another daemon.
    void attend() {
        if (has_news()) {
            hear_control();
        }
    }
    [[nodiscard]] bool has_news() const {
        // relaxed: hints; hear_control looks again with order.
        return link_->frames().load(std::memory_order_relaxed) != frames_seen_ ||
               news_.load(std::memory_order_relaxed);
    }
    void hear_control();
    void take_inbox();
    bool take_deliveries();
    void apply(Delivery& delivery);
    void attach(std::unique_ptr<Attached>& attached);
    void end(const Link* link, u64 attachment, protocol::EndReason reason);
    void admit(std::unique_ptr<Attached>& attached);
    bool receive_attached(Link& link, std::span<const std::byte> fields, Delivery& ret_delivery);
    void unroute(const std::vector<Delivery>& deliveries, const Bus::Lock&);
    [[nodiscard]] bool has_kin(const Attached& attached) const;
    [[nodiscard]] bool collects_requests() const { return headed_ && !headed_->replies; }
    void let_go(Attached& attached, bool closed = false);
    void drop_orphans(i64 now_ns);
    [[nodiscard]] i64 orphaned_ns(const Attached& attached) const;
    Aside& aside(Attached& attached);
    [[nodiscard]] const Aside& known_aside(const Attached& attached) const;
    [[nodiscard]] u64 passed_over(const Attached& attached) const;
    [[nodiscard]] u64 lost_before_start(const Attached& attached) const;
    void forget_lost_before_start(Attached& attached);
    void drop_if_empty(Attached& attached);
    void leave();
    void forget_passed_over(Attached& attached);
    void look_at_connection();
    /// The waiter that this thread sleeps on: its own, or its set's.
    [[nodiscard]] protocol::Waiter& waiter() const { return *source_.waiter(); }
    /// Whose pages that waiter is on.
    [[nodiscard]] const Link& slept_on() const;
    /// Where the control side rings when it has stored something. Under the control lock.
    void ring_at(Link& link, u32 waiter);
    sys::Result<void> move_to(const std::shared_ptr<Link>& link);
    sys::Result<void> subscribe(u64 history);
    sys::Result<Answer> ask_for(u64 history);
    sys::Result<void> await_history();
    void resubscribe();
    int begin_use();
    void note_thread();

    Bus& bus_;
    const std::string filter_;
    const protocol::ReaderMode mode_;
    const u64 history_;
    std::optional<HeadedOptions> headed_;
    protocol::Head head_;
    Patience patience_;
    u64 generation_ = 0;
    std::shared_ptr<Link> link_;
    u64 subscription_ = 0;
    u64 frames_seen_ = 0;

    // Its own waiter; while it is in a set, the set's.
    u32 waiter_number_ = 0;
    std::unique_ptr<protocol::Waiter> waiter_;
    Feed source_{*this};  ///< owns the attachments that are read
    Set* set_ = nullptr;
    std::atomic<u32>* bell_ = nullptr;
    const std::atomic<u32>* asleep_ = nullptr;

    /// Successors that wait until the ring before them is drained.
    std::vector<std::unique_ptr<Attached>> held_;
    Expectations expected_;  ///< of publications whose ring has ended here
    bool admitted_ = false;  ///< one of them has just taken the place of the ring before it
    std::vector<Aside> asides_;
    /// Links of daemons that are no more, and since when we know; the last one is the latest.
    std::vector<std::pair<const Link*, i64>> orphaned_links_;
    std::size_t orphans_ = 0;  ///< attachments that are from them

    std::vector<Delivery> inbox_;
    std::vector<Delivery> taken_;  ///< from the inbox; those before applied_ have been applied
    std::size_t applied_ = 0;
    std::atomic<bool> news_{false};
    std::atomic<u64> thread_{0};  ///< that last used this handle
    /// Where the next message is expected, while plain_left_ is not 0.
    Attached* plain_ = nullptr;
    u32 plain_taken_ = 0;                  ///< those since the last look at everything
    bool rests_ = false;                   ///< the descriptor does, until the loan is released
    protocol::RingReader::Stride stride_;  ///< of what comes from it
    u32 plain_left_ = 0;                   ///< messages that may be taken the short way
    u32 looks_ = 0;
    u32 empty_looks_ = 0;

    u64 lost_ = 0;
    /// What a look has found out and the next receive tells: a loss, an attachment that could not
    /// be made.
    struct Untold {
        int result = 0;
        std::string text;
        ipcbus_message message{};
        char topic[protocol::kTopicBytesMax + 1] = {};
    };
    std::vector<Untold> untold_;  ///< the oldest first
    Attached* loan_ = nullptr;
    u64 loan_position_ = 0;  ///< of its first record
    u64 loan_next_ = 0;      ///< position behind its last
    u64 loan_count_ = 0;
    i64 last_look_ns_ = 0;
    char topic_[protocol::kTopicBytesMax + 1] = {};

    // What the short way does not look at.
    std::unique_ptr<Readiness> readiness_;  ///< nullptr: no descriptor was asked for
    /// With history, all of it is attached. Under the control lock.
    bool caught_up_ = false;
};

template <class Otherwise>
int Subscriber::receive_or(void* buffer, std::size_t bytes, i64 timeout_ns,
                           ipcbus_message& ret_message, Otherwise&& otherwise) {
    if (const int error = begin_use(); error != 0) {
        return error;
    }
    const auto try_once = [&] {
        int result = try_receive(buffer, bytes, &ret_message);
        // Who breaks the protocol is no reason for others to wait, nor to begin anew.
        for (int tries = 0; result == -EPROTO && headed_->replies && tries < 64; tries++) {
            result = try_receive(buffer, bytes, &ret_message);
        }
        if (result == kSkipped) {  // others' records may come without end
            const int other = otherwise();
            return other == -EAGAIN ? kSkipped : other;
        }
        return result == -EAGAIN || (result == -EPROTO && headed_->replies) ? otherwise() : result;
    };
    const int result = wait_until(waiter(), &source_, patience_, *this, timeout_ns, try_once,
                                  [&] { return rounds_to_newest(); },
                                  [&] { return only_active(); },
                                  [&] { return try_headed(buffer, bytes, &ret_message); });
    if (result == 0) {
        waiter().fruitful();
    }
    return result;
}

}  // namespace ipcbus::client
