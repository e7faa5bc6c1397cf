// SPDX-License-Identifier: Apache-2.0
// Tables for people; ipcbus-stat(1) explains every column. See report.hpp. One thread.
#include "stat/report.hpp"

#include "cli.hpp"
#include "format.hpp"

#include <array>
#include <cstdio>
#include <ctime>

namespace ipcbus::stats {

namespace {

/// Rows of cells. The columns whose titles begin with '<' are aligned to the left.
class Table {
public:
    explicit Table(std::vector<std::string_view> titles) {
        for (std::string_view& title : titles) {
            is_left_.push_back(title.starts_with('<'));
            title.remove_prefix(is_left_.back() ? 1 : 0);
        }
        add(std::vector<std::string>(titles.begin(), titles.end()));
    }
    void add(std::vector<std::string> cells) {
        widths_.resize(cells.size());
        for (std::size_t i = 0; i < cells.size(); i++) {
            widths_[i] = std::max(widths_[i], width_of(cells[i]));
        }
        rows_.push_back(std::move(cells));
    }
    void append(std::string& out) const {
        for (const auto& cells : rows_) {
            std::string line;
            for (std::size_t i = 0; i < cells.size(); i++) {
                const std::string space(widths_[i] - width_of(cells[i]), ' ');
                line += i == 0 ? "" : "  ";
                line += is_left_[i] ? cells[i] + space : space + cells[i];
            }
            out.append(line, 0, line.find_last_not_of(' ') + 1).append("\n");
        }
    }

private:
    std::vector<bool> is_left_;
    std::vector<std::size_t> widths_;
    std::vector<std::vector<std::string>> rows_;
};

std::string scaled(double number, double unit, std::string_view prefixes) {
    std::size_t power = 0;
    while (number >= unit - 0.5 && power < prefixes.size()) {
        number /= unit;
        power++;
    }
    std::array<char, 32> text;
    const bool whole =
        power == 0 ? number >= 10 || number == static_cast<u64>(number) : number >= 99.95;
    const int digits = whole ? 0 : number >= 9.995 || power == 0 ? 1 : 2;
    (void)std::snprintf(text.data(), text.size(), "%.*f", digits, number);
    return std::string(text.data()) + (power == 0 ? "" : std::string(1, prefixes[power - 1]));
}

std::string number(u64 value) { return std::to_string(value); }
std::string long_number(u64 value) {
    return value < 10'000'000 ? number(value) : short_number(static_cast<double>(value));
}
std::string bytes(u64 value) { return short_bytes(static_cast<double>(value)); }
std::string name_or_dash(std::string_view name) { return name.empty() ? "-" : printable(name); }

std::string percent(const std::optional<double>& part) {
    if (!part) {
        return "-";
    }
    std::array<char, 32> text;
    (void)std::snprintf(text.data(), text.size(), "%.0f%%", *part * 100);
    return text.data();
}

std::string mode_name(protocol::u8 mode) {
    constexpr std::array<std::string_view, 3> kNames{"reliable", "lossy", "latest"};
    return std::string(mode < kNames.size() ? kNames[mode] : "?");
}

std::string kind_name(protocol::u8 kind) { return std::string(name_of_kind(kind)); }

std::string state_of(const protocol::PublicationEntry& entry) {
    if ((entry.flags & protocol::kPublicationDisbelief) != 0) {
        return "disbelief";
    }
    return (entry.flags & protocol::kPublicationEnded) != 0     ? "ended"
           : (entry.flags & protocol::kPublicationBlocked) != 0 ? "blocked"
                                                                : "-";
}

std::string state_of(const SubscriptionRow& row) {
    return row.holds       ? "holds"
           : row.overtaken ? "lapped"
           : row.demoted   ? "demoted"
           : row.asleep    ? "asleep"
                           : "-";
}

std::string state_of(const AttachmentRow& row) {
    return row.has(protocol::kAttachmentDisbelief)   ? "disbelief"
           : row.has(protocol::kAttachmentHolds)     ? "holds"
           : row.has(protocol::kAttachmentOvertaken) ? "lapped"
           : row.has(protocol::kAttachmentParked)    ? "asleep"
                                                     : "-";
}

void append_head(const View& view, std::string& out) {
    const State& state = *view.state;
    out += "bus ";
    tools::append_hex({reinterpret_cast<const char*>(state.bus.data()), 4}, out);
    const std::time_t seconds = state.since_1970_ns / 1'000'000'000;
    std::tm local{};
    (void)::localtime_r(&seconds, &local);
    std::array<char, 64> time;
    out.append(time.data(), std::strftime(time.data(), time.size(), ", %F %T", &local));
    for (const auto& [count, what] :
         {std::pair<u64, std::string_view>{state.clients.size(), "client"},
          {state.publications.size(), "publication"},
          {state.subscriptions.size(), "subscription"},
          {state.attachments.size(), "attachment"}}) {
        out.append(", ").append(tools::plural(count, what));
    }
    out += state.all ? "\n" : " (only what is yours)\n";
}

void append_clients(const View& view, std::string& out) {
    Table table({"CLIENT", "UID", "PID", "<VIA", "PUBS", "SUBS", "WAKES/S", "<NAME", "<COMMAND"});
    for (const ClientRow& row : view.clients) {
        const protocol::ClientEntry& entry = *row.entry;
        table.add({number(entry.client), number(entry.uid),
                   entry.pid == 0 ? "-" : number(entry.pid), entry.transport == 0 ? "shm" : "tcp",
                   number(entry.publications), number(entry.subscriptions),
                   short_number(row.sleeps), name_or_dash(entry.name), name_or_dash(row.command)});
    }
    table.append(out);
}

void append_publications(const View& view, Sort sort, std::string& out) {
    Table table({"PUBLICATION", "CLIENT", "RING", "USE", "READERS", "MESSAGES", "MSG/S", "BYTES/S",
                 "<KIND", "<STATE", "<TOPIC"});
    for (const PublicationRow* row : sorted_publications(view, sort)) {
        const protocol::PublicationEntry& entry = *row->entry;
        const bool known = (entry.flags & protocol::kPublicationDisbelief) == 0;
        table.add({number(entry.publication), number(entry.client), bytes(entry.ring_bytes),
                   percent(row->use), number(entry.readers),
                   known ? long_number(entry.messages) : "?", short_number(row->messages),
                   short_bytes(row->bytes), kind_name(entry.kind), state_of(entry),
                   printable(entry.topic)});
    }
    table.append(out);
}

void append_subscriptions(const View& view, Sort sort, std::string& out) {
    Table table({"SUBSCRIPTION", "CLIENT", "<MODE", "PUBS", "LAG", "LAGMSG", "RECEIVED", "MSG/S",
                 "LOST", "LOST/S", "WAKES/S", "<KIND", "<STATE", "<FILTER"});
    for (const SubscriptionRow* row : sorted_subscriptions(view, sort)) {
        const protocol::SubscriptionEntry& entry = *row->entry;
        table.add({number(entry.subscription), number(entry.client), mode_name(entry.mode),
                   number(entry.attachments), row->lag_bytes ? bytes(*row->lag_bytes) : "?",
                   row->lag_messages ? long_number(*row->lag_messages) : "?",
                   long_number(row->received), short_number(row->received_rate),
                   long_number(row->lost), short_number(row->lost_rate),
                   short_number(row->sleep_rate), kind_name(entry.kind), state_of(*row),
                   name_or_dash(entry.filter)});
    }
    table.append(out);
}

void append_attachments(const View& view, Sort sort, std::string& out) {
    Table table({"ATTACHMENT", "READER", "WRITER", "<MODE", "LAG", "LAGMSG", "RECEIVED", "MSG/S",
                 "LOST", "WAKES/S", "<STATE", "<TOPIC"});
    for (const AttachmentRow* row : sorted_attachments(view, sort)) {
        const protocol::AttachmentEntry& entry = *row->entry;
        const bool placed = !row->has(protocol::kAttachmentDisbelief);
        const bool counted = !row->has(protocol::kAttachmentUncounted);
        table.add({number(entry.attachment), number(entry.reader), number(entry.writer),
                   mode_name(entry.mode), placed ? bytes(entry.lag_bytes) : "?",
                   counted ? long_number(entry.lag_messages) : "?", long_number(entry.received),
                   short_number(row->received), long_number(entry.lost), short_number(row->sleeps),
                   state_of(*row), printable(entry.topic)});
    }
    table.append(out);
}

std::string who(u64 client, const ClientRow* row) {
    std::string text = "client " + std::to_string(client);
    if (row != nullptr && row->entry->pid != 0) {
        const std::string_view name = row->command.empty() ? row->entry->name : row->command;
        text += " (" + (name.empty() ? "" : printable(name) + ", ") + "pid " +
                std::to_string(row->entry->pid) + ")";
    }
    return text;
}

void append_held(const View& view, std::string& out) {
    std::string lines;
    for (const AttachmentRow* row : sorted_attachments(view, Sort::lag)) {
        if (!row->has(protocol::kAttachmentHolds)) {
            continue;
        }
        const protocol::AttachmentEntry& entry = *row->entry;
        lines += printable(entry.topic) + ": " + who(entry.writer, row->writer) + " waits for " +
                 who(entry.reader, row->reader) +
                 (row->subscription != nullptr && !row->subscription->entry->filter.empty()
                      ? " '" + printable(row->subscription->entry->filter) + "'"
                      : "") +
                 ", " + bytes(entry.lag_bytes) + " behind\n";
    }
    if (!lines.empty()) {
        out += "\nHELD BACK\n" + lines;
    }
}

}  // namespace

std::string short_number(const std::optional<double>& number) {
    return number ? scaled(*number, 1000, "kMGTPE") : "-";
}

std::string short_bytes(const std::optional<double>& bytes) {
    return bytes ? scaled(*bytes, 1024, "KMGTPE") : "-";
}

std::string printable(std::string_view text) {
    std::string shown;
    while (!text.empty()) {
        std::size_t bytes = 1;
        while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) {
            bytes++;
        }
        const std::string_view one = text.substr(0, bytes);
        const auto first = static_cast<unsigned char>(one[0]);
        const bool control =
            first < 0x20 || first == 0x7f ||
            (first == 0xc2 && bytes > 1 && static_cast<unsigned char>(one[1]) < 0xa0);
        shown += control || !tools::valid_utf8(one) ? "?" : one;
        text.remove_prefix(bytes);
    }
    return shown;
}

std::size_t width_of(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

std::string_view cut(std::string_view text, std::size_t width) {
    std::size_t end = 0;
    for (; end < text.size(); end++) {
        if ((static_cast<unsigned char>(text[end]) & 0xc0) != 0x80 && width-- == 0) {
            break;
        }
    }
    return text.substr(0, end);
}

void append_text(const View& view, const TextStyle& style, std::string& out) {
    append_head(view, out);
    out += '\n';
    append_clients(view, out);
    out += '\n';
    append_publications(view, style.sort, out);
    out += '\n';
    append_subscriptions(view, style.sort, out);
    if (style.attachments) {
        out += '\n';
        append_attachments(view, style.sort, out);
    }
    append_held(view, out);
}

}  // namespace ipcbus::stats
