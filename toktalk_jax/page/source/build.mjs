// Bundles src/ (the page of a take) and live/ (the live page) into ../bundle, which the
// Python package ships: `npm ci && npm run build`.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const out = "../bundle";
mkdirSync(out, { recursive: true });

// tests/test_page.py computes the same digests: a stale bundle fails there.
function digestOf(folders) {
  const digest = createHash("sha256");
  const sources = folders.flatMap((folder) =>
    readdirSync(folder)
      .sort()
      .map((name) => `${folder}/${name}`),
  );
  for (const path of [...sources, "package-lock.json"]) digest.update(readFileSync(path));
  return digest.digest("hex");
}

const licence = readFileSync("node_modules/three/LICENSE", "utf8").trim();

async function script(entry, name, folders) {
  await build({
    entryPoints: [entry],
    outfile: `${out}/${name}`,
    bundle: true,
    minify: true,
    format: "iife",
    target: "es2020",
    legalComments: "none",
    banner: { js: `/* source ${digestOf(folders)} */\n/* Contains three.js.\n${licence}\n*/` },
  });
}

async function style(entry, name) {
  const made = await build({
    entryPoints: [entry],
    bundle: true,
    minify: true,
    write: false,
    target: ["chrome100", "firefox113", "safari16"],
  });
  writeFileSync(`${out}/${name}`, made.outputFiles[0].text);
}

await script("src/main.js", "watch.js", ["src"]);
await style("src/style.css", "watch.css");
copyFileSync("src/page.html", `${out}/page.html`);

await script("live/main.js", "live.js", ["src", "live"]);
await style("live/live.css", "live.css");
copyFileSync("live/live.html", `${out}/live.html`);
// A file of its own: a worklet is loaded by its address.
copyFileSync("live/microphone.js", `${out}/microphone.js`);
