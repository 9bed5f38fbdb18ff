// The eased return to rest of toktalk_jax/live/ease.py, for poses that are cut off here: the
// server's own would come a round trip later.
import { F } from "./wire.js";

const FRAMES = 12;

// From pose `last` [56], which was `before` one frame earlier, to zero: [12, 56], a quintic
// that keeps pose and speed at its begin and ends at rest.
export function toRest(last, before) {
  const out = new Float32Array(FRAMES * F);
  for (let f = 0; f < FRAMES; f++) {
    const t = (f + 1) / FRAMES;
    const byPose = 1 - 10 * t ** 3 + 15 * t ** 4 - 6 * t ** 5;
    const bySpeed = t - 6 * t ** 3 + 8 * t ** 4 - 3 * t ** 5;
    for (let k = 0; k < F; k++) {
      out[f * F + k] = byPose * last[k] + bySpeed * FRAMES * (last[k] - before[k]);
    }
  }
  return out;
}
