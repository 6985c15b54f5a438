// The official OpenAI SDK edits, varies and streams pictures.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import OpenAI, { toFile } from "openai";
import { gateway, quick } from "./gateway.mjs";
import { look } from "./picture.mjs";

const models = ["gpt-image-1-mini", "fal/nano-banana", "gemini/nano-banana"];
const picture = (item) => look(Buffer.from(item.b64_json, "base64"));

describe("work from pictures", () => {
  let front, client, bytes, folder;
  const file = (name = "mug.png") => toFile(bytes, name, { type: "image/png" });
  before(async () => {
    front = await gateway([`auth.mode = "open"`, "[simulator]", "enabled = true", ...quick]);
    client = new OpenAI({ baseURL: front.url, apiKey: "unused", timeout: 60_000 });
    // What is worked from is drawn here, too; without a background it is a mask as well.
    const drawn = await client.images.generate({
      model: "gpt-image-1-mini", prompt: "a mug", size: "1024x1024",
      output_format: "png", background: "transparent",
    });
    bytes = Buffer.from(drawn.data[0].b64_json, "base64");
    folder = await mkdtemp(join(tmpdir(), "mediagate-edits-"));
  });
  after(async () => {
    await front?.stop();
    if (folder) await rm(folder, { recursive: true });
  });

  for (const model of models) {
    test(`${model} edits one picture and several`, async () => {
      const path = join(folder, "mug.png");
      await writeFile(path, bytes);
      for (const image of [await file(), createReadStream(path), [await file(), await file("b.png")]]) {
        const answer = await client.images.edit({ model, image, prompt: "put it on a table", size: "1024x1024" });
        assert.deepEqual([picture(answer.data[0]).width, picture(answer.data[0]).height], [1024, 1024]);
      }
    });

    test(`${model} streams what it makes`, async () => {
      const ask = { model, prompt: "a fox", size: "1024x1024", stream: true, partial_images: 1 };
      for (const [kind, stream] of [
        ["image_generation", await client.images.generate(ask)],
        ["image_edit", await client.images.edit({ ...ask, image: await file() })],
      ]) {
        const events = [];
        for await (const event of stream) events.push(event);
        const last = events.pop();
        assert.equal(last.type, `${kind}.completed`);
        assert.equal(picture(last).width, 1024);
        for (const event of events) assert.equal(event.type, `${kind}.partial_image`);
      }
    });
  }

  test("a mask", async () => {
    const answer = await client.images.edit({
      model: "gpt-image-1-mini", image: await file(), mask: await file("mask.png"),
      prompt: "put it on a table", size: "1024x1024",
    });
    assert.equal(picture(answer.data[0]).width, 1024);
  });

  test("a variation", async () => {
    const answer = await client.images.createVariation({
      model: "fal/flux-1-dev-redux", image: await file(), size: "1024x1024",
    });
    assert.equal(picture(answer.data[0]).width, 1024);
  });
});
