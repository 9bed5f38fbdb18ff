// The loop that paints: face, curves, meter, ledger; idle where nothing moves.

import { createStrip } from "./strip.js";
import { soundAt } from "./speech.js";
import { loudness } from "./track.js";

const JAW = 50;
const DEGREES = 180 / Math.PI;
const TRACED = 4000;
const UNSEEN_MS = 150; // without a picture (a hidden page), after which time goes on without
const CALM_MS = 400; // between two pictures of the curves where less motion is asked for

// `full()`: a take that is recorded has become as long as it may.
export function createPainter($, { clock, talk, recorder, latency, full }) {
  const strip = createStrip($("curves"));
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  let face = null;
  let trace = [];
  let stale = true; // the picture is to be drawn though nothing moved
  let steady = false;
  let moved = -Infinity; // when the face last moved
  let drawn = -Infinity; // when the curves were
  let seen = -Infinity; // when a picture was asked for last
  let gap = null;

  function frame() {
    requestAnimationFrame(frame);
    seen = performance.now();
    const now = clock.now();
    const shown = step(now, true);
    if (face && stale) paint(now, shown);
    else steady = false;
    curves(now, shown);
    latency.show();
    if (recorder.running) showLength(recorder.seconds);
  }

  // Takes go on, and speeches end, where no picture is asked for.
  function goOn() {
    if (performance.now() - seen > UNSEEN_MS) step(clock.now(), false);
  }

  function step(now, drawn) {
    const before = talk.speech.shown;
    const shown = talk.speech.show(now, drawn);
    recorder.paint(now, shown, talk.speech.pose);
    if (recorder.full) full();
    if (shown.utterance || before.utterance) {
      moved = performance.now();
      stale = true;
    }
    talk.watch();
    return shown;
  }

  function paint(now, shown) {
    face.show(talk.speech.pose);
    stale = face.draw(steady);
    steady = true;
    gap = face.gap();
    if (!shown.utterance) return;
    const { number, origin } = shown.utterance;
    trace.push({ at: now, media: shown.media, utterance: number, origin, gap });
    if (trace.length > 2 * TRACED) trace = trace.slice(-TRACED);
  }

  function curves(now, shown) {
    const wall = performance.now();
    const active = talk.state.source || wall - moved < 1000 * strip.span;
    if (!active || (calm.matches && wall - drawn < CALM_MS)) return;
    drawn = wall;
    const u = shown.utterance;
    strip.add({
      at: now,
      sound: shown.running ? loudness(soundAt(u, Math.max(shown.media - 0.02, 0), 0.04)) : 0,
      gap,
      jaw: Math.max(talk.speech.pose[JAW], 0) * DEGREES,
    });
    strip.draw(now);
    showMeter(talk.loudness);
  }

  // -60 dB to 0 over the whole width.
  function showMeter(value) {
    const level = Math.min(Math.max(1 + Math.log10(Math.max(value, 1e-6)) / 2.5, 0), 1);
    $("meter").firstElementChild.style.transform = `scaleX(${level.toFixed(3)})`;
    $("meter").setAttribute("aria-valuenow", String(Math.round(100 * level)));
  }

  function showLength(seconds) {
    const text = `Stop ${seconds.toFixed(0)} s`;
    const place = $("record").querySelector("span");
    if (place.textContent !== text) place.textContent = text;
  }

  function fit() {
    strip.fit();
    strip.draw(clock.now());
    if (face) face.fit();
    stale = true;
  }

  requestAnimationFrame(frame);
  setInterval(goOn, UNSEEN_MS / 3);
  return {
    fit,
    wake: () => (stale = true),
    wear(made) {
      face = made;
      gap = face.gap();
      fit();
    },
    home() {
      if (face) face.home();
      stale = true;
    },
    gap: () => gap,
    trace: () => trace,
  };
}
