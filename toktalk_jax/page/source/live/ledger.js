// Where the milliseconds of a chunk go: from its first sound to its first frame on show.
//
// The server stamps buffered, tokenised, solved and sent on its clock (ms since `ready`),
// the page `painted` and, for the microphone, when the sound was spoken, on its own. Server
// time 0 is at page time `offset`, which lies between two bounds: a message cannot be
// received before it was sent (offset <= received - sent), and no sound can be buffered
// before the page sent it (offset >= sentAt - buffered). The middle of the tightest bounds
// of the last messages is taken; half their distance is the doubt.

const WINDOW = 100;

export const STAGES = ["buffered", "tokenised", "solved", "sent", "painted"];

export function createLedger() {
  let highs = [];
  let lows = [];
  let chunks = [];

  const add = (list, value) => [...list, value].slice(-WINDOW);

  function offset() {
    const high = Math.min(...highs);
    const low = Math.max(...lows);
    if (!Number.isFinite(high)) return null;
    return low < high ? (low + high) / 2 : high;
  }

  return {
    get chunks() {
      return chunks;
    },
    // {offset ms, doubt ms} of the server's clock; null before anything was heard.
    get clocks() {
      const middle = offset();
      if (middle === null) return null;
      const high = Math.min(...highs);
      const low = Math.max(...lows);
      const doubt = low < high && Number.isFinite(low) ? (high - low) / 2 : null;
      return { offset: middle, doubt };
    },
    // A session begins. Its `ready` left at server time 0, after the hello came; of a
    // session that was taken up, the clock goes on and `ready` tells nothing.
    restart({ received, helloAt, resumed }) {
      if (resumed) return;
      highs = [received];
      lows = [helloAt];
    },
    // A message of frames came; `spoken`: page time (ms) of the chunk's first sound, or
    // null; `sentAt`: of the message that completed it, or null. Returns the entry.
    came(message, { received, spoken, sentAt }) {
      const { utterance, chunk, first, count, buffered, tokenised, solved, sent } = message;
      highs = add(highs, received - sent);
      if (sentAt !== null) lows = add(lows, sentAt - buffered);
      return { utterance, chunk, first, count, buffered, tokenised, solved, sent, spoken };
    },
    // The entry's first frame is on show. What was not spoken but said (a text) is made
    // ahead and waits for its turn: only its first chunk tells a latency.
    painted(entry, at) {
      if (entry.spoken === null && entry.chunk > 0) return;
      const zero = offset();
      const { buffered, tokenised, solved, sent, spoken } = entry;
      const waits = {
        buffered: spoken === null ? null : zero + buffered - spoken,
        tokenised: tokenised - buffered,
        solved: solved - tokenised,
        sent: sent - solved,
        painted: at - zero - sent,
      };
      const known = STAGES.map((stage) => waits[stage]).filter((wait) => wait !== null);
      waits.sum = known.reduce((sum, wait) => sum + wait, 0);
      chunks = add(chunks, { ...entry, at, waits });
    },
  };
}

// {stage: {last, p50, p95}} in ms, null where it is not known.
export function summary(chunks) {
  return Object.fromEntries(
    [...STAGES, "sum"].map((stage) => {
      const all = chunks.map(({ waits }) => waits[stage]).filter((wait) => wait !== null);
      const last = chunks.length ? chunks[chunks.length - 1].waits[stage] : null;
      return [stage, { last, p50: quantile(all, 0.5), p95: quantile(all, 0.95) }];
    }),
  );
}

function quantile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  const high = Math.ceil(place);
  return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
}
