// Lips, brows and blush painted on a front projection of the resting face, from its
// landmarks: no head that is loaded here brings a texture.
import * as THREE from "three";

const SIZE = 1024;
const FIRST = 17; // marks hold iBUG 17 to 67

// The masks (red lips, green brows, blue blush) and the square of x and y they cover.
export function paintFace(marks) {
  const at = (i) => [marks[3 * (i - FIRST)], marks[3 * (i - FIRST) + 1]];
  const left = middle([42, 43, 44, 45, 46, 47].map(at));
  const right = middle([36, 37, 38, 39, 40, 41].map(at));
  const eyes = Math.hypot(left[0] - right[0], left[1] - right[1]);
  const centre = middle([left, right, at(33), at(51), at(57)]);
  const span = 2.6 * eyes;
  const box = [centre[0] - span / 2, centre[1] - span / 2, span];
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, SIZE, SIZE);
  pen.globalCompositeOperation = "lighter";
  const px = ([x, y]) => [((x - box[0]) / span) * SIZE, (1 - (y - box[1]) / span) * SIZE];
  const unit = (eyes / span) * SIZE; // the distance of the eyes, in pixels
  drawBlush(pen, px, at, left, right, unit);
  drawLips(pen, range(48, 59).map(at).map(px), unit);
  drawBrow(pen, range(17, 21).reverse().map(at).map(px), unit, 7);
  drawBrow(pen, range(22, 26).map(at).map(px), unit, 11);
  const texture = new THREE.CanvasTexture(canvas);
  texture.anisotropy = 4;
  return { texture, box };
}

function range(from, to) {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

function middle(points) {
  return [0, 1].map((c) => points.reduce((sum, p) => sum + p[c], 0) / points.length);
}

function drawLips(pen, outline, unit) {
  pen.save();
  pen.shadowColor = "#f00";
  pen.shadowBlur = 0.035 * unit;
  pen.fillStyle = "rgb(200,0,0)";
  pen.beginPath();
  // 48 and 54 are the corners: the outline is smooth between them, pointed at them.
  curveThrough(pen, outline.slice(0, 7), true);
  curveThrough(pen, [...outline.slice(6), outline[0]], false);
  pen.closePath();
  pen.fill();
  pen.restore();
}

function curveThrough(pen, points, start) {
  if (start) pen.moveTo(...points[0]);
  for (let i = 0; i + 1 < points.length; i++) {
    const [p, a, b, q] = [-1, 0, 1, 2].map(
      (k) => points[Math.min(Math.max(i + k, 0), points.length - 1)],
    );
    pen.bezierCurveTo(
      a[0] + (b[0] - p[0]) / 6,
      a[1] + (b[1] - p[1]) / 6,
      b[0] - (q[0] - a[0]) / 6,
      b[1] - (q[1] - a[1]) / 6,
      b[0],
      b[1],
    );
  }
}

// Hairs along `points`, which run from the nose outwards.
function drawBrow(pen, points, unit, seed) {
  const random = randomFrom(seed);
  const outward = Math.sign(points[points.length - 1][0] - points[0][0]);
  const count = 520;
  pen.save();
  pen.lineCap = "round";
  for (let i = 0; i < count; i++) {
    const s = Math.sqrt(random()) * (i % 2 ? 1 : random());
    const [x, y] = along(points, s);
    const thick =
      0.11 * unit * (s < 0.12 ? 0.6 + (0.4 * s) / 0.12 : 1 - (0.8 * Math.max(s - 0.3, 0)) / 0.7);
    const lift = (random() + random() - 1) * thick;
    const slope = 1.15 - 1.5 * s + 0.25 * (random() - 0.5) + (0.5 * lift) / thick;
    const length = (0.06 + 0.05 * random()) * unit * (1 - 0.35 * s);
    const [x0, y0] = [x - 0.02 * unit * outward, y + lift * 0.72];
    pen.strokeStyle = `rgba(0,${150 + Math.floor(80 * random())},0,${0.22 + 0.3 * random()})`;
    pen.lineWidth = (0.0065 + 0.005 * random()) * unit;
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.quadraticCurveTo(
      x0 + outward * length * 0.3,
      y0 - slope * length * 0.7,
      x0 + outward * length * Math.cos(slope * 0.8),
      y0 - length * Math.sin(slope * 0.8),
    );
    pen.stroke();
  }
  pen.restore();
}

function along(points, s) {
  const place = s * (points.length - 1);
  const i = Math.min(Math.floor(place), points.length - 2);
  return [0, 1].map((c) => points[i][c] + (place - i) * (points[i + 1][c] - points[i][c]));
}

function drawBlush(pen, px, at, left, right, unit) {
  const spots = [left, right].map((eye) => {
    const side = Math.sign(eye[0] - at(33)[0]);
    return [eye[0] + side * 0.18 * Math.abs(eye[0] - at(33)[0]), (at(33)[1] + eye[1]) / 2 - 0.004];
  });
  const all = [...spots.map((s) => [s, 0.62, 150]), [middle([at(30), at(33)]), 0.34, 110]];
  for (const [spot, radius, strength] of all) {
    const [x, y] = px(spot);
    const glow = pen.createRadialGradient(x, y, 0, x, y, radius * unit);
    glow.addColorStop(0, `rgba(0,0,${strength},1)`);
    glow.addColorStop(0.5, `rgba(0,0,${strength},0.45)`);
    glow.addColorStop(1, `rgba(0,0,${strength},0)`);
    pen.fillStyle = glow;
    pen.fillRect(x - radius * unit, y - radius * unit, 2 * radius * unit, 2 * radius * unit);
  }
}

// Mulberry32: the same brows on every visit.
function randomFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
