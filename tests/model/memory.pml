/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.pml: memory with explicit store buffers, and broken twins; included by the models of this
 * folder. What they are for and how they are run: check.py.
 *
 * mem[] is shared memory, a small integer for each location. The stores of process p go into sb[p],
 * a queue; the process Drain(p) moves them to mem[] at any later moment. A load reads mem[]: no
 * model reads back what it may have in its own buffer (what a process writes it keeps in a private
 * variable, too, as the code does).
 *   default: the oldest store first. That is x86-64 (TSO).
 *   -DWEAK:  a PLAIN store may overtake any older store to another location. A REL store becomes
 *            visible only after everything before it, but PLAIN stores behind it may overtake it,
 *            as with ARM's stlr. Loads that the code does not order are done in every order.
 * FENCE(p) is full_fence() of fence.hpp: it waits for an empty buffer.
 * RMW(p), to be followed by one atomic step on mem[], is a read-modify-write: a locked instruction
 * on x86-64, which drains. With -DWEAK one that is `acquire` alone drains nothing: RMW_ACQ(p).
 * K is the depth of a buffer; models choose it so that no store is ever refused between two fences
 * (the assertion in ST says so), or wait for room in the buffer where they say so.
 * A step is at most one load, followed by any number of ST and private work: an ST commutes with
 * every step of the others, so to glue it to the load before it loses no behaviour.
 *
 * A TWIN is the same model with one of the code's steps left out, moved or weakened: the checker
 * must find an error in it, or the model proves nothing. A model lists its twins in TWINS as
 * X(NAME); BROKEN(NAME) is true in a run with TWIN=NAME in the environment.
 */
#define X(name) T_##name,
c_decl {
    enum { T_GOOD, TWINS T_COUNT };
    static int twin;
}
#undef X
#define X(name) #name,
c_decl {
    static const char *twin_names[] = {"GOOD", TWINS 0};
    static void choose_twin(void) {
        const char *name = getenv("TWIN");
        if (name == 0 || *name == 0) {
            return;
        }
        for (twin = 0; twin < T_COUNT; twin++) {
            if (strcmp(name, twin_names[twin]) == 0) {
                return;
            }
        }
        printf("no twin %s here\n", name);
        exit(3);
    }
}
#undef X
#define BROKEN(name) (c_expr { twin == T_##name })

#ifndef K
#define K 6
#endif
#define PLAIN 0
#define REL 1
#define PUB 2 /* a REL store that makes a record visible: counted in `pubs` when it drains */
typedef StoreBuffer {
    byte n;
    byte a[K];
    byte v[K];
    byte o[K]
}
StoreBuffer sb[NSB];
byte mem[NMEM];
byte pubs; /* ghost */
#define FENCE(p) (sb[p].n == 0)
#define RMW(p) FENCE(p)
#ifdef WEAK
#define RMW_ACQ(p) true
#else
#define RMW_ACQ(p) FENCE(p)
#endif
inline ST(who_, adr_, val_, ord_) {
    atomic {
        assert(sb[who_].n < K);
        sb[who_].a[sb[who_].n] = adr_;
        sb[who_].v[sb[who_].n] = val_;
        sb[who_].o[sb[who_].n] = ord_;
        sb[who_].n++
    }
}
inline APPLY(p, ix) {
    mem[sb[p].a[ix]] = sb[p].v[ix];
    if
    :: sb[p].o[ix] == PUB -> pubs++
    :: else
    fi;
    i = ix;
    do
    :: i + 1 < sb[p].n ->
        sb[p].a[i] = sb[p].a[i + 1];
        sb[p].v[i] = sb[p].v[i + 1];
        sb[p].o[i] = sb[p].o[i + 1];
        i++
    :: else -> break
    od;
    sb[p].n--;
    sb[p].a[sb[p].n] = 0;
    sb[p].v[sb[p].n] = 0;
    sb[p].o[sb[p].n] = 0;
    i = 0
}
#define DIFFER(p, x, y) (sb[p].a[x] != sb[p].a[y])
#define MAY(p, x) (sb[p].n > x && sb[p].o[x] == PLAIN)
#define MAY1(p) (MAY(p, 1) && DIFFER(p, 1, 0))
#define MAY2(p) (MAY(p, 2) && DIFFER(p, 2, 0) && DIFFER(p, 2, 1))
#define MAY3(p) (MAY(p, 3) && DIFFER(p, 3, 0) && DIFFER(p, 3, 1) && DIFFER(p, 3, 2))
#define MAY4(p) \
    (MAY(p, 4) && DIFFER(p, 4, 0) && DIFFER(p, 4, 1) && DIFFER(p, 4, 2) && DIFFER(p, 4, 3))
#define MAY5(p)                                                                             \
    (MAY(p, 5) && DIFFER(p, 5, 0) && DIFFER(p, 5, 1) && DIFFER(p, 5, 2) && DIFFER(p, 5, 3) && \
     DIFFER(p, 5, 4))
#define MAY6(p)                                                                             \
    (MAY(p, 6) && DIFFER(p, 6, 0) && DIFFER(p, 6, 1) && DIFFER(p, 6, 2) && DIFFER(p, 6, 3) && \
     DIFFER(p, 6, 4) && DIFFER(p, 6, 5))
proctype Drain(byte p) {
    byte i;
end:
    do
    :: d_step { sb[p].n > 0 -> APPLY(p, 0) }
#ifdef WEAK
    :: d_step { MAY1(p) -> APPLY(p, 1) }
    :: d_step { MAY2(p) -> APPLY(p, 2) }
#if K > 3
    :: d_step { MAY3(p) -> APPLY(p, 3) }
#endif
#if K > 4
    :: d_step { MAY4(p) -> APPLY(p, 4) }
#endif
#if K > 5
    :: d_step { MAY5(p) -> APPLY(p, 5) }
#endif
#if K > 6
    :: d_step { MAY6(p) -> APPLY(p, 6) }
#endif
#endif
    od
}
