// SPDX-License-Identifier: Apache-2.0
// The daemon's end of TLS. What must hold: what comes before a handshake has ended, or is not what
// the client sealed, is never given out as said; what is kept and answered is bounded; an error is
// for ever. Input: how far a true client goes, where its bytes are changed, how they are cut, and
// what comes behind them.
#include "fuzz.hpp"

#include "certificates.hpp"
#include "sys/tls_stream.hpp"

#include <algorithm>
#include <string>
#include <vector>

using ipcbus::fuzz::Input;
using ipcbus::sys::ClientCertificates;
using ipcbus::sys::TlsContext;
using ipcbus::sys::TlsStream;

namespace {

using Bytes = std::vector<std::byte>;
constexpr std::size_t kAnswersMax = TlsStream::kUnsentBytesMax + 32768;

struct Contexts {
    Contexts() {
        const ipcbus::test::Certificate own = authority.issue();
        server = TlsContext::server({"certificate", own.certificate}, {"key", own.key},
                                    {"ca", authority.pem()}, ClientCertificates::optional)
                     .value();
        client = TlsContext::client({"ca", authority.pem()}, {}, {}).value();
    }
    ipcbus::test::Authority authority;
    std::shared_ptr<const TlsContext> server;
    std::shared_ptr<const TlsContext> client;
};

/// Gives the server all of it, in pieces; false: it wants no more.
bool feed(TlsStream& server, std::span<const std::byte> bytes, std::size_t piece, Bytes& heard) {
    while (!bytes.empty()) {
        const auto part = bytes.first(std::min(piece, bytes.size()));
        const bool good = server.feed(part, heard).ok();
        FUZZ_CHECK(good == !server.error().has_value());
        FUZZ_CHECK(heard.empty() || server.ready());
        if (!good) {
            const std::size_t before = heard.size();
            FUZZ_CHECK(!server.feed(part, heard).ok());
            FUZZ_CHECK(heard.size() == before);
            FUZZ_CHECK(server.seal({}).size() <= kAnswersMax);
            FUZZ_CHECK(server.closed());
            return false;
        }
        bytes = bytes.subspan(part.size());
    }
    return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const Contexts contexts;
    Input input(data, size);
    auto server = std::move(TlsStream::accept(contexts.server)).value();
    auto client = std::move(TlsStream::connect(contexts.client, "localhost")).value();
    const std::size_t flights = input.below(4);
    const std::size_t piece = std::size_t{1} + input.u16() % 20'000;
    const std::size_t changed = input.below(4);
    const std::size_t at = input.u16();
    const auto change = static_cast<std::byte>(input.byte());
    const std::string words(input.u16() % 40'000, 'w');
    Bytes heard;
    Bytes answers;
    for (std::size_t flight = 0; flight < flights; flight++) {
        Bytes said = client->ready()
                         ? client->seal(std::as_bytes(std::span(words.data(), words.size())))
                         : client->seal({});
        if (flight == changed && !said.empty()) {
            said[at % said.size()] ^= change;
        }
        if (!feed(*server, said, piece, heard)) {
            break;
        }
        FUZZ_CHECK(heard.size() <= flight * words.size());
        const Bytes answer = server->seal({});
        FUZZ_CHECK(answer.size() <= kAnswersMax);
        if (!client->feed(answer, answers).ok()) {
            break;
        }
    }
    // Never a word that was not said.
    FUZZ_CHECK(std::all_of(heard.begin(), heard.end(),
                           [](std::byte byte) { return byte == std::byte{'w'}; }));
    if (!server->error()) {
        const std::string_view noise = input.rest();
        const std::size_t before = heard.size();
        (void)feed(*server, std::as_bytes(std::span(noise.data(), noise.size())), piece, heard);
        FUZZ_CHECK(heard.size() == before);
    }
    return 0;
}
