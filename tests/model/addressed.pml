/* SPDX-License-Identifier: Apache-2.0
 *
 * addressed.pml: a ring in which each record is to one reader. The writer is held by R only from a
 * record on that is to R, so R is lapped while it works, comes back through a mark, and must find
 * what is to it; or, demoted (-DDEMOTE), its writer must know what it did not find.
 *
 * STANDS FOR    reader_table.hpp, .cpp    ReaderTable::address, smallest_cursor (of one reader),
 *                                         look_before, overtaken                 [W1] [H1]-[H3]
 *               ring_publisher.cpp        RingPublisher::raise (the cached smallest cursor)
 *               ring_writer.hpp, .cpp     RingWriter::raise, commit, mark, part_begin   [W2]-[W9]
 *               ring_reader.cpp           RingReader::oldest_mark, resync, go_to             [R7]
 *               subscriber.cpp            look_at, lapped; pass() of what was to it
 *
 * SCALE. A unit is 16 bytes; CAP units, records of 1 or 3, one unit for the terminator; 4 marks,
 * each of 4 units: so a record may reach 2 units into the next part, whose mark then is behind its
 * beginning. TO records are to R, any; the others to somebody who is always done. What R stores is
 * visible at once, for a full fence follows. Positions are
 * modulo M, compared by signed difference; -DWRAP begins below the wrap. R may stand still at any
 * step for as long as it likes.
 *
 * PROPERTIES. R finds every record that is to it, unless it was demoted; then it finds it, or the
 * writer has noted it as lost. What the writer notes, stands in a part that has begun to be
 * overwritten. R comes back at a record. Nobody waits for ever.
 *
 * NOT HERE: records torn by the writer (ring.pml), waiting (full.pml -DADDRESSED), several readers.
 */
#define TWINS                                                                                    \
    X(HOLD_AT_RECORD)  /* the hold begins at the record that is to R */                          \
    X(HOLD_AT_MARK)    /* or where the mark of its part is */                                    \
    X(NO_LOOK_AGAIN)   /* the smallest cursor known is taken after a hold has begun */           \
    X(LOOK_LATE_H2)    /* the cursor of a demoted reader looked at after the raise */            \
    X(LOST_TO_FLOOR)   /* [H3] what begins behind announced - CAP is not lost */
#ifndef CAP
#define CAP 16
#endif
#define PART 4
#define NM 4
#ifndef NREC
#define NREC 9
#endif
#ifndef TO
#define TO 1
#endif
#ifndef SMALL
#define SMALL 2 /* records of 1 unit, at most, */
#endif
#ifndef SMALL_FROM
#define SMALL_FROM 0 /* and the first that may be one */
#endif
#ifndef CBATCH
#define CBATCH 4
#endif
#define M 64
#define SIGNED(x) (((x) + 2 * M + M / 2) % M - M / 2)
#define DIST(a, b) SIGNED((a) - (b))
#define PLUS(p, n) (((p) + (n) + M) % M)
#ifdef WRAP
#define ORIGIN (M - WRAP) /* a multiple of PART */
#else
#define ORIGIN CAP
#endif
#define ANN 0
#define COUNT 1 /* of records: stands for their words */
#define CUR 2
#define MARK(j) (3 + (j))
#define NMEM (3 + NM)
#define NSB 1
#ifndef K
#define K 4
#endif
#include "memory.pml"
#define NONE 255
#define BEGIN(p) ((p) - (p) % PART)

/* ghosts: the truth */
byte position_of[NREC + 1];
bool to_r[NREC], found[NREC], noted[NREC], demoted, ended;

#define OWES (DIST(believed, owed_to) < 0)
#define HOLD (DIST(believed, owed_from) < 0 -> owed_from : believed)
inline look() { /* [W1] */
    c = mem[CUR];
    believed = (c != 0 && DIST(c, believed) > 0 -> c : believed);
    c = 0
}
proctype Writer() {
    byte pos = ORIGIN, ann = PLUS(ORIGIN, 1), n, units, c, need, raised, left = TO, small = SMALL, i, kept;
    byte believed = ORIGIN, owed_from = ORIGIN, owed_to = ORIGIN, smallest = ORIGIN;
    byte part = NONE, mark;
    bool changed, to;
    do
    :: n == NREC -> break
    :: else ->
        atomic {
            if
            :: small > 0 && n >= SMALL_FROM -> units = 1; small--
            :: units = 3
            fi;
            need = PLUS(pos, units + 1)
        };
again:
        if
        :: DIST(ann, need) >= 0 /* [W0] */
        :: else -> /* RingPublisher::raise() */
            atomic {
                raised = PLUS(ann, 1); /* raise_target() */
                raised = (DIST(raised, need) < 0 -> need : raised)
            };
            if
            :: changed || DIST(PLUS(smallest, CAP), raised) < 0 ->
                atomic { /* smallest_cursor() */
                    if
                    :: OWES && !demoted -> look()
                    :: else
                    fi;
                    smallest = (OWES && !demoted && DIST(HOLD, pos) < 0 -> HOLD : pos);
                    changed = false
                }
            :: else
            fi;
            if
            :: demoted && OWES && DIST(HOLD, PLUS(raised, -CAP)) < 0 && !BROKEN(LOOK_LATE_H2) ->
                atomic { look() } /* [H2] */
            :: else
            fi;
            atomic { /* [W2] */
                c = PLUS(smallest, CAP);
                raised = (DIST(raised, c) > 0 -> c : raised);
                c = 0
            };
            if
            :: DIST(raised, need) < 0 -> /* full: full.pml says how it waits */
                raised = 0;
                if
                :: mem[CUR] != believed && mem[CUR] != 0
#ifdef DEMOTE
                :: !demoted -> atomic { demoted = true; changed = true } /* stall() */
#endif
                fi;
                goto again
            :: else ->
                atomic {
                    ann = raised;
                    raised = 0;
                    ST(0, ANN, ann, REL) /* [W3] */
                };
                FENCE(0) /* [W4] */
            fi;
            if
            :: demoted && OWES && BROKEN(LOOK_LATE_H2) -> atomic { look() }
            :: else
            fi;
            atomic { /* [H3] overtaken() */
                if
                :: demoted && OWES && DIST(HOLD, PLUS(ann, -CAP)) < 0 ->
                    kept = BEGIN(PLUS(ann, -CAP + PART - 1));
                    kept = (BROKEN(LOST_TO_FLOOR) -> PLUS(ann, -CAP) : kept);
                    do
                    :: i < n ->
                        if
                        :: to_r[i] && DIST(position_of[i], HOLD) >= 0 &&
                           DIST(position_of[i], kept) < 0 ->
                            assert(DIST(BEGIN(position_of[i]), PLUS(ann, -CAP)) < 0);
                            noted[i] = true
                        :: else
                        fi;
                        i++
                    :: else -> break
                    od;
                    owed_from = kept;
                    owed_to = (DIST(owed_to, kept) > 0 -> owed_to : believed);
                    kept = 0;
                    i = 0
                :: else
                fi
            }
        fi;
        atomic {
            if
            :: left > 0 -> to = true; left--
            :: to = false
            fi;
            to_r[n] = to;
            position_of[n] = pos;
            position_of[n + 1] = PLUS(pos, units);
            sb[0].n + 2 <= K;
            ST(0, COUNT, n + 1, REL); /* [W8] */
            if
            :: pos / PART != part -> /* [W9] */
                part = pos / PART;
                mark = pos;
                ST(0, MARK(part % NM), pos, REL)
            :: else
            fi
        };
        atomic { /* [H1] address() */
            c = pos;
            pos = PLUS(pos, units);
            if
            :: to ->
                believed = (OWES && mem[CUR] != 0 && DIST(mem[CUR], believed) > 0 -> mem[CUR]
                                                                                : believed);
                if
                :: !OWES ->
                    owed_from = (BROKEN(HOLD_AT_RECORD) -> c
                                 : (BROKEN(HOLD_AT_MARK) -> mark : BEGIN(c)));
                    changed = !BROKEN(NO_LOOK_AGAIN)
                :: else
                fi;
                owed_to = pos
            :: else
            fi;
            c = 0;
            units = 0;
            need = 0;
            to = false;
            n++
        }
    od;
    atomic { FENCE(0) -> ended = true }
}

inline store_cursor() { /* [R6], and the full fence [C1] */
    stored = (pos == 0 -> PLUS(pos, -1) : pos);
    mem[CUR] = stored
}
#define OVERTAKEN(p) (DIST(PLUS(a, -CAP), p) > 0)
proctype Reader() {
    byte pos = ORIGIN, next, stored = ORIGIN, a, m, best, j, count;
again:
    atomic {
        a = 0; m = 0; best = 0; j = 0;
        count = mem[COUNT]; /* [R1] */
        a = mem[ANN]        /* [R4]; what is overtaken in between is so at once */
    };
    if
    :: OVERTAKEN(pos) -> goto lapped
    :: else
    fi;
    if
    :: next < count ->
        atomic {
            assert(position_of[next] == pos);
            pos = position_of[next + 1];
            found[next] = to_r[next];
            next++;
            a = 0;
            count = 0
        };
        atomic {
            if
            :: to_r[next - 1] || PLUS(pos, -stored) >= CBATCH -> store_cursor()
            :: else
            fi;
            goto again
        }
    :: else -> /* found empty */
        atomic {
            if
            :: stored != pos && !(pos == 0 && stored == M - 1) -> store_cursor()
            :: else
            fi;
            a = 0;
            count = 0
        }
    fi;
endempty:
    atomic { (mem[COUNT] > next || DIST(PLUS(mem[ANN], -CAP), pos) > 0); goto again }
lapped:
    atomic {
        m = 0; best = 0; j = 0; count = 0;
        a = mem[ANN] /* [R7] oldest_mark() */
    };
    do
    :: j < NM ->
        atomic {
            m = mem[MARK(j)];
            if
            :: m != 0 && DIST(m, PLUS(a, -CAP)) >= 0 && DIST(a, m) > 0 &&
               (best == 0 || DIST(best, m) > 0) -> best = m
            :: else
            fi;
            m = 0;
            j++
        }
    :: else -> break
    od;
    if
    :: best == 0 || DIST(best, pos) <= 0 -> goto again
    :: else
    fi;
    a = mem[ANN]; /* go_to() */
    if
    :: OVERTAKEN(best) -> goto lapped
    :: else ->
        atomic {
            do
            :: next < NREC && position_of[next] != best -> next++
            :: else -> break
            od;
            assert(next < NREC);
            pos = best;
            best = 0;
            if
            :: PLUS(pos, -stored) >= CBATCH -> store_cursor()
            :: else
            fi;
            goto again
        }
    fi
}
proctype Check() {
    byte i;
    (timeout);
    d_step {
        assert(ended);
        do
        :: i < NREC ->
            assert(!to_r[i] || found[i] || (demoted && noted[i]));
            i++
        :: else -> break
        od
    }
}
init {
    c_code { choose_twin(); };
    atomic {
        mem[ANN] = PLUS(ORIGIN, 1);
        position_of[0] = ORIGIN;
        run Drain(0);
        run Writer();
        run Reader();
        run Check()
    }
}
