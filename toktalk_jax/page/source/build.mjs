// Bundles src/ into ../bundle, which the Python package ships: `npm ci && npm run build`.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const out = "../bundle";
mkdirSync(out, { recursive: true });

// tests/test_page.py computes the same digest: a stale bundle fails there.
const digest = createHash("sha256");
const sources = readdirSync("src")
  .sort()
  .map((name) => `src/${name}`);
for (const path of [...sources, "package-lock.json"]) digest.update(readFileSync(path));

const licence = readFileSync("node_modules/three/LICENSE", "utf8").trim();
const banner = `/* source ${digest.digest("hex")} */\n/* Contains three.js.\n${licence}\n*/`;

await build({
  entryPoints: ["src/main.js"],
  outfile: `${out}/watch.js`,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2020",
  legalComments: "none",
  banner: { js: banner },
});
const style = await build({
  entryPoints: ["src/style.css"],
  bundle: true,
  minify: true,
  write: false,
  target: ["chrome100", "firefox113", "safari16"],
});
writeFileSync(`${out}/watch.css`, style.outputFiles[0].text);
copyFileSync("src/page.html", `${out}/page.html`);
