// Sound on its way to the server: numbered, held back while the server asks for it, and,
// only where the server refused some, sent again: what is merely on its way arrives.

import { encodeInput } from "./wire.js";

const HELD_S = 2; // of sound that waits here; more is dropped
const KEPT = 400; // messages sent, should they be asked for again

export function createSender(sendBinary, rate) {
  let utterance = 0;
  let sequence = 0;
  let media = 0; // s of the utterance that were numbered
  let slowed = false;
  let refused = false;
  let held = [];
  let kept = [];

  const now = (message) => {
    message.at = performance.now();
    sendBinary(encodeInput(message.utterance, message.sequence, message.samples));
  };

  return {
    get utterance() {
      return utterance;
    },
    // Whether anything of the utterance was taken.
    get begun() {
      return sequence > 0;
    },
    get waits() {
      return held.reduce((sum, { samples }) => sum + samples.length, 0) / rate;
    },
    // Take samples of the utterance; false: too much waits, they are dropped.
    push(samples) {
      if (slowed && this.waits >= HELD_S) return false;
      media += samples.length / rate;
      const message = { utterance, sequence: sequence++, samples, until: media, at: 0 };
      kept.push(message);
      if (kept.length > 2 * KEPT) kept = kept.slice(-KEPT);
      if (slowed) held.push(message);
      else now(message);
      return true;
    },
    slowDown() {
      slowed = true;
    },
    // What came was too much: nothing is taken until it says go on, and from where.
    refuse() {
      slowed = true;
      refused = true;
    },
    goOn(expected) {
      const waiting = held;
      held = [];
      slowed = false;
      if (refused) this.again(expected);
      else waiting.forEach(now);
      refused = false;
    },
    // Nothing more of the utterance will come: what was held goes out as it is.
    flush() {
      held.forEach(now);
      held = [];
    },
    again({ utterance: wanted, expected }) {
      kept.filter((m) => m.utterance === wanted && m.sequence >= expected).forEach(now);
    },
    // Input goes on with this utterance, as ready, end or cancel has it.
    turnTo(next) {
      if (next === utterance) return;
      utterance = next;
      sequence = 0;
      media = 0;
      held = [];
    },
    // performance.now() when the message went out that holds second `at` of an utterance.
    sentAt(wanted, at) {
      const found = kept.find((m) => m.utterance === wanted && m.until >= at - 1e-6);
      return found ? found.at : null;
    },
  };
}
