// The real `mediagate` binary, started on a free port and stopped again.

import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(fileURLToPath(import.meta.url), "../../../..");
const binary = process.env.MEDIAGATE_BIN ?? join(root, "target/debug/mediagate");
// A simulated queue without the wait.
export const quick = ["queue_s = 0.02", "run_s = 0.05", "sigma = 0.0"];

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => probe.once("listening", done));
  const { port } = probe.address();
  await new Promise((done) => probe.close(done));
  return port;
}

/** Starts a program of ours and waits until `ready` answers 200. */
async function start(folder, args, ready) {
  // Nothing of the machine's own keys or configuration may reach it.
  const env = { PATH: process.env.PATH, HOME: folder };
  const child = spawn(binary, args, { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (log += data));
  const ended = new Promise((done) => child.once("close", done));
  const stop = async () => {
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), 15_000);
    await ended;
    clearTimeout(late);
  };
  for (let tries = 0; tries < 400; tries++) {
    const reply = await fetch(ready).catch(() => null);
    if (reply?.status === 200) return stop;
    if (child.exitCode !== null) break;
    await new Promise((done) => setTimeout(done, 50));
  }
  await stop();
  throw new Error(`${ready} never answered:\n${log}`);
}

/** A gateway with this configuration: its base URL, and how to stop it. */
export async function gateway(config) {
  const folder = await mkdtemp(join(tmpdir(), "mediagate-"));
  const address = `127.0.0.1:${await freePort()}`;
  await writeFile(join(folder, "mediagate.toml"), config.join("\n"));
  const end = await start(folder, ["serve", "--listen", address], `http://${address}/readyz`);
  const stop = async () => {
    await end();
    await rm(folder, { recursive: true });
  };
  return { url: `http://${address}/v1`, stop };
}

const paths = {
  openai: "/openai/v1", fal: "/fal", bfl: "/bfl/v1", gemini: "/gemini/v1beta",
};

/** The simulator as a program of its own, with a gateway in front of it. */
export async function upstream() {
  const folder = await mkdtemp(join(tmpdir(), "mediagate-"));
  const address = `127.0.0.1:${await freePort()}`;
  const times = ["--queue-s", "0.02", "--run-s", "0.05", "--sigma", "0"];
  const stats = `http://${address}/sim/stats`;
  const end = await start(folder, ["simulate", "--listen", address, ...times], stats);
  const config = [`auth.mode = "open"`, `fetch.allow = ["${address}"]`];
  for (const [id, path] of Object.entries(paths)) {
    config.push(`[providers.${id}]`, `api_key = "k"`, `base_url = "http://${address}${path}"`);
  }
  const front = await gateway(config);
  /** How many paid requests the simulated providers were sent. */
  const submits = async () => {
    const { vendors } = await (await fetch(stats)).json();
    return Object.values(vendors).reduce((sum, counts) => sum + counts.submit, 0);
  };
  const stop = async () => {
    await front.stop();
    await end();
    await rm(folder, { recursive: true });
  };
  return { url: front.url, submits, stop };
}
