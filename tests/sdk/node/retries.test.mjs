// Answers that are cut off on their way: the SDK asks again where it can, and all is paid once.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { upstream } from "./gateway.mjs";
import { cuts, line } from "./line.mjs";
import { look } from "./picture.mjs";

// A queue that pushes, one that is polled, and two makers that answer at once.
const models = ["fal/flux-1.1-pro", "bfl/flux-1.1-pro", "gemini/nano-banana", "openai/gpt-image-1-mini"];

describe("an answer that is cut off", () => {
  let back;
  before(async () => (back = await upstream()));
  after(() => back?.stop());

  const client = (url, more) => new OpenAI({ baseURL: url, apiKey: "unused", timeout: 50_000, ...more });
  const ask = (model, prompt) => ({ model, prompt, size: model.includes("flux") ? "512x512" : "auto" });
  /** The job of an answer, whose picture is the one that the answer tells of. */
  const drawn = (answer) => {
    const bytes = Buffer.from(answer.data[0].b64_json, "base64");
    const { job_id, outputs: [output] } = answer.mediagate;
    const { width, height } = look(bytes);
    assert.deepEqual([bytes.length, width, height], [output.bytes, output.width, output.height]);
    return job_id;
  };
  const jobs = async (request) => {
    const { data } = await (await fetch(`${back.url}/jobs?request_id=${request}`)).json();
    return data;
  };

  for (const model of models) {
    test(`${model}: is drawn and paid once`, async () => {
      const seen = await back.submits();
      const cases = ["at once", ...Object.keys(cuts)];
      await Promise.all(cases.map(async (cut) => {
        const front = await line(back.url, cut);
        const request = `${model} ${cut}`.replace(/[^a-z0-9]/g, "-");
        const headers = { "x-request-id": request };
        const call = client(front.url).images.generate(ask(model, `a lighthouse, ${cut}`), { headers });
        let job;
        if (cut === "at once" || cut === "byte 0") {
          job = drawn(await call);
          assert.equal(front.seen.requests, 2, `${cut}: the SDK asks again`);
        } else {
          // Once it has the headers this SDK asks no more: the result is there to be fetched.
          await assert.rejects(call);
          assert.equal(front.seen.requests, 1);
        }
        const made = await jobs(request);
        assert.deepEqual(made.map((made) => made.status), ["succeeded"], cut);
        const result = await fetch(`${back.url}/jobs/${made[0].id}/result`);
        assert.equal(drawn(await result.json()), job ?? made[0].id);
        front.stop();
      }));
      assert.equal((await back.submits()) - seen, cases.length);
    });
  }

  test("two equal calls are two jobs", async () => {
    const seen = await back.submits();
    const twice = models.flatMap((model) => [ask(model, "twice"), ask(model, "twice")]);
    const answers = await Promise.all(twice.map((wanted) => client(back.url).images.generate(wanted)));
    assert.equal(new Set(answers.map(drawn)).size, twice.length);
    assert.equal((await back.submits()) - seen, twice.length);
  });

  test("a program may repeat under a key of its own", async () => {
    const seen = await back.submits();
    const cases = ["at once", ...Object.keys(cuts)];
    await Promise.all(cases.map(async (cut, index) => {
      const front = await line(back.url, cut);
      const { images } = client(front.url, { maxRetries: 0 });
      const key = { headers: { "Idempotency-Key": `order-${index}` } };
      const wanted = ask("fal/flux-1.1-pro", `a lighthouse, ${cut}, by key`);
      await assert.rejects(images.generate(wanted, key));
      const again = [];
      for (let n = 0; n < 2; n++) {
        const { data, response } = await images.generate(wanted, key).withResponse();
        assert.equal(response.headers.get("idempotent-replayed"), "true");
        again.push(drawn(data));
      }
      assert.equal(again[0], again[1]);
      await assert.rejects(images.generate({ ...wanted, prompt: "another" }, key), (error) => {
        assert.equal(error.status, 422);
        return error.code === "idempotency_mismatch";
      });
      front.stop();
    }));
    assert.equal((await back.submits()) - seen, cases.length);
  });
});
