// Serves the document named as its argument on 127.0.0.1. MOCK_PORT is the port: 4010 unless set, 0 for any free one.

import { load } from './document.mjs';
import { createMock } from './server.mjs';

const port = process.env.MOCK_PORT || '4010';
if (!/^\d{1,5}$/.test(port) || Number(port) > 65535) {
  console.error('MOCK_PORT must be a port, or 0 for any free one');
  process.exit(2);
}

const contract = load(process.argv[2]);
const server = createMock(contract, console.log);
server.on('error', (error) => {
  const taken = error.code === 'EADDRINUSE' ? `port ${port} is taken; MOCK_PORT=0 takes a free one` : error.message;
  console.error(`cannot listen on 127.0.0.1: ${taken}`);
  process.exit(1);
});
server.listen(Number(port), '127.0.0.1', () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  console.log(`${contract.operations.length} operations answer with their examples on ${url}, for any API key. Try:

  curl -sS --oauth2-bearer ak_any ${url}/v1/aikeys

With -H 'Prefer: code=404' the answer is another, with -H 'Prefer: example=not_an_owner' the one of that name.
Ctrl-C ends it.
`);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    server.close(() => process.exit(0));
    server.closeAllConnections();
  });
}
