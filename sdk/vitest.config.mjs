import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    environment: "jsdom",
    environmentOptions: { jsdom: { url: "https://shop.example.com/" } },
    include: ["test/*.test.ts"],
    // A script begins anew on every page.
    isolate: true,
    restoreMocks: true,
    unstubGlobals: true,
  },
});
