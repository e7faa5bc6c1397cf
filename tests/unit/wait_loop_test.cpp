// SPDX-License-Identifier: Apache-2.0
// Goal: the rules by which a reader waits find what pays and never get stuck in what does not, in
// whatever order ping-pong and streams come. Method: a clock and a publisher that are simulated.
#include "wait_loop.hpp"

#include <doctest/doctest.h>

using namespace ipcbus::client;
using ipcbus::protocol::i64;
using ipcbus::protocol::u64;

namespace {

/// A reader that keeps up with its publisher. Taking a message costs 5 ns; on the writer's heels
/// the next one is there after gap_ns.
struct Reader {
    Distance distance;
    i64 now_ns = 1'000'000;
    u64 looked_away = 0;

    /// A writer that has always more: `fast_ns` a message while nobody is on its heels.
    void stream(int empties, i64 gap_ns, i64 fast_ns) {
        for (int i = 0; i < empties; i++) {
            const i64 away_ns = distance.found_empty(now_ns);
            looked_away += away_ns != 0 ? 1 : 0;
            const i64 messages = away_ns == 0 ? 1 : away_ns / fast_ns;
            now_ns += away_ns == 0 ? gap_ns : away_ns + messages * 5;
            if (messages == 0) {
                distance.in_vain();
                now_ns += gap_ns;
            }
            distance.received(static_cast<u64>(std::max<i64>(messages, 1)));
        }
    }
    /// A message every gap_ns, whatever the reader does: looking away only delays it.
    void paced(int empties, i64 gap_ns) {
        i64 next_ns = now_ns + gap_ns;
        for (int i = 0; i < empties; i++) {
            const i64 away_ns = distance.found_empty(now_ns);
            looked_away += away_ns != 0 ? 1 : 0;
            now_ns += away_ns;
            if (away_ns != 0 && now_ns < next_ns) {
                distance.in_vain();
            }
            now_ns = std::max(now_ns, next_ns);
            u64 messages = 0;
            for (; next_ns <= now_ns; next_ns += gap_ns) {
                messages++;
            }
            distance.received(messages);
        }
    }
    /// The publisher waits for each answer: a message so long after the last was taken.
    i64 ping_pong(int messages, i64 round_ns) {
        i64 lost_ns = 0;
        for (int i = 0; i < messages; i++) {
            const i64 away_ns = distance.found_empty(now_ns);
            looked_away += away_ns != 0 ? 1 : 0;
            if (away_ns != 0 && away_ns < round_ns) {
                distance.in_vain();
            }
            lost_ns += std::max<i64>(away_ns - round_ns, 0);
            now_ns += std::max(away_ns, round_ns);
            distance.received(1);
        }
        return lost_ns;
    }
};

}  // namespace

TEST_CASE("a stream is soon looked away from, near and far, and goes on being so") {
    for (const i64 gap_ns : {20, 110}) {
        Reader reader;
        reader.stream(100, gap_ns, 5);
        CHECK(reader.looked_away > 50);
        reader.looked_away = 0;
        reader.stream(100'000, gap_ns, 5);
        CHECK(reader.looked_away > 90'000);
    }
}

TEST_CASE("a ping-pong loses next to nothing") {
    for (const i64 round_ns : {120, 300, 550, 900}) {
        Reader reader;
        const i64 lost_ns = reader.ping_pong(1'000'000, round_ns);
        CHECK(lost_ns * 200 < 1'000'000 * round_ns);
    }
}

TEST_CASE("a paced stream is left alone: it gains nothing") {
    for (const i64 gap_ns : {60, 200, 500, 1'000, 10'000, 1'000'000}) {
        Reader reader;
        reader.paced(200'000, gap_ns);
        CHECK(reader.looked_away < 4'000);
    }
}

TEST_CASE("alternating: neither is stuck in what the other has taught") {
    Reader reader;
    for (int round = 0; round < 20; round++) {
        reader.looked_away = 0;
        reader.stream(50'000, 20, 5);
        CHECK(reader.looked_away > 10'000);
        CHECK(reader.ping_pong(50'000, 120) < 50'000 * 120 / 50);
    }
}
