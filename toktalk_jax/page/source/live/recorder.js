// A take: what was shown and heard from start to stop, 25 frames a second on the page's
// clock, each with its 40 ms of sound.

import { motionAt } from "../src/skin.js";
import { npyNumber, npyOf, npyText, npz } from "./npz.js";
import { soundAt } from "./speech.js";
import { createTrack } from "./track.js";
import { F, FPS } from "./wire.js";

const MOST_S = 600; // of a take; the server makes files of no longer ones

export function createRecorder() {
  let take = null;
  let last = null; // what was on show when it was painted last

  // The moment of `shown.utterance` at clock time `at`, before `now`.
  function mediaAt(at, now, shown) {
    if (!shown.running) return shown.media;
    const from = last && last.utterance === shown.utterance ? last.media : 0;
    return Math.max(shown.media - (now - at), from);
  }

  return {
    get seconds() {
      return take ? take.motion.end / FPS : 0;
    },
    get running() {
      return take !== null;
    },
    // No more is taken; it is to be stopped.
    get full() {
      return take !== null && take.motion.end >= MOST_S * FPS;
    },
    start(now) {
      take = { from: now, rate: 0, motion: createTrack(Float32Array, F), sound: [] };
      last = null;
    },
    // What is on show now, and its pose.
    paint(now, shown, pose) {
      if (!take) return;
      const row = new Float32Array(F);
      while (!this.full && take.from + take.motion.end / FPS <= now) {
        const at = take.from + take.motion.end / FPS;
        const u = shown.utterance;
        const media = mediaAt(at, now, shown);
        row.set(pose);
        if (u && u.motion.end > u.motion.begin) {
          motionAt(u.motion.values, media * FPS - u.motion.begin, row);
        }
        take.motion.append(row);
        take.sound.push(shown.running ? soundAt(u, media, 1 / FPS) : new Int16Array(0));
        if (u && u.rate) take.rate = u.rate;
      }
      last = { utterance: shown.utterance, media: shown.media };
    },
    // {motion [T, 56], audio i16, rate}, or null of less than a frame.
    stop(rate) {
      const { motion, sound, rate: heard } = take;
      take = null;
      if (!motion.end) return null;
      const own = heard || rate;
      const piece = Math.round(own / FPS);
      const audio = new Int16Array(piece * motion.end);
      sound.forEach((samples, f) => audio.set(samples.subarray(0, piece), f * piece));
      return { motion: motion.rows(0, motion.end), audio, rate: own };
    },
  };
}

// A take as toktalk_jax.takes.read has it.
export function takeFile({ motion, audio, rate }, facts) {
  return npz({
    motion: npyOf(motion, [motion.length / F, F]),
    audio: npyOf(audio, [audio.length]),
    sample_rate: npyNumber(rate),
    fps: npyNumber(FPS),
    head_joint: npyText(facts.head_joint),
    face_model: npyText(facts.face_model),
    chunk_frames: npyNumber(facts.chunk_frames),
    checkpoint: npyText(facts.checkpoint),
    style: npyText(facts.style),
  });
}
