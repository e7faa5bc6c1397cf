// SPDX-License-Identifier: Apache-2.0
// iceoryx 2: a private iox-roudi, and an untyped publisher and subscriber each way. Messages are
// loaned, filled and published, and read where they lie; a publisher waits for a subscriber whose
// queue is full (256 chunks is the longest; large messages have a publisher with a shorter queue,
// or the pools would be huge), so nothing is lost. Spinning is take() until there is something;
// sleeping is a WaitSet, attached for those slices only, as it costs the publisher a semaphore.
// RouDi's memory is 105 MB, of which the pools below are 39. There can be one RouDi on a host: with
// another one running, this peer is left out.
#include "peers/loops.hpp"
#include "peers/server.hpp"

#include <iceoryx_hoofs/log/logmanager.hpp>
#include <iceoryx_posh/popo/untyped_publisher.hpp>
#include <iceoryx_posh/popo/untyped_subscriber.hpp>
#include <iceoryx_posh/popo/wait_set.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>

#include <fstream>
#include <grp.h>
#include <iterator>
#include <optional>
#include <sys/mman.h>
#include <unistd.h>

namespace ipcbus::bench {
namespace {

namespace popo = iox::popo;

/// Ends last, and with it RouDi: iceoryx keeps a process registered until its static objects are
/// destroyed, and RouDi, when it ends, sends SIGTERM to all that are registered.
Server roudi;

/// Takes away the names of RouDi's memory, which all who need it have mapped by now: so it is gone
/// with the processes even if RouDi, which would do so at its end, is killed or fails.
void forget_memory() {
    const group* own_group = ::getgrgid(::getegid());
    ::shm_unlink("/iceoryx_mgmt");
    if (own_group != nullptr) {
        ::shm_unlink((std::string("/") + own_group->gr_name).c_str());
    }
}

/// Publisher and subscriber for messages up to some size.
struct Link {
    popo::UntypedPublisher publisher;
    popo::UntypedSubscriber subscriber;

    Link(const char* kind, const char* own, const char* other, std::uint64_t queue_chunks)
        : publisher({"ipcbus", iox::capro::IdString_t(iox::cxx::TruncateToCapacity, kind),
                     iox::capro::IdString_t(iox::cxx::TruncateToCapacity, other)},
                    publisher_options()),
          subscriber({"ipcbus", iox::capro::IdString_t(iox::cxx::TruncateToCapacity, kind),
                      iox::capro::IdString_t(iox::cxx::TruncateToCapacity, own)},
                     subscriber_options(queue_chunks)) {}

    static popo::PublisherOptions publisher_options() {
        popo::PublisherOptions options;
        options.subscriberTooSlowPolicy = popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
        return options;
    }
    static popo::SubscriberOptions subscriber_options(std::uint64_t queue_chunks) {
        popo::SubscriberOptions options;
        options.queueCapacity = queue_chunks;
        options.queueFullPolicy = popo::QueueFullPolicy::BLOCK_PRODUCER;
        return options;
    }
    void await_connection() {
        while (subscriber.getSubscriptionState() != iox::SubscribeState::SUBSCRIBED ||
               !publisher.hasSubscribers()) {
            ::usleep(1000);
        }
    }
};

class Iceoryx : public PeerLoops<Iceoryx> {
public:
    ~Iceoryx() override {
        settle();
        attach(nullptr);
    }
    const Traits& traits() const override { return traits_; }
    int server_pid() const override { return roudi.pid(); }

    std::string start(const Setup& setup) override {
        const std::string config = setup.directory + "/roudi.toml";
        std::ofstream(config) << "[general]\nversion = 1\n[[segment]]\n"
                                 "[[segment.mempool]]\nsize = 64\ncount = 2048\n"
                                 "[[segment.mempool]]\nsize = 1024\ncount = 1024\n"
                                 "[[segment.mempool]]\nsize = 65536\ncount = 64\n"
                                 "[[segment.mempool]]\nsize = 1048576\ncount = 32\n";
        const std::string log = setup.directory + "/log";
        return roudi.start({"iox-roudi", "-c", config, "-m", "off", "-k", "0"}, log, [&log] {
            std::ifstream file(log);
            const std::string text{std::istreambuf_iterator<char>(file), {}};
            return text.find("RouDi is ready") != std::string::npos;
        });
    }
    void open(Side side) override {
        const char* own = side == Side::a ? "a" : "b";
        const char* other = side == Side::a ? "b" : "a";
        const std::string name = "ipcbus-compare-" + std::to_string(::getpid());
        iox::log::LogManager::GetLogManager().SetDefaultLogLevel(
            iox::log::LogLevel::kError, iox::log::LogLevelOutput::kHideLogLevel);
        iox::runtime::PoshRuntime::initRuntime(
            iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name));
        small_.emplace("small", own, other, 256);
        large_.emplace("large", own, other, 16);
        small_->await_connection();
        large_->await_connection();
        wait_set_.emplace();
        forget_memory();
    }
    void prepare(const Slice& slice) override {
        link_ = slice.message_bytes <= kSmall ? &*small_ : &*large_;
        spin_ = slice.waiting != Waiting::sleep;
        attach(spin_ ? nullptr : link_);
    }

    void* lend(std::size_t bytes) {
        auto chunk = link_->publisher.loan(static_cast<std::uint32_t>(bytes));
        if (chunk.has_error()) {
            fail("iceoryx", "no chunk to loan");
        }
        loaned_ = chunk.value();
        return loaned_;
    }
    void give(std::size_t) { link_->publisher.publish(loaned_); }
    void send(const void* data, std::size_t bytes) {
        std::memcpy(lend(bytes), data, bytes);
        give(bytes);
    }
    void flush() {}
    const void* receive(std::size_t& ret_bytes) {
        settle();
        while (true) {
            auto chunk = link_->subscriber.take();
            if (!chunk.has_error()) {
                received_ = chunk.value();
                break;
            }
            if (!spin_) {
                (void)wait_set_->wait();
            }
        }
        ret_bytes = iox::mepoo::ChunkHeader::fromUserPayload(received_)->userPayloadSize();
        return received_;
    }
    void settle() {
        if (received_ != nullptr) {
            link_->subscriber.release(received_);
            received_ = nullptr;
        }
    }

private:
    static constexpr std::size_t kSmall = 1 << 10;

    /// Has the wait set look at this link, or at none.
    void attach(Link* link) {
        if (attached_ != nullptr) {
            wait_set_->detachState(attached_->subscriber, popo::SubscriberState::HAS_DATA);
        }
        attached_ = link;
        if (link != nullptr &&
            wait_set_->attachState(link->subscriber, popo::SubscriberState::HAS_DATA).has_error()) {
            fail("iceoryx", "cannot attach to the wait set");
        }
    }

    Traits traits_{.name = "iceoryx",
                   .spins = true,
                   .in_place = true,
                   .packages = {"iceoryx", "libiceoryx-posh-dev"}};
    std::optional<Link> small_, large_;
    std::optional<popo::WaitSet<>> wait_set_;
    Link* link_ = nullptr;
    Link* attached_ = nullptr;
    void* loaned_ = nullptr;
    const void* received_ = nullptr;
    bool spin_ = false;
};

const Registered registered(330, [] { return std::make_unique<Iceoryx>(); });

}  // namespace
}  // namespace ipcbus::bench
