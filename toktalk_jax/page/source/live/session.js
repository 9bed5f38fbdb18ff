// The socket: from hello to bye, and when to come back.
//
// A connection that breaks is tried again after 1, 2, 4, ... 15 s, one that the server puts
// off after the time that it names. A session cut for its duration is taken up at once, one
// cut for idleness when somebody wants it again (a page left open shall hold no slot).

const MOST_WAIT_S = 15;

// `states`: connecting, waiting {seconds, why}, ready, asleep, refused {why}, failed {why}.
// `on`: {state(name, facts), message(kind, fields), binary(buffer, received ms)}.
export function createSession(url, on) {
  let socket = null;
  let hello = null; // () -> its fields
  let token = "";
  let timer = 0;
  let failures = 0;
  let resume = null; // {key, until} of a bye
  let state = "closed";

  function change(name, facts = {}) {
    state = name;
    on.state(name, facts);
  }

  function connect() {
    clearTimeout(timer);
    change("connecting");
    const key = resume && performance.now() < resume.until ? resume.key : "";
    resume = null;
    const protocols = ["toktalk.1", ...(token ? [`token.${token}`] : [])];
    const own = (socket = new WebSocket(url, protocols));
    own.binaryType = "arraybuffer";
    const about = { opened: false, key, helloAt: 0, over: null };
    own.onopen = () => {
      about.opened = true;
      about.helloAt = performance.now();
      send("hello", { version: 1, ...hello(), ...(key ? { resume: key } : {}) });
    };
    own.onmessage = ({ data }) => {
      const received = performance.now();
      if (socket !== own) return;
      if (typeof data === "string") heard(JSON.parse(data), about, received);
      else on.binary(data, received);
    };
    own.onclose = () => {
      if (socket === own) closed(about);
    };
  }

  function heard({ type, ...fields }, about, received) {
    if (type === "ready") {
      failures = 0;
      const facts = { ...fields, resumed: Boolean(about.key), received, helloAt: about.helloAt };
      change("ready", facts);
    } else if (type === "busy" || type === "bye") {
      about.over = { type, ...fields };
    } else if (type === "error" && fields.fatal) {
      about.over = { type, ...fields };
    } else {
      on.message(type, fields);
    }
  }

  function closed({ opened, key, over }) {
    socket = null;
    if (over && over.resume) {
      resume = { key: over.resume, until: performance.now() + 1000 * over.resume_s };
    }
    if (!over) lost(opened);
    else if (over.type === "busy") again(over.retry_after_s, over.reason);
    else if (over.type === "error" && key && over.code === "bad_hello") connect();
    else if (over.type === "error") change("failed", { why: over.message, code: over.code });
    else if (over.reason === "idle") change("asleep");
    else if (over.reason === "duration") connect();
    else again(backOff(), over.reason);
  }

  // Closed without a word: was it the network, or did the door refuse?
  async function lost(opened) {
    const refused = !opened && (await isAlive());
    if (socket) return; // somebody tried again meanwhile
    if (refused) change("refused");
    else again(backOff(), "lost");
  }

  async function isAlive() {
    try {
      await fetch(new URL("healthz", url.replace(/^ws/, "http")), { cache: "no-store" });
      return true;
    } catch {
      return false;
    }
  }

  const backOff = () => Math.min(2 ** failures++, MOST_WAIT_S);

  function again(seconds, why) {
    change("waiting", { seconds, why });
    clearTimeout(timer);
    timer = setTimeout(connect, 1000 * seconds);
  }

  function send(type, fields = {}) {
    if (socket && socket.readyState === WebSocket.OPEN) {
      socket.send(JSON.stringify({ type, ...fields }));
    }
  }

  return {
    get state() {
      return state;
    },
    send,
    sendBinary(message) {
      if (socket && socket.readyState === WebSocket.OPEN) socket.send(message);
    },
    // A session of its own; the one before is left, and its slot given back first.
    open(fields, pass = token) {
      hello = fields;
      token = pass;
      const before = socket;
      clearTimeout(timer);
      resume = null;
      socket = null;
      if (!before || before.readyState > WebSocket.OPEN) return connect();
      change("connecting");
      let gone = false;
      const go = () => {
        if (gone || socket) return;
        gone = true;
        connect();
      };
      before.onclose = go;
      if (before.readyState === WebSocket.OPEN) before.send('{"type": "bye"}');
      else before.close();
      timer = setTimeout(go, 1500);
    },
    // Take up a session that slept.
    wake() {
      if (state === "asleep") connect();
    },
  };
}
