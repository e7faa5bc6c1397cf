// SPDX-License-Identifier: Apache-2.0
// Goal: whatever a client does to the descriptors that it was given, before it says MAPPED and
// after: seals of its own, holes, everything closed, costs its own session at most; a ring or a
// cursor page that others get is sealed as it must be, and has all its memory.
// Method: a private ipcbusd; every seal on every object, a raw client each; bystanders beside it.
#include "bystanders.hpp"
#include "daemon_fixture.hpp"
#include "raw_client.hpp"

#include "sys/memfd.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020  // newer than the headers
#endif

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u64;

namespace {

constexpr u64 kRing = 65536;

enum class Object { cursor, doorbell, mailbox, ring };
constexpr Object kObjects[] = {Object::cursor, Object::doorbell, Object::mailbox, Object::ring};
constexpr int kSeals[] = {F_SEAL_SEAL,  F_SEAL_SHRINK,       F_SEAL_GROW,
                          F_SEAL_WRITE, F_SEAL_FUTURE_WRITE, F_SEAL_EXEC};

int seals_of(int fd) { return ::fcntl(fd, F_GET_SEALS); }

off_t bytes_of(int fd) {
    struct stat status{};
    REQUIRE(::fstat(fd, &status) == 0);
    return status.st_size;
}

/// All of it, in three strides, so that holes come to lie beside what is there.
bool punch(int fd) {
    bool good = true;
    for (off_t at = 0; at < bytes_of(fd); at += 3 * off_t{4096}) {
        good = ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 8192) == 0 && good;
    }
    return good;
}

/// A client that has been given all four objects; with no mapping of its own where a seal would
/// be refused for that.
struct Holder {
    explicit Holder(const std::string& socket_path) : client(socket_path) {
        client.hello("holder");
    }

    void map_pages() { client.mapped(0); }
    void get_ring() {
        const auto advertised = client.advertise("hostile/ring", kRing);
        publication = advertised.publication;
        ring = std::move(client.fds.at(0));
    }
    [[nodiscard]] int fd(Object object) const {
        return object == Object::ring ? ring.get()
                                      : client.own_fds.at(static_cast<std::size_t>(object)).get();
    }
    /// Whether the session goes on.
    bool lives() {
        client.send_with(protocol::Unsubscribe{~u64{0}}, kProbe);
        while (const auto incoming = client.next()) {
            if (incoming->header.request == kProbe) {
                return true;
            }
        }
        return false;
    }

    static constexpr u64 kProbe = 1'000'000;
    RawClient client;
    u64 publication = 0;
    sys::UniqueFd ring;
};

/// The daemon's own way: what it hands to others.
void expect_good_ring(RawClient& reader, const protocol::Subscribed& subscribed,
                      int more_seals = 0) {
    bool found = false;
    for (const Incoming& incoming : reader.drain()) {
        if (incoming.header.type == protocol::FrameType::attached) {
            const int ring = incoming.fds.at(0).get();
            const int may_be_there = F_SEAL_EXEC | more_seals;
            CHECK((seals_of(ring) | may_be_there) == (sys::kSealsRing | may_be_there));
            struct stat status{};
            REQUIRE(::fstat(ring, &status) == 0);
            CHECK(status.st_blocks * 512 >= status.st_size);
            CHECK((::fcntl(ring, F_GETFL) & O_ACCMODE) == O_RDONLY);
            found = true;
        }
    }
    CHECK(found);
    reader.unsubscribe(subscribed);
    (void)reader.drain();
}

}  // namespace

TEST_CASE("every seal on every object, before MAPPED") {
    DaemonFixture daemon;
    Bystanders bystanders(daemon.address(), "hostile/#");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    int refused = 0;
    for (const Object object : kObjects) {
        for (const int seal : kSeals) {
            INFO("object ", static_cast<int>(object), ", seal ", seal);
            const auto subscribed = reader.subscribe("hostile/#");
            Holder holder(daemon.socket_path());
            if (object == Object::ring) {
                holder.map_pages();
                holder.get_ring();
            }
            // Of the pages, too, which others map: unmapped here, or F_SEAL_WRITE is refused.
            holder.client.cursor.reset();
            const int before = seals_of(holder.fd(object));
            const bool sealed = sys::add_seals(holder.fd(object), seal).ok();
            // What changes nothing, or was to come anyway, is no offence.
            const bool harmless = !sealed || (before & seal) != 0 ||
                                  seals_of(holder.fd(object)) == (before | F_SEAL_FUTURE_WRITE);
            if (object == Object::ring) {
                holder.client.mapped(holder.publication);
            } else {
                holder.map_pages();
            }
            CHECK(holder.lives() == harmless);
            refused += harmless ? 0 : 1;
            if (object == Object::ring && harmless) {
                expect_good_ring(reader, subscribed);
            } else {
                for (const Incoming& incoming : reader.drain()) {
                    CHECK(incoming.header.type != protocol::FrameType::attached);
                }
                reader.unsubscribe(subscribed);
            }
        }
    }
    // SEAL, of the ring and of the cursor page; WRITE is refused while anybody has them mapped.
    CHECK(refused >= 2);
    bystanders.expect_trips();
}

TEST_CASE("every seal on every object, and holes, after MAPPED") {
    DaemonFixture daemon;
    Bystanders bystanders(daemon.address(), "hostile/#");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    for (const Object object : kObjects) {
        for (const int seal : {0, F_SEAL_SEAL, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE, F_SEAL_EXEC}) {
            INFO("object ", static_cast<int>(object), ", seal ", seal);
            Holder holder(daemon.socket_path());
            holder.map_pages();
            holder.get_ring();
            holder.client.mapped(holder.publication);
            CHECK(holder.lives());
            holder.client.cursor.reset();
            if (seal == 0) {
                const bool sealed = object == Object::ring || object == Object::cursor;
                CHECK(punch(holder.fd(object)) == !sealed);
            } else {
                (void)sys::add_seals(holder.fd(object), seal);
            }
            // It goes on being served, and others come to read it.
            const auto subscribed = reader.subscribe("hostile/#");
            expect_good_ring(reader, subscribed, seal);
            (void)holder.client.subscribe("bystander/call", protocol::ReaderMode::lossy);
            CHECK(holder.lives());
        }
    }
    bystanders.expect_trips();
}

TEST_CASE("holes in every page, before MAPPED") {
    DaemonFixture daemon;
    Bystanders bystanders(daemon.address(), "hostile/#");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    for (const Object object : kObjects) {
        INFO("object ", static_cast<int>(object));
        const auto subscribed = reader.subscribe("hostile/#");
        Holder holder(daemon.socket_path());
        if (object != Object::ring) {
            CHECK(punch(holder.fd(object)));
        }
        holder.map_pages();
        holder.get_ring();
        if (object == Object::ring) {
            CHECK(punch(holder.fd(object)));
        }
        holder.client.mapped(holder.publication);
        CHECK(holder.lives());
        expect_good_ring(reader, subscribed);
    }
    bystanders.expect_trips();
}

TEST_CASE("descriptors that are closed at once, and nothing ever mapped") {
    DaemonFixture daemon;
    Bystanders bystanders(daemon.address(), "hostile/#");
    RawClient reader = RawClient::on_bus(daemon.socket_path(), "reader");
    const auto subscribed = reader.subscribe("hostile/#");
    Holder holder(daemon.socket_path());
    holder.client.own_fds.clear();
    holder.client.cursor.reset();
    holder.client.doorbell.reset();
    holder.client.mailbox.reset();
    holder.map_pages();
    holder.get_ring();
    holder.ring.reset();
    holder.client.mapped(holder.publication);
    CHECK(holder.lives());
    expect_good_ring(reader, subscribed);
    // A reader that has closed the ring's descriptor, and maps nothing either.
    (void)holder.client.subscribe("#", protocol::ReaderMode::lossy);
    CHECK(holder.lives());
    bystanders.expect_trips();
}
