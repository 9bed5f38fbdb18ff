// The settings: what was asked for, and, once the server says so, what is in force.

const SEND_AFTER_MS = 120; // a slider that is dragged sends where it rests

export function createControls($, { send, bytes, fail }) {
  let force = null; // settings in force, as the server told
  let wanted = {}; // of this page, to say in the next hello
  let granted = {}; // those of them that were not refused
  let uploaded = null; // {name, npz} of the clip chosen last
  let timer = 0;
  let pending = {};

  const fields = {
    style_strength: { input: $("strength"), show: (v) => v.toFixed(2) },
    guidance: { input: $("guidance"), show: (v) => v.toFixed(2) },
    steps: { input: $("steps"), show: String },
    chunk_s: { input: $("chunk"), show: (v) => `${v.toFixed(2)} s` },
  };

  function ask(change) {
    pending = { ...pending, ...change };
    Object.keys(change).forEach((name) => mark(name, true));
    clearTimeout(timer);
    timer = setTimeout(() => {
      send(pending);
      granted = wanted;
      wanted = { ...wanted, ...pending };
      pending = {};
    }, SEND_AFTER_MS);
  }

  function mark(name, waits) {
    const place = name === "style" ? $("style") : fields[name].input;
    place.closest(".field").classList.toggle("waits", waits);
  }

  function showForce() {
    for (const [name, { input, show }] of Object.entries(fields)) {
      input.value = force[name];
      const output = $(`${input.id}-value`);
      if (output) output.textContent = show(force[name]);
      mark(name, false);
    }
    $("style").value = force.style === "clip" ? "\0clip" : force.style;
    mark("style", false);
  }

  function options(select, values, text) {
    select.replaceChildren(
      ...values.map((value) => {
        const option = document.createElement("option");
        option.value = value;
        option.textContent = text(value);
        return option;
      }),
    );
  }

  function listStyles(names) {
    options($("style"), names, (name) => name);
    if (!uploaded) return;
    const option = $("style").appendChild(document.createElement("option"));
    option.value = "\0clip"; // no server's name
    option.textContent = `clip: ${uploaded.name}`;
  }

  async function upload(file) {
    if (file.size > 0.74 * bytes()) {
      const most = Math.floor((0.74 * bytes()) / 1024);
      return fail(`${file.name} has ${Math.ceil(file.size / 1024)} KB; at most ${most} KB.`);
    }
    const data = new Uint8Array(await file.arrayBuffer());
    const names = [...$("style").options].map((o) => o.value).filter((v) => v !== "\0clip");
    uploaded = { name: file.name, npz: base64(data) };
    listStyles(names);
    $("style").value = "\0clip";
    ask({ style: { npz: uploaded.npz } });
  }

  for (const [name, { input, show }] of Object.entries(fields)) {
    input.addEventListener("input", () => {
      const output = $(`${input.id}-value`);
      if (output) output.textContent = show(Number(input.value));
      ask({ [name]: Number(input.value) });
    });
  }
  $("style").addEventListener("change", () => {
    const { value } = $("style");
    ask({ style: value === "\0clip" ? { npz: uploaded.npz } : value });
  });
  $("clip").addEventListener("change", () => {
    const [file] = $("clip").files;
    if (file) upload(file);
    $("clip").value = "";
  });

  return {
    // For the hello of the next session.
    get wanted() {
      return wanted;
    },
    get force() {
      return force;
    },
    // A session is ready: what it offers, and what is in force.
    offer({ styles, steps, chunk_s, settings }) {
      listStyles(styles);
      options($("steps"), steps, String);
      options($("chunk"), chunk_s, (s) => `${s.toFixed(2)} s`);
      force = settings;
      showForce();
      document.querySelectorAll(".field :disabled").forEach((part) => (part.disabled = false));
    },
    applied(settings) {
      force = settings;
      fail("");
      if (!Object.keys(pending).length) showForce();
    },
    // The server refused a change: what is in force stands.
    refused(message) {
      wanted = granted;
      granted = {};
      fail(message);
      if (force) showForce();
    },
  };
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  }
  return btoa(text);
}
