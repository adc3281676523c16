// Bundles src/*.ts into the scripts the facade serves; with --check compares them with what is there.

import { readFile, writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const MAX_GZIPPED_BYTES = 3072;
const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "rest_facade", "browser");
const { version } = JSON.parse(await readFile(join(here, "package.json"), "utf8"));
const checking = process.argv.includes("--check");

const { outputFiles } = await build({
  absWorkingDir: here,
  entryPoints: ["src/tracker.ts", "src/datafly.ts", "src/apex.ts", "src/pulsora.ts"],
  outdir: target,
  bundle: true,
  minify: true,
  sourcemap: true,
  // What only these scripts read of each other.
  mangleProps: /^(adopt|forbid|forbiddenUntil|idempotent|keyParameter|most|overslept|pack|save)$/,
  format: "iife",
  target: "es2021",
  charset: "utf8",
  define: { VERSION: JSON.stringify(version) },
  banner: { js: "/* Polylect, Apache-2.0 */" },
  write: false,
  logLevel: "warning",
});

let wrong = 0;
for (const { path, contents } of outputFiles) {
  const name = relative(join(here, ".."), path);
  if (!checking) {
    await writeFile(path, contents);
  } else if (!(await readFile(path).catch(() => Buffer.alloc(0))).equals(contents)) {
    console.error(`${name} is not what the sources give: make sdk`);
    wrong++;
  }
  if (!path.endsWith(".js")) continue;
  const bytes = gzipSync(contents, { level: 9 }).length;
  console.log(`${name}: ${contents.length} bytes, ${bytes} gzipped`);
  if (bytes > MAX_GZIPPED_BYTES) {
    console.error(`${name} may have ${MAX_GZIPPED_BYTES} bytes gzipped at most`);
    wrong++;
  }
}
process.exitCode = wrong ? 1 : 0;
