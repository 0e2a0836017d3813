// Every feature of the gateway through the official client, unchanged; prints one JSON object.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.GATEWAY_URL,
  apiKey: process.env.GATEWAY_KEY,
  defaultHeaders: { "x-agent-id": "agent-js" },
});
const ask = { model: "babylon-agent", messages: [{ role: "user", content: "BTC?" }] };
const tools = [{ type: "function", function: { name: "order", parameters: { type: "object" } } }];
const seen = {};

const { data, response } = await client.chat.completions.create({ ...ask, logprobs: true }).withResponse();
seen.content = data.choices[0].message.content;
seen.tokens = data.choices[0].logprobs.content.length;
seen.usage = data.usage.total_tokens;
seen.version = response.headers.get("x-model-version");
seen.requestId = data._request_id === data.id;

let text = "";
let usage = null;
const stream = await client.chat.completions.create({
  ...ask, stream: true, stream_options: { include_usage: true },
});
for await (const piece of stream) {
  text += piece.choices[0]?.delta?.content ?? "";
  usage = piece.usage ?? usage;
}
seen.streamed = text;
seen.streamedUsage = usage.completion_tokens;

const helper = client.chat.completions.stream({ ...ask, tools });
const final = await helper.finalChatCompletion();
seen.tool = final.choices[0].message.tool_calls[0].function;

seen.models = (await client.models.list()).data.map((model) => model.id);

const refusals = {};
const refuse = async (name, promise) => {
  try {
    await promise;
    refusals[name] = "no error";
  } catch (error) {
    refusals[name] = [error.constructor.name, error.status ?? null, error.code ?? null];
  }
};
await refuse("key", new OpenAI({ baseURL: process.env.GATEWAY_URL, apiKey: "wrong" }).models.list());
await refuse("model", client.chat.completions.create({ ...ask, model: "gpt-4" }));
await refuse("body", client.chat.completions.create({ ...ask, temperature: 9 }));
seen.refusals = refusals;

const abort = new AbortController();
const long = await client.chat.completions.create({ ...ask, stream: true }, { signal: abort.signal });
for await (const _ of long) abort.abort();
seen.aborted = true;

// What an overloaded server asks for is done by the client itself: it comes back after Retry-After.
const retried = await client.chat.completions.create({ ...ask, messages: [{ role: "user", content: "retry" }] });
seen.retried = retried.choices[0].message.content;

console.log(JSON.stringify(seen));
