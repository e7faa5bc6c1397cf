// SPDX-License-Identifier: Apache-2.0
// Session, bus and everything behind them, in this process: two clients, of one uid or two, do what
// the input says (frames in any order with true, foreign and invented ids; bytes; lies in the
// memory they were given; reading or not; hanging up, dying, resuming), beside one that behaves.
// What must hold: the one that behaves is served and told nothing but the truth all the time; when
// the others have gone, everything they had is given back, for their uid can have the whole of its
// limits; when the bus has gone, no descriptor and no mapping is left.
// Input: a byte of how it ends, then operations.
#include "bystander.hpp"
#include "hostile_client.hpp"

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>

using namespace ipcbus;
using namespace ipcbus::fuzz;

namespace {

constexpr uid_t kBystanderUid = 2000;

// What one uid may have: just what the last check takes.
constexpr unsigned kClients = 3;
constexpr unsigned kPublications = 4;
constexpr unsigned kSubscriptions = 5;
constexpr unsigned kDescriptors = kClients * 4 + kPublications + 1;
constexpr u64 kRingBytes = 512 * 1024;

daemon::Config make_config() {
    daemon::Config config;
    config.publications.ring_bytes = 8192;
    config.publications.ring_bytes_max = u64{2} << 20;
    config.publications.stall_timeout_ns = 1'000'000;
    config.limits.per_uid = {.clients = kClients,
                             .publications = kPublications,
                             .subscriptions = kSubscriptions,
                             .descriptors = kDescriptors,
                             .ring_bytes = kRingBytes};
    // So many uids that all can have their share.
    config.limits.total = {.clients = 4 * kClients,
                           .publications = 4 * kPublications,
                           .subscriptions = 4 * kSubscriptions,
                           .descriptors = 4 * kDescriptors,
                           .ring_bytes = 4 * kRingBytes};
    config.limits.attachments_per_client = kSubscriptions * kPublications;
    config.limits.waiters_per_client = 3;
    config.limits.unread_reply_bytes = 4096;
    return config;
}

class Run {
public:
    explicit Run(Input& input) : input_(input), how_(input.byte()) {
        auto bus = daemon::Bus::create(event_loop(), make_config());
        FUZZ_CHECK(bus.ok());
        bus_ = std::move(bus).value();
        bystander_.emplace(*bus_, kBystanderUid);
        FUZZ_CHECK(bystander_->subscribe("#"));
        FUZZ_CHECK(bystander_->advertise("by/stander", 4096));
        known_.ids[Known::client].push_back(bystander_->client());
    }

    void act() {
        std::vector<std::unique_ptr<Hostile>> hostile;
        while (!input_.empty()) {
            const std::uint8_t which = input_.byte();
            if (hostile.size() < 2 || (which & 0x3f) == 0x3f) {
                if (hostile.size() < 5) {
                    hostile.push_back(std::make_unique<Hostile>(*bus_, input_, known_));
                }
            }
            if ((which & 0x3e) == 0x3c) {
                pass_time(which);
            }
            hostile[which % hostile.size()]->step();
            if ((which & 0x40) != 0) {
                turns(3);
                bystander_->listen();
                if ((which & 0x80) != 0) {
                    hostile[which % hostile.size()]->listen();
                }
            }
        }
        turns(3);
        if ((how_ & 0x80) != 0) {  // it gets what it is due before it goes
            std::for_each(hostile.begin(), hostile.end(), [](auto& one) { one->listen(); });
        }
        for (const auto& one : hostile) {
            one->leave();
        }
    }

    /// Everybody but the bystander has left.
    void check() {
        bus_->set_config(make_config());
        turns(4);
        FUZZ_CHECK(bystander_->advertise("by/stander/2", 0));
        FUZZ_CHECK(bystander_->subscribe("by/+"));
        if ((how_ & 7) == 0) {
            // Where descriptors were left unread, the daemon looks again after 50 ms.
            turn_until([&] {
                bystander_->listen();
                return bus_->connection_count() == 1 && bystander_->attachment_count() == 3;
            });
            check_limits();
        }
    }

    void end() {
        if ((how_ & 8) != 0) {
            bool empty = false;
            bus_->stop([&empty] { empty = true; });
            turns(2);
            bystander_.reset();
            turn_until([&] { return empty; });
        }
        bystander_.reset();
        bus_->close();
        FUZZ_CHECK(event_loop().run_until_idle().ok());
        bus_.reset();  // the quota asserts there that nothing is charged to it
    }

private:
    void pass_time(std::uint8_t which) {
        if ((which & 1) != 0) {
            daemon::Config config = make_config();
            config.limits.per_uid.publications = 1;
            config.limits.per_uid.ring_bytes = 65536;
            bus_->set_config(config);
        } else {
            daemon::OperationScope scope(event_loop());
            bool over = false;
            daemon::Timer timer(scope, [&over] { over = true; });
            timer.start(1'500'000);  // above stall_timeout
            turn_until([&over] { return over; });
        }
    }

    /// One uid takes all that one may have: so nothing is charged to it yet.
    void check_limits() {
        std::vector<std::unique_ptr<Bystander>> all;
        for (unsigned i = 0; i + 1 < kClients; i++) {
            all.push_back(std::make_unique<Bystander>(*bus_, kHostileUid));
        }
        const u64 each = kRingBytes / kPublications / 2;
        for (unsigned i = 0; i < kPublications; i++) {
            FUZZ_CHECK(all[0]->advertise("x/" + std::to_string(i), each));
        }
        FUZZ_CHECK(!all[0]->advertise("x/more", 4096));
        for (unsigned i = 0; i < kSubscriptions; i++) {
            FUZZ_CHECK(all[1]->subscribe("x/#"));
        }
        FUZZ_CHECK(!all[1]->subscribe("x/#"));
        all.push_back(std::make_unique<Bystander>(*bus_, kHostileUid));
        // And the bystander all slots but one.
        for (unsigned i = 2; i < kSubscriptions; i++) {
            FUZZ_CHECK(bystander_->subscribe("x/#"));
        }
        constexpr unsigned kMore = (kSubscriptions - 1) * kPublications;
        turn_until([&] {
            bystander_->listen();
            all[0]->listen();
            all[1]->listen();
            return all[1]->attachment_count() == kSubscriptions * kPublications &&
                   all[0]->member_count() == kSubscriptions * kPublications + kMore &&
                   bystander_->attachment_count() == 3 + kMore;
        });
        all.clear();
        turn_until([&] {
            bystander_->listen();
            return bus_->connection_count() == 1 && bystander_->attachment_count() == 3;
        });
    }

    Input& input_;
    std::uint8_t how_;
    std::unique_ptr<daemon::Bus> bus_;
    std::optional<Bystander> bystander_;
    Known known_;
};

unsigned open_descriptors() {
    unsigned count = 0;
    for (int fd = 0; fd < 128; fd++) {
        count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    }
    return count;
}

unsigned mapped_memfds() {
    std::ifstream maps("/proc/self/maps");
    unsigned count = 0;
    for (std::string line; std::getline(maps, line);) {
        count += line.find("/memfd:ipcbus-") != std::string::npos ? 1 : 0;
    }
    return count;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    (void)event_loop();
    const unsigned before = open_descriptors();
    Input input(data, size);
    {
        Run run(input);
        run.act();
        run.check();
        run.end();
    }
    FUZZ_CHECK(open_descriptors() == before);
    FUZZ_CHECK(size % 8 != 0 || mapped_memfds() == 0);
    return 0;
}
