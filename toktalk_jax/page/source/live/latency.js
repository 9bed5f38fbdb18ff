// The ledger and the server's voice in numbers and bars.

import { STAGES, summary } from "./ledger.js";

const SHOW_EVERY_MS = 400;

const ms = (value) => (value === null || value === undefined ? "–" : value.toFixed(0));

export function createLatency($, ledger) {
  let shown = 0;
  let newest = 0; // when the chunk was painted that was shown last
  const rows = Object.fromEntries(
    [...STAGES, "sum"].map((stage) => [stage, $("ledger").querySelector(`[data-stage=${stage}]`)]),
  );
  const parts = Object.fromEntries(
    STAGES.map((stage) => [stage, $("ledger-bar").querySelector(`[data-stage=${stage}]`)]),
  );

  return {
    show() {
      const now = performance.now();
      const { chunks, clocks } = ledger;
      const { at } = chunks.length ? chunks[chunks.length - 1] : { at: newest };
      if (at === newest || now - shown < SHOW_EVERY_MS) return;
      shown = now;
      newest = at;
      const table = summary(chunks);
      for (const [stage, row] of Object.entries(rows)) {
        const { last, p50, p95 } = table[stage];
        [last, p50, p95].forEach((value, i) => (row.cells[i + 1].textContent = ms(value)));
      }
      for (const [stage, part] of Object.entries(parts)) {
        part.style.flexGrow = Math.max(table[stage].p50 || 0, 0);
      }
      const doubt = clocks && clocks.doubt !== null ? ` Clocks agree within ${ms(clocks.doubt)} ms.` : "";
      $("ledger-doubt").textContent = `Of the last ${chunks.length} chunks.${doubt}`;
    },
  };
}

// What a sentence of the server's voice cost: equation 7, first sound and frame = TTFTB +
// max(T_audio, T_animation), and which of the two the other waits for.
export function showSaid($, { seconds, ttftb_ms, audio_ms, animation_ms, first_frame_ms }) {
  const sum = ttftb_ms + Math.max(audio_ms, animation_ms);
  const most = Math.max(sum, first_frame_ms, 1);
  const share = (value) => `${(100 * value) / most}%`;
  const put = (name, from, length) => {
    const bar = $(`bar-${name}`);
    bar.style.marginInlineStart = share(from);
    bar.style.width = share(length);
    $(`said-${name}`).textContent = `${ms(length)} ms`;
  };
  put("ttftb", 0, ttftb_ms);
  put("audio", ttftb_ms, audio_ms);
  put("animation", ttftb_ms, animation_ms);
  put("sum", 0, sum);
  put("first", 0, first_frame_ms);
  const wait = Math.abs(audio_ms - animation_ms);
  const [waits, other] = audio_ms < animation_ms ? ["Sound", "the face"] : ["The face", "sound"];
  $("said-waits").textContent = `${waits} waits ${ms(wait)} ms for ${other}; ${seconds.toFixed(1)} s were said.`;
  $("said").hidden = false;
}
