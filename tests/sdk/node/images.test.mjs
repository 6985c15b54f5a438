// The official OpenAI SDK, unmodified, only its base URL changed, makes pictures.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { gateway, quick, upstream } from "./gateway.mjs";
import { look } from "./picture.mjs";

// A maker that answers at once, one that queues, and a name several makers share.
const models = ["gpt-image-1-mini", "fal/flux-1.1-pro", "flux-1.1-pro"];
const key = "mg_test_5c3a9d";
const picture = (item) => look(Buffer.from(item.b64_json, "base64"));

describe("simulated providers", () => {
  let front, client;
  before(async () => {
    front = await gateway([`auth.mode = "open"`, "[simulator]", "enabled = true", ...quick]);
    client = new OpenAI({ baseURL: front.url, apiKey: "unused", timeout: 60_000 });
  });
  after(() => front?.stop());

  for (const model of models) {
    for (const size of ["1024x1024", "1536x1024", "1792x1024", "1000x700"]) {
      test(`${model} delivers ${size}`, async () => {
        const answer = await client.images.generate({ model, prompt: "a lighthouse", size });
        const { width, height } = picture(answer.data[0]);
        assert.equal(`${width}x${height}`, size);
        assert.equal(answer.mediagate.simulated, true);
      });
    }

    test(`${model} keeps a ratio`, async () => {
      const answer = await client.images.generate({ model, prompt: "a", aspect_ratio: "16:9" });
      const { width, height } = picture(answer.data[0]);
      // A maker that takes the very ratio draws it on its own grid.
      const cut = answer.mediagate.adjustments.some((a) => a.kind === "resized");
      assert.ok(Math.abs(width - (height * 16) / 9) <= ((cut ? 1 : 16) * 16) / 9, `${width}x${height}`);
    });

    test(`${model} chooses its own size`, async () => {
      const answer = await client.images.generate({ model, prompt: "a", size: "auto" });
      const { width, height } = answer.mediagate.outputs[0];
      assert.deepEqual({ ...picture(answer.data[0]), format: 0 }, { format: 0, width, height });
    });

    for (const format of ["png", "jpeg", "webp", "avif"]) {
      test(`${model} delivers ${format}`, async () => {
        const answer = await client.images.generate({
          model, prompt: "a cat", size: "1024x1024", output_format: format,
        });
        assert.deepEqual(picture(answer.data[0]), { format, width: 1024, height: 1024 });
      });
    }

    test(`${model} delivers 1 to 4 pictures`, async () => {
      for (const n of [1, 2, 3, 4]) {
        const answer = await client.images.generate({ model, prompt: "a", n, size: "1024x1024" });
        assert.equal(answer.data.length, n);
        for (const item of answer.data) assert.equal(picture(item).width, 1024);
      }
    });

    test(`${model} delivers a link of ours`, async () => {
      const answer = await client.images.generate({ model, prompt: "a", response_format: "url" });
      assert.ok(answer.data[0].url.startsWith(front.url.replace(/v1$/, "")), answer.data[0].url);
      const reply = await fetch(answer.data[0].url);
      assert.equal(reply.status, 200);
      const found = look(Buffer.from(await reply.arrayBuffer()));
      assert.equal(reply.headers.get("content-type"), `image/${found.format}`);
      assert.equal(found.width, answer.mediagate.outputs[0].width);
    });

    test(`${model} refuses what its maker refuses`, async () => {
      const call = client.images.generate({ model, prompt: "a [[fault:moderated]]" });
      await assert.rejects(call, (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError, error);
        assert.equal(error.code, "content_policy_violation");
        return true;
      });
    });
  }

  test("an unknown model is not found", async () => {
    const call = client.images.generate({ model: "flux-1.1-prp", prompt: "a" });
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError, error);
      assert.equal(error.code, "model_not_found");
      return true;
    });
  });

  for (const [field, value] of [["size", "10x"], ["n", 11], ["prompt", ""], ["output_compression", 101]]) {
    test(`a bad ${field} is named`, async () => {
      const call = client.images.generate({ model: "flux-1.1-pro", prompt: "a", [field]: value });
      await assert.rejects(call, (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError, error);
        assert.equal(error.param, field);
        return true;
      });
    });
  }

  test("models are listed and described", async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.ok(ids.includes("flux-1.1-pro") && ids.includes("fal/flux-1.1-pro"), ids.join(" "));
    const model = await client.models.retrieve("fal/flux-1.1-pro");
    assert.equal(model.id, "fal/flux-1.1-pro");
    assert.equal(model.mediagate.task, "image.generate");
  });

  test("headers say what happened", async () => {
    const { data, response } = await client.images
      .generate({ model: "fal/flux-1.1-pro", prompt: "a" })
      .withResponse();
    assert.equal(response.headers.get("x-mediagate-provider"), "fal");
    assert.equal(response.headers.get("x-mediagate-attempts"), "1");
    assert.equal(response.headers.get("x-mediagate-cost-usd"), data.mediagate.cost.usd);
    assert.ok(response.headers.get("x-request-id"));
  });
});

describe("keys", () => {
  let front;
  before(async () => {
    const sha256 = createHash("sha256").update(key).digest("hex");
    front = await gateway([
      `auth.static_keys = [{ name = "test", sha256 = "${sha256}" }]`,
      "[simulator]", "enabled = true", ...quick,
    ]);
  });
  after(() => front?.stop());

  test("a wrong key is refused", async () => {
    const call = new OpenAI({ baseURL: front.url, apiKey: "nonsense" }).models.list();
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof OpenAI.AuthenticationError, error);
      assert.equal(error.code, "invalid_api_key");
      return true;
    });
  });

  test("the right key opens", async () => {
    const client = new OpenAI({ baseURL: front.url, apiKey: key });
    const answer = await client.images.generate({ model: "flux-1.1-pro", prompt: "a", size: "512x512" });
    assert.equal(picture(answer.data[0]).width, 512);
  });
});

describe("another program behind the gateway", () => {
  let back, client;
  before(async () => {
    back = await upstream();
    client = new OpenAI({ baseURL: back.url, apiKey: "unused", timeout: 60_000 });
  });
  after(() => back?.stop());

  for (const model of ["openai/gpt-image-1-mini", "fal/flux-1.1-pro"]) {
    for (const fault of ["moderated", "500"]) {
      test(`${model}: the SDK does not pay ${fault} again`, async () => {
        const seen = await back.submits();
        await assert.rejects(
          client.images.generate({ model, prompt: `a cat [[fault:${fault}]]` }),
          (error) => error.headers.get("x-should-retry") === "false",
        );
        assert.equal((await back.submits()) - seen, 1);
      });
    }
  }
});
