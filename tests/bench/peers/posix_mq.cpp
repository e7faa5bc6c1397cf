// SPDX-License-Identifier: Apache-2.0
// POSIX message queues, one each way, with the limits that an unprivileged user has: as a rule 10
// messages of 8 KiB. Each side has descriptors of its own, since whether one waits belongs to it.
#include "peers/loops.hpp"

#include <fcntl.h>
#include <mqueue.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

namespace ipcbus::bench {
namespace {

long limit_of_system(const char* name, long otherwise) {
    std::ifstream file(std::string("/proc/sys/fs/mqueue/") + name);
    long value = 0;
    return file >> value ? value : otherwise;
}

class PosixMq : public PeerLoops<PosixMq> {
public:
    const Traits& traits() const override { return traits_; }
    std::string start(const Setup&) override {
        mq_attr attributes{};
        attributes.mq_maxmsg = limit_of_system("msg_max", 10);
        attributes.mq_msgsize = limit_of_system("msgsize_max", 8192);
        traits_.message_bytes_max = static_cast<std::size_t>(attributes.mq_msgsize);
        buffer_.resize(traits_.message_bytes_max);
        for (int way = 0; way < 2; way++) {
            const std::string name =
                "/ipcbus-compare-" + std::to_string(::getpid()) + (way == 0 ? "-ab" : "-ba");
            writers_[way] = ::mq_open(name.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600, &attributes);
            readers_[way] = ::mq_open(name.c_str(), O_RDONLY);
            const int error = errno;
            (void)::mq_unlink(name.c_str());
            if (writers_[way] < 0 || readers_[way] < 0) {
                return std::string("mq_open: ") + std::strerror(error);
            }
        }
        return {};
    }
    void open(Side side) override {
        out_ = writers_[side == Side::a ? 0 : 1];
        in_ = readers_[side == Side::a ? 1 : 0];
    }
    void prepare(const Slice& slice) override {
        mq_attr attributes{};
        attributes.mq_flags = slice.waiting == Waiting::spin ? O_NONBLOCK : 0;
        (void)::mq_setattr(in_, &attributes, nullptr);
    }

    void send(const void* data, std::size_t bytes) {
        while (::mq_send(out_, static_cast<const char*>(data), bytes, 0) != 0) {
            check();
        }
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) {
        ssize_t got = 0;
        while ((got = ::mq_receive(in_, buffer_.data(), buffer_.size(), nullptr)) < 0) {
            check();
        }
        ret_bytes = static_cast<std::size_t>(got);
        return buffer_.data();
    }
    void settle() {}

private:
    void check() {
        if (errno != EAGAIN && errno != EINTR) {
            fail(traits_.name, std::strerror(errno));
        }
    }

    Traits traits_{.name = "POSIX mq", .spins = true};
    mqd_t writers_[2] = {-1, -1};  // a to b, b to a
    mqd_t readers_[2] = {-1, -1};
    mqd_t out_ = -1;
    mqd_t in_ = -1;
    std::vector<char> buffer_;
};

const Registered registered(104, [] { return std::make_unique<PosixMq>(); });

}  // namespace
}  // namespace ipcbus::bench
