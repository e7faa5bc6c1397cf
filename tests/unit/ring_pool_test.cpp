// SPDX-License-Identifier: Apache-2.0
// Goal: what the pool gives is a ring's memory as a publisher must get it (size, seals, all of it
// reserved), what is taken is made again, and whoever needs its memory gets it. Method: a real
// event loop, real memfds.
#include "ring_pool.hpp"
#include "loop_support.hpp"
#include "protocol/layout.hpp"
#include "sys/memfd.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>

using ipcbus::daemon::Amounts;
using ipcbus::daemon::LimitsConfig;
using ipcbus::daemon::Quota;
using ipcbus::daemon::RingMemory;
using ipcbus::daemon::RingPool;
namespace sys = ipcbus::sys;
namespace tests = ipcbus::tests;

namespace {

constexpr std::uint64_t kRing = std::uint64_t{128} << 10;
constexpr std::uint64_t kMemory = kRing + ipcbus::protocol::kRingDataOffset;

LimitsConfig room_for(std::uint64_t rings) {
    LimitsConfig limits;
    limits.total = Amounts{.clients = 9,
                           .publications = 9,
                           .subscriptions = 9,
                           .descriptors = 99,
                           .ring_bytes = rings * kMemory};
    limits.per_uid = limits.total;
    return limits;
}

struct Fixture {
    explicit Fixture(std::uint64_t rings) : quota(room_for(rings)), pool(*loop, quota) {
        quota.set_relief([this] { return pool.give_way(); });
    }
    ~Fixture() {
        pool.close();
        CHECK(loop->run_until_idle().ok());
    }
    std::unique_ptr<ipcbus::daemon::EventLoop> loop = tests::make_loop();
    Quota quota;
    RingPool pool;
};

/// Another descriptor of the one ring that there is.
sys::UniqueFd ring_of_this_process() {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code ignored;
        const std::string name = std::filesystem::read_symlink(entry, ignored).string();
        if (name.find("memfd:ipcbus-ring") != std::string::npos) {
            return sys::UniqueFd(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
        }
    }
    return {};
}

}  // namespace

TEST_CASE("what it gives is sealed as at birth, reserved to the last page, and nobody's charge") {
    Fixture f(8);
    f.pool.configure(kRing, 2);
    f.pool.fill();
    CHECK(f.pool.size() == 2);
    CHECK(f.quota.total().ring_bytes == 2 * kMemory);
    CHECK(f.quota.total().descriptors == 2);
    const RingMemory memory = f.pool.take(kRing);
    REQUIRE(memory.fd);
    CHECK(f.quota.total().ring_bytes == kMemory);
    CHECK(sys::expect_seals(memory.fd->get(), sys::kSealsAtBirth).ok());
    struct stat status{};
    REQUIRE(::fstat(memory.fd->get(), &status) == 0);
    CHECK(status.st_size == kMemory);
    CHECK(status.st_blocks >= static_cast<blkcnt_t>(kMemory / 512));
    CHECK(memory.bytes.bytes() == kMemory);
}

TEST_CASE("what is taken is made again, by a worker; another size is not there") {
    Fixture f(8);
    f.pool.configure(kRing, 2);
    f.pool.fill();
    CHECK(!f.pool.take(2 * kRing).fd);
    CHECK(f.pool.take(kRing).fd);
    CHECK(f.pool.take(kRing).fd);
    CHECK(!f.pool.take(kRing).fd);
    CHECK(tests::run_until(*f.loop, [&] { return f.pool.size() == 2; }));
    CHECK(f.quota.total().ring_bytes == 2 * kMemory);
}

TEST_CASE("it takes only room that is there, and gives it to who asks") {
    Fixture f(3);
    f.pool.configure(kRing, 9);
    f.pool.fill();
    CHECK(f.pool.size() == 3);
    const auto charge = f.quota.charge(7, Amounts{.ring_bytes = 2 * kMemory}, "x");
    CHECK(charge.ok());
    CHECK(f.pool.size() == 1);  // no more than was needed
    CHECK(f.quota.total().ring_bytes == 3 * kMemory);
    CHECK(!f.quota.charge(7, Amounts{.ring_bytes = 2 * kMemory}, "x").ok());
    CHECK(f.pool.size() == 1);  // it would not have helped
}

TEST_CASE("what it gives way with is free before it is counted as free") {
    constexpr std::uint64_t kLarge = std::uint64_t{1} << 20;  // a worker closes such
    Fixture f(9);
    f.pool.configure(kLarge, 1);
    f.pool.fill();
    REQUIRE(f.pool.size() == 1);
    const sys::UniqueFd held = ring_of_this_process();
    struct stat status{};
    REQUIRE(::fstat(held.get(), &status) == 0);
    CHECK(status.st_blocks >= static_cast<blkcnt_t>(kLarge / 512));
    const auto charge = f.quota.charge(7, Amounts{.ring_bytes = 9 * kMemory}, "x");
    CHECK(charge.ok());
    REQUIRE(::fstat(held.get(), &status) == 0);
    CHECK(status.st_blocks == 0);
}

TEST_CASE("however many it shall keep, they are not more than 64 MiB") {
    constexpr std::uint64_t kLarge = std::uint64_t{4} << 20;
    Fixture f(1000);
    f.pool.configure(kLarge, 1024);
    f.pool.fill();
    CHECK(f.pool.size() > 0);
    CHECK(f.quota.total().ring_bytes <= std::uint64_t{64} << 20);
}

TEST_CASE("empty, it is filled again when somebody asks and there is room") {
    Fixture f(3);
    f.pool.configure(kRing, 3);
    f.pool.fill();
    CHECK(f.loop->run_until_idle().ok());  // what configure() has begun is over
    {
        const auto charge = f.quota.charge(7, Amounts{.ring_bytes = 3 * kMemory}, "x");
        CHECK(charge.ok());
        CHECK(f.pool.size() == 0);
    }
    (void)f.pool.take(kRing);
    CHECK(f.loop->run_until_idle().ok());
    CHECK(f.pool.size() == 3);
}

TEST_CASE("one that is being made when its room is needed is not kept") {
    Fixture f(1);
    f.pool.configure(kRing, 1);
    while (f.quota.total().ring_bytes == 0) {  // begun, at the end of some turn
        REQUIRE(f.loop->run_once(ipcbus::daemon::EventLoop::Wait::poll).ok());
    }
    {
        const auto charge = f.quota.charge(7, Amounts{.ring_bytes = kMemory}, "x");
        CHECK(charge.ok());
        CHECK(f.loop->run_until_idle().ok());
        CHECK(f.pool.size() == 0);
    }
    CHECK(f.quota.total().ring_bytes == 0);
}

TEST_CASE("another configuration: too many go, another size goes, large ones are not kept") {
    Fixture f(99);
    f.pool.configure(kRing, 3);
    f.pool.fill();
    f.pool.configure(kRing, 1);
    CHECK(f.pool.size() == 1);
    f.pool.configure(2 * kRing, 1);
    CHECK(f.pool.size() == 0);
    CHECK(tests::run_until(*f.loop, [&] { return f.pool.size() == 1; }));
    CHECK(f.pool.take(2 * kRing).fd);
    f.pool.configure(std::uint64_t{64} << 20, 1);
    CHECK(f.loop->run_until_idle().ok());
    f.pool.fill();
    CHECK(f.pool.size() == 0);
    CHECK(f.quota.total().ring_bytes == 0);
}
