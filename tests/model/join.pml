/* SPDX-License-Identifier: Apache-2.0
 *
 * join.pml: joining and leaving a publication that is being written. One writer, whose frames are
 * read by another thread of its client; NR reliable readers that are attached while it publishes,
 * the first of which may leave again; the daemon.
 *
 * STANDS FOR    join.hpp, .cpp          settle_start                              [J1]-[J5]
 *               ring_writer.hpp, .cpp   RingWriter::raise, commit                 [W0]-[W10]
 *               ring_publisher.cpp      RingPublisher::raise, make_room, finish,
 *                                       finish_slow                       [W5] [M1]
 *               reader_table.cpp        ReaderTable::add, remove, smallest_cursor, changes [W1]
 *               publication.cpp         Publisher::take_in, frame (libclient)
 *               bus.cpp                 MEMBERS stored and answered with TAKEN (libclient)
 *               ring_reader.hpp         RingReader::look, intact, advance         [R1]-[R5]
 *               attached.cpp            Subscriber::let_go; attachment.hpp clear_slot, store_cursor
 *               bus_attachments.cpp     Bus::attach, detach_at_writer, taken, let_go,
 *                                       release_if_over
 *               membership.cpp          Membership, all of it; teller.cpp tell_publication
 *
 * SCALE. A unit is 16 bytes; CAP units; records of 1 or 2 units, of which the headers are modelled;
 * positions and sequences modulo M (-DWRAP begins below the wrap). The largest raise is RAISE_MAX.
 * -DREUSE: the readers share one slot, one after the other. -DMANY: finish() may come after several
 * records. -DHISTORY: readers begin at any mark that the margin allows ([R9] is then reading, too:
 * that its first records are thrown away makes no difference here). A reader that waits for news
 * or a writer that waits for room tries again: how they sleep is wake.pml's and full.pml's.
 *
 * PROPERTIES. settle_start() takes no honest ring for a lie, and gives a boundary with its true
 * sequence. What the writer writes over has been read by every reader that was told its start; none
 * is lapped, or accused of its cursor. A publish that begins after a reader was told ends when the
 * writer knows it. Nobody waits for ever.
 * 0 in `newest` is none as long as it lies behind the ring, and at the wrap a record as any other:
 * -DWRAP has both (a ring that has come there has had records: it begins with one before ORIGIN).
 *
 * NOT HERE: hang-ups, rounds of several frames, descriptors and their credit, lossy readers (they
 * need none of this), hostile rings and which mark is the right one (tests/unit/join_test.cpp).
 */
#define TWINS                                                                             \
    X(NO_FENCE_J2)                                                                        \
    X(NO_FENCE_W4)                                                                        \
    X(START_FIRST)        /* [J3] [J4] before [J1] */                                     \
    X(NO_LOOK_W5)         /* attention not looked at after a raise: -DMANY */             \
    X(NO_LOOK_M1)         /* nor after a publish */                                       \
    X(NOT_WAITED)         /* take_in() that does not wait for the frame */                \
    X(RAISE_TOO_FAR)      /* announced raised as far as cursors allow */                  \
    X(CHANGE_UNSEEN)      /* a smallest cursor of before a reader was taken in: -DMANY */ \
    X(NOTHING_OWED)       /* no frame for changes that cancel */                          \
    X(SLOT_NOT_CLEARED)   /* DETACHED before the slot is zero: -DREUSE */                 \
    X(SLOT_EARLY)         /* a slot given out again before the reader left it: -DREUSE */ \
    X(NEWEST_BEFORE_WORD) /* [W10] before [W8] */                                         \
    X(ZERO_IS_NONE)       /* -DWRAP: [J4] 0 in `newest` is none, also within the ring */  \
    X(START_AT_NEWEST)    /* [J4] the newest record's start with the next sequence */     \
    X(NO_MARGIN_J4)       /* -DHISTORY: any mark that is not gone */                      \
    X(MARK_BEFORE_WORD)   /* -DHISTORY: [W9] before [W8]: no harm, one that is not below the  \
                           * end of the newest record is not taken */
#ifndef CAP
#define CAP 8
#endif
#define RECORD_MAX 2
#define STRIDE 3
#define RAISE_MAX 3
#ifndef NR
#define NR 1
#endif
#ifndef NREC
#define NREC 6
#endif
#define M 64
#ifdef WRAP
#define ORIGIN (M - WRAP)
#define FIRST (M - 2)
#else
#define ORIGIN CAP
#define FIRST 1
#endif
#define SIGNED(x) (((x) + 2 * M + M / 2) % M - M / 2)
#define DIST(a, b) SIGNED((a) - (b))
#define PLUS(p, n) (((p) + (n) + M) % M)
#define WD(p) ((p) % CAP)
#define SQ(p) (CAP + (p) % CAP)
#define ANN (2 * CAP)
#define NEWEST (2 * CAP + 1)
#define ATT (2 * CAP + 2)
#define CUR(s) (2 * CAP + 3 + (s))
#ifdef HISTORY
#define PARTS 4
#define MARK(i) (2 * CAP + 3 + NR + (i))
#define PART(p) (((p) % CAP) / (CAP / PARTS))
#define NMEM (2 * CAP + 3 + NR + PARTS)
#else
#define NMEM (2 * CAP + 3 + NR)
#endif
#ifdef REUSE
#define SLOT(r) 0
#else
#define SLOT(r) (r)
#endif
#define NSB (2 + NR)
#define DAEMON (NR + 1)
#ifndef K
#define K 5
#endif
#define P (1 + me)
#define CLOSED 3
#define ITH(seq) DIST(seq, FIRST)
#include "memory.pml"
/* frames: number, attached, detached (bits of readers) */
chan to_writer = [2] of { byte, byte, byte };
chan inbox = [2 * NR + 2] of { byte, byte, byte };
chan acks = [2] of { byte };
chan detached = [NR] of { byte };
byte position_of[NREC + 1]; /* ghosts: the truth */
byte start[NR], start_seq[NR], read_to[NR];
bool told[NR], known[NR], left[NR];

#define MOVED(r) (known[r] && mem[CUR(SLOT(r))] != 0 && mem[CUR(SLOT(r))] != believed[r])
inline take_in() { /* until the number in a is taken in */
    do
    :: taken == a -> break
    :: taken != a && BROKEN(NOT_WAITED) -> taken = a; break
    :: taken != a && !BROKEN(NOT_WAITED) ->
        atomic {
            inbox ? n, added, removed;
            do
            :: r < NR ->
                if
                :: removed & (1 << r) -> known[r] = false
                :: else
                fi;
                if
                :: added & (1 << r) -> known[r] = true; believed[r] = start[r]
                :: else
                fi;
                r++
            :: else -> r = 0; break
            od;
            changed = (changed || (added | removed) != 0) && !BROKEN(CHANGE_UNSEEN);
            taken = n;
            a = (n > a -> n : a);
            n = 0; added = 0; removed = 0
        }
    od;
    a = 0
}
proctype Hearer() { /* whichever thread of the writer's client reads the socket */
    byte n, x, y;
end:
    do
    :: atomic { to_writer ? n, x, y; inbox ! n, x, y; acks ! n; n = 0; x = 0; y = 0 }
    od
}
proctype Writer() {
    byte pos = ORIGIN, ann = PLUS(ORIGIN, 1), seq = FIRST, units, need, raised, limit, c, r;
    byte a, n, added, removed, taken, believed[NR], before, smallest;
    bool changed = true;
#ifdef HISTORY
    byte marked;
#endif
    do
    :: ITH(seq) == NREC -> break
    :: else ->
        atomic {
            if
            :: units = 1
            :: units = 2
            fi;
            need = PLUS(pos, units + 1);
            do /* ghost: told before this publish began */
            :: r < NR -> before = before | (told[r] << r); r++
            :: else -> r = 0; break
            od
        };
again:
        if
        :: DIST(ann, need) >= 0 /* [W0] */
        :: else ->
            raised = PLUS(ann, STRIDE); /* [W2] raise_target() */
            raised = (DIST(raised, need) < 0 -> need : raised);
            if
            :: (changed || DIST(PLUS(smallest, CAP), raised) < 0) -> c = pos /* [W1] */
            :: else -> c = smallest; r = NR /* the one known does */
            fi;
            do
            :: r < NR ->
                atomic {
                    if
                    :: known[r] ->
                        limit = mem[CUR(SLOT(r))];
                        limit = (limit == 0 -> believed[r] : limit);
                        /* of one that has left, W may see whatever its slot is used for now */
                        assert(left[r] || DIST(limit, believed[r]) >= 0 && DIST(pos, limit) >= 0);
                        believed[r] = limit;
                        c = (DIST(limit, c) < 0 -> limit : c);
                        limit = 0
                    :: else
                    fi;
                    r++
                }
            :: else -> r = 0; break
            od;
            atomic {
                changed = false;
                smallest = c;
                limit = PLUS(c, CAP);
                raised = (DIST(raised, limit) > 0 || BROKEN(RAISE_TOO_FAR) -> limit : raised);
                c = 0;
                limit = 0
            };
            if
            :: DIST(raised, need) < 0 -> /* full: make_room(), block() */
                FENCE(0);
                a = mem[ATT];
                if
                :: a != taken -> take_in()
                :: else -> a = 0; /* waits */
                    (mem[ATT] != taken || MOVED(0) || MOVED(NR - 1))
                fi;
                goto again
            :: else
            fi;
            atomic {
                sb[0].n < K;
                ann = raised;
                raised = 0;
                ST(0, ANN, ann, REL) /* [W3] */
            };
            (FENCE(0) || BROKEN(NO_FENCE_W4)); /* [W4] */
            if
            :: BROKEN(NO_LOOK_W5)
            :: else -> a = mem[ATT]; take_in() /* [W5]; the room is the writer's all the same */
            fi
        fi;
        atomic {
#ifdef HISTORY
            sb[0].n + 5 <= K;
#else
            sb[0].n + 4 <= K;
#endif
            do /* what it writes over now has been read by whoever was told to begin there */
            :: r < NR ->
                assert(!told[r] || left[r] || DIST(read_to[r], PLUS(need, -CAP)) >= 0);
                r++
            :: else -> r = 0; break
            od;
            position_of[ITH(seq)] = pos;
            position_of[ITH(seq) + 1] = PLUS(pos, units);
            if
            :: BROKEN(NEWEST_BEFORE_WORD) -> ST(0, NEWEST, pos, REL)
            :: else
            fi;
            ST(0, WD(PLUS(pos, units)), 0, PLAIN); /* [W7] */
            ST(0, SQ(PLUS(pos, units)), PLUS(seq, 1), PLAIN);
#ifdef HISTORY
            if
            :: marked != pos / (CAP / PARTS) + 1 && BROKEN(MARK_BEFORE_WORD) ->
                ST(0, MARK(PART(pos)), pos, REL)
            :: else
            fi;
#endif
            ST(0, WD(pos), units, REL); /* [W8] */
#ifdef HISTORY
            if
            :: marked != pos / (CAP / PARTS) + 1 -> /* [W9] */
                marked = pos / (CAP / PARTS) + 1;
                if
                :: BROKEN(MARK_BEFORE_WORD)
                :: else -> ST(0, MARK(PART(pos)), pos, REL)
                fi
            :: else
            fi;
#endif
            if
            :: BROKEN(NEWEST_BEFORE_WORD)
            :: else -> ST(0, NEWEST, pos, REL) /* [W10] */
            fi;
            pos = PLUS(pos, units);
            seq = PLUS(seq, 1);
            units = 0;
            need = 0
        };
#ifdef MANY
        if
        :: ITH(seq) != NREC -> goto unfinished
        :: true
        fi;
#endif
        (FENCE(0) || BROKEN(NO_FENCE_W4)); /* [P1] */
        if
        :: BROKEN(NO_LOOK_M1)
        :: else -> a = mem[ATT]; take_in() /* [M1] */
        fi;
        atomic {
            do
            :: r < NR -> assert(!(before & (1 << r)) || left[r] || known[r]); r++
            :: else -> r = 0; break
            od
        };
unfinished:
        before = 0
    od;
    atomic { sb[0].n < K -> ST(0, WD(pos), CLOSED, REL) } /* close() */
}

proctype Reader(byte me) {
    byte pos, exp, w, s, a;
endnever: /* no slot was left */
    atomic { told[me]; pos = start[me]; exp = start_seq[me]; read_to[me] = pos };
    do
    :: atomic { mem[WD(pos)] != 0 -> w = mem[WD(pos)] }; /* [R1]; waits for one that is there */
        s = mem[SQ(pos)];
        a = mem[ANN]; /* [R4] */
        assert(DIST(PLUS(a, -CAP), pos) <= 0); /* not lapped */
        assert(s == exp && position_of[ITH(exp)] == pos);
        if
        :: w == CLOSED -> break
        :: else
        fi;
        atomic {
            pos = PLUS(pos, w);
            exp = PLUS(exp, 1);
            read_to[me] = pos;
            w = 0;
            s = 0;
            a = 0
        };
        atomic {
            sb[P].n < K; /* [R6] */
            a = (pos == 0 -> PLUS(pos, -1) : pos);
            ST(P, CUR(SLOT(me)), a, REL);
            a = 0
        }
#if defined(REUSE) || defined(LEAVE)
    :: me == 0 -> /* let_go() */
        atomic {
            left[me] = true;
            sb[P].n < K;
            if
            :: BROKEN(SLOT_NOT_CLEARED)
            :: else -> ST(P, CUR(SLOT(me)), 0, PLAIN)
            fi
        };
        atomic { FENCE(P) -> detached ! me }; /* a system call */
        break
#endif
    od
}

proctype Daemon() {
    byte number, sent, taken, to_attach, to_detach, detaching, r, x;
    byte a, newest, position, w, s, untold, busy;
end:
    do
    :: r < NR && !((busy & (1 << SLOT(r))) && !BROKEN(SLOT_EARLY)) -> /* Bus::attach */
        if
        :: BROKEN(START_FIRST) -> a = mem[ANN]; newest = mem[NEWEST]
        :: else
        fi;
        atomic { sb[DAEMON].n < K -> number++; ST(DAEMON, ATT, number, REL) }; /* [J1] */
        (FENCE(DAEMON) || BROKEN(NO_FENCE_J2)); /* [J2] */
        if
        :: BROKEN(START_FIRST)
        :: else -> a = mem[ANN]; newest = mem[NEWEST] /* [J3] */
        fi;
        if
        :: newest == 0 && (DIST(a, 0) < 0 || DIST(0, PLUS(a, -CAP)) < 0 || BROKEN(ZERO_IS_NONE)) ->
            position = ORIGIN
        :: else ->
            assert(DIST(a, newest) >= 0 && DIST(newest, PLUS(a, -CAP)) >= 0);
            w = mem[WD(newest)];
            assert(w == 1 || w == 2);
            position = PLUS(newest, (BROKEN(START_AT_NEWEST) -> 0 : w))
        fi;
#ifdef HISTORY
        do /* go_back() */
        :: x < PARTS ->
            w = mem[MARK(x)];
            if
            :: w != 0 && DIST(position, w) > 0 &&
                DIST(w, PLUS(PLUS(a, -CAP), (BROKEN(NO_MARGIN_J4) -> 0 : RAISE_MAX))) >= 0 ->
                position = w;
                break
            :: true -> x++
            fi
        :: x == PARTS -> break
        od;
        x = 0;
#endif
        s = mem[SQ(position)]; /* [J4] */
        s = PLUS(s, (BROKEN(START_AT_NEWEST) && newest != 0 -> 1 : 0));
        if
        :: DIST(position, PLUS(PLUS(a, -CAP), RAISE_MAX)) < 0 -> assert(false) /* refused */
        :: else ->
            atomic {
                assert(ITH(s) >= 0 && ITH(s) <= NREC && position_of[ITH(s)] == position);
                start[r] = position;
                start_seq[r] = s;
                read_to[r] = position;
                told[r] = true; /* [J5] to R */
                busy = busy | (1 << SLOT(r));
                to_attach = to_attach | (1 << r);
                untold = untold | (1 << r);
                r++
            }
        fi;
        atomic { a = 0; newest = 0; position = 0; w = 0; s = 0 }
    :: atomic { detached ? x ->
        sb[DAEMON].n < K;
        number++; /* detach_at_writer() */
        ST(DAEMON, ATT, number, REL);
        if
        :: untold & (1 << x) -> /* cancels */
            to_attach = to_attach & ~(1 << x);
            untold = untold & ~(1 << x);
            busy = busy & ~(1 << SLOT(x))
        :: else -> to_detach = to_detach | (1 << x)
        fi;
        x = 0 }
    :: atomic { /* tell_publication(): a system call */
        sent == taken && number != sent && FENCE(DAEMON) &&
            !(BROKEN(NOTHING_OWED) && to_attach == 0 && to_detach == 0);
        to_writer ! number, to_attach, to_detach;
        sent = number;
        detaching = to_detach;
        untold = untold & ~to_attach;
        to_attach = 0;
        to_detach = 0 }
    :: atomic { /* taken() */
        acks ? x;
        if
        :: x == sent && taken != sent ->
            taken = sent;
            do
            :: newest < NR ->
                busy = (detaching & (1 << newest) -> busy & ~(1 << SLOT(newest)) : busy);
                newest++
            :: else -> newest = 0; break
            od;
            detaching = 0
        :: else
        fi;
        x = 0 }
    od
}
init {
    byte i;
    c_code { choose_twin(); };
    atomic {
        mem[ANN] = PLUS(ORIGIN, 1);
        mem[SQ(ORIGIN)] = FIRST;
#ifdef WRAP
        mem[NEWEST] = PLUS(ORIGIN, -1);
        mem[WD(PLUS(ORIGIN, -1))] = 1;
        mem[SQ(PLUS(ORIGIN, -1))] = PLUS(FIRST, -1);
#endif
        position_of[0] = ORIGIN;
        run Drain(0);
        run Writer();
        run Hearer();
        run Daemon();
        run Drain(DAEMON);
        do
        :: i < NR -> run Drain(1 + i); run Reader(i); i++
        :: else -> i = 0; break
        od
    }
}
