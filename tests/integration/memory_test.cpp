// SPDX-License-Identifier: Apache-2.0
// Goal: what one more attachment costs a client is bounded: in a subscriber, in one that is alone
// with its rings, and in a publisher.
// Method: everything that this program (and with it libipcbus) has from operator new is counted,
// with what malloc adds. The other side of each attachment is in a process of its own; what it does
// is told by daemon, not by time.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include <doctest/doctest.h>

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

std::atomic<std::size_t> heap_bytes{0};

/// With the eight bytes in front of each block.
std::size_t block_bytes(void* block) { return ::malloc_usable_size(block) + sizeof(std::size_t); }

void* counted(std::size_t bytes) {
    void* const block = std::malloc(bytes);
    if (block == nullptr) {
        std::abort();
    }
    heap_bytes += block_bytes(block);
    return block;
}

void uncounted(void* block) {
    if (block != nullptr) {
        heap_bytes -= block_bytes(block);
        std::free(block);
    }
}

/// By how much a step makes the heap grow, for each of `count`: less what a client has once, the
/// buffers of its connection, which grow with how much the daemon happens to send in one piece.
template <class Step>
double grown_by(std::size_t count, Step&& step) {
    constexpr double kBuffersBytesMax = 16384;
    const std::size_t before = heap_bytes;
    step();
    const double bytes = static_cast<double>(heap_bytes) - static_cast<double>(before);
    const double each = bytes / static_cast<double>(count);
    MESSAGE(each, " bytes each, for ", count);
    return (bytes - kBuffersBytesMax) / static_cast<double>(count);
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void operator delete(void* block) noexcept { uncounted(block); }
void operator delete(void* block, std::size_t) noexcept { uncounted(block); }

namespace {

constexpr double kAttachmentBytesMax = 128;
constexpr double kRingBytesMax = 128;

/// A process that makes the other side of attachments, up to a number and then to another.
struct Steps {
    Milestone wanted;
    Milestone made;
};

/// `make(count)` makes it so many in all.
template <class Make>
int in_steps(Steps& steps, std::uint32_t few, std::uint32_t many, Make&& make) {
    for (const std::uint32_t count : {few, many}) {
        make(count);
        steps.made.raise();
        must_be(steps.wanted.wait(steps.made.value()), "the next step");
    }
    return 0;
}

/// What one more attachment costs the publisher when the readers of `make` come.
template <class Make>
double cost_to_publisher(const std::string& address, std::uint32_t few, std::uint32_t many,
                         Make&& make) {
    const SharedBlock<Steps> steps;
    const Bus bus = connect(address, "writer");
    const Publisher publisher = advertise(bus, "plant/1/temp");
    ChildProcess readers = ChildProcess::fork([&] { return in_steps(*steps, few, many, make); });
    const auto count_in = [&](std::uint32_t step, std::uint32_t count) {
        REQUIRE(steps->made.wait(step));
        REQUIRE(ipcbus_wait_subscribers(publisher.get(), count, kLongNs) == 0);
        publish(publisher, "x");  // takes membership in
    };
    count_in(1, few);
    const double bytes = grown_by(many - few, [&] {
        steps->wanted.raise();
        count_in(2, many);
    });
    steps->wanted.raise();
    CHECK(readers.wait() == 0);
    return bytes;
}

}  // namespace

TEST_CASE("what an attachment costs a subscriber, with its ring and beside it") {
    constexpr std::uint32_t kFew = 100;
    // Just above a power of two: what a table that doubles holds in reserve would show.
    constexpr std::uint32_t kMany = 1100;
    const DaemonFixture daemon;
    const SharedBlock<Steps> steps;
    ChildProcess writers = ChildProcess::fork([&] {
        const Bus bus = connect(daemon.address(), "writers");
        std::vector<Publisher> publishers;
        return in_steps(*steps, kFew, kMany, [&](std::uint32_t count) {
            while (publishers.size() < count) {
                publishers.push_back(
                    advertise(bus, "plant/" + std::to_string(1000 + publishers.size()) + "/temp"));
            }
        });
    });
    const Bus bus = connect(daemon.address(), "reader");
    const Subscriber subscriber = subscribe(bus, "plant/#");
    REQUIRE(steps->made.wait(1));
    wait_for_publications(subscriber, kFew);
    const double with_ring = grown_by(kMany - kFew, [&] {
        steps->wanted.raise();
        REQUIRE(steps->made.wait(2));
        wait_for_publications(subscriber, kMany);
    });
    CHECK(with_ring <= kAttachmentBytesMax + kRingBytesMax);
    for (const char* filter : {"plant/+/temp", "+/+/temp", "#"}) {
        Subscriber another;
        const double bytes = grown_by(kMany, [&] {
            another = subscribe(bus, filter);
            wait_for_publications(another, kMany);
        });
        CHECK(bytes <= kAttachmentBytesMax);
        (void)another.release();
    }
    // One with a subscription of its own, wherever its slot is.
    std::vector<Subscriber> single;
    const double subscription = grown_by(100, [&] {
        for (int i = 0; i < 100; i++) {
            single.push_back(subscribe(bus, "plant/" + std::to_string(1000 + i) + "/temp"));
        }
    });
    CHECK(subscription <= 2048);
    steps->wanted.raise();
    CHECK(writers.wait() == 0);
}

TEST_CASE("what an attachment costs a publisher") {
    const DaemonFixture daemon;
    const double of_one_client =
        cost_to_publisher(daemon.address(), 100, 1100, [&](std::uint32_t count) {
            static const Bus bus = connect(daemon.address(), "readers");
            static std::vector<Subscriber> subscribers;
            while (subscribers.size() < count) {
                subscribers.push_back(subscribe(bus, "plant/1/+"));
            }
        });
    CHECK(of_one_client <= kAttachmentBytesMax);
}

TEST_CASE("what an attachment of one more client costs a publisher") {
    const DaemonFixture daemon;
    const double another = cost_to_publisher(daemon.address(), 20, 220, [&](std::uint32_t count) {
        static std::vector<Bus> buses;
        static std::vector<Subscriber> subscribers;
        while (subscribers.size() < count) {
            buses.push_back(connect(daemon.address(), "reader"));
            subscribers.push_back(subscribe(buses.back(), "plant/1/+"));
        }
    });
    CHECK(another <= kAttachmentBytesMax + 64);
}
