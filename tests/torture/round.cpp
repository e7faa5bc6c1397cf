// SPDX-License-Identifier: Apache-2.0
// See round.hpp.
#include "round.hpp"

#include "publishing.hpp"
#include "reading.hpp"

#include <signal.h>

#include <algorithm>
#include <memory>
#include <thread>

namespace ipcbus::torture {

using test::ChildProcess;
using test::kMillisecondNs;

namespace {

/// Of a reader that nobody stops for long: never reached. An hour is the most.
const std::int64_t kPatientStallMs = std::min(3'600'000, 30'000 * test::patience());
const int kEndMs = 60'000 * test::patience();

}  // namespace

struct Round::Cast {
    std::string name;
    bool victim = false;
    std::uint32_t publishers = 0;
    std::uint32_t readers = 0;
    bool steady = false;
};

Round::Round(test::DaemonFixture& daemon, std::uint64_t seed, bool calm, bool verbose)
    : daemon_(daemon), dice_(seed), calm_(calm) {
    scene_->verbose = verbose;
    scene_->patient = calm || !dice_.one_in(3);
    stall_ms_ =
        scene_->patient ? kPatientStallMs : static_cast<std::int64_t>(dice_.pick({50, 150, 400}));
}

// ------------------------------------------------------------------------------ in a client

/// Each role has a thread; all share one connection.
int Round::perform(const Cast& cast, std::uint64_t seed) {
    Scene& scene = *scene_;
    const test::Bus bus = test::connect(daemon_.address(), cast.name.c_str());
    std::vector<std::unique_ptr<ReaderRole>> readers;
    for (std::uint32_t i = 0; i < cast.readers; i++) {
        seed = test::mixed(seed + 1);
        readers.push_back(std::make_unique<ReaderRole>(bus, scene, seed, cast.steady));
        readers.back()->begin();
    }
    if (!cast.victim) {
        scene.publishers += cast.publishers;
    }
    scene.started.raise();
    std::vector<std::thread> threads;
    for (const auto& reader : readers) {
        threads.emplace_back([&reader] { reader->play(); });
    }
    for (std::uint32_t i = 0; i < cast.publishers; i++) {
        seed = test::mixed(seed + 1);
        threads.emplace_back([&, seed] {
            PublisherRole(bus, scene, seed, cast.readers == 0).play();
            if (!cast.victim) {
                scene.publishing.raise();
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    return 0;
}

// ---------------------------------------------------------------------------- the conductor

Round::Client Round::start(const Cast& cast) {
    const std::uint64_t seed = dice_.any();
    started_++;
    return {ChildProcess::fork([&] { return perform(cast, seed); }), cast.name};
}

Round::Cast Round::draw_victim() {
    Cast cast{"victim"};
    cast.victim = true;
    cast.publishers = static_cast<std::uint32_t>(dice_.below(3));
    cast.readers = static_cast<std::uint32_t>(dice_.below(3));
    cast.publishers += cast.publishers + cast.readers == 0 ? 1 : 0;
    return cast;
}

void Round::begin() {
    Cast steady{"steady reader"};
    steady.readers = 1;
    steady.steady = true;
    Cast publisher{"publisher"};
    publisher.publishers = 1 + static_cast<std::uint32_t>(dice_.below(2));
    Cast reader{"reader"};
    reader.readers = 1 + static_cast<std::uint32_t>(dice_.below(2));
    Cast both{"publisher and reader"};
    both.publishers = 1;
    both.readers = 1;
    living_.push_back(start(steady));
    living_.push_back(start(publisher));
    living_.push_back(start(reader));
    if (dice_.one_in(2)) {
        living_.push_back(start(both));
    }
    REQUIRE(scene_->started.wait(started_));
    for (std::uint64_t i = calm_ ? 0 : 1 + dice_.below(3); i != 0; i--) {
        victims_.push_back(start(draw_victim()));
    }
}

/// For a while of chance; until the round is over at the most.
void Round::pause(std::uint64_t most_ms) {
    (void)scene_->over.wait(1, 1 + static_cast<int>(dice_.below(most_ms)));
}

void Round::stop_some() {
    std::vector<Client*> stopped;
    for (Client& client : living_) {
        if (dice_.one_in(2)) {
            stopped.push_back(&client);
        }
    }
    for (const Client* client : stopped) {
        client->process.signal(SIGSTOP);
        stops_++;
        pause(3);
    }
    // Patient readers hold their publishers; others are passed by.
    pause(scene_->patient ? 40 : static_cast<std::uint64_t>(2 * stall_ms_));
    for (const Client* client : stopped) {
        client->process.signal(SIGCONT);
    }
}

void Round::stop_daemon() {
    daemon_.process().signal(SIGSTOP);
    stops_++;
    pause(150);
    daemon_.process().signal(SIGCONT);
}

std::string Round::kill(Client& victim, bool replaced) {
    if (!victim.process.running()) {
        const std::optional<int> status = victim.process.wait(0);
        if (status != 0) {
            return "a victim has ended by itself: " + std::to_string(status.value_or(-1));
        }
    } else {
        victim.process.signal(SIGKILL);
        const std::optional<int> status = victim.process.wait();
        if (status != 128 + SIGKILL && status != 0) {
            return "a victim has failed: " + std::to_string(status.value_or(-1));
        }
        kills_++;
    }
    if (replaced) {
        victim = start(draw_victim());
    }
    return {};
}

std::string Round::look_at_living() {
    for (Client& client : living_) {
        if (!client.process.running()) {
            return "the " + client.name +
                   " has ended: " + std::to_string(client.process.wait(0).value_or(-1));
        }
    }
    return daemon_.process().running() ? "" : "the daemon has ended";
}

std::string Round::disturb() {
    pause(15);
    std::string fault;
    switch (dice_.below(8)) {
    case 0:
    case 1:
    case 2:
    case 3:
        if (!victims_.empty() && scene_->senders < kSendersMax / 2) {
            fault = kill(victims_[dice_.below(victims_.size())], true);
        }
        break;
    case 4:
        stop_daemon();
        break;
    case 5:
    case 6:
        stop_some();
        break;
    default:
        pause(50);
        break;
    }
    return fault.empty() ? look_at_living() : fault;
}

std::string Round::end() {
    std::string fault;
    const bool kill_first = dice_.one_in(2);
    for (std::size_t i = 0; kill_first && i < victims_.size() && fault.empty(); i++) {
        fault = kill(victims_[i], false);
    }
    scene_->over.raise();
    if (!scene_->publishing.wait(scene_->publishers, kEndMs)) {
        return "publishers hang";
    }
    for (std::size_t i = 0; !kill_first && i < victims_.size() && fault.empty(); i++) {
        fault = kill(victims_[i], false);
    }
    scene_->ended.raise();
    for (Client& client : living_) {
        const std::optional<int> status = client.process.wait(kEndMs);
        if (status != 0) {
            fault += fault.empty() ? "" : "; ";
            fault += "the " + client.name + " (" + std::to_string(client.process.pid()) +
                     (status ? ") has failed: " + std::to_string(*status) : ") hangs");
        }
    }
    return fault;
}

std::string Round::play() {
    daemon_.write_config("[publications]\nrings_ready = 0\nstall_timeout = \"" +
                         std::to_string(stall_ms_) + "ms\"\n");
    (void)daemon_.reload();
    begin();
    const sys::Deadline deadline =
        sys::Deadline::after(static_cast<std::int64_t>(300 + dice_.below(1200)) * kMillisecondNs);
    std::string fault = look_at_living();
    while (fault.empty() && !deadline.passed()) {
        fault = disturb();
    }
    const std::string at_end = end();
    return fault.empty() ? at_end : fault;
}

}  // namespace ipcbus::torture
