// SPDX-License-Identifier: Apache-2.0
// Goal: ipcbus_fd and ipcbus_set_fd work in poll, epoll and io_uring: readable while there is
// something to receive or to report, not readable when a receive has found nothing, whoever calls
// what in between; no message is slept through; publishers ring only who is armed; ipcbus_notify
// sends its signal when a subscriber that was empty is not; also where io_uring is refused. Hostile
// ringers: hostile_doorbells_test.cpp. asyncio: python_test.py.
// Method: a private ipcbusd; publishers in other processes, or other clients of this one. Each case
// runs twice, in a process of its own: as the kernel is, and with io_uring refused by seccomp.
#include "bus_client.hpp"
#include "daemon_fixture.hpp"
#include "seccomp.hpp"
#include "shared_block.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <functional>
#include <optional>
#include <span>
#include <thread>

using namespace ipcbus;
using namespace ipcbus::test;

namespace {

struct Stage {
    Milestone asked;
    Milestone done;
    Milestone received;

    /// In the child: has the parent do its part.
    void ask() {
        asked.raise();
        must_be(done.wait(1), "the parent");
    }
};
using Body = std::function<void(const std::string& address, Stage& stage)>;

/// Runs `body`, as the kernel is, and with io_uring refused. `part`: what this process, to which it
/// is not refused, does when it is asked to.
void in_both_ways(const Body& body, const std::function<void(DaemonFixture&)>& part = {}) {
    for (const bool refused : {false, true}) {
        const std::string how = refused ? "io_uring refused" : "io_uring, if it is there";
        INFO(how);
        DaemonFixture daemon;
        const SharedBlock<Stage> stage;
        ChildProcess child = ChildProcess::fork([&] {
            must_be(!refused || refuse_system_call(SYS_io_uring_setup), "no seccomp");
            body(daemon.address(), *stage);
            return 0;
        });
        if (part) {
            REQUIRE(stage->asked.wait(1));
            part(daemon);
            stage->done.raise();
        }
        CHECK(child.wait(4 * kTimeoutMs) == 0);
    }
}

bool readable(int fd, int timeout_ms = 0) {
    pollfd waited{fd, POLLIN, 0};
    return ::poll(&waited, 1, timeout_ms) == 1;
}

int fd_of(const Subscriber& subscriber) {
    return static_cast<int>(must(ipcbus_fd(subscriber.get()), "fd"));
}

/// Receives what is there, until there is nothing: the number of messages.
int drain(const Subscriber& subscriber) {
    for (int count = 0;; count++) {
        const Received received = receive(subscriber, 0);
        if (received.result == -EAGAIN) {
            return count;
        }
        must_be(received.ok(), "receive");
    }
}

/// Whether it is not readable, once receives find nothing. Who is delayed for 16 ms finds it
/// readable again, for a look around.
bool quiet(int fd, const std::function<bool()>& finds_nothing) {
    for (int tries = 0; tries < 100; tries++) {
        must_be(finds_nothing(), "there is something");
        if (!readable(fd)) {
            return true;
        }
    }
    return false;
}
bool quiet(const Subscriber& subscriber) {
    return quiet(fd_of(subscriber), [&] { return receive(subscriber, 0).result == -EAGAIN; });
}

/// Whether it stays as it is, but for an earlier look around that was due, for a loop that does
/// `call` each time that it is readable.
bool rests(int fd, const std::function<bool()>& call) {
    int wakes = 0;
    const sys::Deadline deadline = sys::Deadline::after(100 * kMillisecondNs);
    while (!deadline.passed() && wakes < 10) {
        must_be(call(), "at rest");
        wakes += readable(fd, 20) ? 1 : 0;
    }
    return wakes < 10;
}

/// A level: what a subscriber's descriptor says, whatever is called.
void level(const std::string& address, Stage& /*stage*/) {
    const Bus bus = connect(address);
    const Bus writers = connect(address);
    const Subscriber subscriber = subscribe(bus, "loop/+");
    const Publisher publisher = advertise(writers, "loop/1");
    const int fd = fd_of(subscriber);
    must_be(fd == fd_of(subscriber), "another descriptor");
    must_be((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0, "close on exec");
    must_be(readable(fd), "readable until the first -EAGAIN");
    must_be(quiet(subscriber), "not readable");
    publish(publisher, "1");
    must_be(readable(fd, kTimeoutMs), "a message");
    must_be(drain(subscriber) == 1 && quiet(subscriber), "drained");
    // Two, one taken: there is one left. So too when the first comes before it has been rung for.
    for (int i = 0; i < 100; i++) {
        publish(publisher, "1");
        publish(publisher, "2");
        if (i % 2 == 0) {
            must_be(readable(fd, kTimeoutMs), "two messages");
        }
        must_be(received_text(subscriber) == "1" && readable(fd), "one is left");
        must_be(drain(subscriber) == 1 && quiet(subscriber), "none is left");
    }
    // Waits of other kinds in between, which find something, and which do not.
    must_be(receive(subscriber, 5 * kMillisecondNs).result == -ETIMEDOUT, "nothing");
    publish(publisher, "late");
    must_be(readable(fd, kTimeoutMs), "armed by a wait that timed out");
    ipcbus_message message{};
    must_be(ipcbus_borrow(subscriber.get(), kLongNs, &message) == 0 && readable(fd), "borrowed");
    const auto busy = [&] { return receive(subscriber, 0).result == -EBUSY; };
    must_be(rests(fd, busy), "a loan is open");
    publish(publisher, "behind it");
    must_be(rests(fd, busy), "it still is");
    must_be(ipcbus_release(subscriber.get()) == 0 && readable(fd), "released");
    must_be(drain(subscriber) == 1 && quiet(subscriber), "not readable again");
    // Armed just before: what was waited for then ends while the loan is open.
    publish(publisher, "lent at once");
    must_be(ipcbus_borrow(subscriber.get(), kLongNs, &message) == 0, "borrowed");
    must_be(rests(fd, busy), "whenever it was armed");
    must_be(ipcbus_release(subscriber.get()) == 0 && readable(fd), "released");
    must_be(drain(subscriber) == 0 && quiet(subscriber), "nothing more");
    // Whoever only asks how many there are does not make it readable.
    must_be(quiet(fd,
                  [&] {
                      const bool nothing = receive(subscriber, 0).result == -EAGAIN;
                      return ipcbus_publication_count(subscriber.get()) == 1 && nothing;
                  }),
            "counted");
    // A publication that comes while it is armed, counted before it is waited for.
    const Publisher another = advertise(writers, "loop/2");
    wait_for_publications(subscriber, 2);
    publish(another, "new");
    must_be(readable(fd, kTimeoutMs) && drain(subscriber) == 1, "of a new publication");
    // A message too large for the buffer stays, and so does the readiness.
    must_be(quiet(subscriber), "not readable");
    publish(another, "large");
    must_be(readable(fd, kTimeoutMs), "large");
    must_be(ipcbus_receive(subscriber.get(), nullptr, 0, 0, nullptr) == -EMSGSIZE, "too large");
    must_be(readable(fd) && drain(subscriber) == 1, "it is still there");
}

/// A loss is something to report.
void losses(const std::string& address, Stage& /*stage*/) {
    const Bus bus = connect(address);
    const Bus writers = connect(address);
    const Subscriber subscriber = subscribe(bus, "loss", IPCBUS_LOSSY);
    const Publisher publisher = advertise(writers, "loss");
    const int fd = fd_of(subscriber);
    must_be(quiet(subscriber), "nothing yet");
    for (int i = 0; i < 5000; i++) {
        publish(publisher, "z");
    }
    must_be(readable(fd, kTimeoutMs), "lost");
    must_be(receive(subscriber, 0).result == -ESTALE && readable(fd), "and more to read");
    must_be(drain(subscriber) > 0 && quiet(subscriber), "drained");
}

/// One message at a time, each waited for by `wait`: none is slept through.
void one_by_one(const std::string& address, Stage& stage, const std::function<bool(int fd)>& wait) {
    constexpr int kMessages = 3000;
    const Bus bus = connect(address);
    const Subscriber subscriber = subscribe(bus, "ping");
    const int fd = fd_of(subscriber);
    ChildProcess child = ChildProcess::fork([&] {
        const Bus own = connect(address);
        const Publisher publisher = advertise(own, "ping");
        for (int i = 0; i < kMessages; i++) {
            for (int pause = i % 50; pause != 0; pause--) {
                (void)stage.received.value();
            }
            publish(publisher, std::to_string(i));
            must_be(stage.received.wait(static_cast<std::uint32_t>(i) + 1), "no answer");
        }
        return 0;
    });
    for (int i = 0; i < kMessages;) {
        must_be(wait(fd), "a message was slept through");
        for (;;) {
            const Received received = receive(subscriber, 0);
            if (received.result == -EAGAIN) {
                break;
            }
            must_be(received.ok() && received.payload == std::to_string(i), "in order");
            i++;
            stage.received.raise();
        }
    }
    must_be(child.wait() == 0, "the publisher");
}

void with_poll(const std::string& address, Stage& stage) {
    one_by_one(address, stage, [](int fd) { return readable(fd, kTimeoutMs); });
}

void with_epoll(const std::string& address, Stage& stage) {
    const sys::UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    bool added = false;
    one_by_one(address, stage, [&](int fd) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = fd;
        if (!std::exchange(added, true)) {
            must_be(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
        }
        const int ready = ::epoll_wait(epoll.get(), &event, 1, kTimeoutMs);
        must_be(ready >= 0, "epoll_wait was disturbed");
        return ready == 1 && event.data.fd == fd;
    });
}

void with_io_uring(const std::string& address, Stage& stage) {
    io_uring ring{};
    const int made = ::io_uring_queue_init(4, &ring, 0);
    if (made == -EPERM || made == -ENOSYS) {
        return;  // refused, or not there
    }
    must_be(made == 0, "io_uring_queue_init");
    one_by_one(address, stage, [&](int fd) {
        ::io_uring_prep_poll_add(::io_uring_get_sqe(&ring), fd, POLLIN);
        io_uring_cqe* done = nullptr;
        __kernel_timespec timeout{kTimeoutMs / 1000, 0};
        must_be(::io_uring_submit(&ring) == 1, "io_uring_submit");
        int waited = -EINTR;
        while (waited == -EINTR) {
            waited = ::io_uring_wait_cqe_timeout(&ring, &done, &timeout);
        }
        if (waited != 0 || (done->res & POLLIN) == 0) {
            return false;
        }
        ::io_uring_cqe_seen(&ring, done);
        return true;
    });
    ::io_uring_queue_exit(&ring);
}

/// The descriptor of a set; receives from its members disarm it, too.
void of_a_set(const std::string& address, Stage& /*stage*/) {
    const Bus bus = connect(address);
    const Bus writers = connect(address);
    ipcbus_set* made = nullptr;
    (void)must(ipcbus_set_create(bus.get(), &made), "set_create");
    const Set set(made);
    std::vector<Subscriber> subscribers;
    std::vector<Publisher> publishers;
    const int fd = static_cast<int>(must(ipcbus_set_fd(set.get()), "set_fd"));
    ipcbus_subscriber* ready = nullptr;
    const auto nothing = [&] { return ipcbus_set_wait(set.get(), 0, &ready) == -EAGAIN; };
    const auto is_empty = [&] { return ipcbus_set_wait(set.get(), 0, &ready) == -ENOENT; };
    must_be(readable(fd) && rests(fd, is_empty), "empty");
    for (int i = 0; i < 3; i++) {
        subscribers.push_back(subscribe(bus, "set/" + std::to_string(i)));
        publishers.push_back(advertise(writers, "set/" + std::to_string(i)));
        must_be(ipcbus_set_add(set.get(), subscribers.back().get()) == 0, "add");
        must_be(readable(fd), "what is added may have something");
        must_be(quiet(fd, nothing), "nothing");
    }
    must_be(ipcbus_fd(subscribers[0].get()) == -EBUSY, "in a set");
    for (int i = 0; i < 300; i++) {
        const auto which = static_cast<std::size_t>(i % 3);
        publish(publishers[which], "x");
        publish(publishers[which], "y");
        must_be(readable(fd, kTimeoutMs), "rung");
        if (i % 2 == 0) {
            must_be(ipcbus_set_wait(set.get(), 0, &ready) == 0, "ready");
            must_be(ready == subscribers[which].get(), "which");
        }
        must_be(received_text(subscribers[which]) == "x" && readable(fd), "one is left");
        must_be(received_text(subscribers[which]) == "y", "the other");
        must_be(quiet(fd, nothing), "drained");
    }
    // Unasked: it is armed, and a member is read; of two messages one is left, for which nobody
    // will ring.
    for (int i = 0; i < 100; i++) {
        publish(publishers[1], "1");
        publish(publishers[1], "2");
        must_be(received_text(subscribers[1]) == "1" && readable(fd), "one is left");
        must_be(received_text(subscribers[1]) == "2", "the other");
        must_be(quiet(fd, nothing), "drained");
    }
    // A loan of one is in the way of all.
    publish(publishers[1], "lent");
    publish(publishers[2], "other");
    ipcbus_message message{};
    must_be(ipcbus_borrow(subscribers[1].get(), kLongNs, &message) == 0, "borrow");
    must_be(rests(fd, [&] { return ipcbus_set_wait(set.get(), 0, &ready) == -EBUSY; }),
            "a loan is open");
    must_be(ipcbus_release(subscribers[1].get()) == 0 && readable(fd), "released");
    must_be(received_text(subscribers[2]) == "other" && quiet(fd, nothing), "drained");
    const Subscriber alone = subscribe(bus, "alone");
    (void)fd_of(alone);
    must_be(ipcbus_set_add(set.get(), alone.get()) == -EBUSY, "it has its own");
    subscribers.pop_back();
    must_be(readable(fd), "changed");
    must_be(quiet(fd, nothing), "armed");
    publish(publishers[0], "0");
    must_be(readable(fd, kTimeoutMs), "the others go on");
    must_be(ipcbus_set_wait(set.get(), 0, &ready) == 0 && ready == subscribers[0].get(), "which");
    subscribers.clear();
    must_be(readable(fd) && rests(fd, is_empty), "empty again");
}

/// Subscribers that go, and one that changes threads, disturb no wait in other descriptors.
void undisturbed(const std::string& address, Stage& /*stage*/) {
    const Bus bus = connect(address);
    const sys::UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    const auto wait = [&] {
        epoll_event event{};
        must_be(::epoll_wait(epoll.get(), &event, 1, 30) == 0, "epoll_wait was disturbed");
    };
    const Subscriber passed = subscribe(bus, "passed");
    for (int i = 0; i < 10; i++) {
        {
            const Subscriber gone = subscribe(bus, "gone");
            must_be(quiet(gone), "armed");
        }
        wait();
        must_be(quiet(passed), "armed here");
        std::thread([&] { must_be(quiet(passed), "armed there"); }).join();
        wait();
    }
}

/// Made in one thread, armed in others, which end.
void threads(const std::string& address, Stage& /*stage*/) {
    const Bus bus = connect(address);
    const Bus writers = connect(address);
    const Subscriber subscriber = subscribe(bus, "threads");
    const Publisher publisher = advertise(writers, "threads");
    const int fd = fd_of(subscriber);
    for (int i = 0; i < 20; i++) {
        std::thread([&] { must_be(drain(subscriber) == 0, "nothing"); }).join();
        publish(publisher, "x");
        must_be(readable(fd, kTimeoutMs), "rung, though who armed it has ended");
        std::thread([&] { must_be(drain(subscriber) == 1, "one"); }).join();
        must_be(drain(subscriber) == 0, "nothing");
        publish(publisher, "y");
        must_be(readable(fd, kTimeoutMs) && drain(subscriber) == 1, "by this thread");
    }
}

/// A forked child has no part in it.
void forked(const std::string& address, Stage& /*stage*/) {
    const Bus bus = connect(address);
    const Bus writers = connect(address);
    const Subscriber subscriber = subscribe(bus, "fork");
    const Publisher publisher = advertise(writers, "fork");
    const int fd = fd_of(subscriber);
    must_be(drain(subscriber) == 0, "armed");
    ChildProcess child = ChildProcess::fork([&] {
        must_be(::fcntl(fd, F_GETFD) < 0 && errno == EBADF, "closed in the child");
        must_be(ipcbus_fd(subscriber.get()) == -ECHILD, "no handle of the child's");
        ipcbus_unsubscribe(const_cast<Subscriber&>(subscriber).release());
        return 0;
    });
    must_be(child.wait() == 0, "the child");
    must_be(quiet(subscriber), "still there");
    publish(publisher, "x");
    must_be(readable(fd, kTimeoutMs) && drain(subscriber) == 1, "and rung");
}

/// Another daemon: armed with its pages from the next -EAGAIN on.
void restarted(const std::string& address, Stage& stage) {
    const Bus bus = connect(address);
    const Subscriber subscriber = subscribe(bus, "again");
    const int fd = fd_of(subscriber);
    must_be(drain(subscriber) == 0, "armed");
    stage.ask();
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    while (ipcbus_reconnects(bus.get()) == 0) {
        must_be(!deadline.passed() && readable(fd, kTimeoutMs), "it looks around");
        must_be(drain(subscriber) == 0, "nothing");
    }
    const Bus writers = connect(address);
    const Publisher publisher = advertise(writers, "again");
    for (int i = 0; i < 10; i++) {
        publish(publisher, "x");
        int received = 0;
        while (received == 0) {  // the new publication may not be attached yet
            must_be(readable(fd, kTimeoutMs), "rung by the new pages");
            received = drain(subscriber);
        }
        must_be(received == 1 && quiet(subscriber), "armed with them");
    }
}

/// An error that stays keeps it readable.
void closed(const std::string& address, Stage& stage) {
    const Bus bus = connect(address, nullptr, IPCBUS_NO_RECONNECT);
    const Subscriber subscriber = subscribe(bus, "closed");
    const int fd = fd_of(subscriber);
    must_be(quiet(subscriber), "armed");
    stage.ask();
    const sys::Deadline deadline = sys::Deadline::after(kLongNs);
    int result = -EAGAIN;
    while (result == -EAGAIN) {
        must_be(!deadline.passed() && readable(fd, kTimeoutMs), "it looks around");
        result = receive(subscriber, 0).result;
    }
    must_be(result == -ESHUTDOWN && readable(fd), "it stays readable");
}

std::int64_t wakes_in(int fd, const Subscriber& subscriber, std::int64_t ns) {
    std::int64_t wakes = 0;
    const sys::Deadline deadline = sys::Deadline::after(ns);
    while (!deadline.passed()) {
        const auto left_ms = static_cast<int>(deadline.remaining_ns() / kMillisecondNs) + 1;
        if (readable(fd, left_ms)) {
            wakes++;
            must_be(drain(subscriber) == 0, "nothing");
        }
    }
    return wakes;
}

/// The looks around: 16 ms, 64, 256, 1024 ...
void idle(const std::string& address, Stage& /*stage*/) {
    const Bus bus = connect(address);
    const Bus writers = connect(address);
    const Subscriber subscriber = subscribe(bus, "idle");
    const Publisher publisher = advertise(writers, "idle");
    publish(publisher, "x");
    must_be(received_text(subscriber) == "x", "attached");
    const int fd = fd_of(subscriber);
    const std::int64_t wakes = wakes_in(fd, subscriber, kSecondNs);
    must_be(wakes >= 3 && wakes <= 8, "looks around ever more rarely");
}

/// The signal, if it comes within that time.
std::optional<siginfo_t> taken_signal(int number, std::int64_t timeout_ns) {
    sigset_t awaited;
    (void)::sigemptyset(&awaited);
    (void)::sigaddset(&awaited, number);
    timespec left{timeout_ns / kSecondNs, timeout_ns % kSecondNs};
    siginfo_t info{};
    return ::sigtimedwait(&awaited, &info, &left) == number ? std::optional(info) : std::nullopt;
}

/// Waits with signals alone until `count` messages have come.
void receive_by_signals(const Subscriber& subscriber, int number, const void* value, int count) {
    for (int received = 0; received < count; received += drain(subscriber)) {
        const std::optional<siginfo_t> info = taken_signal(number, kLongNs);
        must_be(info.has_value(), "a message was slept through");
        must_be(info->si_code == SI_QUEUE && info->si_value.sival_ptr == value, "what was asked");
        must_be(info->si_pid == ::getpid(), "by this process");
    }
}

/// A real-time signal that this process takes by waiting for it only.
int blocked_signal() {
    const int number = SIGRTMIN + 3;
    sigset_t blocked;
    (void)::sigemptyset(&blocked);
    (void)::sigaddset(&blocked, number);
    must_be(::sigprocmask(SIG_BLOCK, &blocked, nullptr) == 0, "sigprocmask");
    return number;
}

/// As mq_notify: when it goes from empty to not empty.
void signals(const std::string& address, Stage& /*stage*/) {
    const int number = blocked_signal();
    const Bus bus = connect(address);
    const Bus writers = connect(address);
    const Subscriber subscriber = subscribe(bus, "signal");
    const Publisher publisher = advertise(writers, "signal");
    for (const int wrong : {-1, SIGKILL, SIGSTOP, SIGRTMIN - 1, SIGRTMAX + 1}) {
        must_be(ipcbus_notify(subscriber.get(), wrong, nullptr) == -EINVAL, "no such signal");
    }
    int value = 0;
    must_be(ipcbus_notify(subscriber.get(), number, &value) == 0, "notify");
    must_be(!taken_signal(number, 0).has_value(), "none before the first -EAGAIN");
    must_be(drain(subscriber) == 0, "nothing");
    for (int i = 0; i < 100; i++) {
        publish(publisher, "x");
        receive_by_signals(subscriber, number, &value, 1);
    }
    // One signal, until it has been drained.
    publish(publisher, "1");
    must_be(taken_signal(number, kLongNs).has_value(), "not empty");
    publish(publisher, "2");
    must_be(!taken_signal(number, 20 * kMillisecondNs).has_value(), "it was not empty");
    must_be(readable(fd_of(subscriber)) && drain(subscriber) >= 1, "both, beside the descriptor");
    publish(publisher, "3");
    receive_by_signals(subscriber, number, &value, 1);
    // No room for a queued signal: it comes when there is.
    must_be(quiet(subscriber), "armed");
    while (taken_signal(number, 0).has_value()) {
    }
    rlimit limit{};
    must_be(::getrlimit(RLIMIT_SIGPENDING, &limit) == 0, "getrlimit");
    const rlimit none{0, limit.rlim_max};
    must_be(::setrlimit(RLIMIT_SIGPENDING, &none) == 0, "setrlimit");
    publish(publisher, "4");
    must_be(readable(fd_of(subscriber), kTimeoutMs), "the descriptor needs none");
    must_be(!taken_signal(number, 20 * kMillisecondNs).has_value(), "no room");
    must_be(::setrlimit(RLIMIT_SIGPENDING, &limit) == 0, "setrlimit");
    receive_by_signals(subscriber, number, &value, 1);
    // And no more.
    must_be(ipcbus_notify(subscriber.get(), 0, nullptr) == 0, "no more");
    must_be(quiet(subscriber), "armed");
    while (taken_signal(number, 0).has_value()) {
    }
    publish(publisher, "5");
    must_be(readable(fd_of(subscriber), kTimeoutMs), "the descriptor goes on");
    must_be(!taken_signal(number, 20 * kMillisecondNs).has_value(), "no signal");
}

/// In a loop that receives from all of them at each signal, as one number for several subscribers
/// asks for. The number of signals in so long.
int signals_within(std::int64_t ns, int number, std::span<const Subscriber* const> subscribers) {
    int count = 0;
    const sys::Deadline deadline = sys::Deadline::after(ns);
    while (!deadline.passed() && taken_signal(number, deadline.remaining_ns()).has_value()) {
        count++;
        for (const Subscriber* subscriber : subscribers) {
            must_be(drain(*subscriber) == 0, "nothing was published");
        }
    }
    return count;
}

/// A receive of one's own accord is no news, and no reason for a signal.
void needless_signals(const std::string& address, Stage& /*stage*/) {
    const int number = blocked_signal();
    const Bus bus = connect(address);
    const Subscriber one = subscribe(bus, "one");
    const Subscriber other = subscribe(bus, "other");
    const std::array<const Subscriber*, 2> both{&one, &other};
    // A look around after 16 ms, one after 64 and so on; and so again whenever a daemon has said
    // something.
    constexpr int kFew = 40;
    must_be(ipcbus_notify(one.get(), number, nullptr) == 0, "notify");
    for (int i = 0; i < 3; i++) {
        must_be(drain(one) == 0, "of its own accord");
    }
    must_be(signals_within(300 * kMillisecondNs, number, std::span(both).first(1)) < kFew,
            "one subscriber signals itself");
    must_be(ipcbus_notify(other.get(), number, nullptr) == 0, "notify");
    must_be(drain(one) == 0 && drain(other) == 0, "nothing");
    must_be(signals_within(300 * kMillisecondNs, number, both) < kFew,
            "two subscribers signal each other");
    // While it is armed, a hundred receives: not one signal each.
    int count = 0;
    for (int i = 0; i < 100; i++) {
        must_be(drain(one) == 0 && drain(other) == 0, "of its own accord");
        while (taken_signal(number, 0).has_value()) {
            count++;
        }
    }
    must_be(count < kFew, "a receive that finds nothing signals");
}

}  // namespace

TEST_CASE("readable while there is something, and not when a receive found nothing") {
    in_both_ways(level);
}
TEST_CASE("a loss is reported") { in_both_ways(losses); }
TEST_CASE("poll") { in_both_ways(with_poll); }
TEST_CASE("epoll, which no completion disturbs") { in_both_ways(with_epoll); }
TEST_CASE("io_uring") { in_both_ways(with_io_uring); }
TEST_CASE("of a set") { in_both_ways(of_a_set); }
TEST_CASE("what goes, or changes threads, disturbs nobody's epoll_wait") {
    in_both_ways(undisturbed);
}
TEST_CASE("armed by threads that end") { in_both_ways(threads); }
TEST_CASE("a forked child has no part in it") { in_both_ways(forked); }
TEST_CASE("it goes on under another daemon") {
    ChildProcess other;
    in_both_ways(restarted, [&](DaemonFixture& daemon) {
        CHECK(daemon.stop() == 0);
        other = ChildProcess::run({daemon_program(), "--listen", daemon.address()});
        CHECK(other.wait_for_output("listening on") != std::string::npos);
    });
}
TEST_CASE("an error that stays keeps it readable") {
    in_both_ways(closed, [](DaemonFixture& daemon) { CHECK(daemon.stop() == 0); });
}
TEST_CASE("a queued signal when it goes from empty to not empty") { in_both_ways(signals); }
TEST_CASE("no signal for a receive that nothing has caused") { in_both_ways(needless_signals); }
TEST_CASE("idle it looks around, ever more rarely") { in_both_ways(idle); }
