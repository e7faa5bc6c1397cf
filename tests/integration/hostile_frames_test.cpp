// SPDX-License-Identifier: Apache-2.0
// Goal: every frame type, about one's own objects, somebody else's and none at all, in every state
// that a session can be in, whole and cut at every byte: is answered, refused, ignored or ends that
// session, as a table says, and does nothing to anybody else.
// Method: a private ipcbusd; raw visitors, one a case, beside a raw neighbour whose ids they name,
// and bystanders, who exchange messages all the time.
// Bounds: the bystanders get every message; the neighbour keeps everything; the daemon ends with
// the descriptors it began with, or one more, and no more than 4 MiB more memory.
#include "bystanders.hpp"
#include "daemon_fixture.hpp"
#include "ledger.hpp"
#include "visitor.hpp"

#include "protocol/wire_look.hpp"
#include "sys/clock.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::FrameType;
using protocol::u16;
using protocol::u32;
using protocol::u64;
using protocol::u8;

namespace {

/// Whose objects a frame names.
enum class Whose { own, others, nobodys };
constexpr Whose kWhose[] = {Whose::own, Whose::others, Whose::nobodys};
std::string name(Whose whose) {
    constexpr const char* kNames[] = {"its own", "the neighbour's", "nobody's"};
    return kNames[static_cast<int>(whose)];
}

bool wants_answer(FrameType type) {
    return type == FrameType::hello || type == FrameType::resume || type == FrameType::advertise ||
           type == FrameType::unadvertise || type == FrameType::subscribe ||
           type == FrameType::subscribe_from || type == FrameType::unsubscribe ||
           type == FrameType::ask || type == FrameType::serve || type == FrameType::collect ||
           type == FrameType::respond || type == FrameType::look;
}
bool sent_by_clients(FrameType type) {
    return type < FrameType::welcome || type == FrameType::look;
}

/// A frame of that type about objects. A new type does not compile before it has its line here.
std::vector<std::byte> frame_of(FrameType type, Whose whose, const Objects& own,
                                const Objects& others, u64 request) {
    std::vector<std::byte> out;
    const Objects none;
    const bool mine = whose == Whose::own;
    const bool bad = whose == Whose::nobodys;
    const Objects& it = mine ? own : bad ? none : others;
    const auto put = [&](const auto& frame) {
        protocol::encode(out, frame, wants_answer(type) ? request : 0);
    };
    switch (type) {
    case FrameType::hello:
        put(protocol::Hello{});
        break;
    case FrameType::resume:
        // With the right token there would be nothing to refuse: the test of tokens does that.
        put(protocol::Resume{.client = it.client, .token = none.token});
        break;
    case FrameType::advertise:
        put(protocol::Advertise{.topic = bad    ? "a//b"
                                         : mine ? "visitor/2"
                                                : "neighbour",
                                .ring_bytes = 4096});
        break;
    case FrameType::mapped:
        put(protocol::Mapped{mine && it.publication == ~u64{0} ? 0 : it.publication});
        break;
    case FrameType::unadvertise:
        put(protocol::Unadvertise{it.publication});
        break;
    case FrameType::subscribe:
        put(protocol::Subscribe{.filter = bad ? "#/a" : mine ? "none" : "neighbour"});
        break;
    case FrameType::subscribe_from:
        put(protocol::SubscribeFrom{.filter = bad ? "#/a" : mine ? "none" : "neighbour",
                                    .history = protocol::kHistoryAll});
        break;
    case FrameType::unsubscribe:
        put(protocol::Unsubscribe{it.subscription});
        break;
    case FrameType::detached:
        put(protocol::Detached{it.attachment});
        break;
    case FrameType::taken:
        put(bad ? protocol::Taken{own.publication, ~u64{0}}
                : protocol::Taken{it.publication, it.number});
        break;
    case FrameType::received:
        put(protocol::Received{bad ? 1'000'000u : 0u});
        break;
    case FrameType::complain:
        put(bad ? protocol::Complain{own.publication, own.reader, 77}
                : protocol::Complain{it.publication, it.reader,
                                     static_cast<u8>(protocol::Complaint::stalled)});
        break;
    case FrameType::ask: {
        protocol::Ask ask;
        ask.publication.topic = bad ? "visitor/+" : mine ? "visitor/ask" : "neighbour";
        ask.publication.ring_bytes = 4096;
        ask.reply_ring_bytes = 4096;
        put(ask);
        break;
    }
    case FrameType::serve:
        put(protocol::Serve{.filter = bad ? "#/a" : mine ? "visitor/ask" : "neighbour"});
        break;
    case FrameType::collect:
        put(protocol::Collect{.lineage = {static_cast<u8>(whose)}});
        break;
    case FrameType::respond:
        put(protocol::Respond{.attachment = it.attachment});  // of messages: nobody asks there
        break;
    case FrameType::welcome:
        put(protocol::Welcome{.client = it.client});
        break;
    case FrameType::error:
        put(protocol::ErrorFrame{.code = EPERM, .text = "no"});
        break;
    case FrameType::done:
        put(protocol::Done{});
        break;
    case FrameType::advertised:
        put(protocol::Advertised{.publication = it.publication});
        break;
    case FrameType::subscribed:
        put(protocol::Subscribed{it.subscription, 1});
        break;
    case FrameType::peer:
        put(protocol::Peer{.client = it.client});
        break;
    case FrameType::peer_gone:
        put(protocol::PeerGone{it.client});
        break;
    case FrameType::members:
        put(protocol::Members{it.publication, 9, {}, {it.attachment}});
        break;
    case FrameType::attached:
        put(protocol::Attached{.attachment = it.attachment, .topic = "a"});
        break;
    case FrameType::ended:
        put(protocol::Ended{it.attachment, 1});
        break;
    case FrameType::stopping:
        put(protocol::Stopping{});
        break;
    case FrameType::caught_up:
        put(protocol::CaughtUp{it.subscription});
        break;
    case FrameType::refused:
        put(protocol::Refused{it.publication, it.attachment, 1, 2, ENOMEM});
        break;
    case FrameType::move:
        put(protocol::Move{it.publication});
        break;
    case FrameType::revoked:
        put(protocol::Revoked{it.publication, "no"});
        break;
    case FrameType::login:
        put(protocol::Login{"a token"});
        break;
    case FrameType::replaces:
        put(protocol::Replaces{it.client, {}});
        break;
    case FrameType::data:
        protocol::encode_data_head(out, {it.publication, 0}, 0);
        break;
    case FrameType::credit:
        put(protocol::Credit{it.attachment, 4096});
        break;
    case FrameType::readers:
        put(protocol::Readers{it.publication, 1});
        break;
    case FrameType::responders:
        put(protocol::Responders{it.publication, 1, {it.attachment}, {}});
        break;
    case FrameType::overtaken:
        put(protocol::Overtaken{it.publication, it.attachment, 16, 32});
        break;
    case FrameType::look:
        put(protocol::Look{static_cast<u8>(bad ? 77 : 4), it.publication,
                           mine ? "visitor/#" : "neighbour"});
        break;
    case FrameType::clients_page:
        put(protocol::ClientsPage{});
        break;
    case FrameType::publications_page:
        put(protocol::PublicationsPage{});
        break;
    case FrameType::subscriptions_page:
        put(protocol::SubscriptionsPage{});
        break;
    case FrameType::attachments_page:
        put(protocol::AttachmentsPage{});
        break;
    }
    return out;
}

/// In a session that may ask (`joined` and so on say what it has).
Reaction expected_when_ready(State state, FrameType type, Whose whose) {
    const bool publishes = state == State::offered || state == State::joined;
    const bool mine = whose == Whose::own;
    const bool bad = whose == Whose::nobodys;
    switch (type) {
    case FrameType::advertise:
    case FrameType::subscribe:
    case FrameType::subscribe_from:
    case FrameType::ask:
    case FrameType::serve:
    case FrameType::look:
        return bad ? Reaction::refused : Reaction::answered;
    case FrameType::collect:
        return Reaction::answered;
    case FrameType::respond:
        return Reaction::refused;
    case FrameType::mapped:
        return mine ? Reaction::ignored : Reaction::ended;
    case FrameType::unadvertise:
        return mine && publishes ? Reaction::answered : Reaction::refused;
    case FrameType::unsubscribe:
        return mine && state == State::joined ? Reaction::answered : Reaction::refused;
    case FrameType::detached:
        return Reaction::ignored;  // it may have crossed with the end of the attachment
    case FrameType::taken:
        return bad && publishes ? Reaction::ended : Reaction::ignored;
    case FrameType::complain:
        return bad && state == State::joined ? Reaction::ended : Reaction::ignored;
    case FrameType::received:
        return bad ? Reaction::ended : Reaction::ignored;
    case FrameType::hello:
    case FrameType::resume:
    case FrameType::welcome:
    case FrameType::error:
    case FrameType::done:
    case FrameType::advertised:
    case FrameType::subscribed:
    case FrameType::peer:
    case FrameType::peer_gone:
    case FrameType::members:
    case FrameType::attached:
    case FrameType::ended:
    case FrameType::stopping:
    case FrameType::caught_up:
    case FrameType::refused:
    case FrameType::move:
    case FrameType::revoked:
    case FrameType::login:
    case FrameType::replaces:
    case FrameType::data:
    case FrameType::credit:
    case FrameType::readers:
    case FrameType::responders:
    case FrameType::overtaken:
    case FrameType::clients_page:
    case FrameType::publications_page:
    case FrameType::subscriptions_page:
    case FrameType::attachments_page:
        return Reaction::ended;
    }
    return Reaction::ended;  // of no type at all
}

Reaction expected(State state, FrameType type, Whose whose) {
    switch (state) {
    case State::connected:
        return type == FrameType::hello    ? Reaction::answered
               : type == FrameType::resume ? Reaction::refused
                                           : Reaction::ended;
    case State::greeted:
        return type == FrameType::mapped || type == FrameType::received || type == FrameType::look
                   ? expected_when_ready(state, type, whose)
                   : Reaction::ended;
    case State::ready:
    case State::offered:
    case State::joined:
    case State::resumed:
        return expected_when_ready(state, type, whose);
    case State::refused:
        return Reaction::hung_up;
    }
    return Reaction::hung_up;
}

Reaction reaction(Visitor& visitor, FrameType type) {
    return visitor.reaction(wants_answer(type), type == FrameType::hello);
}

std::vector<FrameType> known_types() {
    const std::string unknown = protocol::frame_name(static_cast<FrameType>(0));
    std::vector<FrameType> known;
    for (u16 type = 0; type < 256; type++) {
        if (protocol::frame_name(static_cast<FrameType>(type)) != unknown) {
            known.push_back(static_cast<FrameType>(type));
        }
    }
    return known;
}

/// Daemon, bystanders, neighbour.
class Stage {
public:
    Stage() {
        { const Visitor warm_up(daemon_.socket_path(), State::joined, neighbour_); }
        neighbour_.settle();
        before_ = Ledger::of(daemon_.process().pid());
        bystanders_.emplace(daemon_.address());
    }
    /// At the end of a test: nothing is left of the visitors, and nobody has noticed them.
    void finish() {
        bystanders_->expect_trips();
        bystanders_->finish();
        Ledger now;
        // This process may still map what its visitors were given: it is remembered, once.
        const std::size_t most = before_.descriptors + 1;
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        do {
            neighbour_.settle();
            now = Ledger::of(daemon_.process().pid());
        } while (now.descriptors > most && !deadline.passed());
        INFO("before: ", before_.text(), "; after: ", now.text());
        CHECK(now.descriptors <= most);
        if (!kSanitized) {  // a sanitizer keeps what is freed
            CHECK(now.own_bytes <= before_.own_bytes + (4u << 20));
        }
        neighbour_.expect_intact();
        MESSAGE(cases_, " cases, ", bystanders_->trips(), " trips of the bystanders, the longest ",
                bystanders_->longest_trip_ns() / 1000, " us");
    }

    DaemonFixture& daemon() { return daemon_; }
    Neighbour& neighbour() { return neighbour_; }
    const Objects& others() { return neighbour_.objects(); }
    Visitor visitor(State state) {
        cases_++;
        return Visitor(daemon_.socket_path(), state, neighbour_);
    }

private:
    DaemonFixture daemon_;
    Neighbour neighbour_{daemon_.socket_path()};
    Ledger before_;
    std::optional<Bystanders> bystanders_;
    unsigned cases_ = 0;
};

}  // namespace

TEST_CASE("every frame in every state does what the table says") {
    Stage stage;
    for (const State state : kStates) {
        for (const FrameType type : known_types()) {
            for (const Whose whose : kWhose) {
                INFO(name(state), ", ", std::string(protocol::frame_name(type)), " of ",
                     name(whose));
                Visitor visitor = stage.visitor(state);
                visitor.send(frame_of(type, whose, visitor.own(), stage.others(), Visitor::kAsked));
                CHECK(name(reaction(visitor, type)) == name(expected(state, type, whose)));
                stage.neighbour().settle();
            }
        }
        for (const u16 number : {0, 13, 63, 76, 0x8001, 0xffff}) {
            INFO(name(state), ", ", number);
            const auto type = static_cast<FrameType>(number);
            Visitor visitor = stage.visitor(state);
            std::vector<std::byte> bytes;
            protocol::FieldWriter writer(bytes);
            writer(u32{24}, number, u16{0}, u64{1}, u64{1});
            visitor.send(bytes);
            CHECK(name(reaction(visitor, type)) == name(expected(state, type, Whose::own)));
        }
    }
    stage.finish();
}

TEST_CASE("a frame that is cut, at every byte: its rest may come later, or never") {
    enum class Then { rest, end, hang_up };
    Stage stage;
    for (const State state : kStates) {
        for (const FrameType type : known_types()) {
            if (!sent_by_clients(type) || state == State::refused) {
                continue;
            }
            const Objects nothing;
            const std::size_t bytes_max = frame_of(type, Whose::own, nothing, nothing, 1).size();
            for (std::size_t cut = 0; cut < bytes_max; cut++) {
                for (const Then then : {Then::rest, Then::end, Then::hang_up}) {
                    INFO(name(state), ", ", std::string(protocol::frame_name(type)), " cut at ",
                         cut);
                    Visitor visitor = stage.visitor(state);
                    const auto bytes =
                        frame_of(type, Whose::own, visitor.own(), stage.others(), Visitor::kAsked);
                    REQUIRE(bytes.size() == bytes_max);
                    visitor.send(std::span(bytes).first(cut));
                    stage.neighbour().settle();  // the daemon has looked at the first part
                    if (then == Then::rest) {
                        visitor.send(std::span(bytes).subspan(cut));
                        CHECK(name(reaction(visitor, type)) ==
                              name(expected(state, type, Whose::own)));
                    } else if (then == Then::end) {
                        REQUIRE(::shutdown(visitor.socket(), SHUT_WR) == 0);
                    }
                }
            }
        }
    }
    stage.finish();
}

TEST_CASE("tokens: whoever has it may go on, whoever has a bit of it wrong may not") {
    Stage stage;
    const std::string path = stage.daemon().socket_path();
    const Objects& others = stage.others();
    const auto refused = [&](const protocol::Resume& resume) {
        RawClient thief(path);
        thief.send(resume);
        thief.expect_error(ENOENT, {"HELLO"});
    };
    for (unsigned bit = 0; bit < 128; bit++) {
        protocol::Resume resume{.client = others.client, .token = others.token};
        resume.token[bit / 8] = static_cast<u8>(resume.token[bit / 8] ^ 1u << bit % 8);
        refused(resume);
    }
    refused({.client = others.client});
    for (const u64 id : {u64{0}, others.client - 1, others.client + 1, others.publication,
                         others.client | u64{1} << 63, ~u64{0}}) {
        refused({.client = id, .token = others.token});
    }
    if (may_be_user(12345)) {
        REQUIRE(::chmod(stage.daemon().directory().path().c_str(), 0711) == 0);
        ChildProcess other_user = ChildProcess::fork([&] {
            if (::setuid(12345) != 0) {
                return 2;
            }
            RawClient thief(path);
            thief.send(protocol::Resume{.client = others.client, .token = others.token});
            const auto answer = thief.next();
            return answer.has_value() && answer->header.type == FrameType::error ? 0 : 1;
        });
        CHECK(other_user.wait() == 0);
    } else {
        MESSAGE("skipped: this process cannot become another user");
    }
    stage.finish();
}
