// SPDX-License-Identifier: Apache-2.0
// The reader's side of what others write: Waiter and Attachment over a doorbell that anybody rings,
// clears and fills, and over rings that lie. What must hold: nothing outside of the pages is
// touched, every call ends, an attachment is either active, once, or parked, and, where nothing
// changed during a call, it did what waiter.hpp says.
// Input: where positions begin, then operations, each with changes of the memory.
#include "hostile_pages.hpp"

#include "protocol/waiter.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

using namespace ipcbus;
using namespace ipcbus::fuzz;

namespace {

struct Elsewhere final : protocol::Elsewhere {
    bool look() override { return answer; }
    bool answer = false;
};

class Reader {
public:
    Reader() : waiter_(words(0)) {
        for (Source& source : sources_) {
            waiter_.add(source);
        }
    }
    ~Reader() {
        for (u32 i = 0; i < kSlots; i++) {
            detach(i);
        }
    }

    void step(Input& input) {
        const u32 which = static_cast<u32>(input.below(kSlots));
        const std::uint8_t how = input.byte();
        switch (how % 10) {
        case 0:
        case 1:
            attach(which, how / 10);
            break;
        case 2:
            detach(which);
            break;
        case 3:
            park(which);
            break;
        case 4:
        case 5:
            take_activity();
            break;
        case 6:
            sweep();
            break;
        case 7:
            move(which, how / 10);
            break;
        case 8:
            sleep(how / 10);
            break;
        default:
            rebind(how / 10);
            break;
        }
        check();
    }

private:
    static Waiter::Words words(u32 number) {
        return {&pages->waiters[number], &pages->asleep[number], number};
    }

    void attach(u32 which, unsigned how) {
        if (!attachments_[which]) {
            const ReadableRing ring{&pages->ring->header,
                                    reinterpret_cast<const std::byte*>(pages->ring->data),
                                    kCapacity, record_bytes_max(kCapacity)};
            // Two of them may share a bit.
            const Attachment::Words at{&pages->slots[which], &writer_, how % 4 * 1365};
            attachments_[which].emplace(ring, kCapacity + which * 16, 1, at, &sources_[which % 2]);
            waiter_.attach(sources_[which % 2], *attachments_[which]);
        }
    }
    void detach(u32 which) {
        if (attachments_[which]) {
            waiter_.activate(*attachments_[which]);
            waiter_.detach(*attachments_[which]);
            attachments_[which]->clear_slot();
            attachments_[which].reset();
        }
    }
    void park(u32 which) {
        if (attachments_[which] && !attachments_[which]->parked() &&
            !attachments_[which]->polled()) {
            (void)during([&] {
                waiter_.park(*attachments_[which]);
                return true;
            });
            if (!disturbed()) {
                FUZZ_CHECK(attachments_[which]->parked() != attachments_[which]->reader().news());
                FUZZ_CHECK(pages->publication->sleepers.load() != 0);
            }
        }
    }
    void take_activity() {
        const DoorbellWaiter& doorbell = pages->waiters[waiter_.number()];
        const u64 summary = doorbell.summary.load();
        std::vector<Attachment*> rung;
        for (auto& attachment : attachments_) {
            if (attachment && (summary >> (attachment->bit() / 64) & 1) != 0 &&
                (doorbell.activity[attachment->bit() / 64].load() >> (attachment->bit() % 64) &
                 1) != 0) {
                rung.push_back(&*attachment);
            }
        }
        (void)during([&] {
            waiter_.take_activity();
            return true;
        });
        if (!disturbed()) {
            FUZZ_CHECK(doorbell.summary.load() == 0);
            FUZZ_CHECK(std::none_of(rung.begin(), rung.end(),
                                    [](Attachment* attachment) { return attachment->parked(); }));
        }
    }
    void sweep() {
        (void)during([&] {
            waiter_.sweep();
            return true;
        });
        for (auto& attachment : attachments_) {
            FUZZ_CHECK(disturbed() || !attachment || !attachment->parked() ||
                       !attachment->reader().news());
        }
    }
    void move(u32 which, unsigned how) {
        if (attachments_[which]) {
            Attachment& attachment = *attachments_[which];
            Record record;
            record.next = attachment.reader().position() + how * 64;
            record.sequence = attachment.reader().expected();
            attachment.reader().advance(record);
            (void)during([&] {
                attachment.moved();
                attachment.store_cursor();
                return true;
            });
        }
    }
    void sleep(unsigned how) {
        Elsewhere elsewhere;
        elsewhere.answer = (how & 1) != 0;
        const Source* only = (how & 2) != 0 ? sources_.data() : nullptr;
        (void)during([&] { return waiter_.sleep(0, elsewhere, only); });
        FUZZ_CHECK(disturbed() || (pages->asleep[waiter_.number()].load() & 1) == 0);
    }
    void rebind(unsigned how) {
        waiter_.rebind(words(how % kWaiters));
        for (auto& attachment : attachments_) {
            FUZZ_CHECK(!attachment || attachment->polled());
        }
    }

    /// Each attachment is either active, once, or parked, and its slot says which.
    void check() {
        std::size_t active[2] = {0, 0};
        for (u32 i = 0; i < kSlots; i++) {
            if (attachments_[i]) {
                active[i % 2] += attachments_[i]->parked() ? 0 : 1;
                FUZZ_CHECK(!(attachments_[i]->parked() && attachments_[i]->polled()));
            }
        }
        FUZZ_CHECK(sources_[0].active_count() == active[0]);
        FUZZ_CHECK(sources_[1].active_count() == active[1]);
        FUZZ_CHECK(waiter_.has_active() == (active[0] + active[1] > 0));
    }

    const WriterWords writer_{pages->publication.get(), &pages->waiters[kWaiters - 1].bell};
    Waiter waiter_;
    std::array<Source, 2> sources_;
    std::array<std::optional<Attachment>, kSlots> attachments_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    cursor_page_changes = false;
    run_over_pages<Reader>(input);
    return 0;
}
