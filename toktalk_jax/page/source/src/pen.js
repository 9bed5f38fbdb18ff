// What the canvases of curves share.

export const INK = "#8d949e";
export const FAINT = "#23272d";

// Text that stays legible on a curve.
export function label(pen, text, x, y) {
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "left";
  pen.lineWidth = 4;
  pen.strokeStyle = "#15181c";
  pen.strokeText(text, x, y);
  pen.fillStyle = INK;
  pen.fillText(text, x, y);
}
