// The last seconds of sound, lip opening and jaw opening, as they were shown.

import { FAINT, INK, label } from "../src/pen.js";

const SPAN_S = 6;
const ACCENT = "#f2a562";
const COOL = "#7fb4ea";
const LANES = [
  { key: "sound", name: "Sound", height: 36, least: 0.05, colour: "#7d8793", unit: "" },
  { key: "gap", name: "Lip opening, mm", height: 52, least: 8, colour: ACCENT, unit: " mm" },
  { key: "jaw", name: "Jaw opening, °", height: 44, least: 8, colour: COOL, unit: "°" },
];
const GAP = 8;

export function createStrip(canvas) {
  const height = LANES.reduce((sum, lane) => sum + lane.height + GAP, 2);
  let points = []; // {at, sound, gap, jaw}
  let width = 0;
  canvas.style.height = `${height}px`;

  function fit() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    width = canvas.clientWidth;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  function drawLane(pen, lane, top, now) {
    const values = points.map((point) => point[lane.key]);
    const most = Math.max(lane.least, ...values.filter((value) => value !== null));
    const floor = top + lane.height;
    const x = (at) => width - ((now - at) / SPAN_S) * width;
    const y = (value) => floor - (Math.max(value, 0) / most) * (lane.height - 14);
    pen.fillStyle = FAINT;
    pen.fillRect(0, floor, width, 1);
    pen.strokeStyle = pen.fillStyle = lane.colour;
    pen.lineWidth = 1.6;
    pen.lineJoin = "round";
    pen.beginPath();
    points.forEach((point, i) => {
      const value = point[lane.key];
      if (value === null) return;
      const broken = !i || points[i - 1][lane.key] === null || point.at - points[i - 1].at > 0.5;
      pen[broken ? "moveTo" : "lineTo"](x(point.at), y(value));
    });
    pen.stroke();
    label(pen, lane.name, 0, top + 9);
    if (lane.unit && points.length && values[values.length - 1] !== null) {
      const text = `${values[values.length - 1].toFixed(1)}${lane.unit}`;
      pen.textAlign = "right";
      pen.strokeText(text, width, top + 9);
      pen.fillStyle = INK;
      pen.fillText(text, width, top + 9);
    }
  }

  return {
    fit,
    add(point) {
      points.push(point);
      while (points.length && point.at - points[0].at > SPAN_S + 0.5) points.shift();
    },
    draw(now) {
      const pen = canvas.getContext("2d");
      pen.clearRect(0, 0, width, height);
      let top = 2;
      for (const lane of LANES) {
        drawLane(pen, lane, top, now);
        top += lane.height + GAP;
      }
    },
    span: SPAN_S,
  };
}
