// A TCP proxy in front of the gateway that breaks the first answer off.

import { connect, createServer } from "node:net";

/** How many bytes of an answer pass, given those of its head and all of them. */
export const cuts = {
  "byte 0": () => 0,
  "after the headers": (head) => head,
  "mid-body": (head, whole) => (head + whole) >> 1,
  "before the last byte": (head, whole) => whole - 1,
};

const bodyLength = (head) => Number(/^content-length: *(\d+)/im.exec(head)?.[1] ?? 0);

/** Gathers messages, and hands over each with the length of its head once `enough` of it is there. */
function messages(enough, take) {
  let bytes = Buffer.alloc(0);
  return (piece) => {
    bytes = Buffer.concat([bytes, piece]);
    const end = bytes.indexOf("\r\n\r\n");
    if (end < 0) return;
    const head = end + 4;
    const whole = head + bodyLength(bytes.toString("latin1", 0, head));
    if (bytes.length < enough(head, whole)) return;
    const message = bytes;
    bytes = Buffer.alloc(0);
    take(message, head, whole);
  };
}

/** The proxy: its base URL, how many requests it has seen, and how to stop it. */
export async function line(url, cut) {
  const gateway = new URL(url);
  const seen = { requests: 0 };
  const all = (_, whole) => whole;
  const server = createServer((client) => {
    const back = connect(Number(gateway.port), gateway.hostname);
    const close = () => (client.destroy(), back.destroy());
    let most = all;
    client.on("data", messages(all, (request) => {
      seen.requests += 1;
      most = seen.requests === 1 ? (cuts[cut] ?? all) : all;
      back.write(request);
      // The request must have left before the connection goes.
      if (seen.requests === 1 && cut === "at once") setTimeout(close, 20);
    }));
    back.on("data", messages((...sizes) => Math.max(most(...sizes), sizes[0]), (answer, head, whole) => {
      const passed = most(head, whole);
      client.write(answer.subarray(0, passed), () => passed < whole && close());
    }));
    for (const socket of [client, back]) socket.on("error", close).on("close", close);
  });
  server.listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  return { url: `http://127.0.0.1:${server.address().port}/v1`, seen, stop: () => server.close() };
}
