/* SPDX-License-Identifier: Apache-2.0
 *
 * full.pml: a full ring. A writer that waits for room, NR reliable readers that store their cursors
 * in batches, sleep, die, are stopped or lie; the daemon, which tells of a death.
 *
 * STANDS FOR    ring_publisher.hpp,.cpp RingPublisher::reserve, make_room, block, want, raise,
 *                                       waited, finish, finish_slow  [B1]-[B6] [P1] [M1]
 *               reader_table.hpp, .cpp  ReaderTable::smallest_cursor, stall, wake  [W1] [P2]-[P4]
 *               attachment.hpp          Attachment::moved, store_cursor; ring_bell   [R6] [C1] [C2]
 *               waiter.cpp              Waiter::sleep of a reader with one ring     [S1]-[S8]
 *               bus_attachments.cpp     Bus::detach_at_writer; client_memory.cpp announce_frames
 *
 * MODELLED. Records of one unit, CAP units, one unit for the terminator; positions modulo M,
 * compared by signed difference; -DWRAP begins below the wrap. A slot begins as 0: not begun. A
 * reader and its waiter are one thing here (wake.pml has bitmaps). NO timeouts, but for -DSTOP.
 *   -DAWAY  a reader may go away for ever after any receive: busy elsewhere, without a system call
 *   -DDIE   a reader may die at any instruction; the daemon then tells the writer
 *   -DSTOP  a reader may be stopped for ever; a slice of the writer's wait ends only when nothing
 *           else can move, and two of them without a move are a stall
 *   -DLIAR  the last reader reads nothing, and stores any cursor, LIAR times; and -DSTOP's slices
 *   -DMANY  publish_many: finish() at the end, or before the writer waits
 *   -DADDRESSED  record n is to reader n modulo NR, which stores its cursor when it has received it
 *           and only then may go away; who has read all that is to it holds nobody. Readers do not
 *           sleep here: how they are woken is the same
 *
 * PROPERTIES. When nothing can move any more the writer has published all, every reader that lives
 * and goes on has read all (nobody sleeps although there is room, or news, and nobody waits for the
 * dead); one that has gone away having read everything does not hold the writer. What the writer
 * writes over has been read by every reliable reader that was not demoted, honest ones are neither
 * demoted nor accused, whatever another one's cursor says. A reader rings once for a `wanted`.
 *
 * NOT HERE: strides of `announced` and records of several units (ring.pml), bitmaps (wake.pml), how
 * a reader finds what is to it when it was overtaken before that, by which the hold begins earlier
 * than at the record (-DADDRESSED steps over what is gone, one by one; addressed.pml has marks),
 * clocks: from when slices are counted, and who is demoted with another, is a unit test's, and so is
 * `hurry` [B7] [C3], which makes each move seen in them. spin(): looks before [B1] that store
 * nothing.
 */
#define TWINS                                                                                    \
    X(NO_FENCE_C1)                                                                               \
    X(NO_FENCE_B3)                                                                               \
    X(BELL_LATE_B1)         /* the bell read after the recompute */                              \
    X(WANTED_LATE_B2)       /* wanted stored after the recompute */                              \
    X(ASLEEP_LATE_B2)       /* asleep stored after the look at attention */                      \
    X(ATTENTION_FIRST_B4)   /* attention looked at before the bell is read */                    \
    X(RING_EARLY)           /* the daemon rings before attention and frame are there */          \
    X(NO_FENCE_FRAMES)      /* announce_frames without its fence */                              \
    X(NO_FENCE_P1)          /* sleepers looked at without a fence after the record */            \
    X(NO_STORE_EMPTY)       /* cursor not stored when the ring is found empty, before sleep */   \
    X(NO_FINISH)            /* waits before what it published was made known */                  \
    X(NO_STALL)             /* nobody is demoted */                                              \
    X(ZERO_IS_A_CURSOR)     /* a slot of 0 taken for a position */                               \
    X(UNSIGNED)             /* cursors compared by <: -DWRAP */                                  \
    X(ACCUSED_COUNTS_ALL)   /* one bad cursor, and nobody is counted */                         \
    X(WANTED_NEEDED)        /* wanted is where the record would have room: -DADDRESSED */        \
    X(WANTED_ONCE)          /* not looked at again after the fence: -DADDRESSED */               \
    X(NO_STORE_RECEIVED)    /* cursor not stored when a record to it was received: the same */
#ifndef NR
#define NR 1
#endif
#ifndef CAP
#define CAP 3
#endif
#ifndef BATCH
#define BATCH 1
#endif
#ifndef NMSG
#define NMSG 5
#endif
#define M 32
#ifdef WRAP
#define ORIGIN (M - WRAP)
#else
#define ORIGIN CAP
#endif
#define SIGNED(x) (((x) + 2 * M + M / 2) % M - M / 2)
#define DIST(a, b) SIGNED((a) - (b))
#define PLUS(p, n) (((p) + (n) + M) % M)
#define END PLUS(ORIGIN, NMSG)
#define COUNT 0 /* position up to which records are there: stands for their words */
#define WANTED 1
#define SLEEPERS 2
#define BELLW 3
#define ASLEEPW 4
#define ATT 5
#define CUR(r) (6 + (r))
#define PARKED(r) (6 + NR + (r))
#define BELL(r) (6 + 2 * NR + (r))
#define NMEM (6 + 3 * NR)
#define NSB (2 + NR)
#ifndef K
#define K 5
#endif
#define DAEMON (NR + 1)
#define P (1 + me)
#include "memory.pml"
#if defined(STOP) || defined(LIAR)
#define SLICES
#endif
#ifdef LIAR
#define HONEST(r) ((r) != NR - 1)
#else
#define HONEST(r) true
#endif
bool blocked_writer, blocked[NR], dead[NR], away[NR], stopped[NR], done, gone[NR];
byte rd[NR], frame, last_rung[NR], told_dead;
#ifdef ADDRESSED
byte owed_from[NR], owed_to[NR];
#define TO(p) (DIST(p, ORIGIN) % NR)
#define FIRST_TO(r, p) PLUS(p, ((r) + NR - TO(p)) % NR)
#define OWES(r) LESS(believed[r], owed_to[r])
#define HOLD(r) (LESS(believed[r], owed_from[r]) -> owed_from[r] : believed[r])
#else
#define OWES(r) true
#define HOLD(r) believed[r]
#endif
/* the last record asks for room for one unit more, and does not need it in the end: a cursor may be
 * out of the way before it is where the record would have room */
#ifdef ADDRESSED
#define LARGER(p) (PLUS(p, 1) == END -> 1 : 0)
#else
#define LARGER(p) 0
#endif
#define IN_THE_WAY(r) (OWES(r) && LESS(HOLD(r), need))

inline take_in() { /* [M1] [B4]: attention, then the frame that goes with it */
    atomic {
        a = mem[ATT];
        if
        :: a != taken ->
            frame == a;
            taken = a;
            excluded = excluded | a
        :: else
        fi;
        a = 0
    }
}
inline finish() {
    (FENCE(0) || BROKEN(NO_FENCE_P1)); /* [P1] */
    a = mem[SLEEPERS];
    if
    :: a == 0
    :: else ->
        atomic { RMW_ACQ(0) -> mem[SLEEPERS] = 0; a = 0; r = 0 }; /* [P2] */
        do
        :: r < NR ->
            e = mem[PARKED(r)]; /* [P3] */
            if
            :: e % 2 == 1 && e != rung[r] -> /* [P4] */
                rung[r] = e;
                atomic { RMW(0) -> mem[BELL(r)]++ };
                blocked[r] = false
            :: else
            fi;
            atomic { e = 0; r++ }
        :: else -> r = 0; break
        od
    fi;
    take_in()
}
#define LESS(x, y) (BROKEN(UNSIGNED) -> ((x) < (y)) : (DIST(x, y) < 0))
inline smallest_cursor() { /* [W1], into m */
    m = pos;
    r = 0;
    do
    :: r < NR ->
        atomic {
            if
            :: (excluded & (1 << r)) || !OWES(r)
            :: else ->
                c = mem[CUR(r)];
                c = (c == 0 && !BROKEN(ZERO_IS_A_CURSOR) -> believed[r] : c);
                if
                :: LESS(c, believed[r]) || LESS(pos, c) -> /* accused */
                    assert(!HONEST(r));
                    excluded = (BROKEN(ACCUSED_COUNTS_ALL) -> 255 : excluded | (1 << r))
                :: else ->
                    believed[r] = c;
                    m = (OWES(r) && LESS(HOLD(r), m) -> HOLD(r) : m)
                fi;
                c = 0
            fi;
            r++
        }
    :: else -> r = 0; break
    od
}
inline look_for_wanted() { /* wanted(), into t */
    atomic {
        t = need;
#ifdef ADDRESSED
        r = 0;
        do
        :: r < NR ->
            t = (!BROKEN(WANTED_NEEDED) && !(excluded & (1 << r)) && IN_THE_WAY(r) &&
                 LESS(owed_to[r], t) -> owed_to[r] : t);
            r++
        :: else -> r = 0; break
        od;
#endif
        t = (t == 0 -> 1 : t)
    }
}
proctype Writer() {
    byte t, wanted, pos = ORIGIN, need, m, r, c, v, e, a, taken, rung[NR], believed[NR], excluded;
    byte slice_cursor[NR], slices[NR];
    bool blocking, unfinished;
    d_step {
        do
        :: r < NR -> believed[r] = ORIGIN; slice_cursor[r] = ORIGIN;
#ifdef ADDRESSED
            owed_from[r] = ORIGIN; owed_to[r] = ORIGIN;
#endif
            r++
        :: else -> r = 0; break
        od
    };
    do
    :: pos == END -> break
    :: else ->
        need = PLUS(pos, 2 - CAP + LARGER(pos)); /* cursor_needed() */
        smallest_cursor();
        if
        :: !LESS(m, need)
        :: LESS(m, need) -> /* make_room() */
            if
            :: unfinished && !BROKEN(NO_FINISH) -> unfinished = false; finish()
            :: else
            fi;
block:
            if
            :: BROKEN(ATTENTION_FIRST_B4) -> take_in()
            :: else
            fi;
            if
            :: BROKEN(BELL_LATE_B1)
            :: else -> v = mem[BELLW] /* [B1] */
            fi;
            look_for_wanted();
            wanted = t;
            atomic { /* [B2] want() */
                sb[0].n + 2 <= K;
                if
                :: BROKEN(WANTED_LATE_B2)
                :: else -> ST(0, WANTED, wanted, REL)
                fi;
                if
                :: BROKEN(ASLEEP_LATE_B2)
                :: else -> ST(0, ASLEEPW, 1, REL)
                fi
            };
            (FENCE(0) || BROKEN(NO_FENCE_B3)); /* [B3] */
            if
            :: BROKEN(ATTENTION_FIRST_B4)
            :: else -> take_in() /* [B4] */
            fi;
            smallest_cursor();
            if
            :: LESS(m, need) ->
#ifdef ADDRESSED
                look_for_wanted();
                if
                :: t != wanted && !BROKEN(WANTED_ONCE) -> goto block
                :: else
                fi;
#endif
                if
                :: BROKEN(BELL_LATE_B1) -> v = mem[BELLW]
                :: BROKEN(WANTED_LATE_B2) -> ST(0, WANTED, wanted, REL); FENCE(0)
                :: BROKEN(ASLEEP_LATE_B2) -> ST(0, ASLEEPW, 1, REL); FENCE(0)
                :: else
                fi;
                atomic { blocked_writer = (mem[BELLW] == v); v = 0; m = 0 }; /* [B5] */
endblocked:
                if
                :: atomic { !blocked_writer -> goto block }
#ifdef SLICES
                :: timeout -> /* waited(): a slice has passed */
                    blocked_writer = false;
                    smallest_cursor();
                    atomic { /* stall() */
                        r = 0;
                        do
                        :: r < NR ->
                            if
                            :: (excluded & (1 << r)) || !IN_THE_WAY(r)
                            :: else ->
                                if
                                :: believed[r] != slice_cursor[r] ->
                                    slice_cursor[r] = believed[r];
                                    slices[r] = 0
                                :: else ->
                                    slices[r]++;
                                    if
                                    :: slices[r] == 2 && !BROKEN(NO_STALL) ->
                                        assert(stopped[r] || !HONEST(r));
                                        gone[r] = true;
                                        excluded = excluded | (1 << r)
                                    :: else -> slices[r] = (slices[r] > 2 -> 2 : slices[r])
                                    fi
                                fi
                            fi;
                            r++
                        :: else -> r = 0; break
                        od
                    };
                    goto block
#endif
                fi
            :: else
            fi;
            atomic { /* [B6] */
                sb[0].n + 2 <= K;
                ST(0, WANTED, 0, PLAIN);
                ST(0, ASLEEPW, 0, PLAIN)
            }
        fi;
        atomic {
            sb[0].n < K;
            m = 0;
            r = 0;
            do /* what it writes over now was read, by all that it must not overrun */
            :: r < NR ->
#ifdef ADDRESSED
                assert(!HONEST(r) || dead[r] || gone[r] ||
                       DIST(FIRST_TO(r, rd[r]), need) >= 0);
#else
                assert(!HONEST(r) || dead[r] || gone[r] || DIST(rd[r], need) >= 0);
#endif
                r++
            :: else -> r = 0; break
            od;
#ifdef ADDRESSED
            r = TO(pos); /* address() */
            owed_from[r] = (OWES(r) -> owed_from[r] : pos);
            owed_to[r] = PLUS(pos, 1);
            r = 0;
#endif
            t = 0;
            wanted = 0;
            pos = PLUS(pos, 1);
            need = 0;
            ST(0, COUNT, pos, REL) /* [W8] */
        };
#ifdef MANY
        unfinished = true
#else
        finish()
#endif
    od;
#ifdef MANY
    finish();
#endif
    done = true
}

#ifdef DIE
#define MAY_DIE :: goto die
#else
#define MAY_DIE
#endif
inline store_cursor() {
    atomic { /* [R6]; at the wrap, one unit less is as good as 0 */
        sb[P].n < K;
        old = stored;
        stored = (rd[me] == 0 -> PLUS(rd[me], -1) : rd[me]);
        ST(P, CUR(me), stored, REL)
    };
    (FENCE(P) || BROKEN(NO_FENCE_C1)); /* [C1] */
    atomic { /* [C2] */
        w = mem[WANTED];
        w = (w != 0 && DIST(w, old) > 0 && DIST(stored, w) >= 0 -> w : 0);
        assert(w == 0 || last_rung[me] != w);
        last_rung[me] = (w == 0 -> last_rung[me] : w);
        old = 0
    };
    if
    :: w != 0 ->
        w = 0;
        if
        :: atomic { RMW(P) -> mem[BELLW]++ }; blocked_writer = false
        MAY_DIE
        fi
    :: else
    fi
}
proctype Reader(byte me) {
    byte c, v, w, ep, old, stored = ORIGIN;
loop:
    if
    :: atomic {
        c = mem[COUNT];
        v = 0;
        if
        :: DIST(c, rd[me]) > 0 -> rd[me] = PLUS(rd[me], 1); c = 1
        :: else -> c = 0
        fi }
    MAY_DIE
    fi;
    if
    :: c == 1 ->
        c = 0;
#ifdef ADDRESSED
        if
        :: TO(PLUS(rd[me], -1)) == me && !BROKEN(NO_STORE_RECEIVED) -> store_cursor()
        :: else
        fi;
#endif
        if /* moved() */
        :: DIST(rd[me], stored) >= BATCH -> store_cursor()
        :: else
        fi;
#ifdef AWAY
        if
#ifdef ADDRESSED
        :: TO(PLUS(rd[me], -1)) == me -> away[me] = true; goto out
#else
        :: away[me] = true; goto out
#endif
        :: true
        fi;
#endif
        goto loop
    :: else
    fi;
    if /* found empty */
    :: rd[me] != stored && !(rd[me] == 0 && stored == M - 1) && !BROKEN(NO_STORE_EMPTY) ->
        store_cursor()
    :: else
    fi;
    if
#if defined(AWAY) && !defined(ADDRESSED)
    :: away[me] = true; goto out
#endif
#ifdef STOP
    :: stopped[me] = true; goto out
#endif
    :: true
    fi;
#ifdef ADDRESSED
endpolls:
    (DIST(mem[COUNT], rd[me]) > 0);
    goto loop;
#endif
    v = mem[BELL(me)]; /* [S1] */
    atomic {
        sb[P].n + 2 <= K;
        ep++;
        ST(P, PARKED(me), ep, PLAIN); /* [S2] */
        ST(P, SLEEPERS, 1, REL)       /* [S4] */
    };
    FENCE(P); /* [S5] */
    atomic {  /* [S6] */
        c = mem[COUNT];
        if
        :: DIST(c, rd[me]) > 0 ->
            sb[P].n < K;
            c = 0;
            ep++;
            ST(P, PARKED(me), ep, REL);
            goto loop
        :: else -> c = 0
        fi
    };
    if
    MAY_DIE
    :: true
    fi;
    atomic { blocked[me] = (mem[BELL(me)] == v); v = 0 }; /* [S8] */
endblocked:
    if
    :: atomic { !blocked[me] && sb[P].n < K -> ep++; ST(P, PARKED(me), ep, REL) }
    MAY_DIE
#ifdef STOP
    :: stopped[me] = true; goto out
#endif
    fi;
    goto loop;
die:
    atomic {
        dead[me] = true; blocked[me] = false; c = 0; v = 0; w = 0; old = 0; stored = 0; ep = 0
    };
out:
    skip
}
#ifdef DIE
proctype Daemon() {
    byte number, r;
end:
    do
    :: atomic { r < NR && dead[r] && !(number & (1 << r)) -> number = number | (1 << r) };
        if
        :: BROKEN(RING_EARLY) -> atomic { RMW(DAEMON) -> mem[BELLW]++ }; blocked_writer = false
        :: else
        fi;
        ST(DAEMON, ATT, number, REL); /* detach_at_writer() */
        atomic { /* a system call sends the frame: what was stored is visible */
            FENCE(DAEMON) || BROKEN(NO_FENCE_FRAMES);
            frame = number
        };
        if
        :: BROKEN(RING_EARLY)
        :: mem[ASLEEPW] == 1 && !BROKEN(RING_EARLY) -> /* ring_sleepers() */
            atomic { RMW(DAEMON) -> mem[BELLW]++ };
            blocked_writer = false
        :: mem[ASLEEPW] == 0 && !BROKEN(RING_EARLY)
        fi;
        r = 0
    :: r + 1 < NR -> r++
    :: r > 0 -> r = 0
    od
}
#endif
#ifdef LIAR
proctype Liar() {
    byte n;
    do
    :: n < LIAR ->
        atomic {
            n++;
            if
            :: mem[CUR(NR - 1)] = PLUS(ORIGIN, -1)
            :: mem[CUR(NR - 1)] = PLUS(ORIGIN, 1)
            :: mem[CUR(NR - 1)] = PLUS(ORIGIN, 3)
            :: mem[CUR(NR - 1)] = PLUS(ORIGIN, M / 2)
            :: mem[CUR(NR - 1)] = 0
            fi
        }
    :: break
    od
}
#endif
proctype Check() {
    byte r;
    bool owes;
    (timeout
#ifdef SLICES
        && !(blocked_writer && !BROKEN(NO_STALL))
#endif
    );
    atomic {
#ifdef AWAY
        /* the writer may be held only by one that lives and has records unread */
        do
        :: r < NR ->
#ifdef ADDRESSED
            owes = (!dead[r] && DIST(mem[COUNT], FIRST_TO(r, rd[r])) > 0 -> true : owes);
#else
            owes = (!dead[r] && DIST(mem[COUNT], rd[r]) > 0 -> true : owes);
#endif
            r++
        :: else -> r = 0; break
        od;
        assert(done || owes);
#else
        assert(done);
#endif
        do
        :: r < NR ->
            assert(!HONEST(r) || dead[r] || away[r] || stopped[r] || rd[r] == mem[COUNT]);
            r++
        :: else -> break
        od
    }
}
init {
    byte i;
    c_code { choose_twin(); };
    atomic {
        mem[COUNT] = ORIGIN;
        do
        :: i < NR -> rd[i] = ORIGIN; i++
        :: else -> i = 0; break
        od;
        run Writer();
        run Drain(0);
#ifdef DIE
        run Daemon();
        run Drain(DAEMON);
#endif
        do
        :: i < NR && HONEST(i) -> run Reader(i); run Drain(1 + i); i++
        :: i < NR && !HONEST(i) -> i++
        :: i == NR -> i = 0; break
        od;
#ifdef LIAR
        run Liar();
#endif
        run Check()
    }
}
