// SPDX-License-Identifier: Apache-2.0
// Accepts connections on Unix stream sockets: its own ones, made from the configuration, or those
// inherited from the service manager. Says who each peer is, by the kernel's word: credentials and
// a pidfd, both of the process that called connect(). Owned by the broker, the daemon's one thread.
#pragma once

#include "event_loop.hpp"
#include "operations.hpp"

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ipcbus::daemon {

/// Who connected. The pidfd is readable once that process has died; it is invalid only if the
/// process was gone, or not visible from here, when we looked: treat such a peer by its hang-up.
struct PeerIdentity {
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups = {};  ///< supplementary ones
    pid_t pid = 0;
    sys::UniqueFd pidfd;
    bool remote = false;  ///< behind TCP: uid is no user of this host (remote_hub.hpp), pid 0
    std::string subject = {};  ///< of its certificate, or
    std::string token = {};    ///< the name of its token
};

/// Asks the kernel about the other end of a connected Unix socket.
[[nodiscard]] sys::Result<PeerIdentity> identify_peer(int socket);

struct ListenOptions {
    /// "unix:/path"; ignored if anything was inherited: the service manager has chosen then.
    std::vector<std::string> addresses = {};
    unsigned mode = 0666;
    /// Listening Unix stream sockets (notify.hpp: take_inherited_sockets).
    std::vector<sys::UniqueFd> inherited = {};
};

class Listener {
public:
    /// An error: whose it is cannot be found out, and it shall be refused.
    using OnConnection = std::function<void(sys::UniqueFd socket, sys::Result<PeerIdentity> peer)>;

    /// Binds and listens on all addresses, or on none; accepts from the first turn on.
    [[nodiscard]] static sys::Result<std::unique_ptr<Listener>>
    create(EventLoop& loop, ListenOptions options, OnConnection on_connection);
    ~Listener();

    /// Stops accepting, closes the sockets, removes the socket files that it made itself.
    void stop();
    /// Where clients reach us, for the log: "unix:/run/ipcbus/bus.sock".
    [[nodiscard]] std::vector<std::string> addresses() const;

private:
    struct Socket;
    /// Something that fails and works by turns: said seldom, for clients may be what makes it so.
    class Trouble {
    public:
        /// It has failed: whether to say so.
        bool begins();
        /// It works: whether to say so, because the contrary was said.
        bool ends() { return std::exchange(said_, false); }

    private:
        bool said_ = false;
        std::optional<std::int64_t> said_ns_;
    };

    Listener(EventLoop& loop, OnConnection on_connection);
    void add(sys::UniqueFd fd, std::string path, bool made_here);
    void accepted(sys::UniqueFd fd);
    void accept_failed(Socket& socket, int error);

    OnConnection on_connection_;
    OperationScope scope_;
    std::vector<std::unique_ptr<Socket>> sockets_;
    bool stopped_ = false;
    Trouble refusing_;
};

}  // namespace ipcbus::daemon
