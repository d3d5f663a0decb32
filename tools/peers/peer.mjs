// What the Node clients share; peer.py says what they print.

export async function run(newClient, whole, pieces, APIError) {
  let result;
  try {
    const client = newClient();
    result = { text: await whole(client), ...(await timed(pieces, client)) };
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    result = { error: { class: error.constructor.name, status: error.status ?? null, message: error.message } };
  }
  console.log(JSON.stringify(result));
}

async function timed(pieces, client) {
  const got = [];
  const times = [];
  const start = performance.now();
  for await (const piece of pieces(client)) {
    times.push(performance.now() - start);
    got.push(piece);
    process.stderr.write(`chunk ${got.length}\n`);
  }
  return {
    streamed_text: got.join(""),
    chunks: got.length,
    first_ms: times.at(0) ?? null,
    last_ms: times.at(-1) ?? null,
  };
}
