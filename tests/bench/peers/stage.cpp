// SPDX-License-Identifier: Apache-2.0
// Starting peers, opening them on both sides, and running slices; see stage.hpp.
#include "peers/stage.hpp"

#include "bench/clock.hpp"
#include "peers/ipcbus_tasks.hpp"
#include "peers/message.hpp"
#include "sys/clock.hpp"

#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace ipcbus::bench {
namespace {

constexpr unsigned kHangSeconds = 30;
constexpr unsigned kSettled = 4;
constexpr unsigned kTriesMax = 16;
constexpr std::uint64_t kCountMax = std::uint64_t{1} << 26;

// What runs, for the handler of SIGALRM. Written by A's one thread.
const Task* running = nullptr;

void hangs(int) {
    const char* parts[] = {"compare_run: hangs: ", running != nullptr ? running->peer.c_str() : "",
                           ", ", running != nullptr ? running->workload.c_str() : "opening", "\n"};
    for (const char* part : parts) {
        (void)!::write(STDERR_FILENO, part, std::strlen(part));
    }
    ::_exit(1);
}

/// "stream" asks for all that begins with "stream-".
bool asked_for(const std::vector<std::string>& names, const std::string& name) {
    return names.empty() || std::any_of(names.begin(), names.end(), [&](const std::string& of) {
               return name == of || name.compare(0, of.size() + 1, of + "-") == 0;
           });
}

std::string folder_name(const std::string& peer) {
    std::string result;
    for (const char c : peer) {
        result += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
    }
    return result;
}

}  // namespace

Stage::Stage(StageOptions options) : options_(std::move(options)) {}

void Stage::build() {
    (void)measure::TickClock::get();  // calibrated once, before any fork
    control_ = Control::make();
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGALRM, hangs);
    start_peers();
    paces_.resize(tasks_.size());
    for (const auto& task : tasks_) {
        readers_ = std::max(readers_, task->readers);
    }
}

Tasks Stage::tasks_of(Peer& peer) const {
    Tasks tasks;
    add_peer_tasks(peer, tasks);
    add_ipcbus_tasks(peer, tasks);
    std::erase_if(tasks,
                  [&](const auto& task) { return !asked_for(options_.workloads, task->workload); });
    return tasks;
}

void Stage::start_peers() {
    Tasks all;
    for (auto& peer : make_all_peers()) {
        const Traits& traits = peer->traits();
        if (!traits.limit && !asked_for(options_.peers, traits.name)) {
            continue;
        }
        if (tasks_of(*peer).empty()) {
            continue;
        }
        Setup setup;
        setup.directory = options_.directory + "/" + folder_name(traits.name);
        setup.build_directory = options_.build_directory;
        (void)::mkdir(setup.directory.c_str(), 0700);
        const std::string why = peer->start(setup);
        if (!why.empty()) {
            left_out_.push_back({traits.name, why});
            continue;
        }
        Tasks tasks = tasks_of(*peer);  // start() may have found limits of this system
        peers_.push_back(std::move(peer));
        std::move(tasks.begin(), tasks.end(), std::back_inserter(all));
    }
    // Workload by workload: what is compared runs one after the other.
    std::vector<std::string> order;
    for (const auto& task : all) {
        if (std::find(order.begin(), order.end(), task->workload) == order.end()) {
            order.push_back(task->workload);
        }
    }
    for (const std::string& workload : order) {
        for (auto& task : all) {
            if (task != nullptr && task->workload == workload) {
                tasks_.push_back(std::move(task));
            }
        }
    }
}

void Stage::pin(int reader, bool pinned) {
    if (pinned == pinned_) {
        return;
    }
    pinned_ = pinned;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (pinned) {
        CPU_SET(reader < 0 ? options_.cpu_a : options_.cpu_b, &cpus);
    } else {
        CPU_SET(options_.cpu_a, &cpus);
        CPU_SET(options_.cpu_b, &cpus);
    }
    if (::sched_setaffinity(0, sizeof cpus, &cpus) != 0) {
        fail("pinning", std::strerror(errno));
    }
}

void Stage::follow_as(int reader) {
    follow(*control_, reader, [&](const Order& order) { obey(order, reader); });
}

void Stage::obey(const Order& order, int reader) {
    if (order.kind == Order::Kind::open_peer) {
        pin(reader, peers_[order.index]->traits().pin_threads);
        peers_[order.index]->open(Side::b);
        return;
    }
    if (order.kind == Order::Kind::bracket) {
        pin(reader, true);
        return;
    }
    Task& task = *tasks_[order.index];
    switch (order.kind) {
    case Order::Kind::open_task:
        task.open(reader);
        break;
    case Order::Kind::prepare:
        pin(reader, task.pinned);
        task.prepare(reader);
        break;
    case Order::Kind::turn: {
        Turn turn;
        turn.count = order.count;
        turn.received = &control_->received;
        task.read(turn, reader);
        break;
    }
    default:
        break;
    }
}

void Stage::open_all() {
    leader_ = std::make_unique<Leader>(*control_);
    for (int reader = 0; reader < readers_; reader++) {
        leader_->fork_reader(reader, [this](int number) { follow_as(number); });
    }
    for (std::uint32_t i = 0; i < peers_.size(); i++) {
        ::alarm(kHangSeconds);
        leader_->post(1, {.kind = Order::Kind::open_peer, .index = i});
        pin(-1, peers_[i]->traits().pin_threads);
        peers_[i]->open(Side::a);
        leader_->await(1, false);
    }
    for (std::uint32_t i = 0; i < tasks_.size(); i++) {
        ::alarm(kHangSeconds);
        running = tasks_[i].get();
        leader_->post(tasks_[i]->readers, {.kind = Order::Kind::open_task, .index = i});
        tasks_[i]->open(-1);
        leader_->await(tasks_[i]->readers, false);
    }
}

std::int64_t Stage::turn(std::size_t index, std::uint64_t count, SliceResult* ret_slice) {
    Task& task = *tasks_[index];
    Turn turn;
    turn.count = count;
    turn.received = &control_->received;
    turn.latency = &latency_;
    latency_.clear();
    control_->received.store(0);
    leader_->post(
        task.readers,
        {.kind = Order::Kind::turn, .index = static_cast<std::uint32_t>(index), .count = count});
    const Usage usage;
    turn.began_ns = sys::monotonic_ns();
    task.write(turn);
    const std::int64_t written_ns = sys::monotonic_ns();
    const std::int64_t cpu_ns = usage.cpu_ns();
    const std::uint64_t sleeps = usage.sleeps();
    leader_->await(task.readers, task.pinned && task.readers == 1);
    std::int64_t ended_ns = written_ns;
    for (int reader = 0; !task.ping_pong && reader < task.readers; reader++) {
        ended_ns = std::max(ended_ns, leader_->report(reader).ended_ns);
    }
    if (ret_slice != nullptr) {
        ret_slice->value_ns =
            task.own_value ? task.value()
            : task.ping_pong
                ? turn.block_ns > 0 ? turn.block_ns : static_cast<double>(latency_.percentile(50))
                : static_cast<double>(ended_ns - turn.began_ns) / static_cast<double>(count);
        ret_slice->writer_cpu_ns = cpu_ns;
        ret_slice->writer_sleeps = sleeps;
        ret_slice->reader_cpu_ns = leader_->report(0).cpu_ns;
        ret_slice->reader_sleeps = leader_->report(0).sleeps;
        ret_slice->elapsed_ns = ended_ns - turn.began_ns;
    }
    return ended_ns - turn.began_ns;
}

void Stage::slice(std::size_t index, unsigned round) {
    Task& task = *tasks_[index];
    Pace& pace = paces_[index];
    ::alarm(kHangSeconds);
    running = &task;
    SliceResult result;
    result.task = index;
    result.round = round;
    result.count = pace.count;
    pin(-1, true);
    result.before_ns = leader_->bracket();
    const auto order_index = static_cast<std::uint32_t>(index);
    leader_->post(task.readers, {.kind = Order::Kind::prepare, .index = order_index});
    task.prepare(-1);
    pin(-1, task.pinned);
    leader_->await(task.readers, false);
    (void)turn(index, std::max<std::uint64_t>(pace.count / 16, 1), nullptr);
    const std::int64_t server_ns = server_cpu_ns(task);
    const std::int64_t elapsed_ns = turn(index, pace.count, &result);
    result.server_cpu_ns = server_cpu_ns(task) - server_ns;
    pin(-1, true);
    result.after_ns = leader_->bracket();
    result.distance = measure::distance_of(result.before_ns, result.after_ns);
    ::alarm(0);
    // The first slices settle how many messages make one; they are not counted.
    const double aim_ns = static_cast<double>(options_.slice_ns) * task.slice_factor;
    const double factor = aim_ns / static_cast<double>(std::max<std::int64_t>(elapsed_ns, 1));
    if (pace.settled < kSettled) {
        const double next = static_cast<double>(pace.count) * std::min(factor, 16.0);
        pace.count = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(next), 1,
                                               std::min(kCountMax, task.count_max));
        const bool settled = (factor > 0.6 && factor < 1.6) || pace.count == task.count_max;
        pace.settled = settled ? pace.settled + 1 : 0;
        return;
    }
    results_.add(result, latency_);
}

void Stage::run() {
    open_all();
    for (std::size_t i = 0; i < tasks_.size(); i++) {
        for (unsigned tries = 0; paces_[i].settled < kSettled && tries < kTriesMax; tries++) {
            slice(i, 0);
        }
    }
    const std::int64_t began_ns = sys::monotonic_ns();
    for (unsigned round = 0; round < options_.rounds; round++) {
        for (std::size_t i = 0; i < tasks_.size(); i++) {
            if (round % tasks_[i]->every == 0) {
                slice(i, round);
            }
        }
        const double seconds = static_cast<double>(sys::monotonic_ns() - began_ns) / 1e9;
        if (options_.seconds_max > 0 && seconds > options_.seconds_max) {
            break;
        }
    }
    leader_->quit();
}

std::int64_t Stage::server_cpu_ns(const Task& task) const {
    for (const auto& peer : peers_) {
        if (peer->traits().name == task.peer && peer->server_pid() != 0) {
            const std::string path = "/proc/" + std::to_string(peer->server_pid()) + "/schedstat";
            long long ns = 0;
            if (std::FILE* file = std::fopen(path.c_str(), "re"); file != nullptr) {
                if (std::fscanf(file, "%lld", &ns) != 1) {
                    ns = 0;
                }
                std::fclose(file);
            }
            return ns;
        }
    }
    return 0;
}

void Stage::write_json(std::FILE* file) const {
    std::vector<Results::Name> names;
    for (const auto& task : tasks_) {
        names.push_back({task->workload, task->peer, task->ping_pong});
    }
    results_.write_json(file, names, left_out_);
}

}  // namespace ipcbus::bench
