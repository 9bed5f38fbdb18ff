// The state of the page, in words.

const WAITING = {
  starting: "The server is getting ready; its first start takes minutes",
  draining: "The server is stopping",
  sessions: "The server is busy: all its sessions are taken",
  overloaded: "The server is busy: it cannot keep up",
  failed: "The server could not start",
  stalled: "The server closed the session, for this page did not keep up",
  lost: "Disconnected from the server",
};

// `about`: {session: its state, facts of it, source, speaking, opening, awaited}.
export function words({ session, facts, source, speaking, opening, awaited }) {
  if (session === "ready") {
    if (opening) return ["wait", "Waiting for the microphone"];
    if (source === "microphone") return ["listen", "Listening: the face follows"];
    if (speaking) return ["speak", "Speaking"];
    if (awaited) return ["wait", "About to speak"];
    if (source === "file") return ["listen", "Listening to the file"];
    return ["ready", "Ready"];
  }
  if (session === "waiting") {
    const why = WAITING[facts.why] || "Disconnected";
    return ["wait", `${why}. Trying again in ${Math.max(Math.ceil(facts.seconds), 1)} s`];
  }
  if (session === "asleep") return ["off", "Asleep, to leave its place to others: talk and it wakes"];
  if (session === "refused") {
    return ["bad", "The server refused this page: give its token, or open the address it serves"];
  }
  if (session === "failed") return ["bad", `The server ended the session: ${facts.why}`];
  return ["wait", "Connecting"];
}
