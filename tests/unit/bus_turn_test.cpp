// SPDX-License-Identifier: Apache-2.0
// Goal: no turn of the loop does everything that somebody caused, however much that is: others are
// served in between, and in the end all of it is done. Method: a bus in this process, clients that
// do what they should, turns run one by one; so what a turn did can be seen when it is over.
#include "bystander.hpp"

#include "child_process.hpp"
#include "loop_support.hpp"
#include "sys/clock.hpp"

using ipcbus::daemon::Bus;
using ipcbus::daemon::Config;
using ipcbus::fuzz::Bystander;
using ipcbus::protocol::u64;
namespace fuzz = ipcbus::fuzz;
namespace protocol = ipcbus::protocol;

namespace {

/// So many that they take several turns, of 5 ms each for such work, also on a fast machine;
/// with a sanitizer, fewer are.
constexpr std::size_t kMany = ipcbus::test::kSanitized ? 8'000 : 40'000;

Config config_for(std::size_t attachments) {
    constexpr u64 kPlenty = u64{1} << 20;
    Config config;
    config.publications.ring_bytes = 8192;
    config.publications.rings_ready = 0;
    config.limits.total = {.clients = kPlenty,
                           .publications = kPlenty,
                           .subscriptions = kPlenty,
                           .descriptors = kPlenty,
                           .ring_bytes = kPlenty << 20};
    config.limits.per_uid = config.limits.total;
    config.limits.attachments_per_client = attachments;
    return config;
}

struct Scene {
    explicit Scene(std::size_t attachments) {
        auto made = Bus::create(fuzz::event_loop(), config_for(attachments));
        REQUIRE(made.ok());
        bus = std::move(made).value();
        reader.emplace(*bus, 1);
        writer.emplace(*bus, 2);
        innocent.emplace(*bus, 3);
    }
    ~Scene() {
        reader.reset();
        writer.reset();
        innocent.reset();
        bus->close();
        CHECK(fuzz::event_loop().run_until_idle().ok());
    }

    std::vector<u64> subscribe(const std::string& filter, std::size_t count) {
        std::vector<u64> ids;
        constexpr std::size_t kAtOnce = 100;
        while (ids.size() < count) {
            std::vector<u64> requests(kAtOnce);
            for (u64& request : requests) {
                request = reader->ask(protocol::Subscribe{filter, 0});
            }
            for (const u64 request : requests) {
                const auto subscribed = reader->answer<protocol::Subscribed>(request);
                REQUIRE(subscribed.has_value());
                ids.push_back(subscribed->subscription);
            }
        }
        return ids;
    }
    /// The innocent asks, and is answered: it takes two turns.
    void ask_in_between() {
        const u64 request = innocent->ask(protocol::Unsubscribe{~u64{0}});
        CHECK(!innocent->answer<protocol::Done>(request).has_value());
    }
    void turn_until_attached(std::size_t count) {
        fuzz::turn_until([&] {
            reader->listen();
            writer->listen();
            return reader->attachment_count() == count && writer->member_count() == count;
        });
        CHECK(bus->attachment_count() == count);
    }

    std::unique_ptr<Bus> bus;
    std::optional<Bystander> reader;
    std::optional<Bystander> writer;
    std::optional<Bystander> innocent;
};

}  // namespace

TEST_CASE("a publication that very many subscriptions match is attached to them piece by piece") {
    Scene f(2 * kMany);
    (void)f.subscribe("a", kMany);
    const u64 request = f.writer->ask(protocol::Advertise{.topic = "a"});
    f.ask_in_between();
    CHECK(f.bus->attachment_count() > 0);
    CHECK(f.bus->attachment_count() < kMany);
    CHECK(!f.writer->answered(request));  // the answer has all its readers
    const auto advertised = f.writer->answer<protocol::Advertised>(request);
    REQUIRE(advertised.has_value());
    CHECK(f.bus->attachment_count() == kMany);
    f.writer->send(protocol::Mapped{advertised->publication});
    f.turn_until_attached(kMany);
}

TEST_CASE("subscriptions that come meanwhile are attached once, those that go are not") {
    Scene f(2 * kMany);
    const std::vector<u64> ids = f.subscribe("a", kMany);
    const u64 request = f.writer->ask(protocol::Advertise{.topic = "a"});
    const u64 first = f.reader->ask(protocol::Unsubscribe{ids.front()});
    const u64 last = f.reader->ask(protocol::Unsubscribe{ids.back()});
    f.ask_in_between();
    CHECK(f.bus->attachment_count() < kMany);
    const auto late = f.reader->subscribe("+");
    REQUIRE(late.has_value());
    CHECK(late->attachments == 1);
    CHECK(f.reader->answer<protocol::Done>(first).has_value());
    CHECK(f.reader->answer<protocol::Done>(last).has_value());
    const auto advertised = f.writer->answer<protocol::Advertised>(request);
    REQUIRE(advertised.has_value());
    f.writer->send(protocol::Mapped{advertised->publication});
    f.turn_until_attached(kMany - 1);
}

TEST_CASE("a publisher that goes while readers are being attached to it leaves nothing") {
    Scene f(2 * kMany);
    (void)f.subscribe("a", kMany);
    (void)f.writer->ask(protocol::Advertise{.topic = "a"});
    f.ask_in_between();
    CHECK(f.bus->attachment_count() > 0);
    f.writer.reset();
    fuzz::turn_until([&] { return f.bus->attachment_count() == 0; });
    f.ask_in_between();
}

TEST_CASE("slots that come free all at once are used piece by piece") {
    Scene f(kMany);
    const std::vector<u64> ids = f.subscribe("a", kMany);
    REQUIRE(f.writer->advertise("a", 8192).has_value());
    f.turn_until_attached(kMany);
    // No slot is left for these.
    (void)f.subscribe("b", kMany);
    REQUIRE(f.writer->advertise("b", 8192).has_value());
    CHECK(f.bus->attachment_count() == kMany);
    // The writer is told of all that have left, and takes nothing in until it listens.
    f.reader->unsubscribe(ids);
    CHECK(f.bus->attachment_count() == kMany);
    while (f.bus->attachment_count() >= kMany) {
        fuzz::turns(1);
        f.writer->listen();
        f.innocent->listen();
    }
    // Nearly all slots are free now, and one turn has passed at most since.
    std::size_t turns = 0;
    for (std::size_t before = 0; before < kMany; before = f.bus->attachment_count()) {
        fuzz::turns(1);
        CHECK(f.bus->attachment_count() < before + kMany / 2);
        turns++;
        f.writer->listen();
        f.reader->listen();
    }
    CHECK(turns > 2);
    f.turn_until_attached(kMany);
}

TEST_CASE("what had its turn is not attached again for the sake of what came to it late") {
    std::optional<Scene> f;
    std::size_t others = 0;
    std::optional<protocol::Subscribed> all;
    std::optional<protocol::Advertised> first;
    u64 late = 0;
    // There is one slot for the subscription to all.
    SUBCASE("a ring that takes longer to be made") {
        f.emplace(1);
        all = f->reader->subscribe("#");
        late = f->writer->ask(protocol::Advertise{.topic = "late", .ring_bytes = u64{64} << 20});
        first = f->writer->advertise("first", 8192);
    }
    SUBCASE("a publication that has many others to be attached to before") {
        // The kernel may take longer to make the first ring than all those readers take.
        const auto deadline =
            ipcbus::sys::Deadline::after(std::int64_t{ipcbus::test::kTimeoutMs} * 1'000'000);
        others = kMany;
        do {
            REQUIRE(!deadline.passed());
            f.emplace(kMany + 1);
            (void)f->subscribe("late", kMany);
            all = f->reader->subscribe("#");
            late = f->writer->ask(protocol::Advertise{.topic = "late"});
            f->ask_in_between();
            first = f->innocent->advertise("first", 8192);
        } while (f->writer->answered(late));
    }
    REQUIRE((all.has_value() && first.has_value()));
    const auto advertised = f->writer->answer<protocol::Advertised>(late);
    REQUIRE(advertised.has_value());
    CHECK(advertised->publication < first->publication);
    f->writer->send(protocol::Mapped{advertised->publication});
    const auto listen = [&] {
        f->reader->listen();
        f->writer->listen();
        f->innocent->listen();
    };
    const auto wait_until_it_reads = [&](u64 publication) {
        fuzz::turn_until([&] {
            listen();
            return f->reader->attachment_count() == others + 1;
        });
        CHECK(f->reader->publications_of(all->subscription) == std::vector<u64>{publication});
    };
    wait_until_it_reads(first->publication);
    f->reader->let_go(all->subscription);
    wait_until_it_reads(advertised->publication);
    f->reader->let_go(all->subscription);
    fuzz::turn_until([&] {
        listen();
        return f->bus->attachment_count() == others || f->reader->attachment_count() != others;
    });
    // Nothing is attached in the turns that follow, either.
    f->ask_in_between();
    f->ask_in_between();
    listen();
    CHECK(f->bus->attachment_count() == others);
    CHECK(f->reader->attachment_count() == others);
}

TEST_CASE("what was said before a subscription with history was asked for is heard before it") {
    Scene f(16);
    Bystander of_same_uid(*f.bus, 1);
    for (int round = 0; round < 4; round++) {
        Bystander& writer = round % 2 == 0 ? *f.writer : of_same_uid;
        const std::string topic = "a/" + std::to_string(round);
        const auto advertised = writer.answer<protocol::Advertised>(
            writer.ask(protocol::Advertise{.topic = topic, .ring_bytes = u64{16} << 20}));
        REQUIRE(advertised.has_value());
        fuzz::turns(4);  // and has been heard of all it said up to now
        // They are in their sockets when the turn begins; received the other way round, as an
        // older kernel may do it.
        const u64 request = f.reader->ask(protocol::SubscribeFrom{topic, 0, 1});
        writer.send(protocol::Mapped{advertised->publication});
        const auto subscribed = f.reader->answer<protocol::Subscribed>(request);
        REQUIRE(subscribed.has_value());
        std::optional<std::size_t> read;
        fuzz::turn_until([&] {
            read = f.reader->caught_up(subscribed->subscription);
            return read.has_value();
        });
        CHECK(*read == 1);
    }
}
