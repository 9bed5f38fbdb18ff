// Sound, lip opening and jaw opening over the whole take, with a playhead.

import { FAINT, INK, label } from "./pen.js";

const PAD = 8; // half the scrubber's thumb, so that both run over the same pixels
const BINS = 1200;

// `measured`: lanes as in lanes.js.
export function createCurves(canvas, take, measured, duration) {
  const envelope = loudness(take.arrays.audio.values);
  const lanes = [{ name: "Sound", height: 48 }, ...measured];
  canvas.setAttribute("aria-label", `${lanes.map((lane) => lane.name).join("; ")}: over time`);
  const top = (n) => lanes.slice(0, n).reduce((sum, lane) => sum + lane.height + 9, 6);
  const height = top(lanes.length);
  canvas.style.height = `${height}px`;
  let picture = null;
  let width = 0;

  const xOf = (t) => PAD + (t / duration) * (width - 2 * PAD);
  const timeAt = (x) => Math.min(Math.max(((x - PAD) / (width - 2 * PAD)) * duration, 0), duration);

  function fit() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    width = canvas.clientWidth;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    picture = document.createElement("canvas");
    picture.width = canvas.width;
    picture.height = canvas.height;
    const pen = picture.getContext("2d");
    pen.scale(ratio, ratio);
    drawBorders(pen);
    drawSound(pen, top(0) + 14, lanes[0].height - 14);
    lanes.forEach((lane, n) => {
      if (lane.values) drawLane(pen, lane, top(n));
      label(pen, lane.name, PAD, top(n) + 9);
    });
  }

  function drawBorders(pen) {
    take.borders.forEach(([frames, colour]) => {
      pen.fillStyle = colour;
      for (let f = frames; f / take.fps < duration; f += frames) {
        pen.fillRect(Math.round(xOf(f / take.fps)), 0, 1, height);
      }
    });
  }

  function drawSound(pen, y, tall) {
    pen.fillStyle = "#59616c";
    const span = take.arrays.audio.values.length / take.sample_rate;
    envelope.forEach((value, i) => {
      const x = xOf((i / envelope.length) * span);
      const half = Math.max((value * tall) / 2, 0.5);
      pen.fillRect(
        x,
        y + tall / 2 - half,
        Math.max(((xOf(span) - PAD) / envelope.length) * 0.8, 0.6),
        2 * half,
      );
    });
  }

  function drawLane(pen, lane, y) {
    const all = lane.values.filter(Boolean);
    const highest = Math.max(
      lane.least,
      ...all.map((values) => values.reduce((a, b) => Math.max(a, b), 0)),
    );
    const lowest = Math.min(0, ...all.map((values) => values.reduce((a, b) => Math.min(a, b), 0)));
    const place = (value) =>
      y + lane.height - ((value - lowest) / (highest - lowest)) * (lane.height - 16);
    pen.fillStyle = FAINT;
    pen.fillRect(PAD, place(0), width - 2 * PAD, 1);
    lane.values.forEach((values, n) => {
      if (!values) return;
      pen.strokeStyle = take.colours[n];
      pen.lineWidth = 1.6;
      pen.lineJoin = "round";
      pen.beginPath();
      values.forEach((value, f) => pen.lineTo(xOf(Math.min(f / take.fps, duration)), place(value)));
      pen.stroke();
    });
    pen.fillStyle = INK;
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "right";
    pen.fillText(highest.toFixed(0), width - PAD, y + 9);
  }

  function draw(t) {
    const pen = canvas.getContext("2d");
    const ratio = canvas.width / width;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0);
    pen.scale(ratio, ratio);
    pen.fillStyle = "rgba(242,244,246,0.9)";
    pen.fillRect(xOf(t) - 0.75, 0, 1.5, height);
  }

  return { fit, draw, timeAt };
}

function loudness(samples) {
  const bins = Math.min(BINS, Math.max(1, samples.length));
  const out = new Float32Array(bins);
  let highest = 1e-4;
  for (let b = 0; b < bins; b++) {
    const end = Math.floor(((b + 1) * samples.length) / bins);
    for (let i = Math.floor((b * samples.length) / bins); i < end; i++) {
      out[b] = Math.max(out[b], Math.abs(samples[i]));
    }
    highest = Math.max(highest, out[b]);
  }
  return out.map((value) => value / highest);
}
