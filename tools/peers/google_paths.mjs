// Does the same as google_paths.py with Google's own SDK for Node, and prints the same. It writes the file to the folder in HOME.

import { readFileSync } from "node:fs";

import { GoogleGenAI, Modality } from "@google/genai";

const apiKey = process.env.GEMINI_API_KEY;
const client = new GoogleGenAI({ apiKey });

function talk() {
  return new Promise((resolve, reject) => {
    let text = "";
    const onmessage = ({ serverContent }) => {
      for (const part of serverContent?.modelTurn?.parts ?? []) text += part.text;
      if (serverContent?.turnComplete) resolve(text);
    };
    client.live
      .connect({ model: "m", config: { responseModalities: [Modality.TEXT] }, callbacks: { onmessage, onerror: reject, onclose: reject } })
      .then((session) => session.sendClientContent({ turns: "Hi" }), reject);
  });
}

const files = [];
for await (const file of await client.files.list({ config: { pageSize: 1 } })) files.push(file);
const downloadPath = `${process.env.HOME}/file`;
await client.files.download({ file: files[0], downloadPath });
const alpha = new GoogleGenAI({ apiKey, httpOptions: { apiVersion: "v1alpha" } });
const answer = await alpha.models.generateContent({ model: "m", contents: "Hi" });
const shown = {
  files: files.map((file) => file.name),
  download: readFileSync(downloadPath, "utf8"),
  alpha: answer.text,
  live: await talk(),
};
console.log(JSON.stringify(shown));
process.exit(0); // the session is open
