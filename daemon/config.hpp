// SPDX-License-Identifier: Apache-2.0
// The configuration: TOML in, an immutable Config out, or every error of the file at once. Each key
// carries a tag that says when a changed value takes effect (see ipcbusd.toml(5), where each key is
// described). Pure: reads one file, touches nothing else; no thread rules.
//
// Keys, by the names that errors, logs and the man page use:
//   listen.sockets listen.mode                                             restart
//   tcp.listen tcp.listen_tls tcp.insecure                                 restart
//   tcp.{clients,mappings,handshake_timeout,dead_peer_timeout,token_file}  live
//   tcp.{certificate,key,client_ca,client_certificates}                    live
//   log.level log.target                                                   live
//   statistics.visible                                                     live
//   access.{local,remote}, [[rule]]                                        live
//   publications.ring_bytes publications.ring_bytes_max
//   publications.stall_timeout, [[ring]] filter bytes bytes_max record_bytes_max   new objects
//   publications.rings_ready                                               live
//   limits.{clients,publications,subscriptions,descriptors,ring_bytes}     live
//   limits.{unread_reply_bytes,drain_timeout}                              live
//   limits.{attachments_per_client,waiters_per_client}                     new objects
//   limits.per_uid.{clients,publications,subscriptions,descriptors,ring_bytes}     live
#pragma once

#include "access.hpp"
#include "surroundings.hpp"
#include "sys/result.hpp"
#include "sys/tcp.hpp"
#include "sys/tls_context.hpp"
#include "tokens.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ipcbus::daemon {

enum class LogLevel { error, warning, info, debug };

struct ListenConfig {
    /// Addresses, "unix:/path".
    std::vector<std::string> sockets;
    std::uint64_t mode = 0666;
};

/// Remote clients: none, unless `listen` (plain text) or `listen_tls` says where.
struct TcpConfig {
    std::vector<sys::TcpEndpoint> listen;
    std::vector<sys::TcpEndpoint> listen_tls;
    /// In clear text over a network: has to be said in so many words.
    bool insecure = false;
    std::uint64_t clients = 1024;
    /// Of one host: more are refused.
    std::uint64_t connects_per_second = 500;
    /// Of memory, for all of them. The bus itself needs 45,056 at most of the 65,530 that a process
    /// may have (vm.max_map_count).
    std::uint64_t mappings = 16384;
    std::uint64_t handshake_timeout_ns = 10'000'000'000;
    std::uint64_t dead_peer_timeout_ns = 30'000'000'000;
    std::string token_file;
    Tokens tokens;  ///< what that file says
    std::string certificate;
    std::string key;
    std::string client_ca;
    sys::ClientCertificates client_certificates = sys::ClientCertificates::none;
    std::shared_ptr<const sys::TlsContext> tls;  ///< what these files say; null: no certificate
};
/// Whether all of it may be listened on as it is; the error begins with the name of a key, and says
/// what to do.
[[nodiscard]] sys::Result<void> check_exposure(const TcpConfig& config);

struct LogConfig {
    LogLevel level = LogLevel::info;
    /// "stderr", "journal" or an absolute path.
    std::string target = "stderr";
};

struct StatisticsConfig {
    /// "all"; else "own": root and the daemon's user see everything, others what is theirs.
    bool visible_to_all = false;
};

struct PublicationsConfig {
    std::uint64_t ring_bytes = std::uint64_t{1} << 20;
    std::uint64_t ring_bytes_max = std::uint64_t{256} << 20;
    std::uint64_t stall_timeout_ns = 5'000'000'000;
    /// Rings of `ring_bytes` that are kept reserved for whoever comes next.
    std::uint64_t rings_ready = 4;
};

/// One [[ring]]: the first whose filter covers a publication's topic decides.
struct RingRule {
    std::string filter;
    std::uint64_t bytes = 0;
    std::uint64_t bytes_max = 0;
    /// 0: what the ring allows (protocol::record_bytes_max).
    std::uint64_t record_bytes_max = 0;
    bool operator==(const RingRule&) const = default;
};

/// What can be counted for the bus as a whole and for one uid.
struct CountedLimits {
    std::uint64_t clients = 0;
    std::uint64_t publications = 0;
    std::uint64_t subscriptions = 0;
    std::uint64_t descriptors = 0;
    std::uint64_t ring_bytes = 0;
};

struct LimitsConfig {
    CountedLimits total;
    CountedLimits per_uid;
    std::uint64_t uid_connects_per_second = 5000;
    std::uint64_t attachments_per_client = 32768;
    std::uint64_t waiters_per_client = 4096;
    /// Replies that a client asked for and has not read; more and it is disconnected.
    std::uint64_t unread_reply_bytes = std::uint64_t{64} << 10;
    std::uint64_t drain_timeout_ns = 5'000'000'000;
};

/// The size of one publication's ring.
struct RingSizing {
    std::uint64_t bytes = 0;
    std::uint64_t record_bytes_max = 0;
};

struct Config {
    ListenConfig listen;
    TcpConfig tcp;
    LogConfig log;
    StatisticsConfig statistics;
    /// Never null.
    std::shared_ptr<const AccessRules> access = std::make_shared<AccessRules>();
    PublicationsConfig publications;
    std::vector<RingRule> rings;
    LimitsConfig limits;

    /// The ring for a publication of this topic or filter. `requested_bytes` 0: the default;
    /// else it is rounded up to a power of two. Above the maximum: EDQUOT, and the text names
    /// topic, size, limit and the key to raise.
    [[nodiscard]] sys::Result<RingSizing> ring_for(std::string_view topic_or_filter,
                                                   std::uint64_t requested_bytes) const;
};

/// Names of limits as messages quote them: "limits.clients", "limits.per_uid.ring_bytes".
namespace key {
inline constexpr std::string_view kClients = "limits.clients";
inline constexpr std::string_view kPublications = "limits.publications";
inline constexpr std::string_view kSubscriptions = "limits.subscriptions";
inline constexpr std::string_view kDescriptors = "limits.descriptors";
inline constexpr std::string_view kRingBytes = "limits.ring_bytes";
inline constexpr std::string_view kAttachmentsPerClient = "limits.attachments_per_client";
inline constexpr std::string_view kWaitersPerClient = "limits.waiters_per_client";
inline constexpr std::string_view kUnreadReplyBytes = "limits.unread_reply_bytes";
inline constexpr std::string_view kTcpClients = "tcp.clients";
inline constexpr std::string_view kTcpConnects = "tcp.connects_per_second";
inline constexpr std::string_view kTcpMappings = "tcp.mappings";
inline constexpr std::string_view kUidClients = "limits.per_uid.clients";
inline constexpr std::string_view kUidConnects = "limits.per_uid.connects_per_second";
inline constexpr std::string_view kUidPublications = "limits.per_uid.publications";
inline constexpr std::string_view kUidSubscriptions = "limits.per_uid.subscriptions";
inline constexpr std::string_view kUidDescriptors = "limits.per_uid.descriptors";
inline constexpr std::string_view kUidRingBytes = "limits.per_uid.ring_bytes";
}  // namespace key

/// Either a config, or at least one error: "file:line:column: message".
struct LoadedConfig {
    std::optional<Config> config;
    std::vector<std::string> errors;
};

[[nodiscard]] Config default_config(const Surroundings& surroundings);
/// `name` is what errors call the text.
[[nodiscard]] LoadedConfig parse_config(std::string_view text, std::string_view name,
                                        const Surroundings& surroundings);
[[nodiscard]] LoadedConfig load_config(const std::string& path, const Surroundings& surroundings);

/// When a changed key takes effect.
enum class Tag { live, new_objects, restart };

struct Change {
    std::string key;
    std::string old_value;
    std::string new_value;
    Tag tag = Tag::live;
};

/// Every key whose value differs, values written as in the file.
[[nodiscard]] std::vector<Change> diff(const Config& old_config, const Config& new_config);

/// "1MiB", "5s", "500ms": as the file would say it.
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);
[[nodiscard]] std::string format_duration(std::uint64_t duration_ns);

}  // namespace ipcbus::daemon
