// Puts sound, heads and curves of one take together; `window.toktalk` is for tests.
import { createClock } from "./clock.js";
import { COLOURS, createCurves } from "./curves.js";
import { readTake, wavBlob } from "./data.js";
import { createLipMeter, createSkin, motionAt, pose } from "./skin.js";
import { createStage } from "./stage.js";
import { fillInfo } from "./tables.js";
import { createTransport } from "./transport.js";

const $ = (id) => document.getElementById(id);
const F = 56;
const JAW_X = 50;
const DEGREES = 180 / Math.PI;

window.toktalk = { ready: false, error: null };
start().catch((error) => {
  window.toktalk.error = String((error && error.message) || error);
  notice(`The page could not start: ${window.toktalk.error}`);
  console.error(error);
});

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

async function start() {
  const take = await readTake();
  const tracks = take.tracks.map((label, n) => ({
    label,
    motion: take.arrays[`motion_${n}`].values,
  }));
  const frames = Math.max(...tracks.map((track) => track.motion.length / F));
  const samples = take.arrays.audio.values;
  const duration = Math.max(frames / take.fps, samples.length / take.sample_rate);
  const meter = createLipMeter(take.arrays, take.head_joint);
  const lines = tracks.map((track) => measured(track.motion, meter));
  const curves = createCurves($("curves"), take, lines, duration);
  fillInfo($("info"), take.info);
  $("summary").textContent = summary(take, frames, duration);

  const audio = new Audio(URL.createObjectURL(wavBlob(samples, take.sample_rate, duration)));
  audio.preload = "auto";
  audio.preservesPitch = true;
  const clock = createClock(audio, duration, notice);
  let transport = null;
  const stage = openStage(take, () => transport && transport.wake());
  const view = createView(take, tracks, meter, stage, curves);
  transport = createTransport(clock, audio, view.paint, take.fps, duration);
  const resize = () => {
    if (stage) stage.fit();
    curves.fit();
    transport.show();
  };
  const home = () => {
    if (stage) stage.home();
    transport.wake();
  };
  listen(transport, clock, curves, resize, home);
  resize();
  Object.assign(window.toktalk, {
    duration,
    frames,
    fps: take.fps,
    play: transport.play,
    pause: transport.pause,
    seek: transport.seek,
    time: clock.position,
    frame: () => Math.min(Math.floor(clock.position() * take.fps + 1e-6), frames - 1),
    lipGap: (track = 0) => meter && meter.ofPositions(view.positions[track]),
    vertex: (v, track = 0) => Array.from(view.positions[track].slice(3 * v, 3 * v + 3)),
    hasSound: () => clock.heard,
    ready: true,
  });
}

// Paints the faces, curves and numbers of a time; only what that time changes.
function createView(take, tracks, meter, stage, curves) {
  const skin = createSkin(take.arrays, take.head_joint);
  const positions = tracks.map((_, n) =>
    stage ? stage.heads[n].positions : new Float32Array(3 * skin.count),
  );
  const legend = addLegend(tracks, meter);
  const coefficients = new Float32Array(F);
  let posedAt = -1;
  return {
    positions,
    // Whether the view is still turning by itself.
    paint(t, steady) {
      if (t !== posedAt) {
        tracks.forEach((track, n) => {
          motionAt(track.motion, t * take.fps, coefficients);
          pose(skin, coefficients, positions[n]);
          if (stage) stage.heads[n].refresh();
          legend[n](coefficients, meter && meter.ofPositions(positions[n]));
        });
        posedAt = t;
      }
      curves.draw(t);
      return stage ? stage.draw(steady) : false;
    },
  };
}

// The 3D view, or null with a word of explanation: sound and curves work without WebGL.
function openStage(take, onTurn) {
  try {
    return createStage($("view"), take, onTurn);
  } catch (error) {
    window.toktalk.error = String(error.message || error);
    console.error(error);
    notice(
      "This browser offers no WebGL, so the head cannot be drawn. Sound and curves still play.",
    );
    return null;
  }
}

function measured(motion, meter) {
  const count = motion.length / F;
  const jaw = Float32Array.from({ length: count }, (_, f) => motion[f * F + JAW_X] * DEGREES);
  const lips =
    meter &&
    Float32Array.from({ length: count }, (_, f) =>
      meter.ofMotion(motion.subarray(f * F, f * F + F)),
    );
  return { jaw, lips };
}

function addLegend(tracks, meter) {
  return tracks.map((track, n) => {
    const name = document.createElement("span");
    name.textContent = track.label;
    name.style.setProperty("--own", COLOURS[n]);
    $("names").append(name);
    const entry = document.createElement("p");
    entry.style.setProperty("--own", COLOURS[n]);
    const [label, lips, jaw] = ["b", "span", "span"].map((tag) =>
      entry.appendChild(document.createElement(tag)),
    );
    label.textContent = track.label;
    $("legend").append(entry);
    return (motion, gap) => {
      lips.textContent = meter ? `lips ${gap.toFixed(1)} mm` : "";
      jaw.textContent = `jaw ${(motion[JAW_X] * DEGREES).toFixed(1)}°`;
    };
  });
}

function summary(take, frames, duration) {
  const parts = [`${duration.toFixed(1)} s`, `${frames} frames at ${take.fps} fps`];
  if (take.chunk_frames) parts.push(`chunks of ${(take.chunk_frames / take.fps).toFixed(2)} s`);
  parts.push(`head: ${take.head_name}`);
  return parts.join(" · ");
}

function listen(transport, clock, curves, resize, home) {
  const { seek, toggle, mute, nudge, wake, fps, duration } = transport;
  $("play").addEventListener("click", toggle);
  $("mute").addEventListener("click", mute);
  $("home").addEventListener("click", home);
  $("speed").addEventListener("change", (event) => clock.setRate(Number(event.target.value)));
  $("seek").addEventListener("input", (event) => seek(Number(event.target.value)));
  const scrub = (event) => {
    if (event.buttons & 1) seek(curves.timeAt(event.offsetX));
  };
  $("curves").addEventListener("pointerdown", (event) => {
    $("curves").setPointerCapture(event.pointerId);
    scrub(event);
  });
  $("curves").addEventListener("pointermove", scrub);
  window.addEventListener("pointerdown", clock.gesture);
  window.addEventListener("resize", resize);
  document.addEventListener("visibilitychange", wake);
  const keys = {
    " ": toggle,
    ArrowLeft: (event) => nudge(event.shiftKey ? -fps : -1),
    ArrowRight: (event) => nudge(event.shiftKey ? fps : 1),
    Home: () => seek(0),
    End: () => seek(duration),
    m: mute,
    r: home,
  };
  window.addEventListener("keydown", (event) => {
    clock.gesture();
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const { target } = event;
    const ownUse =
      target instanceof HTMLSelectElement ||
      (event.key === " " && target instanceof HTMLButtonElement);
    if (!action || ownUse || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event);
  });
}
