// Puts the live page together; `window.toktalk` is for tests.
import { createClock } from "./clock.js";
import { createControls } from "./controls.js";
import { createConversation } from "./conversation.js";
import { loadFace } from "./face.js";
import { createLatency, showSaid } from "./latency.js";
import { createPainter } from "./painter.js";
import { createRecorder } from "./recorder.js";
import { words } from "./status.js";
import { addTake } from "./takes.js";
import { createTalk, isOwnUse } from "./talk.js";
import { decodeFile } from "./input.js";

const $ = (id) => document.getElementById(id);
const RATES = [8000, 16000, 22050, 24000, 32000, 44100, 48000];

window.toktalk = { ready: false, error: null };
try {
  start();
} catch (error) {
  window.toktalk.error = error.message;
  say("notice", `The page could not start: ${error.message}`);
  console.error(error);
}

function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

// At a rate that the server takes; it resamples to its own.
function openContext() {
  const usual = new AudioContext({ latencyHint: "interactive" });
  if (RATES.includes(usual.sampleRate)) return usual;
  usual.close();
  return new AudioContext({ latencyHint: "interactive", sampleRate: 48000 });
}

function start() {
  const context = openContext();
  const clock = createClock(context);
  const recorder = createRecorder();
  // The same word twice is read out once.
  const notice = (text) => $("notice").textContent === text || say("notice", text);
  let token = "";
  const authorisation = () => (token ? { Authorization: `Bearer ${token}` } : {});
  const controls = createControls($, {
    send: (change) => talk.set(change),
    bytes: () => (talk.offer ? talk.offer.limits.message_bytes : 1 << 20),
    fail: (text) => say("settings-fault", text),
  });
  const talk = createConversation({
    ...{ context, clock, controls, notice },
    changed: () => showState(talk, recorder),
    said: (facts) => showSaid($, facts),
    offered: (offer) => {
      showOffer(offer);
      wear();
    },
  });
  const latency = createLatency($, talk.ledger);
  const painter = createPainter($, { clock, talk, recorder, latency, full: () => takes.toggle() });
  listenToTalk(context, talk, notice);
  listenToKeys(talk, painter);
  const takes = createTakes(talk, recorder, context, controls, authorisation);
  const mode = (value) => {
    if (recorder.running) takes.toggle();
    ["microphone", "file", "text"].forEach((name) => ($(`by-${name}`).hidden = name !== value));
    talk.turnTo(value);
  };
  document.querySelectorAll("[name=mode]").forEach((radio) => {
    radio.addEventListener("change", () => mode(radio.value));
  });
  $("reconnect").addEventListener("click", () => talk.connect());
  $("door").addEventListener("submit", (event) => {
    event.preventDefault();
    token = $("token").value.trim();
    talk.connect(token);
  });
  $("home").addEventListener("click", painter.home);
  window.addEventListener("resize", painter.fit);
  const wear = createWardrobe(authorisation, painter);
  Object.assign(window.toktalk, {
    state: () => talk.state,
    clock: clock.now,
    ledger: () => ({ chunks: talk.ledger.chunks, clocks: talk.ledger.clocks }),
    dry: () => talk.speech.dry,
    gap: painter.gap,
    trace: painter.trace,
    captured: talk.captured,
  });
  painter.fit();
  wear();
  talk.connect();
}

// What loads the head and puts it on, once; again after the token, should it be asked for.
function createWardrobe(authorisation, painter) {
  let asked = false;
  return async () => {
    if (asked) return;
    asked = true;
    try {
      const face = await loadFace($("view"), painter.wake, authorisation());
      if (!face) return (asked = false);
      painter.wear(face);
      const blind = "This browser offers no WebGL, so the head cannot be drawn.";
      say("loading", face.drawn ? "" : blind);
      window.toktalk.ready = true;
    } catch (error) {
      window.toktalk.error = error.message;
      say("loading", `There is no head to show: ${error.message}`);
    }
  };
}

function showOffer({ model, session, inputs }) {
  $("summary").textContent = `model ${String(model.hash).slice(0, 12)} · session ${session}`;
  const speaks = inputs.text === true;
  $("mute").hidden = speaks;
  $("text").hidden = $("say").hidden = !speaks;
}

function showState(talk, recorder) {
  const [light, text] = words(talk.state);
  if ($("status").textContent !== text) $("status").textContent = text;
  $("light").className = light;
  const { session, source, speaking, awaited } = talk.state;
  const open = source === "microphone" || talk.state.opening;
  $("talk").setAttribute("aria-pressed", String(open));
  $("talk").querySelector("span").textContent = open ? "Listening" : "Talk";
  $("meter").classList.toggle("open", Boolean(source));
  $("stop").disabled = !source && !speaking && !awaited;
  $("reconnect").hidden = !["waiting", "failed"].includes(session);
  $("door").hidden = session !== "refused";
  $("record").setAttribute("aria-pressed", String(recorder.running));
}

function listenToTalk(context, talk, notice) {
  let samples = null;
  const button = createTalk($("talk"), {
    begin: talk.beginTalk,
    end: talk.endTalk,
    talking: () => talk.state.source === "microphone" || talk.state.opening,
  });
  $("stop").addEventListener("click", talk.stop);
  $("sound").addEventListener("change", async () => {
    const [file] = $("sound").files;
    if (!file) return;
    $("sound-name").textContent = file.name;
    $("play").disabled = true;
    notice("");
    const own = () => file === $("sound").files[0]; // none was chosen since
    try {
      const decoded = await decodeFile(context, file);
      if (!own()) return;
      samples = decoded;
      $("play").disabled = false;
    } catch {
      if (own()) notice(`${file.name} is no sound that this browser can read.`);
    }
  });
  $("play").addEventListener("click", () => talk.play(samples));
  $("by-text").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (text) talk.say(text);
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("by-text").requestSubmit();
  });
  window.addEventListener("keydown", (event) => {
    if (event.key !== " " || isOwnUse(event) || $("by-microphone").hidden) return;
    event.preventDefault();
    if (!event.repeat) button.down(event);
  });
  window.addEventListener("keyup", (event) => event.key === " " && button.up(event));
  window.addEventListener("blur", button.up);
}

function listenToKeys(talk, painter) {
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") talk.stop();
    if (event.key.toLowerCase() === "r" && !isOwnUse(event)) painter.home();
  });
}

function createTakes(talk, recorder, context, controls, authorisation) {
  let count = 1;
  const fail = (text) => say("takes-fault", text);

  function toggle() {
    if (!recorder.running) {
      fail("");
      context.resume();
      recorder.start(talk.now());
    } else {
      const take = recorder.stop(context.sampleRate);
      const name = $("take-name").value.trim() || `take ${count}`;
      if (take) {
        addTake($("takes"), name, take, factsOf(talk, controls), { authorisation, fail });
        $("take-name").value = `take ${++count}`;
      }
    }
    $("record").querySelector("span").textContent = "Record";
    showState(talk, recorder);
  }

  $("record").addEventListener("click", toggle);
  return { toggle };
}

function factsOf(talk, controls) {
  const { model } = talk.offer || { model: {} };
  const { style, chunk_s } = controls.force || { style: "", chunk_s: 0.4 };
  return {
    head_joint: model.head_joint || "neck",
    face_model: model.face_model || "stand_in",
    chunk_frames: Math.round(25 * chunk_s),
    checkpoint: model.hash || "",
    style,
  };
}
