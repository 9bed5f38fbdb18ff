// One clock for sound, face and ledger: the time of the AudioContext, in seconds. It is read
// against `performance.now`, for it advances in steps of the sound card's buffer.

const FOLLOW = 0.05; // share of a deviation that is taken over per reading
const JUMP_S = 0.1; // a larger one is a context that was suspended
const MOST_DELAY_S = 0.5;

export function createClock(context) {
  let ahead = null; // context's time less performance's, s

  function now() {
    const wall = performance.now() / 1000;
    const found = context.currentTime - wall;
    const follows = ahead !== null && Math.abs(found - ahead) < JUMP_S;
    ahead = follows ? ahead + FOLLOW * (found - ahead) : found;
    return wall + ahead;
  }

  return {
    now,
    // performance.now() milliseconds of a time of this clock.
    wallOf(time) {
      now();
      return 1000 * (time - ahead);
    },
    // How long sound that is played now takes to the ear, s; Bluetooth's is long.
    get delay() {
      const told = context.outputLatency || context.baseLatency || 0;
      return Math.min(Math.max(told, 0), MOST_DELAY_S);
    },
  };
}
