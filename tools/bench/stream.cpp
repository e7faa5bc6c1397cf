// SPDX-License-Identifier: Apache-2.0
// ipcbus-bench throughput and fanout: one process publishes, one or more read, in slices of a few
// milliseconds. A slice lasts from before its first message is published until every reader has
// checked its last. Fanout has slices of a second kind in turn with them, bursts: so few messages
// that the ring cannot be full, which tell what a publish costs the writer when it never waits.
// Readers wait outside of the bus between slices, so that all are awake when one begins.
#include "bench/clock.hpp"
#include "bench/machine.hpp"
#include "bench/modes.hpp"
#include "cli.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

#include <sched.h>

#include <algorithm>

namespace ipcbus::bench {

using measure::PingPong;

namespace {

constexpr unsigned kReadersMost = 64;

/// What the writer says of the next slice, and the readers of how they are.
struct StreamPage {
    struct alignas(128) PerReader {
        std::int64_t end_ns = 0;  // when it had checked the last message of the slice
        std::int64_t cpu_ns = 0;
        std::uint64_t got = 0;
        std::uint64_t lost = 0;
    };

    measure::PingPongPage ping;  // between the writer and the first reader
    Meeting ready;
    std::uint64_t end = 0;  // number behind the last message of the slice; 0: it is over
    alignas(128) std::atomic<std::uint32_t> slice{0};
    alignas(128) std::atomic<std::uint32_t> awake{0};  // readers, of all slices together
    alignas(128) std::atomic<std::uint32_t> done{0};
    std::array<PerReader, kReadersMost> reader;
    Slices slices;
    std::uint64_t ring_bytes = 0;
    std::uint64_t published = 0;
    std::int64_t daemon_cpu_ns = 0;
};

/// Waits until `word` is `wanted`: looks, then sleeps. False: not within kPatienceNs.
[[nodiscard]] bool wait_for(const std::atomic<std::uint32_t>& word, std::uint32_t wanted) {
    constexpr int kLooks = 2'000;
    const sys::Deadline deadline = sys::Deadline::after(kPatienceNs);
    for (int look = 0; look < kLooks; ++look) {
        // acquire: what was written before the word was set is seen
        if (word.load(std::memory_order_acquire) == wanted) {
            return true;
        }
    }
    while (true) {
        const std::uint32_t seen = word.load(std::memory_order_acquire);
        if (seen == wanted) {
            return true;
        }
        if (deadline.passed()) {
            return false;
        }
        (void)sys::futex_wait(word, seen, deadline.remaining_ns());
    }
}

void expect(const Member& member, bool came) {
    if (!came) {
        member.fail(tools::kExitTimedOut, "another process of the run did not come in time");
    }
}

/// Counts this reader; the last one wakes the writer.
void count_me(std::atomic<std::uint32_t>& word, std::uint32_t all) {
    // release, and acquire so that the last one passes on what all the others released
    if (word.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
        sys::futex_wake_all(word);
    }
}

class Publishing {
public:
    Publishing(const Member& member, const Run& run, StreamPage& page)
        : member_(member),
          run_(run),
          page_(page),
          bus_(connect(member, run)),
          writer_(member, run, bus_.get(), run.topic + "/stream"),
          ping_(page.ping),
          length_(run.options.slice_ns, 64) {}

    void publish_all() {
        writer_.wait_for(run_.options.readers);
        page_.ring_bytes = writer_.ring_bytes();
        member_.meet(page_.ready, run_.options.readers + 1);
        const bool has_bursts = run_.options.mode == BenchOptions::Mode::fanout;
        const std::int64_t warm_ns = sys::monotonic_ns() + run_.options.warmup_ns;
        const std::int64_t end_ns = warm_ns + run_.options.duration_ns;
        bool is_warm = false;
        bool is_burst = false;
        Usage daemon;
        double before_ns = ping();
        // Until the time is over, but one slice of each kind at least.
        for (unsigned warm_slices = 0; !page_.slices.full();) {
            Slice slice = is_burst ? one_slice(burst_messages()) : one_slice(length_.next());
            slice.before_ns = before_ns;
            slice.after_ns = before_ns = ping();
            slice.is_burst = is_burst;
            if (!is_burst) {
                length_.took(slice.messages, slice.wall_ns);
            }
            is_burst = has_bursts && !is_burst;
            const std::int64_t now_ns = sys::monotonic_ns();
            if (is_warm) {
                page_.slices.add(slice);
                ++warm_slices;
            } else if (now_ns >= warm_ns) {
                is_warm = true;
                daemon = usage_of(run_.daemon);
            }
            if (now_ns >= end_ns && warm_slices >= 2) {
                break;
            }
        }
        page_.daemon_cpu_ns = usage_of(run_.daemon).cpu_ns - daemon.cpu_ns;
        page_.published = writer_.next();
        page_.end = 0;
        begin();
    }

private:
    double ping() {
        const auto result = ping_.measure();
        if (!result.ok()) {
            member_.fail(tools::kExitTimedOut, result.error().what);
        }
        return result.value();
    }

    /// So few that half of the ring has room for them, with what is around each.
    [[nodiscard]] std::uint64_t burst_messages() const {
        constexpr std::uint64_t kAround = 128;
        const std::uint64_t fitting = writer_.ring_bytes() / 2 / (run_.options.size + kAround);
        return std::max<std::uint64_t>(1, std::min(fitting, length_.next()));
    }

    /// Tells the readers to begin with the slice that page_.end says, and waits until all have.
    void begin() {
        slices_++;
        page_.slice.store(slices_, std::memory_order_release);  // page_.end before it
        sys::futex_wake_all(page_.slice);
        expect(member_, wait_for(page_.awake, slices_ * run_.options.readers));
    }

    Slice one_slice(std::uint64_t messages) {
        page_.end = writer_.next() + messages;
        writer_.prepare();
        begin();
        Slice slice;
        slice.messages = messages;
        const std::int64_t began_ns = sys::monotonic_ns();
        const std::int64_t cpu_before_ns = measure::thread_cpu_ns();
        writer_.publish(messages);
        slice.writer_cpu_ns = measure::thread_cpu_ns() - cpu_before_ns;
        expect(member_, wait_for(page_.done, slices_ * run_.options.readers));
        std::int64_t ended_ns = 0;
        for (unsigned i = 0; i < run_.options.readers; ++i) {
            ended_ns = std::max(ended_ns, page_.reader[i].end_ns);
        }
        slice.wall_ns = ended_ns - began_ns;
        return slice;
    }

    const Member& member_;
    const Run& run_;
    StreamPage& page_;
    const tools::BusPtr bus_;
    Writer writer_;
    PingPong ping_;
    SliceLength length_;
    std::uint32_t slices_ = 0;
};

void read_all(const Member& member, const Run& run, StreamPage& page) {
    const tools::BusPtr bus = connect(member, run);
    Reader reader(member, run, bus.get(), run.topic + "/stream");
    const std::uint32_t readers = run.options.readers;
    member.meet(page.ready, readers + 1);
    const unsigned number = member.number() - 1;
    PingPong ping(page.ping);
    for (std::uint32_t slice = 1;; ++slice) {
        if (number == 0) {
            if (const auto answered = ping.answer(); !answered.ok()) {
                member.fail(tools::kExitTimedOut, answered.error().what);
            }
        }
        expect(member, wait_for(page.slice, slice));
        const std::uint64_t end = page.end;
        count_me(page.awake, slice * readers);
        if (end == 0) {
            return;
        }
        const std::int64_t cpu_before_ns = measure::thread_cpu_ns();
        reader.read_until(end);
        StreamPage::PerReader& mine = page.reader[number];
        mine.end_ns = sys::monotonic_ns();
        mine.cpu_ns += measure::thread_cpu_ns() - cpu_before_ns;
        mine.got = reader.got();
        mine.lost = reader.lost();
        count_me(page.done, slice * readers);
    }
}

void take_slice(const Slice& slice, StreamResult& result) {
    StreamResult::At& at = result.at[static_cast<std::size_t>(slice.distance())];
    const double messages = static_cast<double>(slice.messages);
    const double cpu_ns = static_cast<double>(slice.writer_cpu_ns) / messages;
    for (StreamResult::At* one : {&at, &result.all}) {
        if (slice.is_burst) {
            one->burst_cpu_ns.push_back(cpu_ns);
            continue;
        }
        one->slices++;
        one->wall_ns += static_cast<double>(slice.wall_ns);
        one->ping_ns.push_back((slice.before_ns + slice.after_ns) / 2);
        one->rates.push_back(messages * 1e9 /
                             static_cast<double>(std::max<std::int64_t>(slice.wall_ns, 1)));
        one->writer_cpu_ns.push_back(cpu_ns);
    }
    result.messages += slice.is_burst ? 0 : slice.messages;
}

}  // namespace

int run_stream(const Run& run, StreamResult& ret_result) {
    const Shared<StreamPage> page;
    Team team;
    team.add("bench-writer", cpu_for(run.options.pin, 0),
             [&](const Member& member) { Publishing(member, run, *page).publish_all(); });
    for (unsigned i = 0; i < run.options.readers; ++i) {
        team.add("bench-reader-" + std::to_string(i), cpu_for(run.options.pin, i + 1),
                 [&](const Member& member) { read_all(member, run, *page); });
    }
    if (const int code = team.run(kTool); code != tools::kExitDone) {
        return code;
    }
    for (const Slice& slice : page->slices.taken()) {
        take_slice(slice, ret_result);
    }
    for (unsigned i = 0; i < run.options.readers; ++i) {
        const StreamPage::PerReader& reader = page->reader[i];
        ret_result.checked += reader.got;
        ret_result.lost += reader.lost;
        ret_result.reader_cpu_ns += static_cast<double>(reader.cpu_ns);
    }
    ret_result.published = page->published;
    ret_result.ring_bytes = page->ring_bytes;
    ret_result.daemon_cpu_ns = run.daemon > 0 ? static_cast<double>(page->daemon_cpu_ns) : -1;
    return tools::kExitDone;
}

}  // namespace ipcbus::bench
