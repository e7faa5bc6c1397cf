// SPDX-License-Identifier: Apache-2.0
// ipcbus itself, by its public C interface and with a daemon of its own, locally and, with both
// sides remote clients of a daemon of this host, over TCP. A topic each way for each
// way to wait, since a subscription keeps to the way that it was made with, and for each size of
// ring. Small messages are received by copying them, one call each; long ones are read in place;
// batches are published and borrowed by many.
#include "peers/ipcbus_handles.hpp"
#include "peers/loops.hpp"
#include "peers/server.hpp"

#include <array>

namespace ipcbus::bench {
namespace {

constexpr std::size_t kBorrowMax = 64;
constexpr std::size_t kReceiveBytesMax = 512;  // above, messages are read where they lie

class Ipcbus : public PeerLoops<Ipcbus> {
public:
    explicit Ipcbus(bool tcp) {
        traits_.name = tcp ? "ipcbus tcp" : "ipcbus";
        traits_.local = traits_.spins = traits_.batches = traits_.in_place = !tcp;
        traits_.tcp = traits_.has_server = tcp;
    }
    const Traits& traits() const override { return traits_; }
    std::string start(const Setup& setup) override {
        address_ = start_ipcbusd(server_, setup, traits_.tcp);
        return address_.empty() ? "ipcbusd does not start" : "";
    }
    int server_pid() const override { return server_.pid(); }

    void open(Side side) override {
        bus_ = connect_bus(address_);
        const bool a = side == Side::a;
        for (std::size_t i = 0; i < kChannels.size(); i++) {
            const std::string topic = "compare/" + std::to_string(i);
            channels_[i].publisher =
                advertise(bus_, topic + (a ? "/b" : "/a"), kChannels[i].ring_bytes);
            channels_[i].subscriber =
                subscribe(bus_, topic + (a ? "/a" : "/b"), kChannels[i].waiting);
        }
        for (const Channel& channel : channels_) {
            check(ipcbus_wait_subscribers(channel.publisher, 1, IPCBUS_FOREVER), "wait");
        }
    }
    void prepare(const Slice& slice) override {
        const std::size_t ring_bytes = ring_bytes_for(slice.message_bytes);
        for (std::size_t i = 0; i < kChannels.size(); i++) {
            if (kChannels[i].waiting == slice.waiting && kChannels[i].ring_bytes == ring_bytes) {
                publisher_ = channels_[i].publisher;
                subscriber_ = channels_[i].subscriber;
            }
        }
        how_ = slice.batch > 1                           ? How::many
               : slice.message_bytes <= kReceiveBytesMax ? How::copy
                                                         : How::borrow;
    }

    void send(const void* data, std::size_t bytes) {
        if (ipcbus_publish(publisher_, data, bytes) != 0) [[unlikely]] {
            check(-1, "publish");
        }
    }
    void send_many(const Message* messages, std::size_t count) {
        for (std::size_t i = 0; i < count; i++) {
            buffers_[i] = {messages[i].data(), messages[i].bytes()};
        }
        for (std::size_t done = 0; done < count;) {
            done += static_cast<std::size_t>(check(
                ipcbus_publish_many(publisher_, buffers_.data() + done, count - done), "publish"));
        }
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) {
        if (how_ == How::copy) {
            ipcbus_message message;
            if (ipcbus_receive(subscriber_, copy_.data(), copy_.size(), IPCBUS_FOREVER, &message) !=
                0) [[unlikely]] {
                check(-1, "receive");
            }
            ret_bytes = message.size;
            return message.data;
        }
        if (next_ == borrowed_) {
            settle();
            borrowed_ = static_cast<std::size_t>(
                how_ == How::many
                    ? check(ipcbus_borrow_many(subscriber_, IPCBUS_FOREVER, messages_.data(),
                                               messages_.size()),
                            "borrow")
                    : check(ipcbus_borrow(subscriber_, IPCBUS_FOREVER, messages_.data()),
                            "borrow") +
                          1);
        }
        const ipcbus_message& message = messages_[next_++];
        ret_bytes = message.size;
        return message.data;
    }
    void settle() {
        if (borrowed_ != 0) {
            check(ipcbus_release(subscriber_), "release");
            borrowed_ = next_ = 0;
        }
    }
    void* lend(std::size_t bytes) {
        void* data = nullptr;
        check(ipcbus_claim(publisher_, bytes, &data), "claim");
        return data;
    }
    void give(std::size_t bytes) { check(ipcbus_commit(publisher_, bytes), "commit"); }

private:
    enum class How { copy, borrow, many };
    struct ChannelKind {
        Waiting waiting;
        std::size_t ring_bytes;
    };
    struct Channel {
        ipcbus_publisher* publisher = nullptr;
        ipcbus_subscriber* subscriber = nullptr;
    };
    static constexpr std::array<ChannelKind, 5> kChannels = {{
        {Waiting::spin, kRingBytes},
        {Waiting::sleep, kRingBytes},
        {Waiting::best, kRingBytes},
        {Waiting::spin, kLargeRingBytes},
        {Waiting::best, kLargeRingBytes},
    }};

    Traits traits_{.adapts = true};
    Server server_;
    std::string address_;
    ipcbus_bus* bus_ = nullptr;
    std::array<Channel, kChannels.size()> channels_;
    ipcbus_publisher* publisher_ = nullptr;
    ipcbus_subscriber* subscriber_ = nullptr;
    How how_ = How::copy;
    std::array<ipcbus_buffer, kBorrowMax> buffers_{};
    std::array<ipcbus_message, kBorrowMax> messages_{};
    std::array<char, kReceiveBytesMax> copy_{};
    std::size_t borrowed_ = 0;
    std::size_t next_ = 0;
};

const Registered local(200, [] { return std::make_unique<Ipcbus>(false); });
const Registered tcp(201, [] { return std::make_unique<Ipcbus>(true); });

}  // namespace
}  // namespace ipcbus::bench
