// SPDX-License-Identifier: Apache-2.0
// ipcbus-bench control: what it costs to set a large bus up. A few processes share all clients;
// clients share publications and subscriptions in turn. The publications form groups of --matches
// topics, and each subscription is the wildcard for one group. Phase by phase, all processes at
// once: connect, advertise, subscribe; attach, which lasts until every subscription has all that it
// matches; then every publication publishes one message and every subscription receives one from
// each that it matches, checked; then all is closed.
#include "bench/machine.hpp"
#include "bench/modes.hpp"
#include "cli.hpp"
#include "protocol/limits.hpp"
#include "sys/clock.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace ipcbus::bench {

namespace {

constexpr std::size_t kPhases = 6;
constexpr std::array<std::string_view, kPhases> kNames = {"connect", "advertise", "subscribe",
                                                          "attach",  "message",   "close"};
constexpr std::size_t kSetUpPhases = 4;
constexpr std::int64_t kPhasePatienceNs = 300'000'000'000;
constexpr std::int64_t kAttachNs = 60'000'000'000;
constexpr std::size_t kBytes = 32;  // of a message
constexpr std::uint64_t kRingBytes = 64 << 10;

struct ControlPage {
    Meeting between;
    std::array<std::int64_t, kPhases + 1> at_ns{};
    std::array<std::int64_t, kPhases + 1> daemon_cpu_ns{};
    Usage usage;  // of the daemon, with everything set up
    std::uint64_t ring_bytes = 0;
    alignas(128) std::atomic<std::uint64_t> checked{0};
};

/// What belongs to whom. All processes compute the same.
struct Plan {
    const BenchOptions& options;
    std::string topic;

    [[nodiscard]] std::uint32_t groups() const {
        return options.matches == 0 ? 0 : options.publications / options.matches;
    }
    [[nodiscard]] std::string topic_of(std::uint32_t publication) const {
        const std::uint32_t in_group = std::max<std::uint32_t>(options.matches, 1);
        return group_topic(publication / in_group) + std::to_string(publication % in_group);
    }
    [[nodiscard]] std::string filter_of(std::uint32_t subscription) const {
        if (options.matches == 0) {
            return topic + "/none/" + std::to_string(subscription) + "/+";
        }
        return group_topic(group_of(subscription)) + "+";
    }
    [[nodiscard]] std::uint32_t group_of(std::uint32_t subscription) const {
        return subscription % groups();
    }

private:
    [[nodiscard]] std::string group_topic(std::uint32_t group) const {
        return topic + "/" + std::to_string(group) + "/";
    }
};

void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)::setrlimit(RLIMIT_NOFILE, &limit);  // if it is too low, a call will say so
    }
}

/// One process with its share of everything.
class Share {
public:
    Share(const Member& member, const Run& run, ControlPage& page)
        : member_(member), run_(run), page_(page), plan_{run.options, run.topic} {}

    void do_all() {
        raise_descriptor_limit();
        meet(0);
        connect_clients();
        meet(1);
        advertise_all();
        meet(2);
        subscribe_all();
        meet(3);
        attach_all();
        meet(4);
        publish_all();
        receive_all();
        meet(5);
        clients_.clear();
        meet(6);
    }

private:
    struct Client {
        std::uint32_t number = 0;
        tools::BusPtr bus;
    };
    struct Publication {
        std::uint32_t number = 0;
        ipcbus_publisher* handle = nullptr;  // of its client
    };
    struct Subscription {
        std::uint32_t number = 0;
        ipcbus_subscriber* handle = nullptr;  // of its client
    };

    /// All processes are here: phase `phase` - 1 is over. The first one takes the time.
    void meet(std::size_t phase) {
        member_.meet(page_.between, run_.options.processes, kPhasePatienceNs);
        if (member_.number() == 0) {
            page_.at_ns[phase] = sys::monotonic_ns();
            const Usage usage = usage_of(run_.daemon);
            page_.daemon_cpu_ns[phase] = usage.cpu_ns;
            if (phase == kSetUpPhases) {
                page_.usage = usage;
            }
        }
    }

    void connect_clients() {
        for (std::uint32_t i = member_.number(); i < run_.options.clients;
             i += run_.options.processes) {
            clients_.push_back(Client{i, connect(member_, run_)});
        }
    }

    void advertise_all() {
        ipcbus_publisher_options options = IPCBUS_INIT(options);
        options.ring_bytes = run_.options.ring_bytes != 0 ? run_.options.ring_bytes : kRingBytes;
        for (const Client& client : clients_) {
            for (std::uint32_t i = client.number; i < run_.options.publications;
                 i += run_.options.clients) {
                Publication made{i, nullptr};
                if (const int result = ipcbus_advertise(client.bus.get(), plan_.topic_of(i).c_str(),
                                                        &options, &made.handle);
                    result != 0) {
                    member_.fail_library("make publication " + std::to_string(i), result);
                }
                publications_.push_back(made);
            }
        }
        if (member_.number() == 0 && !publications_.empty()) {
            page_.ring_bytes = ipcbus_ring_bytes(publications_[0].handle);
        }
    }

    void subscribe_all() {
        for (const Client& client : clients_) {
            for (std::uint32_t i = client.number; i < run_.options.subscriptions;
                 i += run_.options.clients) {
                Subscription made{i, nullptr};
                if (const int result = ipcbus_subscribe(
                        client.bus.get(), plan_.filter_of(i).c_str(), nullptr, &made.handle);
                    result != 0) {
                    member_.fail_library("make subscription " + std::to_string(i), result);
                }
                subscriptions_.push_back(made);
            }
        }
    }

    /// A client hears of others only in its calls, and memory that is handed to it waits in its
    /// socket until then, of which the system allows a user only so much. So each is made to
    /// listen, in turn, until all subscriptions have what they match. There is no one thing to wait
    /// for: each of thousands of clients has a connection of its own.
    void attach_all() {
        constexpr ::useconds_t kPauseUs = 200;
        const sys::Deadline deadline = sys::Deadline::after(kAttachNs);
        while (true) {
            for (const Client& client : clients_) {
                (void)ipcbus_state(client.bus.get());
            }
            std::size_t complete = 0;
            for (const Subscription& subscription : subscriptions_) {
                const std::uint32_t count = ipcbus_publication_count(subscription.handle);
                if (count > run_.options.matches) {
                    member_.fail(tools::kExitFailed, name_of(subscription) + " has " +
                                                         std::to_string(count) +
                                                         " publications, more than it matches");
                }
                complete += count == run_.options.matches ? 1 : 0;
            }
            if (complete == subscriptions_.size()) {
                return;
            }
            if (deadline.passed()) {
                member_.fail(tools::kExitTimedOut,
                             std::to_string(subscriptions_.size() - complete) +
                                 " subscriptions did not get all publications that they match");
            }
            (void)::usleep(kPauseUs);
        }
    }

    static std::string name_of(const Subscription& subscription) {
        return "subscription " + std::to_string(subscription.number);
    }

    void publish_all() {
        std::byte message[kBytes];
        for (const Publication& publication : publications_) {
            fill(message, kBytes, publication.number, run_.salt);
            if (const int result = ipcbus_publish(publication.handle, message, kBytes);
                result != 0) {
                member_.fail_library("publish", result);
            }
        }
    }

    /// From every publication of its group each subscription gets one message, and that one.
    void receive_all() {
        std::vector<bool> came;
        std::uint64_t checked = 0;
        for (const Subscription& subscription : subscriptions_) {
            came.assign(run_.options.matches, false);
            for (std::uint32_t i = 0; i < run_.options.matches; ++i) {
                receive_one(subscription, came);
            }
            checked += run_.options.matches;
        }
        // relaxed: the parent reads it when this process has ended
        page_.checked.fetch_add(checked, std::memory_order_relaxed);
    }

    void receive_one(const Subscription& subscription, std::vector<bool>& came) {
        const std::string who = name_of(subscription);
        std::byte bytes[kBytes];
        ipcbus_message message{};
        const int result =
            ipcbus_receive(subscription.handle, bytes, kBytes, kPatienceNs, &message);
        if (result == -ETIMEDOUT) {
            member_.fail(tools::kExitTimedOut, who + " got fewer messages than it matches");
        }
        if (result == -ESTALE) {
            member_.fail(tools::kExitLost, who + " lost " + tools::plural(message.lost, "message"));
        }
        if (result != 0) {
            member_.fail_library("receive", result);
        }
        std::uint64_t number = 0;
        std::memcpy(&number, bytes, kWord);
        const std::uint32_t matches = run_.options.matches;
        if (message.size != kBytes || number >= run_.options.publications ||
            !check(bytes, kBytes, number, run_.salt) ||
            number / matches != plan_.group_of(subscription.number) || came[number % matches] ||
            plan_.topic_of(static_cast<std::uint32_t>(number)) != message.topic) {
            member_.fail(tools::kExitFailed, who + " got a message that is corrupt or not for it");
        }
        came[number % matches] = true;
    }

    const Member& member_;
    const Run& run_;
    ControlPage& page_;
    const Plan plan_;
    std::vector<Client> clients_;
    std::vector<Publication> publications_;
    std::vector<Subscription> subscriptions_;
};

}  // namespace

int run_control(const Run& run, ControlResult& ret_result) {
    const Shared<ControlPage> page;
    const BenchOptions& options = run.options;
    Team team;
    for (unsigned i = 0; i < options.processes; ++i) {
        team.add("bench-clients-" + std::to_string(i),
                 options.pin.empty() ? -1 : options.pin[i % options.pin.size()],
                 [&](const Member& member) { Share(member, run, *page).do_all(); });
    }
    if (const int code = team.run(kTool); code != tools::kExitDone) {
        return code;
    }
    ret_result.attachments = std::uint64_t{options.subscriptions} * options.matches;
    const std::array<std::uint64_t, kPhases> operations = {
        options.clients,        options.publications,   options.subscriptions,
        ret_result.attachments, ret_result.attachments, options.clients};
    for (std::size_t i = 0; i < kPhases; ++i) {
        const auto cpu_ns =
            static_cast<double>(page->daemon_cpu_ns[i + 1] - page->daemon_cpu_ns[i]);
        ret_result.phases.push_back(ControlResult::Phase{
            kNames[i], operations[i], static_cast<double>(page->at_ns[i + 1] - page->at_ns[i]),
            page->usage.is_known ? cpu_ns : -1});
    }
    ret_result.set_up_ns = static_cast<double>(page->at_ns[kSetUpPhases] - page->at_ns[0]);
    ret_result.checked = page->checked.load(std::memory_order_relaxed);
    ret_result.daemon_known = page->usage.is_known;
    ret_result.daemon_rss_bytes = page->usage.rss_bytes;
    ret_result.daemon_shared_bytes = page->usage.shared_bytes;
    ret_result.ring_bytes = page->ring_bytes;
    return tools::kExitDone;
}

}  // namespace ipcbus::bench
