// SPDX-License-Identifier: Apache-2.0
// Goal: the control protocol's bytes are what they were, frame by frame, and nothing but a whole,
// bounded frame is taken. Pure. The golden bytes were made by another program than the code under
// test; a change here is a change of the protocol's version, and of ipcbus-protocol(7).
#include "protocol/exchange.hpp"
#include "protocol/wire_look.hpp"

#include <doctest/doctest.h>

#include <random>

using namespace ipcbus::protocol;
using Bytes = std::vector<std::byte>;

namespace {

constexpr u64 kSome = 0x1122334455667788;
constexpr u64 kRequest = 0x0102030405060708;

Id128 id_from(u8 first) {
    Id128 id{};
    for (u8& byte : id) {
        byte = first++;
    }
    return id;
}

std::string hex(const Bytes& bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    std::string text;
    for (const std::byte byte : bytes) {
        text += kDigits[static_cast<unsigned>(byte) >> 4];
        text += kDigits[static_cast<unsigned>(byte) & 15];
    }
    return text;
}

std::span<const std::byte> fields_of(const Bytes& frame) {
    return std::span(frame).subspan(kFrameHeaderBytes);
}

/// The golden bytes, there and back; nothing shorter or longer is taken; what noise is taken comes
/// back as it was.
template <class Frame>
void check(const Frame& example, const char* golden) {
    CAPTURE(frame_name(Frame::kType));
    Bytes bytes;
    encode(bytes, example, kRequest);
    CHECK(hex(bytes) == golden);

    Frame back;
    REQUIRE(decode(fields_of(bytes), back));
    Bytes again;
    encode(again, back, kRequest);
    CHECK(again == bytes);

    for (std::size_t cut = 0; cut < bytes.size() - kFrameHeaderBytes; cut++) {
        Frame cut_off;
        CHECK_FALSE(decode(fields_of(bytes).first(cut), cut_off));
    }
    for (const unsigned extra : {0u, 1u, 255u}) {
        Bytes longer = bytes;
        longer.push_back(static_cast<std::byte>(extra));
        Frame too_long;
        CHECK_FALSE(decode(fields_of(longer), too_long));
    }

    std::mt19937 random(static_cast<unsigned>(Frame::kType));
    for (int i = 0; i < 500; i++) {
        Bytes noise = bytes;
        for (std::size_t at = kFrameHeaderBytes; at < noise.size(); at++) {
            if (random() % 4 == 0) {
                noise[at] = static_cast<std::byte>(random());
            }
        }
        Frame taken;
        if (decode(fields_of(noise), taken)) {
            Bytes same;
            encode(same, taken, kRequest);
            CHECK(same == noise);
        }
    }
}

/// Fields by hand: a count that may be a lie, then so many bytes.
Bytes counted(u16 count, std::size_t bytes) {
    Bytes out;
    FieldWriter writer(out);
    writer(count);
    out.resize(out.size() + bytes, std::byte{'x'});
    return out;
}

Bytes joined(std::initializer_list<Bytes> parts) {
    Bytes all;
    for (const Bytes& part : parts) {
        all.insert(all.end(), part.begin(), part.end());
    }
    return all;
}

template <class Frame>
bool decodes(std::initializer_list<Bytes> parts, Frame& ret_frame) {
    const Bytes fields = joined(parts);
    return decode(std::span<const std::byte>(fields), ret_frame);
}

}  // namespace

TEST_SUITE_BEGIN("wire");

TEST_CASE("numbers of the protocol") {
    CHECK(kProtocolMajor == 1);
    CHECK(kProtocolMinor == 3);
    CHECK(kMinorHistory == 1);
    CHECK(kMinorRequests == 2);
    CHECK(kMinorLook == 3);
    CHECK(kRepliesPaidFor == 32);
    CHECK(kHeadBytes == 16);
    CHECK(kReplyMore == 1);
    CHECK(offsetof(Head, number) == 0);
    CHECK(offsetof(Head, status) == 8);
    CHECK(offsetof(Head, flags) == 12);
    CHECK(answered_attachment(reply_lineage(0x0102030405060708, 9)) == 0x0102030405060708);
    CHECK(reply_lineage(0x0102030405060708, 9) ==
          Id128{8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0});
    CHECK(kFeatures == 0);
    CHECK(kFrameHeaderBytes == 16);
    CHECK(kFrameBytesMax == 16384);
    CHECK(kMembersPerFrameMax == 256);
    CHECK(kClientNameBytesMax == 64);
    CHECK(kErrorTextBytesMax == 512);
    CHECK(kFdsUnacknowledgedMax == 64);
    CHECK(kFdsPerFrameMax == 4);
    CHECK(static_cast<u8>(ReaderMode::reliable) == 0);
    CHECK(static_cast<u8>(ReaderMode::lossy) == 1);
    CHECK(static_cast<u8>(ReaderMode::latest) == 2);
    CHECK(static_cast<u8>(Complaint::stalled) == 1);
    CHECK(static_cast<u8>(Complaint::bad_cursor) == 2);
    CHECK(static_cast<u8>(EndReason::publisher_gone) == 1);
    CHECK(static_cast<u8>(EndReason::detached) == 2);
    CHECK(kPeerCursor == 1);
    CHECK(kPeerDoorbell == 2);
    CHECK(std::string(frame_name(FrameType::hello)) == "HELLO");
    CHECK(std::string(frame_name(FrameType::peer_gone)) == "PEER_GONE");
    CHECK(std::string(frame_name(FrameType::attachments_page)) == "ATTACHMENTS_PAGE");
    CHECK(std::string(frame_name(FrameType{13})) == "unknown frame");
    CHECK(static_cast<u8>(LookAt::clients) == 1);
    CHECK(static_cast<u8>(LookAt::attachments) == 4);
}

TEST_CASE("golden bytes, from clients") {
    Hello hello;
    hello.name = "pump";
    check(hello,
          "2600000001000000080706050403020101000300020000000000000000000000"
          "040070756d70");
    Resume resume;
    resume.client = 0xa1a2a3a4a5a6a7a8;
    resume.token = id_from(0x10);
    check(resume,
          "3800000002000000080706050403020101000300020000000000000000000000"
          "a8a7a6a5a4a3a2a1101112131415161718191a1b1c1d1e1f");
    Advertise advertise;
    advertise.topic = "plant/7/temp";
    advertise.ring_bytes = 0x100000;
    advertise.record_bytes_max = 0x3000;
    advertise.waiter = 2;
    advertise.lineage = id_from(0x10);
    advertise.first_sequence = 77;
    check(advertise,
          "460000000300000008070605040302010c00706c616e742f372f74656d700000"
          "1000000000000030000002000000101112131415161718191a1b1c1d1e1f4d00"
          "000000000000");
    check(Mapped{kSome},
          "180000000400000008070605040302018877665544332211");
    check(Unadvertise{kSome},
          "180000000500000008070605040302018877665544332211");
    check(Subscribe{"plant/#", static_cast<u8>(ReaderMode::lossy)},
          "1a0000000600000008070605040302010700706c616e742f2301");
    check(SubscribeFrom{"plant/#", static_cast<u8>(ReaderMode::reliable), 5},
          "220000000c00000008070605040302010700706c616e742f230005000000"
          "00000000");
    check(Unsubscribe{kSome},
          "180000000700000008070605040302018877665544332211");
    check(Detached{kSome},
          "180000000800000008070605040302018877665544332211");
    check(Taken{kSome, 3},
          "2000000009000000080706050403020188776655443322110300000000000000");
    check(Received{5},
          "140000000a000000080706050403020105000000");
    check(Complain{kSome, 9, static_cast<u8>(Complaint::bad_cursor)},
          "210000000b000000080706050403020188776655443322110900000000000000"
          "02");
    Ask ask;
    ask.publication.topic = "calc/add";
    ask.publication.ring_bytes = 0x10000;
    ask.publication.waiter = 2;
    ask.publication.lineage = id_from(0x10);
    ask.publication.first_sequence = 77;
    ask.reply_ring_bytes = 0x1000;
    check(ask,
          "4a000000300000000807060504030201080063616c632f616464000001000000"
          "00000000000002000000101112131415161718191a1b1c1d1e1f4d0000000000"
          "00000010000000000000");
    check(Serve{"calc/#"}, "18000000310000000807060504030201060063616c632f23");
    check(Collect{id_from(0x10)},
          "20000000320000000807060504030201101112131415161718191a1b1c1d1e1f");
    check(Respond{kSome, 3, 77},
          "240000003300000008070605040302018877665544332211030000004d000000"
          "00000000");
}

TEST_CASE("golden bytes, from the daemon") {
    Welcome welcome;
    welcome.bus = id_from(0x10);
    welcome.client = 12;
    welcome.token = id_from(0xf0);
    welcome.geometry = {64, 256, 1024};
    welcome.stall_timeout_ns = 5000000000;
    welcome.resumed = 1;
    check(welcome,
          "5d00000040000000080706050403020101000300020000000000000000000000"
          "101112131415161718191a1b1c1d1e1f0c00000000000000f0f1f2f3f4f5f6f7"
          "f8f9fafbfcfdfeff40000000000100000004000000f2052a0100000001");
    check(Refused{kSome, 9, 77, 79, 122},
          "3400000060000000080706050403020188776655443322110900000000000000"
          "4d000000000000004f000000000000007a000000");
    check(Move{kSome}, "180000006100000008070605040302018877665544332211");
    check(Revoked{kSome, "no"},
          "1c00000062000000080706050403020188776655443322110200" "6e6f");
    check(ErrorFrame{13, "no"}, "180000004100000008070605040302010d00000002006e6f");
    check(Done{},
          "10000000420000000807060504030201");
    check(Advertised{kSome, 3, 0x100000, 0x3000, 0x100000, 77},
          "3800000043000000080706050403020188776655443322110300000000001000"
          "000000000030000000001000000000004d00000000000000");
    check(Subscribed{kSome, 2},
          "1c000000440000000807060504030201887766554433221102000000");
    check(Peer{12, {64, 256, 1024}, kPeerCursor | kPeerDoorbell},
          "250000004500000008070605040302010c000000000000004000000000010000"
          "0004000003");
    check(PeerGone{12},
          "180000004600000008070605040302010c00000000000000");
    Members members;
    members.publication = kSome;
    members.number = 4;
    members.attach = {{21, 12, 5, 0x1000, 1}, {22, 13, 6, 0x2000, 0}};
    members.detach = {20};
    check(members,
          "6600000047000000080706050403020188776655443322110400000000000000"
          "020015000000000000000c000000000000000500000000100000000000000116"
          "000000000000000d000000000000000600000000200000000000000001001400"
          "000000000000");
    Attached attached;
    attached.subscription = 31;
    attached.attachment = 32;
    attached.publication = 33;
    attached.peer = 34;
    attached.index = 1;
    attached.waiter = 2;
    attached.slot = 3;
    attached.ring_bytes = 0x100000;
    attached.record_bytes_max = 0x3000;
    attached.start = 0x100040;
    attached.start_sequence = 79;
    attached.mode = static_cast<u8>(ReaderMode::latest);
    attached.lineage = id_from(0x10);
    attached.uid = 1000;
    attached.topic = "plant/7/temp";
    check(attached,
          "7b0000004800000008070605040302011f000000000000002000000000000000"
          "2100000000000000220000000000000001000000020000000300000000001000"
          "000000000030000040001000000000004f000000000000000210111213141516"
          "1718191a1b1c1d1e1fe80300000c00706c616e742f372f74656d70");
    check(Ended{32, static_cast<u8>(EndReason::publisher_gone)},
          "19000000490000000807060504030201200000000000000001");
    check(Stopping{},
          "100000004a0000000807060504030201");
    check(CaughtUp{kSome},
          "180000004b00000008070605040302018877665544332211");
}

TEST_CASE("frames of remote clients") {
    CHECK(kLoginTokenBytesMax == 256);
    CHECK(kDataBytesMax == 16352);
    CHECK(kStreamWindowBytes == 262144);
    check(Login{"secret"}, "180000005000000008070605040302010600736563726574");
    check(Replaces{kSome, id_from(0x10)},
          "28000000540000000807060504030201887766554433221110111213141516171819"
          "1a1b1c1d1e1f");
    check(Credit{kSome, 7}, "2000000052000000080706050403020188776655443322110700000000000000");
    check(Responders{kSome, 1, {9}, {77, 78}},
          "3500000055000000080706050403020188776655443322110101000900000000"
          "00000002004d000000000000004e00000000000000");
    check(Overtaken{kSome, 9, 16, 48},
          "3000000056000000080706050403020188776655443322110900000000000000"
          "10000000000000003000000000000000");
    check(Readers{kSome, 0x99aabbcc}, "1c0000005300000008070605040302018877665544332211ccbbaa99");
    Bytes data;
    encode_data_head(data, DataHead{kSome, 48}, 16);
    CHECK(hex(data) == "2c000000510000000000000000000000887766554433221130000000");
    data.resize(data.size() + 16, std::byte{'x'});
    DataHead head;
    std::span<const std::byte> bytes;
    REQUIRE(decode_data(fields_of(data), head, bytes));
    CHECK(head.stream == kSome);
    CHECK(head.offset == 48);
    CHECK(bytes.size() == 16);
    CHECK_FALSE(decode_data(fields_of(data).first(kDataHeadBytes - 1), head, bytes));
}

TEST_CASE("golden bytes, the state of the bus") {
    check(Look{static_cast<u8>(LookAt::publications), kSome, "plant/#"},
          "220000007000000008070605040302010288776655443322110700706c616e74"
          "2f23");
    const PageHead head{3, 9, 1};
    const PageHead last{0, 9, 0};
    check(ClientsPage{{7, 5000000000, 1}, {{12, 1000, 4321, 1, 2, 3, 4, 77, "pump"}}},
          "4e000000710000000807060504030201070000000000000000f2052a01000000"
          "0101000c00000000000000e8030000e110000001020000000300000004000000"
          "4d00000000000000040070756d70");
    check(PublicationsPage{last,
                           {{33, 34, 1000, kPublicationEnded | kPublicationBlocked, 2, 0x100000,
                             0x3000, 2, 77, 0x40040, 79, "plant/7/temp"}}},
          "6f00000072000000080706050403020100000000000000000900000000000000"
          "00010021000000000000002200000000000000e8030000030200001000000000"
          "0000300000020000004d0000000000000040000400000000004f000000000000"
          "000c00706c616e742f372f74656d70");
    check(SubscriptionsPage{last, {{31, 12, 1000, 2, 1, 5, "plant/#"}}},
          "4600000073000000080706050403020100000000000000000900000000000000"
          "0001001f000000000000000c00000000000000e80300000201050000000700"
          "706c616e742f23");
    check(AttachmentsPage{head,
                          {{32, 31, 33, 12, 34, 1, kAttachmentHolds | kAttachmentParked, 4096, 9,
                            70, 3, 6, "plant/7/temp"}}},
          "8300000074000000080706050403020103000000000000000900000000000000"
          "01010020000000000000001f0000000000000021000000000000000c00000000"
          "0000002200000000000000010500100000000000000900000000000000460000"
          "0000000000030000000000000006000000000000000c00706c616e742f372f74"
          "656d70");
}

TEST_CASE("a page of the longest entries is a frame") {
    const auto bytes_of = [](const auto& page) {
        Bytes bytes;
        encode(bytes, page, 1);
        return bytes.size();
    };
    const std::string topic(kTopicBytesMax, 'x');
    ClientsPage clients;
    clients.entries.resize(kClientsPerPageMax);
    for (ClientEntry& entry : clients.entries) {
        entry.name = std::string(kClientNameBytesMax, 'x');
    }
    PublicationsPage publications;
    publications.entries.resize(kPublicationsPerPageMax);
    for (PublicationEntry& entry : publications.entries) {
        entry.topic = topic;
    }
    SubscriptionsPage subscriptions;
    subscriptions.entries.resize(kSubscriptionsPerPageMax);
    for (SubscriptionEntry& entry : subscriptions.entries) {
        entry.filter = topic;
    }
    AttachmentsPage attachments;
    attachments.entries.resize(kAttachmentsPerPageMax);
    for (AttachmentEntry& entry : attachments.entries) {
        entry.topic = topic;
    }
    CHECK(bytes_of(clients) <= kFrameBytesMax);
    CHECK(bytes_of(publications) <= kFrameBytesMax);
    CHECK(bytes_of(subscriptions) <= kFrameBytesMax);
    CHECK(bytes_of(attachments) <= kFrameBytesMax);
    CHECK(bytes_of(attachments) > kFrameBytesMax - 400);  // and no smaller than need be
}

TEST_CASE("strings are bounded, whatever their count says") {
    Hello hello;
    const Bytes before(16, std::byte{0});
    CHECK(decodes({before, counted(0, 0)}, hello));
    CHECK(decodes({before, counted(64, 64)}, hello));
    CHECK(hello.name == std::string(64, 'x'));
    CHECK_FALSE(decodes({before, counted(65, 65)}, hello));
    CHECK_FALSE(decodes({before, counted(64, 63)}, hello));
    CHECK_FALSE(decodes({before, counted(0xffff, 64)}, hello));
    CHECK_FALSE(decodes({before, counted(0xffff, 0xffff)}, hello));
    CHECK_FALSE(decodes({before, counted(63, 64)}, hello));

    Subscribe subscribe;
    const Bytes mode(1, std::byte{0});
    CHECK(decodes({counted(255, 255), mode}, subscribe));
    CHECK_FALSE(decodes({counted(256, 256), mode}, subscribe));
    CHECK_FALSE(decodes({counted(0xffff, 255), mode}, subscribe));

    ErrorFrame error;
    const Bytes code(4, std::byte{0});
    CHECK(decodes({code, counted(512, 512)}, error));
    CHECK_FALSE(decodes({code, counted(513, 513)}, error));
}

TEST_CASE("lists are bounded, whatever their count says") {
    Members members;
    const Bytes before(16, std::byte{0});
    const std::size_t item = 29;
    const Bytes none = counted(0, 0);
    CHECK(decodes({before, none, none}, members));
    CHECK(decodes({before, counted(256, 256 * item), none}, members));
    CHECK(members.attach.size() == 256);
    CHECK(decodes({before, none, counted(256, 256 * 8)}, members));
    CHECK(members.attach.empty());
    CHECK(members.detach.size() == 256);
    CHECK_FALSE(decodes({before, counted(257, 257 * item), none}, members));
    CHECK_FALSE(decodes({before, none, counted(257, 257 * 8)}, members));
    CHECK_FALSE(decodes({before, counted(0xffff, 0)}, members));
    CHECK_FALSE(decodes({before, none, counted(0xffff, 12)}, members));

    // A whole frame of the largest lists is within the bound of a frame.
    members.attach.resize(256);
    members.detach.resize(256);
    Bytes frame;
    encode(frame, members, 1);
    CHECK(frame.size() == 16 + 16 + 2 + 256 * item + 2 + 256 * 8);
    CHECK(frame.size() <= kFrameBytesMax);
}

TEST_CASE("frames are appended, each with its own length") {
    Bytes stream;
    encode(stream, Done{}, 1);
    CHECK(stream.size() == 16);
    encode(stream, Taken{1, 2}, 3);
    CHECK(stream.size() == 16 + 32);
    CHECK(stream[0] == std::byte{16});
    CHECK(stream[16] == std::byte{32});
}
