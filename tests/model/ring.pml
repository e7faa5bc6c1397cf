/* SPDX-License-Identifier: Apache-2.0
 *
 * ring.pml: publishing, reading, lapping, resynchronising, lending, closing. One writer, a reliable
 * reader (-DRELIABLE), a lossy or latest one (-DLOSSY, -DLATEST).
 *
 * STANDS FOR    ring_writer.hpp, .cpp  RingWriter::format, has_room, raise, commit, close
 *                                      [W0]-[W10]
 *               ring_reader.hpp, .cpp  RingReader::look, look_behind, intact, advance, resync,
 *                                      go_to_newest, go_to                               [R1]-[R8]
 *               attachment.hpp         Attachment::moved, store_cursor ([C1] [C2]: full.pml)
 *               reader_table.cpp       ReaderTable::smallest_cursor, stall (of one reader)
 *               subscriber.cpp         look_at, lapped, receive, try_borrow, release (counting)
 *               publisher.cpp          claim, commit, abort (-DCLAIM)
 *
 * SCALE. A unit is 16 bytes. CAP units; records of 1 or 2 units: a header {word = units,
 * sequence}, and one unit of payload that looks like a header: as word 0, 1, 2 (a record) or 3
 * (closed), and as sequence the very one that stood there before, so that a lapped reader is
 * lured. Every word is a location of its own, so records tear. 4 marks (each for 2 units); STRIDE,
 * CBATCH (cursors), LBATCH (loans) in units. Positions and sequences are modulo M and compared by
 * signed difference; -DWRAP begins just below the wrap.
 *
 * PROPERTIES. What is accepted is the record that stands there, whole, in sequence. Nothing is
 * `corrupt`, no cursor is accused. `empty` is true when the word was looked at: so a loss is told
 * also if nothing more comes. A reliable reader that was not demoted is never lapped, and a loan
 * of it never ends in ESTALE. A resync lands on a boundary with its true sequence, and delivered +
 * lost is what was published. While a lapped reader looks, some mark is always intact. What a
 * successful release() covers was true while it was lent. Nobody waits for ever.
 *
 * NOT HERE: topics, hostile rings (unit tests and fuzzers: every loop of the reader is bounded by
 * its code), sleeping (wake.pml, full.pml), joining (join.pml), the next ring (succession.pml). The
 * writer's death needs nothing: every state of its store buffer is one in which it may stop.
 */
#define TWINS                                                                                    \
    X(NO_TERMINATOR_ROOM) /* [W0] [W2] without the 16 bytes: deadlock, or a header overwritten */ \
    X(NO_ZERO_CHECK)      /* [R2] zero believed without [R4] */                                  \
    X(CHECK_FIRST)        /* [R4] before the copy */                                             \
    X(NO_CHECK_RELIABLE)  /* a reliable reader trusts its cursor */                              \
    X(NO_FENCE_W4)        /* fails with -DWEAK alone */                                          \
    X(PLAIN_W8)           /* the word without release: -DWEAK */                                 \
    X(NO_RECHECK_R7)      /* a mark believed without the second look at announced */             \
    X(NO_CHECK_RELEASE)   /* release() of a loan without [R4] */                                 \
    X(WRITE_OVER_CURSOR)  /* [W2] without the limit by the cursor */                             \
    X(LOSS_FROM_ZERO)     /* a resync that counts from its own position, not its sequence */
#ifndef CAP
#define CAP 8
#endif
#define NM 4
#ifndef NREC
#define NREC 6
#endif
#ifndef STRIDE
#define STRIDE 1
#endif
#ifndef CBATCH
#define CBATCH 2
#endif
#define LBATCH 3
#ifndef PAY
#define PAY 0 /* which record's payload looks like what */
#endif
#define M 64
#define SIGNED(x) (((x) + 2 * M + M / 2) % M - M / 2)
#define DIST(a, b) SIGNED((a) - (b))
#define PLUS(p, n) (((p) + (n) + M) % M)
#ifdef WRAP
#define ORIGIN (M - WRAP)
#define FIRST (M - 2)
#else
#define ORIGIN CAP
#define FIRST 1
#endif
#define WD(p) ((p) % CAP)
#define SQ(p) (CAP + (p) % CAP)
#define ANN (2 * CAP)
#define NEWEST (2 * CAP + 1)
#define MARK(j) (2 * CAP + 2 + (j))
#define CUR (2 * CAP + 2 + NM)
#define NMEM (2 * CAP + 3 + NM)
#define NSB 2
#ifndef K
#define K 7
#endif
#include "memory.pml"
#define CLOSED 3
#define TERM (BROKEN(NO_TERMINATOR_ROOM) -> 0 : 1)
#define ITH(seq) DIST(seq, FIRST) /* 0 for the first record */

/* ghosts: the truth */
byte position_of[NREC + 1], units_of[NREC + 1], pay_word[NREC], pay_seq[NREC];
bool demoted, ended;

proctype Writer() {
    byte pos = ORIGIN, ann = PLUS(ORIGIN, 1), seq = FIRST, units, c, need, raised, limit;
    byte believed = ORIGIN, last_part = 255, claims;
    do
    :: ITH(seq) == NREC -> break
    :: else ->
        atomic {
            if
            :: units = 1
            :: units = 2
            fi;
            need = PLUS(pos, units + TERM)
        };
again:
        if
        :: DIST(ann, need) >= 0 /* [W0] */
        :: else ->
#ifdef RELIABLE
            atomic { /* [W1] */
                c = mem[CUR];
                c = (c == 0 -> believed : c);
                assert(DIST(c, believed) >= 0 && DIST(pos, c) >= 0); /* nobody is accused */
                believed = c;
                c = (demoted -> pos : c)
            };
#else
            c = pos;
#endif
            atomic { /* [W2] */
                limit = PLUS(c, CAP);
                raised = PLUS(ann, STRIDE);
                raised = (DIST(raised, need) < 0 -> need : raised);
                raised = (DIST(raised, limit) > 0 && !BROKEN(WRITE_OVER_CURSOR) -> limit : raised)
            };
            if
            :: DIST(raised, need) < 0 -> /* full: full.pml says how it waits */
                if
                :: mem[CUR] != believed && mem[CUR] != 0
#ifdef DEMOTE
                :: demoted = true /* ReaderTable::stall */
#endif
                fi;
                goto again
            :: else ->
                atomic {
                    ann = raised;
                    ST(0, ANN, ann, REL); /* [W3] */
                    raised = 0;
                    limit = 0
                };
                (FENCE(0) || BROKEN(NO_FENCE_W4)) /* [W4] */
            fi
        fi;
#ifdef CLAIM
        if
        :: units == 2 && claims < 1 -> /* the caller scribbles, then aborts or commits less */
            atomic {
                claims++;
                ST(0, WD(PLUS(pos, 1)), 2, PLAIN);
                ST(0, SQ(PLUS(pos, 1)), seq, PLAIN)
            };
            if
            :: FENCE(0) -> goto aborted
            :: FENCE(0) -> units = 1
            :: FENCE(0)
            fi
        :: true
        fi;
#endif
        atomic {
            position_of[ITH(seq)] = pos;
            units_of[ITH(seq)] = units;
            if
            :: units == 2 -> /* [W6] */
                pay_word[ITH(seq)] = (ITH(seq) + PAY) % 4;
                pay_seq[ITH(seq)] = mem[SQ(PLUS(pos, 1))];
                ST(0, WD(PLUS(pos, 1)), pay_word[ITH(seq)], PLAIN)
            :: else
            fi;
            ST(0, WD(PLUS(pos, units)), 0, PLAIN); /* [W7] */
            ST(0, SQ(PLUS(pos, units)), PLUS(seq, 1), PLAIN);
            position_of[ITH(seq) + 1] = PLUS(pos, units)
        };
        atomic {
            sb[0].n + 3 <= K || BROKEN(NO_FENCE_W4);
            /* [W8] */
            if
            :: BROKEN(PLAIN_W8) -> ST(0, WD(pos), units, PLAIN)
            :: else -> ST(0, WD(pos), units, PUB)
            fi;
            if
            :: pos / 2 != last_part -> /* [W9] */
                last_part = pos / 2;
                ST(0, MARK(last_part % NM), pos, REL)
            :: else
            fi;
            ST(0, NEWEST, pos, REL); /* [W10] */
            pos = PLUS(pos, units);
            seq = PLUS(seq, 1)
        };
        FENCE(0); /* [P1] */
aborted:
        atomic {
            units = 0;
            c = 0;
            need = 0
        }
    od;
    ST(0, WD(pos), CLOSED, REL); /* close() */
    atomic { FENCE(0) -> ended = true }
}

#define OVERTAKEN(p) (DIST(PLUS(a, -CAP), p) > 0 && !(rel && BROKEN(NO_CHECK_RELIABLE)))
#define ANNOUNCED (BROKEN(CHECK_FIRST) && w != 0 -> a : mem[ANN])
inline store_cursor() { /* [R6] */
    if
    :: rel && stored != pos ->
        sb[1].n < K;
        stored = (pos == 0 -> PLUS(pos, -1) : pos);
        ST(1, CUR, stored, REL)
    :: else
    fi
}
inline accept(word, seq_) { /* the record at pos is taken for the next one */
    assert(ITH(exp) < NREC);
    assert(seq_ == exp && position_of[ITH(exp)] == pos && units_of[ITH(exp)] == word);
    pos = PLUS(pos, word);
    exp = PLUS(exp, 1);
    delivered++
}
proctype Reader(bool rel) {
    byte pos = ORIGIN, exp = FIRST, stored = ORIGIN, w, s, pw, ps, w2, s2, a, g, m, best, j;
    byte delivered, lost;
again:
    atomic {
        w = 0; s = 0; pw = 0; ps = 0; w2 = 0; s2 = 0; g = 0; m = 0; best = 0; j = 0;
        a = 0
    };
#ifdef LATEST
    /* go_to_newest() */
    m = mem[NEWEST]; /* [R8]; 0 is none as long as it lies behind the ring */
    a = mem[ANN];
    if
    :: DIST(m, PLUS(a, -CAP)) < 0 || DIST(a, m) <= 0 || DIST(m, pos) <= 0
    :: else ->
        s = mem[SQ(m)];
        a = mem[ANN];
        if
        :: OVERTAKEN(m)
        :: else -> atomic {
            assert(position_of[ITH(s)] == m && DIST(s, exp) >= 0);
            lost = lost + DIST(s, exp);
            pos = m;
            exp = s }
        fi
    fi;
    atomic { m = 0; s = 0; a = 0 };
#endif
    d_step { /* look(): [R1] */
        w = mem[WD(pos)];
        g = pubs;
        if
        :: BROKEN(CHECK_FIRST) -> a = mem[ANN]
        :: else
        fi
    };
    if
    :: w == 0 -> /* [R2] */
        a = (BROKEN(NO_ZERO_CHECK) -> PLUS(pos, CAP) : mem[ANN]);
        if
        :: OVERTAKEN(pos) -> goto lapped
        :: else
        fi;
        atomic {
            assert(ITH(exp) == g); /* it was empty */
            store_cursor();
            g = 0
        };
        /* waits for news() */
        atomic { (mem[WD(pos)] != 0 || DIST(PLUS(mem[ANN], -CAP), pos) > 0); goto again }
    :: w == 1 || w == CLOSED -> s = mem[SQ(pos)]
    :: w == 2 ->
#ifdef LOAN
        s = mem[SQ(pos)]
#else
        if
        :: s = mem[SQ(pos)]; pw = mem[WD(PLUS(pos, 1))]; ps = mem[SQ(PLUS(pos, 1))]
#ifdef WEAK
        :: ps = mem[SQ(PLUS(pos, 1))]; pw = mem[WD(PLUS(pos, 1))]; s = mem[SQ(pos)]
#endif
        fi
#endif
    fi;
    if
    :: w == CLOSED || s != exp -> /* odd_word() */
        a = mem[ANN];
        if
        :: OVERTAKEN(pos) -> goto lapped
        :: else ->
            assert(w == CLOSED && s == exp); /* never corrupt */
            goto closed
        fi
    :: else
    fi;
#ifdef LOAN
    /* try_borrow(): a second one, if the batch is not full */
    if
    :: w < LBATCH ->
        w2 = mem[WD(PLUS(pos, w))];
        if
        :: w2 == 0 || w2 > 2 -> w2 = 0
        :: else ->
            s2 = mem[SQ(PLUS(pos, w))];
            if
            :: s2 != PLUS(exp, 1) -> w2 = 0
            :: else
            fi
        fi
    :: else
    fi;
    a = mem[ANN]; /* [R4] against the first */
    if
    :: OVERTAKEN(pos) -> goto lapped
    :: else
    fi;
    d_step {
        assert(s == exp && position_of[ITH(exp)] == pos && units_of[ITH(exp)] == w);
        assert(w2 == 0 || units_of[ITH(exp) + 1] == w2)
    };
    /* lent: the caller reads where it lies */
    if
    :: w == 2 -> pw = mem[WD(PLUS(pos, 1))]; ps = mem[SQ(PLUS(pos, 1))]
    :: else
    fi;
#endif
    a = ANNOUNCED; /* [R4], and that of release() */
    if
    :: OVERTAKEN(pos) && !BROKEN(NO_CHECK_RELEASE) ->
        goto lapped /* ESTALE: not advanced, the next look finds it lapped */
    :: else ->
        d_step { /* [R5] */
            assert(w == 1 || (pw == pay_word[ITH(exp)] && ps == pay_seq[ITH(exp)]));
            accept(w, s);
            if
            :: w2 != 0 -> accept(w2, s2)
            :: else
            fi
        };
        atomic { /* moved() */
            if
            :: rel && PLUS(pos, -stored) >= CBATCH -> store_cursor()
            :: else
            fi
        };
        goto again
    fi;
lapped:
    assert(!rel || demoted);
resync:
    atomic {
        w = 0; s = 0; pw = 0; ps = 0; w2 = 0; s2 = 0; g = 0; m = 0; best = 0; j = 0;
        a = mem[ANN] /* [R7] */
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
            j++
        }
    :: else -> break
    od;
    if
    :: best == 0 || DIST(best, pos) <= 0 -> /* again */
        d_step {
            j = 0;
            m = 0;
            do
            :: j < NM ->
                m = (mem[MARK(j)] != 0 && DIST(mem[MARK(j)], PLUS(mem[ANN], -CAP)) >= 0 -> 1 : m);
                j++
            :: else -> break
            od;
            assert(m == 1) /* there is an intact one, at every moment */
        };
        goto resync
    :: else
    fi;
    s = mem[SQ(best)]; /* go_to() */
    a = (BROKEN(NO_RECHECK_R7) -> PLUS(best, CAP) : mem[ANN]);
    if
    :: OVERTAKEN(best) -> goto resync
    :: else ->
        atomic {
            assert(DIST(s, exp) >= 0 && ITH(s) <= NREC && position_of[ITH(s)] == best);
            lost = lost + (BROKEN(LOSS_FROM_ZERO) -> 1 : DIST(s, exp));
            exp = s;
            pos = best;
            best = 0
        };
        goto again
    fi;
closed:
    skip;
    d_step {
        assert(ITH(exp) == NREC && position_of[NREC] == pos);
        assert(delivered + lost == NREC);
        assert(!rel || demoted || lost == 0)
    }
}
init {
    c_code { choose_twin(); };
    atomic {
        mem[ANN] = PLUS(ORIGIN, 1);
        mem[SQ(ORIGIN)] = FIRST;
#ifdef WRAP
        mem[NEWEST] = PLUS(ORIGIN, -1); /* the record that brought the ring there */
#endif
        position_of[0] = ORIGIN;
        run Drain(0);
        run Writer();
#ifdef RELIABLE
        run Drain(1);
        run Reader(1);
#endif
#if defined(LOSSY) || defined(LATEST)
        run Reader(0);
#endif
    }
}
