// SPDX-License-Identifier: Apache-2.0
// Goal: what a waiter does at each step of parking, sleeping and waking, with several rings, shared
// bits, waiters that change, and words that others have scribbled on. Method: one thread that plays
// writer and reader in turns; the writer's part in the middle of a sleep is played from the hook
// `elsewhere`, which is called between the look and FUTEX_WAIT. Races: wake_race_test.cpp.
#include "protocol/waiter.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <list>
#include <new>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Slept = Waiter::Slept;

namespace {

constexpr u64 kCapacity = 4096;
constexpr i64 kMs = 1'000'000;

/// Called between the last look and FUTEX_WAIT.
struct Hook : Elsewhere {
    explicit Hook(std::function<bool()> what = [] { return false; }) : action(std::move(what)) {}
    virtual ~Hook() = default;
    bool look() override {
        looks++;
        return action();
    }
    std::function<bool()> action;
    unsigned looks = 0;
};

/// One reader's client and a few rings, each with the writer's table.
struct Scene {
    struct Line {
        explicit Line(Scene& scene, u32 slot)
            : publisher(ring.writer(), writer.publisher_words(0, 0), 60'000 * kMs, scene.control),
              attachment(ring.readable(), ring.origin(), 1,
                         scene.reader.attachment_words(slot, writer, 0)) {
            publisher.readers().add(scene.reader.entry(1, slot, ring.origin()));
            (void)publisher.finish();
        }
        void publish() {
            REQUIRE(publisher.reserve(16, 0) == RingPublisher::Status::ok);
            publisher.commit(0, 0);
            (void)publisher.finish();
        }
        /// Publishes and tells nobody: a writer that died just then.
        void publish_silently() {
            REQUIRE(publisher.reserve(16, 0) == RingPublisher::Status::ok);
            publisher.commit(0, 0);
        }
        bool read() {
            Record record;
            if (attachment.reader().look(record) != RingReader::Look::record) {
                return false;
            }
            attachment.reader().advance(record);
            attachment.moved();
            return true;
        }

        TestRing ring{kCapacity};
        TestClient writer;
        RingPublisher publisher;
        Attachment attachment;
    };

    Scene() { waiter.add(source); }
    Line& add(u32 slot) {
        lines.emplace_back(*this, slot);
        waiter.attach(source, lines.back().attachment);
        return lines.back();
    }
    [[nodiscard]] u32 bell() const { return reader.waiter(0).bell.load(); }

    QuietControl control;
    TestClient reader{Geometry{4, 4, 8192}};
    Waiter waiter{reader.waiter_words(0)};
    Source source;
    std::list<Line> lines;
    Nowhere nowhere;
};

i64 timed(const std::function<void()>& action) {
    const i64 before_ns = sys::monotonic_ns();
    action();
    return sys::monotonic_ns() - before_ns;
}

/// The best of a few: a busy machine makes one sleep long, not each of them.
i64 quickest(const std::function<void()>& action) {
    i64 best_ns = sys::kForeverNs;
    for (int i = 0; i < 8; i++) {
        best_ns = std::min(best_ns, timed(action));
    }
    return best_ns;
}

/// As if the time of what is armed were over, or far away.
void let_time_pass(Waiter::Armed& armed) { armed.until_ns = armed.ends_ns = 0; }
void stop_time(Waiter::Armed& armed) { armed.until_ns = armed.ends_ns = sys::kForeverNs; }

}  // namespace

TEST_SUITE_BEGIN("waiter");

TEST_CASE("nothing comes: it sleeps, for longer each time, and everything stays parked") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    Hook hook;
    CHECK(timed([&] { CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::timed_out); }) >= kMs);
    CHECK(timed([&] { CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::timed_out); }) >=
          4 * kMs);
    CHECK(timed([&] { CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::timed_out); }) >=
          16 * kMs);
    const i64 short_ns =
        quickest([&] { CHECK(scene.waiter.sleep(2 * kMs, hook) == Slept::timed_out); });
    CHECK(short_ns >= 2 * kMs);
    CHECK(short_ns < 60 * kMs);
    CHECK(hook.looks == 11);
    CHECK(scene.waiter.sleeps() == 11);
    CHECK(line.attachment.parked());
    CHECK(scene.source.active_count() == 0);
    CHECK_FALSE(scene.waiter.has_active());
    CHECK(scene.reader.asleep(0).load() % 2 == 0);
    // One episode for all of them: it was parked once.
    CHECK(scene.reader.slot(3).parked.load() == parked_word(1, 0));
    // A message: short slices again.
    CHECK(quickest([&] {
              scene.waiter.fruitful();
              CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::timed_out);
          }) < 60 * kMs);
}

TEST_CASE("a record that is there already: no sleep, and the ring stays active") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    line.publish();
    CHECK(scene.waiter.sleep(60'000 * kMs, scene.nowhere) == Slept::news);
    CHECK(scene.waiter.sleeps() == 0);
    CHECK_FALSE(line.attachment.parked());
    CHECK(scene.source.turn() == &line.attachment);
    CHECK(line.read());
}

TEST_CASE("a record between the look and the wait: rung, and not slept through") {
    Scene scene;
    Scene::Line& line = scene.add(70);
    for (int i = 0; i < 20; i++) {
        Hook hook([&] {
            line.publish();
            return false;
        });
        // The first slice is 1 ms: it would be timed_out, had the ring not been heard.
        CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::news);
        CHECK(scene.bell() == static_cast<u32>(i + 1));
        CHECK(line.attachment.parked());
        CHECK(scene.source.turn() == nullptr);
        scene.waiter.take_activity();
        CHECK(scene.source.turn() == &line.attachment);
        CHECK_FALSE(line.attachment.parked());
        CHECK(line.read());
        CHECK_FALSE(line.read());
        scene.waiter.fruitful();
    }
}

TEST_CASE("rung once an episode, however much is published") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    Hook hook([&] {
        for (int i = 0; i < 50; i++) {
            line.publish();
        }
        return false;
    });
    CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::news);
    CHECK(scene.bell() == 1);
}

TEST_CASE("something elsewhere ends it before the wait") {
    Scene scene;
    (void)scene.add(3);
    Hook hook([] { return true; });
    CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::news);
    CHECK(scene.waiter.sleeps() == 0);
    CHECK(scene.reader.asleep(0).load() % 2 == 0);
}

TEST_CASE("the last look is at every ring, to the last one") {
    Scene scene;
    for (u32 slot = 0; slot < 5; slot++) {
        (void)scene.add(slot);
    }
    for (const u32 with_news : {0u, 2u, 4u}) {
        std::next(scene.lines.begin(), with_news)->publish_silently();
    }
    CHECK(scene.waiter.sleep(60'000 * kMs, scene.nowhere) == Slept::news);
    CHECK(scene.source.active_count() == 3);
    unsigned read = 0;
    for (Scene::Line& line : scene.lines) {
        read += !line.attachment.parked() && line.read() ? 1 : 0;
    }
    CHECK(read == 3);
}

TEST_CASE("a writer that died before it could ring is found by time") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    Hook hook([&] {
        line.publish_silently();
        return false;
    });
    CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::timed_out);
    CHECK(scene.source.turn() == &line.attachment);
    CHECK(line.read());
}

TEST_CASE("a loss is news, too") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    Hook hook([&] {
        line.ring.header().announced.store(line.ring.origin() + 2 * kCapacity);
        return false;
    });
    CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::timed_out);
    CHECK(scene.source.turn() == &line.attachment);
    CHECK(scene.waiter.sleep(60'000 * kMs, scene.nowhere) == Slept::news);
}

TEST_CASE("the cursor is stored before a sleep and before a parking") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    line.publish();
    REQUIRE(line.read());
    CHECK(scene.reader.slot(3).cursor.load() == 0);
    SUBCASE("sleep") { (void)scene.waiter.sleep(0, scene.nowhere); }
    SUBCASE("park") { scene.waiter.park(line.attachment); }
    CHECK(scene.reader.slot(3).cursor.load() == line.attachment.reader().position());
}

TEST_CASE("one ring is parked while the others are read") {
    Scene scene;
    Scene::Line& cold = scene.add(3);
    Scene::Line& hot = scene.add(4);
    // Found empty often enough, it is parked.
    unsigned looks = 0;
    while (scene.source.active_count() == 2) {
        Attachment* attachment = scene.source.turn();
        if (attachment == &hot.attachment) {
            hot.publish();
            CHECK(hot.read());
            scene.source.fruitful(*attachment);
        }
        scene.source.fruitless(attachment == &hot.attachment ? cold.attachment : *attachment);
        REQUIRE(++looks < 10000);
    }
    CHECK(cold.attachment.parked());
    CHECK(scene.reader.asleep(0).load() % 2 == 0);
    CHECK(scene.source.turn() == &hot.attachment);
    // Rung through the bitmap alone: nobody is asleep.
    cold.publish();
    CHECK(scene.bell() == 0);
    CHECK(scene.source.active_count() == 1);
    scene.waiter.take_activity();
    CHECK(scene.source.active_count() == 2);
    CHECK(cold.read());
    // The last active one is never parked: there is nothing else to look at.
    scene.waiter.park(cold.attachment);
    for (int i = 0; i < 5000; i++) {
        scene.source.fruitless(hot.attachment);
    }
    CHECK_FALSE(hot.attachment.parked());
    // Parking sees what came before it.
    hot.publish_silently();
    scene.waiter.park(hot.attachment);
    CHECK_FALSE(hot.attachment.parked());
    CHECK(scene.source.active_count() == 1);
    // What was parked awake wakes a sleep, too.
    CHECK(hot.read());
    Hook hook([&] {
        cold.publish();
        return false;
    });
    CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::news);
    CHECK(scene.bell() == 1);
}

TEST_CASE("rung between a parking and the sleep: the summary is looked at") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    scene.waiter.park(line.attachment);
    line.publish();
    Hook hook;
    CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::news);
    CHECK(scene.waiter.sleeps() == 0);
    scene.waiter.take_activity();
    CHECK(line.read());
}

TEST_CASE("two attachments that share a bit are both looked at") {
    Scene scene;
    Scene::Line& first = scene.add(5);
    Scene::Line& second = scene.add(5 + kActivityBits);
    CHECK(first.attachment.bit() == second.attachment.bit());
    Hook hook([&] {
        second.publish();
        return false;
    });
    CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::news);
    scene.waiter.take_activity();
    CHECK(scene.source.active_count() == 2);
    CHECK(second.read());
    scene.waiter.detach(first.attachment);
    Hook again([&] {
        second.publish();
        return false;
    });
    CHECK(scene.waiter.sleep(60'000 * kMs, again) == Slept::news);
    scene.waiter.take_activity();
    CHECK(scene.source.turn() == &second.attachment);
    CHECK(second.read());
}

TEST_CASE("every bit there is, once") {
    Scene scene;
    Source other;
    scene.waiter.add(other);
    const TestRing ring(kCapacity);
    const TestClient writer;
    std::list<Attachment> all;
    for (u32 bit = 0; bit < kActivityBits; bit++) {
        all.emplace_back(ring.readable(), ring.origin(), 1,
                         scene.reader.attachment_words(bit, writer, 0));
        scene.waiter.attach(other, all.back());
    }
    CHECK(scene.waiter.sleep(0, scene.nowhere) == Slept::timed_out);
    CHECK(other.active_count() == 0);
    u32 bit = 0;
    for (const Attachment& attachment : all) {
        scene.reader.waiter(0).activity[bit / 64].store(u64{1} << (bit % 64));
        scene.reader.waiter(0).summary.store(u64{1} << (bit / 64));
        scene.waiter.take_activity();
        REQUIRE(other.active_count() == bit + 1);
        REQUIRE_FALSE(attachment.parked());
        bit++;
    }
    CHECK(scene.reader.waiter(0).summary.load() == 0);
    scene.waiter.remove(other);
}

TEST_CASE("waiting for one source of several: the others are left as they are") {
    Scene scene;
    Scene::Line& wanted = scene.add(3);
    Source other;
    scene.waiter.add(other);
    scene.lines.emplace_back(scene, 4);
    Scene::Line& unwanted = scene.lines.back();
    scene.waiter.attach(other, unwanted.attachment);

    unwanted.publish();  // active, with news, and nobody's business now
    CHECK(scene.waiter.sleep(60'000 * kMs, scene.nowhere, &scene.source) == Slept::timed_out);
    CHECK(wanted.attachment.parked());
    CHECK_FALSE(unwanted.attachment.parked());
    CHECK(other.active_count() == 1);
    Hook hook([&] {
        unwanted.publish();
        wanted.publish();
        return false;
    });
    CHECK(scene.waiter.sleep(60'000 * kMs, hook, &scene.source) == Slept::news);
    scene.waiter.take_activity();
    CHECK(wanted.read());
    CHECK_FALSE(wanted.read());
    // For all of them: what was left unread is news.
    CHECK(scene.waiter.sleep(60'000 * kMs, scene.nowhere) == Slept::news);
    CHECK(unwanted.read());
    CHECK(unwanted.read());
    scene.waiter.remove(other);
}

TEST_CASE("a source moves to another waiter and back, parked or not") {
    Scene scene;
    Scene::Line& parked = scene.add(3);
    Scene::Line& active = scene.add(3 + kActivityBits);
    scene.waiter.park(parked.attachment);
    scene.waiter.remove(scene.source);
    CHECK(scene.source.waiter() == nullptr);
    CHECK_FALSE(parked.attachment.parked());
    CHECK(scene.source.active_count() == 2);

    Waiter set(scene.reader.waiter_words(2));
    set.add(scene.source);
    CHECK(scene.source.waiter() == &set);
    Hook hook([&] {
        parked.publish();
        active.publish();
        return false;
    });
    CHECK(set.sleep(60'000 * kMs, hook) == Slept::news);
    CHECK(scene.bell() == 0);
    CHECK(scene.reader.waiter(2).bell.load() == 2);
    set.take_activity();
    CHECK(scene.source.active_count() == 2);
    CHECK(parked.read());
    CHECK(active.read());
    // Bits that are set where nobody waits any more are nobody's.
    scene.reader.waiter(0).activity[0].store(~u64{0});
    scene.reader.waiter(0).summary.store(1);
    scene.waiter.take_activity();
    CHECK(scene.waiter.sources().empty());
    set.remove(scene.source);
    scene.waiter.add(scene.source);
}

TEST_CASE("new pages: what is attached is polled from there on, and never for longer than 4 ms") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    (void)scene.waiter.sleep(0, scene.nowhere);
    CHECK(line.attachment.parked());
    const TestClient other;
    scene.waiter.rebind(other.waiter_words(1));
    CHECK(scene.waiter.number() == 1);
    CHECK(line.attachment.polled());
    CHECK_FALSE(line.attachment.parked());
    for (int i = 0; i < 2; i++) {
        const i64 slept_ns =
            quickest([&] { (void)scene.waiter.sleep(60'000 * kMs, scene.nowhere); });
        CHECK(slept_ns < 60 * kMs);
        CHECK_FALSE(line.attachment.parked());
        CHECK(scene.source.active_count() == 1);
    }
    line.publish();
    CHECK(scene.waiter.sleep(60'000 * kMs, scene.nowhere) == Slept::news);
    CHECK(line.read());
}

TEST_CASE("one that is never empty does not starve the others") {
    Scene scene;
    Scene::Line& loud = scene.add(1);
    Scene::Line& quiet = scene.add(2);
    unsigned turns = 0;
    while (scene.source.turn() != &quiet.attachment) {
        scene.source.fruitful(loud.attachment);
        REQUIRE(++turns < 1000);
    }
    CHECK(turns >= 16);
}

TEST_CASE("rung without end and for nothing: it naps, but never beyond its time") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    DoorbellWaiter& words = scene.reader.waiter(0);
    std::function<bool()> attack;
    SUBCASE("all bits set") {
        attack = [&] {
            for (auto& word : words.activity) {
                word.store(~u64{0});
            }
            words.summary.store(~u64{0});
            words.bell.fetch_add(1);
            return false;
        };
    }
    SUBCASE("a bell that moves") {
        attack = [&] {
            words.bell.fetch_add(1);
            return false;
        };
    }
    Hook hook(attack);
    // 300 ms: unharmed it would look at its rings some tens of times, not thousands.
    const sys::Deadline deadline = sys::Deadline::after(300 * kMs);
    unsigned wakes = 0;
    while (!deadline.passed()) {
        (void)attack();
        CHECK(scene.waiter.sleep(60'000 * kMs, hook) == Slept::news);
        scene.waiter.take_activity();
        wakes++;
    }
    CHECK(wakes < 60);
    // Its own timeout holds.
    const i64 short_ns = quickest([&] {
        (void)attack();
        (void)scene.waiter.sleep(kMs, hook);
    });
    CHECK(short_ns < 40 * kMs);
    // What comes meanwhile is seen, though the bits may have been wiped.
    line.publish_silently();
    words.summary.store(0);
    (void)scene.waiter.sleep(kMs, hook);
    scene.waiter.take_activity();
    CHECK(scene.source.turn() == &line.attachment);
    CHECK(line.read());
    // A message, and it is quick again.
    CHECK(quickest([&] {
              scene.waiter.fruitful();
              (void)attack();
              (void)scene.waiter.sleep(60'000 * kMs, hook);
          }) < 40 * kMs);
}

TEST_CASE("armed: asleep without the wait; what comes is rung, and awake it is taken") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    Hook hook;
    Waiter::Armed armed;
    DoorbellWaiter& words = scene.reader.waiter(0);
    REQUIRE(scene.waiter.arm(hook, armed));
    CHECK(armed.bell == &words.bell);
    CHECK(armed.value == words.bell.load());
    CHECK(line.attachment.parked());
    CHECK(scene.source.turn() == nullptr);
    line.publish();
    CHECK(words.bell.load() != armed.value);
    scene.waiter.disarm(armed, true);
    scene.waiter.take_activity();
    REQUIRE(scene.source.turn() == &line.attachment);
    CHECK(line.read());
    // News: not armed, and awake.
    line.publish_silently();
    CHECK_FALSE(scene.waiter.arm(hook, armed));
    CHECK(scene.source.turn() == &line.attachment);
    CHECK(line.read());
    // Nobody rang, but the time is over: every ring is looked at. Of its own accord: none is.
    REQUIRE(scene.waiter.arm(hook, armed));
    line.publish_silently();
    scene.waiter.disarm(armed, false);
    scene.waiter.take_activity();
    CHECK(scene.source.turn() == nullptr);
    let_time_pass(armed);
    scene.waiter.disarm(armed, true);
    CHECK(scene.source.turn() == &line.attachment);
    CHECK(line.read());
    // Fruitless times last longer and longer.
    scene.waiter.fruitful();
    REQUIRE(scene.waiter.arm(hook, armed));
    const i64 first_ns = armed.slice_ns;
    CHECK(armed.until_ns >= sys::monotonic_ns());
    CHECK(armed.ends_ns == armed.until_ns);
    let_time_pass(armed);
    scene.waiter.disarm(armed, true);
    REQUIRE(scene.waiter.arm(hook, armed));
    CHECK(armed.slice_ns > first_ns);
    let_time_pass(armed);
    scene.waiter.disarm(armed, true);
    scene.waiter.fruitful();
    REQUIRE(scene.waiter.arm(hook, armed));
    CHECK(armed.slice_ns <= first_ns);
    // Something elsewhere.
    scene.waiter.disarm(armed, false);
    Hook frames([] { return true; });
    CHECK_FALSE(scene.waiter.arm(frames, armed));
}

TEST_CASE("armed, and rung without end for nothing: it naps, deaf to bell and summary") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    DoorbellWaiter& words = scene.reader.waiter(0);
    Hook hook;
    Waiter::Armed armed;
    unsigned fruitless = 0;
    SUBCASE("a bell that moves") {
        for (armed.bell = &words.bell; armed.bell != nullptr; fruitless++) {
            REQUIRE(fruitless < 100);
            REQUIRE(scene.waiter.arm(hook, armed));
            words.bell.fetch_add(1);
            scene.waiter.disarm(armed, true);
        }
    }
    SUBCASE("wakes alone, before its time") {
        i64 longest_ns = 0;
        for (armed.bell = &words.bell; armed.bell != nullptr; fruitless++) {
            REQUIRE(fruitless < 100);
            REQUIRE(scene.waiter.arm(hook, armed));
            longest_ns = std::max(longest_ns, armed.slice_ns);
            stop_time(armed);
            scene.waiter.disarm(armed, true);
        }
        CHECK(longest_ns < 20 * kMs);  // it does not grow by them
    }
    SUBCASE("bits set") {
        Hook attack([&] {
            words.summary.store(~u64{0});
            return true;
        });
        while (!scene.waiter.arm(attack, armed)) {
            REQUIRE(++fruitless < 100);
        }
    }
    SUBCASE("news that nobody can take") {
        line.publish_silently();
        while (!scene.waiter.arm(hook, armed)) {
            REQUIRE(++fruitless < 100);
            CHECK(line.read());
            line.publish_silently();
        }
        CHECK(line.read());
    }
    CHECK(armed.bell == nullptr);
    CHECK(armed.slice_ns > 0);
    // Whatever bell and summary say, and whatever its caller does meanwhile, until it is over.
    const i64 until_ns = sys::monotonic_ns() + armed.slice_ns;
    scene.waiter.disarm(armed, false);
    const bool naps = scene.waiter.arm(hook, armed) && armed.bell == nullptr;
    CHECK((naps || sys::monotonic_ns() >= until_ns));
    // What comes in a nap is found behind it; a message, and it listens again.
    armed.bell = nullptr;
    line.publish_silently();
    scene.waiter.disarm(armed, true);
    REQUIRE(scene.source.turn() == &line.attachment);
    CHECK(line.read());
    scene.waiter.fruitful();
    scene.waiter.take_activity();
    REQUIRE(scene.waiter.arm(hook, armed));
    CHECK(armed.bell == &words.bell);
}

TEST_CASE("after a nap it listens; a ring brings the next, longer one, and silence ends it") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    DoorbellWaiter& words = scene.reader.waiter(0);
    Hook hook;
    Waiter::Armed armed;
    const auto arm = [&] { REQUIRE(scene.waiter.arm(hook, armed)); };
    const auto ring = [&] {
        words.bell.fetch_add(1);
        stop_time(armed);
        scene.waiter.disarm(armed, true);
    };
    const auto rings_until_nap = [&] {
        unsigned rings = 0;
        for (arm(); armed.bell != nullptr; arm()) {
            ring();
            REQUIRE(++rings < 100);
        }
        return rings;
    };
    const auto nap = [&] {
        while (armed.bell == nullptr) {
            scene.waiter.disarm(armed, true);
            arm();
        }
    };
    CHECK(rings_until_nap() > 10);
    i64 longest_ns = 0;
    for (int i = 0; i < 8; i++) {
        nap();
        ring();
        arm();
        longest_ns = std::max(longest_ns, armed.bell == nullptr ? armed.slice_ns : 0);
    }
    CHECK(longest_ns > 8 * kMs);
    // A message is rung for, though there has been an attack.
    nap();
    const u32 bell = words.bell.load();
    line.publish();
    CHECK(words.bell.load() != bell);
    scene.waiter.disarm(armed, false);
    scene.waiter.take_activity();
    CHECK(line.read());
    // The time of something before it says nothing, ...
    arm();
    const i64 slice_ns = armed.slice_ns;
    stop_time(armed);
    armed.ends_ns = 0;
    scene.waiter.disarm(armed, true);
    arm();
    CHECK(armed.slice_ns == slice_ns);
    ring();
    arm();
    CHECK(armed.bell == nullptr);
    // ... its own that nobody rang in: as if there had been no attack.
    nap();
    let_time_pass(armed);
    scene.waiter.disarm(armed, true);
    CHECK(rings_until_nap() > 10);
}

TEST_CASE("what it asks elsewhere throws: nobody rings who is awake") {
    Scene scene;
    Scene::Line& line = scene.add(3);
    Hook hook([]() -> bool { throw std::bad_alloc(); });
    Waiter::Armed armed;
    CHECK_THROWS_AS((void)scene.waiter.arm(hook, armed), std::bad_alloc);
    CHECK(scene.reader.asleep(0).load() % 2 == 0);
    CHECK_THROWS_AS((void)scene.waiter.sleep(kMs, hook), std::bad_alloc);
    CHECK(scene.reader.asleep(0).load() % 2 == 0);
    const u32 bell = scene.bell();
    line.publish();
    CHECK(scene.bell() == bell);
    scene.waiter.take_activity();
    REQUIRE(scene.source.turn() == &line.attachment);
    CHECK(line.read());
}
