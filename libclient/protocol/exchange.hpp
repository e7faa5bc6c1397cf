// SPDX-License-Identifier: Apache-2.0
//
// REQUESTS AND REPLIES, over the rings and wake-ups that there are: what is different about them,
// for library and daemon. Constants and plain data.
//
// A requester has one publication, its requests (ASK), and one subscription, the replies to them
// (COLLECT). A responder has one subscription to requests (SERVE, a filter), and, for each
// requester that it has answered, one small publication (RESPOND). Neither kind of publication is
// in the tries of topics: no SUBSCRIBE reaches it, under whatever name.
//
//   requester                      ipcbusd                             responder
//   ASK t, COLLECT         ->      attaches who serves t       <-      SERVE f
//   a record {to, ..}      ------------------------------------>       reads what is to it
//                                  makes a ring, with one      <-      RESPOND attachment  (once)
//                                  reader: that COLLECT
//   reads what it awaits   <------------------------------------       a record {request, ..}
//
// WHO IS MEANT. All responders of a topic read the requester's ring, so a request says in its head
// which one it is to: an attachment, by the number that MEMBERS told the requester and ATTACHED the
// responder; or 0, all of them. The requester chooses, so a request is handled once, nothing is
// claimed and nobody is asked.
// WHICH REQUEST is answered: the sequence of its record, which no later request has, in no later
// ring either. The head of a reply names it.
// WHO ANSWERS is never believed from a record. The lineage of a ring of replies is the daemon's
// (reply_lineage): first the attachment that it answers. A requester takes a reply for one if it
// awaits that request of that very attachment, by the same link to the bus. So who was not asked
// cannot answer; and who does not serve the topic has no ring to do it in.
// WHO READS a ring of replies: one subscription, which its client got by COLLECT and named by the
// lineage of its own requests. Everybody who serves the topic reads the requests.
// WHO PAYS: each for what it has a say in. How large a ring of replies is, the requester says: its
// uid pays for the bytes, until nobody has the ring. What is charged to it never becomes another
// one's: else who asks for large rings, and lets go of them, could fill the limit of who answers.
// That there is one, the responder says: to its uid the publication counts, and the bytes of its
// rings to one requester beyond kRepliesPaidFor, which it does not make larger than
// kReplyRingPaidBytesMax. No uid is answered in more rings than half of the publications that
// another may have. And the uid that keeps rings which requesters of another one have let go of, at
// their expense, in bytes a quarter of what that one may have, gets no further ring to answer it in
// until it lets go, too: which it is told at once, for with its ring of replies a requester loses
// that responder (ENDED, MEMBERS). One such ring is plain: of who went while the next one's request
// is worked on.
// A requester has one ring for requests in a lineage (ASK, EEXIST): through a second one each
// responder would be asked for a second ring of replies.
// ONE RING of replies is there for an attachment, ever. It ends for the requester with its
// publisher or with the attachment, whichever is first: who has left has nothing more to say. Who
// gets none, for want of room, has his requester told (REFUSED), for which request: it may get one
// for a later request.
//
// DEATH. The daemon tells a requester that a responder has left (MEMBERS, detach) only after it has
// told it of every ring in which that one has answered, and of their end. So when the requester has
// taken that in, and read these rings to their end, what is unanswered will never be answered: an
// error at once, without a clock. No responder at all is a membership of none.
//
// WHAT WOULD BREAK IT: MEMBERS before ATTACHED and ENDED (a responder that answers and exits is
// taken for one that died); a request numbered anew in a new ring (a late reply is taken for that
// of another request); the attachment without its link (the ids of another daemon begin anew).
#pragma once

#include "protocol/wire.hpp"

namespace ipcbus::protocol {

/// In a record of a ring of requests or of replies these stand where one under a filter names its
/// topic: its topic bytes are as many. A record with another number of them is passed over.
inline constexpr u16 kHeadBytes = 16;

/// Little-endian, as it lies in memory; for both kinds, which differ in names only.
struct Head {
    u64 number = 0;  ///< request: the attachment that it is to, 0: all. Reply: to which sequence
    u32 status = 0;  ///< reply: the responder's own word for how it went; 0 is good. Request: 0
    u32 flags = 0;   ///< reply: kReplyMore. Others: 0, and not looked at
};
static_assert(sizeof(Head) == kHeadBytes && std::is_trivially_copyable_v<Head>);

/// For so many rings of replies, in which processes of one uid answer one requester, that one pays.
inline constexpr u32 kRepliesPaidFor = 32;

/// A ring of replies that is larger is not paid for by who answers in it.
inline constexpr u64 kReplyRingPaidBytesMax = 65536;

/// From this responder another reply to the same request follows.
inline constexpr u32 kReplyMore = 1;

/// What a ring of replies answers, and that it is another ring than any before it: the daemon makes
/// it, and no client has a say in it.
constexpr Id128 reply_lineage(u64 attachment, u64 publication) {
    Id128 id{};
    for (std::size_t i = 0; i < 8; i++) {
        id[i] = static_cast<u8>(attachment >> (8 * i));
        id[8 + i] = static_cast<u8>(publication >> (8 * i));
    }
    return id;
}
/// The attachment in it.
constexpr u64 answered_attachment(const Id128& reply_lineage) {
    u64 attachment = 0;
    for (std::size_t i = 0; i < 8; i++) {
        attachment |= u64{reply_lineage[i]} << (8 * i);
    }
    return attachment;
}

}  // namespace ipcbus::protocol
