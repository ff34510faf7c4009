// Calls made as a web page makes them, by @connectrpc/connect-web: `node calls.mjs DESCRIPTORS BASE_URL TOKEN ORIGIN`.
// Prints one JSON object: for each scenario, what a page would see.

import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { pageFetch } from "./page_fetch.mjs";

const [descriptors, baseUrl, token, origin] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const chatService = registry.getService("chatapi.v1.ChatService");
const conversationService = registry.getService("chatapi.v1.ConversationService");
const transport = createGrpcWebTransport({ baseUrl, fetch: pageFetch(origin) });
const chat = createClient(chatService, transport);
const conversations = createClient(conversationService, transport);

const bearing = (bearer) => ({ headers: { authorization: `Bearer ${bearer}` } });
const text = (words) => [{ kind: { case: "text", value: { text: words } } }];
const json = (method, message) => toJson(method.output, message, { registry });

async function createConversation() {
  const created = await conversations.createConversation({ conversation: { title: "From a page" } }, {
    ...bearing(token),
    timeoutMs: 30_000,
  });
  return json(conversationService.method.createConversation, created).conversation;
}

function sendMessage(conversationId, signal) {
  const message = { conversationId, clientMessageId: "key", parts: text("The ferry leaves at noon.") };
  return chat.sendMessage({ message }, { ...bearing(token), signal });
}

async function collected(method, responses) {
  const events = [];
  for await (const response of responses) events.push(json(method, response));
  return events;
}

async function failure(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    const details = error.details.map(({ type, value }) => ({ type, value: Buffer.from(value).toString("base64") }));
    return { code: Code[error.code], message: error.rawMessage, details };
  }
  throw new Error("the call was to fail");
}

const unknown = "01890000-0000-7000-8000-000000000000";

const scenarios = {
  async unary() {
    const made = await createConversation();
    const got = await conversations.getConversation({ conversationId: made.id }, bearing(token));
    return { made, got: json(conversationService.method.getConversation, got).conversation };
  },

  async serverStreaming() {
    return collected(chatService.method.sendMessage, sendMessage((await createConversation()).id));
  },

  // A page is loaded anew in the middle of an answer.
  async resumed() {
    const conversation = await createConversation();
    const unloading = new AbortController();
    const before = [];
    for await (const response of sendMessage(conversation.id, unloading.signal)) {
      before.push(json(chatService.method.sendMessage, response));
      if (response.event.value.event?.case === "delta") break;
    }
    unloading.abort();
    const { replyId, attempt, sequence } = before.at(-1).reply;
    const rest = chat.resumeReply({ replyId, attempt, afterSequence: sequence }, bearing(token));
    return { before, after: await collected(chatService.method.resumeReply, rest) };
  },

  async unknownConversation() {
    return failure(() => conversations.getConversation({ conversationId: unknown }, bearing(token)));
  },

  async unknownConversationInAStream() {
    return failure(() => collected(chatService.method.sendMessage, sendMessage(unknown)));
  },

  async badToken() {
    return failure(() => conversations.listConversations({}, bearing(`${token.slice(0, -8)}AAAAAAAA`)));
  },

  async badTokenForAStream() {
    const followed = chat.resumeReply({ replyId: unknown }, bearing("no.token.atall"));
    return failure(() => collected(chatService.method.resumeReply, followed));
  },
};

const seen = {};
for (const [name, scenario] of Object.entries(scenarios)) seen[name] = await scenario();
console.log(JSON.stringify(seen));
