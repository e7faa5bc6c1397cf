// SPDX-License-Identifier: Apache-2.0
// TlsStream: one end of one TLS connection, as two functions over memory: feed() takes what came
// from the other side and gives what it says; seal() gives what is to be sent. It reads and sends
// nothing itself, waits for nothing, and belongs to whoever owns the socket, one thread.
//
//   socket -- bytes --> feed() -- plain --> frames        frames --> seal() -- bytes --> socket
//                         '-- answers of the handshake --------------> '
//
// HOSTILE is every byte that is fed. A handshake is bounded by kHandshakeBytesMax, what the other
// side makes us answer while it does not read by kUnsentBytesMax, an unfinished record by TLS
// itself (16 KiB); buffers are given back when they are empty. Whoever waits for a handshake bounds
// its time. Whatever is wrong ends the stream: the error says what, and what to do; seal() then
// gives the alert that tells the other side.
//
// A client believes a server only if its certificate leads to an authority of the context and names
// the server; a server believes a client's certificate only if it leads to one of its authorities.
// There is no way round either.
#pragma once

#include "sys/result.hpp"
#include "sys/tls_context.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

struct bio_st;
struct ssl_st;

namespace ipcbus::sys {

class TlsStream {
public:
    static constexpr std::size_t kHandshakeBytesMax = std::size_t{64} << 10;
    static constexpr std::size_t kUnsentBytesMax = std::size_t{64} << 10;
    /// What one takes of memory, at most, beside what is fed and sealed at a time.
    static constexpr std::size_t kMemoryBytes = std::size_t{128} << 10;
    /// The same before ready(): what the other side shows is kept, in parts and as a whole.
    static constexpr std::size_t kHandshakeMemoryBytes = std::size_t{512} << 10;

    /// The server's end, waiting for a client.
    [[nodiscard]] static Result<std::unique_ptr<TlsStream>>
    accept(std::shared_ptr<const TlsContext> context);
    /// The client's end, which speaks first: seal({}) has it. `server`: the name, or the number,
    /// that the server's certificate must be for.
    [[nodiscard]] static Result<std::unique_ptr<TlsStream>>
    connect(std::shared_ptr<const TlsContext> context, const std::string& server);

    ~TlsStream();
    TlsStream(const TlsStream&) = delete;
    TlsStream& operator=(const TlsStream&) = delete;

    /// Appends to `plain`. EACCES: a certificate is not believed, or is missing, the other's or
    /// ours; EPROTO: what came is no TLS, or breaks it; ENOMEM.
    Result<void> feed(std::span<const std::byte> bytes, std::vector<std::byte>& plain);
    /// What is due for the other side, and `plain` behind it, which must be empty before ready().
    [[nodiscard]] std::vector<std::byte> seal(std::span<const std::byte> plain);
    /// Whether seal({}) would give something.
    [[nodiscard]] bool due() const { return !out_.empty(); }
    /// Nothing more will be sealed: the other side is to know that this is the end.
    void close();
    /// There is nothing that it could still be told.
    [[nodiscard]] bool closed() const { return (closed_ || error_ || !ready_) && out_.empty(); }

    /// Both sides have proved what they must.
    [[nodiscard]] bool ready() const { return ready_; }
    /// What has ended it, if something has.
    [[nodiscard]] const std::optional<Error>& error() const { return error_; }
    /// The other side has said that nothing more comes.
    [[nodiscard]] bool ended() const { return ended_; }
    /// What came first is no TLS: perhaps it can be answered as what it is.
    [[nodiscard]] bool spoken_to_plainly() const { return plainly_; }
    /// The subject of the other side's certificate, as RFC 4514 writes it, once ready(); empty: it
    /// has shown none.
    [[nodiscard]] const std::string& peer() const { return peer_; }

private:
    struct Bio;
    struct Free {
        void operator()(ssl_st* ssl) const;
    };
    TlsStream(std::shared_ptr<const TlsContext> context, std::string server);
    Result<void> begin();
    Result<void> shake();
    Result<void> check_first(std::span<const std::byte> bytes);
    Result<void> know_peer();
    Error broken(int result);

    std::shared_ptr<const TlsContext> context_;
    std::string server_;  ///< that a client looks for
    std::unique_ptr<ssl_st, Free> ssl_;
    std::span<const std::byte> in_;  ///< of what is fed, what has not been taken
    std::vector<std::byte> out_;
    std::size_t handshake_bytes_ = 0;
    std::size_t first_bytes_ = 0;  ///< that have been looked at
    bool out_of_memory_ = false;
    bool too_much_ = false;
    bool ready_ = false;
    bool ended_ = false;
    bool closed_ = false;
    bool plainly_ = false;
    std::string peer_;
    std::optional<Error> error_;
};

/// Whether that may be the beginning of TLS; as far as it goes.
[[nodiscard]] bool may_be_tls(std::span<const std::byte> first_bytes);

}  // namespace ipcbus::sys
