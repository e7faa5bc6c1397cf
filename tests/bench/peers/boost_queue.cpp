// SPDX-License-Identifier: Apache-2.0
// Boost.Interprocess message_queue: one each way and size class, made before the fork, which both
// sides inherit; their names are removed at once. The queue copies a message in and out under a
// mutex that processes share. send() and receive() sleep on its conditions; the spinning way is
// try_send() and try_receive(). For streams the sleeping calls are the faster way (two spinners
// fight for the mutex), so they are the best one. There is no call for many messages.
#include "peers/loops.hpp"

#include <boost/interprocess/ipc/message_queue.hpp>

#include <unistd.h>

#include <memory>

namespace ipcbus::bench {
namespace {

using boost::interprocess::message_queue;

/// A queue reserves its depth times its size.
struct Class {
    std::size_t message_bytes, depth;
};
constexpr Class kClasses[] = {{64, 1024}, {1 << 10, 1024}, {64 << 10, 64}, {1 << 20, 8}};

class BoostQueue : public PeerLoops<BoostQueue> {
public:
    const Traits& traits() const override { return traits_; }

    std::string start(const Setup&) override {
        try {
            for (const Class& each : kClasses) {
                queues_[0].push_back(make_queue(each));
                queues_[1].push_back(make_queue(each));
            }
        } catch (const boost::interprocess::interprocess_exception& problem) {
            return std::string("message_queue: ") + problem.what();
        }
        return {};
    }
    void open(Side side) override { out_side_ = side == Side::a ? 0 : 1; }
    void prepare(const Slice& slice) override {
        std::size_t chosen = 0;
        while (kClasses[chosen].message_bytes < slice.message_bytes) {
            chosen++;
        }
        out_ = queues_[out_side_][chosen].get();
        in_ = queues_[1 - out_side_][chosen].get();
        spin_ = slice.waiting == Waiting::spin;
        received_.resize(kClasses[chosen].message_bytes);
    }

    void send(const void* data, std::size_t bytes) {
        if (!spin_) {
            out_->send(data, bytes, 0);
            return;
        }
        while (!out_->try_send(data, bytes, 0)) {
            __builtin_ia32_pause();
        }
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) {
        unsigned priority = 0;
        message_queue::size_type bytes = 0;
        if (!spin_) {
            in_->receive(received_.data(), received_.size(), bytes, priority);
        } else {
            while (!in_->try_receive(received_.data(), received_.size(), bytes, priority)) {
                __builtin_ia32_pause();
            }
        }
        ret_bytes = bytes;
        return received_.data();
    }
    void settle() {}

private:
    static std::unique_ptr<message_queue> make_queue(const Class& each) {
        static int made = 0;
        const std::string name =
            "ipcbus-compare-" + std::to_string(::getpid()) + "-" + std::to_string(made++);
        auto queue = std::make_unique<message_queue>(boost::interprocess::create_only, name.c_str(),
                                                     each.depth, each.message_bytes);
        message_queue::remove(name.c_str());
        return queue;
    }

    Traits traits_{.name = "Boost message_queue", .spins = true, .packages = {"libboost-dev"}};
    std::vector<std::unique_ptr<message_queue>> queues_[2];  // by direction; each by class
    int out_side_ = 0;
    message_queue* out_ = nullptr;
    message_queue* in_ = nullptr;
    bool spin_ = false;
    std::vector<char> received_;
};

const Registered registered(320, [] { return std::make_unique<BoostQueue>(); });

}  // namespace
}  // namespace ipcbus::bench
