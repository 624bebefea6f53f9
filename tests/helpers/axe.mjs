// Checks pages with axe-core (accessibility) in headless Chromium, offline and without their scripts:
//
//   npm pack axe-core && tar xzf axe-core-*.tgz
//   node --experimental-websocket tests/helpers/axe.mjs package/axe.min.js PAGE.html ...
//
// In light and dark, at 1280 and 390 pixels. Prints a line for each violation; exits 1 if there is one.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [axe, ...pages] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "axe-"));
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", `--user-data-dir=${profile}`];
const chromium = spawn(process.env.CHROMIUM ?? "chromium", [...flags, "about:blank"]);

function address() {
  return new Promise((found, failed) => {
    let said = "";
    chromium.on("error", failed);
    chromium.on("exit", () => failed(new Error(`chromium ended: ${said}`)));
    chromium.stderr.on("data", (text) => {
      said += text;
      const match = said.match(/ws:\/\/[^\s]+/);
      if (match) found(match[0]);
    });
  });
}

async function connect(url) {
  const socket = new WebSocket(url);
  const waiting = new Map();
  let last = 0;
  socket.onmessage = ({ data }) => {
    const { id, sessionId, result, error, method } = JSON.parse(data);
    const key = id ?? `${sessionId} ${method}`;
    const [done, failed] = waiting.get(key) ?? [];
    waiting.delete(key);
    if (done) error ? failed(new Error(error.message)) : done(result);
  };
  await new Promise((opened, failed) => ((socket.onopen = opened), (socket.onerror = failed)));
  const call = (method, params = {}, sessionId) => {
    socket.send(JSON.stringify({ id: ++last, method, params, sessionId }));
    return new Promise((...ends) => waiting.set(last, ends));
  };
  const event = (method, sessionId) => new Promise((...ends) => waiting.set(`${sessionId} ${method}`, ends));
  return { call, event };
}

async function found_in({ call, event }, page, scheme, width) {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const ask = (method, params) => call(method, params, sessionId);
  await ask("Page.enable");
  await ask("Network.enable");
  await ask("Network.emulateNetworkConditions", { offline: true, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
  await ask("Emulation.setScriptExecutionDisabled", { value: true });
  await ask("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: width < 600 });
  await ask("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  const loaded = event("Page.loadEventFired", sessionId);
  const { errorText } = await ask("Page.navigate", { url: pathToFileURL(resolve(page)).href });
  if (errorText) throw new Error(`${page}: ${errorText}`);
  await loaded;
  await ask("Emulation.setScriptExecutionDisabled", { value: false }); // axe-core waits by timers
  // what is folded is read too
  await ask("Runtime.evaluate", { expression: "document.querySelectorAll('details').forEach((each) => (each.open = true))" });
  await ask("Runtime.evaluate", { expression: readFileSync(axe, "utf8") });
  const run = `axe.run(document).then(({ violations, passes }) => JSON.stringify({ passes: passes.length, overflow:
    document.documentElement.scrollWidth - document.documentElement.clientWidth, violations: violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => [id, target.join(" "), failureSummary.replace(/\\s+/g, " ")])) }))`;
  const { result } = await ask("Runtime.evaluate", { expression: run, awaitPromise: true, returnByValue: true });
  await call("Target.closeTarget", { targetId });
  return JSON.parse(result.value);
}

let wrong = 0;
try {
  const browser = await connect(await address());
  for (const page of pages) {
    for (const scheme of ["light", "dark"]) {
      for (const width of [1280, 390]) {
        const found = await found_in(browser, page, scheme, width);
        const about = `${page}, ${scheme}, ${width} px`;
        for (const each of found.violations) console.log(`${about}: ${each.join(": ")}`);
        if (found.overflow > 0) console.log(`${about}: wider than the window by ${found.overflow} px`);
        console.log(`${about}: ${found.passes} rules pass, ${found.violations.length} violations`);
        wrong += found.violations.length + (found.overflow > 0);
      }
    }
  }
} finally {
  chromium.kill();
  await new Promise((ended) => chromium.exitCode === null ? chromium.on("exit", ended) : ended());
  rmSync(profile, { recursive: true, force: true });
}
process.exit(wrong ? 1 : 0);
