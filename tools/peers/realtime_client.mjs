// Opens a Realtime session with the official OpenAI SDK and prints the first event's type and what came back of a message, as one line of
// JSON. Base URL and key are in the SDK's own variables. "server" sends the key in a header; "browser" has to send it as a protocol.

import OpenAI from "openai";
import { OpenAIRealtimeWebSocket } from "openai/realtime/websocket";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket; // Node has its own from version 22 on

const Session = process.argv[2] === "browser" ? OpenAIRealtimeWebSocket : OpenAIRealtimeWS;
const session = new Session({ model: "fake-1" }, new OpenAI());
const types = [];
session.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
session.on("event", (event) => {
  types.push(event.type);
  if (types.length === 1) {
    session.send({ type: "input_audio_buffer.clear" });
    return;
  }
  console.log(JSON.stringify(types));
  session.close();
});
