// SPDX-License-Identifier: Apache-2.0
// RemoteClient: speaks the control protocol over TCP, frame by frame, without the library: so a
// test can be as slow, wrong or hostile as it likes. One test, one thread.
#pragma once

#include "raw_client.hpp"

namespace ipcbus::test {

/// A plain connection to "tcp:HOST:PORT". `receive_bytes`: its socket's buffer, 0 the system's.
/// `from`: the address of this host to come from.
[[nodiscard]] sys::UniqueFd connect_raw(const std::string& address, int receive_bytes = 0,
                                        const char* from = nullptr);
/// Whether the other end hangs up in time; what it says before is passed over.
[[nodiscard]] bool hung_up(const sys::UniqueFd& socket, int timeout_ms = kTimeoutMs);

class RemoteClient {
public:
    /// HELLO, WELCOME.
    explicit RemoteClient(const std::string& address, int receive_bytes = 0,
                          const char* from = nullptr);

    template <class Frame>
    void send(const Frame& frame, protocol::u64 request) {
        std::vector<std::byte> bytes;
        protocol::encode(bytes, frame, request);
        say(socket_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    /// Sends a request; its answer, whatever else comes before it.
    template <class Frame>
    Incoming ask(const Frame& frame) {
        send(frame, ++request_);
        return answer();
    }
    /// The next frame of that type; others are passed over.
    template <class Frame>
    Frame expect() {
        for (;;) {
            if (const Incoming incoming = next(); incoming.header.type == Frame::kType) {
                return decoded<Frame>(incoming);
            }
        }
    }
    /// The next frame. A hang-up ends the test.
    Incoming next();
    /// The next frame of what has come, if a whole one has: nothing is waited for.
    std::optional<Incoming> next_if_there();
    [[nodiscard]] const sys::UniqueFd& socket() const { return socket_; }

    static void say(const sys::UniqueFd& socket, std::string_view bytes);
    /// All that comes until the other end hangs up, which it must.
    static std::string heard(const sys::UniqueFd& socket);

private:
    Incoming answer();

    sys::UniqueFd socket_;
    protocol::FrameReader reader_;
    protocol::u64 request_ = 0;
};

}  // namespace ipcbus::test
