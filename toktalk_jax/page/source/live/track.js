// Rows of numbers that come in order and are read for a while: a list that, where `keep` is
// given, forgets all but about its last `keep` rows.

export function createTrack(Kind, width, keep = Infinity) {
  let values = new Kind(width * 1024);
  let begin = 0; // row that stands first in `values`
  let count = 0;

  function makeRoom(rows) {
    if (count > 2 * keep) {
      values.copyWithin(0, (count - keep) * width, count * width);
      begin += count - keep;
      count = keep;
    }
    if ((count + rows) * width <= values.length) return;
    const larger = new Kind(Math.max(2 * values.length, (count + rows) * width));
    larger.set(values.subarray(0, count * width));
    values = larger;
  }

  return {
    get begin() {
      return begin;
    },
    get end() {
      return begin + count;
    },
    // What is held, from row `begin` on; not to be kept.
    get values() {
      return values.subarray(0, count * width);
    },
    append(more) {
      makeRoom(more.length / width);
      values.set(more, count * width);
      count += more.length / width;
    },
    // Rows [from, to), zeros where none are held.
    rows(from, to) {
      const out = new Kind(Math.max(to - from, 0) * width);
      const low = Math.max(from, begin);
      const high = Math.min(to, begin + count);
      if (low < high) {
        const held = values.subarray((low - begin) * width, (high - begin) * width);
        out.set(held, (low - from) * width);
      }
      return out;
    },
  };
}

// Root mean square of samples (i16), of full scale 1.
export function loudness(samples) {
  if (!samples.length) return 0;
  let sum = 0;
  for (const value of samples) sum += value * value;
  return Math.sqrt(sum / samples.length) / 32768;
}
