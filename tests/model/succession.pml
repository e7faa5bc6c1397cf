/* SPDX-License-Identifier: Apache-2.0
 *
 * succession.pml: a publication that goes on in another ring, under another daemon. One writer that
 * moves RINGS - 1 times while it publishes NREC records; one subscriber, which each daemon attaches
 * to its ring early, late, or (but for the last one) never.
 *
 * STANDS FOR    publication.cpp   Publisher::request, advertise, move (libclient)
 *               ring_writer.hpp   RingWriter::close
 *               attached.cpp      Subscriber::attach, admit, let_go, end, drop_orphans; take_inbox
 *               subscriber.cpp    Subscriber::look_at (lost_before_start, empty and ended, closed)
 *               join.cpp          settle_start, as far as the sequence goes
 *
 * MODELLED. A ring is the number of its records and whether it is closed; the record's word and the
 * closed word are stores of the writer's buffer. The subscriber has one ring that it reads, a list
 * of those that wait, and the sequence expected of the lineage.
 *   -DDIE     the writer may die at any moment; the last daemon then says ENDED
 *   -DORPHAN  a ring of a daemon that is no more may be given up whenever it is empty (10 s in the
 *             code), also by a reader whose writer goes on in it
 *
 * PROPERTIES. Records are delivered in order, once. What was delivered and what was told as lost
 * is, at every moment, all that lies between the first record and the next one. Nothing that could
 * be read is told as lost. At the end the subscriber has all of the last ring, and holds no other.
 *
 * NOT HERE: laps (ring.pml), attention (join.pml), several lineages, refusals of ADVERTISE.
 */
#define TWINS                                                                                  \
    X(READ_AT_ONCE)     /* a successor is read before the ring before it is drained */         \
    X(NOTHING_EXPECTED) /* let_go() that remembers no sequence */                              \
    X(SEQUENCE_ANEW)    /* ADVERTISE without the sequence */                                   \
    X(SEQUENCE_EARLY)   /* the sequence taken before the last record of the old ring */        \
    X(NOT_CLOSED)       /* the old ring is left open */                                        \
    X(CLOSED_EARLY)     /* closed before its last record: which nobody sees */                 \
    X(NEWEST_HELD)      /* of those that wait, the last one goes first */                      \
    X(ENDED_AT_ONCE)    /* ENDED lets go without reading what is there */                      \
    X(LOSS_FORGOTTEN)   /* let_go() without regard to a loss that was not told yet */          \
    X(DROPPED_UNREAD)   /* drop_orphans() without the look for news */
#ifndef RINGS
#define RINGS 2
#endif
#ifndef NREC
#define NREC 4
#endif
#define COUNT(k) (k) /* sequence behind the newest record of ring k */
#define CLOSED(k) (RINGS + (k))
#define NMEM (2 * RINGS)
#define NSB 1
#define K 5
#include "memory.pml"
#define NONE 100
byte first[RINGS], start_seq[RINGS], generation;
bool exists[RINGS], told[RINGS], writer_done, dead, ended_told;
chan inbox = [RINGS + 1] of { byte, bool }; /* ring; ENDED */

proctype Writer() {
    byte seq, early, k;
    do
    :: seq == NREC && k == RINGS - 1 -> break
#ifdef DIE
    :: dead = true; goto out
#endif
    :: k < RINGS - 1 -> /* another daemon: advertise() */
        atomic {
            first[k + 1] = (BROKEN(SEQUENCE_ANEW) -> 0 : seq);
            first[k + 1] = (BROKEN(SEQUENCE_EARLY) -> early : first[k + 1]);
            ST(0, COUNT(k + 1), first[k + 1], PLAIN) /* format() */
        };
        atomic { FENCE(0) -> exists[k + 1] = true; generation = k + 1 };
        if
        :: BROKEN(NOT_CLOSED) || BROKEN(CLOSED_EARLY)
        :: else -> ST(0, CLOSED(k), 1, REL)
        fi;
#ifdef DIE
        if
        :: dead = true; goto out
        :: true
        fi;
#endif
        k++
    :: seq < NREC ->
        if
        :: BROKEN(CLOSED_EARLY) && k < RINGS - 1 -> ST(0, CLOSED(k), 1, REL)
        :: else
        fi;
        atomic {
            early = seq;
            seq++;
            ST(0, COUNT(k), seq, REL) /* [W8] */
        };
        FENCE(0) /* [P1] */
    od;
    ST(0, CLOSED(k), 1, REL);
    writer_done = true;
out:
    skip
}
proctype Daemon() {
    byte k;
    do
    :: k == RINGS -> break
    :: k < RINGS - 1 -> k++ /* the subscriber does not find this one */
    :: atomic { k < RINGS && exists[k % RINGS] -> /* attach: settle_start, ATTACHED */
        start_seq[k] = mem[COUNT(k)];
        told[k] = true;
        inbox ! k, false;
        k++ }
    :: dead && k < RINGS && !exists[k % RINGS] -> break
    od;
    if
    :: atomic { dead && FENCE(0) && told[generation]; ended_told = true; inbox ! generation, true }
    :: writer_done
    :: dead && !told[generation]
    fi
}
inline admit(ring_) {
    ring = ring_;
    seq = start_seq[ring_];
    ended = held_ended[ring_];
    if
    :: expected == NONE
    :: else ->
        lost_before = (seq > expected -> seq - expected : 0);
        expected = NONE
    fi;
    first_ever = (first_ever == NONE -> seq : first_ever)
}
inline let_go() {
    /* a loss before its start that was not told yet is told, too, whatever follows */
    lost = lost + (BROKEN(LOSS_FORGOTTEN) -> 0 : lost_before);
    expected = (expected == NONE || seq > expected -> seq : expected);
    expected = (BROKEN(NOTHING_EXPECTED) -> NONE : expected);
    ring = NONE;
    lost_before = 0;
    if
    :: waits == 0
    :: else ->
        k = (BROKEN(NEWEST_HELD) -> wait[waits - 1] : wait[0]);
        if
        :: BROKEN(NEWEST_HELD)
        :: else ->
            j = 0;
            do
            :: j + 1 < waits -> wait[j] = wait[j + 1]; j++
            :: else -> break
            od;
            j = 0
        fi;
        waits--;
        wait[waits] = 0;
        admit(k);
        k = 0
    fi
}
#define NEWS (seq != mem[COUNT(ring)] || mem[CLOSED(ring)])
proctype Reader() {
    byte ring = NONE, seq, expected = NONE, lost_before, wait[RINGS], waits, k, j;
    byte delivered, lost, first_ever = NONE, next;
    bool ended, held_ended[RINGS], is_end;
end:
    do
    :: atomic { inbox ? k, is_end -> /* take_inbox() */
        if
        :: is_end && ring == k -> /* end() */
            ended = true;
            if
            :: BROKEN(ENDED_AT_ONCE) -> let_go()
            :: else
            fi
        :: is_end && ring != k -> held_ended[k] = true
        :: !is_end && ring != NONE && !BROKEN(READ_AT_ONCE) ->
            wait[waits] = k; /* attach() */
            waits++
        :: !is_end && (ring == NONE || BROKEN(READ_AT_ONCE)) -> admit(k)
        fi;
        k = 0;
        is_end = false }
    :: atomic { ring != NONE && lost_before != 0 -> /* look_at() */
        lost = lost + lost_before;
        lost_before = 0 }
    :: d_step { ring != NONE && lost_before == 0 && seq < mem[COUNT(ring)] -> /* a record */
        next = (delivered == 0 && next == 0 -> seq : next);
        assert(seq >= next); /* in order, once */
        seq++;
        delivered++;
        next = seq;
        assert(delivered + lost == seq - first_ever) }
    :: atomic { ring != NONE && lost_before == 0 && seq == mem[COUNT(ring)] &&
                mem[CLOSED(ring)] == 1 -> /* closed */
        let_go() }
    :: atomic { ring != NONE && lost_before == 0 && seq == mem[COUNT(ring)] &&
                mem[CLOSED(ring)] == 0 && ended -> /* empty */
        let_go() }
#ifdef ORPHAN
    :: atomic { ring != NONE && ring < generation &&
                (!NEWS || BROKEN(DROPPED_UNREAD)) -> /* drop_orphans() */
        assert(!NEWS);
        let_go() }
#endif
    od
}
proctype Check() {
    timeout;
    atomic {
        assert(writer_done || dead);
        assert(Reader:waits == 0);
        if
        :: writer_done ->
            assert(Reader:ring == NONE && Reader:expected == NREC);
            assert(Reader:delivered + Reader:lost == NREC - Reader:first_ever)
        :: else ->
            /* what the dead one's last ring held was read, by a reader that it had */
            assert(!ended_told || Reader:ring == NONE &&
                   Reader:expected == mem[COUNT(generation)])
        fi
    }
}
init {
    c_code { choose_twin(); };
    atomic {
        exists[0] = true;
        run Drain(0);
        run Writer();
        run Daemon();
        run Reader();
        run Check()
    }
}
