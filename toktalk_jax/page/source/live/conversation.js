// Session, input and speech put together: what a press of a button means on the wire.

import { createInput } from "./input.js";
import { createLedger } from "./ledger.js";
import { createSender } from "./sender.js";
import { createSession } from "./session.js";
import { createSpeech } from "./speech.js";
import { decodeFrames, decodeSound, FPS, kindOf } from "./wire.js";

const READY_S = 8; // until a session that was asked for is there
const TRACED = 4000;

const MICROPHONE = {
  NotAllowedError: "The browser keeps the microphone from this page: allow it beside the address.",
  NotFoundError: "No microphone was found.",
  NotReadableError: "The microphone is in use elsewhere.",
};

export function createConversation({ context, clock, controls, notice, changed, said, offered }) {
  const ledger = createLedger();
  const speech = createSpeech(context, clock, (entry) => ledger.painted(entry, performance.now()));
  let sender = null;
  let offer = null;
  let facts = {};
  let mode = "microphone";
  let opening = false; // a talk was asked for, and the microphone or session is awaited
  let awaited = false; // a text was sent, and nothing of it came yet
  let wish = 0; // counts what was asked for; a later one makes an earlier one void
  let cancels = 0; // that were not answered yet
  let loud = 0;
  let captured = [];
  let wasSpeaking = false;

  const url = new URL("live", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const session = createSession(url.href, { state: turned, message: told, binary: came });
  const input = createInput({
    ...{ context, clock, speech },
    on: {
      energy: (value) => (loud = value),
      took(at, media, value) {
        captured.push({ at, media, utterance: sender.utterance, loudness: value });
        if (captured.length > 2 * TRACED) captured = captured.slice(-TRACED);
      },
      dropped: () => notice("The server cannot keep up: some of the sound is dropped."),
      unplugged() {
        opening = false;
        if (input.source === "microphone") input.finish();
        input.closeMicrophone();
        notice("The microphone is gone.");
      },
      ended(any) {
        if (any) {
          sender.flush();
          session.send("end");
          sender.turnTo(sender.utterance + 1);
        } else {
          speech.ended(sender.utterance);
        }
        changed();
      },
    },
  });

  const isText = () => mode === "text";

  function hello() {
    const pcm = { kind: "pcm", rate_hz: input.rate, dtype: "i16" };
    return { input: isText() ? { kind: "text" } : pcm, ...controls.wanted };
  }

  function turned(name, more) {
    facts = more;
    if (name === "asleep") input.closeMicrophone(); // nor does it listen in its sleep
    if (name === "ready") begin(more);
    else if (name !== "connecting") interrupted();
    if (name === "failed" && more.code === "bad_hello" && Object.keys(controls.wanted).length) {
      controls.refused(more.why);
      session.open(hello);
    }
    changed();
  }

  function begin(ready) {
    offer = ready;
    cancels = 0;
    ledger.restart(ready);
    if (ready.resumed && !isText() && ready.utterance !== sender.utterance) {
      return session.open(hello); // an end or a cancel was lost with the socket
    }
    if (ready.resumed) {
      speech.hearAfter(ready.utterance - 1);
      sender.again(ready);
    } else {
      sender = createSender(session.sendBinary, input.rate);
      sender.turnTo(ready.utterance);
      input.to(sender);
      interrupted();
      speech.hearAfter(-1);
    }
    controls.offer(ready);
    offered(ready);
    notice("");
  }

  function interrupted() {
    awaited = false;
    if (input.source) input.drop();
    speech.ease();
  }

  function told(kind, fields) {
    if (kind === "settings") controls.applied(fields);
    else if (kind === "slow_down") slow(fields);
    else if (kind === "go_on") {
      notice("");
      sender.goOn(fields);
    } else if (kind === "cancelled") {
      cancels = Math.max(cancels - 1, 0);
      // Of several the last answer counts: what came since is over, too.
      if (!cancels) speech.hearAfter(fields.utterance);
      if (!isText() && fields.next > sender.utterance) sender.turnTo(fields.next);
    } else if (kind === "ended") {
      awaited = false;
      speech.ended(fields.utterance);
    } else if (kind === "said") said(fields);
    else if (kind === "error") wrong(fields);
    changed();
  }

  function slow({ queued_s }) {
    sender.slowDown();
    notice(`The server asks for patience: ${queued_s.toFixed(1)} s of sound wait there.`);
  }

  function wrong({ code, message, utterance, expected }) {
    awaited = false;
    if (code === "bad_settings") controls.refused(message);
    else if (code === "sequence") sender.again({ utterance, expected });
    else if (code === "overrun" && !isText()) sender.refuse();
    else notice(`The server could not use a message: ${message}`);
  }

  function came(message, received) {
    try {
      if (kindOf(message) === 3) speech.sound(decodeSound(message));
      else frames(decodeFrames(message), received);
      speech.pump();
    } catch (error) {
      notice(error.message);
    }
  }

  function frames(message, received) {
    const { utterance, first, count } = message;
    awaited = false;
    const u = speech.find(utterance);
    const origin = u ? u.origin : null;
    const entry = ledger.came(message, {
      received,
      spoken: origin === null ? null : clock.wallOf(origin + first / FPS),
      sentAt: isText() ? null : sender.sentAt(utterance, (first + count) / FPS),
    });
    speech.frames(message, entry, isText());
  }

  async function whenReady() {
    session.wake();
    const until = performance.now() + 1000 * READY_S;
    while (session.state !== "ready" && performance.now() < until) {
      await new Promise((done) => setTimeout(done, 30));
    }
    return session.state === "ready";
  }

  // Who talks in between, or presses Stop, ends what is heard and shown.
  function cancel() {
    if (!input.source && !speech.busy && !awaited) return;
    awaited = false;
    const { utterance, media } = speech.shown;
    const known = utterance && utterance.number >= 0;
    input.drop();
    session.send("cancel", known ? { frame: Math.floor(media * FPS) } : {});
    cancels += 1;
    speech.silence();
    if (sender && !isText()) sender.turnTo(sender.utterance + 1);
  }

  function stop() {
    opening = false;
    wish += 1;
    cancel();
    changed();
  }

  // Whether the way is free: sound allowed, nothing on show, a session there, and nothing
  // asked for since the wish `own`.
  async function prepared(own = ++wish) {
    context.resume();
    cancel();
    return (await whenReady()) && own === wish;
  }

  async function beginTalk() {
    const own = ++wish;
    opening = true;
    context.resume(); // while the press still counts as a gesture
    notice("");
    changed();
    try {
      await input.openMicrophone();
    } catch (error) {
      if (own === wish) opening = false;
      notice(MICROPHONE[error.name] || error.message);
      return changed();
    }
    const free = opening && own === wish && (await prepared(own));
    if (own !== wish) return;
    if (opening && free) input.talk();
    opening = false;
    changed();
  }

  return {
    ...{ ledger, speech, stop, beginTalk },
    get offer() {
      return offer;
    },
    get loudness() {
      return loud;
    },
    get state() {
      const busy = speech.busy && !input.source;
      const { source } = input;
      const speaking = speech.speaking || busy;
      return { session: session.state, facts, source, speaking, opening, awaited };
    },
    captured: () => captured,
    now: clock.now,
    connect: (token) => session.open(hello, token),
    set: (change) => session.send("set", change),
    turnTo(wanted) {
      const before = isText();
      stop();
      mode = wanted;
      if (mode !== "microphone") input.closeMicrophone();
      if (before !== isText()) session.open(hello);
    },
    endTalk() {
      if (input.source === "microphone") input.finish();
      opening = false;
      changed();
    },
    async play(samples) {
      if (await prepared()) input.play(samples);
      changed();
    },
    async say(text) {
      if (await prepared()) {
        session.send("say", { text });
        session.send("end");
        awaited = true;
      }
      changed();
    },
    // To call now and then: the end of a speech has no event.
    watch() {
      if (wasSpeaking === speech.busy) return;
      wasSpeaking = speech.busy;
      changed();
    },
  };
}
