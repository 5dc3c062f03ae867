// OpenAI's client for Node against a running server: clients.mjs http://HOST:PORT MODEL.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [base, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base + "/v1", apiKey: "none" });
const messages = [{ role: "user", content: "Once upon a time" }];

const whole = await client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0 });
let text = "";
for await (const chunk of await client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, whole.choices[0].message.content);

const parameters = { type: "object", properties: { on: { type: "boolean" } }, required: ["on"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "lamp", parameters } }];
const called = await client.chat.completions.create({ model, messages, tools, tool_choice: "required" });
assert.equal(typeof JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).on, "boolean");

const shaped = await client.chat.completions.create({
  model, messages, response_format: { type: "json_schema", json_schema: { name: "lamp", strict: true, schema: parameters } },
});
assert.equal(typeof JSON.parse(shaped.choices[0].message.content).on, "boolean");
assert.equal((await client.embeddings.create({ model, input: "a" })).data.length, 1);
console.log("ok node");
