// The list of takes and their files: sound and motion are written here, the other formats
// by the server.

import { wavBlob } from "../src/data.js";
import { takeFile } from "./recorder.js";
import { F, FPS } from "./wire.js";

// `authorisation()`: headers that a request to the server needs; `fail(text)`: a word about
// what went wrong.
export function addTake(list, name, take, facts, { authorisation, fail }) {
  const entry = list.appendChild(document.createElement("li"));
  const title = entry.appendChild(document.createElement("b"));
  title.textContent = name;
  const length = entry.appendChild(document.createElement("span"));
  length.textContent = `${(take.motion.length / F / FPS).toFixed(1)} s`;
  const files = entry.appendChild(document.createElement("div"));
  const button = (text, make) => {
    const made = files.appendChild(document.createElement("button"));
    made.type = "button";
    made.className = "small";
    made.textContent = text;
    made.setAttribute("aria-label", `Download ${name} as ${text}`);
    let busy = false; // disabled, it would lose the focus
    made.addEventListener("click", async () => {
      if (busy) return;
      busy = true;
      made.setAttribute("aria-disabled", "true");
      fail("");
      try {
        download(await make(), `${fileName(name)}.${text}`);
      } catch (error) {
        fail(error.message);
      }
      busy = false;
      made.removeAttribute("aria-disabled");
    });
  };
  button("npz", () => new Blob([takeFile(take, facts)]));
  button("wav", () => wavBlob(Float32Array.from(take.audio, (v) => v / 32768), take.rate, 0));
  button("csv", () => exported("csv", take, authorisation()));
  button("glb", () => exported("glb", take, authorisation()));
}

async function exported(kind, take, headers) {
  let answer;
  try {
    answer = await fetch(`export/${kind}`, { method: "POST", headers, body: take.motion });
  } catch {
    throw new Error(`The server was not reached, so there is no ${kind}.`);
  }
  if (answer.ok) return answer.blob();
  if (answer.status === 404) throw new Error(`This server writes no ${kind} files.`);
  const told = await answer.json().catch(() => ({}));
  throw new Error(`No ${kind}: ${told.error || `the server answered ${answer.status}`}`);
}

const fileName = (name) => name.replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 60) || "take";

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
