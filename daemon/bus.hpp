// SPDX-License-Identifier: Apache-2.0
// The bus: every connection, client, publication, subscription and attachment, and what the frames
// of a client do to them. The broker gives it connections; sessions give it requests. Owned by the
// broker, the daemon's one thread.
//
// Who outlives whom: a Client is gone with its connection (or moves, RESUME), and with it its
// subscriptions. A Publication may outlive its publisher: until each reader has let go. An
// Attachment is over when writer and reader have let go, and then its slot is free. Others are
// named by id where they may be gone, by pointer where they cannot.
//
//   bus.cpp               connections and clients: HELLO, RESUME, their end
//   bus_turn.cpp          what is done at the end of a turn of the loop, and how much of it
//   bus_publications.cpp  ADVERTISE, MAPPED, UNADVERTISE; the end of a publication
//   bus_jobs.cpp          attaching many to many, piece by piece
//   bus_end.cpp           STOPPING, and waiting for readers
//   bus_exchange.cpp      ASK, SERVE, COLLECT, RESPOND
//   bus_access.cpp        who may do what, also where the rules have changed
//   bus_look.cpp          LOOK: what is on the bus, for who may know
//   bus_attachments.cpp   SUBSCRIBE, UNSUBSCRIBE, DETACHED, TAKEN, COMPLAIN; attach and detach
//   teller.cpp            what a client is told by itself: PEER, MEMBERS, ATTACHED, ENDED
#pragma once

#include "attachment_table.hpp"
#include "client.hpp"
#include "connect_rate.hpp"
#include "fair_queue.hpp"
#include "lingering.hpp"
#include "protocol/wire_look.hpp"
#include "publication.hpp"
#include "session.hpp"

#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>

namespace ipcbus::daemon {

/// Random: a secret, or a name that nobody else has.
[[nodiscard]] sys::Result<protocol::Id128> random_id();
/// Takes the same time wherever they differ: a token is a secret.
[[nodiscard]] bool equal(const protocol::Id128& a, const protocol::Id128& b);

class Bus {
public:
    [[nodiscard]] static sys::Result<std::unique_ptr<Bus>> create(EventLoop& loop,
                                                                  const Config& config);
    ~Bus();

    void connect(sys::UniqueFd socket, PeerIdentity peer);
    void refuse_connection(sys::UniqueFd socket, const sys::Error& error);
    /// Live keys hold at once, the others for what is made from now on.
    void set_config(const Config& config);

    /// STOPPING to everybody; `on_empty` once the last connection has gone, or soon, when nobody
    /// has anything left to read. From now on nobody is told of anything else: clients hang up and
    /// go on without a daemon in the rings they have, so a hang-up means no death, and membership
    /// stays what it was.
    void stop(std::function<void()> on_empty);
    /// Ends what is left, without waiting; the loop becomes idle.
    void close();

    [[nodiscard]] std::size_t connection_count() const { return sessions_.size(); }
    [[nodiscard]] std::size_t client_count() const { return clients_.size(); }
    [[nodiscard]] std::size_t attachment_count() const { return attachments_.size(); }

    // For sessions.
    void hello(Session& session, std::uint64_t request, const protocol::Hello& frame);
    void resume(Session& session, std::uint64_t request, const protocol::Resume& frame);
    void mapped(Client& client, Id publication);
    void advertise(Client& client, std::uint64_t request, const protocol::Advertise& frame);
    void unadvertise(Client& client, std::uint64_t request, Id publication);
    /// SUBSCRIBE is one without history.
    void subscribe(Client& client, std::uint64_t request, const protocol::SubscribeFrom& frame);
    void ask(Client& client, std::uint64_t request, const protocol::Ask& frame);
    void serve(Client& client, std::uint64_t request, const protocol::Serve& frame);
    void collect(Client& client, std::uint64_t request, const protocol::Collect& frame);
    void respond(Client& client, std::uint64_t request, const protocol::Respond& frame);
    /// A piece of the client's jobs. Not to be called without one. False: others come first.
    [[nodiscard]] bool go_on(Client& client);
    void unsubscribe(Client& client, std::uint64_t request, Id subscription);
    void detached(Client& client, Id attachment);
    void taken(Client& client, const protocol::Taken& frame);
    void complain(Client& client, const protocol::Complain& frame);
    void look(Client& client, std::uint64_t request, const protocol::Look& frame);

    /// The session's client, if it has one, leaves the bus with all it has.
    void client_gone(Session& session);
    void session_closed(Session& session);
    /// Session::work(), from the end of this turn on, in turn with others.
    void work_later(Session& session);
    /// Session::pump() at the end of this turn.
    void pump_later(Session& session);
    /// For what the daemon keeps on behalf of a remote client, beside what the bus itself does.
    [[nodiscard]] sys::Result<Charge> charge(uid_t uid, const Amounts& amounts,
                                             std::string_view what) {
        return quota_.charge(uid, amounts, what);
    }
    /// The same for what is for several of them.
    [[nodiscard]] Charge charge_bus(const Amounts& amounts) { return quota_.charge_bus(amounts); }
    /// Whether a line about a client may be logged now; else it is counted.
    [[nodiscard]] bool may_log();
    [[nodiscard]] bool stopping() const { return stopping_; }
    /// Adds what the client is to be told, as far as descriptors and room allow.
    void tell(Client& client, Outbox& outbox);
    /// Whoever waits for room in the budget of descriptors on the way may try again.
    void descriptors_came_back();
    /// A send to the client has completed: whoever of it sleeps is rung, from the end of this turn
    /// on.
    void announce_frames(Client& client);
    [[nodiscard]] std::uint64_t unread_bytes_max() const {
        return config_.limits.unread_reply_bytes;
    }

private:
    Bus(EventLoop& loop, const Config& config, std::uint64_t descriptors_max);

    // bus.cpp
    [[nodiscard]] Client* find_client(Id id);
    [[nodiscard]] protocol::Geometry geometry() const;
    [[nodiscard]] sys::Result<ClientMemory> take_pages();
    void make_spare_pages();
    bool give_way();
    void welcome(Client& client, std::uint64_t request, bool resumed);
    void tell_again(Client& client, const Outbox& lost);
    void linger(Client& client, Session& session);
    [[nodiscard]] static sys::Error stopping_error();
    [[nodiscard]] static sys::Error with_remedy(std::string_view what, const sys::Error& error);

    // bus_turn.cpp
    void schedule();
    void turn();
    void work_some();
    void pump_all();
    void ring_some();

    // bus_end.cpp
    void nothing_left();
    [[nodiscard]] bool drained() const;
    [[nodiscard]] bool has_unread(const Attachment& attachment) const;
    void look_whether_drained();

    // bus_look.cpp
    struct Viewer;
    [[nodiscard]] protocol::ClientsPage page_of_clients(const Viewer& viewer, Id after) const;
    [[nodiscard]] protocol::PublicationsPage page_of_publications(const Viewer& viewer,
                                                                  Id after) const;
    [[nodiscard]] protocol::SubscriptionsPage page_of_subscriptions(const Viewer& viewer,
                                                                    Id after) const;
    [[nodiscard]] protocol::AttachmentsPage page_of_attachments(const Viewer& viewer,
                                                                std::uint64_t after) const;

    // bus_access.cpp
    void apply_access();
    /// True: there are more.
    [[nodiscard]] bool check_some();
    void check(Publication& publication);
    void revoke(Publication& publication, Client& writer);
    [[nodiscard]] static sys::Result<void> check_right(const Client& client, Right right,
                                                       const std::string& filter,
                                                       std::string_view what, bool whole);
    [[nodiscard]] static sys::Result<void> may_subscribe(const Client& client,
                                                         const Subscription& asked_for,
                                                         std::string_view what);
    [[nodiscard]] static bool may_read(const Client& reader, const Publication& publication);

    // bus_publications.cpp
    void make_publication(Client& client, std::uint64_t request,
                          sys::Result<Publication*> made_publication);
    [[nodiscard]] sys::Result<Publication*> new_publication(Client& client, uid_t ring_payer,
                                                            const protocol::Advertise& frame,
                                                            Publication::Description about);
    [[nodiscard]] Registry& registry_of(Kind kind) {
        return kind == Kind::requests ? requests_ : registry_;
    }
    [[nodiscard]] Publication* repeated(Client& client, std::uint64_t request, Kind kind,
                                        const protocol::Advertise& frame);
    [[nodiscard]] static Publication* advertised(Client& client, Id id);
    void made(Publication& publication, sys::Result<void> result);
    void sealed(Publication& publication, sys::Result<void> result);
    void end_publication(Publication& publication);
    void release_ring(Publication& publication);
    void release_publication(Publication& publication);
    void charge_holder(Publication& publication);
    void watch_readers(Publication& publication);
    void stall_time_over();
    void give_up_showing(Attachment& attachment);

    // bus_jobs.cpp
    void meet_readers(Publication& publication);
    void attach_some(Client& client);
    void attached_all(Client& client);
    [[nodiscard]] Lacking left_of(const Attaching& work) const;
    void meet(Publication& publication, Client& reader, Id subscription);
    void retry(Client& client);
    void retry_all();
    void retry_soon();
    void retry_next(Client& client);

    // bus_exchange.cpp
    [[nodiscard]] sys::Result<Publication*> new_replies(Client& client,
                                                        const protocol::Respond& frame);
    [[nodiscard]] Subscription* collector(Id requester, const protocol::Id128& lineage);
    [[nodiscard]] sys::Result<void> show_to_requester(Publication& replies);
    void tell_refusal(Id answered, protocol::u64 sequence, int code);
    [[nodiscard]] sys::Result<void> may_be_answered(uid_t asks, uid_t answers) const;
    [[nodiscard]] sys::Result<uid_t> payer_of_replies(const Subscription& reader,
                                                      const Publication::Description& asked,
                                                      uid_t answers) const;
    void end_replies(const Attachment& answered);
    void abandon_replies(Publication& replies);
    void end_abandonment(Publication& replies);
    void forget_replies(const Publication& replies);
    [[nodiscard]] static bool owes_replies(const Client& client, const Publication& publication);

    // bus_attachments.cpp
    void begin_subscription(Client& client, std::uint64_t request, Subscription asked_for);
    [[nodiscard]] sys::Result<void> provide_slots(Client& client, std::size_t count,
                                                  std::string_view what);
    [[nodiscard]] sys::Result<void> make_room(Client& reader, std::string_view what);
    enum class Attach { done, no_room, bad_ring, denied };
    Attach attach(Publication& publication, Subscription& subscription);
    void set_reader_end(Attachment& attachment, Attachment::Reader reader_end);
    void await(Attachment& attachment);
    void tell_caught_up(Subscription& subscription);
    void end_subscription(Client& client, Subscription& subscription);
    void detach_at_writer(Attachment& attachment);
    void detach(Attachment& attachment);
    void writer_gone(Attachment& attachment);
    void let_go(Attachment& attachment);
    void release_if_over(Attachment& attachment);
    void tell_reader(Attachment& attachment);
    void owe_end(Attachment& attachment, protocol::EndReason reason);
    void changed(Publication& publication);

    // teller.cpp
    void tell_publications(Client& client, Outbox& outbox);
    void tell_access(Publication& publication, Outbox& outbox);
    bool tell_members(Client& client, Publication& publication, Outbox& outbox);
    bool tell_publication(Client& client, Publication& publication, Outbox& outbox);
    bool tell_attachment(Client& client, Attachment& attachment, Outbox& outbox);

    EventLoop& loop_;
    Config config_;
    Quota quota_;         ///< outlives everything below, which is charged to it
    FdBudget fd_budget_;  ///< the same
    ConnectRate connect_rate_{key::kUidConnects};
    RingPool pool_;
    std::optional<ClientMemory> spare_pages_;  ///< for the next client
    Charge spare_charge_;
    bool spare_deferred_ = false;
    protocol::Id128 bus_id_{};
    Registry registry_;                   ///< of messages; all ids are its
    std::uint64_t arrivals_ = 0;          ///< publications that a registry has got to know
    Registry requests_;                   ///< who asks and who serves
    /// The publication that answers an attachment's requests. Of each there is one, ever.
    std::unordered_map<Id, Id> replies_;
    /// Rings of replies, by who asks and who answers, where these are two.
    struct RepliesBetween {
        std::uint64_t rings = 0;
        std::uint64_t abandoned_bytes = 0;  ///< of those that the former pays for
    };
    std::map<std::pair<uid_t, uid_t>, RepliesBetween> replies_between_;
    Lingering lingering_;
    // In the order of their ids, for LOOK.
    std::map<Id, std::unique_ptr<Publication>> publications_;
    std::map<Id, std::unique_ptr<Client>> clients_;
    /// Those that are over, until nothing of them is under way.
    std::unordered_map<const Publication*, std::unique_ptr<Publication>> retired_;
    AttachmentTable attachments_;
    std::map<Id, Client*> subscriptions_;  ///< whose it is; in the order of their ids
    std::unordered_map<Session*, std::unique_ptr<Session>> sessions_;
    /// The rules have changed: publications up to this one have been looked at.
    std::optional<Id> checked_to_;
    bool turn_scheduled_ = false;
    FairQueue to_work_;
    std::vector<Session*> to_pump_;
    std::deque<Id> to_ring_;  ///< clients
    std::int64_t log_window_ns_ = 0;
    unsigned log_lines_ = 0;
    std::uint64_t log_lines_left_out_ = 0;
    /// Publications that have ended and still have readers, and when these have had time enough.
    std::deque<std::pair<std::int64_t, Id>> overdue_;
    OperationScope scope_;
    Timer stall_timer_;
    Timer drain_timer_;
    Timer retry_timer_;
    std::function<void()> on_empty_;
    bool stopping_ = false;
};

}  // namespace ipcbus::daemon
