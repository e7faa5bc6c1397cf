// SPDX-License-Identifier: Apache-2.0
//
// How far a ring has come, and how far behind a cursor is: what can be told of a publication by one
// who only looks, for statistics. Called by the daemon's thread, over the read-only mapping of a
// ring that its publisher may be writing, and may have filled with lies. Costs the publisher
// nothing: no word is there for it, and none is stored.
//
//   [L1] load newest, acquire. Pairs with [W10].
//   [L2] load the word there, acquire; the sequence that stands behind that record.
//   [L3] acquire fence; load announced: overtaken if announced - capacity > newest. Then what [L2]
//        found may be anything: again, with the newest of now. Pairs with [W3] [W4].
// What was not overtaken is bounded as in join.hpp: a word that no record has, a position that was
// not announced, or more records than fit between two positions are lies, and nothing is told.
// Of a cursor: it was loaded before [L1], so that it is never ahead of an honest writer. The record
// that it stands at has a sequence, as long as [L3] finds that it was not overtaken.
#pragma once

#include "protocol/join.hpp"

namespace ipcbus::protocol {

struct RingFigures {
    u64 position = 0;  ///< end of the newest record
    u64 sequence = 0;  ///< of the one that comes next
    bool believable = false;
};

/// How much a reader has not read yet, by its cursor.
struct Behind {
    u64 bytes = 0;
    u64 messages = 0;
    bool believable = false;  ///< the cursor is within what was published: `bytes` is told
    bool counted = false;     ///< `messages` is told, too
    bool overtaken = false;   ///< what stood at the cursor is gone
};

/// `data` is the data of the ring, mapped once at least, `first` where its first record begins (as
/// the registry knows it). A bounded number of looks; if the writer overtakes each of them, or what
/// stands there cannot be true, the figures are not believable.
[[nodiscard]] RingFigures look_at_ring(const RingHeader& ring, const std::byte* data, u64 capacity,
                                       u64 record_bytes_max, const Start& first);

/// `cursor` was loaded before `now`, which is believable; `start` is where its attachment began.
/// `ring` null: it is not mapped any more; then nothing but bytes is told.
[[nodiscard]] Behind look_behind(const RingHeader* ring, const std::byte* data, u64 capacity,
                                 const RingFigures& now, u64 start, u64 cursor);

}  // namespace ipcbus::protocol
