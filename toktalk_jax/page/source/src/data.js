// The data block that toktalk_jax/page/pack.py writes: one JSON text, arrays deflated.

export async function readTake() {
  return unpacked(JSON.parse(document.getElementById("take").textContent));
}

// A take with its `block` decoded to `arrays`.
export async function unpacked(take) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error(
      "This browser is too old: the page needs Chrome 80, Firefox 113 or Safari 16.4.",
    );
  }
  const bytes = await inflate(fromBase64(take.block.body));
  const arrays = {};
  let start = 0;
  for (const spec of take.block.arrays) {
    const count = spec.shape.reduce((a, b) => a * b, 1);
    const size = count * { f32: 4, u32: 4, u8: 1, q16: 2 }[spec.type];
    const piece = bytes.slice(start, start + size);
    arrays[spec.name] = { shape: spec.shape, step: spec.step, values: decode(piece, spec, count) };
    start += size;
  }
  return { ...take, arrays };
}

function decode(piece, spec, count) {
  if (spec.type === "u8") return piece;
  if (spec.type === "u32") return new Uint32Array(piece.buffer);
  if (spec.type === "f32") return new Float32Array(piece.buffer);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    values[i] = (((piece[i] | (piece[count + i] << 8)) << 16) >> 16) * spec.step;
  }
  return values;
}

function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// A 16-bit mono WAV, padded with silence to `seconds`, so that sound and motion end together.
export function wavBlob(samples, rate, seconds) {
  const count = Math.max(samples.length, Math.ceil(seconds * rate));
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const text = (at, word) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * count, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * count, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.round(value * 32767), true));
  return new Blob([view], { type: "audio/wav" });
}
