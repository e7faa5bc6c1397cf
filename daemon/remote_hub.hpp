// SPDX-License-Identifier: Apache-2.0
// Remote clients: the TCP sockets that are listened on, who may come in, and the sessions that
// have. Owned by the broker, the daemon's one thread.
//
// Who connects is charged to its host from the first moment, as a local one is to its user. Until
// it has been greeted, anybody may have connected: of those there are a few at most, and when one
// more comes the oldest goes of the host that has the most; they take no place of tcp.clients.
//
// A remote client's identity is the subject of its certificate (TLS), or else the name of its
// token, or else the address of its host. From what it is and which of these, RemoteSession::uid(),
// follows a uid, from kRemoteUidFirst on, where no user of this host is: that is whose limits it is
// charged to, whose reliable claim is suspended when it stalls, and what its readers are told. The
// same identity has the same uid for ever, so a publication that comes back is known again.
#pragma once

#include "bus.hpp"
#include "connect_rate.hpp"
#include "remote_memory.hpp"
#include "remote_session.hpp"

#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace ipcbus::daemon {

inline constexpr uid_t kRemoteUidFirst = 0x80000000;

class RemoteHub {
public:
    /// Binds and listens, if the configuration wants it.
    [[nodiscard]] static sys::Result<std::unique_ptr<RemoteHub>> create(EventLoop& loop, Bus& bus,
                                                                        const Config& config);
    ~RemoteHub();

    void set_config(const Config& config);
    /// "tcp:127.0.0.1:4222", for the log.
    [[nodiscard]] std::vector<std::string> addresses() const;
    /// No new ones, and nobody who has not been greeted; the others end with the bus.
    void stop();
    /// Ends those that are left, without waiting.
    void close();

    // For sessions.
    [[nodiscard]] const TcpConfig& config() const { return config_; }
    [[nodiscard]] Bus& bus() { return bus_; }
    [[nodiscard]] const Tokens& tokens() const { return config_.tokens; }
    [[nodiscard]] std::uint64_t unread_bytes_max() const { return bus_.unread_bytes_max(); }
    [[nodiscard]] RemoteMemory& memory() { return memory_; }
    /// EDQUOT: all of tcp.clients are there.
    [[nodiscard]] sys::Result<void> room_for_one() const;
    /// Ends the session that its client says is over.
    void replace(const protocol::Replaces& earlier);
    /// It has been greeted, or is ending.
    void greeted(RemoteSession& session);
    void no_stranger(RemoteSession& session) { strangers_.remove(&session); }
    [[nodiscard]] static uid_t uid_of(const std::string& identity);
    /// Nothing of it is under way any more.
    void gone(RemoteSession& session);

private:
    struct Socket;
    RemoteHub(EventLoop& loop, Bus& bus, const TcpConfig& config);
    void accepted(sys::UniqueFd fd, bool tls);
    void refuse(sys::UniqueFd fd, bool tls, const sys::Error& error);
    void look_at_certificate();
    void accept_failed(Socket& socket, int error);
    void watch();
    void look_who_is_dead();
    [[nodiscard]] RemoteSession& who_gives_way() const;

    EventLoop& loop_;
    Bus& bus_;
    TcpConfig config_;
    RemoteMemory memory_;  ///< outlives the sessions
    OperationScope scope_;
    Timer watch_;
    Timer certificate_;                            ///< when it is to be looked at again
    ConnectRate connect_rate_{key::kTcpConnects};  ///< by the uids that stand for hosts
    std::vector<std::unique_ptr<Socket>> sockets_;
    std::unordered_map<RemoteSession*, std::unique_ptr<RemoteSession>> sessions_;
    std::list<RemoteSession*> strangers_;  ///< not greeted yet; the oldest first
    std::size_t greeted_ = 0;              ///< sessions that have been
    bool stopped_ = false;
};

}  // namespace ipcbus::daemon
