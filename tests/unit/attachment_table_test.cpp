// SPDX-License-Identifier: Apache-2.0
// Goal: an attachment is found by its id as long as it is there, stays where it is, and costs the
// daemon little. Method: a random history against a map, from a fixed seed; the books of a bus with
// the shape of many attachments, and what the allocator says of them.
#include "attachment_table.hpp"

#include "client.hpp"
#include "membership.hpp"

#include <doctest/doctest.h>
#include <malloc.h>

#include <map>
#include <memory>
#include <random>

using namespace ipcbus;
using daemon::Attachment;
using daemon::AttachmentList;
using daemon::AttachmentTable;
using daemon::Client;
using daemon::ClientMemory;
using daemon::Id;
using daemon::Membership;

namespace {

/// In use, as the allocator counts it: with what it adds itself. 0 where a sanitizer allocates.
std::size_t heap_bytes() {
    const struct mallinfo2 info = ::mallinfo2();
    return info.uordblks + info.hblkhd;
}

struct Book {
    AttachmentList<&Attachment::place_in_publication> attachments;
    Membership membership;
};

std::unique_ptr<Client> make_client(Id id) {
    auto memory = ClientMemory::create(protocol::Geometry{16, 16, 4096});
    REQUIRE(memory.ok());
    memory.value().give_to(id, {}, {});
    auto client = std::make_unique<Client>(id, 0, "", std::move(memory).value());
    REQUIRE(client->memory.seal().ok());
    return client;
}

}  // namespace

TEST_CASE("found by id, at the same place, as long as it is there") {
    AttachmentTable table;
    std::map<Id, Attachment*> model;
    std::mt19937 random(7);
    Id next = 1;
    CHECK(table.find(1) == nullptr);
    for (int step = 0; step < 60'000; step++) {
        // Grows, shrinks to nothing, grows again.
        const bool more = random() % 100 < (step / 10'000 % 2 == 0 ? 60u : 30u);
        if (more) {
            next += 1 + random() % 3;
            Attachment& added = table.add(next);
            CHECK(added.id == next);
            CHECK(added.publication == nullptr);
            added.start = 3 * next;
            model.emplace(next, &added);
        } else if (!model.empty()) {
            auto victim = model.lower_bound(random() % next);
            victim = victim == model.end() ? model.begin() : victim;
            table.erase(*victim->second);
            CHECK(table.find(victim->first) == nullptr);
            model.erase(victim);
        }
        if (step % 1000 == 0) {
            for (const auto& [id, attachment] : model) {
                REQUIRE(table.find(id) == attachment);
                REQUIRE(attachment->start == 3 * id);
            }
        }
        REQUIRE(table.size() == model.size());
    }
}

TEST_CASE("128 bytes an attachment, where a client reads ten publications of another") {
    constexpr std::size_t kClients = 20;
    constexpr std::size_t kPublications = 10;  // of each writer; each reader reads all of them
    constexpr std::size_t kPairs = kClients * kClients;
    constexpr std::size_t kAttachments = kPairs * kPublications;
    std::vector<std::unique_ptr<Client>> writers;
    std::vector<std::unique_ptr<Client>> readers;
    std::vector<Book> publications(kClients * kPublications);
    std::vector<daemon::Subscription> subscriptions(kClients);
    for (Id i = 0; i < kClients; i++) {
        writers.push_back(make_client(1000 + i));
        readers.push_back(make_client(2000 + i));
    }
    AttachmentTable table;
    const std::size_t before = heap_bytes();
    if (before == 0) {
        MESSAGE("the allocator counts nothing here: skipped");
        return;
    }
    Id next = 1'000'000;
    for (std::size_t r = 0; r < kClients; r++) {
        for (std::size_t p = 0; p < publications.size(); p++) {
            Client& writer = *writers[p / kPublications];
            Attachment& attachment = table.add(next++);
            attachment.reader = readers[r]->id;
            publications[p].attachments.add(attachment);
            subscriptions[r].attachments.add(attachment);
            publications[p].membership.raise();
            publications[p].membership.attach(attachment);
            writer.use_peer(readers[r]->memory.pages());
            readers[r]->use_peer(writer.memory.pages());
        }
    }
    // Told to the writers, and not acknowledged: the most that is kept of them.
    for (Book& book : publications) {
        protocol::Members frame;
        while (book.membership.next() != nullptr) {
            book.membership.tell_next(frame);
        }
        CHECK(book.membership.finish(frame));
    }
    REQUIRE(table.size() == kAttachments);
    const std::size_t bytes = heap_bytes() - before;
    const std::size_t each = bytes / kAttachments;
    MESSAGE(each, " bytes an attachment, its share of the clients' links included");
    CHECK(bytes <= 128 * kAttachments);
}
