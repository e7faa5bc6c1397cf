// SPDX-License-Identifier: Apache-2.0
// What something must be able to do to be compared with ipcbus. A peer carries messages between two
// processes, A and B, both ways: for a ping-pong A sends and B answers, for a stream A sends many
// and B reads them. compare_run makes every peer once, calls start() in the parent, forks B, and
// calls open() in both; everything stays open for the whole run. Then it runs slices of some
// milliseconds, peer after peer, round after round, calling prepare() before each on both sides.
// The process that opened a peer uses it from one thread.
//
// A peer is written in one file: a class that derives from PeerLoops<itself> (loops.hpp) with
//
//   void send(const void* data, std::size_t bytes);    // to the other side; waits for room. May
//                                                      // hold messages back until flush()
//   void flush();                                      // what was sent is on its way
//   const void* receive(std::size_t& ret_bytes);       // waits for the next message, as prepare()
//                                                      // said; valid until the next receive or
//                                                      // settle
//   void settle();                                     // the slice is over: give back what
//                                                      // receive lent, and so on; may be empty
//
// not virtual: the loops call them inlined. At the end of the file: a line
// `static const Registered registered(kOrder, [] { return std::make_unique<X>(); });`.
// Use each peer in the fastest way that its documentation offers for what the slice asks. Lose
// nothing: every message is counted, in order, and a wrong one ends the run. What cannot go on says
// why by fail() (message.hpp).
#pragma once

#include "peers/message.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace ipcbus::measure {
class Histogram;
}

namespace ipcbus::bench {

enum class Side : std::uint8_t {
    a,  // sends first, writes streams; the parent
    b,  // answers, reads streams; the child
};

/// How receive() waits, and send() for room.
enum class Waiting : std::uint8_t {
    spin,   // never sleeps
    sleep,  // sleeps at once when there is nothing (the peer's plain blocking call)
    best,   // what a user who wants all of both would choose: ipcbus adapts
};

/// What the next slice will be, told to both sides before it.
struct Slice {
    std::size_t message_bytes = 64;
    std::size_t batch = 1;  // > 1: send_many() is called with so many; receive may work in batches
    Waiting waiting = Waiting::best;
    bool stream = false;    // A sends, B receives; else a ping-pong
    bool touch = true;      // the reader reads every byte; else only first and last word
    bool in_place = false;  // by lend() and give(); only for peers that say `in_place`
};

/// What a peer is and can do. compare_run asks nothing else of it.
struct Traits {
    std::string name{};
    std::size_t message_bytes_min = 16;
    std::size_t message_bytes_max = std::size_t{1} << 20;
    bool ping_pong = true;
    bool stream = true;
    bool spins = false;     // has a way to wait without sleeping
    bool sleeps = true;     // has a way to wait that sleeps at once
    bool adapts = false;    // has a way to wait that spins first and then sleeps
    bool batches = false;   // has a way to send many at once that is worth measuring
    bool in_place = false;  // has lend() and give()
    bool limit = false;     // no peer but a physical limit
    bool local = true;      // can do the workloads between processes of one host
    bool tcp = false;       // and those over TCP
    /// It has threads or a server of its own: its slices are longer and fewer, and nothing in them
    /// is pinned, as that would only be in the way on few CPUs.
    bool has_server = false;
    /// Its threads do best on their side's CPU: open() is called pinned, and so are its slices.
    bool pin_threads = false;
    /// Streams: at most so many messages on the way, for peers that would lose more (0: they hold
    /// the writer back themselves). compare_run sees to it, at no cost to the peer's own transport.
    std::size_t window = 0;
    /// Debian packages that it needs, to build and to run; for --install and for the table.
    std::vector<std::string> packages{};
};

/// What a peer gets to make itself ready.
struct Setup {
    std::string directory;  // of its own, empty, removed afterwards: sockets, configuration, logs
    std::string build_directory;  // where ipcbusd is
    std::size_t message_bytes_max = std::size_t{1} << 20;
};

/// In a ping-pong that sleeps, each side spins for so long before it sends, so that the other one
/// is asleep by then; B's part of it is taken off the round trip again.
inline constexpr std::uint64_t kSleepPauseNs = 50'000;

/// One slice while it runs; see loops.hpp.
struct Turn {
    Slice slice;
    std::uint64_t count = 0;                         // round trips, or messages
    std::atomic<std::uint64_t>* received = nullptr;  // shared: how far B is, for `window`
    measure::Histogram* latency = nullptr;           // A: half of each round trip, ns
    double block_ns = 0;  // A, fast ping-pongs: the median of blocks that were timed as a whole
    std::int64_t began_ns = 0;  // set by write(): when the first was sent
};

/// The messages that a side sends, and what it expects; made when the size changes, so that a turn
/// that is timed allocates nothing. One, which is numbered and sent at once as a program sends what
/// it has just filled in (the processor stalls for some nanoseconds when it copies in wide steps
/// what was just written in narrow ones: that belongs to it); or as many as a batch has.
class Messages {
public:
    /// slice.batch of them.
    [[nodiscard]] std::vector<Message>& of(const Slice& slice);
    [[nodiscard]] Checker checker(std::string_view who, const Slice& slice);

private:
    std::vector<Message> messages_;
    std::uint64_t sum_ = 0;
};

class Peer {
public:
    Peer() = default;
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;
    virtual ~Peer() = default;

    [[nodiscard]] virtual const Traits& traits() const = 0;

    /// In the parent, before it forks: makes what both inherit (socket pairs, shared memory),
    /// starts a server (server.hpp). Not: anything that starts threads. Returns "", or why this
    /// peer is not there ("nats-server is not installed"): it is left out of the run.
    [[nodiscard]] virtual std::string start(const Setup&) { return {}; }
    /// In A and B, A and B at the same time; not pinned to a CPU (but for `pin_threads`), so that
    /// threads started here are free. When it returns on both sides, no message sent is missed.
    virtual void open(Side side) = 0;
    /// What the next slice will be. On both sides.
    virtual void prepare(const Slice&) {}
    /// A server's process, or 0; its CPU time is looked at.
    [[nodiscard]] virtual int server_pid() const { return 0; }

    // The four sides of the two kinds of slices; PeerLoops has them.
    virtual void ping(Turn& turn) = 0;
    virtual void pong(Turn& turn) = 0;
    virtual void write(Turn& turn) = 0;
    virtual void read(Turn& turn) = 0;
};

/// The peers that this program was built with, by `order`: limits below 100, kernel below 200,
/// ipcbus 200, libraries below 400, brokers from there.
struct Registered {
    using Make = std::function<std::unique_ptr<Peer>()>;
    Registered(int order, Make make);
};
[[nodiscard]] std::vector<std::unique_ptr<Peer>> make_all_peers();

}  // namespace ipcbus::bench
