"use strict";
(() => {
  // demo/feed.ts
  var AGAIN_MS = 2e3;
  var HIDDEN_MS = 6e4;
  var MAX_KNOWN = 2e3;
  var MAX_COUNTS = 1e3;
  function follow(listener) {
    const known = /* @__PURE__ */ new Set();
    const tally = createTally(listener.count);
    let source;
    let lastId = "";
    let timer = 0;
    function open() {
      close();
      tally.again();
      source = new EventSource("/demo/events" + (lastId && `?after=${encodeURIComponent(lastId)}`));
      source.onopen = () => listener.state("live");
      source.onmessage = (message) => {
        lastId = message.lastEventId;
        const line = JSON.parse(message.data);
        tally.add(line.dialect, line.verdict, Math.floor(Date.parse(line.received_at) / 1e3), 1);
        if (known.has(line.id)) return;
        known.add(line.id);
        if (known.size > MAX_KNOWN) known.delete(known.values().next().value);
        listener.line(line);
      };
      source.addEventListener("beyond", (message) => {
        lastId = message.lastEventId;
        const counted = JSON.parse(message.data);
        for (const each of counted) tally.add(...each);
      });
      source.addEventListener("now", (message) => {
        if (!lastId) listener.opened(Number(message.data) - performance.now());
      });
      source.onerror = () => {
        listener.state("away");
        tally.again();
        if (source?.readyState !== EventSource.CLOSED) return;
        timer = setTimeout(open, AGAIN_MS);
        void refusal().then((said2) => source?.readyState === EventSource.CLOSED && said2 && listener.state("away", said2));
      };
    }
    function close() {
      clearTimeout(timer);
      source?.close();
      source = void 0;
    }
    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      if (document.visibilityState === "hidden") timer = setTimeout(close, HIDDEN_MS);
      else if (source?.readyState !== EventSource.OPEN) open();
    });
    addEventListener("pagehide", close);
    addEventListener("pageshow", ({ persisted }) => persisted && open());
    open();
  }
  async function refusal() {
    const asked = new AbortController();
    try {
      const answer = await fetch("/demo/events", { signal: asked.signal });
      return answer.ok ? "" : (await answer.json()).error;
    } catch {
      return "";
    } finally {
      asked.abort();
    }
  }
  function createTally(count2) {
    const most = /* @__PURE__ */ new Map();
    let told = /* @__PURE__ */ new Map();
    return {
      add(dialect, verdict, second, number) {
        const key = `${dialect} ${verdict} ${second}`;
        const now = (told.get(key) ?? 0) + number;
        const more = now - (most.get(key) ?? 0);
        told.set(key, now);
        if (more <= 0) return;
        most.set(key, now);
        for (const seconds of [most, told]) if (seconds.size > MAX_COUNTS) seconds.delete(seconds.keys().next().value);
        count2(dialect, verdict, second * 1e3, more);
      },
      again() {
        told = /* @__PURE__ */ new Map();
      }
    };
  }

  // demo/lines.ts
  var MAX_LINES = 200;
  var NAMES = { pulsora: "Pulsora", pulse: "PULSE", apex: "Apex", datafly: "Datafly", grpc: "gRPC" };
  var GLANCE = ["page", "user", "device", "country", "came from", "campaign"];
  function createLines(list, heldBack) {
    let waiting = [];
    let holding = false;
    let due = false;
    function show() {
      due = false;
      if (holding) return heldBack(waiting.length);
      for (const line of waiting.splice(0)) insert(line);
      while (list.children.length > MAX_LINES) list.lastElementChild.remove();
    }
    function insert(line) {
      let before = list.firstElementChild;
      while (before && before.dataset["at"] > line.received_at) before = before.nextElementSibling;
      list.insertBefore(item(line), before);
    }
    function showSoon() {
      if (due) return;
      due = true;
      setTimeout(show, 16);
    }
    return {
      add(line) {
        waiting.push(line);
        if (waiting.length > MAX_LINES) waiting = waiting.slice(-MAX_LINES);
        showSoon();
      },
      hold(held2) {
        holding = held2;
        heldBack(0);
        showSoon();
      }
    };
  }
  function said(line) {
    const what = line.verdict === "stored" ? `stored: ${title(line)}` : `refused: ${line.message}`;
    return `${nameOf(line.dialect)} ${what}`;
  }
  function nameOf(dialect) {
    return NAMES[dialect] ?? (dialect || "unknown");
  }
  function title(line) {
    return [line.kind, line.name].filter(Boolean).join(" ");
  }
  function item(line) {
    const details = element("details", "", [summary(line)]);
    details.addEventListener("toggle", () => details.childElementCount > 1 || details.append(body(line)));
    const shown = element("li", line.verdict, [details]);
    shown.dataset["at"] = line.received_at;
    shown.dataset["dialect"] = line.dialect;
    shown.dataset["request"] = line.known["request"] ?? "";
    return shown;
  }
  function summary(line) {
    const at = new Date(line.received_at);
    const time = element("time", "", [at.toLocaleTimeString([], { hour12: false })]);
    time.setAttribute("datetime", line.received_at);
    const stored = line.verdict === "stored";
    const what = stored ? [element("b", "", [line.kind ?? ""]), line.name ? ` ${line.name}` : ""] : [element("b", "", [line.message ?? ""])];
    const glance = stored ? GLANCE.map((label) => line.known[label]).filter((value) => value !== void 0) : [line.reason ?? ""];
    return element("summary", "", [
      time,
      element("span", "from", [nameOf(line.dialect)]),
      element("span", "verdict", [line.verdict]),
      element("span", "what", what),
      element("span", "glance", glance.flatMap((value) => [element("span", "", [value]), " "]))
    ]);
  }
  function body(line) {
    const facts = Object.entries(line.known).flatMap(([label, value]) => [
      element("dt", "", [label]),
      element("dd", "", [value])
    ]);
    const parts = [element("dl", "", facts)];
    if (line.gap) parts.push(element("p", "note", ["More happened before this than can be shown."]));
    if (line.text) {
      const pre = element("pre", "", [line.text]);
      pre.tabIndex = 0;
      pre.setAttribute("role", "region");
      const label = line.verdict === "stored" ? "The canonical event, as it is stored" : "What was sent";
      pre.setAttribute("aria-label", label);
      parts.push(element("h3", "", [label]), pre);
    }
    const request = line.known["request"];
    if (request) parts.push(element("p", "note", ["Its story: ", element("code", "", [`polylect why ${request}`])]));
    return element("div", "body", parts);
  }
  function element(name, className, children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children);
    return made;
  }

  // demo/plot.ts
  var BIN_SECONDS = 2;
  var BINS = 60;
  var HEIGHT = 110;
  var TICK_MS = 1e3;
  var CALM_TICK_MS = 1e4;
  function createPlot(target, dialects) {
    const bins = dialects.map(() => /* @__PURE__ */ new Map());
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    let plot2 = make();
    let due = false;
    let timer = 0;
    function make() {
      const style = getComputedStyle(document.documentElement);
      const colour = (name) => style.getPropertyValue(name).trim();
      const axis = {
        stroke: colour("--muted"),
        font: "12px " + getComputedStyle(document.body).fontFamily,
        ticks: { show: false }
      };
      const grid = { stroke: colour("--line"), width: 1 };
      return new uPlot(
        {
          width: target.clientWidth,
          height: HEIGHT,
          legend: { show: false },
          cursor: { show: false },
          padding: [8, 14, 0, 0],
          scales: {
            x: { time: false, range: [-BINS * BIN_SECONDS, BIN_SECONDS] },
            // One event alone is no peak.
            y: { range: (_, __, most) => [0, Math.max(4, most * 1.1)] }
          },
          axes: [
            {
              ...axis,
              grid: { show: false },
              size: 24,
              splits: () => [-120, -90, -60, -30, 0],
              values: () => ["", "90 s ago", "60 s", "30 s", "now"]
            },
            { ...axis, grid, space: 36, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3] }
          ],
          series: [
            {},
            ...dialects.map((dialect) => ({
              fill: colour(`--${dialect}`),
              width: 0,
              points: { show: false },
              paths: uPlot.paths.bars({ size: [0.72], align: 1 })
            }))
          ]
        },
        columns(),
        target
      );
    }
    function columns() {
      const last = Math.floor(Date.now() / 1e3 / BIN_SECONDS);
      const numbers = Array.from({ length: BINS + 1 }, (_, index) => last - BINS + index);
      let above = numbers.map(() => 0);
      const stacked = [...bins].reverse().map((bin) => above = numbers.map((number, index) => above[index] + (bin.get(number) ?? 0)));
      return [numbers.map((number) => (number - last) * BIN_SECONDS), ...stacked.reverse()];
    }
    function draw() {
      clearTimeout(timer);
      timer = setTimeout(draw, calm.matches ? CALM_TICK_MS : TICK_MS);
      due = false;
      if (document.visibilityState === "hidden") return;
      const first = Math.floor(Date.now() / 1e3 / BIN_SECONDS) - BINS;
      for (const bin of bins) for (const number of bin.keys()) if (number < first) bin.delete(number);
      plot2.setData(columns());
    }
    function makeAnew() {
      plot2.destroy();
      plot2 = make();
      draw();
    }
    dark.addEventListener("change", makeAnew);
    new ResizeObserver(() => plot2.setSize({ width: target.clientWidth, height: HEIGHT })).observe(target);
    draw();
    return {
      count(dialect, atMs, number) {
        const now = Date.now();
        const seen = Math.abs(now - atMs) < BINS * BIN_SECONDS * 1e3 ? Math.min(atMs, now) : now;
        const key = Math.floor(seen / 1e3 / BIN_SECONDS);
        const bin = bins[dialects.indexOf(dialect)] ?? bins[bins.length - 1];
        bin.set(key, (bin.get(key) ?? 0) + number);
        if (!due) {
          due = true;
          requestAnimationFrame(draw);
        }
      }
    };
  }

  // demo/sending.ts
  var site = window;
  var SITE = "site_abc123";
  var PULSE_KEY = "YOUR_API_KEY";
  function begin() {
    site.PULSE.init({ siteId: SITE, apiKey: PULSE_KEY, endpoint: location.origin });
    site.PULSE.trackPageView();
  }
  var SENDING = {
    "pulsora-page": () => site.pulsora.pageview(),
    "pulsora-event": () => site.pulsora.event("signup_submit", { plan: "pro", form_variant: "modal" }),
    "pulsora-identify": () => site.pulsora.identify("cus_123"),
    "pulsora-revenue": () => post("/api/ingest", { "X-API-Token": "sec_123" }, revenue()),
    "pulsora-refused": () => post("/api/ingest", { "X-API-Token": "pub_123" }, revenue()),
    "pulse-page": () => site.PULSE.trackPageView(),
    "pulse-signup": () => site.PULSE.trackEvent("user_signup", { userId: "user_123", plan: "premium" }),
    "pulse-purchase": () => site.PULSE.trackEvent("purchase", { userId: "user_123", amount: 79.9, currency: "EUR" }),
    "pulse-batch": () => post("/collect/batch", { Authorization: `Bearer ${PULSE_KEY}` }, pulseBatch()),
    "pulse-refused": () => site.PULSE.trackPageView({ country: "Germany" }),
    "apex-page": () => site.apex.track("pageview"),
    "apex-custom": () => site.apex.track("plan_selected", { plan: "pro" }),
    // apex.js sees link and form by itself.
    "apex-click": () => {
    },
    "apex-form": () => {
    },
    "apex-refused": () => site.apex.track(""),
    "datafly-page": () => site.datafly.page("Checkout"),
    "datafly-track": () => site.datafly.track("Product Added", { product_id: "SKU-1234", price: 79.99, quantity: 1 }),
    "datafly-identify": () => site.datafly.identify("user_98765", { name: "Jane Smith", plan: "premium" }),
    "datafly-group": () => site.datafly.group("org_555", { name: "Acme Corp", employees: 250 }),
    "datafly-refused": () => site.datafly.identify("", {})
  };
  function revenue() {
    return {
      type: "revenue",
      data: {
        visitor_fingerprint: "demo_visitor",
        session_id: "demo_session",
        customer_id: "cus_123",
        transaction_id: `txn_${Date.now()}`,
        amount: 79.9,
        currency: "EUR"
      }
    };
  }
  function pulseBatch() {
    const at = { url: location.href, timestamp: Date.now() };
    const types = ["page_view", "click", "form_submit"];
    return { session_id: "demo_session", events: types.map((event_type) => ({ event_type, ...at })) };
  }
  function post(path, headers, body2) {
    return fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(body2)
    });
  }

  // demo/page.ts
  var DIALECTS = ["pulsora", "pulse", "apex", "datafly", "grpc"];
  var STATES = { connecting: "Connecting", live: "Live", away: "Away, trying again" };
  var OWN_MS = 5e3;
  var find = (selector) => document.querySelector(selector);
  var empty = find("#empty");
  var pause = find("#pause");
  var held = find("#held");
  var state = find("#state");
  var announcement = find("#said");
  var latest = find("#latest");
  var plot = createPlot(find("#plot"), DIALECTS);
  var lines = createLines(find("#lines"), (number) => {
    held.textContent = number ? `${number} new` : "";
  });
  var openedMs = 0;
  var awaited = "";
  var awaitedUntil = 0;
  var listInSight = true;
  function count(dialect, verdict, number) {
    const card = document.querySelector(`.dialect[data-dialect="${CSS.escape(dialect)}"]`);
    if (!card) return;
    if (verdict === "stored") {
      const shown2 = card.querySelector("[data-count]");
      shown2.textContent = String(Number(shown2.textContent) + number);
      return;
    }
    const shown = card.querySelector("[data-refused]");
    const refused = Number(shown.dataset["refused"]) + number;
    shown.dataset["refused"] = String(refused);
    shown.textContent = `, ${refused} refused`;
    shown.hidden = false;
  }
  follow({
    line(line) {
      empty.hidden = true;
      lines.add(line);
      latest.textContent = said(line);
      latest.dataset["verdict"] = line.verdict;
      latest.hidden = listInSight;
      if (line.dialect === awaited && performance.now() < awaitedUntil) announcement.textContent = said(line);
    },
    count(dialect, verdict, atMs, number) {
      if (atMs >= openedMs - 1e3) count(dialect, verdict, number);
      plot.count(dialect, atMs, number);
    },
    state(now, said2) {
      state.dataset["state"] = now;
      state.textContent = said2 ?? STATES[now];
    },
    opened(atMs) {
      openedMs = atMs;
    }
  });
  document.addEventListener("click", ({ target }) => {
    const pressed = target.closest("[data-send]");
    if (!pressed) return;
    awaited = pressed.closest("[data-dialect]").dataset["dialect"];
    awaitedUntil = performance.now() + OWN_MS;
    Promise.resolve(SENDING[pressed.dataset["send"]]?.()).catch(() => {
    });
  });
  find("#outbound").addEventListener("click", (event) => event.preventDefault());
  find("#form").addEventListener("submit", (event) => event.preventDefault());
  pause.addEventListener("click", () => {
    const pausing = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(pausing));
    pause.textContent = pausing ? "Resume" : "Pause";
    lines.hold(pausing);
  });
  new IntersectionObserver(
    ([seen]) => {
      listInSight = seen.isIntersecting || seen.boundingClientRect.top < 0;
      latest.hidden = listInSight || !latest.textContent;
    },
    // A line's height above the foot.
    { rootMargin: "0px 0px -100px" }
  ).observe(find("#received"));
  begin();
})();
