// SPDX-License-Identifier: Apache-2.0
// Pipes: one each way, of 1 MiB, the most that an unprivileged user may have. A message is written
// by one write() and read by read()s of its size: a pipe knows no messages, and both ends know the
// size. Streams of small messages are read in blocks of 64 KiB, as any fast reader of a pipe does;
// batches are written by one writev().
#include "peers/kernel.hpp"
#include "peers/loops.hpp"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

namespace ipcbus::bench {
namespace {

class Pipe : public PeerLoops<Pipe> {
public:
    const Traits& traits() const override { return traits_; }

    std::string start(const Setup&) override {
        for (auto& ends : pipes_) {
            int fds[2];
            if (::pipe2(fds, O_CLOEXEC) != 0) {
                return "pipe() failed";
            }
            (void)::fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
            ends[0].reset(fds[0]);
            ends[1].reset(fds[1]);
        }
        return {};
    }
    void open(Side side) override {
        const int out = side == Side::a ? 0 : 1;
        in_.open(pipes_[1 - out][0].get());
        out_ = pipes_[out][1].get();
    }
    void prepare(const Slice& slice) override { in_.prepare(slice); }

    void send(const void* data, std::size_t bytes) { write_all(out_, data, bytes, "pipe"); }
    void send_many(const Message* messages, std::size_t count) {
        writev_all(out_, messages, count, "pipe");
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) { return in_.next(ret_bytes, "pipe"); }
    void settle() {}

private:
    Traits traits_{.name = "pipe", .spins = true, .batches = true};
    sys::UniqueFd pipes_[2][2];
    ByteStreamReader in_;
    int out_ = -1;
};

const Registered registered(100, [] { return std::make_unique<Pipe>(); });

}  // namespace
}  // namespace ipcbus::bench
