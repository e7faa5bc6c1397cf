// SPDX-License-Identifier: Apache-2.0
// Goal: whatever comes and goes, a writer that follows the frames ends with the members there are,
// and nothing is released before it has taken the detach in. Method: by hand, then a random history
// played to a model of a writer, from a fixed seed.
#include "membership.hpp"

#include <doctest/doctest.h>

#include <list>
#include <random>
#include <set>

using namespace ipcbus;
using daemon::Attachment;
using daemon::Id;
using daemon::Membership;

namespace {

/// One frame, as full as it may be.
protocol::Members frame_of(Membership& membership, std::size_t attach_max = 256) {
    protocol::Members frame;
    while (frame.attach.size() < attach_max && membership.next() != nullptr) {
        membership.tell_next(frame);
    }
    membership.tell_detached(frame);
    (void)membership.finish(frame);
    return frame;
}

struct Model {
    Membership membership;
    std::list<Attachment> all;  ///< those whose objects live
    std::set<Id> members;       ///< what the writer counts
    std::set<Id> wanted;        ///< what is attached
    Id next_id = 1;

    Attachment& attach() {
        Attachment& attachment = all.emplace_back();
        attachment.id = next_id++;
        membership.raise();
        membership.attach(attachment);
        wanted.insert(attachment.id);
        return attachment;
    }
    void detach(Attachment& attachment) {
        membership.raise();
        membership.detach(attachment);
        wanted.erase(attachment.id);
        forget();
    }
    void read(const protocol::Members& frame) {
        for (const protocol::Member& member : frame.attach) {
            members.insert(member.attachment);
        }
        for (const Id id : frame.detach) {
            members.erase(id);
        }
    }
    void take(protocol::u64 number) {
        std::vector<Attachment*> gone;
        REQUIRE(membership.taken(number, gone));
        for (const Attachment* attachment : gone) {
            CHECK(members.count(attachment->id) == 0);
        }
        forget();
    }
    /// The daemon forgets what the writer knows no more: a pointer kept too long is an error here.
    void forget() {
        all.remove_if([](const Attachment& attachment) {
            return attachment.writer_end == Attachment::Writer::gone;
        });
    }
};

}  // namespace

TEST_CASE("what is forgotten is in no chain, whichever it was in, and its neighbours are joined") {
    Model model;
    Attachment& first = model.attach();
    Attachment& gone = model.attach();
    Attachment& last = model.attach();
    SUBCASE("to be told") {}
    SUBCASE("told") { (void)frame_of(model.membership); }
    SUBCASE("to leave") {
        const auto frame = frame_of(model.membership);
        model.take(frame.number);
        for (Attachment* attachment : {&first, &gone, &last}) {
            model.membership.raise();
            model.membership.detach(*attachment);
        }
    }
    SUBCASE("told to leave") {
        const auto frame = frame_of(model.membership);
        model.take(frame.number);
        for (Attachment* attachment : {&first, &gone, &last}) {
            model.membership.raise();
            model.membership.detach(*attachment);
        }
        (void)frame_of(model.membership);
    }
    const auto chain = first.chain;
    model.membership.forget(gone);
    CHECK((gone.chain == 0));
    CHECK((gone.writer_end == Attachment::Writer::gone));
    CHECK((first.chain == chain));
    CHECK(first.next == &last);
    CHECK(last.previous == &first);
    model.membership.forget(first);
    model.membership.forget(last);
    CHECK((last.chain == 0));
    CHECK(model.membership.next() == nullptr);
}

TEST_CASE("one round at a time; what cancels leaves its number") {
    Model model;
    CHECK(!model.membership.due());
    model.attach();
    REQUIRE(model.membership.due());
    const auto one = frame_of(model.membership);
    CHECK(one.number == 1);
    CHECK(one.attach.size() == 1);
    CHECK(!model.membership.due());
    Attachment& passing = model.attach();
    model.detach(passing);
    CHECK(model.all.size() == 1);
    CHECK(!model.membership.due());
    model.take(1);
    REQUIRE(model.membership.due());
    const auto two = frame_of(model.membership);
    CHECK(two.number == 3);
    CHECK(two.attach.empty());
    CHECK(two.detach.empty());
    model.take(3);
    CHECK(!model.membership.due());
}

TEST_CASE("a detach is over when it is taken in, not before") {
    Model model;
    Attachment& attachment = model.attach();
    (void)frame_of(model.membership);
    model.detach(attachment);  // while the attach is not acknowledged
    CHECK((attachment.writer_end == Attachment::Writer::leaving));
    model.take(1);
    CHECK(model.all.size() == 1);
    const auto frame = frame_of(model.membership);
    CHECK(frame.detach == std::vector<Id>{attachment.id});
    model.take(1);  // again: answers nothing
    CHECK(model.all.size() == 1);
    model.take(2);
    CHECK(model.all.empty());
}

TEST_CASE("a round of several frames brings its number with the last one") {
    Model model;
    for (int i = 0; i < 5; i++) {
        model.attach();
    }
    const auto one = frame_of(model.membership, 2);
    const auto two = frame_of(model.membership, 2);
    CHECK(one.number == 0);
    CHECK(two.number == 0);
    CHECK(model.membership.due());
    const auto three = frame_of(model.membership, 2);
    CHECK(three.number == 5);
    CHECK(three.attach.size() == 1);
    CHECK(!model.membership.due());
}

TEST_CASE("numbers that were never sent are refused") {
    Model model;
    model.attach();
    std::vector<Attachment*> gone;
    CHECK(!model.membership.taken(1, gone));
    (void)frame_of(model.membership);
    CHECK(!model.membership.taken(2, gone));
    CHECK(model.membership.taken(1, gone));
}

TEST_CASE("random histories: the writer ends with the members there are") {
    std::mt19937_64 random(7);
    Model model;
    std::vector<protocol::Members> under_way;
    for (int step = 0; step < 20000; step++) {
        switch (random() % 8) {
        case 0:
        case 1:
            model.attach();
            break;
        case 2:
        case 3:
            for (Attachment& attachment : model.all) {
                if (model.wanted.count(attachment.id) != 0 && random() % 3 == 0) {
                    model.detach(attachment);
                    break;
                }
            }
            break;
        case 4:
        case 5:
            if (model.membership.due()) {
                under_way.push_back(frame_of(model.membership, 1 + random() % 4));
            }
            break;
        case 6:
            if (!under_way.empty()) {
                model.read(under_way.front());
                model.take(under_way.front().number);
                under_way.erase(under_way.begin());
            }
            break;
        default:
            // The connection breaks: some frames were read, none of them acknowledged.
            if (random() % 20 == 0) {
                const std::size_t read = random() % (under_way.size() + 1);
                for (std::size_t i = 0; i < read; i++) {
                    model.read(under_way[i]);
                }
                under_way.clear();
                model.membership.tell_again();
            }
            break;
        }
    }
    while (!under_way.empty() || model.membership.due()) {
        if (under_way.empty()) {
            under_way.push_back(frame_of(model.membership));
        }
        model.read(under_way.front());
        model.take(under_way.front().number);
        under_way.erase(under_way.begin());
    }
    CHECK(model.members == model.wanted);
    CHECK(model.all.size() == model.wanted.size());
}
