// Makes what the facade serves: the scripts of src/ and the demo page; with --check compares with what is there.

import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { minify } from "terser";

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
  minifySyntax: true,
  sourcemap: true,
  format: "iife",
  target: "es2021",
  // No "use strict": nothing here is another without it.
  tsconfigRaw: { compilerOptions: { alwaysStrict: false } },
  define: { VERSION: JSON.stringify(version) },
});
const minified = [];
for (const { path, text } of scripts.outputFiles.filter(({ path }) => path.endsWith(".js"))) {
  const map = scripts.outputFiles.find((one) => one.path === `${path}.map`);
  // Better at it than esbuild, by 3 %.
  const { code, map: mapped } = await minify(text, {
    ecma: 2020,
    compress: { passes: 3, unsafe_arrows: true, keep_fargs: false, pure_getters: true, hoist_vars: true },
    sourceMap: { content: map.text, filename: basename(path), url: `${basename(path)}.map` },
  });
  minified.push({ path, contents: Buffer.from(`${code}\n`) });
  minified.push({ path: map.path, contents: Buffer.from(`${mapped}\n`) });
}
// To be read by whoever wants to know how it is done: neither minified nor mapped.
const page = await build({
  ...always,
  entryPoints: ["demo/page.ts", "demo/page.css"],
  outdir: join(target, "demo"),
  format: "iife",
  target: "es2021",
});
const copies = {
  "index.html": "demo/index.html",
  "icon.svg": "demo/icon.svg",
  "uPlot.iife.min.js": "node_modules/uplot/dist/uPlot.iife.min.js",
  "uPlot.min.css": "node_modules/uplot/dist/uPlot.min.css",
  "uPlot.LICENSE": "node_modules/uplot/LICENSE",
};
const copied = await Promise.all(
  Object.entries(copies).map(async ([name, from]) => ({
    path: join(target, "demo", name),
    contents: await readFile(join(here, from)),
  })),
);
const outputs = [...minified, ...page.outputFiles, ...copied];

let wrong = 0;
await mkdir(join(target, "demo"), { recursive: true });
const made = new Set([join(target, "demo"), ...outputs.map(({ path }) => path)]);
for (const name of await readdir(target, { recursive: true })) {
  const path = join(target, name);
  if (made.has(path)) continue;
  console.error(`${relative(join(here, ".."), path)} is nothing the sources give: remove it`);
  wrong++;
}
for (const { path, contents } of outputs) {
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
