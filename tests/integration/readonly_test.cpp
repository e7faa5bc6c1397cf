// SPDX-License-Identifier: Apache-2.0
// Goal: a subscriber cannot change the ring that it reads, nor a publisher its readers' cursors, by
// any way through the descriptors and mappings that they get: whether of the publisher's uid or of
// another.
// Method: a private ipcbusd; a publisher and a reader by the library; the attacker is a process of
// its own, with raw frames, or with what the library has mapped for it.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

constexpr std::size_t kPage = 4096;

void become_nobody() {
    must_be(::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0,
            "setuid nobody");
}

/// Each of these must fail; the text says what worked.
void attack_descriptor(int fd, const std::string& what) {
    void* writable = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must_be(writable == MAP_FAILED, what + ": mapped writable");
    void* readable = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd, 0);
    must_be(readable != MAP_FAILED, what + ": cannot even be read");
    must_be(::mprotect(readable, kPage, PROT_READ | PROT_WRITE) != 0, what + ": mprotect");
    must_be(::mremap(readable, kPage, 2 * kPage, MREMAP_MAYMOVE) == MAP_FAILED ||
                ::mprotect(readable, kPage, PROT_WRITE) != 0,
            what + ": mprotect after mremap");
    const char bytes[16] = "overwritten";
    must_be(::pwrite(fd, bytes, sizeof(bytes), 0) < 0, what + ": pwrite");
    must_be(::ftruncate(fd, 0) != 0, what + ": truncated");
    must_be(::ftruncate(fd, 1 << 30) != 0, what + ": grown");
    must_be(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage) != 0,
            what + ": hole punched");
    must_be(::fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, kPage) != 0, what + ": zeroed");
}

/// The descriptor itself, and every other that can be made of it.
void attack(int fd, const std::string& what) {
    attack_descriptor(fd, what);
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    for (const int flags : {O_RDWR, O_RDWR | O_TRUNC, O_RDONLY | O_TRUNC}) {
        const sys::UniqueFd again(::open(path.c_str(), flags | O_CLOEXEC));
        if (again) {
            attack_descriptor(again.get(), what + ", opened again");
        }
    }
    (void)::chmod(path.c_str(), 0777);
    const sys::UniqueFd again(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (again) {
        attack_descriptor(again.get(), what + ", opened again after chmod");
    }
}

/// What must be writable can at least not be taken from the others.
void attack_doorbell(int fd) {
    must_be(::ftruncate(fd, 0) != 0, "doorbell: truncated");
    for (const int seal : {F_SEAL_FUTURE_WRITE, F_SEAL_WRITE, F_SEAL_SEAL}) {
        must_be(::fcntl(fd, F_ADD_SEALS, seal) != 0, "doorbell: sealed");
    }
}

/// Lines of /proc/self/maps that are memory of the bus.
struct Area {
    char* begin;
    std::size_t bytes;
    std::string permissions;
    std::string name;
    std::string range;
};
std::vector<Area> areas_of_the_bus() {
    std::vector<Area> areas;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        const std::size_t name = line.find("/memfd:ipcbus-");
        if (name == std::string::npos) {
            continue;
        }
        std::istringstream words(line);
        Area area;
        words >> area.range >> area.permissions;
        area.name = line.substr(name);
        std::uintptr_t begin = 0;
        std::uintptr_t end = 0;
        must_be(std::sscanf(area.range.c_str(), "%zx-%zx", &begin, &end) == 2, "maps");
        area.begin = reinterpret_cast<char*>(begin);
        area.bytes = end - begin;
        areas.push_back(area);
    }
    return areas;
}

/// An honest publisher and reader, and what the one has sent before and after the attack.
struct Honest {
    explicit Honest(const DaemonFixture& daemon)
        : bus(connect(daemon.address())),
          subscriber(subscribe(bus, "honest")),
          publisher(advertise(bus, "honest", 65536)) {
        (void)::chmod(daemon.directory().path().c_str(), 0755);
        for (int i = 0; i < 50; i++) {
            publish(publisher, "before " + std::to_string(i));
        }
    }
    void check() {
        for (int i = 0; i < 50; i++) {
            CHECK(received_text(subscriber) == "before " + std::to_string(i));
        }
        const std::string large(16'000, 'l');
        for (int i = 0; i < 50; i++) {
            publish(publisher, large);
            REQUIRE(received_text(subscriber) == large);
        }
    }
    Bus bus;
    Subscriber subscriber;
    Publisher publisher;
};

/// Runs `attack` in a process of its own: of the same uid, and in another run of the test, if it
/// may be had, of another. It must come to its end, and the honest must notice nothing.
template <class Attack>
void expect_no_harm(Honest& honest, Attack attack) {
    bool other_uid = false;
    SUBCASE("the same uid") {}
    SUBCASE("another uid") { other_uid = ::geteuid() == 0; }
    ChildProcess child = ChildProcess::fork([&] {
        if (other_uid) {
            become_nobody();
        }
        attack();
        return 0;
    });
    CHECK(child.wait() == 0);
    honest.check();
}

}  // namespace

TEST_CASE("what a reader gets of a publisher cannot be written, by any descriptor") {
    const DaemonFixture daemon;
    Honest honest(daemon);
    expect_no_harm(honest, [&] {
        RawClient raw = RawClient::on_bus(daemon.socket_path(), "attacker");
        raw.subscribe("honest");
        (void)raw.expect<protocol::Peer>();
        const sys::UniqueFd doorbell = std::move(raw.fds.at(0));
        (void)raw.expect<protocol::Attached>();
        attack(raw.fds.at(0).get(), "ring");
        attack_doorbell(doorbell.get());
        (void)::fallocate(doorbell.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20);
    });
}

TEST_CASE("what a publisher gets of its readers cannot be written, but for the doorbell") {
    const DaemonFixture daemon;
    Honest honest(daemon);
    const Subscriber second = subscribe(honest.bus, "attacker");
    expect_no_harm(honest, [&] {
        RawClient raw = RawClient::on_bus(daemon.socket_path(), "attacker");
        const auto advertised = raw.advertise("attacker", 65536);
        const sys::UniqueFd ring = std::move(raw.fds.at(0));
        (void)raw.expect<protocol::Peer>();
        const sys::UniqueFd cursor = std::move(raw.fds.at(0));
        const sys::UniqueFd doorbell = std::move(raw.fds.at(1));
        attack(cursor.get(), "cursor page of a reader");
        attack_doorbell(doorbell.get());
        raw.mapped(advertised.publication);
        (void)raw.drain();
        // After MAPPED its own ring has no second writable mapping, either.
        attack(ring.get(), "own ring");
    });
}

TEST_CASE("what the library has mapped read-only stays read-only") {
    const DaemonFixture daemon;
    Honest honest(daemon);
    expect_no_harm(honest, [&] {
        const Bus bus = connect(daemon.address());
        const Subscriber reader = subscribe(bus, "honest");
        const Publisher writer = advertise(bus, "of/the/attacker");
        const Subscriber own = subscribe(bus, "of/the/attacker");
        publish(writer, "x");
        must_be(received_text(own) == "x", "own ring");
        must_be(receive(reader, 0).result == -EAGAIN, "reader");
        int attacked = 0;
        for (const Area& area : areas_of_the_bus()) {
            if (area.permissions != "r--s") {
                continue;
            }
            attacked++;
            must_be(::mprotect(area.begin, area.bytes, PROT_READ | PROT_WRITE) != 0,
                    area.name + ": mprotect");
            const std::string path = "/proc/self/map_files/" + area.range;
            const sys::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
            if (fd && area.name.find("ring") != std::string::npos) {
                attack(fd.get(), area.name + " by map_files");
            }
        }
        must_be(attacked >= 3, "found no read-only memory of the bus");
    });
}
