/* SPDX-License-Identifier: Apache-2.0
 *
 * wake.pml: parking, sleeping and waking. NW writers with a ring each, NR readers, every reader
 * attached to every ring.
 *
 * STANDS FOR    waiter.hpp, .cpp        Waiter::settle_down, sleep, park, look_again, set_asleep,
 *                                       take_activity, take_summary, activate, remove, add,
 *                                       fence_writers  [S1]-[S9] [A1] [A2] [F4]; arm, disarm (with
 *               readiness.cpp, alarm.cpp  -DLOOP)      [E1]-[E5]
 *               membarrier.hpp          barrier_everywhere
 *               attachment.hpp          Attachment::set_parked, set_sleepers, unpark; ring_bell
 *               reader_table.hpp, .cpp  ReaderTable::add, wake, round, ring  [P2]-[P8]
 *               ring_publisher.hpp,.cpp RingPublisher::finish, finish_slow, wake_fenced,
 *                                       wake_unfenced, stop_fencing, fence_again
 *                                         [P1] [M1] [F1]-[F3] [F5]
 *               subscriber.cpp          find (one look over what is active), attend, look
 *               client_memory.cpp       announce_frames, ring_sleepers (with -DJOIN)
 *
 * MODELLED. A ring is the number of its records, one release store ([W8]). A doorbell: FUTEX_WAIT
 * is one compare-and-block, FUTEX_WAKE unblocks. NO timeouts, no sweeps, no naps: waits are for
 * ever, so whatever only the bounded look would heal is an error here. A reader, awake, takes what
 * was rung, looks at its active rings; when none has news it parks one and stays awake, or sleeps,
 * which parks the rest. It may be woken for no reason, SPUR times.
 *   -DJOIN     the last writer learns of reader 0 while it publishes: attention, frame, its own
 *              reply and the ring of the daemon.
 *   -DMOVE     a reader may change its waiter once, between two sleeps (a subscriber put in a set)
 *   -DSLEEP_ALL  no ring is parked while awake
 *   -DSAMEBIT  all attachments of a reader share one bit of the bitmap
 *   -DNOISE    a hostile process rings bells, sets bits, summary, sleepers for no reason, N times
 *              (to wipe them is what it could do worse: only the bounded look helps there); with
 *              -DLOOP it wakes without adding to the bell, too
 *   -DUNFENCED a writer in whose last publish nobody slept may leave out [P1] from then on. The
 *              barrier of a reader: each writer's buffer is empty at some moment before it returns.
 *   -DREFUSED  the same, and the barrier is refused: unfenced rings are polled (-DNW=1)
 *   -DLOOP     readers wait in event loops: [S8] is [E2] to [E5], for a descriptor of which the
 *              kernel's side is modelled, too: a wait that a wake-up ends is marked so, then the
 *              descriptor is signalled. SPUR calls come by whim, without the descriptor being
 *              readable. (What is armed is let go of by arming anew, as FutexRing does it. A
 *              FutexThread is told by a ring of the reader's own, before [S1].)
 *   -DLIAR     one more reader, whose `parked` takes any value at any time, LIAR times
 *
 * PROPERTIES. When nothing can move any more every writer has ended, and no reader sleeps with an
 * unread record in any ring. A writer rings an attachment once an episode at most. Whatever stands
 * in `parked`, a writer goes to no waiter that there is not.
 *
 * NOT HERE: bounded looks and sweeps (they heal, they are not needed for these properties), the
 * contents of rings, wipers of bits, close() (a record like others, for a sleeper).
 */
#define TWINS                                                                              \
    X(NO_FENCE_P1)                                                                         \
    X(NO_FENCE_S5)                                                                         \
    X(PLAIN_S4)           /* sleepers without release: -DWEAK */                           \
    X(EXCHANGE_LATE_P2)   /* the round first, then sleepers exchanged for 0 */             \
    X(BELL_LATE_S1)       /* the bell read after the look */                               \
    X(SLEEPERS_LATE_S4)   /* sleepers set after the look */                                \
    X(SHORT_LOOK_S6)      /* the look ends at the first ring with news */                  \
    X(BIT_LATE_A2)        /* bits taken after the rings were looked at */                  \
    X(WORD_FIRST_A1)      /* bitmap taken before summary */                                \
    X(SUMMARY_FIRST_P6)   /* summary set before the bit */                                 \
    X(ASLEEP_EARLY_P7)    /* no fence before `asleep` is looked at */                      \
    X(SAME_EPISODE_S2)    /* parked again in the episode it had */                         \
    X(REREAD_P4)          /* remembers parked as it is after the ring */                   \
    X(NO_MEMORY_P4)       /* remembers nothing */                                          \
    X(STAYS_PARKED_A2)    /* a ring whose bit was taken is read and left parked */         \
    X(NO_ROUND_DUE)       /* ReaderTable::add without a round */                           \
    X(LOOK_BEFORE_ROUND)  /* [M1] once, before the round, and none after it */             \
    X(NO_LOOK_S7)         /* a sleep without the look elsewhere */                         \
    X(NO_FENCE_FRAMES)    /* announce_frames without its fence */                          \
    X(STAYS_PARKED_MOVE)  /* Waiter::remove without activate */                            \
    X(UNBOUNDED_WAITER)   /* ring() without the bound of the waiter's number */            \
    X(NO_WORD_F1)         /* leaves out the fence and does not say so */                   \
    X(NO_FENCE_F2)                                                                         \
    X(NO_LOOK_F3)         /* no harm: the next publish looks, and there is no news before */ \
    X(EARLY_F4)           /* unfenced looked at before [S5] */                             \
    X(NO_BARRIER_F4)                                                                       \
    X(LOOK_BEFORE_BARRIER) /* [S6] before the barrier */                                   \
    X(NO_ROUND_F5)        /* unfenced = 0, but the round only with the next publish */     \
    X(PARKED_UNFENCED)    /* -DREFUSED: an unfenced ring parked all the same */            \
    X(LATE_F5)            /* no harm: unfenced = 0 stored behind the fence of [F5] */      \
    X(PLAIN_F5)           /* no harm: the same without release */                          \
    X(NO_CHECK_E4)        /* -DLOOP: unreadable, whatever [E2] has brought meanwhile */    \
    X(CHECK_FIRST_E4)     /* [E4] before [E3] */                                           \
    X(NO_LEVEL_E5)        /* a call by whim leaves the descriptor unreadable */            \
    X(BELL_SAYS_E5)       /* -DNOISE: woken, and the bell has not moved: it waits on */    \
    X(SIGNAL_FIRST_E4)    /* the descriptor signalled before the wait is marked as ended */ \
    X(CLEAR_FIRST_E3)     /* no harm: [E3] before [E2] */
#ifndef NW
#define NW 2
#endif
#ifndef NR
#define NR 1
#endif
#ifndef NMSG
#define NMSG 1
#endif
#ifndef NMSG1
#define NMSG1 NMSG /* the last writer's */
#endif
#ifndef SPUR
#define SPUR 0
#endif
#ifdef MOVE
#define NQ 2 /* waiters of a reader */
#else
#define NQ 1
#endif
#ifdef LIAR
#define NK (NR + 1) /* readers that a writer knows */
#else
#define NK NR
#endif
#define CNT(w) (w)
#define SLEEPERS(w) (NW + (w))
#define ATT(w) (2 * NW + (w))
#define PARKED(r, w) (3 * NW + (r) * NW + (w))
#define BASE (3 * NW + NK * NW)
#define ASLEEP(r, q) (BASE + (r) * NQ + (q))
#define SUMMARY(r, q) (BASE + NK * NQ + (r) * NQ + (q))
#define BELL(r, q) (BASE + 2 * NK * NQ + (r) * NQ + (q))
#define BITS(r, q) (BASE + 3 * NK * NQ + (r) * NQ + (q))
#define FRAMES(r) (BASE + 4 * NK * NQ + (r))
#define UNFENCED_WORD(w) (BASE + 4 * NK * NQ + NK + (w))
#define NMEM (BASE + 4 * NK * NQ + NK + NW)
#define DAEMON (NW + NR)
#define NSB (NW + NR + 1)
#ifndef K
#define K 7
#endif
#include "memory.pml"
/* parked: an episode, odd while parked, and the number of the waiter (2 bits) */
#define EPISODE(word) ((word) / 4)
#define IS_PARKED(word) (EPISODE(word) % 2 == 1)
#define WAITER(word) ((word) % 4)
#ifdef SAMEBIT
#define BIT(w) 1
#else
#define BIT(w) (1 << (w))
#endif
#define IX(r, w) ((r) * NW + (w))
bool blocked[NR * NQ];
#ifdef LOOP
bool fired[NR], readable[NR]; /* what is armed has ended; the descriptor */
#endif
bool known[NK * NW], told[NR];
byte frame[NW], start_at[NR], got[NR * NW], rings[NR * NW], parks[NR * NW], writers_done;

#ifdef LOOP
inline futex_wake(r_) {
    if
    :: atomic { blocked[r_] ->
        blocked[r_] = false;
        if
        :: BROKEN(SIGNAL_FIRST_E4) -> readable[r_] = true
        :: else -> fired[r_] = true
        fi };
        atomic {
            fired[r_] = fired[r_] || BROKEN(SIGNAL_FIRST_E4);
            readable[r_] = readable[r_] || !BROKEN(SIGNAL_FIRST_E4)
        }
    :: else
    fi
}
#endif
inline fence_again() { /* [F5]; the round follows */
    atomic {
        unfenced = false;
        s = 0;
        if
        :: BROKEN(LATE_F5)
        :: BROKEN(PLAIN_F5) -> ST(me, UNFENCED_WORD(me), 0, PLAIN)
        :: else -> ST(me, UNFENCED_WORD(me), 0, REL)
        fi
    };
    if
    :: BROKEN(LATE_F5) -> FENCE(me); ST(me, UNFENCED_WORD(me), 0, REL)
    :: BROKEN(NO_ROUND_F5) -> goto attention
    :: else
    fi
}
proctype Writer(byte me) {
    byte n, s, r, e, a, q, taken, rung[NK];
    bool due, unfenced;
    do
    :: n == (me == NW - 1 -> NMSG1 : NMSG) -> break
    :: else ->
#ifdef JOIN
        if
        :: BROKEN(LOOK_BEFORE_ROUND) -> atomic {
            a = mem[ATT(me)];
            if
            :: a != taken ->
                frame[me] >= a;
                taken = frame[me];
                known[IX(0, me)] = true
            :: else
            fi;
            a = 0 }
        :: else
        fi;
#endif
        atomic {
            n++;
            ST(me, CNT(me), n, REL)
        };
#ifdef UNFENCED
        if
        :: unfenced -> /* wake_unfenced() */
            s = mem[SLEEPERS(me)];
            if
            :: s == 0 && !due -> goto attention
            :: else -> fence_again()
            fi
        :: else
        fi;
#endif
round:
        (FENCE(me) || BROKEN(NO_FENCE_P1)); /* [P1] */
        s = mem[SLEEPERS(me)];
        if
        :: s == 0 && !due
#ifdef UNFENCED
        :: s == 0 && !due && !unfenced -> /* stop_fencing() */
            if
            :: BROKEN(NO_WORD_F1)
            :: else -> ST(me, UNFENCED_WORD(me), 1, PLAIN) /* [F1] */
            fi;
            (FENCE(me) || BROKEN(NO_FENCE_F2)); /* [F2] */
            unfenced = true;
            s = (BROKEN(NO_LOOK_F3) -> 0 : mem[SLEEPERS(me)]); /* [F3] */
            if
            :: s != 0 -> fence_again(); goto round
            :: else
            fi
#endif
        :: else ->
            if
            :: BROKEN(EXCHANGE_LATE_P2)
            :: !BROKEN(EXCHANGE_LATE_P2) && RMW_ACQ(me) -> mem[SLEEPERS(me)] = 0 /* [P2] */
            fi;
            atomic {
                s = 0;
                due = false;
                r = 0
            };
            do
            :: r == NK -> break
            :: r < NK && !known[IX(r, me)] -> r++
            :: r < NK && known[IX(r, me)] ->
                e = mem[PARKED(r, me)]; /* [P3] */
                if
                :: IS_PARKED(e) && (e != rung[r] || BROKEN(NO_MEMORY_P4)) -> /* [P4] */
                    atomic {
                        rung[r] = e;
                        q = WAITER(e);
                        e = 0
                    };
                    if
                    :: q >= NQ && !BROKEN(UNBOUNDED_WAITER)
                    :: else ->
                        assert(q < NQ);
                        if
                        :: BROKEN(ASLEEP_EARLY_P7) -> a = mem[ASLEEP(r, q)]
                        :: BROKEN(SUMMARY_FIRST_P6) -> mem[SUMMARY(r, q)] = 1
                        :: else
                        fi;
                        atomic { /* [P5] */
                            RMW(me) -> mem[BITS(r, q)] = mem[BITS(r, q)] | BIT(me)
                        };
                        if
                        :: BROKEN(SUMMARY_FIRST_P6)
                        :: !BROKEN(SUMMARY_FIRST_P6) && RMW(me) -> mem[SUMMARY(r, q)] = 1 /* [P6] */
                        fi;
                        FENCE(me); /* [P7] */
                        a = (BROKEN(ASLEEP_EARLY_P7) -> a : mem[ASLEEP(r, q)]); /* [P8] */
                        if
                        :: a == 0
                        :: a == 1 ->
                            atomic {
                                RMW(me) -> mem[BELL(r, q)]++;
                                if
                                :: r < NR ->
                                    rings[IX(r, me)]++;
                                    assert(rings[IX(r, me)] <= parks[IX(r, me)])
                                :: else
                                fi
                            };
#ifdef LOOP
                            if
                            :: r < NR -> futex_wake(r)
                            :: else
                            fi;
                            a = 0
#else
                            atomic {
                                if
                                :: r < NR -> blocked[r * NQ + q] = false
                                :: else
                                fi;
                                a = 0
                            }
#endif
                        fi
                    fi;
                    if
                    :: BROKEN(REREAD_P4) -> rung[r] = mem[PARKED(r, me)]
                    :: else
                    fi
                :: else
                fi;
                atomic {
                    e = 0;
                    q = 0;
                    r++
                }
            od;
            if
            :: BROKEN(EXCHANGE_LATE_P2) -> mem[SLEEPERS(me)] = 0
            :: else
            fi
        fi;
attention:
        r = 0;
#ifdef JOIN
        atomic { /* [M1] */
            a = mem[ATT(me)];
            if
            :: a != taken && !BROKEN(LOOK_BEFORE_ROUND) -> /* take_in(): waits for the frame */
                frame[me] >= a;
                taken = frame[me];
                known[IX(0, me)] = true;
                due = !BROKEN(NO_ROUND_DUE)
            :: else
            fi;
            a = 0;
            if
            :: due -> goto round
            :: else
            fi
        }
#endif
    od;
    writers_done++
}

#define P (NW + me)
inline unpark(w_) {
    ep[w_]++;
    ST(P, PARKED(me, w_), ep[w_] * 4, REL);
    act[w_] = true
}
inline look_unfenced() {
    w = 0;
    do
    :: w < NW && fresh[w] -> u = u | mem[UNFENCED_WORD(w)]; w++
    :: w < NW && !fresh[w] -> w++
    :: w == NW -> w = 0; break
    od
}
inline barrier_everywhere() { /* one after the other, each at a moment of its own */
    do
    :: w < NW -> FENCE(w); w++
    :: else -> w = 0; break
    od
}
proctype Reader(byte me) {
    byte ep[NW], v, s, b, c, w, q, f, u, seen, spurious;
    bool act[NW], fresh[NW], found, asleep, moved, attached, polled;
    atomic {
#ifdef LOOP
        readable[me] = true;
#endif
        do
        :: w < NW -> act[w] = true; w++
        :: else -> w = 0; break
        od
#ifdef JOIN
        ;
        act[NW - 1] = (me != 0)
#endif
    };
loop:
    atomic {
        s = 0; b = 0; c = 0; w = 0; v = 0; f = 0; found = false
#ifdef JOIN
        ;
        if
        :: told[me] && !attached -> /* hear_control() */
            seen = mem[FRAMES(me)];
            attached = true;
            act[NW - 1] = true;
            got[IX(me, NW - 1)] = start_at[me]
        :: else -> seen = mem[FRAMES(me)]
        fi
#endif
    };
    s = mem[SUMMARY(me, q)]; /* take_activity() */
    if
    :: s == 0
    :: else ->
        if
        :: BROKEN(WORD_FIRST_A1) -> b = mem[BITS(me, q)]; mem[BITS(me, q)] = 0
        :: else
        fi;
        atomic { RMW_ACQ(P) -> mem[SUMMARY(me, q)] = 0 }; /* [A1] */
        if
        :: BROKEN(WORD_FIRST_A1)
        :: BROKEN(BIT_LATE_A2) -> b = mem[BITS(me, q)]
        :: else -> atomic { /* [A2] */
            RMW_ACQ(P) -> b = mem[BITS(me, q)];
            mem[BITS(me, q)] = 0 }
        fi;
        atomic {
            sb[P].n + NW <= K;
            do
            :: w < NW ->
                if
                :: (b & BIT(w)) && ep[w] % 2 == 1 && !act[w] -> /* activate() */
                    if
                    :: BROKEN(STAYS_PARKED_A2) -> fresh[w] = true
                    :: else -> unpark(w)
                    fi
                :: else
                fi;
                w++
            :: else -> w = 0; break
            od
        }
    fi;
    /* find(): what is active */
    do
    :: w < NW ->
        if
        :: act[w] || fresh[w] -> atomic {
            c = mem[CNT(w)];
            fresh[w] = false;
            if
            :: c > got[IX(me, w)] -> got[IX(me, w)] = c; found = true
            :: else
            fi;
            c = 0 }
        :: else
        fi;
        w++
    :: else -> w = 0; break
    od;
    if
    :: BROKEN(BIT_LATE_A2) && b != 0 -> atomic { RMW_ACQ(P) -> mem[BITS(me, q)] = 0 }
    :: else
    fi;
#ifdef LOOP
    if
    :: found -> goto endpoll /* a call has taken something, and there may be more */
    :: else
    fi;
#else
    if
    :: found -> goto loop
    :: else
    fi;
#endif
    /* nothing: park one and stay awake (fruitless), or sleep, or change the waiter */
    b = 0;
    if
#ifndef SLEEP_ALL
    :: atomic { NW > 1 && act[0] && act[NW - 1];
        if
        :: fresh[0] = true
        :: fresh[NW - 1] = true
        fi };
        goto park_one
#endif
    :: goto sleep
#ifdef MOVE
    :: !moved -> atomic { /* Waiter::remove, add */
        sb[P].n + NW <= K;
        moved = true;
        do
        :: w < NW ->
            if
            :: !act[w] && !BROKEN(STAYS_PARKED_MOVE) -> unpark(w)
            :: else
            fi;
            w++
        :: else -> w = 0; break
        od;
        q = 1;
        goto loop }
#endif
    fi;
sleep:
    v = mem[BELL(me, q)]; /* [S1] */
    atomic {
        asleep = true;
        do
        :: w < NW -> fresh[w] = act[w]; w++
        :: else -> w = 0; break
        od
    };
park_one:
    atomic {
        sb[P].n + 2 * NW + 1 <= K;
        do
        :: w < NW ->
            if
            :: fresh[w] -> /* [S2] */
                ep[w] = (BROKEN(SAME_EPISODE_S2) -> 1 : ep[w] + 1);
                ST(P, PARKED(me, w), ep[w] * 4 + q, PLAIN);
                parks[IX(me, w)]++;
                act[w] = false
            :: else
            fi;
            w++
        :: else -> w = 0; break
        od;
        if
        :: asleep -> ST(P, ASLEEP(me, q), 1, REL) /* [S3] */
        :: else
        fi;
        do
        :: w < NW ->
            if
            :: fresh[w] && !BROKEN(SLEEPERS_LATE_S4) -> /* [S4] */
                if
                :: BROKEN(PLAIN_S4) -> ST(P, SLEEPERS(w), 1, PLAIN)
                :: else -> ST(P, SLEEPERS(w), 1, REL)
                fi
            :: else
            fi;
            w++
        :: else -> w = 0; break
        od
    };
    if
    :: BROKEN(EARLY_F4) -> look_unfenced()
    :: else
    fi;
    (FENCE(P) || BROKEN(NO_FENCE_S5)); /* [S5] */
#ifdef UNFENCED
    if
    :: BROKEN(EARLY_F4)
    :: else -> look_unfenced() /* [F4] */
    fi;
    if
    :: u == 0 || BROKEN(NO_BARRIER_F4) || BROKEN(LOOK_BEFORE_BARRIER)
#ifdef REFUSED
    :: u != 0 -> atomic { polled = true; w = 0 };
        do /* fence_writers(): those that are, by now, are not parked */
        :: w < NW ->
            if
            :: fresh[w] -> atomic {
                if
                :: mem[UNFENCED_WORD(w)] == 1 && !BROKEN(PARKED_UNFENCED) ->
                    sb[P].n < K;
                    unpark(w);
                    fresh[w] = false
                :: else
                fi }
            :: else
            fi;
            w++
        :: else -> w = 0; break
        od
#else
    :: else -> barrier_everywhere()
#endif
    fi;
#endif
    do /* [S6] */
    :: w < NW ->
        if
        :: fresh[w] -> atomic {
            c = mem[CNT(w)];
            if
            :: c > got[IX(me, w)] ->
                sb[P].n < K;
                found = true;
                unpark(w);
                if
                :: BROKEN(SHORT_LOOK_S6) -> c = 0; break
                :: else
                fi
            :: else
            fi;
            c = 0 }
        :: else
        fi;
        w++
    :: else -> break
    od;
#ifdef UNFENCED
    if
    :: u != 0 && BROKEN(LOOK_BEFORE_BARRIER) -> barrier_everywhere()
    :: else
    fi;
#endif
    atomic {
        w = 0;
        u = 0;
        do
        :: w < NW ->
            if
            :: fresh[w] && BROKEN(SLEEPERS_LATE_S4) -> ST(P, SLEEPERS(w), 1, REL)
            :: else
            fi;
            fresh[w] = false;
            w++
        :: else -> w = 0; break
        od;
        if
        :: !asleep -> polled = false; goto loop
        :: else
        fi
    };
    s = mem[SUMMARY(me, q)]; /* [S7] */
#ifdef JOIN
    f = (BROKEN(NO_LOOK_S7) -> seen : mem[FRAMES(me)]);
#endif
    if
    :: found || s != 0 || f != seen -> atomic {
        sb[P].n < K;
        asleep = false;
        polled = false;
        ST(P, ASLEEP(me, q), 0, REL);
        goto loop }
    :: else
    fi;
    if
    :: BROKEN(BELL_LATE_S1) -> v = mem[BELL(me, q)]
    :: else
    fi;
#ifdef LOOP
    if
    :: BROKEN(CLEAR_FIRST_E3) -> readable[me] = false
    :: else
    fi;
    atomic { /* [E2] */
        blocked[me] = (mem[BELL(me, q)] == v);
        fired[me] = !blocked[me];
        readable[me] = readable[me] || fired[me];
        v = (BROKEN(BELL_SAYS_E5) -> v : 0)
    };
    c = (BROKEN(CHECK_FIRST_E4) -> fired[me] : 0);
    readable[me] = (BROKEN(CLEAR_FIRST_E3) -> readable[me] : false); /* [E3] */
    atomic { /* [E4] */
        readable[me] = readable[me] || BROKEN(NO_CHECK_E4) == 0 &&
            (BROKEN(CHECK_FIRST_E4) -> c : fired[me]);
        c = 0
    };
endpoll:
    if
    :: readable[me] ->
        if
        :: BROKEN(BELL_SAYS_E5) && asleep && mem[BELL(me, q)] == v ->
            readable[me] = false;
            goto endpoll
        :: else
        fi
    :: spurious < SPUR -> spurious++ /* a call by whim */
    fi;
    if
    :: asleep -> /* [E5] */
        readable[me] = readable[me] || fired[me] == 0 && !BROKEN(NO_LEVEL_E5)
    :: else -> goto loop
    fi;
#else
    atomic { /* [S8]; whether it will end for no reason is decided here, so that a wait that only
              * such a wake could end is lost all the same */
        blocked[me * NQ + q] = (mem[BELL(me, q)] == v);
        v = 0;
        if
        :: spurious < SPUR -> spurious++; c = 1
        :: true
        fi
    };
endasleep:
    if
    :: !blocked[me * NQ + q]
    :: c == 1 -> blocked[me * NQ + q] = false
#ifdef REFUSED
    :: polled && act[0] && mem[CNT(0)] > got[IX(me, 0)] -> /* a slice: it is looked at */
        blocked[me * NQ + q] = false
#endif
    fi;
#endif
    polled = false;
    atomic { /* [S9] */
        sb[P].n < K;
        asleep = false;
        ST(P, ASLEEP(me, q), 0, REL)
    };
    goto loop
}
#ifdef JOIN
proctype Daemon() {
    byte a;
    ST(DAEMON, ATT(NW - 1), 1, REL); /* [J1] */
    FENCE(DAEMON); /* [J2] */
    a = mem[CNT(NW - 1)]; /* [J3] */
    atomic {
        start_at[0] = a;
        a = 0
    };
    /* [J5], in either order; frames are counted after they were sent */
    if
    :: frame[NW - 1] = 1; told[0] = true
    :: told[0] = true; frame[NW - 1] = 1
    fi;
    ST(DAEMON, FRAMES(0), 1, REL); /* announce_frames() */
    (FENCE(DAEMON) || BROKEN(NO_FENCE_FRAMES));
    a = mem[ASLEEP(0, 0)]; /* ring_sleepers() */
    if
    :: a == 1 -> atomic { RMW(DAEMON) -> mem[BELL(0, 0)]++ };
#ifdef LOOP
        futex_wake(0)
#else
        blocked[0] = false
#endif
    :: else
    fi
}
#endif
#ifdef NOISE
proctype Noise() {
    byte n;
    do
    :: n < NOISE && mem[SLEEPERS(0)] == 0 -> mem[SLEEPERS(0)] = 1; n++
    :: n < NOISE -> mem[SUMMARY(0, 0)] = 1; n++
    :: n < NOISE -> mem[BITS(0, 0)] = 1; n++
#ifdef LOOP
    :: n < NOISE -> atomic { mem[BELL(0, 0)]++; n++ }; futex_wake(0)
    :: n < NOISE -> n++; futex_wake(0) /* without a ring */
#else
    :: n < NOISE -> atomic { mem[BELL(0, 0)]++; n++ }; blocked[0] = false
#endif
    :: break
    od
}
#endif
#ifdef LIAR
proctype Liar() {
    byte n;
    mem[ASLEEP(NR, 0)] = 1;
    do
    :: n < LIAR -> atomic {
        n++;
        if
        :: mem[PARKED(NR, 0)] = 4 /* an episode, and a waiter that there is */
        :: mem[PARKED(NR, 0)] = 7 /* and one that there is not */
        :: mem[PARKED(NR, 0)] = 12
        fi;
        mem[SLEEPERS(0)] = 1 }
    :: break
    od
}
#endif
proctype Check() {
    byte r, w;
    timeout;
    assert(writers_done == NW);
    d_step {
        do
        :: r < NR ->
            w = 0;
            do
            :: w < NW -> assert(got[IX(r, w)] == mem[CNT(w)]); w++
            :: else -> break
            od;
            r++
        :: else -> break
        od
    }
}
init {
    byte i;
    c_code { choose_twin(); };
    atomic {
        do
        :: i < NK * NW -> known[i] = true; i++
        :: else -> i = 0; break
        od;
#ifdef JOIN
        known[IX(0, NW - 1)] = false;
        run Daemon();
        run Drain(DAEMON);
#endif
        do
        :: i < NW -> run Writer(i); run Drain(i); i++
        :: else -> i = 0; break
        od;
        do
        :: i < NR -> run Reader(i); run Drain(NW + i); i++
        :: else -> i = 0; break
        od;
#ifdef NOISE
        run Noise();
#endif
#ifdef LIAR
        run Liar();
#endif
        run Check()
    }
}
