// SPDX-License-Identifier: Apache-2.0
// Connections and clients, from HELLO to the end. See bus.hpp.
#include "bus.hpp"

#include "log.hpp"

#include "sys/clock.hpp"

#include <sys/random.h>
#include <sys/resource.h>

#include <algorithm>

namespace ipcbus::daemon {

namespace {

/// A connection's descriptors here: socket and pidfd.
constexpr Amounts kConnectionCost{.clients = 1, .descriptors = 2};
/// One of its pages that is ours until MAPPED.
constexpr Amounts kUnsealedCost{.descriptors = 1};
/// And those of its pages that peers are sent, which may outlive it: cursor page and doorbell page.
constexpr Amounts kPagesCost{.descriptors = 2};
constexpr unsigned kWelcomeFds = 3;
constexpr uid_t kUnknownUid = static_cast<uid_t>(-1);
/// A process that is only waited for.
constexpr Amounts kLingeringCost{.clients = 1, .descriptors = 1};

template <class Frame>
sys::Result<void> check_versions(const Frame& frame) {
    if (frame.protocol_major == protocol::kProtocolMajor &&
        frame.layout_version == protocol::kLayoutVersion) {
        return {};
    }
    return sys::fail(EPROTONOSUPPORT,
                     fmt::format("the client speaks protocol {} with memory layout {}, this bus "
                                 "protocol {} with memory layout {}: update the older one",
                                 frame.protocol_major, frame.layout_version,
                                 protocol::kProtocolMajor, protocol::kLayoutVersion));
}

}  // namespace

sys::Result<protocol::Id128> random_id() {
    protocol::Id128 id{};
    for (std::size_t have = 0; have < id.size();) {
        const ssize_t got = ::getrandom(id.data() + have, id.size() - have, 0);
        if (got < 0 && errno != EINTR) {
            return sys::fail_errno("getrandom");
        }
        have += got > 0 ? static_cast<std::size_t>(got) : 0;
    }
    return id;
}

bool equal(const protocol::Id128& a, const protocol::Id128& b) {
    unsigned difference = 0;
    for (std::size_t i = 0; i < a.size(); i++) {
        difference |= static_cast<unsigned>(a[i] ^ b[i]);
    }
    return difference == 0;
}

sys::Result<std::unique_ptr<Bus>> Bus::create(EventLoop& loop, const Config& config) {
    rlimit descriptors{};
    if (::getrlimit(RLIMIT_NOFILE, &descriptors) != 0) {
        return sys::fail_errno("getrlimit");
    }
    std::unique_ptr<Bus> bus(new Bus(loop, config, descriptors.rlim_cur));
    bus->bus_id_ = IPCBUS_TRY(random_id());
    return bus;
}

Bus::Bus(EventLoop& loop, const Config& config, std::uint64_t descriptors_max)
    : loop_(loop),
      config_(config),
      quota_(config.limits),
      fd_budget_(descriptors_max),
      pool_(loop, quota_),
      lingering_(loop),
      scope_(loop),
      stall_timer_(scope_, [this] { stall_time_over(); }),
      drain_timer_(scope_, [this] { look_whether_drained(); }),
      retry_timer_(scope_, [this] { retry_all(); }) {
    quota_.set_relief([this] { return give_way(); });
    pool_.configure(config.publications.ring_bytes, config.publications.rings_ready);
    pool_.fill();
    make_spare_pages();
}

Bus::~Bus() = default;

void Bus::set_config(const Config& config) {
    const bool access_changed = config_.access != config.access;
    config_ = config;
    if (access_changed) {
        apply_access();
    }
    quota_.set_limits(config.limits);
    pool_.configure(config.publications.ring_bytes, config.publications.rings_ready);
}

Client* Bus::find_client(Id id) {
    const auto found = clients_.find(id);
    return found == clients_.end() ? nullptr : found->second.get();
}

protocol::Geometry Bus::geometry() const {
    const auto bounded = [](std::uint64_t value, protocol::u32 most) {
        return static_cast<protocol::u32>(std::clamp<std::uint64_t>(value, 1, most));
    };
    return {bounded(config_.limits.waiters_per_client, protocol::kWaitersMax),
            bounded(config_.limits.per_uid.publications, protocol::kPublicationsMax),
            bounded(config_.limits.attachments_per_client, protocol::kAttachmentsMax)};
}

// ----------------------------------------------------------------------------------- connections

void Bus::connect(sys::UniqueFd socket, PeerIdentity peer) {
    auto made =
        std::make_unique<Session>(*this, loop_, fd_budget_, std::move(socket), std::move(peer));
    Session& session = *made;
    sessions_.emplace(&session, std::move(made));
    // Counted from the first moment: who connects and says nothing costs as much as a client.
    const auto counted = connect_rate_.count(session.uid(), config_.limits.uid_connects_per_second,
                                             sys::monotonic_ns());
    auto charge = counted.ok() ? quota_.charge(session.uid(), kConnectionCost, "connection")
                               : sys::Result<Charge>(counted.error());
    if (!charge.ok()) {
        session.start(Charge{});
        session.fail(0, charge.error());
        return;
    }
    session.start(std::move(charge).value());
}

/// Its process cannot be found out, for want of something here: it is told, and not counted.
void Bus::refuse_connection(sys::UniqueFd socket, const sys::Error& error) {
    PeerIdentity unknown;
    unknown.uid = kUnknownUid;
    auto made =
        std::make_unique<Session>(*this, loop_, fd_budget_, std::move(socket), std::move(unknown));
    Session& session = *made;
    sessions_.emplace(&session, std::move(made));
    session.start(Charge{});
    session.fail(0, with_remedy("connection", error));
}

// --------------------------------------------------------------------------------------- clients

void Bus::hello(Session& session, std::uint64_t request, const protocol::Hello& frame) {
    if (auto good = check_versions(frame); !good.ok()) {
        session.fail(request, good.error());
        return;
    }
    if (std::any_of(frame.name.begin(), frame.name.end(),
                    [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; })) {
        session.fail(request, sys::fail(EINVAL, "the client's name has control characters"));
        return;
    }
    if (fd_budget_.left(session.uid(), true) < kWelcomeFds) {
        session.fail(request,
                     sys::fail(EMFILE, fmt::format("too many descriptors are on the way to uid {}: "
                                                   "its other connections do not read",
                                                   session.uid())));
        return;
    }
    auto pages_charge = quota_.charge(session.uid(), kPagesCost, "client");
    if (!pages_charge.ok()) {
        session.fail(request, pages_charge.error());
        return;
    }
    auto unsealed_charge = quota_.charge(session.uid(), kUnsealedCost, "client");
    if (!unsealed_charge.ok()) {
        session.fail(request, unsealed_charge.error());
        return;
    }
    auto token = random_id();
    auto memory = take_pages();
    if (!token.ok() || !memory.ok()) {
        session.fail(request, token.ok() ? with_remedy("client", memory.error()) : token.error());
        return;
    }
    const Id id = registry_.next_id();
    memory.value().give_to(id, std::move(pages_charge).value(), std::move(unsealed_charge).value());
    auto made = std::make_unique<Client>(id, session.uid(), frame.name, std::move(memory).value());
    Client& client = *made;
    client.token = token.value();
    client.identity = session.identity();
    client.access = Access(config_.access, client.identity);
    clients_.emplace(id, std::move(made));
    session.serve(client);
    log_debug("{} connected, pid {}", client.describe(), session.pid());
    welcome(client, request, false);
}

/// Making them takes a third of the time that HELLO takes: done ahead, like rings (RingPool).
sys::Result<ClientMemory> Bus::take_pages() {
    if (!std::exchange(spare_deferred_, true)) {
        loop_.defer(scope_, [this] {
            spare_deferred_ = false;
            make_spare_pages();
        });
    }
    spare_charge_.reset();
    std::optional<ClientMemory> spare = std::exchange(spare_pages_, std::nullopt);
    if (spare && spare->geometry() == geometry()) {
        return std::move(*spare);
    }
    return ClientMemory::create(geometry());
}

void Bus::make_spare_pages() {
    if (spare_pages_ || stopping_) {
        return;
    }
    spare_charge_ = quota_.charge_bus(Amounts{.descriptors = 3});
    if (!spare_charge_) {
        return;
    }
    auto made = ClientMemory::create(geometry());
    if (made.ok()) {
        spare_pages_ = std::move(made).value();
    } else {
        spare_charge_.reset();  // the next client is told why, if that fails as well
    }
}

/// Something that is ready for whoever comes, for one who needs it now.
bool Bus::give_way() {
    if (pool_.give_way()) {
        return true;
    }
    const bool something = spare_charge_ ? true : false;
    spare_pages_.reset();
    spare_charge_.reset();
    return something;
}

void Bus::welcome(Client& client, std::uint64_t request, bool resumed) {
    protocol::Welcome frame;
    frame.bus = bus_id_;
    frame.client = client.id;
    frame.token = client.token;
    frame.geometry = client.memory.geometry();
    frame.stall_timeout_ns = config_.publications.stall_timeout_ns;
    frame.resumed = resumed ? 1 : 0;
    if (resumed) {
        client.session->reply(frame, request);
    } else {
        client.session->outbox().add(frame, request, client.memory.descriptors(),
                                     {.what = Outbox::Told::What::welcome});
        client.session->touch();
    }
}

void Bus::resume(Session& session, std::uint64_t request, const protocol::Resume& frame) {
    if (auto good = check_versions(frame); !good.ok()) {
        session.fail(request, good.error());
        return;
    }
    Client* client = find_client(frame.client);
    if (client == nullptr || !equal(client->token, frame.token) || client->uid != session.uid()) {
        session.refuse(request, sys::fail(ENOENT, "no such client here: say HELLO"));
        return;
    }
    Session& old = *client->session;
    if (client->attaching) {
        client->attaching->request = 0;
    }
    if (old.pid() != session.pid() || old.pid() == 0) {  // 0: not visible from here, any process
        linger(*client, old);                            // that process has it mapped, too
    }
    old.leave_client();
    session.serve(*client);
    if (may_log()) {
        log_info("{} resumed, pid {}", client->describe(), session.pid());
    }
    welcome(*client, request, true);
    tell_again(*client, old.outbox());
    old.close();
    session.touch();
}

/// What the old connection may have lost is told once more; the client knows by ids what is new.
void Bus::tell_again(Client& client, const Outbox& lost) {
    for (const Outbox::Told& told : lost.unacknowledged()) {
        if (told.what == Outbox::Told::What::peer) {
            client.untell_peer(told.id, told.pages);
        } else if (told.what == Outbox::Told::What::attached) {
            Attachment* attachment = attachments_.find(told.id);
            // One whose ring cannot be shown any more has ended, which is told again. The client
            // may have it all the same: it is over when the client says so.
            if (attachment != nullptr && attachment->reader_end == Attachment::Reader::told &&
                attachment->publication->readable()) {
                set_reader_end(*attachment, Attachment::Reader::ready);
                if (attachment->subscription->history != 0) {
                    await(*attachment);
                }
                tell_reader(*attachment);
            }
        }
    }
    for (auto& [id, subscription] : client.subscriptions) {
        for (Attachment* attachment : subscription.attachments.all()) {
            if (attachment->end_told) {
                attachment->end_told = false;
                subscription.ends_owed++;
                tell_reader(*attachment);
            }
        }
        tell_caught_up(subscription);
    }
    for (const auto& [id, publication] : client.publications) {
        publication->membership.tell_again();
        client.publications_to_tell.emplace(id, publication);
    }
}

void Bus::client_gone(Session& session) {
    Client* client = session.client();
    if (client == nullptr) {
        return;
    }
    log_debug("{} has gone", client->describe());
    linger(*client, session);
    session.leave_client();
    while (!client->publications.empty()) {
        end_publication(*client->publications.begin()->second);
    }
    while (!client->subscriptions.empty()) {
        end_subscription(*client, client->subscriptions.begin()->second);
    }
    clients_.erase(client->id);
}

/// Rings that the process may go on mapping stay charged until it is dead.
void Bus::linger(Client& client, Session& session) {
    if (session.process_dead()) {
        return;
    }
    std::vector<SharedCharge> rings;
    for (const auto& [id, publication] : client.publications) {
        if (publication->state() != Publication::State::making) {
            rings.push_back(publication->charge());
        }
    }
    for (auto& [id, subscription] : client.subscriptions) {
        for (const Attachment* attachment : subscription.attachments.all()) {
            if (attachment->shown) {
                rings.push_back(attachment->publication->charge());
            }
        }
    }
    if (rings.empty()) {
        return;
    }
    // Without a pidfd there is nothing to wait for but the hang-up.
    if (session.pidfd()) {
        auto connection = quota_.charge(client.uid, kLingeringCost, "process");
        lingering_.add(session.pid(), client.uid, session.pidfd(),
                       connection.ok() ? std::move(connection).value() : Charge{}, rings);
    }
}

// -------------------------------------------------------------------------------------- refusals

sys::Error Bus::stopping_error() {
    return sys::fail(ESHUTDOWN, "the bus is stopping: nothing new is begun");
}

/// What the system refused, with what an administrator can do about it.
sys::Error Bus::with_remedy(std::string_view what, const sys::Error& error) {
    const std::string_view remedy =
        error.code == EMFILE ? "; raise the daemon's RLIMIT_NOFILE (LimitNOFILE=)"
        : error.code == ENOMEM || error.code == ENOSPC
            ? "; the host, or the daemon's MemoryMax=, has too little memory for this bus"
            : "";
    return sys::fail(error.code, fmt::format("{}: {}{}", what, error.what, remedy));
}

}  // namespace ipcbus::daemon
