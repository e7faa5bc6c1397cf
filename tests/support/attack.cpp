// SPDX-License-Identifier: Apache-2.0
// See attack.hpp.
#include "attack.hpp"

#include "bus_client.hpp"
#include "raw_client.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <sstream>

namespace ipcbus::test {

namespace {

constexpr std::size_t kPage = 4096;

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

}  // namespace

void attack_fd(int fd, const std::string& what) {
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

void attack_as_reader(const std::string& socket_path, const std::string& topic) {
    RawClient raw = RawClient::on_bus(socket_path, "attacker");
    raw.subscribe(topic);
    (void)raw.expect<protocol::Peer>();
    const sys::UniqueFd doorbell = std::move(raw.fds.at(0));
    (void)raw.expect<protocol::Attached>();
    attack_fd(raw.fds.at(0).get(), "ring");
    attack_doorbell(doorbell.get());
    (void)::fallocate(doorbell.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20);
}

void attack_as_publisher(const std::string& socket_path, const std::string& topic) {
    RawClient raw = RawClient::on_bus(socket_path, "attacker");
    const auto advertised = raw.advertise(topic, 65536);
    const sys::UniqueFd ring = std::move(raw.fds.at(0));
    (void)raw.expect<protocol::Peer>();
    const sys::UniqueFd cursor = std::move(raw.fds.at(0));
    const sys::UniqueFd doorbell = std::move(raw.fds.at(1));
    attack_fd(cursor.get(), "cursor page of a reader");
    attack_doorbell(doorbell.get());
    raw.mapped(advertised.publication);
    (void)raw.drain();
    // After MAPPED its own ring has no second writable mapping, either.
    attack_fd(ring.get(), "own ring");
}

void attack_mappings(const std::string& address, const std::string& topic) {
    const Bus bus = connect(address);
    const Subscriber reader = subscribe(bus, topic);
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
            attack_fd(fd.get(), area.name + " by map_files");
        }
    }
    must_be(attacked >= 3, "found no read-only memory of the bus");
}

}  // namespace ipcbus::test
