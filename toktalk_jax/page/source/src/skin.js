// FLAME's forward pass, as toktalk_jax/flame/model.py: rest + expression + pose
// correctives, then five joints (root, neck, jaw, eyes) skinned linearly.

const JOINTS = 5;
const PARENTS = [-1, 0, 1, 1, 1];
const EXPRESSIONS = 50;
const JAW = 50;
const NECK = 53;
const COEFFICIENTS = 56;
const EPSILON = 1e-8; // FLAME's own, inside the norm

// A face that can be posed: the whole head, or only the vertices in `only`.
export function createSkin(arrays, headJoint, only) {
  const count = arrays.template.shape[0];
  const picked = only || Uint32Array.from({ length: count }, (_, i) => i);
  return {
    count: picked.length,
    headJoint: headJoint === "root" ? 0 : 1,
    template: gather(arrays.template.values, 0, picked, 3),
    expression: rows(arrays.expression, picked),
    corrective: rows(arrays.posedirs, picked),
    weights: weightsOf(arrays.weights.values, picked),
    jointRest: arrays.joint_rest.values,
    jointDirs: arrays.joint_dirs.values,
    rotations: new Float64Array(9 * JOINTS),
    transforms: new Float64Array(12 * JOINTS),
  };
}

function gather(values, offset, picked, width) {
  const out = new Float32Array(picked.length * width);
  picked.forEach((v, i) => {
    for (let c = 0; c < width; c++) out[i * width + c] = values[offset + v * width + c];
  });
  return out;
}

// One row of displacements per coefficient; null where the row moves nothing.
function rows(array, picked) {
  const width = array.values.length / array.shape[0];
  return Array.from({ length: array.shape[0] }, (_, k) => {
    const row = gather(array.values, k * width, picked, 3);
    return row.some((value) => value !== 0) ? row : null;
  });
}

function weightsOf(values, picked) {
  const out = gather(values, 0, picked, JOINTS);
  for (let i = 0; i < out.length; i += JOINTS) {
    let sum = 0;
    for (let j = 0; j < JOINTS; j++) sum += out[i + j];
    for (let j = 0; j < JOINTS; j++) out[i + j] /= sum; // undoes the rounding
  }
  return out;
}

// The motion at a time that may fall between two frames (linear in the coefficients).
export function motionAt(motion, frame, out) {
  const last = motion.length / COEFFICIENTS - 1;
  const below = Math.min(Math.max(Math.floor(frame), 0), last);
  const above = Math.min(below + 1, last);
  const part = Math.min(Math.max(frame - below, 0), 1);
  for (let k = 0; k < COEFFICIENTS; k++) {
    const from = motion[below * COEFFICIENTS + k];
    out[k] = from + part * (motion[above * COEFFICIENTS + k] - from);
  }
  return out;
}

// Posed vertices of coefficients `motion` [56], written into `out` [3 count].
export function pose(skin, motion, out) {
  out.set(skin.template);
  for (let k = 0; k < EXPRESSIONS; k++) add(out, skin.expression[k], motion[k]);
  const { rotations, transforms } = skin;
  for (let j = 0; j < JOINTS; j++) identity(rotations, 9 * j);
  rodrigues(motion, NECK, rotations, 9 * skin.headJoint);
  rodrigues(motion, JAW, rotations, 18);
  for (let entry = 0; entry < 36; entry++) {
    const rest = (entry % 9) % 4 === 0 ? 1 : 0;
    add(out, skin.corrective[entry], rotations[9 + entry] - rest);
  }
  jointTransforms(skin, motion, transforms);
  blend(out, skin.weights, transforms, skin.count);
  return out;
}

function add(out, row, amount) {
  if (!row || Math.abs(amount) < 1e-9) return;
  for (let i = 0; i < out.length; i++) out[i] += amount * row[i];
}

function identity(out, at) {
  for (let i = 0; i < 9; i++) out[at + i] = i % 4 === 0 ? 1 : 0;
}

function rodrigues(motion, from, out, at) {
  const [a, b, c] = [motion[from], motion[from + 1], motion[from + 2]];
  const angle = Math.hypot(a + EPSILON, b + EPSILON, c + EPSILON);
  const [x, y, z] = [a / angle, b / angle, c / angle];
  const s = Math.sin(angle);
  const t = 1 - Math.cos(angle);
  out.set([1 - t * (y * y + z * z), t * x * y - s * z, t * x * z + s * y], at);
  out.set([t * x * y + s * z, 1 - t * (x * x + z * z), t * y * z - s * x], at + 3);
  out.set([t * x * z - s * y, t * y * z + s * x, 1 - t * (x * x + y * y)], at + 6);
}

// [R | t] per joint, row major, t such that the joint's own rest place is its pivot.
function jointTransforms(skin, motion, out) {
  const place = new Float64Array(3 * JOINTS);
  const world = new Float64Array(3 * JOINTS);
  const turned = new Float64Array(9 * JOINTS);
  for (let j = 0; j < JOINTS; j++) {
    for (let c = 0; c < 3; c++) {
      let value = skin.jointRest[3 * j + c];
      for (let k = 0; k < EXPRESSIONS; k++) value += motion[k] * skin.jointDirs[15 * k + 3 * j + c];
      place[3 * j + c] = value;
    }
    const p = PARENTS[j];
    for (let r = 0; r < 3; r++) {
      let moved = p < 0 ? place[3 * j + r] : world[3 * p + r];
      for (let c = 0; c < 3; c++) {
        let entry = skin.rotations[9 * j + 3 * r + c];
        if (p >= 0) {
          moved += turned[9 * p + 3 * r + c] * (place[3 * j + c] - place[3 * p + c]);
          entry = 0;
          for (let m = 0; m < 3; m++) {
            entry += turned[9 * p + 3 * r + m] * skin.rotations[9 * j + 3 * m + c];
          }
        }
        turned[9 * j + 3 * r + c] = entry;
      }
      world[3 * j + r] = moved;
    }
    for (let r = 0; r < 3; r++) {
      let shift = world[3 * j + r];
      for (let c = 0; c < 3; c++) {
        const entry = turned[9 * j + 3 * r + c];
        out[12 * j + 4 * r + c] = entry;
        shift -= entry * place[3 * j + c];
      }
      out[12 * j + 4 * r + 3] = shift;
    }
  }
}

function blend(out, weights, transforms, count) {
  const m = new Float64Array(12);
  for (let v = 0; v < count; v++) {
    m.fill(0);
    for (let j = 0; j < JOINTS; j++) {
      const w = weights[JOINTS * v + j];
      if (w !== 0) for (let i = 0; i < 12; i++) m[i] += w * transforms[12 * j + i];
    }
    const x = out[3 * v];
    const y = out[3 * v + 1];
    const z = out[3 * v + 2];
    out[3 * v] = m[0] * x + m[1] * y + m[2] * z + m[3];
    out[3 * v + 1] = m[4] * x + m[5] * y + m[6] * z + m[7];
    out[3 * v + 2] = m[8] * x + m[9] * y + m[10] * z + m[11];
  }
}

// Area-weighted vertex normals of triangles `index`, written into `out`.
export function normalsOf(positions, index, out) {
  out.fill(0);
  for (let f = 0; f < index.length; f += 3) {
    const [a, b, c] = [3 * index[f], 3 * index[f + 1], 3 * index[f + 2]];
    const ux = positions[b] - positions[a];
    const uy = positions[b + 1] - positions[a + 1];
    const uz = positions[b + 2] - positions[a + 2];
    const vx = positions[c] - positions[a];
    const vy = positions[c + 1] - positions[a + 1];
    const vz = positions[c + 2] - positions[a + 2];
    const nx = uy * vz - uz * vy;
    const ny = uz * vx - ux * vz;
    const nz = ux * vy - uy * vx;
    for (const at of [a, b, c]) {
      out[at] += nx;
      out[at + 1] += ny;
      out[at + 2] += nz;
    }
  }
  for (let i = 0; i < out.length; i += 3) {
    const length = Math.hypot(out[i], out[i + 1], out[i + 2]) || 1;
    out[i] /= length;
    out[i + 1] /= length;
    out[i + 2] /= length;
  }
  return out;
}

// The gap of the inner lips (iBUG 62 and 66), in millimetres; null without landmarks.
export function createLipMeter(arrays, headJoint) {
  if (!arrays.mark_vertices) return null;
  const FIRST = 17; // the marks stored are iBUG 17 to 67
  const corners = arrays.mark_vertices.values.slice(3 * (62 - FIRST), 3 * (63 - FIRST));
  const lower = arrays.mark_vertices.values.slice(3 * (66 - FIRST), 3 * (67 - FIRST));
  const share = arrays.mark_weights.values;
  const only = new Uint32Array([...corners, ...lower]);
  const signed = [...share.slice(3 * 45, 3 * 46), ...share.slice(3 * 49, 3 * 50)];
  signed.forEach((value, i) => (signed[i] = i < 3 ? value : -value));
  const skin = createSkin(arrays, headJoint, only);
  const posed = new Float32Array(3 * only.length);
  const gap = (positions, order) => {
    const d = [0, 0, 0];
    signed.forEach((w, i) => d.forEach((_, c) => (d[c] += w * positions[3 * order[i] + c])));
    return 1000 * Math.hypot(...d);
  };
  return {
    ofPositions: (positions) => gap(positions, only),
    ofMotion: (motion) => gap(pose(skin, motion, posed), [0, 1, 2, 3, 4, 5]),
  };
}
