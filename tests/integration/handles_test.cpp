// SPDX-License-Identifier: Apache-2.0
// Goal: handles of one client by several threads at once, waiting for subscribers, options of other
// sizes, connections that cannot be made, forked children: as ipcbus.h says.
// Method: a private ipcbusd; threads and children.
#include "bus_client.hpp"
#include "checked_message.hpp"
#include "daemon_fixture.hpp"
#include "shared_block.hpp"

#include "sys/address.hpp"
#include "sys/clock.hpp"

#include <doctest/doctest.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <map>
#include <set>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

Set make_set(const Bus& bus) {
    ipcbus_set* made = nullptr;
    (void)must(ipcbus_set_create(bus.get(), &made), "set_create");
    return Set(made);
}

int connect_result(const std::string& address, std::int64_t timeout_ns = 0) {
    ipcbus_connect_options options = IPCBUS_INIT(options);
    options.address = address.c_str();
    options.timeout_ns = timeout_ns;
    ipcbus_bus* bus = nullptr;
    const int result = ipcbus_connect(&options, &bus);
    CHECK(is_documented(result));
    CHECK((bus != nullptr) == (result == 0));
    CHECK((result == 0 || std::string(ipcbus_last_error()) != ""));
    ipcbus_close(bus);
    return result;
}

}  // namespace

TEST_CASE("wait_subscribers: now, in time, not in time") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Publisher publisher = advertise(bus, "wait/for");
    CHECK(ipcbus_wait_subscribers(publisher.get(), 0, 0) == 0);
    CHECK(ipcbus_wait_subscribers(publisher.get(), 1, 0) == -EAGAIN);
    CHECK(ipcbus_wait_subscribers(publisher.get(), 1, 10 * kMillisecondNs) == -ETIMEDOUT);
    const SharedBlock<Milestone> gone;
    ChildProcess child = ChildProcess::fork([&] {
        const Bus own = connect(daemon.address());
        const Subscriber one = subscribe(own, "wait/for");
        const Subscriber two = subscribe(own, "wait/#");
        const Subscriber other = subscribe(own, "other");
        must_be(gone->wait(1), "the test is stuck");
        return 0;
    });
    CHECK(ipcbus_wait_subscribers(publisher.get(), 2, kLongNs) == 0);
    CHECK(ipcbus_subscriber_count(publisher.get()) == 2);
    CHECK(ipcbus_wait_subscribers(publisher.get(), 3, 0) == -EAGAIN);
    gone->raise();
    CHECK(child.wait() == 0);
    const Subscriber last = subscribe(bus, "wait/for");
    CHECK(ipcbus_subscriber_count(publisher.get()) == 1);
}

TEST_CASE("handles of one client in several threads at once, while others come and go") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    constexpr std::uint64_t kThreads = 3;
    constexpr std::uint64_t kMessages = 4000;
    Milestone subscribed;
    std::atomic<bool> done{false};
    std::atomic<unsigned> wrong{0};
    std::vector<std::thread> threads;
    for (std::uint64_t t = 1; t <= kThreads; t++) {
        threads.emplace_back([&] {
            const Subscriber subscriber = subscribe(bus, "threads/+");
            subscribed.raise();
            std::map<std::uint64_t, std::uint64_t> last;
            for (std::uint64_t i = 0; i < kThreads * kMessages; i++) {
                const Received got = receive(subscriber);
                const auto header = read_checked(got.payload.data(), got.payload.size());
                if (!got.ok() || !header || header->number != ++last[header->sender]) {
                    wrong++;
                    return;
                }
            }
            wrong += receive(subscriber, 0).result == -EAGAIN ? 0 : 1;
        });
        threads.emplace_back([&, t] {
            const Publisher publisher = advertise(bus, "threads/" + std::to_string(t));
            wrong += subscribed.wait(kThreads) ? 0 : 1;
            char message[500];
            for (std::uint64_t i = 1; i <= kMessages; i++) {
                const std::size_t bytes = 32 + mixed(i) % 400;
                fill_checked(message, bytes, t, i);
                wrong += ipcbus_publish(publisher.get(), message, bytes) == 0 ? 0 : 1;
            }
        });
    }
    std::thread restless([&] {
        while (!done) {
            const Subscriber subscriber = subscribe(bus, "threads/#", IPCBUS_LOSSY);
            const Publisher publisher = advertise(bus, "elsewhere");
            const Subscriber own = subscribe(bus, "elsewhere");
            publish(publisher, "x");
            wrong += received_text(own) == "x" ? 0 : 1;
            wrong += ipcbus_state(bus.get()) == IPCBUS_CONNECTED ? 0 : 1;
        }
    });
    for (std::thread& thread : threads) {
        thread.join();
    }
    done = true;
    restless.join();
    CHECK(wrong == 0);
}

TEST_CASE("options: of an older caller, of a newer one, of a wrong one") {
    const DaemonFixture daemon;
    const std::string address = daemon.address();
    struct {
        ipcbus_connect_options known;
        std::uint64_t unknown;
    } newer{};
    ipcbus_connect_options& options = newer.known;
    options.address = address.c_str();
    ipcbus_bus* made = nullptr;
    CHECK(ipcbus_connect(&options, &made) == -EINVAL);  // struct_size is 0
    options.struct_size = sizeof(newer);
    REQUIRE(ipcbus_connect(&options, &made) == 0);
    Bus bus(made);
    newer.unknown = 1;
    made = nullptr;
    CHECK(ipcbus_connect(&options, &made) == -EINVAL);
    options.struct_size = sizeof(options);
    options.flags = 0x80;
    CHECK(ipcbus_connect(&options, &made) == -EINVAL);
    CHECK(made == nullptr);
    // An older caller's struct ended after the address: what follows is not looked at.
    options.struct_size = offsetof(ipcbus_connect_options, name);
    options.name = reinterpret_cast<const char*>(1);
    REQUIRE(ipcbus_connect(&options, &made) == 0);
    bus.reset(made);
    options.struct_size = sizeof(options);
    options.flags = 0;
    const std::string long_name(65, 'n');
    options.name = long_name.c_str();
    CHECK(ipcbus_connect(&options, &made) == -ENAMETOOLONG);
    options.name = "";
    CHECK(ipcbus_connect(&options, nullptr) == -EINVAL);

    ipcbus_subscriber_options subscriber_options = IPCBUS_INIT(subscriber_options);
    ipcbus_subscriber* subscriber = nullptr;
    subscriber_options.mode = 3;
    CHECK(ipcbus_subscribe(bus.get(), "x", &subscriber_options, &subscriber) == -EINVAL);
    subscriber_options.mode = 0;
    subscriber_options.struct_size = 1;
    CHECK(ipcbus_subscribe(bus.get(), "x", &subscriber_options, &subscriber) == -EINVAL);
    CHECK(ipcbus_subscribe(bus.get(), nullptr, nullptr, &subscriber) == -EINVAL);
    CHECK(ipcbus_subscribe(bus.get(), "x", nullptr, nullptr) == -EINVAL);
    CHECK(subscriber == nullptr);
    REQUIRE(ipcbus_subscribe(bus.get(), "x", nullptr, &subscriber) == 0);
    const Subscriber owned_subscriber(subscriber);
    ipcbus_publisher* publisher = nullptr;
    CHECK(ipcbus_advertise(bus.get(), nullptr, nullptr, &publisher) == -EINVAL);
    CHECK(ipcbus_advertise(bus.get(), "x", nullptr, nullptr) == -EINVAL);
    REQUIRE(ipcbus_advertise(bus.get(), "x", nullptr, &publisher) == 0);
    const Publisher owned_publisher(publisher);
    publish(owned_publisher, "y");
    CHECK(received_text(owned_subscriber) == "y");
    ipcbus_close(nullptr);
    ipcbus_unadvertise(nullptr);
    ipcbus_unsubscribe(nullptr);
    ipcbus_set_free(nullptr);
}

TEST_CASE("connections that cannot be made say why; one that is waited for comes") {
    const TempDir directory;
    const std::string path = directory.file("bus.sock");
    CHECK(connect_result("unix:" + path) == -ECONNREFUSED);
    CHECK(connect_result("unix:/nowhere/at/all") == -ECONNREFUSED);
    write_file(path, "no socket");
    CHECK(connect_result("unix:" + path) == -ECONNREFUSED);
    CHECK(connect_result("unix:relative") == -EINVAL);
    CHECK(connect_result("nonsense:x") == -EINVAL);
    CHECK(connect_result("unix:/" + std::string(200, 'x')) == -ENAMETOOLONG);
    CHECK(connect_result("unix:" + directory.file("none"), 20 * kMillisecondNs) < 0);
    {
        const std::string silent = directory.file("babbler.sock");
        auto listener = sys::listen_unix(silent, 0600, 4);
        REQUIRE(listener.ok());
        std::thread babbler([fd = listener.value().get()] {
            const sys::UniqueFd peer(::accept(fd, nullptr, nullptr));
            const std::string text(64, '\x7f');
            (void)::send(peer.get(), text.data(), text.size(), MSG_NOSIGNAL);
            char byte;
            (void)::recv(peer.get(), &byte, 1, 0);
        });
        CHECK(connect_result("unix:" + silent) == -EPROTO);
        babbler.join();
    }
    {
        // Who hangs up without a word, as a daemon that ends does, is tried once more.
        const std::string ending = directory.file("ending.sock");
        auto listener = sys::listen_unix(ending, 0600, 4);
        REQUIRE(listener.ok());
        int accepted = 0;
        std::thread refuser([&accepted, fd = listener.value().get()] {
            while (sys::UniqueFd(::accept(fd, nullptr, nullptr)).get() >= 0) {
                accepted++;
            }
        });
        CHECK(connect_result("unix:" + ending) == -ECONNREFUSED);
        (void)::shutdown(listener.value().get(), SHUT_RDWR);
        refuser.join();
        CHECK(accepted == 2);
    }
    if (may_be_user(65534)) {
        const DaemonFixture closed("[listen]\nmode = \"0600\"\n");
        (void)::chmod(closed.directory().path().c_str(), 0755);
        ChildProcess child = ChildProcess::fork([&] {
            must_be(::setuid(65534) == 0, "setuid");
            return -connect_result(closed.address());
        });
        CHECK(child.wait() == EACCES);
    }
}

TEST_CASE("a forked child has no connection; closing its handles harms nobody") {
    const DaemonFixture daemon;
    Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "fork");
    const Publisher publisher = advertise(bus, "fork");
    const Set set = make_set(bus);
    publish(publisher, "before");
    ChildProcess child = ChildProcess::fork([&] {
        char buffer[8];
        ipcbus_message message;
        void* room = nullptr;
        ipcbus_publisher* new_publisher = nullptr;
        ipcbus_subscriber* new_subscriber = nullptr;
        ipcbus_set* new_set = nullptr;
        const ipcbus_buffer one{"x", 1};
        const std::int64_t results[] = {
            ipcbus_publish(publisher.get(), "x", 1),
            ipcbus_publish_many(publisher.get(), &one, 1),
            ipcbus_claim(publisher.get(), 1, &room),
            ipcbus_commit(publisher.get(), 1),
            ipcbus_abort(publisher.get()),
            ipcbus_wait_subscribers(publisher.get(), 1, 0),
            ipcbus_receive(subscriber.get(), buffer, 8, 0, &message),
            ipcbus_borrow(subscriber.get(), 0, &message),
            ipcbus_borrow_many(subscriber.get(), 0, &message, 1),
            ipcbus_release(subscriber.get()),
            ipcbus_advertise(bus.get(), "x", nullptr, &new_publisher),
            ipcbus_subscribe(bus.get(), "x", nullptr, &new_subscriber),
            ipcbus_set_create(bus.get(), &new_set),
            ipcbus_set_add(set.get(), subscriber.get()),
            ipcbus_set_wait(set.get(), 0, &new_subscriber),
            ipcbus_state(bus.get())};
        for (std::size_t i = 0; i < std::size(results); i++) {
            must_be(results[i] == -ECHILD, "call " + std::to_string(i) + " is not refused");
        }
        // A connection of its own works; then it closes everything, the parent's, too.
        const Bus own = connect(daemon.address());
        publish(advertise(own, "fork"), "from the child");
        const_cast<Set&>(set).reset();
        const_cast<Publisher&>(publisher).reset();
        const_cast<Subscriber&>(subscriber).reset();
        bus.reset();
        return 0;
    });
    CHECK(child.wait() == 0);
    publish(publisher, "after");
    std::set<std::string> got;
    for (int i = 0; i < 3; i++) {
        got.insert(received_text(subscriber));
    }
    CHECK(got == std::set<std::string>{"before", "from the child", "after"});
    CHECK(ipcbus_state(bus.get()) == IPCBUS_CONNECTED);
    CHECK(ipcbus_reconnects(bus.get()) == 0);
}

TEST_CASE("many connections of one process, opened and closed, leave nothing behind") {
    DaemonFixture daemon;
    const auto turn = [&] {
        const Bus bus = connect(daemon.address());
        const Subscriber subscriber = subscribe(bus, "turn");
        const Publisher publisher = advertise(bus, "turn");
        publish(publisher, "x");
        CHECK(received_text(subscriber) == "x");
    };
    turn();
    const Bus observer = connect(daemon.address());
    // The daemon has let go of one before it answers the next.
    const auto settled = [&] {
        turn();
        const Subscriber subscriber = subscribe(observer, "x");
    };
    settled();
    const std::size_t descriptors = daemon.process().descriptor_count();
    for (int i = 0; i < 200; i++) {
        turn();
    }
    settled();
    CHECK(daemon.process().descriptor_count() <= descriptors + 4);
}

TEST_CASE("a publication ends while its only subscriber spins") {
    const DaemonFixture daemon;
    const Bus readers = connect(daemon.address(), "readers");
    const Bus writers = connect(daemon.address(), "writers");
    ipcbus_subscriber_options options = IPCBUS_INIT(options);
    options.spin_ns = 10'000'000'000;
    ipcbus_subscriber* made = nullptr;
    REQUIRE(ipcbus_subscribe(readers.get(), "spin/#", &options, &made) == 0);
    const Subscriber subscriber(made);
    constexpr int kRounds = 50;
    std::atomic<int> received{0};
    std::thread reader([&] {
        while (received < kRounds) {
            char byte = 0;
            if (ipcbus_receive(subscriber.get(), &byte, 1, IPCBUS_FOREVER, nullptr) == 0) {
                received++;
                received.notify_all();
            }
        }
    });
    for (int round = 0; round < kRounds; round++) {
        const Publisher publisher = advertise(writers, "spin/1");
        CHECK(ipcbus_publish(publisher.get(), "x", 1) == 0);
        received.wait(round);
    }  // it ends here, and is being looked at
    reader.join();
    CHECK(received == kRounds);
}

TEST_CASE("a publication that is never empty does not keep another one waiting") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    const Subscriber subscriber = subscribe(bus, "fair/+");
    const Publisher often = advertise(bus, "fair/often");
    const Publisher once = advertise(bus, "fair/once");
    while (ipcbus_publication_count(subscriber.get()) < 2) {
        char byte = 0;
        CHECK(ipcbus_receive(subscriber.get(), &byte, 1, 1'000'000, nullptr) == -ETIMEDOUT);
    }
    for (int i = 0; i < 1000; i++) {
        REQUIRE(ipcbus_publish(often.get(), "x", 1) == 0);
    }
    char byte = 0;
    REQUIRE(ipcbus_receive(subscriber.get(), &byte, 1, 0, nullptr) == 0);
    REQUIRE(ipcbus_publish(once.get(), "y", 1) == 0);
    int others = 0;
    while (byte != 'y') {
        REQUIRE(ipcbus_receive(subscriber.get(), &byte, 1, 0, nullptr) == 0);
        others++;
    }
    CHECK(others <= 200);
}

TEST_CASE("a thread that has ended is not taken for the one that publishes") {
    const DaemonFixture daemon;
    const Bus bus = connect(daemon.address());
    Subscriber subscriber;
    std::thread([&] { subscriber = subscribe(bus, "thread/1"); }).join();
    int result = 0;
    std::thread([&] {  // its stack, and so its thread-local addresses, are most likely the same
        const Publisher publisher = advertise(bus, "thread/1", 65536, 50'000'000);
        const std::string message(1000, 'x');
        for (int i = 0; i < 5000 && result == 0; i++) {
            result = ipcbus_publish(publisher.get(), message.data(), message.size());
        }
    }).join();
    CHECK(result == -ETIMEDOUT);
}
