// Makes what the facade serves: the scripts of src/ and the demo page; with --check compares with what is there.

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const MAX_GZIPPED_BYTES = 3072;
const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "rest_facade", "browser");
const { version } = JSON.parse(await readFile(join(here, "package.json"), "utf8"));
const checking = process.argv.includes("--check");

const always = { absWorkingDir: here, bundle: true, charset: "utf8", write: false, logLevel: "warning" };
const scripts = await build({
  ...always,
  entryPoints: ["src/tracker.ts", "src/datafly.ts", "src/apex.ts", "src/pulsora.ts"],
  outdir: target,
  minify: true,
  sourcemap: true,
  // What only these scripts read of each other.
  mangleProps: /^(adopt|forbid|forbiddenUntil|idempotent|keyParameter|most|overslept|pack|save)$/,
  format: "iife",
  target: "es2021",
  define: { VERSION: JSON.stringify(version) },
  banner: { js: "/* Polylect, Apache-2.0 */" },
});
// To be read by whoever wants to know how it is done: neither minified nor mapped.
const page = await build({
  ...always,
  entryPoints: ["demo/page.ts", "demo/page.css"],
  outdir: join(target, "demo"),
  format: "iife",
  target: "es2021",
});
const copied = await Promise.all(
  ["index.html", "icon.svg", "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css", "vendor/uPlot.LICENSE"].map(
    async (name) => ({
      path: join(target, "demo", basename(name)),
      contents: await readFile(join(here, "demo", name)),
    }),
  ),
);

let wrong = 0;
await mkdir(join(target, "demo"), { recursive: true });
for (const { path, contents } of [...scripts.outputFiles, ...page.outputFiles, ...copied]) {
  const name = relative(join(here, ".."), path);
  if (!checking) {
    await writeFile(path, contents);
  } else if (!(await readFile(path).catch(() => Buffer.alloc(0))).equals(contents)) {
    console.error(`${name} is not what the sources give: make sdk`);
    wrong++;
  }
  if (!path.endsWith(".js") || dirname(path) !== target) continue;
  const bytes = gzipSync(contents, { level: 9 }).length;
  console.log(`${name}: ${contents.length} bytes, ${bytes} gzipped`);
  if (bytes > MAX_GZIPPED_BYTES) {
    console.error(`${name} may have ${MAX_GZIPPED_BYTES} bytes gzipped at most`);
    wrong++;
  }
}
process.exitCode = wrong ? 1 : 0;
