// SPDX-License-Identifier: Apache-2.0
// Goal: a reader's cursor is stored when it should be and rings a blocked writer exactly when it
// passes what the writer wants; episodes are new each time. Method: one thread, a real ring.
#include "protocol/attachment.hpp"

#include "test_ring.hpp"

#include <doctest/doctest.h>

using namespace ipcbus;
using namespace ipcbus::protocol;
using namespace ipcbus::test;
using Look = RingReader::Look;

namespace {

constexpr u64 kCapacity = 4096;

struct Scene {
    explicit Scene(Origin origin)
        : ring(kCapacity, origin),
          writer(ring.writer()),
          attachment(ring.readable(), ring.origin(), 1, client.attachment_words(3, publisher, 1)) {}

    /// Publishes and reads one record of 64 bytes.
    void step() {
        publish_over(writer, 48);
        Record record;
        REQUIRE(attachment.reader().look(record) == Look::record);
        attachment.reader().advance(record);
    }
    [[nodiscard]] u64 cursor() const { return client.slot(3).cursor.load(); }
    [[nodiscard]] u32 bell() const { return publisher.waiter(0).bell.load(); }

    TestRing ring;
    TestClient client;
    TestClient publisher;
    RingWriter writer;
    Attachment attachment;
};

}  // namespace

TEST_SUITE_BEGIN("attachment");

TEST_CASE("the cursor is stored every eighth of the ring, and when asked for") {
    Scene scene(each_origin());
    u64 stored = scene.ring.origin();
    unsigned stores = 0;
    for (int i = 0; i < 500; i++) {
        scene.step();
        scene.attachment.moved();
        const u64 position = scene.attachment.reader().position();
        if (position - stored >= kCapacity / 8) {
            // A slot of 0 would say "not begun".
            CHECK(scene.cursor() == (position == 0 ? u64{0} - 16 : position));
            stored = scene.cursor();
            stores++;
        } else if (stores != 0) {
            CHECK(scene.cursor() == stored);
        } else {
            CHECK(scene.cursor() == 0);
        }
    }
    CHECK(stores == 500 / 8);
    scene.step();
    scene.attachment.store_cursor();
    CHECK(scene.cursor() == scene.attachment.reader().position());
}

TEST_CASE("a writer in a hurry sees each move") {
    Scene scene(each_origin());
    scene.step();
    scene.attachment.moved();
    CHECK(scene.cursor() == 0);
    scene.ring.header().hurry.store(1);
    for (int i = 0; i < 3; i++) {
        scene.step();
        scene.attachment.moved();
        CHECK(scene.cursor() == scene.attachment.reader().position());
    }
    scene.ring.header().hurry.store(0);
    const u64 stored = scene.cursor();
    scene.step();
    scene.attachment.moved();
    CHECK(scene.cursor() == stored);
}

TEST_CASE("who passes `wanted` rings the writer, and rings once") {
    const Origin origin = each_origin();
    for (int offset = -2; offset <= 2; offset++) {
        Scene scene(origin);
        for (int i = 0; i < 10; i++) {
            scene.step();
        }
        scene.attachment.store_cursor();
        CHECK(scene.bell() == 0);  // nobody wants anything
        const u64 next = scene.cursor() + 64;
        const u64 wanted = next + static_cast<u64>(offset * 16);
        scene.ring.header().wanted.store(wanted);
        scene.step();
        scene.attachment.store_cursor();
        CHECK(scene.bell() == (offset <= 0 ? 1 : 0));
        // Once it is beyond, the ring has been done: by nobody again.
        scene.step();
        scene.attachment.store_cursor();
        CHECK(scene.bell() == 1);
        scene.step();
        scene.attachment.store_cursor();
        scene.attachment.store_cursor();
        CHECK(scene.bell() == 1);
    }
}

TEST_CASE("a reader that was beyond already does not ring") {
    Scene scene(each_origin());
    scene.step();
    scene.step();
    scene.attachment.store_cursor();
    for (const u64 wanted : {scene.cursor(), scene.cursor() - 16, scene.ring.origin(),
                             scene.cursor() + (u64{1} << 63), u64{0}}) {
        scene.ring.header().wanted.store(wanted);
        scene.step();
        scene.attachment.store_cursor();
        CHECK(scene.bell() == 0);
    }
}

TEST_CASE("each parking is a new episode, odd while parked") {
    Scene scene(Origin::capacity);
    std::atomic<u64>& parked = scene.client.slot(3).parked;
    std::atomic<u32>& sleepers = scene.publisher.publication(1).sleepers;
    CHECK_FALSE(scene.attachment.parked());
    scene.attachment.unpark();
    CHECK(parked.load() == 0);
    u64 last = 0;
    for (u32 waiter = 0; waiter < 4; waiter++) {
        scene.attachment.set_parked(waiter);
        CHECK(scene.attachment.parked());
        CHECK(is_parked(parked.load()));
        CHECK(parked_waiter(parked.load()) == waiter);
        CHECK((parked.load() >> 16) > last);
        CHECK(sleepers.exchange(0) == 0);
        scene.attachment.set_sleepers();
        CHECK(sleepers.exchange(0) == 1);
        last = parked.load() >> 16;
        scene.attachment.unpark();
        CHECK_FALSE(is_parked(parked.load()));
        CHECK((parked.load() >> 16) > last);
        last = parked.load() >> 16;
    }
}
