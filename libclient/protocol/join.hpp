// SPDX-License-Identifier: Apache-2.0
// Where a reader that joins a running publication begins. Called by the daemon's thread, over the
// read-only mapping of a ring that its publisher may be writing (and may have filled with lies).
//
//   D (daemon)                                    W (writer, slow path; ring_writer.hpp)
//   [J1] attention += 1                           [W3] store announced
//   [J2] full fence                               [W4] full fence
//   [J3] load announced, then newest, its word    [W5] load attention: changed: take it in
//   [J4] start = end of the newest record; with history, a mark before it
//   [J5] MEMBERS with start to W, answer to R
//
// Either W's [W5] sees [J1], and W waits for the frame before it writes any further; or D's [J3]
// sees W's [W3], and then W writes no further than that `announced`, plus one raise that ends in a
// look that does see [J1]. So nothing at or above announced - capacity + the largest raise is
// overwritten before W knows the reader: that margin is what protects it. The end of the newest
// record is always that high (3 x record + 32 <= capacity, layout.hpp); settle_start checks it all
// the same, because the ring is hostile input.
// HISTORY reaches back to the oldest mark that is at least that high: about three quarters of the
// ring. It begins at a mark, the last one that is not behind what is wanted; the reader passes
// over the records before ([R9] in ring_reader.hpp), because there may be millions. From there to
// what is published now it goes record by record: nothing between is lost or comes twice.
// Checked: tests/model/join.pml. Change the model first.
#pragma once

#include "protocol/layout.hpp"

namespace ipcbus::protocol {

struct Start {
    u64 position = 0;
    u64 sequence = 0;  ///< of the first record that is wanted: that there, or a later one
};

/// Settles the start of a reader that wants the last `history` records and what comes from now on.
/// [J1] and [J2] have been done.
/// `data` is the mirrored data of the ring, `first` where its first record begins (from the
/// registry, not from the ring). Bounded time. False: what stands in the ring cannot be true.
[[nodiscard]] bool settle_start(const RingHeader& ring, const std::byte* data, u64 capacity,
                                u64 record_bytes_max, const Start& first, u64 history,
                                Start& ret_start);

}  // namespace ipcbus::protocol
