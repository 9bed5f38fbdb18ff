// An .npz as NumPy writes it: npy arrays in a zip without compression.

const encoder = new TextEncoder();

// `arrays`: name -> npy bytes.
export function npz(arrays) {
  const files = Object.entries(arrays).map(([name, bytes]) => ({
    name: encoder.encode(`${name}.npy`),
    bytes,
    sum: crc32(bytes),
  }));
  const parts = [];
  const central = [];
  let at = 0;
  for (const file of files) {
    const head = entry(0x04034b50, 30, file);
    parts.push(head, file.name, file.bytes);
    const listed = entry(0x02014b50, 46, file);
    new DataView(listed.buffer).setUint32(42, at, true);
    central.push(listed, file.name);
    at += head.length + file.name.length + file.bytes.length;
  }
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, size(central), true);
  end.setUint32(16, at, true);
  return joined([...parts, ...central, new Uint8Array(end.buffer)]);
}

// What a local and a central header share; the central one has "made by" before it.
function entry(signature, length, { name, bytes, sum }) {
  const view = new DataView(new ArrayBuffer(length));
  const at = length === 46 ? 6 : 4;
  view.setUint32(0, signature, true);
  if (length === 46) view.setUint16(4, 20, true);
  view.setUint16(at, 20, true); // version needed: 2.0
  view.setUint16(at + 8, 0x21, true); // 1980-01-01, the earliest date that zip knows
  view.setUint32(at + 10, sum, true);
  view.setUint32(at + 14, bytes.length, true);
  view.setUint32(at + 18, bytes.length, true);
  view.setUint16(at + 22, name.length, true);
  return new Uint8Array(view.buffer);
}

// A typed array (f32, i16) of this shape as npy.
export function npyOf(values, shape) {
  const kind = values instanceof Float32Array ? "<f4" : "<i2";
  return npy(kind, shape, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
}

export const npyNumber = (value) => npy("<i8", [], new Uint8Array(BigInt64Array.of(BigInt(value)).buffer));

// NumPy's text is UTF-32 of a fixed length.
export function npyText(text) {
  const points = Uint32Array.from([...(text || " ")], (c) => c.codePointAt(0));
  return npy(`<U${points.length}`, [], new Uint8Array(points.buffer));
}

function npy(kind, shape, data) {
  const dims = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const facts = `{'descr': '${kind}', 'fortran_order': False, 'shape': (${dims}), }`;
  const room = 64 - ((10 + facts.length + 1) % 64);
  const text = encoder.encode(`${facts}${" ".repeat(room % 64)}\n`);
  const magic = Uint8Array.of(0x93, ...encoder.encode("NUMPY"), 1, 0, text.length & 255, text.length >> 8);
  return joined([magic, text, data]);
}

const size = (parts) => parts.reduce((sum, part) => sum + part.length, 0);

function joined(parts) {
  const out = new Uint8Array(size(parts));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
