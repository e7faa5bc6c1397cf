// SPDX-License-Identifier: Apache-2.0
// Goal: whatever one word of a ring says, each field of its header and of a record in turn, its
// readers of all modes, those that join meanwhile and the daemon give an answer of the table, lend
// nothing that cannot be, burn no CPU over it, and hear every other publication.
// Method: a raw publisher, a new ring for each lie, good messages first, so that every reader is
// known to read it; bystanders who read it, too.
// Bounds: no message of the bystanders is lost; a reader that waits in vain at a lying ring uses
// less than a quarter of a CPU.
#include "bus_client.hpp"
#include "bystanders.hpp"
#include "daemon_fixture.hpp"
#include "ledger.hpp"
#include "raw_client.hpp"

#include "protocol/ring_writer.hpp"
#include "protocol/topic.hpp"
#include "sys/clock.hpp"

#include <array>
#include <cerrno>
#include <optional>
#include <random>

using namespace ipcbus;
using namespace ipcbus::test;
using protocol::u16;
using protocol::u32;
using protocol::u64;
using protocol::u8;

namespace {

constexpr u64 kCapacity = 4096;
constexpr u64 kGood = 5;  ///< messages before the lie
constexpr std::uint32_t kModes[] = {IPCBUS_RELIABLE, IPCBUS_LOSSY, IPCBUS_LATEST};

struct Scene {
    Milestone looks;                    ///< rounds of all readers
    std::atomic<u64> seen[3]{};         ///< the case of the good message that each mode saw last
    std::atomic<u64> lies_believed{0};  ///< messages that nobody published in good order
    std::atomic<std::int64_t> waited_ns[3]{};
    std::atomic<std::int64_t> used_ns[3]{};
};

/// A publisher that does all by hand, one ring after the other.
class Liar {
public:
    explicit Liar(const std::string& socket_path)
        : client_(RawClient::on_bus(socket_path, "liar")) {}

    /// A ring of its own for the next lie, with good messages that tell its number.
    void begin(u64 number, bool filter) {
        (void)client_.drain();
        const auto advertised = client_.advertise(filter ? "hostile/+" : "hostile/liar", kCapacity);
        publication_ = advertised.publication;
        auto mapped = sys::map_ring(client_.fds.at(0).get(), protocol::kRingDataOffset, kCapacity,
                                    sys::Access::read_write);
        REQUIRE(mapped.ok());
        memory_ = std::move(mapped).value();
        writer_ = protocol::RingWriter({header(), memory_.data(), kCapacity}, advertised.start,
                                       advertised.first_sequence, advertised.record_bytes_max);
        client_.mapped(publication_);
        topic_ = filter ? "hostile/liar" : "";
        for (u64 i = 0; i < kGood; i++) {
            publish(number);
        }
    }
    void publish(u64 number) {
        const u64 bytes = protocol::record_bytes(topic_.size(), sizeof(number));
        REQUIRE(writer_.raise(bytes, writer_.position()));
        std::memcpy(writer_.topic(), topic_.data(), topic_.size());
        std::memcpy(writer_.payload(topic_.size()), &number, sizeof(number));
        writer_.commit(static_cast<u16>(topic_.size()), sizeof(number));
    }
    void end() {
        client_.unadvertise(publication_);
        memory_.reset();
    }

    [[nodiscard]] protocol::RingHeader* header() const {
        return reinterpret_cast<protocol::RingHeader*>(memory_.header());
    }
    [[nodiscard]] std::atomic<u64>& word(std::size_t index) const {
        return reinterpret_cast<std::atomic<u64>*>(memory_.header())[index];
    }
    /// Where the next record would stand.
    [[nodiscard]] protocol::RecordHeader& next() const {
        return *reinterpret_cast<protocol::RecordHeader*>(memory_.data() +
                                                          (writer_.position() & (kCapacity - 1)));
    }
    [[nodiscard]] u64 position() const { return writer_.position(); }
    [[nodiscard]] u64 sequence() const { return writer_.sequence(); }

private:
    RawClient client_;
    sys::RingMapping memory_;
    protocol::RingWriter writer_;
    std::string topic_;
    u64 publication_ = 0;
};

/// Of what comes from the liar: a result of the table, and nothing that cannot be.
void check(const Received& got, Scene& scene, int mode) {
    must_be(is_documented(got.result), "result " + std::to_string(got.result));
    if (!got.ok()) {
        return;
    }
    must_be(
        got.payload.size() <= protocol::payload_bytes_max(kCapacity) + protocol::kTopicBytesMax + 1,
        "a message that cannot be");
    must_be(protocol::valid_topic(got.topic) && protocol::topic_matches("hostile/+", got.topic),
            "a topic that is not the publication's");
    u64 number = 0;
    if (got.payload.size() == sizeof(number)) {
        std::memcpy(&number, got.payload.data(), sizeof(number));
        scene.seen[mode] = number;
    } else {
        scene.lies_believed++;
    }
}

int reader(const std::string& address, Scene& scene) {
    const Bus bus = connect(address, "reader");
    std::array<Subscriber, 3> subscribers;
    for (std::size_t i = 0; i < 3; i++) {
        subscribers[i] = subscribe(bus, "hostile/#", kModes[i]);
    }
    for (u64 round = 0;; round++) {
        for (std::size_t i = 0; i < 3; i++) {
            // Sometimes it sleeps, and is not rung.
            const std::int64_t timeout_ns = round % 8 == i ? kMillisecondNs / 10 : 0;
            check(receive(subscribers[i], timeout_ns), scene, static_cast<int>(i));
        }
        scene.looks.raise();
    }
}

/// The daemon has to look into the ring for each new reader.
int joiner(const std::string& address) {
    const Bus bus = connect(address, "joiner");
    for (;;) {
        const Subscriber subscriber = subscribe(bus, "hostile/#");
        must_be(is_documented(receive(subscriber, 0).result), "an undocumented result");
    }
}

/// All who have to do with the liar.
class Stage {
public:
    Stage() {
        Scene& scene = *scene_;
        reader_ = ChildProcess::fork([&] { return reader(daemon_.address(), scene); });
        REQUIRE(scene.looks.wait(1));
        joiner_ = ChildProcess::fork([&] { return joiner(daemon_.address()); });
    }
    ~Stage() {
        bystanders_.expect_trips();
        bystanders_.finish();
        CHECK(reader_.running());
        CHECK(joiner_.running());
        MESSAGE(cases_, " lies, ", scene_->lies_believed.load(), " believed, ", bystanders_.trips(),
                " trips of the bystanders, the longest ", bystanders_.longest_trip_ns() / 1000,
                " us");
    }
    /// `lie(liar)` tells it, once everybody reads the ring.
    template <class Lie>
    void tell(Lie&& lie) {
        const u64 number = ++cases_;
        liar_.begin(number, number % 2 == 0);
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        for (const auto& seen : scene_->seen) {
            while (seen != number) {
                INFO("seen: ", scene_->seen[0].load(), " ", scene_->seen[1].load(), " ",
                     scene_->seen[2].load(), " of ", number);
                REQUIRE(!deadline.passed());
                REQUIRE(scene_->looks.wait(scene_->looks.value() + 1));
            }
        }
        lie(liar_);
        CHECK(scene_->looks.wait(scene_->looks.value() + 3));
        CHECK(reader_.running());
        liar_.end();
    }

private:
    DaemonFixture daemon_;
    SharedBlock<Scene> scene_;
    Bystanders bystanders_{daemon_.address(), "hostile/#"};
    Liar liar_{daemon_.socket_path()};
    ChildProcess reader_;
    ChildProcess joiner_;
    u64 cases_ = 0;
};

constexpr std::size_t kHeaderWords = sizeof(protocol::RingHeader) / 8;
constexpr std::size_t kAnnounced = offsetof(protocol::RingHeader, announced) / 8;

/// What a word of the header may be made to say; the words beside it among them.
std::vector<u64> values_for(const Liar& liar, std::size_t index, u64 noise) {
    const u64 old = liar.word(index);
    return {0,
            1,
            ~u64{0},
            u64{1} << 63,
            old + 1,
            old ^ u64{0xffffffff00000000},
            liar.word((index + kHeaderWords - 1) % kHeaderWords),
            liar.word((index + 1) % kHeaderWords),
            liar.position(),
            liar.position() + 16,
            liar.position() - 16,
            liar.position() + kCapacity,
            liar.position() - kCapacity,
            noise};
}
constexpr std::size_t kValues = 14;

}  // namespace

TEST_CASE("each word of a ring's header, each value, with and without readers that are overtaken") {
    Stage stage;
    std::mt19937_64 noise(1);
    for (const bool overtaken : {false, true}) {
        for (std::size_t index = 0; index < kHeaderWords; index++) {
            for (std::size_t value = 0; value < kValues; value++) {
                INFO("word ", index, ", value ", value, ", overtaken ", overtaken);
                stage.tell([&](Liar& liar) {
                    const auto values = values_for(liar, index, noise());
                    REQUIRE(values.size() == kValues);
                    liar.word(index) = values[value];
                    if (overtaken && index != kAnnounced) {
                        liar.word(kAnnounced) = liar.position() + 2 * kCapacity;
                    } else if (index != kAnnounced) {
                        liar.publish(0);
                    }
                });
            }
        }
    }
}

TEST_CASE("each field of a record, each value, all of them together") {
    Stage stage;
    const u32 largest = static_cast<u32>(protocol::payload_bytes_max(kCapacity));
    for (const u32 bytes : {0u, 1u, largest, largest + 300, 65536u, ~0u}) {
        for (const unsigned topic_bytes : {0, 1, 255, 256, 0xffff}) {
            for (const unsigned flags : {0x8000, 0, 0x4000, 0xc000, 0x8001, 0xffff}) {
                for (const int sequence : {0, 1, 2, 3, 4}) {
                    INFO(bytes, " bytes, topic ", topic_bytes, ", flags ", flags, ", ", sequence);
                    stage.tell([&](Liar& liar) {
                        const u64 right = liar.sequence();
                        const u64 sequences[] = {right, right - 1, right + 1, 0, ~u64{0}};
                        protocol::RecordHeader& record = liar.next();
                        record.sequence = sequences[sequence];
                        record.word.store(u64{bytes} | u64{topic_bytes} << 32 | u64{flags} << 48,
                                          std::memory_order_release);
                    });
                }
            }
        }
    }
}

namespace {

/// Waits at the liar's rings all the time, and says how much of the time it was awake.
int waiting(const std::string& address, Scene& scene, int mode) {
    const Bus bus = connect(address, "waiting");
    const Subscriber subscriber = subscribe(bus, "hostile/#", kModes[mode]);
    for (;;) {
        const std::int64_t begin_ns = sys::monotonic_ns();
        const std::int64_t used_ns = own_cpu_ns();
        check(receive(subscriber, 20 * kMillisecondNs), scene, mode);
        scene.waited_ns[mode] += sys::monotonic_ns() - begin_ns;
        scene.used_ns[mode] += own_cpu_ns() - used_ns;
        scene.looks.raise();
    }
}

}  // namespace

TEST_CASE("a reader that waits at a ring that lies sleeps all the same") {
    const DaemonFixture daemon;
    const SharedBlock<Scene> scene;
    Liar liar(daemon.socket_path());
    std::vector<ChildProcess> readers;
    for (int mode = 0; mode < 3; mode++) {
        readers.push_back(
            ChildProcess::fork([&] { return waiting(daemon.address(), *scene, mode); }));
    }
    REQUIRE(scene->looks.wait(6));
    u64 number = 0;
    std::size_t index = 0;
    u64 value = 0;
    const auto lie = [&](const std::vector<std::pair<std::size_t, u64>>& words) {
        liar.begin(++number, false);
        const sys::Deadline deadline = sys::Deadline::after(kLongNs);
        for (const auto& seen : scene->seen) {
            while (seen != number) {
                REQUIRE(!deadline.passed());
                REQUIRE(scene->looks.wait(scene->looks.value() + 1));
            }
        }
        for (const auto& [which, what] : words) {
            liar.word(which) = what;
        }
        std::int64_t waited_ns[3];
        std::int64_t used_ns[3];
        for (int mode = 0; mode < 3; mode++) {
            waited_ns[mode] = scene->waited_ns[mode];
            used_ns[mode] = scene->used_ns[mode];
        }
        CHECK(scene->looks.wait(scene->looks.value() + 12));
        for (int mode = 0; mode < 3; mode++) {
            INFO("mode ", mode, ", word ", index, ", value ", value);
            waited_ns[mode] = scene->waited_ns[mode] - waited_ns[mode];
            used_ns[mode] = scene->used_ns[mode] - used_ns[mode];
            if (!kSanitized) {
                CHECK(used_ns[mode] <= waited_ns[mode] / 4 + 2 * kMillisecondNs * patience());
            }
        }
        liar.end();
    };
    constexpr std::size_t kWanted = offsetof(protocol::RingHeader, wanted) / 8;
    constexpr std::size_t kUnfenced = offsetof(protocol::RingHeader, unfenced) / 8;
    constexpr std::size_t kNewest = offsetof(protocol::RingHeader, newest) / 8;
    constexpr std::size_t kFirstMark = offsetof(protocol::RingHeader, marks) / 8;
    for (const std::size_t which : {kAnnounced, kWanted, kUnfenced, kNewest, kFirstMark}) {
        for (const u64 what : {u64{0}, ~u64{0}, u64{1} << 62, 5 * kCapacity}) {
            index = which;
            value = what;
            lie({{which, what}});
        }
    }
    // Overtaken for ever, and no way to go on.
    std::vector<std::pair<std::size_t, u64>> all{{kAnnounced, u64{1} << 40}};
    for (std::size_t i = 0; i < protocol::kMarks; i++) {
        all.emplace_back(kFirstMark + i, i % 2 == 0 ? 0 : (u64{1} << 40) - 8);
    }
    index = value = 0;
    lie(all);
    for (const ChildProcess& one : readers) {
        CHECK(one.running());
    }
}
