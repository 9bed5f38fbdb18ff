// The head: its arrays from the server, posed and drawn; with the lip gap that is painted.

import { unpacked } from "../src/data.js";
import { createLipMeter, createSkin, pose } from "../src/skin.js";
import { createStage } from "../src/stage.js";

// null where the server wants its token first; `headers`: with that, if it is known.
export async function loadFace(canvas, onTurn, headers) {
  const answer = await fetch("head.json", { headers });
  if (answer.status === 401) return null;
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error || "the server sends no head");
  const head = await unpacked(told);
  const skin = createSkin(head.arrays, head.head_joint);
  const meter = createLipMeter(head.arrays, head.head_joint);
  const stage = openStage(canvas, { ...head, tracks: ["live"] }, onTurn);
  const positions = stage ? stage.heads[0].positions : new Float32Array(3 * skin.count);

  function show(motion) {
    pose(skin, motion, positions);
    if (stage) stage.heads[0].refresh();
  }

  show(new Float32Array(56));
  return {
    drawn: Boolean(stage),
    show,
    // mm between the lips as they are posed now, or null of a head without landmarks.
    gap: () => (meter ? meter.ofPositions(positions) : null),
    draw: (steady) => (stage ? stage.draw(steady) : false),
    fit: () => stage && stage.fit(),
    home: () => stage && stage.home(),
  };
}

// null without WebGL: curves, latency and takes work without.
function openStage(canvas, take, onTurn) {
  try {
    return createStage(canvas, take, onTurn);
  } catch (error) {
    console.error(error);
    return null;
  }
}
