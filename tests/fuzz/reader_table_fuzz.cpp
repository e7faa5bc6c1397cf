// SPDX-License-Identifier: Apache-2.0
// The writer's side of what others write: ReaderTable over cursor pages and doorbells that lie
// (cursors that jump, `parked` that names no waiter), and that change while they are read. What
// must hold: nothing outside of the pages is touched, every call ends, a liar harms himself alone
// and is accused once, and, where nothing changed during a call, it did what reader_table.hpp says.
// Input: where positions begin, then operations, each with changes of the memory.
#include "hostile_pages.hpp"

#include "protocol/reader_table.hpp"

#include <algorithm>
#include <map>

using namespace ipcbus;
using namespace ipcbus::fuzz;

namespace {

class Table {
public:
    void step(Input& input) {
        const u64 id = 1 + input.below(kIds);
        switch (input.below(8)) {
        case 0:
        case 1:
            add(id, input.byte());
            break;
        case 2:
            remove(id);
            break;
        case 3:
            position += 16 * input.byte();
            break;
        case 4:
            stall(position - 16 * input.byte());
            break;
        case 5:
            smallest();
            break;
        default:
            wake();
            break;
        }
        check_faults();
    }

private:
    struct Model {
        u32 slot;
        bool reliable;
        u64 cursor;  ///< last one believed
        u64 rung;
    };

    void add(u64 id, std::uint8_t how) {
        const u32 slot = how % kSlots;
        const u64 start = position - how % 4 * 16;
        const bool reliable = (how & 64) != 0;
        table_.add({.attachment = id,
                    .slot = &pages->slots[slot],
                    .waiters = &waiters_,
                    .bit = bit(slot),
                    .start = start,
                    .reliable = reliable});
        const bool is_new = models_.try_emplace(id, Model{slot, reliable, start, 0}).second;
        FUZZ_CHECK(table_.contains(id) && table_.size() == models_.size());
        FUZZ_CHECK(table_.round_due() || !is_new);
    }
    void remove(u64 id) {
        FUZZ_CHECK((table_.remove(id) != nullptr) == (models_.count(id) > 0));
        models_.erase(id);
        FUZZ_CHECK(!table_.contains(id) && table_.size() == models_.size());
        FUZZ_CHECK(table_.knows(waiters_) == !models_.empty());
    }
    static constexpr u64 kIds = kSlots + 2;
    static u32 bit(u32 slot) { return slot * 700; }  // words all over the bitmap

    /// What the smallest cursor is, by the rules, in memory that stands still.
    u64 smallest_naively() {
        u64 smallest = position;
        for (auto& [id, model] : models_) {
            const u64 told = pages->slots[model.slot].cursor.load();
            const u64 cursor = told == 0 ? model.cursor : told;
            if (!model.reliable) {
                continue;
            }
            if (static_cast<i64>(cursor - model.cursor) < 0 ||
                static_cast<i64>(position - cursor) < 0) {
                model.reliable = false;
                expected_faults_++;
            } else {
                model.cursor = cursor;
                smallest = static_cast<i64>(smallest - cursor) > 0 ? cursor : smallest;
            }
        }
        return smallest;
    }
    void smallest() {
        const u64 first = during([&] { return table_.smallest_cursor(position); });
        FUZZ_CHECK(static_cast<i64>(position - first) >= 0);
        if (disturbed()) {
            // What was believed meanwhile is not known here: the next one sets it right.
            resynchronise();
        } else {
            FUZZ_CHECK(first == smallest_naively());
        }
    }
    /// After changes during a call: what the table has made of them is taken for granted, but for
    /// who is counted no more.
    void resynchronise() {
        for (const auto& fault : table_.faults()) {
            models_.at(fault.attachment).reliable = false;
        }
        const auto faults = table_.faults().size();
        (void)table_.smallest_cursor(position);
        for (auto i = faults; i < table_.faults().size(); i++) {
            models_.at(table_.faults()[i].attachment).reliable = false;
        }
        for (u64 id = 1; id <= kIds; id++) {
            const auto found = models_.find(id);
            if (found == models_.end() || !found->second.reliable) {
                continue;
            }
            found->second.cursor = pages->slots[found->second.slot].cursor.load();
            if (found->second.cursor == 0) {
                remove(id);  // what it was meanwhile is not to be had
            }
        }
        uncertain_ = true;
    }
    void stall(u64 needed) {
        std::vector<u64> holders;
        table_.holders(needed, [&](u64 id) { holders.push_back(id); });
        if (!uncertain_) {
            for (const auto& [id, model] : models_) {
                FUZZ_CHECK((std::find(holders.begin(), holders.end(), id) != holders.end()) ==
                           (model.reliable && static_cast<i64>(model.cursor - needed) < 0));
            }
        }
        const auto before = table_.faults().size();
        const u64 own = 1;
        during([&] {
            table_.stall(needed, position, 2, [](u64 attachment) { return attachment == own; });
            return true;
        });
        bool in_the_way = table_.faults().size() == before;
        for (auto i = before; i < table_.faults().size(); i++) {
            const auto& fault = table_.faults()[i];
            FUZZ_CHECK(fault.complaint == Complaint::stalled);
            // Who is in the way, and what else of its client stands still.
            const bool holds = std::find(holders.begin(), holders.end(), fault.attachment) !=
                               holders.end();
            FUZZ_CHECK(holds || fault.attachment != own);
            in_the_way = in_the_way || holds;
            models_.at(fault.attachment).reliable = false;
            expected_faults_++;
        }
        FUZZ_CHECK(in_the_way);
    }
    void wake() {
        const bool due = table_.round_due();
        const bool somebody = pages->publication->sleepers.load() != 0;
        u32 bells[kWaiters];
        for (u32 i = 0; i < kWaiters; i++) {
            bells[i] = pages->waiters[i].bell.load();
        }
        const bool woke = during([&] { return table_.wake(*pages->publication); });
        if (disturbed()) {
            for (auto& [id, model] : models_) {
                model.rung = kUnknown;
            }
            return;
        }
        FUZZ_CHECK(woke == (due || somebody));
        FUZZ_CHECK(!table_.round_due() && pages->publication->sleepers.load() == 0);
        for (auto& [id, model] : models_) {
            const u64 parked = pages->slots[model.slot].parked.load();
            const u64 number = parked & 0xffff;
            const bool odd = (parked >> 16 & 1) != 0;
            if (woke && odd && model.rung != kUnknown && parked != model.rung &&
                number < kWaiters) {
                const DoorbellWaiter& waiter = pages->waiters[number];
                const u32 place = bit(model.slot);
                FUZZ_CHECK((waiter.activity[place / 64].load() >> (place % 64) & 1) != 0);
                FUZZ_CHECK((waiter.summary.load() >> (place / 64) & 1) != 0);
                bells[number] += pages->asleep[number].load() & 1;
            }
            if (model.rung == kUnknown) {
                certain_bells_ = false;
            }
            model.rung = woke && odd ? parked : model.rung;
        }
        for (u32 i = 0; certain_bells_ && i < kWaiters; i++) {
            FUZZ_CHECK(pages->waiters[i].bell.load() == bells[i]);
        }
        certain_bells_ = std::none_of(models_.begin(), models_.end(),
                                      [](const auto& m) { return m.second.rung == kUnknown; });
    }

    /// Nobody is accused twice, and nobody without a reason.
    void check_faults() {
        FUZZ_CHECK(uncertain_ || table_.faults().size() == expected_faults_);
        for (const auto& fault : table_.faults()) {
            const auto found = models_.find(fault.attachment);
            FUZZ_CHECK(found != models_.end() && !found->second.reliable);
        }
        table_.faults().clear();
        expected_faults_ = 0;
        uncertain_ = false;
    }

    static constexpr u64 kUnknown = ~u64{0} - 1;
    const PeerWaiters waiters_{pages->asleep.get(), pages->waiters.get(), kWaiters};
    ReaderTable table_;
    std::map<u64, Model> models_;
    std::size_t expected_faults_ = 0;
    bool uncertain_ = false;
    bool certain_bells_ = true;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    run_over_pages<Table>(input);
    return 0;
}
