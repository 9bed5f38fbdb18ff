// Puts sound, heads and curves of one take together; `window.toktalk` is for tests.
import { createClock } from "./clock.js";
import { COLOURS, createCurves } from "./curves.js";
import { readTake, wavBlob } from "./data.js";
import { createLipMeter, createSkin, motionAt, pose } from "./skin.js";
import { createStage } from "./stage.js";
import { fillInfo } from "./tables.js";

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
  const tracks = take.tracks.map((label, n) => ({ label, motion: take.arrays[`motion_${n}`].values }));
  const frames = Math.max(...tracks.map((track) => track.motion.length / F));
  const { values: samples } = take.arrays.audio;
  const duration = Math.max(frames / take.fps, samples.length / take.sample_rate);
  const skin = createSkin(take.arrays, take.head_joint);
  const meter = createLipMeter(take.arrays, take.head_joint);
  const curves = createCurves($("curves"), take, tracks.map((track) => measured(track.motion, meter)), duration);
  const stage = openStage(take, () => wake());
  fillInfo($("info"), take.info);
  $("summary").textContent = summary(take, frames, duration);
  const values = addLegend(tracks, meter);

  const audio = new Audio(URL.createObjectURL(wavBlob(samples, take.sample_rate, duration)));
  audio.preload = "auto";
  audio.preservesPitch = true;
  const clock = createClock(audio, duration, notice);
  const coefficients = new Float32Array(F);
  const placeholder = tracks.map(() => new Float32Array(3 * skin.count));
  const positions = stage ? stage.heads.map((head) => head.positions) : placeholder;
  let scheduled = 0;
  let posedAt = -1;

  function paint() {
    const t = clock.position();
    if (t !== posedAt) {
      tracks.forEach((track, n) => {
        motionAt(track.motion, t * take.fps, coefficients);
        pose(skin, coefficients, positions[n]);
        if (stage) stage.heads[n].refresh();
        values[n](coefficients, meter && meter.ofPositions(positions[n]));
      });
      posedAt = t;
      showTime(t);
    }
    curves.draw(t);
    return stage ? stage.draw() : false;
  }

  function frame() {
    scheduled = 0;
    if (clock.playing && clock.position() >= duration) pause();
    const turning = paint();
    if (clock.playing || turning) wake();
  }
  function wake() {
    if (!scheduled) scheduled = requestAnimationFrame(frame);
  }

  function showTime(t) {
    $("time").textContent = `${clockText(t)} / ${clockText(duration)}`;
    $("seek").value = t;
    $("seek").style.setProperty("--done", `${(100 * t) / duration}%`);
    $("seek").setAttribute("aria-valuetext", `${t.toFixed(2)} of ${duration.toFixed(2)} seconds`);
  }
  function seek(t) {
    clock.seek(t);
    paint();
  }
  function play() {
    clock.play();
    showPlaying();
  }
  function pause() {
    clock.pause();
    notice("");
    showPlaying();
  }
  function showPlaying() {
    $("play").classList.toggle("on", clock.playing);
    $("play").setAttribute("aria-label", clock.playing ? "Pause" : "Play");
    wake();
  }
  function mute() {
    audio.muted = !audio.muted;
    $("mute").setAttribute("aria-pressed", String(audio.muted));
  }
  const toggle = () => (clock.playing ? pause() : play());
  // Half a frame of slack keeps repeated steps on the frames in spite of rounding.
  const nudge = (by) => seek((Math.round(clock.position() * take.fps) + by) / take.fps);

  function resize() {
    if (stage) stage.fit();
    curves.fit();
    paint();
  }
  $("seek").max = duration;
  $("seek").step = 1 / take.fps / 4;
  listen({ clock, curves, stage, seek, toggle, mute, nudge, wake, resize, fps: take.fps, duration });
  resize();
  Object.assign(window.toktalk, {
    duration, frames, fps: take.fps, play, pause, seek,
    frame: () => Math.min(Math.floor(clock.position() * take.fps + 1e-6), frames - 1),
    time: () => clock.position(),
    lipGap: (track = 0) => meter && meter.ofPositions(positions[track]),
    vertex: (v, track = 0) => Array.from(positions[track].slice(3 * v, 3 * v + 3)),
    hasSound: () => clock.heard,
    ready: true,
  });
}

// The 3D view, or null with a word of explanation: sound and curves work without WebGL.
function openStage(take, onTurn) {
  try {
    return createStage($("view"), take, onTurn);
  } catch (error) {
    window.toktalk.error = String(error.message || error);
    console.error(error);
    notice("This browser offers no WebGL, so the head cannot be drawn. Sound and curves still play.");
    return null;
  }
}

function measured(motion, meter) {
  const count = motion.length / F;
  const jaw = Float32Array.from({ length: count }, (_, f) => motion[f * F + JAW_X] * DEGREES);
  const lips = meter && Float32Array.from({ length: count }, (_, f) => meter.ofMotion(motion.subarray(f * F, f * F + F)));
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
    const [label, lips, jaw] = ["b", "span", "span"].map((tag) => entry.appendChild(document.createElement(tag)));
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

function clockText(t) {
  const tenths = Math.floor(t * 10 + 1e-6);
  const seconds = Math.floor(tenths / 10);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}.${tenths % 10}`;
}

function listen({ clock, curves, stage, seek, toggle, mute, nudge, wake, resize, fps, duration }) {
  $("play").addEventListener("click", toggle);
  $("mute").addEventListener("click", mute);
  $("home").addEventListener("click", () => goHome());
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
  window.addEventListener("pointerdown", () => clock.gesture());
  window.addEventListener("resize", resize);
  document.addEventListener("visibilitychange", wake);
  const goHome = () => {
    if (stage) stage.home();
    wake();
  };
  const keys = {
    " ": toggle,
    ArrowLeft: (event) => nudge(event.shiftKey ? -fps : -1),
    ArrowRight: (event) => nudge(event.shiftKey ? fps : 1),
    Home: () => seek(0),
    End: () => seek(duration),
    m: mute,
    r: goHome,
  };
  window.addEventListener("keydown", (event) => {
    clock.gesture();
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const own = event.target instanceof HTMLSelectElement || (event.key === " " && event.target instanceof HTMLButtonElement);
    if (!action || own || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event);
  });
}
