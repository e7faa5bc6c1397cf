// SPDX-License-Identifier: Apache-2.0
// Bridge: a connection to the daemon of another host, made to look like one to a daemon of this
// host. The library talks to it through a socket as it does to ipcbusd (link.hpp), gets pages and
// rings from it, and publishes and receives in these by the same code, instruction for instruction:
// what is remote is nobody's business but the bridge's. Made and held by a Bus; has a thread of its
// own, which owns everything below (and, where there is no io_uring, another: sys/alarm.hpp).
//
//   publisher, subscriber       the bridge's thread                            the daemon
//        |  rings, pages  <==>  one end of each ring, and  <==>  TCP  <==>  a RemoteSession
//        `-- Link ----- frames ----'  one end of each stream (protocol/stream.hpp)
//
// PUBLISHING. A publication's ring has one reader, the bridge, reliable, never demoted: it sends
// what it finds as far as the daemon's credit goes, so a publisher waits for room as it would for a
// slow reader of this host. RECEIVING. An attachment's ring is written by the bridge, from what the
// daemon reads on our behalf: with the sequences of the publisher's own ring, and with gaps where
// that one had lapped us. What can be lost is lost there; here all is reliable, and credit is given
// for what has been put into the ring.
//
// REQUESTS (protocol/exchange.hpp). A requester's ring is read whole, by the bridge: whom a request
// is to matters in the daemon's ring, which holds back for those alone. Who serves, the daemon
// tells by RESPONDERS; the library hears of them as members of the ring, and gets that only when
// they are known, so that it knows when there are none. Who serves no more has its last replies
// sent first.
//
// THE END. When the library hangs up, what was published goes out first, and the daemon says that
// it has it; wait_end() says how long that may take. When the daemon is lost, what has come is put
// into the rings, these are closed, so that readers go on in the next ones (lineage.hpp) and count
// what they missed; publications lose their reader, so that nobody waits for it; then the bridge
// hangs up, and the library looks for the daemon again as it always does: with another bridge.
#pragma once

#include "protocol/wire.hpp"
#include "sys/result.hpp"
#include "sys/tcp.hpp"
#include "sys/tls_context.hpp"
#include "sys/unique_fd.hpp"

#include <memory>
#include <string>
#include <thread>

namespace ipcbus::client {

struct BridgeOptions {
    sys::TcpEndpoint endpoint;
    std::string name;            ///< of the client
    std::string token;           ///< to log in with; empty: none
    protocol::Replaces earlier;  ///< the connection before this one; client 0: none
    std::int64_t connect_timeout_ns = 0;
    std::int64_t answer_timeout_ns = 0;
    std::shared_ptr<const sys::TlsContext> tls;  ///< null: in plain text
    std::string server_name;                     ///< that the daemon's certificate must be for
};

/// Who the library takes it for: the client that reads all its rings, and writes those it reads.
inline constexpr protocol::u64 kBridgeClient = ~protocol::u64{0};

class Bridge {
public:
    /// `greeting`: somebody has taken the connection, and is to say that it is an ipcbusd.
    enum class State { dialling, greeting, ready, failed, ended };

    /// Begins to connect, on the bridge's own thread.
    [[nodiscard]] static sys::Result<std::shared_ptr<Bridge>> dial(BridgeOptions options);
    /// Ends at once, if it has not ended. (A thread that the resolver does not let go is left to
    /// itself, with all that it needs: it ends when it can.)
    ~Bridge();
    Bridge(const Bridge&) = delete;
    Bridge& operator=(const Bridge&) = delete;

    /// Waits until it is another than `while_state`, or the time (negative: none) is over.
    State wait(State while_state, std::int64_t timeout_ns);
    /// After `failed`.
    [[nodiscard]] sys::Error why();
    /// The library's end, once. After `ready`.
    [[nodiscard]] sys::UniqueFd take_socket();
    /// The library has hung up: waits until everything published is with the daemon.
    void wait_end(std::int64_t timeout_ns);
    /// In a forked child there is no thread to wait for.
    [[nodiscard]] bool in_child() const;

private:
    struct Dial;
    explicit Bridge(std::shared_ptr<Dial> dial);

    const int process_;
    std::shared_ptr<Dial> dial_;  ///< the thread's, too
    std::thread thread_;
};

/// The token in the file that IPCBUS_TOKEN_FILE names; empty: there is no such variable. The last
/// word of the first line that is no comment, so that a line of the daemon's own file will do.
[[nodiscard]] sys::Result<std::string> token_from_environment();

}  // namespace ipcbus::client
