// SPDX-License-Identifier: Apache-2.0
// Requester: asks whoever serves one topic, and takes what is answered. A publication of requests,
// a subscription to the replies, and the books in between: who serves, and which replies are
// awaited of whom. What makes it safe is told in protocol/exchange.hpp. Used by one thread at a
// time; the calls of Audience come from within its own.
//
// WHO IS ASKED: of those who serve the topic, the one of whom the fewest replies are awaited; in
// turn among several. One that let a deadline pass is left out for a while, as long as there is
// another: it may be stopped. So responders share the requests, each as fast as it can. What is
// awaited is a list that is searched: made for some hundreds of requests under way.
//
// A responder that has left stays in the books while a reply of it is awaited: until all rings in
// which it has answered are read to their end. Then what is left is told as failed, one by one. The
// same for one that has not read its requests as long as the ring held them (ADDRESSED RECORDS in
// protocol/reader_table.hpp), but that one stays.
#pragma once

#include "publisher.hpp"
#include "subscriber.hpp"

namespace ipcbus::client {

struct RequesterOptions {
    u64 request_bytes_max = 0;
    u64 reply_bytes_max = 0;
    i64 spin_ns = 0;
};

class Requester final : private HeadFilter, private Audience {
public:
    [[nodiscard]] static sys::Result<std::unique_ptr<Requester>>
    create(Bus& bus, const std::string& topic, const RequesterOptions& options);
    Requester(const Requester&) = delete;
    Requester& operator=(const Requester&) = delete;

    // All return 0 or -errno; the text is left in last_error (error_text.hpp).
    int call(const void* data, std::size_t bytes, void* buffer, std::size_t buffer_bytes,
             i64 timeout_ns, ipcbus_reply* ret_reply);
    int ask(const void* data, std::size_t bytes, bool all, i64 timeout_ns, u64* ret_request);
    int next_reply(void* buffer, std::size_t bytes, i64 timeout_ns, ipcbus_reply* ret_reply);
    int abandon(u64 request);

    int wait_responders(u32 count, i64 timeout_ns);
    [[nodiscard]] u32 responder_count() const { return requests_->subscriber_count(); }
    [[nodiscard]] std::size_t request_bytes_max() const { return requests_->message_bytes_max(); }
    [[nodiscard]] Bus& bus() const { return bus_; }

private:
    Requester(Bus& bus, std::string topic) : bus_(bus), topic_(std::move(topic)) {}

    struct Responder {
        std::shared_ptr<Link> link;  ///< by which its attachment's number is to be understood
        u64 attachment = 0;
        bool own = false;  ///< it may be of this client
        bool member = true;
        u32 awaited = 0;      ///< replies
        u64 left_out_to = 0;  ///< until so many have been asked
    };
    struct Awaited {
        u64 request = 0;
        u64 attachment = 0;
        const Link* link = nullptr;  ///< the responder's, which keeps it
        u64 position = 0;            ///< of the request in its ring
        int failed = 0;              ///< there will be no reply: why (an errno)
    };

    // HeadFilter
    bool wants(const Attached& attached, const protocol::Head& head) override;
    void broken(const Attached& attached) override;
    // Audience
    void joined(const std::shared_ptr<Link>& link, u64 attachment, bool own) override;
    void left(u64 attachment) override;
    void overtaken(u64 attachment, u64 from, u64 to) override;
    void refused(const protocol::Refused& told) override;
    void moved() override;

    enum class Whom { one, one_elsewhere, all };  ///< elsewhere: not this very thread
    int prepare();
    int send(const void* data, std::size_t bytes, Whom whom, i64 timeout_ns, u64* ret_request);
    Responder* choose(bool elsewhere);
    int nobody(bool elsewhere) const;
    template <class Each>
    bool forget(u64 request, Each&& each);
    void await(Responder& responder, u64 request);
    [[nodiscard]] Responder* find(const Link& link, u64 attachment);
    [[nodiscard]] Responder& responder_of(const Awaited& awaited);
    void settle(std::size_t index);
    void drop_gone();
    int look_at_responders();
    int look_at_failed();
    int tell_failed(std::size_t index, int code, const std::string& why);
    template <class Which>
    void note_failed(u64 attachment, int code, Which&& which);
    void fill(const ipcbus_message& message, ipcbus_reply* ret_reply) const;

    Bus& bus_;
    const std::string topic_;
    std::vector<Responder> responders_;
    std::vector<Awaited> awaited_;  ///< in the order in which they were asked
    std::size_t matched_ = 0;       ///< of awaited_: what wants() found last
    u32 matched_uid_ = 0;           ///< and who had written it
    std::size_t turn_ = 0;
    u64 asked_ = 0;
    u32 gone_ = 0;            ///< responders of whom replies are awaited, and who have left
    bool some_failed_ = false;
    u64 failed_request_ = 0;
    std::unique_ptr<Subscriber> replies_;
    std::unique_ptr<Publisher> requests_;  ///< goes before replies_, which it wakes
};

}  // namespace ipcbus::client
