// SPDX-License-Identifier: Apache-2.0
// For programs: JSON, and the text exposition format of Prometheus, version 0.0.4. What is unknown
// is left out. See report.hpp. One thread.
#include "stat/report.hpp"

#include "bench/json.hpp"
#include "format.hpp"

#include <array>
#include <cstdio>
#include <functional>

namespace ipcbus::stats {

namespace {

using bench::Json;

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

/// UTF-8 in any case.
std::string clean(std::string_view text) {
    std::string shown;
    while (!text.empty()) {
        std::size_t bytes = 1;
        while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) {
            bytes++;
        }
        const std::string_view one = text.substr(0, bytes);
        shown += tools::valid_utf8(one) ? one : kReplacement;
        text.remove_prefix(bytes);
    }
    return shown;
}

std::string_view mode_name(protocol::u8 mode) {
    constexpr std::array<std::string_view, 3> kNames{"reliable", "lossy", "latest"};
    return mode < kNames.size() ? kNames[mode] : "unknown";
}

void member(Json& json, std::string_view name, const Rate& rate) {
    if (rate) {
        json.member(name, *rate);
    }
}

void append_client(Json& json, const ClientRow& row) {
    const protocol::ClientEntry& entry = *row.entry;
    json.open('{').member("client", entry.client).member("uid", entry.uid);
    if (entry.pid != 0) {
        json.member("pid", entry.pid);
    }
    json.member("name", std::string_view(clean(entry.name)));
    if (!row.command.empty()) {
        json.member("command", std::string_view(clean(row.command)));
    }
    json.member("transport", entry.transport == 0 ? "shm" : "tcp")
        .member("publications", entry.publications)
        .member("subscriptions", entry.subscriptions)
        .member("waiters", entry.waiters)
        .member("sleeps", entry.sleeps);
    member(json, "sleeps_per_s", row.sleeps);
    json.close('}');
}

void append_publication(Json& json, const PublicationRow& row) {
    const protocol::PublicationEntry& entry = *row.entry;
    json.open('{')
        .member("publication", entry.publication)
        .member("client", entry.client)
        .member("uid", entry.uid)
        .member("topic", std::string_view(clean(entry.topic)))
        .member("kind", name_of_kind(entry.kind))
        .member("ring_bytes", entry.ring_bytes)
        .member("record_bytes_max", entry.record_bytes_max)
        .member("readers", entry.readers);
    if ((entry.flags & protocol::kPublicationDisbelief) == 0) {
        json.member("messages", entry.messages)
            .member("bytes", entry.bytes)
            .member("next_sequence", entry.sequence);
    }
    if (row.use) {
        json.member("ring_used", *row.use);
    }
    member(json, "messages_per_s", row.messages);
    member(json, "bytes_per_s", row.bytes);
    json.member("blocked", (entry.flags & protocol::kPublicationBlocked) != 0)
        .member("ended", (entry.flags & protocol::kPublicationEnded) != 0)
        .close('}');
}

void append_subscription(Json& json, const SubscriptionRow& row) {
    const protocol::SubscriptionEntry& entry = *row.entry;
    json.open('{')
        .member("subscription", entry.subscription)
        .member("client", entry.client)
        .member("uid", entry.uid)
        .member("filter", std::string_view(clean(entry.filter)))
        .member("kind", name_of_kind(entry.kind))
        .member("mode", mode_name(entry.mode))
        .member("attachments", entry.attachments);
    if (row.lag_bytes) {
        json.member("lag_bytes", *row.lag_bytes);
    }
    if (row.lag_messages) {
        json.member("lag_messages", *row.lag_messages);
    }
    json.member("received", row.received).member("lost", row.lost).member("sleeps", row.sleeps);
    member(json, "received_per_s", row.received_rate);
    member(json, "lost_per_s", row.lost_rate);
    member(json, "sleeps_per_s", row.sleep_rate);
    json.member("holds", row.holds)
        .member("overtaken", row.overtaken)
        .member("demoted", row.demoted)
        .member("asleep", row.asleep)
        .close('}');
}

void append_attachment(Json& json, const AttachmentRow& row) {
    const protocol::AttachmentEntry& entry = *row.entry;
    json.open('{')
        .member("attachment", entry.attachment)
        .member("subscription", entry.subscription)
        .member("publication", entry.publication)
        .member("topic", std::string_view(clean(entry.topic)))
        .member("reader", entry.reader)
        .member("writer", entry.writer)
        .member("mode", mode_name(entry.mode));
    if (!row.has(protocol::kAttachmentDisbelief)) {
        json.member("lag_bytes", entry.lag_bytes);
    }
    if (!row.has(protocol::kAttachmentUncounted)) {
        json.member("lag_messages", entry.lag_messages);
    }
    json.member("received", entry.received)
        .member("lost", entry.lost)
        .member("sleeps", entry.sleeps);
    member(json, "received_per_s", row.received);
    member(json, "lost_per_s", row.lost);
    member(json, "sleeps_per_s", row.sleeps);
    json.member("holds", row.has(protocol::kAttachmentHolds))
        .member("overtaken", row.has(protocol::kAttachmentOvertaken))
        .member("asleep", row.has(protocol::kAttachmentParked))
        .close('}');
}

template <class Row>
void append_rows(Json& json, std::string_view name, const std::vector<Row>& rows,
                 void (*append)(Json&, const Row&)) {
    json.key(name).open('[');
    for (const Row& row : rows) {
        append(json, row);
    }
    json.close(']');
}

// ------------------------------------------------------------------------------------ Prometheus

using Labels = std::vector<std::pair<std::string_view, std::string>>;

template <class Row>
struct Metric {
    std::string_view name;
    std::string_view type;
    std::string_view help;
    /// Nothing: no sample of this row.
    std::optional<double> (*value)(const Row&);
};

double as_double(u64 value) { return static_cast<double>(value); }

std::string show(double value) {
    std::array<char, 64> text;
    (void)std::snprintf(text.data(), text.size(), "%.17g", value);
    return text.data();
}

void append_sample(std::string_view name, const std::string& labels, double value,
                   std::string& out) {
    out.append(name).append(labels).append(" ").append(show(value)).append("\n");
}

void append_head(std::string_view name, std::string_view type, std::string_view help,
                 std::string& out) {
    out.append("# HELP ").append(name).append(" ").append(help).append("\n");
    out.append("# TYPE ").append(name).append(" ").append(type).append("\n");
}

std::string labels_text(const Labels& labels) {
    std::string text;
    for (const auto& [name, value] : labels) {
        text.append(text.empty() ? "{" : ",").append(name).append("=\"");
        append_label_value(value, text);
        text += '"';
    }
    return text.empty() ? text : text + "}";
}

/// All samples of a metric stand together, behind its head.
template <class Row, std::size_t count>
void append_metrics(const std::vector<Row>& rows, Labels (*labels_of)(const Row&),
                    const Metric<Row> (&metrics)[count], std::string& out) {
    std::vector<std::string> labels;
    for (const Row& row : rows) {
        labels.push_back(labels_text(labels_of(row)));
    }
    for (const Metric<Row>& metric : metrics) {
        append_head(metric.name, metric.type, metric.help, out);
        for (std::size_t i = 0; i < rows.size(); i++) {
            if (const std::optional<double> value = metric.value(rows[i])) {
                append_sample(metric.name, labels[i], *value, out);
            }
        }
    }
}

/// A label without a value is as good as none.
std::string name_of(const ClientRow* row) { return row != nullptr ? row->entry->name : ""; }
std::string uid_of(const ClientRow* row) {
    return row != nullptr ? std::to_string(row->entry->uid) : "";
}

Labels client_labels(const ClientRow& row) {
    return {{"client", std::to_string(row.entry->client)},
            {"uid", uid_of(&row)},
            {"name", name_of(&row)},
            {"pid", std::to_string(row.entry->pid)},
            {"command", std::string(row.command)}};
}

Labels publication_labels(const PublicationRow& row) {
    return {{"topic", row.entry->topic},
            {"kind", std::string(name_of_kind(row.entry->kind))},
            {"publication", std::to_string(row.entry->publication)},
            {"client", std::to_string(row.entry->client)},
            {"uid", std::to_string(row.entry->uid)},
            {"name", name_of(row.publisher)}};
}

Labels attachment_labels(const AttachmentRow& row) {
    return {{"topic", row.entry->topic},
            {"filter", row.subscription != nullptr ? row.subscription->entry->filter : ""},
            {"mode", std::string(mode_name(row.entry->mode))},
            {"attachment", std::to_string(row.entry->attachment)},
            {"publication", std::to_string(row.entry->publication)},
            {"client", std::to_string(row.entry->reader)},
            {"uid", uid_of(row.reader)},
            {"name", name_of(row.reader)}};
}

std::optional<double> if_believed(const PublicationRow& row, u64 value) {
    return (row.entry->flags & protocol::kPublicationDisbelief) == 0
               ? std::optional(as_double(value))
               : std::nullopt;
}

constexpr Metric<ClientRow> kClientMetrics[] = {
    {"ipcbus_client_sleeps_total", "counter", "How often a thread of the client went to sleep.",
     [](const ClientRow& row) { return std::optional(as_double(row.entry->sleeps)); }},
};

constexpr Metric<PublicationRow> kPublicationMetrics[] = {
    {"ipcbus_publication_messages_total", "counter", "Messages published.",
     [](const PublicationRow& row) { return if_believed(row, row.entry->messages); }},
    {"ipcbus_publication_bytes_total", "counter",
     "Bytes that these messages took in the ring, headers and padding included.",
     [](const PublicationRow& row) { return if_believed(row, row.entry->bytes); }},
    {"ipcbus_publication_ring_bytes", "gauge", "Size of the ring.",
     [](const PublicationRow& row) { return std::optional(as_double(row.entry->ring_bytes)); }},
    {"ipcbus_publication_ring_used_ratio", "gauge",
     "Part of the ring that the slowest reliable reader has not read.",
     [](const PublicationRow& row) { return row.use; }},
    {"ipcbus_publication_readers", "gauge", "Subscriptions that read it.",
     [](const PublicationRow& row) { return std::optional<double>(row.entry->readers); }},
    {"ipcbus_publication_blocked", "gauge", "1 while its publisher waits for readers.",
     [](const PublicationRow& row) {
         return std::optional<double>((row.entry->flags & protocol::kPublicationBlocked) != 0 ? 1
                                                                                              : 0);
     }},
};

constexpr Metric<AttachmentRow> kAttachmentMetrics[] = {
    {"ipcbus_subscription_received_total", "counter", "Messages received from a publication.",
     [](const AttachmentRow& row) { return std::optional(as_double(row.entry->received)); }},
    {"ipcbus_subscription_lost_total", "counter", "Messages lost of a publication.",
     [](const AttachmentRow& row) { return std::optional(as_double(row.entry->lost)); }},
    {"ipcbus_subscription_sleeps_total", "counter",
     "How often the reader left a publication to be woken for.",
     [](const AttachmentRow& row) { return std::optional(as_double(row.entry->sleeps)); }},
    {"ipcbus_subscription_lag_bytes", "gauge", "Bytes of the ring not read yet.",
     [](const AttachmentRow& row) {
         return row.has(protocol::kAttachmentDisbelief)
                    ? std::nullopt
                    : std::optional(as_double(row.entry->lag_bytes));
     }},
    {"ipcbus_subscription_lag_messages", "gauge", "Messages not read yet.",
     [](const AttachmentRow& row) {
         return row.has(protocol::kAttachmentUncounted)
                    ? std::nullopt
                    : std::optional(as_double(row.entry->lag_messages));
     }},
    {"ipcbus_subscription_holds", "gauge", "1 while a blocked publisher waits for it.",
     [](const AttachmentRow& row) {
         return std::optional<double>(row.has(protocol::kAttachmentHolds) ? 1 : 0);
     }},
};

}  // namespace

void append_label_value(std::string_view text, std::string& out) {
    for (const char c : clean(text)) {
        switch (c) {
        case '\\':
            out += "\\\\";
            break;
        case '"':
            out += "\\\"";
            break;
        case '\n':
            out += "\\n";
            break;
        default:
            out += c;
        }
    }
}

void append_json(const View& view, std::string& out) {
    const State& state = *view.state;
    std::string bus;
    tools::append_hex({reinterpret_cast<const char*>(state.bus.data()), state.bus.size()}, bus);
    std::string time;
    tools::append_iso_time(state.since_1970_ns, time);
    Json json;
    json.open('{')
        .member("bus", std::string_view(bus))
        .member("time", std::string_view(time))
        .member("all", state.all);
    append_rows(json, "clients", view.clients, append_client);
    append_rows(json, "publications", view.publications, append_publication);
    append_rows(json, "subscriptions", view.subscriptions, append_subscription);
    append_rows(json, "attachments", view.attachments, append_attachment);
    json.close('}');
    out.append(json.text()).append("\n");
}

void append_prometheus(const View& view, std::string& out) {
    for (const auto& [name, help, count] :
         {std::tuple{"ipcbus_clients", "Connected clients.", view.clients.size()},
          {"ipcbus_publications", "Publications.", view.publications.size()},
          {"ipcbus_subscriptions", "Subscriptions.", view.subscriptions.size()},
          {"ipcbus_attachments", "Subscriptions times the publications that each reads.",
           view.attachments.size()}}) {
        append_head(name, "gauge", help, out);
        append_sample(name, "", as_double(count), out);
    }
    append_metrics(view.clients, client_labels, kClientMetrics, out);
    append_metrics(view.publications, publication_labels, kPublicationMetrics, out);
    append_metrics(view.attachments, attachment_labels, kAttachmentMetrics, out);
}

}  // namespace ipcbus::stats
