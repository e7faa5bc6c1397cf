// SPDX-License-Identifier: Apache-2.0
// Asking the daemon. See inquiry.hpp. One thread.
#include "stat/inquiry.hpp"

#include "stop_signal.hpp"
#include "sys/address.hpp"
#include "sys/fd_passing.hpp"

#include <array>
#include <cerrno>
#include <ctime>
#include <poll.h>

namespace ipcbus::stats {

using protocol::FrameHeader;
using protocol::FrameReader;
using sys::fail;
using sys::Result;

namespace {

/// A daemon that has not answered by then is treated as one that is gone, as in libipcbus.
constexpr i64 kAnswerTimeoutNs = 10'000'000'000;

sys::Error no_daemon() { return fail(EPROTO, "the daemon does not answer as ipcbusd does"); }

i64 since_1970_ns() {
    timespec now{};
    (void)::clock_gettime(CLOCK_REALTIME, &now);
    return i64{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

Result<Inquiry> Inquiry::open(const std::string& address, const std::string& name, i64 timeout_ns) {
    if (name.size() > protocol::kClientNameBytesMax) {
        return fail(EINVAL, "a client's name has at most 64 bytes");
    }
    const std::string address_text = address.empty() ? sys::default_address() : address;
    const sys::Address where = IPCBUS_TRY(sys::parse_address(address_text));
    if (where.kind != sys::Address::Kind::unix_socket) {
        return fail(EINVAL, "'" + address_text +
                                "': statistics do not cross TCP: run ipcbus-stat on "
                                "the host of the bus, with --address unix:PATH");
    }
    Inquiry inquiry;
    inquiry.socket_ = IPCBUS_TRY(sys::connect_unix(where.path, timeout_ns));
    IPCBUS_TRY(inquiry.greet(name));
    return inquiry;
}

Result<void> Inquiry::greet(const std::string& name) {
    protocol::Hello hello;
    hello.name = name;
    IPCBUS_TRY(send(hello));
    welcome_ = IPCBUS_TRY(answer<protocol::Welcome>());
    IPCBUS_TRY(send(protocol::Received{fds_received_}));
    if (welcome_.protocol_minor < protocol::kMinorLook) {
        return fail(EPROTONOSUPPORT,
                    "this ipcbusd speaks protocol " + std::to_string(welcome_.protocol_major) +
                        "." + std::to_string(welcome_.protocol_minor) +
                        ", and statistics come with " + std::to_string(protocol::kProtocolMajor) +
                        "." + std::to_string(protocol::kMinorLook) + ": update it");
    }
    return {};
}

template <class Frame>
Result<void> Inquiry::send(const Frame& frame) {
    std::vector<std::byte> bytes;
    protocol::encode(bytes, frame, ++request_);
    for (std::span<const std::byte> rest = bytes; !rest.empty();) {
        Result<std::size_t> sent = sys::send_with_fds(socket_.get(), rest, {});
        if (sent.ok()) {
            rest = rest.subspan(sent.value());
        } else if (sent.error().code != EINTR) {
            return fail(ESHUTDOWN, "the daemon closed the connection");
        } else if (tools::stop_signal() != 0) {
            return std::move(sent.error());
        }
    }
    return {};
}

/// More bytes for the reader. Descriptors that come along (WELCOME has some) are closed.
Result<void> Inquiry::receive(const sys::Deadline& deadline) {
    std::array<std::byte, protocol::kFrameBytesMax> bytes;
    while (true) {
        std::vector<sys::UniqueFd> fds;
        Result<std::size_t> got = sys::receive_with_fds(socket_.get(), bytes, fds, true);
        fds_received_ += static_cast<protocol::u32>(fds.size());
        if (got.ok() && got.value() > 0) {
            reader_.add(std::span(bytes).first(got.value()));
            return {};
        }
        if (got.ok() || got.error().code == ECONNRESET) {
            return fail(ESHUTDOWN, "the daemon closed the connection");
        }
        if (got.error().code != EAGAIN && got.error().code != EINTR) {
            return std::move(got.error());
        }
        if (tools::stop_signal() != 0) {
            return fail(EINTR, "a signal came");
        }
        if (deadline.passed()) {
            return fail(ETIMEDOUT, "the daemon does not answer");
        }
        pollfd wait{socket_.get(), POLLIN, 0};
        (void)::poll(&wait, 1, static_cast<int>(deadline.remaining_ns() / 1'000'000) + 1);
    }
}

/// To the last request. What the daemon says by itself in between is none of ours.
template <class Frame>
Result<Frame> Inquiry::answer() {
    const sys::Deadline deadline = sys::Deadline::after(kAnswerTimeoutNs);
    while (true) {
        FrameHeader header;
        std::span<const std::byte> fields;
        const FrameReader::Status status = reader_.next(header, fields);
        if (status == FrameReader::Status::malformed) {
            return no_daemon();
        }
        if (status == FrameReader::Status::need_more) {
            IPCBUS_TRY(receive(deadline));
        } else if (header.type == protocol::FrameType::error) {
            protocol::ErrorFrame error;
            if (!protocol::decode(fields, error) || error.code == 0 || error.code > 4095) {
                return no_daemon();
            }
            return fail(static_cast<int>(error.code), std::move(error.text));
        } else if (header.request == request_) {
            Frame frame;
            if (header.type != Frame::kType || !protocol::decode(fields, frame)) {
                return no_daemon();
            }
            return frame;
        }
    }
}

template <class Page, class Entry>
Result<void> Inquiry::ask(protocol::LookAt at, const std::string& filter,
                          std::vector<Timed<Entry>>& ret_entries, bool& ret_all) {
    u64 after = 0;
    do {
        IPCBUS_TRY(send(protocol::Look{static_cast<protocol::u8>(at), after, filter}));
        Page page = IPCBUS_TRY(answer<Page>());
        if (page.head.next != 0 && page.head.next <= after) {
            return no_daemon();  // it would never end
        }
        for (Entry& entry : page.entries) {
            ret_entries.push_back({std::move(entry), page.head.time_ns});
        }
        ret_all = ret_all && page.head.all != 0;
        after = page.head.next;
    } while (after != 0);
    std::sort(ret_entries.begin(), ret_entries.end(),
              [](const auto& a, const auto& b) { return id_of(a.entry) < id_of(b.entry); });
    return {};
}

Result<State> Inquiry::look(const std::string& filter) {
    State state;
    state.bus = welcome_.bus;
    state.own_client = welcome_.client;
    state.since_1970_ns = since_1970_ns();
    using protocol::LookAt;
    IPCBUS_TRY(ask<protocol::ClientsPage>(LookAt::clients, filter, state.clients, state.all));
    IPCBUS_TRY(ask<protocol::PublicationsPage>(LookAt::publications, filter, state.publications,
                                               state.all));
    IPCBUS_TRY(ask<protocol::SubscriptionsPage>(LookAt::subscriptions, filter, state.subscriptions,
                                                state.all));
    IPCBUS_TRY(
        ask<protocol::AttachmentsPage>(LookAt::attachments, filter, state.attachments, state.all));
    return state;
}

}  // namespace ipcbus::stats
