// How fine the picture is drawn: up to two pixels per point, fewer where frames come late.

const MOST = 2;
const LEAST = 0.5;
const LATE_MS = 55;
const PATIENCE = 8; // late frames in a row before the picture gets coarser; fewer if very late

export function createPace(renderer) {
  let share = 1;
  let late = 0;
  let last = 0;
  const apply = () => {
    renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, MOST) * share);
  };
  apply();
  return {
    apply,
    // `steady`: this frame follows the last without a pause, so the gap is its cost.
    frame(steady) {
      const now = performance.now();
      const gap = now - last;
      late = steady && gap > LATE_MS ? late + Math.min(gap / LATE_MS, PATIENCE / 2) : 0;
      last = now;
      if (late < PATIENCE || share <= LEAST) return;
      late = 0;
      share = Math.max(share * 0.7, LEAST);
      apply();
    },
  };
}
