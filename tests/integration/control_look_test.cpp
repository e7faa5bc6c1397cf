// SPDX-License-Identifier: Apache-2.0
// Goal: LOOK tells what is on the bus, exactly, in pages that are bounded whatever is there; to
// each what he may know; and whatever publishers and readers write into their memory, it costs
// nobody but them their figures. Method: raw frames, beside the library and hostile raw clients.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"
#include "remote_client.hpp"

#include "protocol/wire_look.hpp"
#include "sys/clock.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::LookAt;
using protocol::u32;
using protocol::u64;
using protocol::u8;

namespace {

template <class Entry>
struct Looked {
    std::vector<Entry> entries;
    std::size_t pages = 0;
    std::size_t empty_pages = 0;
    bool all = true;
};

/// All pages. `between` runs after the first.
template <class Page>
auto look(
    RawClient& client, LookAt at, const std::string& filter = "",
    const std::function<void()>& between = [] {}) {
    Looked<typename decltype(Page::entries)::value_type> looked;
    u64 after = 0;
    u64 time_ns = 0;
    do {
        const Page page =
            client.answer<Page>(client.send(protocol::Look{static_cast<u8>(at), after, filter}));
        REQUIRE((page.head.next == 0 || page.head.next > after));
        CHECK(page.head.time_ns >= time_ns);
        time_ns = page.head.time_ns;
        looked.entries.insert(looked.entries.end(), page.entries.begin(), page.entries.end());
        looked.empty_pages += page.entries.empty() ? 1 : 0;
        looked.all = looked.all && page.head.all == 1;
        if (looked.pages++ == 0) {
            between();
        }
        after = page.head.next;
    } while (after != 0);
    return looked;
}

auto publications(RawClient& client, const std::string& filter = "") {
    return look<protocol::PublicationsPage>(client, LookAt::publications, filter);
}
auto clients(RawClient& client) { return look<protocol::ClientsPage>(client, LookAt::clients); }
auto subscriptions(RawClient& client, const std::string& filter = "") {
    return look<protocol::SubscriptionsPage>(client, LookAt::subscriptions, filter);
}
auto attachments(RawClient& client, const std::string& filter = "") {
    return look<protocol::AttachmentsPage>(client, LookAt::attachments, filter);
}

protocol::PublicationEntry publication(RawClient& client, const std::string& topic) {
    const auto found = publications(client, topic).entries;
    REQUIRE(found.size() == 1);
    CHECK(found[0].topic == topic);
    return found[0];
}
protocol::AttachmentEntry attachment(RawClient& client, const std::string& topic) {
    const auto found = attachments(client, topic).entries;
    REQUIRE(found.size() == 1);
    CHECK(found[0].topic == topic);
    return found[0];
}

constexpr u64 kPayload = 100;
constexpr u64 kRecord = protocol::record_bytes(0, kPayload);
constexpr u64 kRing = 65536;

void publish_some(const Publisher& publisher, int count) {
    for (int i = 0; i < count; i++) {
        publish(publisher, std::string(kPayload, 'x'));
    }
}

/// Looks until it is so; there is nothing that would say when.
template <class Condition>
bool comes_to_be(Condition condition) {
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (!condition()) {
        if (deadline.passed()) {
            return false;
        }
    }
    return true;
}

}  // namespace

TEST_SUITE_BEGIN("control_look");

TEST_CASE("thousands come in pages, each once, also while some come and go") {
    constexpr std::size_t kCount = 1100;
    DaemonFixture daemon;
    RawClient owner = RawClient::on_bus(daemon.socket_path(), "owner");
    RawClient viewer = RawClient::on_bus(daemon.socket_path(), "viewer");
    std::vector<u64> ids;
    for (std::size_t i = 0; i < kCount; i++) {
        const std::string topic = (i == kCount - 1 ? "last/" : "t/") + std::to_string(i);
        ids.push_back(owner.advertise(topic, 4096).publication);
        owner.mapped(ids.back());
    }
    auto looked = publications(viewer);
    CHECK(looked.entries.size() == kCount);
    CHECK(looked.pages == (kCount - 1) / protocol::kPublicationsPerPageMax + 1);
    CHECK(looked.all);
    for (std::size_t i = 0; i < looked.entries.size(); i++) {
        CHECK(looked.entries[i].publication == ids[i]);
        CHECK(looked.entries[i].client == owner.welcome.client);
    }
    // What does not match is looked at, too, but not for ever in one turn.
    looked = publications(viewer, "last/+");
    CHECK(looked.entries.size() == 1);
    CHECK(looked.pages == 2);
    CHECK(looked.empty_pages == 1);

    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    reader.acknowledges = false;
    reader.subscribe("t/#");
    const auto attached = attachments(viewer);
    CHECK(attached.entries.size() == kCount - 1);
    CHECK(attached.pages >= (kCount - 1) / protocol::kAttachmentsPerPageMax);
    std::vector<u64> seen;
    for (const auto& entry : attached.entries) {
        seen.push_back(entry.publication);
    }
    std::sort(seen.begin(), seen.end());
    CHECK(std::equal(seen.begin(), seen.end(), ids.begin(), ids.end() - 1));

    // One that was told goes, one that was not goes, one comes.
    looked = look<protocol::PublicationsPage>(viewer, LookAt::publications, "", [&] {
        owner.unadvertise(ids[3]);
        owner.unadvertise(ids[700]);
        owner.mapped(owner.advertise("new", 4096).publication);
    });
    REQUIRE(looked.entries.size() == kCount + 1);
    CHECK(looked.entries.back().topic == "new");
    for (std::size_t i = 0; i < kCount; i++) {
        const bool ended = (looked.entries[i].flags & protocol::kPublicationEnded) != 0;
        CHECK(ended == (looked.entries[i].publication == ids[700]));  // the reader drains it
    }
}

TEST_CASE("clients, publications and subscriptions are what they are") {
    DaemonFixture daemon;
    const Bus bus = connect(daemon.address(), "pump");
    const Publisher temp = advertise(bus, "plant/7/temp");
    const Publisher other = advertise(bus, "other", 2 * kRing);
    const Subscriber all = subscribe(bus, "plant/#", IPCBUS_LOSSY);
    // Before MAPPED: it needs no memory.
    RawClient viewer(daemon.socket_path());
    viewer.hello("viewer");
    const auto looked = clients(viewer);
    REQUIRE(looked.entries.size() == 2);
    const auto& pump = looked.entries[0];
    CHECK(pump.name == "pump");
    CHECK(pump.uid == ::getuid());
    CHECK(pump.pid == static_cast<u32>(::getpid()));
    CHECK(pump.transport == 0);
    CHECK(pump.publications == 2);
    CHECK(pump.subscriptions == 1);
    CHECK(pump.waiters >= 1);
    CHECK(looked.entries[1].client == viewer.welcome.client);
    publish_some(temp, 17);
    const auto entry = publication(viewer, "plant/7/temp");
    CHECK(entry.client == pump.client);
    CHECK(entry.uid == ::getuid());
    CHECK(entry.flags == 0);
    CHECK(entry.ring_bytes == kRing);
    CHECK(entry.readers == 1);
    CHECK(entry.messages == 17);
    CHECK(entry.bytes == 17 * kRecord);
    CHECK(publication(viewer, "other").messages == 0);
    CHECK(publication(viewer, "other").readers == 0);
    CHECK(publications(viewer, "+/7/#").entries.size() == 1);
    CHECK(publications(viewer, "#").entries.size() == 2);
    CHECK(publications(viewer, "nothing").entries.empty());
    const auto filters = subscriptions(viewer).entries;
    REQUIRE(filters.size() == 1);
    CHECK(filters[0].filter == "plant/#");
    CHECK(filters[0].mode == static_cast<u8>(protocol::ReaderMode::lossy));
    CHECK(filters[0].attachments == 1);
    CHECK(filters[0].client == pump.client);
    CHECK(subscriptions(viewer, "plant/+").entries.size() == 1);
    CHECK(subscriptions(viewer, "other").entries.empty());
}

TEST_CASE("lag, received and lost are exact") {
    DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Publisher out = advertise(bus, "t", kRing);
    const Subscriber in = subscribe(bus, "t", IPCBUS_LOSSY);
    wait_for_publications(in, 1);
    RawClient viewer = RawClient::on_bus(daemon.socket_path(), "viewer");
    publish_some(out, 10);
    while (receive(in, 0).ok()) {}
    auto entry = attachment(viewer, "t");
    CHECK(entry.received == 10);
    CHECK(entry.lost == 0);
    CHECK(entry.lag_bytes == 0);
    CHECK(entry.lag_messages == 0);
    CHECK(entry.mode == static_cast<u8>(protocol::ReaderMode::lossy));
    CHECK((entry.flags & ~protocol::kAttachmentParked) == 0);

    publish_some(out, 7);
    entry = attachment(viewer, "t");
    CHECK(entry.lag_bytes == 7 * kRecord);
    CHECK(entry.lag_messages == 7);

    // Overtaken: how many bytes it is behind is known, how many messages it will have lost not yet.
    publish_some(out, 1000);
    entry = attachment(viewer, "t");
    CHECK(entry.lag_bytes == 1007 * kRecord);
    CHECK((entry.flags & protocol::kAttachmentOvertaken) != 0);
    CHECK((entry.flags & protocol::kAttachmentUncounted) != 0);
    CHECK((entry.flags & protocol::kAttachmentHolds) == 0);
    CHECK(entry.lost == 0);

    u64 received = 10;
    int result = 0;
    while ((result = receive(in, 0).result) != -EAGAIN) {
        received += result == 0 ? 1 : 0;
    }
    entry = attachment(viewer, "t");
    CHECK(entry.received == received);
    CHECK(entry.lost == 1017 - received);
    CHECK(entry.lost == ipcbus_lost(in.get()));
    CHECK(entry.lost > 0);
    CHECK(entry.lag_bytes == 0);
    CHECK((entry.flags & ~protocol::kAttachmentParked) == 0);
    CHECK(publication(viewer, "t").messages == 1017);
}

TEST_CASE("a blocked publisher is shown, and whom it waits for, and nobody else") {
    DaemonFixture daemon("[publications]\nstall_timeout = \"10min\"\n");
    const Bus bus = connect(daemon.address(), "readers");
    const Subscriber slow = subscribe(bus, "t");
    const Subscriber quick = subscribe(bus, "t");
    const Subscriber lossy = subscribe(bus, "t", IPCBUS_LOSSY);
    ChildProcess publisher = ChildProcess::fork([&] {
        const Bus own = connect(daemon.address(), "publisher");
        const Publisher out = advertise(own, "t", kRing, -1);
        for (int i = 0; i < 1000; i++) {
            publish_some(out, 1);
        }
        return 0;
    });
    REQUIRE(receive(quick).ok());  // before it has heard of it, it holds the publisher, too
    RawClient viewer = RawClient::on_bus(daemon.socket_path(), "viewer");
    const auto blocked = [&] {
        while (receive(quick, 0).ok()) {}
        const auto found = publications(viewer, "t").entries;
        return found.size() == 1 && (found[0].flags & protocol::kPublicationBlocked) != 0;
    };
    REQUIRE(comes_to_be(blocked));
    while (receive(quick, 0).ok()) {}
    const auto told = attachments(viewer, "t").entries;
    CHECK(told.size() == 3);
    int holding = 0;
    for (const auto& entry : told) {
        const bool holds = (entry.flags & protocol::kAttachmentHolds) != 0;
        holding += holds ? 1 : 0;
        CHECK(holds == (entry.lag_bytes > kRing - 2 * kRecord &&
                        entry.mode == static_cast<u8>(protocol::ReaderMode::reliable)));
        CHECK(entry.writer != entry.reader);
    }
    CHECK(holding == 1);
    // It goes on as soon as the slow one reads; nothing holds it then.
    for (int received = 0; received < 1000;) {
        received += receive(slow).ok() ? 1 : 0;
        while (receive(quick, 0).ok()) {}
    }
    CHECK(publisher.wait() == 0);
    for (const auto& entry : attachments(viewer, "t").entries) {
        CHECK((entry.flags & protocol::kAttachmentHolds) == 0);
    }
}

TEST_CASE("an ended publication is shown as long as somebody drains it") {
    DaemonFixture daemon;
    const Bus bus = connect(daemon.address(), "writer");
    Publisher out = advertise(bus, "t", kRing);
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    reader.subscribe("t");
    (void)reader.expect<protocol::Peer>();
    const auto attached = reader.expect<protocol::Attached>();
    publish_some(out, 3);
    out.reset();
    RawClient viewer = RawClient::on_bus(daemon.socket_path(), "viewer");
    const auto entry = publication(viewer, "t");
    CHECK(entry.flags == protocol::kPublicationEnded);
    CHECK(entry.readers == 1);
    CHECK(entry.messages == 3);
    CHECK(entry.bytes == 3 * kRecord);
    CHECK(attachment(viewer, "t").lag_bytes == 3 * kRecord);
    CHECK(attachment(viewer, "t").flags == protocol::kAttachmentUncounted);
    reader.send_with(protocol::Detached{attached.attachment}, 0);
    reader.drain();
    CHECK(publications(viewer, "t").entries.empty());
    CHECK(attachments(viewer, "t").entries.empty());
}

TEST_CASE("others see what is their own, unless the bus says otherwise") {
    if (!may_be_user(12345)) {
        MESSAGE("skipped: needs to become another user");
        return;
    }
    DaemonFixture daemon;
    REQUIRE(::chmod(daemon.directory().path().c_str(), 0711) == 0);
    const Bus bus = connect(daemon.address(), "root's");
    const Publisher mine = advertise(bus, "root/secret");
    const Publisher read_by_him = advertise(bus, "root/open");
    const Subscriber everything = subscribe(bus, "#");
    const auto him = [&](const std::function<void(RawClient&)>& checks) {
        ChildProcess child = ChildProcess::fork([&] {
            must_be(::setuid(12345) == 0, "setuid");
            RawClient client = RawClient::on_bus(daemon.socket_path(), "his");
            client.mapped(client.advertise("his/own", 4096).publication);
            client.subscribe("root/open");
            checks(client);
            return 0;
        });
        CHECK(child.wait() == 0);
    };
    him([](RawClient& client) {
        const auto seen = clients(client);
        must_be(!seen.all, "it does not say that this is not all");
        must_be(seen.entries.size() == 1 && seen.entries[0].name == "his", "another's client");
        const auto topics = publications(client);
        must_be(!topics.all && topics.entries.size() == 1 && topics.entries[0].topic == "his/own",
                "another's publication");
        must_be(publications(client, "root/#").entries.empty(), "another's publication, asked for");
        const auto filters = subscriptions(client).entries;
        must_be(filters.size() == 1 && filters[0].filter == "root/open", "another's subscription");
        // Both ends of his own: root reads what he publishes, he reads what root publishes.
        const auto pairs = attachments(client).entries;
        must_be(pairs.size() == 2, "attachments");
        for (const auto& pair : pairs) {
            must_be(pair.topic == "his/own" || pair.topic == "root/open", "another's attachment");
        }
    });
    RawClient root = RawClient::on_bus(daemon.socket_path(), "root's viewer");
    ChildProcess he = ChildProcess::fork([&] {
        must_be(::setuid(12345) == 0, "setuid");
        RawClient client = RawClient::on_bus(daemon.socket_path(), "his");
        client.mapped(client.advertise("his/own", 4096).publication);
        for (;;) {
            ::pause();
        }
        return 0;
    });
    CHECK(comes_to_be([&] {
        const auto all = clients(root).entries;
        return all.size() == 3 && all.back().name == "his" && all.back().publications == 1;
    }));
    CHECK(publications(root).all);
    CHECK_FALSE(publications(root, "his/own").entries.empty());
    he.signal(SIGKILL);
    CHECK(he.wait() == 128 + SIGKILL);

    daemon.write_config("[statistics]\nvisible = \"all\"\n");
    CHECK(daemon.reload().find("statistics.visible: \"own\" -> \"all\" (live)") !=
          std::string::npos);
    him([](RawClient& client) {
        const auto topics = publications(client);
        must_be(topics.all && !topics.entries.empty() && topics.entries[0].topic == "root/secret",
                "not everything is shown");
        must_be(clients(client).entries.size() == 3, "not every client is shown");
        must_be(subscriptions(client).entries.size() == 2, "not every subscription is shown");
    });
}

TEST_CASE("a client over TCP is told as one, and LOOK does not cross TCP") {
    DaemonFixture daemon;
    const Bus here = connect(daemon.local_address(), "near");
    const Bus there = connect(daemon.tcp_address(), "far");
    const Publisher out = advertise(there, "from/afar", kRing, -1);
    const Subscriber in = subscribe(here, "from/#");
    const Subscriber far = subscribe(there, "from/#", IPCBUS_LOSSY);
    RawClient viewer = RawClient::on_bus(daemon.socket_path(), "viewer");
    publish_some(out, 9);
    CHECK(comes_to_be([&] { return publication(viewer, "from/afar").messages == 9; }));
    u32 remote_uid = 0;
    for (const auto& entry : clients(viewer).entries) {
        CAPTURE(entry.name);
        const bool remote = entry.name == "far";
        CHECK(entry.transport == (remote ? 1 : 0));
        CHECK((entry.pid == 0) == remote);
        CHECK((entry.uid >= 0x80000000) == remote);
        CHECK(entry.publications == (remote ? 1 : 0));
        remote_uid = remote ? entry.uid : remote_uid;
    }
    CHECK(clients(viewer).entries.size() == 3);
    CHECK(publication(viewer, "from/afar").uid == remote_uid);
    CHECK(subscriptions(viewer, "from/#").entries.size() == 2);

    // A local user whose number is what stands for the remote one.
    REQUIRE(::chmod(daemon.directory().path().c_str(), 0711) == 0);
    ChildProcess namesake = ChildProcess::fork([&] {
        must_be(::setuid(remote_uid) == 0, "setuid");
        RawClient client = RawClient::on_bus(daemon.socket_path(), "namesake");
        must_be(clients(client).entries.size() == 1, "a remote client");
        must_be(publications(client).entries.empty(), "its publication");
        must_be(subscriptions(client).entries.empty(), "its subscription");
        must_be(attachments(client).entries.empty(), "its attachment");
        return 0;
    });
    const std::optional<int> result = namesake.wait();
    CAPTURE(result.value_or(-1));
    CHECK((::geteuid() != 0 || result == 0));

    RemoteClient raw(daemon.tcp_address());
    for (const u8 at : {u8{1}, u8{2}, u8{3}, u8{4}}) {
        const Incoming answer = raw.ask(protocol::Look{at, 0, ""});
        REQUIRE(answer.header.type == protocol::FrameType::error);
        CHECK(decoded<protocol::ErrorFrame>(answer).code == EPROTONOSUPPORT);
    }
}

TEST_CASE("requests and replies are told as such") {
    DaemonFixture daemon;
    const Bus client = connect(daemon.address(), "client");
    const Bus server = connect(daemon.address(), "server");
    const Responder responder = serve(server, "calc/+");
    const Requester requester = make_requester(client, "calc/add");
    const Publisher message = advertise(client, "calc/add", kRing);
    for (const int times : {1, 2, 3}) {
        (void)ask(requester, "request");
        const Request request = next_request(responder);
        REQUIRE(request.result == 0);
        CHECK(respond(responder, request, std::to_string(times)) == 0);
        CHECK(next_reply(requester).result == 0);
    }
    // Who finds nothing more says how far it is.
    CHECK(next_request(responder, 0).result != 0);
    RawClient viewer = RawClient::on_bus(daemon.socket_path(), "viewer");
    using protocol::LookKind;
    const auto kinds = [](const auto& entries, LookKind kind) {
        return std::count_if(entries.begin(), entries.end(), [&](const auto& entry) {
            return entry.kind == static_cast<u8>(kind);
        });
    };
    const auto rings = publications(viewer, "calc/#").entries;
    REQUIRE(rings.size() == 3);
    for (const LookKind kind : {LookKind::messages, LookKind::requests, LookKind::replies}) {
        CHECK(kinds(rings, kind) == 1);
    }
    for (const auto& ring : rings) {
        const bool is_message = ring.kind == static_cast<u8>(LookKind::messages);
        CHECK(ring.topic == "calc/add");
        CHECK(ring.flags == 0);
        CHECK(ring.messages == (is_message ? 0 : 3));
        CHECK(ring.readers == (is_message ? 0 : 1));
    }
    // What collects replies has no filter, and is not shown where one is asked for.
    const auto all = subscriptions(viewer).entries;
    CHECK(all.size() == 2);
    CHECK(kinds(all, LookKind::requests) == 1);
    CHECK(kinds(all, LookKind::replies) == 1);
    const auto some = subscriptions(viewer, "#").entries;
    REQUIRE(some.size() == 1);
    CHECK(some[0].filter == "calc/+");
    CHECK(attachments(viewer, "calc/#").entries.size() == 2);
    for (const auto& entry : attachments(viewer).entries) {
        const auto ring = std::find_if(rings.begin(), rings.end(), [&](const auto& one) {
            return one.publication == entry.publication;
        });
        REQUIRE(ring != rings.end());
        CHECK((entry.flags & ~protocol::kAttachmentParked) == 0);
        // Who waits for no reply does not look for more, and has not said that it has read these.
        CHECK(entry.lag_messages == (ring->kind == static_cast<u8>(LookKind::replies) ? 3 : 0));
        CHECK(entry.received == 3);
    }
}

TEST_CASE("what a reader writes into its page costs it its own figures") {
    DaemonFixture daemon;
    RawClient writer = RawClient::on_bus(daemon.socket_path(), "writer");
    const auto advertised = writer.advertise("t", kRing);
    writer.mapped(advertised.publication);
    const Bus bus = connect(daemon.address(), "honest");
    const Subscriber honest = subscribe(bus, "t");
    RawClient liar = RawClient::on_bus(daemon.socket_path(), "liar");
    const auto subscribed = liar.subscribe("t", protocol::ReaderMode::lossy);
    u32 slot = 0;
    for (const Incoming& incoming : liar.drain()) {
        if (incoming.header.type == protocol::FrameType::attached) {
            slot = decoded<protocol::Attached>(incoming).slot;
        }
    }
    auto& words =
        *reinterpret_cast<protocol::CursorSlot*>(liar.cursor.data() + protocol::slot_offset(slot));
    auto& header = *reinterpret_cast<protocol::CursorHeader*>(liar.cursor.data());
    RawClient viewer = RawClient::on_bus(daemon.socket_path(), "viewer");
    for (const u64 cursor : {advertised.start + 16, advertised.start + 8, advertised.start - 16,
                             ~u64{0}, u64{1}, advertised.start + (u64{1} << 63)}) {
        CAPTURE(cursor);
        words.cursor.store(cursor);
        words.parked.store(~u64{0});
        words.received.store(~u64{0});
        words.lost.store(cursor);
        header.waiters_used.store(~u32{0});
        const auto all = attachments(viewer, "t").entries;
        REQUIRE(all.size() == 2);
        for (const auto& entry : all) {
            const bool his = entry.subscription == subscribed.subscription;
            CHECK(((entry.flags & protocol::kAttachmentDisbelief) != 0) == his);
            CHECK(entry.lag_bytes == 0);
            CHECK(entry.lag_messages == 0);
            if (his) {
                CHECK(entry.received == ~u64{0});
                CHECK(entry.sleeps <= u64{1} << 47);
            }
        }
        CHECK(publication(viewer, "t").flags == 0);
        for (const auto& entry : clients(viewer).entries) {
            CHECK(entry.waiters <= liar.welcome.geometry.waiters_max);
        }
    }
}

TEST_CASE("what a publisher writes into its ring costs it its own figures") {
    DaemonFixture daemon;
    RawClient liar = RawClient::on_bus(daemon.socket_path(), "liar");
    const auto advertised = liar.advertise("lies", kRing);
    REQUIRE(liar.fds.size() == 1);
    auto ring =
        sys::map_ring(liar.fds[0].get(), protocol::kRingDataOffset, kRing, sys::Access::read_write);
    REQUIRE(ring.ok());
    liar.mapped(advertised.publication);
    const Bus bus = connect(daemon.address(), "honest");
    const Publisher honest = advertise(bus, "truth");
    const Subscriber in = subscribe(bus, "#");
    wait_for_publications(in, 2);
    publish_some(honest, 5);
    auto& header = *reinterpret_cast<protocol::RingHeader*>(ring.value().header());
    RawClient viewer = RawClient::on_bus(daemon.socket_path(), "viewer");
    for (const u64 newest :
         {u64{8}, u64{16}, advertised.start, advertised.start + kRing, ~u64{15}, u64{1} << 63}) {
        CAPTURE(newest);
        header.newest.store(newest);
        header.wanted.store(~newest);
        const auto entry = publication(viewer, "lies");
        CHECK((entry.flags & protocol::kPublicationDisbelief) != 0);
        CHECK(entry.messages == 0);
        CHECK(entry.bytes == 0);
        CHECK(entry.sequence == 0);
        CHECK((attachment(viewer, "lies").flags & protocol::kAttachmentDisbelief) != 0);
        CHECK(attachment(viewer, "lies").lag_bytes == 0);
        CHECK(publication(viewer, "truth").messages == 5);
        CHECK(attachment(viewer, "truth").lag_messages == 5);
    }
}

TEST_CASE("what cannot be looked at is refused, and the session goes on") {
    DaemonFixture daemon;
    RawClient client = RawClient::on_bus(daemon.socket_path());
    for (const u8 at : {u8{0}, u8{5}, u8{255}}) {
        client.send(protocol::Look{at, 0, ""});
        client.expect_error(EINVAL, {"LOOK"});
    }
    client.send(protocol::Look{1, 0, "a//b"});
    client.expect_error(EINVAL, {"a//b"});
    for (const u64 after : {u64{1} << 40, ~u64{0}}) {
        for (const u8 at : {u8{1}, u8{2}, u8{3}}) {
            client.send(protocol::Look{at, after, ""});
        }
        CHECK(client.expect<protocol::ClientsPage>().entries.empty());
        CHECK(client.expect<protocol::PublicationsPage>().entries.empty());
        CHECK(client.expect<protocol::SubscriptionsPage>().entries.empty());
        const auto page =
            client.answer<protocol::AttachmentsPage>(client.send(protocol::Look{4, after, ""}));
        CHECK(page.entries.empty());
        CHECK(page.head.next == 0);
    }
    CHECK(clients(client).entries.size() == 1);
    client.send_with(protocol::Look{1, 0, ""}, 0);
    client.expect_error(EPROTO, {"LOOK"});
    client.expect_hang_up();
}

TEST_SUITE_END();
