// SPDX-License-Identifier: Apache-2.0
// Responder: gets the requests to the topics under a filter, and answers them. A subscription to
// requests, and for each requester that is answered a publication with one reader, made with the
// first reply and kept as long as the requester is there (protocol/exchange.hpp). Used by one
// thread at a time. Requests may be answered in another order than they came in, and some never.
//
// A requester that does not take its replies holds its responder for max_block: from then on what
// does not fit at once is dropped, until something does. And all the requesters of one uid together
// hold it for max_block in any ten times that, so that many, or one again and again, cannot do what
// one must not.
#pragma once

#include "publisher.hpp"
#include "subscriber.hpp"

#include <map>

namespace ipcbus::client {

struct ResponderOptions {
    i64 max_block_ns = 0;
    i64 spin_ns = 0;
};

class Responder final : private HeadFilter {
public:
    [[nodiscard]] static sys::Result<std::unique_ptr<Responder>>
    create(Bus& bus, const std::string& filter, const ResponderOptions& options);
    ~Responder();
    Responder(const Responder&) = delete;
    Responder& operator=(const Responder&) = delete;

    // All return 0 or -errno; the text is left in last_error (error_text.hpp).
    int next(void* buffer, std::size_t bytes, i64 timeout_ns, ipcbus_request* ret_request);
    int respond(u64 requester, u64 sequence, const void* data, std::size_t bytes, u32 status,
                bool more);

    [[nodiscard]] u32 requester_count() { return requests_->publication_count(); }
    [[nodiscard]] Bus& bus() const { return bus_; }

private:
    Responder(Bus& bus, const ResponderOptions& options) : bus_(bus), options_(options) {}

    /// A requester, as far as it is answered through one attachment.
    struct Correspondent {
        u64 number = 0;
        std::shared_ptr<Link> link;
        u64 attachment = 0;
        u32 uid = 0;
        std::string topic;
        u64 open = 0;                        ///< requests that are not answered
        bool slow = false;                   ///< did not take the last reply in time
        bool gone = false;                   ///< asks no more, and is in the chain of those
        i64 gone_ns = 0;                     ///< since then
        Correspondent* next_gone = nullptr;  ///< in the chain
        std::unique_ptr<Publisher> replies;  ///< none before the first
    };
    using Numbers = std::map<std::pair<const Link*, u64>, Correspondent*>;
    using Correspondents = std::map<u64, Correspondent>;
    /// How long replies to one uid may wait for room.
    struct Budget {
        i64 left_ns = 0;
        i64 at_ns = 0;  ///< when it was as much
    };
    /// For waiting for room, one for each connection: all publications there share it.
    struct TakenWaiter {
        std::shared_ptr<Link> link;
        u32 number = 0;
    };

    // HeadFilter
    bool wants(const Attached& attached, const protocol::Head& head) override;
    void gone(const Attached& attached) override;

    void make_spares();
    Correspondent& correspondent(const Attached& from);
    int publish(Correspondent& to, const protocol::Head& head, const void* data,
                std::size_t bytes);
    int publish_waiting(Correspondent& to, const protocol::Head& head, const void* data,
                        std::size_t bytes);
    int look_up(u64 requester);
    int open_replies(Correspondent& to, u64 sequence);
    sys::Result<u32> waiter_on(const std::shared_ptr<Link>& link);
    int failed_to_respond(int result, const Correspondent& to, std::size_t bytes) const;
    void drop_gone();
    void give_waiters_back();

    Bus& bus_;
    const ResponderOptions options_;
    const Attached* from_ = nullptr;  ///< what wants() found last
    std::unique_ptr<Subscriber> requests_;
    Numbers numbers_;                ///< correspondents by attachment,
    Correspondents correspondents_;  ///< and by numbers that are never used again
    /// For the next one: when a request has been received, no memory may be needed.
    Numbers::node_type spare_number_;
    Correspondents::node_type spare_correspondent_;
    u64 last_number_ = 0;
    Correspondent* recent_ = nullptr;  ///< the one that was looked up last
    Correspondent* gone_ = nullptr;    ///< first of those that ask no more
    std::map<u32, Budget> budgets_;    ///< by uid
    std::vector<TakenWaiter> waiters_;
};

}  // namespace ipcbus::client
