// Every triangle in four, the new vertices lifted towards their ends' tangent planes (Phong
// tessellation, Boubekeur and Alexa 2008): a round outline from a 5,000-vertex head. The
// given vertices keep their places and come first.

const LIFT = 0.7;

export function createSmoothing(index, count) {
  const known = new Map();
  const ends = [];
  const between = (a, b) => {
    const key = a < b ? a * count + b : b * count + a;
    let made = known.get(key);
    if (made === undefined) {
      made = count + ends.length / 2;
      known.set(key, made);
      ends.push(a, b);
    }
    return made;
  };
  const fine = new Uint32Array(4 * index.length);
  for (let f = 0; f < index.length; f += 3) {
    const [a, b, c] = [index[f], index[f + 1], index[f + 2]];
    const [ab, bc, ca] = [between(a, b), between(b, c), between(c, a)];
    fine.set([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], 4 * f);
  }
  return { index: fine, ends: Uint32Array.from(ends), count: count + ends.length / 2 };
}

// `values` of the given vertices with their edge means behind them.
export function spread(smoothing, values, width) {
  const { ends, count } = smoothing;
  const out = new Float32Array(count * width);
  out.set(values);
  let at = values.length;
  for (let e = 0; e < ends.length; e += 2) {
    for (let c = 0; c < width; c++) {
      out[at++] = (values[ends[e] * width + c] + values[ends[e + 1] * width + c]) / 2;
    }
  }
  return out;
}

// Places and normals of the new vertices, from those of the given ones in the same arrays.
export function lift(smoothing, positions, normals) {
  const { ends, count } = smoothing;
  let at = 3 * (count - ends.length / 2);
  for (let e = 0; e < ends.length; e += 2, at += 3) {
    const a = 3 * ends[e];
    const b = 3 * ends[e + 1];
    const dx = (positions[b] - positions[a]) / 2;
    const dy = (positions[b + 1] - positions[a + 1]) / 2;
    const dz = (positions[b + 2] - positions[a + 2]) / 2;
    // How far the midpoint stands off each end's plane.
    const off = (LIFT / 2) * (dx * normals[a] + dy * normals[a + 1] + dz * normals[a + 2]);
    const other = (LIFT / 2) * (dx * normals[b] + dy * normals[b + 1] + dz * normals[b + 2]);
    let length = 0;
    for (let c = 0; c < 3; c++) {
      const middle = (positions[a + c] + positions[b + c]) / 2;
      positions[at + c] = middle - off * normals[a + c] + other * normals[b + c];
      normals[at + c] = normals[a + c] + normals[b + c];
      length += normals[at + c] ** 2;
    }
    length = Math.sqrt(length) || 1;
    for (let c = 0; c < 3; c++) normals[at + c] /= length;
  }
}
