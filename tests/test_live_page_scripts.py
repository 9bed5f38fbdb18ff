"""Scripts of the live page in node: presses and answers in whatever order they come."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from toktalk_jax.page import shade

LIVE = shade.__file__.replace("shade.py", "source/live")

TIMELINE = """
import { createTimeline } from "%s/timeline.js";
const t = createTimeline(0.05);
const seen = [t.at(1, 0, false), t.at(2, 0.4, false), t.at(2.25, 0.4, false)];
seen.push(t.at(2.6, 0.4, false), t.at(2.7, 0.4, false)); // ran dry: held
seen.push(t.at(3, 0.8, false), t.at(3.15, 0.8, false)); // and on, with a cushion
seen.push(t.at(4, 1.2, true), t.dry);
const late = createTimeline(0.05, true);
let covered = 0.4;
late.at(0, covered, false);
for (let now = 0.02, k = 1; now < 20; now += 0.02) {
  if (now > 0.4 * k - (k > 3 ? 0.3 : 0)) { // from the third on they come 0.3 s sooner
    late.came(now, covered);
    covered += 0.4;
    k += 1;
  }
  late.at(now, covered, false);
}
console.log(JSON.stringify([seen, late.zero, late.dry]));
"""


SENDER = """
import { createSender } from "%s/sender.js";
let out = [];
const sent = () => { const all = out; out = []; return all; };
const tell = (message) => out.push(new DataView(message).getUint32(8, true));
const sender = createSender(tell, 1000);
function push(count) {
  let taken = 0;
  while (count--) taken += sender.push(new Int16Array(500));
  return taken;
}
push(3);
const seen = [sent()];
sender.slowDown();
seen.push(push(6), sent()); // 2 s are held, the rest is dropped
sender.goOn({ utterance: 0, expected: 1 }); // 1 and 2 are on their way
seen.push(sent());
sender.refuse();
push(1);
sender.goOn({ utterance: 0, expected: 5 });
seen.push(sent());
sender.turnTo(1);
push(1);
seen.push(sent());
console.log(JSON.stringify(seen));
"""


MICROPHONE = """
import { createInput } from "%s/input.js";
let grants = [];
let stopped = 0;
const track = () => ({ stop: () => (stopped += 1) });
const stream = { getTracks: () => [track()] };
const grant = () => grants.splice(0).forEach((done) => done(stream));
const getUserMedia = () => new Promise((done) => grants.push(done));
const value = { mediaDevices: { getUserMedia } };
Object.defineProperty(globalThis, "navigator", { value, configurable: true });
const told = [];
let refused = true;
const part = () => ({ connect() {}, disconnect() {} });
globalThis.AudioWorkletNode = function () {
  Object.assign(this, part(), { port: { postMessage: (word) => told.push(word) } });
};
const addModule = async () => {
  if (refused) throw new Error("no module");
};
const context = { audioWorklet: { addModule }, createMediaStreamSource: part };
const on = { energy() {} };
const input = createInput({ context, clock: { now: () => 0 }, speech: null, on });
const seen = [];
async function presses(...close) {
  const opened = [input.openMicrophone(), input.openMicrophone()];
  seen.push(grants.length); // the browser's user is asked once
  close.forEach(() => input.closeMicrophone());
  grant();
  const ends = await Promise.allSettled(opened);
  await 0;
  seen.push(ends[0].status, stopped, told.length);
}
await presses(); // its module is not there: let go again
refused = false;
await presses(); // open
input.closeMicrophone();
await 0;
seen.push(stopped, told.length);
await presses("close"); // granted when nobody wants it any more
console.log(JSON.stringify(seen));
"""


SOCKET = """
const sockets = [];
const sent = (socket) => socket.said.map((text) => JSON.parse(text).type);
globalThis.WebSocket = class {
  static OPEN = 1;
  readyState = 0;
  said = [];
  constructor() {
    sockets.push(this);
  }
  send(text) {
    this.said.push(text);
  }
  close() {}
  opens() {
    this.readyState = 1;
    this.onopen();
  }
  tells(type, fields) {
    this.onmessage({ data: JSON.stringify({ type, ...fields }) });
  }
};
"""


SESSION = (
    SOCKET
    + """
import { createSession } from "%s/session.js";
let fails = [];
globalThis.fetch = () => new Promise((done, fail) => fails.push(fail));
const states = [];
const on = { state: (name) => states.push(name), message() {}, binary() {} };
const session = createSession("ws://host/live", on);
session.open(() => ({}));
sockets[0].readyState = 3;
sockets[0].onclose(); // was it the network, or did the door refuse?
session.open(() => ({})); // somebody does not wait for the answer
sockets[1].opens();
fails.forEach((fail) => fail(new Error("offline")));
await new Promise((done) => setTimeout(done, 5));
console.log(JSON.stringify([sockets.length, states]));
"""
)


CONVERSATION = (
    SOCKET
    + """
import { createConversation } from "%s/conversation.js";
globalThis.location = { href: "http://host/" };
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const nothing = () => {};
const now = () => performance.now() / 1000;
const clock = { now, wallOf: (s) => 1000 * s, delay: 0 };
const talk = createConversation({
  ...{ context: { sampleRate: 48000, resume: nothing }, clock, notice: nothing },
  controls: { wanted: {}, offer: nothing, applied: nothing, refused: nothing },
  ...{ changed: nothing, said: nothing, offered: nothing },
});
const seen = [];
talk.turnTo("text");
const [socket] = sockets;
socket.opens();
const twice = [talk.say("never"), talk.say("once")]; // while no session is there
socket.tells("ready", { utterance: 0, expected: 0 });
await Promise.all(twice);
seen.push(sent(socket), JSON.parse(socket.said[1]).text);
talk.stop();
await talk.say("more");
talk.stop(); // before the first stop was answered
socket.tells("cancelled", { utterance: 0, next: 1 });
const frame = new ArrayBuffer(64 + 4 * 56);
const view = new DataView(frame);
view.setUint8(0, 2);
view.setUint16(2, 1, true);
view.setUint32(8, 1, true); // of utterance 1, which the second stop ends
socket.onmessage({ data: frame });
seen.push(talk.speech.busy);
socket.tells("cancelled", { utterance: 1, next: 2 });
view.setUint32(8, 2, true);
socket.onmessage({ data: frame });
seen.push(talk.speech.busy);
talk.stop();
talk.say("late");
talk.stop(); // what waits for its turn is not said any more
await pause(40);
seen.push(sent(socket).filter((type) => type === "say").length);
console.log(JSON.stringify(seen));
process.exit(0);
"""
)


CONTROLS = """
import { createControls } from "%s/controls.js";
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const elements = {};
function element(id) {
  const heard = {};
  const made = {
    ...{ id, value: "", options: [], files: [] },
    addEventListener: (type, told) => (heard[type] = told),
    closest: () => ({ classList: { toggle() {} } }),
    replaceChildren() {},
    to(value, type) {
      made.value = value;
      heard[type]();
    },
  };
  return made;
}
const $ = (id) => (elements[id] = elements[id] || element(id));
globalThis.document = { querySelectorAll: () => [], createElement: () => ({}) };
const force = { style: "a", style_strength: 1, guidance: 0, steps: 5, chunk_s: 0.4 };
const controls = createControls($, { send() {}, bytes: () => 1e6, fail() {} });
controls.offer({ styles: ["a"], steps: [5], chunk_s: [0.4], settings: force });
$("strength").to("1.5", "input");
await pause(150);
controls.applied({ ...force, style_strength: 1.5 });
$("style").to("unknown", "change");
await pause(150);
const seen = [controls.wanted];
controls.refused("style: expected one of a");
seen.push(controls.wanted);
controls.refused("bad_hello"); // as a server of another kind answers a hello
seen.push(controls.wanted);
console.log(JSON.stringify(seen));
"""


def node(script):
    """What a script prints; `%s` in it: the folder of the page's sources."""
    program = shutil.which("node")
    if not program:
        pytest.skip("node is not on this machine")
    command = [program, "--input-type=module", "-e", script % LIVE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_sound_is_sent_once_unless_it_was_refused():
    found = node(SENDER)
    assert found == [[0, 1, 2], 4, [], [3, 4, 5, 6], [5, 6, 7], [0]]


def test_time_is_held_where_nothing_came_and_caught_up_afterwards():
    seen, zero, dry = node(TIMELINE)
    assert seen[0] is None and seen[-1] == 1
    wanted = [0, 0.2, 0.4, 0.4, 0.4, 0.5, 1.35]
    np.testing.assert_allclose(seen[1:-1], wanted, atol=1e-9)
    assert dry == 0 and -0.3 < zero < -0.15


def test_a_microphone_is_asked_for_once_and_never_left_open():
    found = node(MICROPHONE)
    assert found[:4] == [1, "rejected", 1, 0]
    assert found[4:8] == [1, "fulfilled", 1, 0]
    assert found[8:10] == [2, 1]  # its track stopped, its worklet told
    assert found[10:] == [1, "fulfilled", 3, 2]


def test_a_session_that_was_opened_meanwhile_is_the_only_one():
    assert node(SESSION) == [2, ["connecting", "connecting"]]


def test_the_last_wish_counts_and_the_answer_to_the_last_cancel():
    said, text, stale, fresh, says = node(CONVERSATION)
    assert said == ["hello", "say", "end"] and text == "once"
    assert stale is False and fresh is True
    assert says == 2


def test_a_setting_that_is_refused_takes_no_other_with_it():
    both, kept, none = node(CONTROLS)
    assert both == {"style_strength": 1.5, "style": "unknown"}
    assert kept == {"style_strength": 1.5} and none == {}
