// Which moment of an utterance is on show, as a function of the time and of how much of it
// has come. Media time m is on show at clock time zero + m.
//
// `zero` is set when the first of it comes, `spare` seconds late: the cushion that later
// chunks may come late by. If one is later still, the face holds its pose (`dry` counts
// that), and time goes on from there, with a new cushion, when the chunk is in. So what is
// shown is never guessed and never skipped; a stall makes everything after it later.
//
// Where no sound is tied to it (`quickens`), a face that came to lag behind catches up, at
// up to 1.5 times the pace: what the slowest of the last chunks left unused of the cushion,
// beyond what it should, is worked off.

const HEARD = 6; // chunks that a lag is judged by
const TOLERATED_S = 0.06;

export function createTimeline(spare, quickens = false) {
  let zero = null;
  let held = 0;
  let started = false;
  let dry = 0;
  let last = 0;
  let unused = []; // s that were in and not shown when each of the last chunks came

  function quicken(now) {
    if (unused.length < HEARD) return;
    const excess = Math.min(...unused) - spare - TOLERATED_S;
    if (excess <= 0) return;
    const step = 0.5 * Math.min(excess, 1) * Math.max(now - last, 0);
    zero -= step;
    unused = unused.map((seconds) => seconds - step);
  }

  return {
    // Clock time of media time 0; null while nothing runs.
    get zero() {
      return zero;
    },
    get dry() {
      return dry;
    },
    // Media time at clock time `now` (s), null before the first; [0, covered) has come,
    // `whole`: no more will.
    at(now, covered, whole) {
      if (zero === null) {
        if (covered <= held && !(whole && started)) return started ? held : null;
        zero = now + (whole ? 0 : spare) - held;
        started = true;
      } else if (quickens && !whole) {
        quicken(now);
      }
      last = now;
      const media = Math.max(now - zero, held);
      if (media <= covered || whole) return media;
      dry += 1;
      held = covered;
      zero = null;
      unused = [];
      return held;
    },
    // More came at `now`; before it, [0, covered) was in.
    came(now, covered) {
      if (zero !== null) unused = [...unused, covered - (now - zero)].slice(-HEARD);
    },
  };
}
