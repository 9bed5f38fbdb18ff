// Sound into the session: from the microphone as it comes, or from a file at the same pace.

import { loudness } from "./track.js";

const BLOCK_S = 0.02;
const MOST_WAIT_S = 1; // of a file's sound that waits while the server asks for a pause

// `on`: {energy(loudness, at), took(at, media, loudness), dropped(), ended(any), unplugged()}.
export function createInput({ context, clock, speech, on }) {
  const rate = context.sampleRate;
  let sender = null;
  let source = ""; // "microphone" or "file" while sound goes out
  let live = null;
  let timer = 0;
  let loaded = false; // the worklet's module
  let microphone = null; // promise of what closes it, from when it is asked for

  function heard(samples, at) {
    const loud = loudness(samples);
    on.energy(loud, at);
    if (source !== "microphone") return;
    if (!live) live = speech.begin(sender.utterance, false, at);
    take(samples, at, loud);
    if (live.sound) speech.pump();
  }

  function take(samples, at, loud) {
    if (!sender.push(samples)) {
      // What follows is heard that much earlier than its place in the utterance says.
      live.origin += samples.length / rate;
      on.dropped();
      return;
    }
    if (source === "microphone") speech.hear(live, rate, samples);
    on.took(at, at - live.origin, loud);
  }

  // Asked for once, however often a press wants it while the browser asks its user.
  function openMicrophone() {
    if (!microphone) {
      const own = (microphone = connect());
      own.catch(() => {
        if (microphone === own) microphone = null;
      });
    }
    return microphone;
  }

  // Nor is one kept that is granted only afterwards.
  function closeMicrophone() {
    if (!microphone) return;
    microphone.then(
      (close) => close(),
      () => {},
    );
    microphone = null;
    on.energy(0, clock.now());
  }

  async function connect() {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers give a microphone to https pages and to 127.0.0.1 only.");
    }
    // No echo is to be cancelled, for the page is silent while it listens.
    const wanted = { echoCancellation: false, noiseSuppression: true, autoGainControl: true };
    const audio = { ...wanted, channelCount: 1 };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    const stop = () => stream.getTracks().forEach((track) => track.stop());
    try {
      if (!loaded) await context.audioWorklet.addModule("static/microphone.js");
      loaded = true;
    } catch (error) {
      stop();
      throw error;
    }
    const from = context.createMediaStreamSource(stream);
    const worklet = new AudioWorkletNode(context, "microphone");
    worklet.port.onmessage = ({ data }) => heard(data.samples, data.at);
    from.connect(worklet);
    worklet.connect(context.destination); // silent; what leads nowhere is not run
    stream.getTracks().forEach((track) => (track.onended = on.unplugged));
    return () => {
      stop();
      from.disconnect();
      worklet.disconnect();
      worklet.port.onmessage = null;
      worklet.port.postMessage("close");
    };
  }

  function begin(kind) {
    source = kind;
    live = null;
  }

  function finish() {
    clearInterval(timer);
    const any = sender.begun;
    source = "";
    live = null;
    on.ended(any);
  }

  // Streams samples (i16, at the context's rate) as a microphone would.
  function streamFile(samples) {
    begin("file");
    const block = Math.round(BLOCK_S * rate);
    const origin = clock.now();
    let at = 0;
    let late = 0; // s that the server's pauses took
    live = speech.begin(sender.utterance, true, origin);
    speech.hear(live, rate, samples);
    timer = setInterval(() => {
      if (sender.waits > MOST_WAIT_S) {
        late = clock.now() - origin - at / rate;
        return;
      }
      const due = clock.now() - origin - late;
      while (at < samples.length && (at + block) / rate <= due && sender.waits <= MOST_WAIT_S) {
        const piece = samples.slice(at, at + block);
        const loud = loudness(piece);
        on.energy(loud, origin + at / rate);
        take(piece, origin + at / rate, loud);
        at += block;
      }
      if (at >= samples.length && !sender.waits) finish();
    }, 1000 * BLOCK_S);
  }

  return {
    rate,
    get source() {
      return source;
    },
    // Where sound goes: a sender of a session.
    to(other) {
      sender = other;
    },
    openMicrophone,
    closeMicrophone,
    talk: () => begin("microphone"),
    play: streamFile,
    finish,
    // Stop without an end: the utterance is given up.
    drop() {
      clearInterval(timer);
      source = "";
      live = null;
    },
  };
}

// A sound file as i16 mono samples at the context's rate.
export async function decodeFile(context, file) {
  const decoded = await context.decodeAudioData(await file.arrayBuffer());
  const out = new Int16Array(decoded.length);
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, c) =>
    decoded.getChannelData(c),
  );
  for (let i = 0; i < out.length; i++) {
    const value = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
    out[i] = Math.min(Math.max(Math.round(32768 * value), -32768), 32767);
  }
  return out;
}
