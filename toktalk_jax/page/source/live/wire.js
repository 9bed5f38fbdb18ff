// Binary messages of protocol toktalk.1, as toktalk_jax/live/protocol.py describes them.
// Typed arrays are little-endian on every machine that runs a browser.

export const FPS = 25;
export const F = 56;
export const REST = 1;
const INPUT_BYTES = 12;
const FRAMES_BYTES = 64;
const SOUND_BYTES = 16;

// Samples (Int16Array) as the message `sequence` of an utterance.
export function encodeInput(utterance, sequence, samples) {
  const message = new ArrayBuffer(INPUT_BYTES + samples.byteLength);
  const view = new DataView(message);
  view.setUint8(0, 1);
  view.setUint32(4, utterance, true);
  view.setUint32(8, sequence, true);
  new Int16Array(message, INPUT_BYTES).set(samples);
  return message;
}

// The kind of a binary message: 2 frames, 3 sound.
export const kindOf = (message) => (message.byteLength ? new Uint8Array(message)[0] : 0);

export function decodeFrames(message) {
  const view = new DataView(message);
  expect(kindOf(message) === 2 && message.byteLength >= FRAMES_BYTES, "frames");
  const count = view.getUint16(2, true);
  expect(message.byteLength === FRAMES_BYTES + 4 * F * count, "frames");
  const [session, utterance, chunk, first, dropped] = [4, 8, 12, 16, 20].map((at) =>
    view.getUint32(at, true),
  );
  const [, buffered, tokenised, solved, sent] = [24, 32, 40, 48, 56].map((at) =>
    view.getFloat64(at, true),
  );
  return {
    ...{ flags: view.getUint8(1), count, session, utterance, chunk, first, dropped },
    ...{ buffered, tokenised, solved, sent },
    motion: new Float32Array(message, FRAMES_BYTES, F * count),
  };
}

export function decodeSound(message) {
  const view = new DataView(message);
  expect(kindOf(message) === 3 && message.byteLength >= SOUND_BYTES, "sound");
  expect(message.byteLength % 2 === 0, "sound");
  const [utterance, first, rate] = [4, 8, 12].map((at) => view.getUint32(at, true));
  expect(rate > 0, "sound");
  return { utterance, first, rate, samples: new Int16Array(message, SOUND_BYTES) };
}

function expect(whole, what) {
  if (!whole) throw new Error(`a message of ${what} from the server is damaged`);
}
