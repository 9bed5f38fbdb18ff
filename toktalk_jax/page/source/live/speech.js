// What came of each utterance, frames and sound, and what of it is on show now.
//
// Utterances are shown one after the other. Each has a timeline (timeline.js) on the page's
// clock. Where the page plays the sound itself (a file, the server's voice), pieces of it
// are scheduled at zero + their place, and only as far as frames have come: sound and face
// cannot part. The microphone's is not played; its face is shown as soon as it comes.

import { motionAt } from "../src/skin.js";
import { toRest } from "./ease.js";
import { createTimeline } from "./timeline.js";
import { createTrack } from "./track.js";
import { F, FPS, REST } from "./wire.js";

const KEEP_S = 90;
const SPARE_S = 0.05; // cushion of the first utterance; each that ran dry asks for more
const MOST_SPARE_S = 0.3;
const FADE_OUT_S = 0.015;

// `painted(entry)`: the first frame of the chunk of that ledger entry is on show.
export function createSpeech(context, clock, painted) {
  const pose = new Float32Array(F);
  const before = new Float32Array(F);
  let queue = [];
  let silenced = -1;
  const nothing = { utterance: null, media: 0, running: false };
  let shown = nothing;
  let dry = 0;
  let spare = SPARE_S;

  function find(number, audible, cushion = spare) {
    let found = queue.find((u) => u.number === number);
    if (!found) {
      found = utteranceOf(number, audible, createTimeline(cushion, !audible));
      queue.push(found);
    }
    return found;
  }

  function learn(stalls) {
    const wanted = stalls ? 1.6 * spare : 0.9 * spare;
    spare = Math.min(Math.max(wanted, SPARE_S), MOST_SPARE_S);
  }

  function hear(u, rate, samples) {
    if (!u.sound) {
      u.rate = rate;
      u.sound = createTrack(Int16Array, 1, KEEP_S * rate);
    }
    u.sound.append(samples);
  }

  function advance(now) {
    while (queue.length) {
      const u = queue[0];
      const media = u.timeline.at(now, covered(u), u.whole);
      if (u.audible && u.timeline.zero !== null) schedule(context, u);
      if (media === null && !u.whole) return nothing;
      if (media !== null && !(u.whole && media >= lengthOf(u))) {
        return { utterance: u, media, running: u.timeline.zero !== null };
      }
      dry += u.timeline.dry;
      if (!u.eased) learn(u.timeline.dry);
      queue.shift();
    }
    return nothing;
  }

  function frames(message, entry, audible) {
    if (message.utterance <= silenced) return;
    const u = find(message.utterance, audible);
    u.timeline.came(clock.now(), covered(u));
    appendFrames(u, message);
    if (message.flags & REST) return;
    u.spoken = message.first + message.count;
    u.unpainted.push(entry);
  }

  // What of it still waits is dropped, and the face eases to rest from where it is.
  function ease() {
    if (queue.every((u) => u.eased)) return;
    queue.forEach(hush);
    const moving = shown.utterance !== null;
    queue = [];
    if (!moving) return;
    const rest = utteranceOf(-1, false, createTimeline(0));
    rest.motion.append(toRest(pose, before));
    rest.whole = true;
    rest.eased = true;
    queue.push(rest);
  }

  const hush = (u) => {
    if (!u.gain) return;
    const now = context.currentTime;
    u.gain.gain.setTargetAtTime(0, now, FADE_OUT_S / 3);
    u.nodes.forEach((node) => node.stop(now + FADE_OUT_S));
  };

  return {
    pose,
    get shown() {
      return shown;
    },
    // Times that the face had to wait for its frames.
    get dry() {
      return dry + (queue.length ? queue[0].timeline.dry : 0);
    },
    get speaking() {
      const { utterance, media } = shown;
      return Boolean(utterance) && media < utterance.spoken / FPS;
    },
    get busy() {
      return queue.some((u) => !u.eased);
    },
    // An utterance is about to be heard: its first sample belongs to clock time `origin`.
    // Of a file nobody minds a later begin, but anybody a gap.
    begin(number, audible, origin) {
      const u = find(number, audible, audible ? 3 * spare : spare);
      u.origin = origin;
      return u;
    },
    find: (number) => queue.find((u) => u.number === number),
    hear,
    frames,
    sound({ utterance, first, rate, samples }) {
      if (utterance <= silenced) return;
      const u = find(utterance, true);
      const missing = u.sound ? first - u.sound.end : first;
      if (missing > 0) hear(u, rate, new Int16Array(missing));
      hear(u, rate, samples);
    },
    ended(number) {
      const u = queue.find((one) => one.number === number);
      if (u) u.whole = true;
    },
    ease,
    // A cancel is on its way: until it is answered, what comes is of what it ends.
    silence() {
      silenced = Infinity;
      ease();
    },
    // What comes of utterances after this one is to be shown; of a new session: -1.
    hearAfter(number) {
      silenced = number;
    },
    // Brings `pose` to `now`; returns what is on show: {utterance, media, running}.
    // `drawn`: it is painted, too.
    show(now, drawn) {
      shown = advance(now);
      const { utterance: u, media } = shown;
      if (!u) return shown;
      shown.media = u.audible ? Math.max(media - clock.delay, 0) : media;
      poseAt(u, shown.media - 1 / FPS, before);
      poseAt(u, shown.media, pose);
      while (drawn && u.unpainted.length && u.unpainted[0].first / FPS <= shown.media) {
        painted(u.unpainted.shift());
      }
      return shown;
    },
    // To call when something came and nothing may be painted (a hidden page).
    pump: () => void advance(clock.now()),
  };
}

export function poseAt(u, media, out) {
  const { values, begin, end } = u.motion;
  return end > begin ? motionAt(values, media * FPS - begin, out) : out;
}

// Samples of what is heard around media time `media`, as many as stand in `seconds`.
export function soundAt(u, media, seconds) {
  if (!u || !u.sound) return new Int16Array(0);
  const first = Math.round(media * u.rate);
  return u.sound.rows(first, first + Math.round(seconds * u.rate));
}

function utteranceOf(number, audible, timeline) {
  return {
    ...{ number, audible, origin: null, spoken: 0, whole: false, eased: false },
    motion: createTrack(Float32Array, F, KEEP_S * FPS),
    timeline,
    ...{ unpainted: [], sound: null, rate: 0, scheduled: 0, gain: null, nodes: [] },
  };
}

// Seconds of it that can be shown.
function covered(u) {
  if (u.whole) return lengthOf(u);
  const seen = u.spoken / FPS;
  return u.audible ? Math.min(seen, u.sound ? u.sound.end / u.rate : 0) : seen;
}

function lengthOf(u) {
  const heard = u.audible && u.sound ? u.sound.end / u.rate : 0;
  return Math.max(u.motion.end / FPS, heard);
}

function appendFrames(u, { first, count, motion }) {
  const { end } = u.motion;
  if (first > end) {
    // Left out by the server, for this page did not read: the pose before is held.
    const last = end > u.motion.begin ? u.motion.rows(end - 1, end) : new Float32Array(F);
    for (let row = end; row < first; row++) u.motion.append(last);
  }
  u.motion.append(motion.subarray(F * Math.min(Math.max(end - first, 0), count)));
}

function schedule(context, u) {
  const from = u.scheduled;
  const to = u.sound ? Math.min(Math.floor(covered(u) * u.rate), u.sound.end) : 0;
  if (to <= from) return;
  if (!u.gain) {
    u.gain = context.createGain();
    u.gain.connect(context.destination);
  }
  const buffer = context.createBuffer(1, to - from, u.rate);
  buffer.copyToChannel(Float32Array.from(u.sound.rows(from, to), (v) => v / 32768), 0);
  const node = context.createBufferSource();
  node.buffer = buffer;
  node.connect(u.gain);
  node.start(Math.max(u.timeline.zero + from / u.rate, 0));
  node.onended = () => (u.nodes = u.nodes.filter((other) => other !== node));
  u.nodes.push(node);
  u.scheduled = to;
}
