// SPDX-License-Identifier: Apache-2.0
// Goal: nobody but the requester reads its replies, and nobody but the responder that was asked
// answers it, whatever frames a client sends and whatever it writes into its own rings; nobody can
// use up what is another user's, nor keep a requester waiting beyond its deadline.
// Method: a private ipcbusd; honest requesters and responders by the library; the attacker speaks
// raw frames, writes rings by itself, or uses the library with what it was not given.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"
#include "shared_block.hpp"

#include "protocol/exchange.hpp"
#include "protocol/ring_writer.hpp"
#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u16;
using protocol::u32;
using protocol::u64;

namespace {

protocol::Ask ask_frame(const std::string& topic, protocol::u8 lineage = 7) {
    protocol::Ask ask;
    ask.publication.topic = topic;
    ask.publication.ring_bytes = 4096;
    ask.publication.lineage = {lineage};
    ask.publication.first_sequence = 1;
    ask.reply_ring_bytes = 4096;
    return ask;
}

/// A ring that a raw client writes.
class RawRing {
public:
    RawRing(RawClient& client, const protocol::Advertised& granted)
        : memory_(map(client.fds.at(0).get(), granted)),
          writer_({reinterpret_cast<protocol::RingHeader*>(memory_.header()), memory_.data(),
                   granted.ring_bytes},
                  granted.start, granted.first_sequence, granted.record_bytes_max) {
        client.mapped(granted.publication);
    }
    /// A record with such a head; `head_bytes` of it.
    void write(const protocol::Head& head, std::string_view text,
               std::size_t head_bytes = protocol::kHeadBytes) {
        const u64 bytes = protocol::record_bytes(head_bytes, text.size());
        // Nobody has overtaken anybody: these few records do not go round.
        REQUIRE((writer_.has_room(bytes) || writer_.raise(bytes, writer_.position())));
        std::memcpy(writer_.topic(), &head, std::min(head_bytes, sizeof head));
        const auto topic_bytes = static_cast<u16>(head_bytes);
        std::memcpy(writer_.payload(topic_bytes), text.data(), text.size());
        writer_.commit(topic_bytes, static_cast<u32>(text.size()));
    }

private:
    static sys::RingMapping map(int fd, const protocol::Advertised& granted) {
        auto mapped = sys::map_ring(fd, protocol::kRingDataOffset, granted.ring_bytes,
                                    sys::Access::read_write);
        REQUIRE(mapped.ok());
        return std::move(mapped).value();
    }
    sys::RingMapping memory_;
    protocol::RingWriter writer_;
};

/// The ATTACHED among what has come, nothing else about rings.
std::vector<protocol::Attached> attached_among(const std::vector<Incoming>& all) {
    std::vector<protocol::Attached> found;
    for (const Incoming& incoming : all) {
        if (incoming.header.type == protocol::FrameType::attached) {
            found.push_back(decoded<protocol::Attached>(incoming));
        }
    }
    return found;
}

/// What the first ring of requests is that comes to one that serves.
protocol::Attached first_served(RawClient& client) {
    std::vector<protocol::Attached> served;
    while (served.empty()) {
        served = attached_among(client.drain());
    }
    return served.back();
}

/// Begins the ring with a record that is longer than any may be.
void break_ring(RawClient& client, const protocol::Advertised& granted) {
    auto memory = sys::map_ring(client.fds.at(0).get(), protocol::kRingDataOffset,
                                granted.ring_bytes, sys::Access::read_write);
    REQUIRE(memory.ok());
    client.mapped(granted.publication);
    auto& word = *reinterpret_cast<std::atomic<u64>*>(memory.value().data() +
                                                      granted.start % granted.ring_bytes);
    word.store(protocol::record_word(0x7fffffff, protocol::kHeadBytes, 0),
               std::memory_order_release);
}

void become_nobody() {
    must_be(::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0,
            "setuid nobody");
}

/// The request is refused with that code and those words.
template <class Frame>
void expect_refused(RawClient& client, const Frame& frame, int code,
                    const std::string& words = "") {
    const auto error = client.answer<protocol::ErrorFrame>(client.send(frame));
    INFO(error.text);
    CHECK(error.code == static_cast<u32>(code));
    CHECK(error.text.find(words) != std::string::npos);
}

}  // namespace

TEST_CASE("no subscription reaches requests or replies, and no publication passes for either") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "vault/+");
    const Requester requester = make_requester(client, "vault/key");
    RawClient attacker = RawClient::on_bus(daemon.socket_path());
    for (const char* filter :
         {"#", "vault/key", "vault/#", "+/+", "$req/vault/key", "$reply/#", "$/#", "$#"}) {
        INFO(filter);
        attacker.send(protocol::Subscribe{filter, 0});
        const std::vector<Incoming> all = attacker.drain();
        for (const Incoming& incoming : all) {
            if (incoming.header.type == protocol::FrameType::subscribed) {
                CHECK(decoded<protocol::Subscribed>(incoming).attachments == 0);
            }
        }
        CHECK(attached_among(all).empty());
    }
    // One that collects what is answered to the requester, whose lineage every responder knows.
    (void)attacker.answer<protocol::Subscribed>(attacker.send(protocol::Serve{"vault/key"}));
    const std::vector<protocol::Attached> asked = attached_among(attacker.drain());
    REQUIRE(asked.size() == 1);
    const auto collecting =
        attacker.answer<protocol::Subscribed>(attacker.send(protocol::Collect{asked[0].lineage}));
    CHECK(collecting.attachments == 0);
    // A ring of requests of its own, with that lineage.
    protocol::Ask twin = ask_frame("vault/key");
    twin.publication.lineage = asked[0].lineage;
    (void)attacker.answer<protocol::Advertised>(attacker.send(twin));
    // And a publication of messages to the topic: responders do not take it for requests.
    const Bus other = connect(daemon.address());
    const Publisher publisher = advertise(other, "vault/key");

    const std::uint64_t number = ask(requester, "open", IPCBUS_ASK_ALL);
    const Request request = next_request(responder);
    CHECK(request.payload == "open");
    REQUIRE(respond(responder, request, "the secret") == 0);
    const Reply reply = next_reply(requester);
    CHECK(reply.payload == "the secret");
    CHECK(reply.info.request == number);
    for (const protocol::Attached& one : attached_among(attacker.drain())) {
        CHECK(one.subscription != collecting.subscription);
    }
    CHECK(next_request(responder, 0).result == -EAGAIN);
}

TEST_CASE("RESPOND is for who serves, for its own attachments, once each") {
    const DaemonFixture daemon;
    RawClient requester = RawClient::on_bus(daemon.socket_path());
    (void)requester.answer<protocol::Subscribed>(requester.send(protocol::Collect{{7}}));
    const auto asks =
        requester.answer<protocol::Advertised>(requester.send(ask_frame("service")));
    const RawRing requests(requester, asks);
    RawClient server = RawClient::on_bus(daemon.socket_path());
    (void)server.answer<protocol::Subscribed>(server.send(protocol::Serve{"service"}));
    const std::vector<protocol::Attached> served = attached_among(server.drain());
    REQUIRE(served.size() == 1);
    const u64 attachment = served[0].attachment;

    RawClient attacker = RawClient::on_bus(daemon.socket_path());
    const protocol::Advertised messages = attacker.advertise("messages");
    attacker.mapped(messages.publication);
    (void)attacker.subscribe("messages");
    const std::vector<protocol::Attached> own = attached_among(attacker.drain());
    REQUIRE(own.size() == 1);
    expect_refused(attacker, protocol::Respond{attachment, 0}, ENOENT);  // another client's
    expect_refused(attacker, protocol::Respond{own[0].attachment, 0}, ENOENT);  // of messages
    expect_refused(attacker, protocol::Respond{0, 0}, ENOENT);
    expect_refused(attacker, protocol::Respond{~u64{0}, 0}, ENOENT);

    expect_refused(server, protocol::Respond{attachment, 1u << 20}, EINVAL, "waiter");
    auto granted =
        server.answer<protocol::Advertised>(server.send(protocol::Respond{attachment, 0}));
    CHECK(granted.ring_bytes == 4096);
    // Said again before it is mapped: the same.
    CHECK(server.answer<protocol::Advertised>(server.send(protocol::Respond{attachment, 0}))
              .publication == granted.publication);
    const RawRing replies(server, granted);
    expect_refused(server, protocol::Respond{attachment, 0}, EBUSY);
    const std::vector<protocol::Attached> shown = attached_among(requester.drain());
    REQUIRE(shown.size() == 1);
    CHECK(shown[0].lineage == protocol::reply_lineage(attachment, granted.publication));
    CHECK(shown[0].topic == "service");
    CHECK(attached_among(attacker.drain()).empty());

    // There is no second one, neither while the requester may still read the first nor after it.
    server.unadvertise(granted.publication);
    expect_refused(server, protocol::Respond{attachment, 0}, EBUSY, "no second");
    requester.send_with(protocol::Detached{shown[0].attachment}, 0);
    (void)requester.drain();
    expect_refused(server, protocol::Respond{attachment, 0}, EBUSY);
    // One that nobody has seen does not count.
    (void)server.answer<protocol::Subscribed>(server.send(protocol::Serve{"+"}));
    const std::vector<protocol::Attached> again = attached_among(server.drain());
    REQUIRE(again.size() == 1);
    const protocol::Respond respond{again[0].attachment, 0};
    granted = server.answer<protocol::Advertised>(server.send(respond));
    server.unadvertise(granted.publication);
    granted = server.answer<protocol::Advertised>(server.send(respond));
    const RawRing last(server, granted);
    // The requester goes: there is nobody to answer.
    requester.close();
    std::vector<Incoming> all = server.drain();
    while (std::none_of(all.begin(), all.end(), [](const Incoming& one) {
        return one.header.type == protocol::FrameType::ended;
    })) {
        all = server.drain();
    }
    server.unadvertise(granted.publication);
    expect_refused(server, respond, ENOENT);
}

TEST_CASE("a requester that collects nothing is answered by nobody") {
    const DaemonFixture daemon;
    RawClient requester = RawClient::on_bus(daemon.socket_path());
    const auto asks =
        requester.answer<protocol::Advertised>(requester.send(ask_frame("service")));
    const RawRing requests(requester, asks);
    RawClient server = RawClient::on_bus(daemon.socket_path());
    (void)server.answer<protocol::Subscribed>(server.send(protocol::Serve{"service"}));
    const std::vector<protocol::Attached> served = attached_among(server.drain());
    REQUIRE(served.size() == 1);
    expect_refused(server, protocol::Respond{served[0].attachment, 0}, ENOENT, "does not collect");
    const auto collecting =
        requester.answer<protocol::Subscribed>(requester.send(protocol::Collect{{7}}));
    // Said again, it is the same.
    CHECK(requester.answer<protocol::Subscribed>(requester.send(protocol::Collect{{7}}))
              .subscription == collecting.subscription);
    (void)server.answer<protocol::Advertised>(
        server.send(protocol::Respond{served[0].attachment, 0}));
}

TEST_CASE("a reply to another responder's request is nobody's") {
    const DaemonFixture daemon;
    const Bus client = connect(daemon.address());
    const Bus honest_bus = connect(daemon.address());
    const Bus attacker_bus = connect(daemon.address());
    const Responder honest = serve(honest_bus, "bank");
    const Responder attacker = serve(attacker_bus, "bank");
    const Requester requester = make_requester(client, "bank");
    // They take turns: each gets one of two.
    ask(requester, "1");
    ask(requester, "2");
    const Request to_honest = next_request(honest);
    const Request to_attacker = next_request(attacker);
    CHECK(next_request(honest, 0).result == -EAGAIN);
    CHECK(next_request(attacker, 0).result == -EAGAIN);
    Request forged = to_attacker;
    forged.info.sequence = to_honest.info.sequence;
    REQUIRE(respond(attacker, forged, "forged") == 0);
    for (u64 sequence = 0; sequence < 10; sequence++) {
        if (sequence != to_attacker.info.sequence) {
            forged.info.sequence = sequence;
            REQUIRE(respond(attacker, forged, "forged") == 0);
        }
    }
    CHECK(next_reply(requester, 0).result == -EAGAIN);
    REQUIRE(respond(honest, to_honest, "true") == 0);
    const Reply reply = next_reply(requester);
    CHECK(reply.payload == "true");
    CHECK(reply.info.request == to_honest.info.sequence);
    REQUIRE(respond(attacker, to_attacker, "its own") == 0);
    CHECK(next_reply(requester).payload == "its own");
}

TEST_CASE("what stands in a ring of requests or of replies does no harm") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    RawClient attacker = RawClient::on_bus(daemon.socket_path());
    const Responder responder = serve(bus, "odd");
    // Requests: no head, half a head, more than a head, to others, to nobody.
    const auto asks = attacker.answer<protocol::Advertised>(attacker.send(ask_frame("odd")));
    RawRing requests(attacker, asks);
    requests.write({0, 0, 0}, "none", 0);
    requests.write({0, 0, 0}, "half", 8);
    requests.write({0, 0, 0}, "more", 32);
    requests.write({~u64{0}, 0, 0}, "to others");
    requests.write({0, ~u32{0}, ~u32{0}}, "to all");
    const Request request = next_request(responder);
    REQUIRE(request.result == 0);
    CHECK(request.payload == "to all");
    CHECK(request.info.sequence == 5);
    CHECK(next_request(responder, 0).result == -EAGAIN);
    CHECK(respond(responder, request, "") == -EPIPE);  // it collects nothing

    // Replies.
    (void)attacker.answer<protocol::Subscribed>(attacker.send(protocol::Serve{"even"}));
    const Requester requester = make_requester(bus, "even");
    std::vector<protocol::Attached> served;
    while (served.empty()) {
        served = attached_among(attacker.drain());
    }
    const std::uint64_t number = ask(requester, "x");
    const auto granted = attacker.answer<protocol::Advertised>(
        attacker.send(protocol::Respond{served.back().attachment, 0}));
    RawRing replies(attacker, granted);
    replies.write({number, 0, 0}, "none", 0);
    replies.write({number, 0, 0}, "more", 17);
    replies.write({number + 1, 0, 0}, "unasked");
    replies.write({number, 0, ~u32{0}}, "flags");
    replies.write({number, 77, 0}, "good");
    replies.write({number, 0, 0}, "again");
    Reply reply = next_reply(requester);
    CHECK(reply.payload == "flags");
    CHECK(reply.info.flags == IPCBUS_REPLY_MORE);
    reply = next_reply(requester);
    CHECK(reply.payload == "good");
    CHECK(reply.info.status == 77);
    CHECK(next_reply(requester, 0).result == -ENOENT);
    // It goes: what was asked fails at once, though its ring was not closed.
    ask(requester, "y");
    attacker.close();
    CHECK(next_reply(requester).result == -EPIPE);
}

TEST_CASE("a responder that breaks the protocol fails what it owes, and is asked no more") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    RawClient attacker = RawClient::on_bus(daemon.socket_path());
    (void)attacker.answer<protocol::Subscribed>(attacker.send(protocol::Serve{"even"}));
    const Requester requester = make_requester(bus, "even");
    std::vector<protocol::Attached> served;
    while (served.empty()) {
        served = attached_among(attacker.drain());
    }
    ask(requester, "x");
    const auto granted = attacker.answer<protocol::Advertised>(
        attacker.send(protocol::Respond{served.back().attachment, 0}));
    break_ring(attacker, granted);
    CHECK(next_reply(requester).result == -EPIPE);
    CHECK(call(requester, "y").result == -EHOSTUNREACH);
}

TEST_CASE("that a responder has left is told after all that it has answered") {
    const DaemonFixture daemon;
    RawClient requester = RawClient::on_bus(daemon.socket_path());
    (void)requester.answer<protocol::Subscribed>(requester.send(protocol::Collect{{7}}));
    const auto asks = requester.answer<protocol::Advertised>(requester.send(ask_frame("last")));
    RawRing requests(requester, asks);
    Bus server = connect(daemon.address());
    Responder responder = serve(server, "last");
    const auto take = [&](const std::vector<Incoming>& all, auto&& each) {
        for (const Incoming& incoming : all) {
            if (incoming.header.type == protocol::FrameType::members) {
                requester.taken(decoded<protocol::Members>(incoming));
            }
            each(incoming);
        }
    };
    u64 attachment = 0;
    while (attachment == 0) {
        take(requester.drain(), [&](const Incoming& incoming) {
            if (incoming.header.type == protocol::FrameType::members) {
                const auto members = decoded<protocol::Members>(incoming);
                attachment = members.attach.empty() ? 0 : members.attach[0].attachment;
            }
        });
    }
    // From here on it takes no descriptors: rings cannot be shown to it.
    requester.acknowledges = false;
    const Bus other = connect(daemon.address());
    std::vector<Publisher> filling;
    for (unsigned i = 0; i < protocol::kFdsUnacknowledgedMax + 6; i++) {
        filling.push_back(advertise(other, "fill/" + std::to_string(i), 4096));
    }
    (void)requester.subscribe("fill/#");
    unsigned fds = 0;
    take(requester.drain(), [&](const Incoming& incoming) {
        fds += static_cast<unsigned>(incoming.fds.size());
    });
    REQUIRE(fds + 1 >= protocol::kFdsUnacknowledgedMax);  // with one left, the next two do not go

    requests.write({attachment, 0, 0}, "say");
    const Request request = next_request(responder);
    REQUIRE(request.result == 0);
    REQUIRE(respond(responder, request, "last words") == 0);
    responder.reset();
    server.reset();
    for (int i = 0; i < 10; i++) {
        take(requester.drain(), [&](const Incoming& incoming) {
            CHECK(incoming.header.type != protocol::FrameType::members);
        });
    }
    // It takes them: the reply, its end, and only then that there is no responder.
    std::vector<std::string> order;
    u64 answers = 0;
    requester.acknowledges = true;
    requester.send_with(protocol::Received{fds}, 0);
    while (order.size() < 3) {
        take(requester.drain(), [&](const Incoming& incoming) {
            if (incoming.header.type == protocol::FrameType::attached) {
                const auto attached = decoded<protocol::Attached>(incoming);
                if (attached.topic == "last") {
                    CHECK(protocol::answered_attachment(attached.lineage) == attachment);
                    answers = attached.attachment;
                    order.push_back("attached");
                }
            } else if (incoming.header.type == protocol::FrameType::ended &&
                       decoded<protocol::Ended>(incoming).attachment == answers) {
                order.push_back("ended");
            } else if (incoming.header.type == protocol::FrameType::members) {
                CHECK(decoded<protocol::Members>(incoming).detach == std::vector<u64>{attachment});
                order.push_back("left");
            }
        });
    }
    CHECK(order == std::vector<std::string>{"attached", "ended", "left"});
}

TEST_CASE("who serves no more has nothing more to say, though it keeps its ring of replies") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    RawClient attacker = RawClient::on_bus(daemon.socket_path());
    const auto serving =
        attacker.answer<protocol::Subscribed>(attacker.send(protocol::Serve{"even"}));
    const Requester requester = make_requester(bus, "even");
    const protocol::Attached served = first_served(attacker);
    const std::uint64_t first = ask(requester, "x");
    ask(requester, "y");
    const auto granted = attacker.answer<protocol::Advertised>(
        attacker.send(protocol::Respond{served.attachment, 0}));
    RawRing replies(attacker, granted);
    replies.write({first, 0, 0}, "last words");
    attacker.unsubscribe(serving);
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    CHECK(next_reply(requester).payload == "last words");
    CHECK(next_reply(requester).result == -EPIPE);
    CHECK(deadline.remaining_ns() > kLongNs / 2);
    expect_refused(attacker, protocol::Respond{served.attachment, 0}, ENOENT);
    attacker.unadvertise(granted.publication);
}

TEST_CASE("nobody can prolong another one's deadline by breaking the protocol again and again") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Bus honest_bus = connect(daemon.address());
    const Responder honest = serve(honest_bus, "even");
    const Requester requester = make_requester(bus, "even");
    std::atomic<bool> over{false};
    std::thread attack([&] {
        RawClient attacker = RawClient::on_bus(daemon.socket_path());
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        while (!over && !deadline.passed()) {
            const auto serving =
                attacker.answer<protocol::Subscribed>(attacker.send(protocol::Serve{"even"}));
            const protocol::Attached served = first_served(attacker);
            const auto granted = attacker.answer<protocol::Advertised>(
                attacker.send(protocol::Respond{served.attachment, 0}));
            break_ring(attacker, granted);
            (void)attacker.drain();
            attacker.unadvertise(granted.publication);
            attacker.unsubscribe(serving);
        }
    });
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    const Reply reply = call(requester, "x", kSecondNs / 2);
    const std::int64_t left_ns = deadline.remaining_ns();
    over = true;
    attack.join();
    // It asked the honest one, which is silent; or the other one, which has broken the protocol.
    CHECK((reply.result == -ETIMEDOUT || reply.result == -EPIPE));
    CHECK(left_ns > kLongNs / 2);
}

namespace {

/// How many small publications of that user there is room for, by itself and by bytes.
int room_for_publications(const std::string& address) {
    ChildProcess child = ChildProcess::fork([&address] {
        become_nobody();
        const Bus bus = connect(address);
        std::vector<Publisher> all;
        ipcbus_publisher_options options = IPCBUS_INIT(options);
        options.ring_bytes = 4096;
        for (;;) {
            ipcbus_publisher* publisher = nullptr;
            const std::string topic = "t/" + std::to_string(all.size());
            const int result = ipcbus_advertise(bus.get(), topic.c_str(), &options, &publisher);
            if (result != 0) {
                must_be(result == -EDQUOT, "advertise");
                return static_cast<int>(all.size());
            }
            all.emplace_back(publisher);
        }
    });
    return child.wait().value_or(-1);
}

/// A requester of the user nobody, which does nothing but to be there until it is told to go.
ChildProcess idle_requester(const std::string& address, Milestone& steps) {
    return ChildProcess::fork([&address, &steps] {
        become_nobody();
        const Bus bus = connect(address);
        ipcbus_requester_options options = IPCBUS_INIT(options);
        options.request_bytes_max = 1024;
        options.reply_bytes_max = 1024;
        const Requester requester = make_requester(bus, "svc", options);
        steps.raise(1);
        must_be(steps.wait(2), "to be told to go");
        return 0;
    });
}

}  // namespace

TEST_CASE("a responder cannot use up what its requesters' user may have, nor keep it") {
    if (!may_be_user(65534)) {
        MESSAGE("skipped: this process cannot become another user");
        return;
    }
    bool bytes = false;
    SUBCASE("by number") {}
    SUBCASE("by bytes") { bytes = true; }
    const DaemonFixture daemon(bytes ? "[limits.per_uid]\npublications = 200\n"
                                       "ring_bytes = \"1MiB\"\n"
                                     : "[limits.per_uid]\npublications = 60\n");
    (void)::chmod(daemon.directory().path().c_str(), 0755);
    const int before = room_for_publications(daemon.address());
    REQUIRE(before >= 50);
    SharedBlock<Milestone> steps;
    ChildProcess requester = idle_requester(daemon.address(), *steps);
    REQUIRE(steps->wait(1));
    RawClient attacker = RawClient::on_bus(daemon.socket_path());
    constexpr int kServed = 45;
    std::vector<u64> rings;
    std::vector<protocol::Attached> served;
    for (int i = 0; i < kServed; i++) {
        (void)attacker.answer<protocol::Subscribed>(attacker.send(protocol::Serve{"#"}));
    }
    while (served.size() < kServed) {
        const std::vector<protocol::Attached> more = attached_among(attacker.drain());
        served.insert(served.end(), more.begin(), more.end());
    }
    for (const protocol::Attached& one : served) {
        const u64 number = attacker.send(protocol::Respond{one.attachment, 0});
        std::optional<Incoming> incoming = attacker.next();
        while (incoming && incoming->header.request != number) {
            incoming = attacker.next();
        }
        REQUIRE(incoming.has_value());
        if (incoming->header.type == protocol::FrameType::advertised) {
            rings.push_back(decoded<protocol::Advertised>(*incoming).publication);
            attacker.mapped(rings.back());
        }
    }
    CHECK(rings.size() == (bytes ? kServed : 60 / 2));
    (void)attacker.drain();
    const int meanwhile = room_for_publications(daemon.address());
    if (bytes) {
        CHECK(meanwhile >= before - 2 - static_cast<int>(protocol::kRepliesPaidFor));
        CHECK(meanwhile < before - static_cast<int>(protocol::kRepliesPaidFor) / 2);
    } else {
        CHECK(meanwhile >= before - 2);
    }
    // The requester is gone, its responder keeps all it has: it gets no more before it lets go.
    steps->raise(1);
    CHECK(requester.wait() == 0);
    std::vector<Incoming> all = attacker.drain();
    while (std::none_of(all.begin(), all.end(), [](const Incoming& one) {
        return one.header.type == protocol::FrameType::ended;
    })) {
        all = attacker.drain();
    }
    // One is the ring of its requests, which its readers have not let go of.
    const int kept = room_for_publications(daemon.address());
    CHECK(kept >= (bytes ? meanwhile : before - 1));
    SharedBlock<Milestone> more_steps;
    ChildProcess another = idle_requester(daemon.address(), *more_steps);
    REQUIRE(more_steps->wait(1));
    const protocol::Respond again{first_served(attacker).attachment, 0};
    if (bytes) {
        expect_refused(attacker, again, EDQUOT, "keeps 256KiB in rings");
    }
    for (const u64 ring : rings) {
        attacker.unadvertise(ring);
    }
    (void)attacker.answer<protocol::Advertised>(attacker.send(again));
    // But for the rings of requests, one of which its readers have not let go of, and that one.
    CHECK(room_for_publications(daemon.address()) >= before - 3);
    more_steps->raise(1);
    CHECK(another.wait() == 0);
}

TEST_CASE("a requester cannot use up what its responder's user may have by letting go of replies") {
    if (!may_be_user(65534)) {
        MESSAGE("skipped: this process cannot become another user");
        return;
    }
    const DaemonFixture daemon("[limits.per_uid]\npublications = 200\nring_bytes = \"1MiB\"\n");
    (void)::chmod(daemon.directory().path().c_str(), 0755);
    const int before = room_for_publications(daemon.address());
    REQUIRE(before >= 100);
    SharedBlock<Milestone> steps;
    // A responder that is busy: it has answered, and has not looked at anything since.
    ChildProcess busy = ChildProcess::fork([&] {
        become_nobody();
        RawClient server = RawClient::on_bus(daemon.socket_path());
        (void)server.answer<protocol::Subscribed>(server.send(protocol::Serve{"svc"}));
        steps->raise(1);
        for (unsigned i = 0;; i++) {
            const protocol::Respond respond{first_served(server).attachment, 0, i};
            const u64 number = server.send(respond);
            std::optional<Incoming> incoming = server.next();
            while (incoming && incoming->header.request != number) {
                incoming = server.next();
            }
            must_be(incoming.has_value(), "an answer to RESPOND");
            if (incoming->header.type == protocol::FrameType::advertised) {
                server.mapped(decoded<protocol::Advertised>(*incoming).publication);
            }
        }
        return 0;
    });
    REQUIRE(steps->wait(1));
    RawClient attacker = RawClient::on_bus(daemon.socket_path());
    int rings = 0;
    for (protocol::u8 i = 1; i <= 12; i++) {
        (void)attacker.answer<protocol::Subscribed>(attacker.send(protocol::Collect{{i}}));
        protocol::Ask ask = ask_frame("svc", i);
        ask.reply_ring_bytes = 256 * 1024;
        const auto asks = attacker.answer<protocol::Advertised>(attacker.send(ask));
        attacker.mapped(asks.publication);
        bool told = false;
        while (!told) {
            for (const Incoming& incoming : attacker.drain()) {
                if (incoming.header.type == protocol::FrameType::attached) {
                    const auto replies = decoded<protocol::Attached>(incoming);
                    attacker.send_with(protocol::Detached{replies.attachment}, 0);
                    rings++;
                    told = true;
                } else if (incoming.header.type == protocol::FrameType::refused) {
                    CHECK(decoded<protocol::Refused>(incoming).code == EDQUOT);
                    told = true;
                }
            }
        }
    }
    CHECK(rings == 1);  // more than a quarter of its own limit
    CHECK(room_for_publications(daemon.address()) >= before - 1);
    attacker.close();
    CHECK(room_for_publications(daemon.address()) >= before - 1);
}

TEST_CASE("a requester has one ring of requests in a lineage, however often it asks for it") {
    const DaemonFixture daemon;
    RawClient requester = RawClient::on_bus(daemon.socket_path());
    (void)requester.answer<protocol::Subscribed>(requester.send(protocol::Collect{{7}}));
    auto asks = requester.answer<protocol::Advertised>(requester.send(ask_frame("svc")));
    // Said again before it is mapped: the same. To another topic: another one.
    CHECK(requester.answer<protocol::Advertised>(requester.send(ask_frame("svc"))).publication ==
          asks.publication);
    expect_refused(requester, ask_frame("other"), EEXIST, "of that lineage");
    requester.mapped(asks.publication);
    expect_refused(requester, ask_frame("svc"), EEXIST, "of that lineage");
    RawClient server = RawClient::on_bus(daemon.socket_path());
    CHECK(server.answer<protocol::Subscribed>(server.send(protocol::Serve{"#"})).attachments == 1);
    // Others have lineages of their own, and it has further ones.
    (void)requester.answer<protocol::Advertised>(requester.send(ask_frame("svc", 8)));
    RawClient other = RawClient::on_bus(daemon.socket_path());
    (void)other.answer<protocol::Advertised>(other.send(ask_frame("svc")));
    // None at all is a lineage, too.
    (void)requester.answer<protocol::Advertised>(requester.send(ask_frame("svc", 0)));
    expect_refused(requester, ask_frame("svc", 0), EEXIST);
    // What was refused otherwise is none; what has ended is none any more.
    protocol::Ask wild = ask_frame("svc", 9);
    wild.publication.waiter = 1u << 20;
    expect_refused(requester, wild, EINVAL, "waiter");
    (void)requester.answer<protocol::Advertised>(requester.send(ask_frame("svc", 9)));
    requester.unadvertise(asks.publication);
    asks = requester.answer<protocol::Advertised>(requester.send(ask_frame("svc")));
    requester.mapped(asks.publication);
    expect_refused(requester, ask_frame("svc"), EEXIST);
}

TEST_CASE("requesters that come and go are answered, however many wait at once") {
    if (!may_be_user(65534)) {
        MESSAGE("skipped: this process cannot become another user");
        return;
    }
    // A quarter of that is 32 of the smallest rings.
    const DaemonFixture daemon("[limits.per_uid]\nring_bytes = \"1MiB\"\n");
    (void)::chmod(daemon.directory().path().c_str(), 0755);
    constexpr int kRequesters = 48;
    const Bus bus = connect(daemon.address());
    const Responder responder = serve(bus, "svc");
    SharedBlock<Milestone> asked;
    std::vector<ChildProcess> all;
    for (int i = 0; i < kRequesters; i++) {
        all.push_back(ChildProcess::fork([&, i] {
            become_nobody();
            const Bus own = connect(daemon.address());
            ipcbus_requester_options options = IPCBUS_INIT(options);
            options.request_bytes_max = 1024;
            options.reply_bytes_max = 1024;
            const Requester requester = make_requester(own, "svc", options);
            ask(requester, std::to_string(i));
            asked->raise();
            const Reply reply = next_reply(requester);
            must(reply.result, "next reply");
            must_be(reply.payload == "to " + std::to_string(i), "the reply to it");
            return 0;
        }));
        REQUIRE(asked->wait(static_cast<u32>(i) + 1));
    }
    // Each goes when it has its reply, while its responder works on the next one's request.
    Request request = next_request(responder);
    for (int left = kRequesters; left != 0; left--) {
        REQUIRE(request.result == 0);
        const int result = respond(responder, request, "to " + request.payload);
        INFO(ipcbus_last_error());
        REQUIRE(result == 0);
        ChildProcess& answered = all.at(std::stoul(request.payload));
        request = next_request(responder, left == 1 ? 0 : kLongNs);
        CHECK(answered.wait() == 0);
    }
    CHECK(request.result == -EAGAIN);
}

TEST_CASE("each of many responders may keep the ring of a requester that has gone") {
    if (!may_be_user(65534)) {
        MESSAGE("skipped: this process cannot become another user");
        return;
    }
    const DaemonFixture daemon;
    (void)::chmod(daemon.directory().path().c_str(), 0755);
    constexpr int kResponders = 40;
    SharedBlock<Milestone> served;
    ChildProcess responders = ChildProcess::fork([&] {
        become_nobody();
        std::vector<std::pair<Bus, Responder>> all;
        for (int i = 0; i < kResponders; i++) {
            Bus bus = connect(daemon.address());
            Responder responder = serve(bus, "svc/" + std::to_string(i));
            all.emplace_back(std::move(bus), std::move(responder));
        }
        served->raise(1);
        // Each answers once, and is busy with something else from then on.
        for (const auto& [bus, responder] : all) {
            const Request request = next_request(responder, IPCBUS_FOREVER);
            must(request.result, "next request");
            must(respond(responder, request, "y"), "respond");
        }
        must_be(served->wait(2), "to be told to go");
        return 0;
    });
    REQUIRE(served->wait(1));
    for (int i = 0; i < kResponders; i++) {
        const Bus bus = connect(daemon.address());
        const Requester requester = make_requester(bus, "svc/" + std::to_string(i));
        const Reply reply = call(requester, "x");
        INFO(ipcbus_last_error());
        REQUIRE(reply.result == 0);
    }
    served->raise();
    CHECK(responders.wait() == 0);
}

TEST_CASE("a requester that lets go of its ring of replies has lost that responder, as told") {
    const DaemonFixture daemon;
    const Bus server = connect(daemon.address());
    const Responder responder = serve(server, "svc");
    RawClient requester = RawClient::on_bus(daemon.socket_path());
    (void)requester.answer<protocol::Subscribed>(requester.send(protocol::Collect{{7}}));
    const auto asks = requester.answer<protocol::Advertised>(requester.send(ask_frame("svc")));
    RawRing requests(requester, asks);
    requests.write({0, 0, 0}, "say");
    const Request request = next_request(responder);
    REQUIRE(request.result == 0);
    REQUIRE(respond(responder, request, "something", 0, IPCBUS_REPLY_MORE) == 0);
    u64 members = 0;
    u64 left = 0;
    const auto look = [&] {
        for (const Incoming& incoming : requester.drain()) {
            if (incoming.header.type == protocol::FrameType::attached) {
                const auto replies = decoded<protocol::Attached>(incoming);
                CHECK(protocol::answered_attachment(replies.lineage) == members);
                requester.send_with(protocol::Detached{replies.attachment}, 0);
            } else if (incoming.header.type == protocol::FrameType::members) {
                const auto frame = decoded<protocol::Members>(incoming);
                requester.taken(frame);
                members = frame.attach.empty() ? members : frame.attach[0].attachment;
                left = frame.detach.empty() ? left : frame.detach[0];
            }
        }
    };
    while (left == 0) {
        look();
    }
    CHECK(left == members);
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (ipcbus_requester_count(responder.get()) != 0 && !deadline.passed()) {
        look();
    }
    CHECK(ipcbus_requester_count(responder.get()) == 0);
    CHECK(next_request(responder, 0).result == -EAGAIN);
    CHECK(respond(responder, request, "end") == -EPIPE);
    // Others are answered as ever.
    const Requester other = make_requester(server, "svc");
    ask(other, "x");
    REQUIRE(respond(responder, next_request(responder), "y") == 0);
    CHECK(next_reply(other).payload == "y");
}

TEST_CASE("that a request cannot be answered is told of that one alone") {
    const DaemonFixture daemon("[limits.per_uid]\nring_bytes = \"256KiB\"\n");
    const Bus bus = connect(daemon.address());
    RawClient server = RawClient::on_bus(daemon.socket_path());
    (void)server.answer<protocol::Subscribed>(server.send(protocol::Serve{"svc"}));
    ipcbus_requester_options options = IPCBUS_INIT(options);
    options.request_bytes_max = 1024;
    options.reply_bytes_max = 16384;
    const Requester requester = make_requester(bus, "svc", options);
    const u64 attachment = first_served(server).attachment;
    const std::uint64_t one = ask(requester, "1");
    const std::uint64_t two = ask(requester, "2");
    const std::uint64_t three = ask(requester, "3");
    std::vector<Publisher> filling;
    filling.push_back(advertise(bus, "filling/1", 131072));
    filling.push_back(advertise(bus, "filling/2", 65536));
    expect_refused(server, protocol::Respond{attachment, 0, two}, EDQUOT);
    const Reply refused = next_reply(requester);
    CHECK(refused.result == -EDQUOT);
    CHECK(refused.info.request == two);
    CHECK(next_reply(requester, 0).result == -EAGAIN);
    filling.clear();
    const auto granted = server.answer<protocol::Advertised>(
        server.send(protocol::Respond{attachment, 0, three}));
    RawRing replies(server, granted);
    replies.write({two, 0, 0}, "too late");
    replies.write({one, 0, 0}, "first");
    replies.write({three, 0, 0}, "third");
    CHECK(next_reply(requester).payload == "first");
    CHECK(next_reply(requester).payload == "third");
    CHECK(next_reply(requester, 0).result == -ENOENT);
}

TEST_CASE("requesters of one user cannot take all that their responder's user may have") {
    if (!may_be_user(65534)) {
        MESSAGE("skipped: this process cannot become another user");
        return;
    }
    const DaemonFixture daemon("[limits.per_uid]\npublications = 20\n");
    (void)::chmod(daemon.directory().path().c_str(), 0755);
    ChildProcess requesters = ChildProcess::fork([&] {
        become_nobody();
        const Bus bus = connect(daemon.address());
        std::vector<Requester> all;
        for (int i = 0; i < 15; i++) {
            all.push_back(make_requester(bus, "svc"));
            must(ipcbus_wait_responders(all.back().get(), 1, kLongNs), "wait for the responder");
            const Reply reply = call(all.back(), "x");
            must_be(reply.result == (i < 10 ? 0 : -EDQUOT), "answered, or told why not");
        }
        return 0;
    });
    const Bus bus = connect(daemon.address());
    const Responder responder = serve(bus, "svc");
    for (int i = 0; i < 15; i++) {
        const Request request = next_request(responder);
        REQUIRE(request.result == 0);
        const int result = respond(responder, request, "y");
        INFO(ipcbus_last_error());
        CHECK(result == (i < 10 ? 0 : -EDQUOT));
    }
    CHECK(requesters.wait() == 0);
}

TEST_CASE("that a requester cannot be answered within its limits is told to it at once") {
    if (!may_be_user(65534)) {
        MESSAGE("skipped: this process cannot become another user");
        return;
    }
    const DaemonFixture daemon("[limits.per_uid]\nring_bytes = \"256KiB\"\n");
    (void)::chmod(daemon.directory().path().c_str(), 0755);
    ChildProcess server = ChildProcess::fork([&] {
        become_nobody();
        const Bus bus = connect(daemon.address());
        const Responder responder = serve(bus, "busy");
        for (;;) {
            const Request request = next_request(responder, IPCBUS_FOREVER);
            must(request.result, "next request");
            const int result = respond(responder, request, std::to_string(request.info.uid));
            must_be(result == 0 || result == -EDQUOT, "respond");
        }
        return 0;
    });
    const Bus bus = connect(daemon.address());
    ipcbus_requester_options options = IPCBUS_INIT(options);
    options.request_bytes_max = 1024;
    options.reply_bytes_max = 16384;
    const Requester good = make_requester(bus, "busy", options);
    REQUIRE(ipcbus_wait_responders(good.get(), 1, kLongNs) == 0);
    const Reply reply = call(good, "x");
    INFO(ipcbus_last_error());
    CHECK(reply.payload == std::to_string(::getuid()));
    CHECK(reply.info.uid == 65534);
    options.reply_bytes_max = 65536;
    const Requester greedy = make_requester(bus, "busy", options);
    const std::uint64_t number = ask(greedy, "x");
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    const Reply refused = next_reply(greedy);
    CHECK(refused.result == -EDQUOT);
    CHECK(refused.info.request == number);
    CHECK(std::string(ipcbus_last_error()).find("limits.per_uid") != std::string::npos);
    CHECK(call(greedy, "x").result == -EDQUOT);
    CHECK(deadline.remaining_ns() > kLongNs / 2);
    CHECK(call(good, "y").result == 0);
    CHECK(server.running());
}
