// SPDX-License-Identifier: Apache-2.0
// Goal: numbers are short and right, and no name that another process chose leaves its place: not
// in a terminal, not in JSON, not in Prometheus' format. Method: names that try. Pure.
#include "stat/report.hpp"

#include "stat/screen.hpp"

#include <doctest/doctest.h>

using namespace ipcbus;
using namespace ipcbus::stats;

namespace {

constexpr std::string_view kNasty = "a\"\\\n\x1b[2J\x07\xff\xc2\x9b\xc3\xa9{}";

State nasty_state() {
    State state;
    state.clients.push_back({{.client = 1, .uid = 1000, .pid = 5, .name = std::string(kNasty)}, 1});
    state.publications.push_back({{.publication = 2,
                                   .client = 1,
                                   .uid = 1000,
                                   .flags = protocol::kPublicationBlocked,
                                   .ring_bytes = 65536,
                                   .readers = 1,
                                   .messages = 12,
                                   .bytes = 384,
                                   .sequence = 13,
                                   .topic = std::string(kNasty)},
                                  1});
    state.subscriptions.push_back(
        {{.subscription = 3, .client = 1, .attachments = 1, .filter = std::string(kNasty)}, 1});
    state.attachments.push_back({{.attachment = 4,
                                  .subscription = 3,
                                  .publication = 2,
                                  .reader = 1,
                                  .writer = 1,
                                  .flags = protocol::kAttachmentHolds,
                                  .lag_bytes = 32,
                                  .lag_messages = 1,
                                  .received = 11,
                                  .topic = std::string(kNasty)},
                                 1});
    return state;
}

std::string text_of(const View& view, bool attachments = true) {
    std::string text;
    append_text(view, {.attachments = attachments}, text);
    return text;
}

}  // namespace

TEST_SUITE_BEGIN("report");

TEST_CASE("short numbers") {
    CHECK(short_number(std::nullopt) == "-");
    CHECK(short_number(0) == "0");
    CHECK(short_number(0.5) == "0.5");
    CHECK(short_number(7) == "7");
    CHECK(short_number(12.34) == "12");
    CHECK(short_number(999) == "999");
    CHECK(short_number(999.6) == "1.00k");
    CHECK(short_number(1000) == "1.00k");
    CHECK(short_number(12345) == "12.3k");
    CHECK(short_number(123456) == "123k");
    CHECK(short_number(999960) == "1.00M");
    CHECK(short_number(4.56e6) == "4.56M");
    CHECK(short_number(1.8e19) == "18.0E");
    CHECK(short_bytes(1023) == "1023");
    CHECK(short_bytes(1024) == "1.00K");
    CHECK(short_bytes(1048575) == "1.00M");
    CHECK(short_bytes(1 << 20) == "1.00M");
    CHECK(short_bytes(65536) == "64.0K");
}

TEST_CASE("what comes to a terminal is printable") {
    CHECK(printable("plant/7/\xc3\xa9") == "plant/7/\xc3\xa9");
    CHECK(printable("\x1b[2J\x7f") == "?[2J?");
    CHECK(printable("\xc2\x9b") == "?");  // CSI in one character
    CHECK(printable("\xff\xfe") == "??");
    CHECK(printable("a\xc3") == "a?");
    CHECK(width_of("\xc3\xa9t") == 2);
    CHECK(cut("\xc3\xa9t\xc3\xa9", 2) == "\xc3\xa9t");
    CHECK(cut("abc", 0).empty());
    CHECK(cut("abc", 9) == "abc");
    const State state = nasty_state();
    const std::string text = text_of(make_view(state, nullptr, {}));
    for (const char c : text) {
        CHECK((c == '\n' || static_cast<unsigned char>(c) >= 0x20));
    }
    CHECK(text.find("\xc2\x9b") == text.npos);
    CHECK(text.find('\xff') == text.npos);
    CHECK(text.find("HELD BACK") != text.npos);
    CHECK(text.find("blocked") != text.npos);
    // One line for each thing: no name has made one of its own.
    CHECK(std::count(text.begin(), text.end(), '\n') == 1 + 4 * (1 + 2) + 3);
}

TEST_CASE("a table without a row has its head, and nothing is held back") {
    const State state;
    const std::string text = text_of(make_view(state, nullptr, {}), false);
    CHECK(text.find("0 clients, 0 publications, 0 subscriptions, 0 attachments\n") != text.npos);
    CHECK(text.find("PUBLICATION") != text.npos);
    CHECK(text.find("HELD") == text.npos);
}

TEST_CASE("what is not to be believed is not shown as a number") {
    State state = nasty_state();
    state.publications[0].entry.flags = protocol::kPublicationDisbelief;
    state.attachments[0].entry.flags =
        protocol::kAttachmentDisbelief | protocol::kAttachmentUncounted;
    const View view = make_view(state, nullptr, {});
    CHECK(text_of(view).find("disbelief") != std::string::npos);
    std::string json;
    append_json(view, json);
    CHECK(json.find("\"messages\":") == json.npos);
    CHECK(json.find("lag_bytes") == json.npos);
    std::string metrics;
    append_prometheus(view, metrics);
    CHECK(metrics.find("ipcbus_publication_messages_total{") == metrics.npos);
    CHECK(metrics.find("ipcbus_subscription_lag_bytes{") == metrics.npos);
    CHECK(metrics.find("ipcbus_subscription_received_total{") != metrics.npos);
}

TEST_CASE("JSON is one line, its strings closed") {
    const State state = nasty_state();
    std::string json;
    append_json(make_view(state, nullptr, {}), json);
    CHECK(std::count(json.begin(), json.end(), '\n') == 1);
    CHECK(json.ends_with("}\n"));
    CHECK(json.find("\"topic\":\"a\\\"\\\\\\n\\u001b[2J\\u0007\xef\xbf\xbd") != json.npos);
    CHECK(json.find("\"messages\":12") != json.npos);
    CHECK(json.find("per_s") == json.npos);  // no look before
}

TEST_CASE("labels of Prometheus are escaped, and every sample has its head") {
    std::string value;
    append_label_value("a\"b\\c\nd\xff", value);
    CHECK(value == "a\\\"b\\\\c\\nd\xef\xbf\xbd");
    const State state = nasty_state();
    std::string text;
    append_prometheus(make_view(state, nullptr, {}), text);
    CHECK(text.ends_with("\n"));
    std::string metric;
    std::size_t samples = 0;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = text.find('\n', begin);
        const std::string line = text.substr(begin, end - begin);
        begin = end + 1;
        if (line.starts_with("# HELP ")) {
            metric = line.substr(7, line.find(' ', 7) - 7);
            CHECK(text.find("# HELP " + metric + " ") == text.rfind("# HELP " + metric + " "));
            CHECK(text.substr(begin).starts_with("# TYPE " + metric + " "));
        } else if (!line.starts_with("# TYPE ")) {
            CHECK(line.substr(0, line.find_first_of("{ ")) == metric);
            CHECK(line.find_first_not_of("0123456789.e+-", line.rfind(' ') + 1) == line.npos);
            samples++;
        }
    }
    CHECK(samples == 4 + 1 + 6 + 6);
    CHECK(text.find("ipcbus_publication_messages_total{topic=\"a\\\"\\\\\\n\x1b") != text.npos);
    CHECK(text.find("ipcbus_subscription_holds{") != text.npos);
}

TEST_CASE("a screen holds what fits, and says how much does not") {
    const std::string text = "one\ntwo\nthree\nfour\n";
    const std::string all = redrawn(text, {5, 80}, true);
    CHECK(all == "\x1b[H\x1b[2J\x1b[Kone\n\x1b[Ktwo\n\x1b[Kthree\n\x1b[Kfour\n\x1b[J");
    const std::string some = redrawn(text, {4, 80}, false);
    CHECK(some.starts_with("\x1b[H\x1b[Kone\n\x1b[Ktwo\n\x1b[K(2 more lines"));
    CHECK(some.find("three") == some.npos);
    CHECK(redrawn(text, {5, 2}, false).starts_with("\x1b[H\x1b[Kon\n\x1b[Ktw\n"));
    CHECK(redrawn(text, {1, 80}, false).find("(4 more lines") != std::string::npos);
    CHECK(redrawn("", {24, 80}, false) == "\x1b[H\x1b[J");
}

TEST_SUITE_END();
